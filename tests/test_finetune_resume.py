"""Fine-tuning that was cut off goes on as if it had not been."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from safetensors.numpy import load_file

from spar import cli, files
from spar.data.sources import npz
from spar.evaluate.environments import EnvConfig
from spar.online import loop
from spar.runs import experiment, finetune, finetune_plan
from spar.runs.lived import Lived
from tests.pendulum import SEEDS, STEPS, fingerprints, table, train, write_log


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_log(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def runs(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return train(data, tmp_path_factory.mktemp("runs"))


class Killed(BaseException):
    """As if by the system: nothing is kept on the way out that was not kept before."""


def cut_off(out: Path, blocks: int, how: type[BaseException], begin: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """What `begin` begins in `out` ends after so many blocks."""
    whole, write, export = loop.Loop.run, finetune._Record.write, finetune._Record.export

    def cut(learner: loop.Loop) -> Iterator[loop.Moment]:
        moments = whole(learner)
        yield from (next(moments) for _ in range(blocks))
        if how is Killed:
            patch.setattr(finetune._Record, "write", lambda record: None)
            patch.setattr(finetune._Record, "export", lambda record: None)
        raise how

    with monkeypatch.context() as patch:
        patch.setattr(loop.Loop, "run", cut)
        with pytest.raises((how, SystemExit)):
            begin()
    assert (write, export) == (finetune._Record.write, finetune._Record.export)


def plan(run: Path) -> finetune_plan.Config:
    """Six blocks, three evaluations."""
    own = experiment.read_config(run)
    config = dataclasses.replace(own.config, online_steps=100) if own.algo == "spot" else own.config
    return finetune_plan.configure(run, STEPS, config=config, block=20, eval_every=60)


@pytest.fixture(autouse=True)
def rows_that_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two blocks make a row of metrics.csv; a checkpoint follows every block, so some are written while a block waits for its row."""
    monkeypatch.setattr(finetune, "RECORD_EVERY", 40)


def same_outcome(one: Path, other: Path) -> None:
    for name in ("policy/arrays.safetensors", "metrics.csv", "returns.csv", "curve.csv", "episodes.csv"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    summaries = [{**json.loads((folder / "summary.json").read_text()), "seconds": 0, "peak_memory_mib": 0} for folder in (one, other)]
    assert summaries[0] == summaries[1]


def test_what_was_learned_until_it_was_interrupted_is_kept(
    runs: dict[str, Path], tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut, log = tmp_path / "cut", npz.read(data)
    cut_off(cut, 1, KeyboardInterrupt, lambda: finetune.execute(plan(runs["spot"]), cut, log), monkeypatch)
    before, after = (load_file(folder / "policy" / "arrays.safetensors") for folder in (runs["spot"], cut))
    assert any(not np.array_equal(before[key], after[key]) for key in before)
    assert json.loads((cut / "policy" / "policy.json").read_text())["provenance"]["steps"]["online"] == 20


@pytest.mark.parametrize("algo", ["spot", "spar-mlp"])
@pytest.mark.parametrize(("blocks", "how"), [(0, Killed), (1, KeyboardInterrupt), (3, Killed), (5, KeyboardInterrupt), (5, Killed)])
def test_cut_off_and_gone_on_with_is_the_same_to_the_bit(
    runs: dict[str, Path],
    tmp_path: Path,
    data: Path,
    monkeypatch: pytest.MonkeyPatch,
    algo: str,
    blocks: int,
    how: type[BaseException],
) -> None:
    log, whole, cut = npz.read(data), tmp_path / "whole", tmp_path / "cut"
    finetune.execute(plan(runs[algo]), whole, log)
    keep = Lived.keep
    if how is Killed:  # the last checkpoint lies a block back, and rows after it were written but for their end
        monkeypatch.setattr(Lived, "keep", lambda kept, learner, pending: None if learner.done == 100 else keep(kept, learner, pending))
    cut_off(cut, blocks, how, lambda: finetune.execute(plan(runs[algo]), cut, log), monkeypatch)
    if how is Killed and blocks:
        (cut / "lived" / f"{80 if blocks == 5 else 60:010d}-{100:010d}.safetensors").write_bytes(b"half")
    monkeypatch.setattr(Lived, "keep", keep)
    assert cli.main(["finetune", "--resume", str(cut)]) == 0
    same_outcome(whole, cut)
    assert {path.name for path in cut.iterdir()} == {path.name for path in whole.iterdir()} | {"plots"}
    before = fingerprints(cut)
    (cut / "checkpoints").mkdir()  # killed just before they were deleted
    assert cli.main(["finetune", "--resume", str(cut)]) == 0
    assert fingerprints(cut) == before  # a finished one is left as it is
    assert json.loads((cut / "summary.json").read_text())["new_episodes"] == []


class Other(gymnasium.Wrapper):
    """Another environment of the same sizes: it begins elsewhere, or rewards otherwise."""

    def __init__(self, env: gymnasium.Env, what: str, given: list[Any]) -> None:
        super().__init__(env)
        self.what, self.given = what, given

    def reset(self, **settings: Any) -> tuple[Any, dict[str, Any]]:
        return self.env.reset(seed=99) if self.what == "reset" else self.env.reset(**settings)

    def step(self, action: Any) -> Any:
        self.given.append(action)
        obs, reward, *rest = self.env.step(action)
        return obs, reward * (2 if self.what == "reward" else 1), *rest


@pytest.mark.parametrize(("what", "given"), [("reset", 0), ("reward", 1)])  # actions sent before it is noticed
def test_an_environment_that_comes_out_otherwise_is_not_gone_on_with_unless_asked(
    runs: dict[str, Path],
    tmp_path: Path,
    data: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    what: str,
    given: int,
) -> None:
    """Nothing that was kept is lost."""
    cut, log, sent = tmp_path / "cut", npz.read(data), list[Any]()
    cut_off(cut, 5, KeyboardInterrupt, lambda: finetune.execute(plan(runs["spot"]), cut, log), monkeypatch)
    kept, lived, make = fingerprints(cut), table(cut / "episodes.csv"), EnvConfig.make
    monkeypatch.setattr(EnvConfig, "make", lambda self: Other(make(self), what, sent))
    assert cli.main(["finetune", "--resume", str(cut)]) == 1
    assert "--new-episode" in capsys.readouterr().err and len(sent) == given
    assert fingerprints(cut) == kept
    assert cli.main(["finetune", "--resume", str(cut), "--new-episode"]) == 0
    found, summary = table(cut / "episodes.csv"), json.loads((cut / "summary.json").read_text())
    assert [row for row in found if int(row["step"]) <= 100] == lived and any(int(row["step"]) > 100 for row in found)
    assert summary["new_episodes"] == [100]
    assert summary["lived_episodes"] == {str(seed): sum(row["seed"] == str(seed) for row in found) for seed in SEEDS}


def test_after_a_new_episode_it_is_led_from_there(
    runs: dict[str, Path], tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, once, twice, third = npz.read(data), tmp_path / "once", tmp_path / "twice", tmp_path / "third"
    cut_off(once, 2, KeyboardInterrupt, lambda: finetune.execute(plan(runs["spot"]), once, log), monkeypatch)
    for copy in (twice, third):
        shutil.copytree(once, copy)
    finetune.resume(once, log, new_episode=True)
    cut_off(twice, 2, KeyboardInterrupt, lambda: finetune.resume(twice, log, new_episode=True), monkeypatch)
    finetune.resume(twice, log)
    same_outcome(once, twice)
    cut_off(third, 0, KeyboardInterrupt, lambda: finetune.resume(third, log, new_episode=True), monkeypatch)
    finetune.resume(third, log, new_episode=True)  # from the same step again: other random numbers
    assert json.loads((third / "summary.json").read_text())["new_episodes"] == [40, 40]
    assert (third / "episodes.csv").read_bytes() != (once / "episodes.csv").read_bytes()


def test_what_cannot_be_gone_on_with_is_one_line(
    runs: dict[str, Path], tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, cut, log = tmp_path / "run", tmp_path / "cut", npz.read(data)
    shutil.copytree(runs["spot"], run)
    cut_off(cut, 3, KeyboardInterrupt, lambda: finetune.execute(plan(run), cut, log), monkeypatch)
    kept = fingerprints(cut)

    def refused(said: str) -> None:
        assert cli.main(["finetune", "--resume", str(cut)]) == 1
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1, error
        assert fingerprints(cut) == kept

    with files.held(cut, "fine-tuning"), monkeypatch.context() as patch:
        patch.setattr(EnvConfig, "make", lambda self: pytest.fail("an environment was touched"))
        refused("another process is fine-tuning here")
    part = next((cut / "lived").iterdir())
    content = part.read_bytes()
    for damaged, said in ((content[: len(content) // 2], "cannot be read"), (None, "the checkpoint is at 60")):
        part.write_bytes(damaged) if damaged else part.unlink()
        kept = fingerprints(cut)
        refused(said)
    part.write_bytes(content)
    kept = fingerprints(cut)
    config = run / "config.json"
    text = config.read_text()
    config.write_text(text.replace('"batch_size": 32', '"batch_size": 16'))
    refused("began from another run")
    config.write_text(text)
    arrays = run / "policy" / "arrays.safetensors"
    arrays.write_bytes(arrays.read_bytes()[:-1] + b"x")
    refused("began from another run")
    shutil.rmtree(run)
    refused("is not here")
