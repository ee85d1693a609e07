"""Claims, tables and the paper's numbers, on documents that are written here: what must hold, must not, and must stay open."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from scipy import stats as scipy_stats

from spar.presets import PRESETS
from spar.studies import claims, paper, results, study_scores, tables
from spar.studies.claims import Claim, Place, Results
from spar.studies.grid import PAPER_TASKS
from spar.studies.study_scores import LABELS

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
        "collapsed": [],
        "moving": [],
        "seeds": None,
    }
    return {**empty, "task": task, "row": row, "column": column, "unit": "return", "returns": returns, "value": value, **more}


def document(*cells: dict[str, Any], regimes: dict[str, str | None] | None = None) -> dict[str, Any]:
    tasks = {name: {"paper": None, "regime": regime} for name, regime in (regimes or {"t": None}).items()}
    return {"cells": list(cells), "tasks": tasks, "seeds": [0, 42, 123], "measured": {}, "notes": [], "budget": "quick"}


def verdict(predicate: Any, *cells: dict[str, Any], **more: Any) -> claims.Verdict:
    found: claims.Verdict = predicate(Results(document(*cells, **more)))
    return found


def test_the_interval_decides_not_the_mean() -> None:
    """A paired difference of one with its noise in common is shown; the same in unpaired noise of ten is open."""
    better = claims.better("a", "b")
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
    better, small = claims.better("a", "b"), claims.INTEREST / 2
    scores = [cell("t", name, NOISE + more, reference=[0.0, 100.0]) for name, more in (("a", small), ("b", 0.0))]
    found = verdict(better, *scores)
    assert found.word == "undecided" and "too little to matter" in found.because
    assert verdict(claims.better("b", "a"), *scores).word == "undecided"
    assert verdict(claims.best("a", ("b",)), *scores).word == "undecided"
    assert verdict(better, cell("t", "a", NOISE + small), cell("t", "b", NOISE)).word == "holds"


def test_what_is_missing_is_not_judged() -> None:
    lone = verdict(claims.better("a", "b"), cell("t", "a", NOISE), cell("t", "b", failed="diverged"))
    assert lone.held is None and lone.word == "cannot be judged" and "no b" in lone.because
    assert verdict(claims.better("a", "b", "sparse"), cell("t", "a", NOISE)).word == "cannot be judged"
    unequal = verdict(claims.better("a", "b"), cell("t", "a", NOISE + 9), cell("t", "b", NOISE[:2]))
    assert unequal.word == "cannot be judged" and "unequal" in unequal.because
    single = verdict(claims.better("a", "b"), cell("t", "a", [[2.0]]), cell("t", "b", [[1.0]]))
    assert single.word == "undecided"


def test_one_contrary_task_refutes_and_an_open_one_leaves_it_open() -> None:
    good, bad, same = NOISE + 2, NOISE - 2, RNG.normal(size=NOISE.shape)
    for second, word in ((good, "holds"), (bad, "does not hold"), (same, "undecided")):
        cells = [cell("s", "a", good), cell("s", "b", NOISE), cell("t", "a", second), cell("t", "b", NOISE)]
        found = verdict(claims.better("a", "b"), *cells, regimes={"s": "sparse", "t": "narrow"})
        assert found.word == word, found.because
        assert verdict(claims.better("a", "b", "sparse"), *cells, regimes={"s": "sparse", "t": "narrow"}).word == "holds"


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
        assert verdict(claims.better("a", "b"), *one, regimes={"t0": None}).word == "does not hold"
        rest = [cell(f"t{i}", column, NOISE + more) for i in range(1, 40) for column, more in (("a", 2), ("b", 0))]
        found = verdict(claims.better("a", "b"), *one, *rest, regimes=dict.fromkeys(f"t{i}" for i in range(40)))
        assert found.word == among_many, found.because[:80]
        assert ("not sure among 40 comparisons" in found.because) == (among_many == "undecided")
        others = [cell("t0", f"c{i}", NOISE - 9) for i in range(39)]
        best = claims.best("a", ("b", *(f"c{i}" for i in range(39))))
        assert verdict(best, *one, *others, regimes={"t0": None}).word == among_many


def test_tails_of_measures_without_returns_are_the_normal_ones() -> None:
    """At the end of the interval 2.5 %; a value that is too large refutes alone and not among as many as its tail asks for."""
    for seeds in (None, [1.0, 2.0, 3.0]):  # a normal one, Student's
        own = cell("t", "a", seeds=seeds)
        assert claims._tail(own, 2.0, 2.0) == pytest.approx(0.025)
        assert claims._tail(own, 2.0, 0.0) == pytest.approx(0.5)
        assert claims._tail(own, 2.0, -2.0) == pytest.approx(0.975)
        assert claims._tail(own, 0.0, 1.0) == 1.0
    cells = [cell(f"t{i}", "a", None, value={"mean": 1.0 if i else -1.2, "low": 0.5 if i else -2.3, "high": 1.5 if i else -0.1},
                  samples=[[1.0]]) for i in range(8)]  # fmt: skip
    assert verdict(claims.above(("a", None), 0.0), cells[0], regimes={"t0": None}).word == "does not hold"
    assert verdict(claims.above(("a", None), 0.0), *cells, regimes=dict.fromkeys(f"t{i}" for i in range(8))).word == "undecided"


def test_three_seeds_that_agree_by_chance_decide_nothing() -> None:
    """Equal policies whose seeds differ by more than their episodes: a claim is refuted, or shown, as seldom as its level says."""
    rng, words, families = np.random.default_rng(1), [], []
    for _ in range(12):
        tables = [rng.normal(scale=10, size=(3, 1)) + rng.normal(scale=5, size=(3, 10)) for _ in range(13)]
        cells = [cell("t", f"c{i}", table) for i, table in enumerate(tables)]
        words += [verdict(claims.better("c0", f"c{i}"), *cells).word for i in range(1, 13)]
        families.append(verdict(claims.best("c0", [f"c{i}" for i in range(1, 13)]), *cells).word)
    assert words.count("holds") <= 9 and words.count("does not hold") <= 9  # 2.5 % of 144 is 3.6
    assert families.count("does not hold") <= 2


def test_students_interval_is_scipys() -> None:
    seeds = np.array([1.0, 4.0, 2.5])
    half, tail = claims.student(seeds, seeds.mean())
    own = scipy_stats.ttest_1samp(seeds, 0.0, alternative="less")
    low, high = scipy_stats.ttest_1samp(seeds, 0.0).confidence_interval()
    assert half == pytest.approx((high - low) / 2) and tail == pytest.approx(own.pvalue)
    assert claims.student(seeds[:1], 1.0) == (0.0, 0.0)


def test_noise_alone_is_no_spread_and_no_base_no_collapse() -> None:
    """A range of means is never negative, and half of what is negative lies above it."""
    rng = np.random.default_rng(0)
    rows: dict[str, list[Place]] = {name: [(column, name) for column in "xyz"] for name in ("still", "noisy")}
    words = []
    for _ in range(10):
        still = [cell("t", column, np.zeros((3, 100)), "still") for column in "xyz"]
        noisy = [cell("t", column, 100.0 * (rng.random((3, 100)) < 0.2), "noisy") for column in "xyz"]
        words.append(verdict(claims.steadier(rows["still"], rows["noisy"]), *still, *noisy).word)
    assert words.count("holds") <= 1 and "does not hold" not in words
    found = verdict(claims.collapses("low", "high"), cell("t", "low", NOISE - 20), cell("t", "high", NOISE - 20))
    assert found.word == "undecided" and "not surely above 0" in found.because


def test_a_claim_about_every_task_does_not_hold_where_one_is_missing() -> None:
    cells = [cell("s", "a", NOISE + 2), cell("s", "b", NOISE), cell("t", "b", NOISE)]
    found = verdict(claims.better("a", "b"), *cells, regimes={"s": None, "t": None})
    assert found.word == "undecided" and "not judged: t (no a)" in found.because


def test_best_needs_all_of_the_others() -> None:
    best = claims.best("a", ("b", "c"))
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
    found = verdict(claims.steadier(rows["calm"], rows["wild"]), *cells)
    assert found.held is True and "+8.5" in found.because
    assert verdict(claims.steadier(rows["wild"], rows["calm"]), *cells).held is False
    two = [{**one, "task": task} for one in cells for task in "tu"]
    for first, second, held in (("calm", "wild", True), ("wild", "calm", False)):  # also where two tasks are asked
        assert verdict(claims.steadier(rows[first], rows[second]), *two, regimes={"t": None, "u": None}).held is held
    high, low = cell("t", "high", NOISE + 50), cell("t", "low", NOISE + 10)
    assert verdict(claims.collapses("low", "high"), high, low).held is True
    assert verdict(claims.collapses("low", "high"), high, cell("t", "low", NOISE + 40)).held is False
    near = cell("t", "low", NOISE + 48)
    assert verdict(claims.alike("high", "low", 10.0), high, near).held is True
    assert verdict(claims.alike("high", "low", 10.0), high, low).held is False
    assert verdict(claims.alike("high", "low", 2.0), high, near).word == "undecided"


def test_damage_is_compared_by_sign_and_size_and_one_value_decides_nothing() -> None:
    def measured(column: str, low: float, high: float) -> dict[str, Any]:
        value = {"mean": (low + high) / 2, "low": low, "high": high}
        return cell("t", column, unit="loss", samples=[[value["mean"]]], value=value)

    below = claims.below(("a", None), ("b", None), 10.0)
    large = measured("b", 1.0, 1.2)
    assert verdict(below, measured("a", -0.01, 0.02), large).held is True
    assert verdict(below, measured("a", 0.1, 0.2), large).word == "undecided"
    assert verdict(below, measured("a", 2.0, 3.0), large).held is False
    assert verdict(below, measured("a", -3.0, -2.0), large).held is True  # it helps
    for harmless in (measured("b", -1.2, -1.0), measured("b", -0.5, 1.0)):
        assert verdict(below, measured("a", -0.01, 0.02), harmless).word == "undecided"
    assert verdict(below, measured("a", 0.01, 0.01), large).word == "undecided"
    assert verdict(claims.above(("b", None), 0.9), large).held is True
    assert verdict(claims.above(("b", None), 1.3), large).held is False
    assert verdict(claims.above(("b", None), 1.1), large).word == "undecided"
    words = [verdict(claims.above(("b", None), limit, under=True), large).word for limit in (1.3, 1.1, 0.9)]
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
    """Third quarter of the policy's own updates, 20 of the 30: at 25."""
    anchor = [[step, "anchor", 0.0, -1.0, 1.0] for step in (5, 10)]
    for last, flat in (((30, 9.0, 8.0, 10.0), False), ((30, 9.0, 2.0, 16.0), True), ((30, 1.0, 0.5, 1.5), True)):
        step, *interval = last
        curve = [*anchor, [15, "policy", 0.0, 0.0, 0.0], [20, "policy", 0.0, 0.0, 0.0], [25, "policy", 3.0, 2.0, 4.0]]
        climbing = cell("t", "a", NOISE, run="quick/t/a", curve=[*curve, [step, "policy", *interval]])
        assert results.flattened(climbing) is flat
        assert any(note.startswith("Not flattened") for note in tables.reading(document(climbing))) is not flat
    assert results.flattened(cell("t", "a", NOISE, curve=anchor)) is None


def test_what_speaks_against_a_run_is_said_beside_its_number() -> None:
    curve = [[5, "policy", 0.0, 0.0, 0.0]]
    ill = cell("t", "a", NOISE, run="quick/t/a", curve=curve, collapsed=["0", "42"], moving=["0"])
    shared_critics = cell("t", "b", NOISE, run="quick/t/b", curve=curve, moving=["0"])
    assert tables.unwell(document(ill, shared_critics)) == [
        "Posterior collapse, all candidates are almost one action: t a (2 of 3 seeds).",
        "Critics still moving when Stage I ended, seeds a task: t (1 of 3).",
    ]
    assert tables.unwell(document(cell("t", "a", NOISE, run="quick/t/a", curve=curve))) == []


def test_the_hits_of_auto_are_counted() -> None:
    """Right and sure on one, wrong and sure on another by ten points, not told apart on a third."""
    shapes = {"s": 5.0, "t": -10.0, "u": 1e-3}
    cells = [cell(name, "SPAR-MLP", NOISE + more) for name, more in shapes.items()]
    cells += [cell(name, "SPAR-PROJ", NOISE if abs(more) > 1 else NOISE[::-1, ::-1]) for name, more in shapes.items()]
    said = study_scores.hits(Results(document(*cells, regimes=dict.fromkeys(shapes))), dict.fromkeys(shapes, "SPAR-MLP"))
    assert "on 2 of 3 tasks (equal on 0, told apart on 2)" in said and "largest 10.0" in said
    assert "No task" in study_scores.hits(Results(document(cells[0])), {"s": "SPAR-MLP"})


def test_a_changed_return_is_noticed() -> None:
    own = document(cell("t", "a", NOISE))
    assert tables.edited(own) == []
    changed = copy.deepcopy(own)
    changed["cells"][0]["returns"][0][0] += 100
    assert "changed by hand" in tables.edited(changed)[0]


def test_the_paragraph_counts_its_verdicts() -> None:
    cells = [cell("t", "a", NOISE + 1), cell("t", "b", NOISE)]
    three = [Claim(text, claims.better(*pair)) for text, pair in (("up", ("a", "b")), ("down", ("b", "a")), ("none", ("a", "c")))]
    sentence, listed = tables.verdicts(document(*cells), three)
    assert sentence == "Of 3 claims, 1 held, 1 did not hold, 1 could not be judged."
    assert [line.split("**")[1] for line in listed.splitlines()] == ["holds", "does not hold", "cannot be judged"]


# The paper's numbers


def test_the_papers_tables_are_whole() -> None:
    found = paper.tables()
    four, ten = ["HP-MR", "HC-ME", "Pen-CL", "AM-LD"], [short for short, _ in list(PAPER_TASKS.values())[:10]]
    tasks = {f"table{n}": four for n in (2, 3, 4, 5, 6, 9, 10, 11, 12, 13)} | {"table1": ten, "table8": ten}
    sizes = {1: 14, 2: 5, 3: 6, 4: 6, 5: 8, 6: 3, 8: 7, 9: 4, 10: 5, 11: 4, 12: 5, 13: 2, 14: 3}
    assert set(found) == {f"table{n}" for n in sizes} | {"figure3"}
    for name, expected in tasks.items():
        assert sorted(found[name]["cells"]) == sorted(expected), name
    for n, size in sizes.items():
        for task, rows in found[f"table{n}"]["cells"].items():
            assert sum(len(row) for row in rows.values()) == size, (n, task)


@pytest.mark.parametrize(
    ("place", "mean", "std"),
    [
        (("table1", "WK-ME", "", "SPAR-PROJ"), 113.4, 0.8),
        (("table1", "Pen-CL", "", "CQL-AW"), -2.5, None),
        (("table1", "AM-LD", "", "SPAR-MLP"), 15.0, 5.0),
        (("table2", "HC-ME", "", "Global SI"), 1.6, None),
        (("table3", "AM-LD", "VSD", "SPAR-PLAS"), 4.0e-3, None),
        (("table4", "Pen-CL", "SPAR-PLAS", "λ_g = 2"), 64.2, None),
        (("table5", "AM-LD", "hard", "T = 1"), 40.0, None),
        (("table6", "Pen-CL", "SPAR-PROJ", "λ_u = 0"), 39.2, None),
        (("table9", "HC-ME", "", "FQL"), 106.1, None),
        (("table10", "HP-MR", "", "(1e-4, -1e9)"), 78.2, None),
        (("table11", "Pen-CL", "deployed", "DAC MB"), 1608.66, None),
        (("table12", "HP-MR", "", "Flow base + flow"), 96.2, None),
        (("table13", "AM-LD", "SPAR-PROJ", "SPAR on it"), 40.0, None),
        (("table14", "WK-M", "", "Base"), 76.8, None),
        (("figure3", "Pen-CL", "gated", "SPAR-PLAS"), 6.32, None),
    ],
)
def test_cells_as_printed(place: tuple[str, str, str, str], mean: float, std: float | None) -> None:
    found = paper.number(*place)
    assert found is not None and (found["mean"], found["std"]) == (mean, std)


def test_numbers_that_are_not_there_or_in_doubt() -> None:
    assert paper.number("table1", "HP-MR", "", "SPOT") is None and paper.number(None, "HP-MR", "", "IQL") is None
    assert paper.number("table1", None, "", "IQL") is None and paper.number("table4", "HP-MR", "SPAR-PLAS", "λ_g = 2") is None
    for task, column, doubted in (("Pen-CL", "IQL", True), ("Pen-CL", "SPAR-PROJ", False), ("HP-MR", "IQL", False), ("HP-MR", "EQL", True)):
        found = paper.number("table1", task, "", column)
        assert found is not None and (found["doubt"] is not None) is doubted


def test_the_presets_are_table_8() -> None:
    shorts = {short: task for task, (short, _) in PAPER_TASKS.items()}
    for short, rows in paper.tables()["table8"]["cells"].items():
        preset = PRESETS[shorts[short]]
        own = (preset.expectile, LABELS[preset.algo], preset.lambda_u, preset.lambda_g, preset.filter, preset.temperature, preset.eta_rel)
        assert own == tuple(rows[""].values())
