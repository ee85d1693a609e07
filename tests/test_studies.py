"""Every study, run for real at the smoke budget in one store; what was deleted is redone, what was changed shows, what is there is kept."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spar import api, cli, registry
from spar.data import catalog
from spar.evaluate import scores
from spar.presets import PRESETS
from spar.runs import config, experiment, tables
from spar.runs.config import BUDGETS, BudgetSteps
from spar.runs.listener import Silent
from spar.studies import evidence, grid, paper, results, run
from spar.studies.catalogue import STUDIES
from spar.studies.grid import Measurement, Study, Variant
from spar.studies.run import Request
from spar.studies.store import measured
from spar.types import SparError

ROOT = Path(__file__).resolve().parents[1]
TASK = "hopper-replay"


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Runs and results of all studies at the smoke budget."""
    folder = tmp_path_factory.mktemp("studies")
    runs, found = folder / "runs", folder / "results"
    assert cli.main(["study", "all", "--budget", "smoke", "--runs", str(runs), "--results", str(found)]) == 0
    return runs, found


def documents(found: Path) -> Iterator[tuple[Study, dict[str, Any]]]:
    for name, study in STUDIES.items():
        yield study, results.read(found / f"{name}.json")


def stamps(runs: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in runs.rglob("summary.json")}


def timeless(cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in cell.items() if key != "seconds"} for cell in cells]


def test_every_study_runs_and_its_cells_are_its_runs(places: tuple[Path, Path]) -> None:
    """Scores and curves against the run directories, by naive loops."""
    runs, found = places
    low, high = scores.REFERENCES["Hopper"]
    seen = 0
    for study, document in documents(found):
        assert document["cells"] and document["seeds"] == [0] and document["budget"] == "smoke", study.name
        assert document["tasks"][TASK]["paper"] == "HP-MR" and len(document["tasks"][TASK]["fingerprint"]) == 16
        assert (found / f"{study.name}.png").is_file() is (study.picture is not None), study.name
        for cell in document["cells"]:
            assert cell["failed"] is None, cell
            assert cell["column"] in ("recommended", *study.elsewhere) or cell["paper"] == paper.number(
                study.paper, "HP-MR", cell["row"], cell["column"]
            )
            if cell["shows"] is None:
                assert cell["value"] is not None or cell["paper"] is not None
                continue
            if cell["column"] == "recommended":  # a copy, which no run is counted for twice
                assert cell["run"] is None and cell["returns"] in [other["returns"] for other in document["cells"] if other["run"]]
                continue
            folder = runs / cell["run"]
            summary = experiment.read_summary(folder)
            assert cell["returns"] == summary["returns"][cell["shows"]] and cell["unit"] == "score"
            mean = sum(sum(row) / len(row) for row in cell["returns"]) / len(cell["returns"])
            assert cell["value"]["mean"] == pytest.approx(100 * (mean - low) / (high - low))
            assert cell["value"]["low"] <= cell["value"]["mean"] <= cell["value"]["high"]
            expected = [float(row[-1]) for row in tables.read(folder / "returns.csv", tables.RETURNS_HEADER)]
            assert [point[2] for point in cell["curve"]] == pytest.approx([100 * (v - low) / (high - low) for v in expected])
            steps = [14, 24, 34] if cell["algo"] == "spot" else [10, 20, 30, 40]  # SPOT's first stage is a tenth of the updates
            assert [point[0] for point in cell["curve"]] == steps
            seen += 1
    assert seen > 30
    assert sorted(path.stem for path in found.glob("*.md")) == sorted(STUDIES)


def test_studies_share_runs_and_a_deleted_one_alone_is_redone(places: tuple[Path, Path]) -> None:
    runs, found = places
    folder = runs / "smoke" / TASK
    assert (folder / "spar-mlp").is_dir() and (folder / "spar-mlp~residual.lambda_g=0").is_dir()
    before, cells = stamps(runs), results.read(found / "table4.json")["cells"]
    shutil.rmtree(folder / "spar-mlp~residual.lambda_g=0")
    document = run.execute(STUDIES["table4"], Request("smoke", runs=runs, results=found))
    after = stamps(runs)
    assert [path.parent.name for path in after if before.get(path) != after[path]] == ["spar-mlp~residual.lambda_g=0"]
    assert timeless(json.loads(json.dumps(document["cells"]))) == timeless(cells)


def test_a_study_goes_on_where_it_was_cut_off(places: tuple[Path, Path], tmp_path: Path) -> None:
    class Stop(Silent):
        def stage(self, name: str, done: int, total: int) -> None:
            if "lambda_g=2: residual" in name:
                raise KeyboardInterrupt

    study = STUDIES["table4"]
    shutil.copytree(places[0] / "smoke" / TASK / "shared", tmp_path / "smoke" / TASK / "shared")
    request = Request("smoke", runs=tmp_path, results=tmp_path / "results")
    with pytest.raises(KeyboardInterrupt):
        run.execute(study, request, Stop())
    before = stamps(tmp_path)
    assert len(before) == 2 and not request.out.exists()
    cells = run.execute(study, request)["cells"]
    assert stamps(tmp_path).items() > before.items()
    assert timeless(json.loads(json.dumps(cells))) == timeless(results.read(places[1] / "table4.json")["cells"])


def test_the_page_follows_every_number(places: tuple[Path, Path], tmp_path: Path) -> None:
    found = places[1]
    out, folder = tmp_path / "docs" / "evidence.md", tmp_path / "results"
    shutil.copytree(found, folder)
    assert cli.main(["study", "evidence", "--results", str(folder), "--out", str(out)]) == 0
    page = out.read_text()
    for study, document in documents(found):
        assert f"## {study.name}: {study.title}" in page and document["command"] in page
        assert (f"](../results/{study.name}.png)" in page) is (study.picture is not None)
    assert page.count("](#") == len(STUDIES)
    table = results.read(folder / "table4.json")
    for change in ("returns", "mean", "paper", "seeds"):
        changed = json.loads(json.dumps(table))
        first = changed["cells"][0]
        if change == "returns":
            first["returns"] = [[value + 1000 for value in row] for row in first["returns"]]
        elif change == "mean":
            first["value"]["mean"] += 50
        elif change == "paper":
            first["paper"]["mean"] += 1
        else:
            changed["seeds"] = [0, 1, 2]
        results.write(folder / "table4.json", changed)
        assert evidence.page(folder, out) != page, change
    results.write(folder / "table4.json", table)
    for name in ("table3", "figure3"):  # whose cells were measured
        measured = results.read(folder / f"{name}.json")
        for change in ("samples", "value", "seeds"):
            changed = json.loads(json.dumps(measured))
            cell = next(one for one in changed["cells"] if one["samples"])
            cell[change] = {
                "samples": [[value + 1 for value in row] for row in cell["samples"]],
                "value": {key: value + 1 for key, value in cell["value"].items()},
                "seeds": [value + 1 for value in cell["seeds"]],
            }[change]
            results.write(folder / f"{name}.json", changed)
            assert evidence.page(folder, out) != page, (name, change)
        results.write(folder / f"{name}.json", measured)
    assert evidence.page(folder, out) == page
    (folder / "table4.json").unlink()
    assert "Not run yet: `table4`" in evidence.page(folder, out)
    (folder / "table4.json").write_text("{}")
    with pytest.raises(SparError, match=r"table4.json: has no .*spar study table4"):
        evidence.page(folder, out)


def test_the_committed_page_is_what_the_results_say() -> None:
    page = ROOT / "docs" / "evidence.md"
    assert page.read_text() == evidence.page(ROOT / "results", page), "make it again: spar study evidence"


def test_compare_makes_and_finds_the_studies_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With few updates in the name of the quick budget."""
    monkeypatch.setitem(BUDGETS, "quick", BudgetSteps(4, 4, (0,), 4, 0.05, 4, {}, 2))
    folder = tmp_path / "runs" / "quick" / TASK
    assert cli.main(["compare", TASK, "--algos", "spar-mlp", "--seeds", "0", "--out", str(folder)]) == 0
    before = stamps(tmp_path)
    request = Request("quick", (TASK,), (0,), tmp_path / "runs", tmp_path / "results")
    document = run.execute(STUDIES["table9"], request)
    assert stamps(tmp_path) == before and len(before) == 1
    assert document["command"] == "spar study table9 --budget quick --tasks hopper-replay --seeds 0"
    assert document["cells"][0]["run"] == f"quick/{TASK}/spar-mlp"
    with pytest.raises(SparError, match=r"spar-mlp: began with seeds \[0\], now it is \[1\]; .*--runs"):
        run.execute(STUDIES["table9"], dataclasses.replace(request, seeds=(1,)))


def test_a_run_that_diverges_is_recorded_and_the_rest_goes_on(places: tuple[Path, Path], tmp_path: Path) -> None:
    def variants(task: grid.Task, budget: str) -> list[Variant]:
        return [Variant("good", "spar-mlp"), Variant("bad", "bc", {"actor.learning_rate": math.nan})]

    def probe(folder: Path, log: Any) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        raise SparError("cannot be measured")

    measurement = Measurement("probe", probe, lambda task: [Variant("probed", "spar-mlp")])
    study = Study("broken", "t", "s", "a", variants, (TASK,), measurements=(measurement,))
    document = run.execute(study, Request("smoke", runs=places[0], results=tmp_path))
    good, bad, probed = document["cells"]
    assert good["value"] is not None and bad["value"] is None and probed["failed"] == "cannot be measured"
    assert "non-finite numbers" in bad["failed"] and bad["run"].endswith("bc~actor.learning_rate=nan")
    text = (tmp_path / "broken.md").read_text()
    assert "failed" in text and "non-finite numbers" in text


def test_a_measurement_is_made_once_and_kept_with_its_run(tmp_path: Path) -> None:
    calls = []

    def count(folder: Path, log: Any, **settings: Any) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        calls.append(settings)
        return {"calls": len(calls)}, {"x": np.arange(3.0)}

    for settings, expected in (({"k": 1}, 1), ({"k": 1}, 1), ({"k": 2}, 2), ({"k": 1}, 1)):
        document, arrays = measured(tmp_path, "count", count, None, settings)  # type: ignore[arg-type]
        assert document == {"calls": expected} and arrays["x"].tolist() == [0, 1, 2]
    for path in (tmp_path / "measured").glob("*.json"):
        path.unlink()
    assert measured(tmp_path, "count", count, None, {"k": 1})[0] == {"calls": 3}  # type: ignore[arg-type]
    next((tmp_path / "measured").glob("*.json")).write_text("{")
    with pytest.raises(SparError, match=r"cannot be read .*; delete it"):
        measured(tmp_path, "count", count, None, {"k": 1})  # type: ignore[arg-type]


# Declarations


@pytest.mark.parametrize("budget", ["smoke", "quick", "standard", "paper"])
def test_every_declared_variant_can_be_configured(budget: str) -> None:
    """On every task of its study, under different names for different configurations; nothing is trained."""
    for study in STUDIES.values():
        for name in study.tasks:
            task, named = grid.task(name), dict[str, Any]()
            assert task.regime is not None
            probes = [variant for measurement in study.measurements for variant in measurement.of(task)]
            for variant in [*study.variants(task, budget), *probes]:
                key, cfg = grid.configure(task, variant, budget, (0,))
                assert named.setdefault(key, cfg) == cfg and len(key) <= grid.LONGEST_NAME
                assert config.run_config_from_dict(json.loads(json.dumps(config.to_dict(cfg)))) == cfg


def test_edits_that_change_nothing_share_the_presets_run() -> None:
    task = grid.task("pen-cloned")
    own, _ = grid.configure(task, Variant("x", "spar-proj"), "quick", (0,))
    same, _ = grid.configure(task, Variant("x", "spar-proj", {"imitation.lambda_g": 0.5, "weighting.filter": "soft"}), "quick", (0,))
    other, cfg = grid.configure(task, Variant("x", "spar-proj", {"gate.eta_abs": -1e9, "imitation.reading": "paired"}), "quick", (0,))
    assert own == same == "spar-proj" and other == "spar-proj~gate.eta_abs=-1e+09,imitation.reading=paired"
    assert cfg.config.imitation.reading == "paired" and cfg.config.gate.eta_abs == -1e9
    with pytest.raises(SparError, match=r"spar-mlp has no setting 'imitation\.reading'"):
        grid.configure(task, Variant("x", "spar-mlp", {"imitation.reading": "paired"}), "quick", (0,))
    with pytest.raises(SparError, match="no budget named 'large'"):
        grid.configure(task, Variant("x", "spar-mlp"), "large", (0,))


def test_the_studies_ask_what_the_paper_varied() -> None:
    """A variant or a quotation for every column that the paper prints of a table, on the tasks that it prints."""
    for name, study in STUDIES.items():
        if study.paper != name or study.measurements:
            continue
        tasks = {grid.task(task).paper: grid.task(task) for task in study.tasks}
        for short, rows in paper.tables()[name]["cells"].items():
            own = study.variants(tasks[short], "quick")
            for row, columns in rows.items():
                assert set(columns) <= {v.column for v in own if row in ("", v.row)} | set(study.quoted), (name, short)
    neighbours = {variant.column for variant in STUDIES["table8"].variants(grid.task("walker2d-medium-replay"), "quick")}
    assert neighbours == {"as in Table 8", "τ = 0.9", "λ_u = 2", "soft", "T = 0.3", "λ_g = 0.5", "SPAR-PROJ"}
    preset = STUDIES["table8"].printed(grid.task("walker2d-medium-expert"), "", "as in Table 8")
    assert preset is not None and (preset["mean"], preset["std"]) == (113.4, 0.8)
    assert STUDIES["table8"].printed(grid.task("walker2d-medium-expert"), "", "soft") is None
    assert len(list(STUDIES["readings"].variants(grid.task(TASK), "paper"))) == 4 * 2 + 3 + 3 + 2 + 3 * 2 + 1 * 2
    algos = {variant.algo for variant in STUDIES["table1"].variants(grid.task(TASK), "quick")}
    assert algos == set(registry.ALGOS)


def test_tasks_know_the_papers_names() -> None:
    assert set(grid.PAPER_TASKS) == set(PRESETS)
    assert grid.task(TASK).paper == grid.task("hopper-medium-replay-v2").paper == "HP-MR"
    assert grid.task("pointmaze-large").paper is None and grid.task("pointmaze-large").algo == "spar-proj"
    assert grid.task("logs/my log.csv").folder == "my_log"


def test_what_is_wrong_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("SPAR_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for argv, said in (
        (["table14"], "'hopper-medium' has not been made yet; make it with `spar data make hopper-medium`"),
        (["table99"], "no study named 'table99'; there are: table1,"),
        (["table4", "--tasks", "hoper-replay"], "no dataset named 'hoper-replay'; did you mean hopper-replay"),
    ):
        assert cli.main(["study", *argv]) == 1
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1
    assert not (tmp_path / "runs").exists()
    assert not catalog.suite_folder().exists()


def test_the_list_shows_every_study(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["study", "list"]) == 0
    printed = capsys.readouterr().out
    assert all(study.name in printed and study.title in printed for study in STUDIES.values())
    assert {f"table{n}" for n in (1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 14)} | {f"figure{n}" for n in (2, 3, 4, 5, 6)} <= set(STUDIES)


def test_the_commands_of_a_study_are_its_api() -> None:
    """A study's configuration is `api.configure`'s with the edits on top."""
    task = grid.task("antmaze-large-diverse")
    _, cfg = grid.configure(task, Variant("x", "iql"), "standard", (0, 42, 123))
    assert cfg == api.configure("antmaze-large-diverse", "iql", budget="standard")
