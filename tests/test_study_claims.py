"""Claims, tables and the paper's numbers, on documents that are written here: what must hold, must not, and must stay open."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from scipy import stats as scipy_stats

from spar.evaluate import stats
from spar.studies import claims, predicates, results, tables
from spar.studies.claims import Claim, Results
from spar.studies.predicates import Place

RNG = np.random.default_rng(0)
NOISE = RNG.normal(size=(3, 40))


def cell(task: str, column: str, values: Any = None, row: str = "", **more: Any) -> dict[str, Any]:
    """Plain returns (S, E) in a column."""
    table = None if values is None else np.asarray(values, float)
    value = None if table is None else {"mean": table.mean(), "low": table.mean() - 0.1, "high": table.mean() + 0.1}
    returns = None if table is None else table.tolist()
    empty = {
        "paper": None,
        "run": None,
        "shows": "policy",
        "failed": None,
        "reference": None,
        "samples": None,
        "curve": [],
        "late": None,
        "collapsed": [],
        "moving": [],
        "seeds": None,
    }
    return {**empty, "task": task, "row": row, "column": column, "unit": "return", "returns": returns, "value": value, **more}


def document(*cells: dict[str, Any], regimes: dict[str, str | None] | None = None) -> dict[str, Any]:
    tasks = {name: {"paper": None, "regime": regime, "behaviour": None} for name, regime in (regimes or {"t": None}).items()}
    return {"cells": list(cells), "tasks": tasks, "seeds": [0, 42, 123], "measured": {}, "notes": [], "budget": "quick"}


def verdict(predicate: Any, *cells: dict[str, Any], **more: Any) -> claims.Verdict:
    found: claims.Verdict = predicate(Results(document(*cells, **more)))
    return found


def test_the_interval_decides_not_the_mean() -> None:
    """A paired difference of one with its noise in common is shown; the same in unpaired noise of ten is open."""
    better = predicates.better("a", "b")
    shown = verdict(better, cell("t", "a", 10 * NOISE + 1), cell("t", "b", 10 * NOISE))
    assert shown.held is True and shown.word == "holds" and "+1.0 [+1.0, +1.0]" in shown.because
    contrary = verdict(better, cell("t", "a", 10 * NOISE - 1), cell("t", "b", 10 * NOISE))
    assert contrary.held is False and contrary.word == "does not hold"
    other = 10 * RNG.normal(size=NOISE.shape)
    other += 10 * NOISE.mean() - other.mean()
    undecided = verdict(better, cell("t", "a", 10 * NOISE + 1), cell("t", "b", other))
    assert undecided.held is None and undecided.word == "undecided"


def test_a_sure_difference_that_nobody_would_act_on_is_open() -> None:
    """In scores; where there is no reference every difference counts."""
    better, small = predicates.better("a", "b"), claims.INTEREST / 2
    scores = [cell("t", name, NOISE + more, reference=[0.0, 100.0]) for name, more in (("a", small), ("b", 0.0))]
    found = verdict(better, *scores)
    assert found.word == "undecided" and "too little to matter" in found.because
    assert verdict(predicates.better("b", "a"), *scores).word == "undecided"
    assert verdict(predicates.best("a", ("b",)), *scores).word == "undecided"
    assert verdict(better, cell("t", "a", NOISE + small), cell("t", "b", NOISE)).word == "holds"


def test_what_is_missing_is_not_judged() -> None:
    lone = verdict(predicates.better("a", "b"), cell("t", "a", NOISE), cell("t", "b", failed="diverged"))
    assert lone.held is None and lone.word == "cannot be judged" and "no b" in lone.because
    assert verdict(predicates.better("a", "b", "sparse"), cell("t", "a", NOISE)).word == "cannot be judged"
    unequal = verdict(predicates.better("a", "b"), cell("t", "a", NOISE + 9), cell("t", "b", NOISE[:2]))
    assert unequal.word == "cannot be judged" and "unequal" in unequal.because
    single = verdict(predicates.better("a", "b"), cell("t", "a", [[2.0]]), cell("t", "b", [[1.0]]))
    assert single.word == "undecided"


def test_one_contrary_task_refutes_and_an_open_one_leaves_it_open() -> None:
    good, bad, same = NOISE + 2, NOISE - 2, RNG.normal(size=NOISE.shape)
    for second, word in ((good, "holds"), (bad, "does not hold"), (same, "undecided")):
        cells = [cell("s", "a", good), cell("s", "b", NOISE), cell("t", "a", second), cell("t", "b", NOISE)]
        found = verdict(predicates.better("a", "b"), *cells, regimes={"s": "sparse", "t": "narrow"})
        assert found.word == word, found.because
        assert verdict(predicates.better("a", "b", "sparse"), *cells, regimes={"s": "sparse", "t": "narrow"}).word == "holds"


def test_a_loss_among_many_comparisons_has_to_be_surer() -> None:
    """A loss whose interval barely misses 0 refutes alone and leaves open what many comparisons say; a clear one refutes there too."""
    other = RNG.normal(size=NOISE.shape)
    slight = next(
        shifted
        for less in np.arange(0.1, 1.0, 0.01)
        if (shifted := other - other.mean() + NOISE.mean() - less) is not None
        and claims.joint([shifted, NOISE], claims.difference)[0].high < 0
    )
    for loss, among_many in ((slight, "undecided"), (NOISE - 2, "does not hold")):
        one = [cell("t0", "a", loss), cell("t0", "b", NOISE)]
        assert verdict(predicates.better("a", "b"), *one, regimes={"t0": None}).word == "does not hold"
        rest = [cell(f"t{i}", column, NOISE + more) for i in range(1, 40) for column, more in (("a", 2), ("b", 0))]
        found = verdict(predicates.better("a", "b"), *one, *rest, regimes=dict.fromkeys(f"t{i}" for i in range(40)))
        assert found.word == among_many, found.because[:80]
        assert ("not sure among 40 comparisons" in found.because) == (among_many == "undecided")
        others = [cell("t0", f"c{i}", NOISE - 9) for i in range(39)]
        best = predicates.best("a", ("b", *(f"c{i}" for i in range(39))))
        assert verdict(best, *one, *others, regimes={"t0": None}).word == among_many


def test_tails_of_measures_without_returns_are_the_normal_ones() -> None:
    """At the end of the interval 2.5 %; a value that is too large refutes alone and not among as many as its tail asks for."""
    for seeds in (None, [1.0, 2.0, 3.0]):  # a normal one, Student's
        own = cell("t", "a", seeds=seeds)
        assert predicates._tail(own, 2.0, 2.0) == pytest.approx(0.025)
        assert predicates._tail(own, 2.0, 0.0) == pytest.approx(0.5)
        assert predicates._tail(own, 2.0, -2.0) == pytest.approx(0.975)
        assert predicates._tail(own, 0.0, 1.0) == 1.0
    cells = [cell(f"t{i}", "a", None, value={"mean": 1.0 if i else -1.2, "low": 0.5 if i else -2.3, "high": 1.5 if i else -0.1},
                  samples=[[1.0]]) for i in range(8)]  # fmt: skip
    assert verdict(predicates.above(("a", None), 0.0), cells[0], regimes={"t0": None}).word == "does not hold"
    assert verdict(predicates.above(("a", None), 0.0), *cells, regimes=dict.fromkeys(f"t{i}" for i in range(8))).word == "undecided"


def test_three_seeds_that_agree_by_chance_decide_nothing() -> None:
    """Equal policies whose seeds differ by more than their episodes: a claim is refuted, or shown, as seldom as its level says."""
    rng, words, families = np.random.default_rng(1), [], []
    for _ in range(12):
        tables = [rng.normal(scale=10, size=(3, 1)) + rng.normal(scale=5, size=(3, 10)) for _ in range(13)]
        cells = [cell("t", f"c{i}", table) for i, table in enumerate(tables)]
        words += [verdict(predicates.better("c0", f"c{i}"), *cells).word for i in range(1, 13)]
        families.append(verdict(predicates.best("c0", [f"c{i}" for i in range(1, 13)]), *cells).word)
    assert words.count("holds") <= 9 and words.count("does not hold") <= 9  # 2.5 % of 144 is 3.6
    assert families.count("does not hold") <= 2


def test_students_interval_is_scipys() -> None:
    seeds = np.array([1.0, 4.0, 2.5])
    half, tail = stats.student(seeds, seeds.mean())
    own = scipy_stats.ttest_1samp(seeds, 0.0, alternative="less")
    low, high = scipy_stats.ttest_1samp(seeds, 0.0).confidence_interval()
    assert half == pytest.approx((high - low) / 2) and tail == pytest.approx(own.pvalue)
    assert stats.student(seeds[:1], 1.0) == (0.0, 0.0)


def test_noise_alone_is_no_spread_and_no_base_no_collapse() -> None:
    """A range of means is never negative, and half of what is negative lies above it."""
    rng = np.random.default_rng(0)
    rows: dict[str, list[Place]] = {name: [(column, name) for column in "xyz"] for name in ("still", "noisy")}
    words = []
    for _ in range(10):
        still = [cell("t", column, np.zeros((3, 100)), "still") for column in "xyz"]
        noisy = [cell("t", column, 100.0 * (rng.random((3, 100)) < 0.2), "noisy") for column in "xyz"]
        words.append(verdict(predicates.steadier(rows["still"], rows["noisy"]), *still, *noisy).word)
    assert words.count("holds") <= 1 and "does not hold" not in words
    found = verdict(predicates.collapses("low", "high"), cell("t", "low", NOISE - 20), cell("t", "high", NOISE - 20))
    assert found.word == "undecided" and "not surely above 0" in found.because


def test_a_claim_about_every_task_does_not_hold_where_one_is_missing() -> None:
    cells = [cell("s", "a", NOISE + 2), cell("s", "b", NOISE), cell("t", "b", NOISE)]
    found = verdict(predicates.better("a", "b"), *cells, regimes={"s": None, "t": None})
    assert found.word == "undecided" and "not judged: t (no a)" in found.because


def test_best_needs_all_of_the_others() -> None:
    best = predicates.best("a", ("b", "c"))
    a, b, c = cell("t", "a", NOISE + 3), cell("t", "b", NOISE + 2), cell("t", "c", NOISE)
    assert verdict(best, a, b, c).held is True
    without = verdict(best, a, b)
    assert without.word == "undecided" and "without c" in without.because
    ahead = verdict(best, a, cell("t", "b", NOISE + 4))
    assert ahead.held is False and "over b -1.0" in ahead.because
    assert verdict(best, a).word == "cannot be judged"


def test_spread_collapse_likeness() -> None:
    rows: dict[str, list[Place]] = {name: [(column, name) for column in "xyz"] for name in ("calm", "wild")}
    heights = {"calm": (0.0, 0.5, 0.2), "wild": (0.0, 9.0, 3.0)}
    cells = [cell("t", c, NOISE + h, row) for row, hs in heights.items() for c, h in zip("xyz", hs, strict=True)]
    found = verdict(predicates.steadier(rows["calm"], rows["wild"]), *cells)
    assert found.held is True and "+8.5" in found.because
    assert verdict(predicates.steadier(rows["wild"], rows["calm"]), *cells).held is False
    two = [{**one, "task": task} for one in cells for task in "tu"]
    for first, second, held in (("calm", "wild", True), ("wild", "calm", False)):  # also where two tasks are asked
        assert verdict(predicates.steadier(rows[first], rows[second]), *two, regimes={"t": None, "u": None}).held is held
    high, low = cell("t", "high", NOISE + 50), cell("t", "low", NOISE + 10)
    assert verdict(predicates.collapses("low", "high"), high, low).held is True
    assert verdict(predicates.collapses("low", "high"), high, cell("t", "low", NOISE + 40)).held is False
    near = cell("t", "low", NOISE + 48)
    assert verdict(predicates.alike("high", "low", 10.0), high, near).held is True
    assert verdict(predicates.alike("high", "low", 10.0), high, low).held is False
    assert verdict(predicates.alike("high", "low", 2.0), high, near).word == "undecided"


def test_damage_is_compared_by_sign_and_size_and_one_value_decides_nothing() -> None:
    def measured(column: str, low: float, high: float) -> dict[str, Any]:
        value = {"mean": (low + high) / 2, "low": low, "high": high}
        return cell("t", column, unit="loss", samples=[[value["mean"]]], value=value)

    below = predicates.below(("a", None), ("b", None), 10.0)
    large = measured("b", 1.0, 1.2)
    assert verdict(below, measured("a", -0.01, 0.02), large).held is True
    assert verdict(below, measured("a", 0.1, 0.2), large).word == "undecided"
    assert verdict(below, measured("a", 2.0, 3.0), large).held is False
    assert verdict(below, measured("a", -3.0, -2.0), large).held is True  # it helps
    for harmless in (measured("b", -1.2, -1.0), measured("b", -0.5, 1.0)):
        assert verdict(below, measured("a", -0.01, 0.02), harmless).word == "undecided"
    assert verdict(below, measured("a", 0.01, 0.01), large).word == "undecided"
    assert verdict(predicates.above(("b", None), 0.9), large).held is True
    assert verdict(predicates.above(("b", None), 1.3), large).held is False
    assert verdict(predicates.above(("b", None), 1.1), large).word == "undecided"
    words = [verdict(predicates.above(("b", None), limit, under=True), large).word for limit in (1.3, 1.1, 0.9)]
    assert words == ["holds", "undecided", "does not hold"]


def test_scores_are_made_of_returns_and_the_reference() -> None:
    own = cell("t", "a", [[10.0, 20.0]], reference=[0.0, 40.0])
    np.testing.assert_allclose(claims.samples(own), [[25.0, 50.0]])


def test_the_joint_bootstrap_has_the_width_that_theory_gives() -> None:
    """The difference of means of n independent standard normals has a standard error of sqrt(2 / n)."""
    n = 400
    x, y = RNG.normal(size=(2, 1, n))
    interval, _ = claims.joint([x, y], claims.difference)
    assert (interval.high - interval.low) / 2 == pytest.approx(scipy_stats.norm.ppf(0.975) * np.sqrt((x.var() + y.var()) / n), rel=0.12)
    assert interval.mean == pytest.approx(x.mean() - y.mean())


# Tables


def test_the_table_shows_ours_beside_the_papers() -> None:
    doubted = {"mean": 55.0, "std": None, "doubt": "looks exchanged"}
    own = cell("t", "a", [[1.0, 3.0]], paper={"mean": 101.9, "std": 0.4, "doubt": None})
    text = tables.table(document(own, cell("t", "b", paper=doubted), cell("t", "c", failed="it diverged"))).markdown()
    assert text.splitlines()[-1] == "| t | 2.0 [1.9, 2.1] (101.9 ± 0.4) | (55†) | failed |"
    many = [cell("t", f"column {i}", NOISE + i) for i in range(9)]
    lines = tables.table(document(*many)).markdown().splitlines()
    assert len(lines) == 2 + 9 and lines[-1].startswith("| column 8 | ")
    notes = tables.reading(document(cell("t", "b", paper=doubted), cell("t", "c", failed="it diverged")))
    assert "† looks exchanged." in notes and "t c has no number: it diverged." in notes


def test_curves_that_still_climb_are_named() -> None:
    """By the interval of a paired difference."""

    def notes(low: float, mean: float, high: float) -> str:
        late = {"mean": mean, "low": low, "high": high}
        climbing = cell("t", "a", NOISE, run="quick/t/a", curve=[[5, "policy", 0.0, 0.0, 0.0]], late=late)
        return " ".join(tables.reading(document(climbing)))

    assert "Not flattened, so more training may change them: t a +3.0 [+1.0, +5.0] since the third quarter." in notes(1, 3, 5)
    assert "Fell towards the end of training: t a -3.0 [-5.0, -1.0]" in notes(-5, -3, -1)
    assert "no sure change from the third quarter of training to its end: 1." in notes(-1, 1, 3)
    too_few = cell("t", "a", NOISE, run="quick/t/a", curve=[[5, "policy", 0.0, 0.0, 0.0]])
    assert "too few evaluations to tell whether they had flattened: 1." in " ".join(tables.reading(document(too_few)))


def test_the_late_change_is_paired_and_of_the_policys_own_steps() -> None:
    """Third quarter of the policy's own updates, 20 of the 30: at 25. What two evaluations have in common does not count."""
    common = 100 * RNG.normal(size=(3, 5))
    found = {(5, "anchor"): common, (10, "anchor"): common, (15, "policy"): common, (20, "policy"): common - 9}
    found |= {(25, "policy"): common + 1 + NOISE[:, :5] / 10, (30, "policy"): common + 4}
    late = results._late(found, 10, None)
    assert late is not None and late["low"] > 0 and late["mean"] == pytest.approx(3 - NOISE[:, :5].mean() / 10)
    scaled = results._late(found, 10, (0.0, 50.0))
    assert scaled is not None and scaled["mean"] == pytest.approx(2 * late["mean"])
    assert results._late({(5, "anchor"): common, (10, "policy"): common}, 5, None) is None
    assert results._late(found, 30, None) is None  # a last stage in which nothing was evaluated


def test_a_claim_about_several_regimes_needs_all_of_them() -> None:
    cells = [cell("t", "a", NOISE + 5), cell("t", "b", NOISE)]
    for predicate in (
        predicates.better("a", "b", "narrow", "sparse"),
        predicates.best("a", ["b"], "narrow", "sparse"),
        predicates.alike("a", "b", 10.0, "narrow", "sparse"),
        predicates.collapses("b", "a", "narrow", "sparse"),
        predicates.steadier([("a", None)] * 2, [("b", None)] * 2, "narrow", "sparse"),
    ):
        found = verdict(predicate, *cells, regimes={"t": "narrow"})
        assert found.held is None and "not judged: no sparse task" in found.because
    assert verdict(predicates.better("a", "b", "narrow"), *cells, regimes={"t": "narrow"}).held is True


def test_a_collapse_needs_a_base_above_nothing_either_way() -> None:
    base = cell("t", "b", NOISE - 4)  # surely below 0: half of it is more than nothing
    assert verdict(predicates.collapses("a", "b"), cell("t", "a", NOISE), base).held is None


def test_numbers_changed_by_hand_are_named_in_every_kind_of_cell() -> None:
    own = cell("t", "a", samples=[[1.0], [3.0]], value={"mean": 2.0, "low": 1.0, "high": 3.0}, unit="ratio", seeds=[1.0, 3.0])
    own["returns"] = None
    assert tables.edited(document(own)) == []
    changes: list[dict[str, Any]] = [
        {"samples": [[9.0], [3.0]]},
        {"seeds": [1.0, 4.0]},
        {"value": {"mean": 5.0, "low": 1.0, "high": 9.0}},
    ]
    for change in changes:
        (said,) = tables.edited(document({**own, **change}))
        assert said.startswith("t a: the file says") and said.endswith("the file was changed by hand.")


def test_what_speaks_against_a_run_is_said_beside_its_number() -> None:
    curve = [[5, "policy", 0.0, 0.0, 0.0]]
    ill = cell("t", "a", NOISE, run="quick/t/a", curve=curve, collapsed=["0", "42"], moving=["0"])
    shared_critics = cell("t", "b", NOISE, run="quick/t/b", curve=curve, moving=["0"])
    assert tables.unwell(document(ill, shared_critics)) == [
        "Posterior collapse, all candidates are almost one action: t a (2 of 3 seeds).",
        "Critics still moving when Stage I ended, seeds a task: t (1 of 3).",
    ]
    assert tables.unwell(document(cell("t", "a", NOISE, run="quick/t/a", curve=curve))) == []


def test_a_changed_return_is_noticed() -> None:
    own = document(cell("t", "a", NOISE))
    assert tables.edited(own) == []
    changed = copy.deepcopy(own)
    changed["cells"][0]["returns"][0][0] += 100
    assert "changed by hand" in tables.edited(changed)[0]


def test_the_paragraph_counts_its_verdicts() -> None:
    cells = [cell("t", "a", NOISE + 1), cell("t", "b", NOISE)]
    three = [Claim(text, predicates.better(*pair)) for text, pair in (("up", ("a", "b")), ("down", ("b", "a")), ("none", ("a", "c")))]
    sentence, listed = tables.verdicts(document(*cells), three)
    assert sentence == "Of the paper's 3 claims, 1 held, 1 did not hold, 1 could not be judged."
    own = Claim("mine", predicates.better("a", "b"), ours=True)
    assert tables.verdicts(document(*cells), [*three[:1], own])[0] == "The paper's claim holds. Our own claim holds."
    assert tables.verdicts(document(*cells), [own])[1].startswith("- **holds**: Ours: mine.")
    assert [line.split("**")[1] for line in listed.splitlines()] == ["holds", "does not hold", "cannot be judged"]


def test_every_pair_has_to_show_it() -> None:
    cells = [cell("t", name, NOISE + shift) for name, shift in (("a", 2.0), ("b", 0.0), ("c", 1.0), ("d", 3.0))]
    assert verdict(predicates.throughout([("a", "b"), ("d", "c")]), *cells).held is True
    lost = verdict(predicates.throughout([("a", "b"), ("c", "d")]), *cells)
    assert lost.held is False and lost.because.startswith("t c over d -2.0")  # the pair that decides
    assert verdict(predicates.throughout([("a", "b"), ("c", "e")]), *cells).held is None


@pytest.mark.parametrize(("margin", "held"), [(3.5, True), (2.5, False)])
def test_flat_cells_spread_by_less_than_the_margin(margin: float, held: bool) -> None:
    cells = [cell("t", name, NOISE + shift) for name, shift in (("a", 0.0), ("b", 3.0), ("c", 1.0))]
    found = verdict(predicates.flat(("a", "b", "c"), margin), *cells)
    assert found.held is held and "t +3.0" in found.because
    noisy = [cell("t", name, 20 * RNG.normal(size=NOISE.shape)) for name in ("a", "b")]
    assert verdict(predicates.flat(("a", "b"), margin), *noisy).held is None
    assert "no d" in verdict(predicates.flat(("a", "d"), margin), *cells).because
