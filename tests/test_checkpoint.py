"""Checkpoints that a full disk or a dead machine has spoilt, and those of other numbers of updates than the run's."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

import spar
from spar import api, cli, registry, trainer
from spar.data.episodes import HostRows
from spar.runs.checkpoint import Checkpoints, last_state
from spar.types import SparError
from tests.conftest import plant_log, tiny

LOG = plant_log()
STEPS = [20]


@pytest.fixture(scope="module")
def snapshots() -> list[trainer.Snapshot]:
    """Of bc: before training, and after every five updates."""
    record, chunks = registry.get("bc"), list[trainer.Chunk]()
    start = trainer.start(record, tiny("bc"), LOG.spec, [0])
    rows, settings = HostRows(LOG, LOG.scaler()).on_device(), trainer.Settings(batch_size=16, log_every=5)
    trainer.run(record, tiny("bc"), rows, [0], STEPS, settings, start, chunks.append)
    return [start, *(chunk.snapshot for chunk in chunks)]


def keep(folder: Path, snapshots: list[trainer.Snapshot]) -> None:
    kept = Checkpoints(folder, STEPS)
    for snapshot in snapshots:
        kept.save(snapshot)
    kept.close()


def halve(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path: Path, snapshots: list[trainer.Snapshot]) -> None:
    """What a full disk or a dead machine has left of the newest is said and passed over; so is what a save that never ended has."""
    start, folder = snapshots[0], tmp_path / "checkpoints"
    keep(folder, snapshots[1:3])
    newest, unfinished = folder / "10", folder / "99.orbax-checkpoint-tmp"
    unfinished.mkdir()
    halve(newest)
    again = Checkpoints(folder, STEPS)
    with pytest.warns(UserWarning, match=f"{newest}: cannot be read"):
        found = again.latest(start)
    again.close()
    assert found is not None and found.position == snapshots[1].position
    assert not unfinished.exists()
    for path in (folder / "5").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    with pytest.raises(SparError, match="none of its checkpoints can be read"), pytest.warns(UserWarning):
        Checkpoints(folder, STEPS).latest(start)
    assert (folder / "5").is_dir()


def test_a_damaged_checkpoint_is_made_again(tmp_path: Path, snapshots: list[trainer.Snapshot]) -> None:
    """Orbax alone would keep the damaged one and skip every save up to its number."""
    start = snapshots[0]
    keep(tmp_path, snapshots[1:3])
    halve(tmp_path / "10")
    blind = Checkpoints(tmp_path, STEPS)
    with pytest.raises(SparError, match=f"{tmp_path / '10'}: is in the way of checkpoint 10"):
        blind.save(snapshots[2])
    blind.close()
    reader = Checkpoints(tmp_path, STEPS, reader=True)
    with pytest.warns(UserWarning, match="cannot be read"):
        reader.latest(start)
    reader.close()
    assert (tmp_path / "10").is_dir(), "a reader deletes nothing"
    again = Checkpoints(tmp_path, STEPS)
    with pytest.warns(UserWarning, match="cannot be read"):
        again.latest(start)
    again.save(snapshots[2])
    again.close()
    found = Checkpoints(tmp_path, STEPS).latest(start)
    assert found is not None and found.position == snapshots[2].position


def test_one_that_cannot_be_read_says_no_more_than_that(
    tmp_path: Path, snapshots: list[trainer.Snapshot], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reads that orbax has given up complain, from other threads and at any time after."""
    told: list[Any] = []
    monkeypatch.setattr("sys.unraisablehook", told.append)
    keep(tmp_path, snapshots[1:3])
    (tmp_path / "10" / "default" / "manifest.ocdbt").write_bytes(b"")
    with pytest.warns(UserWarning, match="cannot be read"):
        Checkpoints(tmp_path, STEPS).latest(snapshots[0])
    late, other = (SimpleNamespace(exc_value=RuntimeError(text), object=None) for text in ("Event loop is closed", "else"))
    for found in (late, other):
        sys.unraisablehook(found)  # type: ignore[arg-type]
    assert told == [other]


def test_checkpoints_of_other_steps_are_refused(tmp_path: Path, snapshots: list[trainer.Snapshot]) -> None:
    """Their numbers would stand for other positions: with two stages, some updates of the first would never be made."""
    keep(tmp_path, snapshots[1:3])
    for steps, reader in (([25], False), ([15, 5], False), ([25], True)):
        with pytest.raises(
            SparError, match=rf"{tmp_path}: is of a run of 20 updates, config.json now says {steps[0]}.*; put its steps back"
        ):
            Checkpoints(tmp_path, steps, reader)
    (tmp_path / "steps.json").unlink()  # as older versions left it
    with pytest.raises(SparError, match=r"is of a run of at least 10 updates, config.json now says 5; put its steps back"):
        Checkpoints(tmp_path, [5], reader=True)
    older = Checkpoints(tmp_path, STEPS)
    found = older.latest(snapshots[0])
    older.close()
    assert found is not None and found.position == snapshots[2].position


def test_steps_edited_before_going_on_are_said(plant_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    flags = ["--actor.hidden", "8", "--loop.log-every", "10", "--loop.batch-size", "16", "--eval.every", "0"]
    assert (
        cli.main(["train", str(plant_file), "--algo", "bc", "--out", str(out), "--steps-anchor", "20", "--steps-residual", "10", *flags])
        == 0
    )
    (out / "summary.json").unlink()
    whole = (out / "config.json").read_text()
    for steps in (15, 25):
        (out / "config.json").write_text(whole.replace('"steps_anchor": 20', f'"steps_anchor": {steps}'))
        capsys.readouterr()
        assert cli.main(["train", "--resume", str(out)]) == 1
        found = capsys.readouterr().err
        assert f"run of 30 updates, config.json now says {steps + 10}; put its steps back" in found and found.count("\n") == 1


def test_what_goes_on_from_the_end_takes_nothing_else(tmp_path: Path) -> None:
    """The state in the middle of training is another policy's; the resumed run has both it and its checkpoint as they were."""
    run = spar.train(LOG, "bc", tiny("bc"), out=tmp_path / "run", steps_anchor=20, steps_residual=20, seeds=[3],
                     loop=api.Settings(batch_size=16, log_every=20, checkpoint_seconds=0), eval=api.EvalConfig(every=0))  # fmt: skip
    folder, arrays = run.folder / "checkpoints", run.folder / "policy" / "arrays.safetensors"
    assert {path.name for path in folder.iterdir() if path.is_dir()} == {"20", "40"}
    whole, trained = last_state(run.folder, run.config, LOG.spec, [3]), load_file(arrays)
    halve(folder / "40")
    with pytest.raises(SparError, match=f"{folder / '40'}: .* cannot be read .*; train the run again"):
        last_state(run.folder, run.config, LOG.spec, [3])
    for name in ("summary.json", "policy/arrays.safetensors", "policy/policy.json"):
        (run.folder / name).unlink()
    (run.folder / "policy").rmdir()
    with pytest.warns(UserWarning, match="cannot be read"):
        spar.resume(run.folder, LOG)
    found = last_state(run.folder, run.config, LOG.spec, [3])
    jax.tree.map(np.testing.assert_array_equal, whole, found)
    for name, value in load_file(arrays).items():
        np.testing.assert_array_equal(value, trained[name])
    shutil.rmtree(folder / "40")
    with pytest.raises(SparError, match=f"{folder / '40'}: .* is not there; train the run again"):
        last_state(run.folder, run.config, LOG.spec, [3])
