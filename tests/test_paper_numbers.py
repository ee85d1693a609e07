"""The paper's numbers as they stand beside ours, and its presets."""

from __future__ import annotations

import pytest

from spar.presets import PRESETS
from spar.studies import paper
from spar.studies.grid import PAPER_TASKS
from spar.studies.study_scores import LABELS


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
