"""What follows from a result document anew each time it is shown: the choice of `auto`, its hits, and the ranking of the readings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from spar.diagnose.geometry import Geometry
from spar.studies import claims, evidence, results, study_gate, study_scores, study_sweeps
from spar.studies.claims import Results
from tests.test_study_claims import NOISE, cell, document


def shaped(algo: str, rows: int = 4000) -> dict[str, Any]:
    """The numbers of a cloud that asks for `algo`: one cluster or two. The word beside them is a wrong one: numbers count."""
    clusters = (0.9,) if algo == "spar-mlp" else (0.5, 0.4)
    cloud = Geometry(rows, 0.5, 1.0, 0.5, 1.0, (0.6, 0.4), 1.9, 1.0, 3.0, 3.0, clusters)
    return {**cloud._asdict(), "recommended": "spar-plas", "reasons": ["typed"]}


def test_auto_is_judged_by_the_shapes_in_the_file() -> None:
    """Cells, notes and verdict follow a changed number, whatever the words beside it say."""
    cells = [cell("t", "SPAR-MLP", NOISE), cell("t", "SPAR-PROJ", NOISE + 9.0)]
    for algo, column in (("spar-mlp", "SPAR-MLP"), ("spar-proj", "SPAR-PROJ")):
        found = document(*cells)
        found["measured"] = {"geometry": {"x": {"t": {"seeds": {"0": shaped(algo)}}}}}
        shown = study_scores.AUTO.shown({**found, "notes": []})
        (copied,) = (one for one in shown["cells"] if one["column"] == "recommended")
        assert copied["returns"] == cells[algo == "spar-proj"]["returns"]
        assert shown["notes"][1].startswith(f"t: {column}, because of") and "typed" not in shown["notes"][1]
        assert study_scores.chosen_over_other(Results(shown)).held is (algo == "spar-proj")
        assert len(found["cells"]) == 2  # the file's own stay as they were


def test_the_readings_are_ranked_over_the_tasks_that_have_them_all() -> None:
    """By a naive mean; a task that lacks a value does not count."""
    factor = next(one for one in study_sweeps.FACTORS if one.path == "residual.guide_scale")
    (own, other), row = sorted(factor.values, key=lambda value: value != factor.default), "SPAR-MLP"
    rows = [
        (task, value, NOISE + shift) for task, value, shift in (("s", own, 0.0), ("s", other, 4.0), ("t", own, 10.0), ("t", other, 12.0))
    ]
    cells = [{**cell(task, factor.own(value), table, reference=[0.0, 100.0]), "row": row} for task, value, table in rows]
    lonely = {**cell("u", factor.own(own), NOISE + 100.0, reference=[0.0, 100.0]), "row": row}
    found = {**document(*cells, lonely, regimes=dict.fromkeys("stu")), "notes": []}
    count, standing = study_sweeps.standings(Results(found), factor)
    assert count == 2 and standing[other].mean == pytest.approx(NOISE.mean() + 8.0)
    assert (standing[other].low, standing[other].high) == (pytest.approx(3.0), pytest.approx(3.0))  # the same for every seed
    said = study_sweeps.READINGS_STUDY.shown(found)["notes"][-1]
    assert "over 2 tasks" in said and said.index(f"{other} ") < said.index(f"{own} ")


def test_a_crossed_reading_is_ranked_over_what_it_is_crossed_with() -> None:
    """Main effects: a reading that is best with one reduction alone does not win by it."""
    reading, reduction = study_sweeps.FACTORS[:2]
    gains = {("convex", "sum"): 9.0, ("elbo", "mean"): 16.0, ("elbo", "sum"): -8.0}
    cells = [
        {**cell("s", column, NOISE + gains.get((one, other), 0.0), reference=[0.0, 100.0]), "row": "SPAR-PROJ"}
        for one in reading.values
        for other, column in zip(reduction.values, reading.columns(one), strict=True)
    ]
    found = Results(document(*cells, regimes={"s": "unimodal"}))
    gained = {value: score.mean - NOISE.mean() for value, score in study_sweeps.standings(found, reading)[1].items()}
    assert gained == pytest.approx({"resample": 0.0, "paired": 0.0, "convex": 4.5, "elbo": 4.0})
    gained = {value: score.mean - NOISE.mean() for value, score in study_sweeps.standings(found, reduction)[1].items()}
    assert gained == pytest.approx({"sum": 0.25, "mean": 4.0})


def test_the_defaults_are_those_that_measure_best() -> None:
    """Where the study has been run, `readings` sets them; until then the page says that they are open."""
    root = Path(__file__).resolve().parents[1]
    path, said_open = root / "results" / "readings.json", "The default is *open*" in (root / "docs" / "readings.md").read_text()
    assert said_open is not path.is_file()
    if said_open:
        return
    for factor in study_sweeps.FACTORS:
        _, found = study_sweeps.standings(Results(results.read(path)), factor)
        assert found and max(found, key=lambda value: found[value].mean) == factor.default, factor.path


def test_shapes_that_seeds_disagree_about_decide_nothing() -> None:
    def judged(*asked: str, rows: int = 4000) -> claims.Verdict:
        geometry = {"seeds": {str(i): shaped(algo, rows) for i, algo in enumerate(asked)}}
        sure, other = ({"seeds": {"0": shaped(algo)}} for algo in ("spar-mlp", "spar-proj"))
        found = {"unimodal": sure, "multimodal": other, "sparse": other, "narrow": geometry}
        tasks = {name: {"paper": name, "regime": name} for name in found}
        return study_scores.regimes(Results({"cells": [], "tasks": tasks, "measured": {"geometry": {"x": found}}}))

    assert judged("spar-proj", "spar-proj").held is True and judged("spar-mlp", "spar-mlp").held is False
    assert judged("spar-proj", "spar-mlp").held is None and judged("spar-proj", rows=50).held is None


def test_the_hits_of_auto_are_counted() -> None:
    """Right and sure on one, wrong and sure on another by ten points, not told apart on a third."""
    shapes = {"s": 5.0, "t": -10.0, "u": 1e-3}
    cells = [cell(name, "SPAR-MLP", NOISE + more) for name, more in shapes.items()]
    cells += [cell(name, "SPAR-PROJ", NOISE if abs(more) > 1 else NOISE[::-1, ::-1]) for name, more in shapes.items()]
    said = study_scores.hits(Results(document(*cells, regimes=dict.fromkeys(shapes))), dict.fromkeys(shapes, "SPAR-MLP"))
    assert "on 2 of 3 tasks (equal on 0, told apart on 2)" in said and "largest 10.0" in said
    assert "No task" in study_scores.hits(Results(document(cells[0])), {"s": "SPAR-MLP"})


def test_how_often_a_gate_accepts_stands_below_its_scores() -> None:
    column = study_gate.DEFAULT_GATE
    found = document({**cell("t", column, NOISE), "acceptance": 0.25}, {**cell("t", "x", NOISE), "acceptance": None})
    *_, accepted = study_gate.TABLE10.shown(found)["cells"]
    assert (accepted["row"], accepted["column"], accepted["value"]["mean"]) == (study_gate.ACCEPTS, column, 25.0)
    shown = Results(study_gate.TABLE10.shown(found)).cell("t", column)
    assert shown is not None and shown["returns"] is not None  # a claim that names no row reads the score


def test_the_page_says_how_far_a_budget_is_from_the_papers() -> None:
    """16,000 of 2,000,000 updates."""
    quick = {"budget": "quick", "steps": {"anchor": 10_000, "residual": 6_000}}
    (said,) = evidence.lengths([quick, quick])
    assert "10,000 + 6,000 updates, 0.8% of the paper's 1,000,000 + 1,000,000" in said and "follow at 0.05, the paper's at 0.005" in said
    assert evidence.lengths([{"budget": "paper", "steps": {"anchor": 1_000_000, "residual": 1_000_000}}]) == []
