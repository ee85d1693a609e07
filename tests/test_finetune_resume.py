"""Fine-tuning that was cut off goes on as if it had not been."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from safetensors.numpy import load_file

from spar import cli
from spar.data.episodes import Log
from spar.data.sources import npz
from spar.evaluate.environments import EnvConfig
from spar.online import loop
from spar.runs import experiment, finetune
from tests.pendulum import SEEDS, STEPS, fingerprints, table, train, write_log


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_log(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def runs(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return train(data, tmp_path_factory.mktemp("runs"))


def cut_off(run: Path, out: Path, log: Log, blocks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fine-tuning of `tuned`, interrupted after so many blocks; every second block ends with a checkpoint."""
    whole, own = loop.Loop.run, experiment.read_config(run)

    def cut(learner: loop.Loop) -> Iterator[loop.Moment]:
        moments = whole(learner)
        yield from (next(moments) for _ in range(blocks))
        raise KeyboardInterrupt

    config = dataclasses.replace(own.config, online_steps=100) if own.algo == "spot" else own.config
    cfg = finetune.configure(run, STEPS, config=config, block=20, eval_every=60)
    with monkeypatch.context() as patch:
        patch.setattr(loop.Loop, "run", cut)
        with pytest.raises(KeyboardInterrupt):
            finetune.execute(cfg, out, log)


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints every 40 steps."""
    monkeypatch.setattr(finetune, "RECORD_EVERY", 40)


def test_what_was_learned_until_it_was_cut_off_is_kept(
    runs: dict[str, Path], tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_off(runs["spot"], tmp_path / "cut", npz.read(data), 1, monkeypatch)
    before, after = (load_file(folder / "policy" / "arrays.safetensors") for folder in (runs["spot"], tmp_path / "cut"))
    assert any(not np.array_equal(before[key], after[key]) for key in before)
    assert json.loads((tmp_path / "cut" / "policy" / "policy.json").read_text())["provenance"]["steps"]["online"] == 20


@pytest.mark.parametrize("algo", ["spot", "spar-mlp"])
@pytest.mark.parametrize("blocks", [1, 2, 3, 5])  # before the first checkpoint, at one, after the middle evaluation, after a second
def test_cut_off_and_gone_on_with_is_the_same_to_the_bit(
    runs: dict[str, Path], tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch, often: None, algo: str, blocks: int
) -> None:
    run, log, whole, cut = runs[algo], npz.read(data), tmp_path / "whole", tmp_path / "cut"
    cut_off(run, cut, log, blocks, monkeypatch)
    finetune.execute(finetune.read(cut), whole, log)
    if blocks == 5:  # killed between the rows and their checkpoint
        (cut / "lived" / "0000000080-0000000100.safetensors").write_bytes(b"half")
    assert cli.main(["finetune", "--resume", str(cut)]) == 0
    for name in ("policy/arrays.safetensors", "metrics.csv", "returns.csv", "curve.csv", "episodes.csv"):
        assert (whole / name).read_bytes() == (cut / name).read_bytes(), name
    one, other = (json.loads((folder / "summary.json").read_text()) for folder in (whole, cut))
    assert {**one, "seconds": 0, "peak_memory_mib": 0} == {**other, "seconds": 0, "peak_memory_mib": 0}
    assert {path.name for path in cut.iterdir()} == {path.name for path in whole.iterdir()} | {"plots"}
    before = fingerprints(cut / "policy")
    assert cli.main(["finetune", "--resume", str(cut)]) == 0 and fingerprints(cut / "policy") == before  # finished: left as it is


def test_an_environment_that_comes_out_otherwise_is_not_gone_on_with_unless_asked(
    runs: dict[str, Path], tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch, often: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is given no action after the observation that differs; nothing that was kept is lost."""
    cut, given = tmp_path / "cut", []
    cut_off(runs["spot"], cut, npz.read(data), 5, monkeypatch)
    kept = fingerprints(cut)

    class Other(gymnasium.Wrapper):
        def reset(self, **settings: Any) -> tuple[Any, dict[str, Any]]:
            return self.env.reset(seed=99)

        def step(self, action: Any) -> Any:
            given.append(action)
            return self.env.step(action)

    make = EnvConfig.make
    monkeypatch.setattr(EnvConfig, "make", lambda self: Other(make(self)))
    assert cli.main(["finetune", "--resume", str(cut)]) == 1
    assert "--new-episode" in capsys.readouterr().err and not given
    assert fingerprints(cut) == kept
    lived = [row for row in table(cut / "episodes.csv") if int(row["step"]) <= 80]
    assert cli.main(["finetune", "--resume", str(cut), "--new-episode"]) == 0
    found = table(cut / "episodes.csv")
    assert [row for row in found if int(row["step"]) <= 80] == lived and any(int(row["step"]) > 80 for row in found)
    assert json.loads((cut / "summary.json").read_text())["lived_episodes"] == {
        str(seed): sum(row["seed"] == str(seed) for row in found) for seed in SEEDS
    }
