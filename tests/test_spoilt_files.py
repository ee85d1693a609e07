"""Files of a run that somebody, or a full disk, has spoilt: one line that names the file and says what to do, never a traceback."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from spar import cli, files
from spar.data.sources import d4rl
from spar.report import compare as comparison
from spar.runs import auto, cache, compare, environment, experiment, finetune_plan, tables
from spar.runs.config import from_dict, run_config_from_dict
from spar.trainer import Settings
from spar.types import SparError
from tests.conftest import TINY_FLAGS, plant_rows


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny run."""
    folder = tmp_path_factory.mktemp("plant")
    d4rl.write(folder / "plant.hdf5", plant_rows(), {})
    flags = [*TINY_FLAGS, "--steps-anchor", "20", "--steps-residual", "20"]
    assert cli.main(["train", str(folder / "plant.hdf5"), "--algo", "spar-mlp", "--out", str(folder / "run"), *flags]) == 0
    return folder / "run"


def copied(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def refused(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert cli.main(argv) == 1
    found = capsys.readouterr().err
    assert found.startswith("spar: ") and found.count("\n") == 1, found
    return found


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("summary.json", b"", "delete the file"),
        ("summary.json", b"[]", "holds a list instead of a dict; delete the file"),
        ("environment.json", b"{", "put the file back"),
        ("environment.json", b"{}", "has no 'versions'; put the file back"),
        ("config.json", b'{"dataset": "\xff"}', "not valid JSON"),
        ("metrics.csv", b"", "header is [], expected"),
        ("metrics.csv", b"\xff\xfe", "cannot be read"),
        ("returns.csv", b"stage_index,stage,step,seed,policy,episode,return\n0,a,1\n", "line 2 has 3 columns instead of 7"),
        ("metrics.csv", b"stage_index,stage,step,seed,metric,value\n0,a,2.5,0,q,1\n", "line 2 has '2.5' as its step; put the file back"),
        ("metrics.csv", b"stage_index,stage,step,seed,metric,value\n0,a,2,0,q,1\n0,a,4,0,q,\n", "line 3 has '' as its value"),
        ("returns.csv", b"stage_index,stage,step,seed,policy,episode,return\nx,a,1,0,policy,0,2\n", "line 2 has 'x' as its stage_index"),
    ],
)
def test_a_report_names_the_file(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: bytes, said: str
) -> None:
    run = copied(finished, tmp_path)
    (run / name).write_bytes(content)
    found = refused(["report", str(run)], capsys)
    assert f"{run / name}: " in found and said in found


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("environment.json", b"", "put the file back"),
        ("seconds.json", b"", "delete the file"),
        ("metrics.csv", b"", "put the file back"),
        ("metrics.csv", b"stage_index,stage,step,seed,metric,value\n0,a,one,0,q,1\n", "line 2 has 'one' as its step; put the file back"),
        ("metrics.csv", None, "is not there, though the checkpoint is; put the file back"),
        ("returns.csv", None, "is not there, though the checkpoint is; put the file back"),
    ],
)
def test_going_on_names_the_file(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: bytes | None, said: str
) -> None:
    run = copied(finished, tmp_path)
    (run / "summary.json").unlink()
    (run / name).unlink() if content is None else (run / name).write_bytes(content)
    found = refused(["train", "--resume", str(run)], capsys)
    assert f"{run / name}: " in found and said in found


def test_a_spoilt_summary_is_made_again_as_the_line_says(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = copied(finished, tmp_path)
    whole = experiment.read_summary(run)
    (run / "summary.json").write_bytes(b"")
    assert f"`spar train --resume {run}` makes it again" in refused(["train", "--resume", str(run)], capsys)
    (run / "summary.json").unlink()
    assert cli.main(["train", "--resume", str(run)]) == 0
    assert experiment.read_summary(run)["offline"] == whole["offline"]


def test_a_setting_of_another_type_names_its_field(finished: Path) -> None:
    document = json.loads((finished / "config.json").read_text())
    for place, key, value, said in (
        (document["config"]["anchor"], "learning_rate", "x", "config.config.anchor.learning_rate is 'x'; it must be a number"),
        (document["config"]["anchor"], "hidden", 16, "hidden is 16; it must be a list"),
        (document["config"]["critic"], "size", True, "size is True; it must be a whole number"),
        (document["loop"], "seeds", "all", "config.loop.seeds is 'all'; there are: auto, map, vmap"),
        (document["data"], "standardise", 1, "standardise is 1; it must be true or false"),
        (document, "steps_anchor", "20", "steps_anchor is '20'; it must be a whole number"),
        (document, "dataset", None, "dataset is None; it must be a string"),
        (document, "data", [], r"config.data is \[\]; it must be an object"),
    ):
        before, place[key] = place[key], value
        with pytest.raises(SparError, match=said):
            run_config_from_dict(document)
        place[key] = before
    assert run_config_from_dict({**document, "steps_anchor": 2e4}).steps_anchor == 20_000
    assert from_dict(Settings, {"checkpoint_seconds": "inf"}).checkpoint_seconds == float("inf")


def test_other_documents_say_what_to_do(tmp_path: Path) -> None:
    for name in (auto.DOCUMENT, compare.NAME, environment.NAME, "summary.json"):
        (tmp_path / name).write_bytes(b"")
    files.write_json(tmp_path / "config.json", {"finetune": {"run": "runs/a"}})
    for reads, said in (
        (lambda: auto.read(tmp_path), "choice.json: not valid JSON .*; delete the file to choose anew"),
        (lambda: comparison.write(tmp_path), "comparison.json: not valid JSON .*; delete the file and repeat `spar compare`"),
        (lambda: compare.together(tmp_path, ["bc"]), "comparison.json: not valid JSON"),
        (lambda: environment.go_on(tmp_path, cache.surroundings()), "environment.json: not valid JSON"),
        (lambda: environment.began_with(tmp_path), "environment.json: not valid JSON"),
        (lambda: finetune_plan.finished(tmp_path), "summary.json: not valid JSON .*; put the file back, or begin a new fine-tuning"),
        (lambda: tables.read(tmp_path / "summary.json", tables.METRICS_HEADER), "header is"),
    ):
        with pytest.raises(SparError, match=said):
            reads()
