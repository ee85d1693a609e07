"""Ordinary mistakes and accidents at the command line: one line that says what to do, and nothing lost."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

import spar
from spar import api, cli, files
from spar.data.sources import d4rl
from spar.evaluate import environments, rollout
from spar.evaluate.environments import EnvConfig
from spar.report.console import Display
from spar.runs import compare, experiment
from spar.runs.listener import Silent
from spar.studies import results
from spar.studies import run as studies
from spar.studies.catalogue import STUDIES
from spar.studies.run import Request
from spar.types import SparError, Spec
from tests.conftest import TINY_FLAGS, plant_log, plant_rows, tiny

SMALL = [*TINY_FLAGS, "--steps-anchor", "20", "--steps-residual", "10"]


@pytest.fixture
def plant_run(tmp_path: Path) -> tuple[Path, list[str]]:
    """A finished tiny run, and the command that made it."""
    data, out = tmp_path / "plant.hdf5", tmp_path / "run"
    d4rl.write(data, plant_rows(), {})
    argv = ["train", str(data), "--algo", "spar-mlp", "--out", str(out), *SMALL]
    assert cli.main(argv) == 0
    return out, argv


def line(capsys: pytest.CaptureFixture[str]) -> str:
    """What the last command complained of: a line."""
    found = capsys.readouterr().err
    assert found.startswith("spar: ") and found.count("\n") == 1, found
    return found


def test_a_run_goes_on_with_its_own_settings(plant_run: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    out, argv = plant_run
    (out / "report.html").unlink()  # as if cut off just before it
    assert cli.main([*argv, "--resume"]) == 0 and (out / "report.html").is_file()
    assert cli.main(["train", "--resume", str(out)]) == 0
    capsys.readouterr()
    assert cli.main([*argv, "--steps-anchor", "40", "--resume"]) == 1
    assert "began with steps_anchor 20, these flags say 40" in line(capsys)
    assert cli.main(["train", "hopper-replay", "--out", str(out), "--resume"]) == 1
    assert "began with dataset" in line(capsys)


def test_two_processes_do_not_train_in_one_folder(plant_run: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = plant_run
    (out / "summary.json").unlink()
    with files.held(out, "training"):
        assert cli.main(["train", "--resume", str(out)]) == 1
        assert "another process is training here" in line(capsys)
    assert cli.main(["train", "--resume", str(out)]) == 0


def test_other_code_than_before_is_said_and_kept(plant_run: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = plant_run
    (out / "summary.json").unlink()
    document = json.loads((out / "environment.json").read_text())
    files.write_json(
        out / "environment.json", {**document, "code": "0123", "commit": "4567", "versions": {**document["versions"], "jax": "0.0.1"}}
    )
    assert cli.main(["train", "--resume", str(out)]) == 0
    assert "goes on with another versions, code than before" in " ".join(capsys.readouterr().out.split())
    now = json.loads((out / "environment.json").read_text())
    assert now["code"] == "0123" and [one["code"] for one in now["continued"]] == [document["code"]]
    told = (out / "report.html").read_text()
    assert told.count("Trained on ") == 1 and told.count("Continued on ") == 1 and "jax 0.0.1" in told
    assert f"jax {document['versions']['jax']}" in told
    found = results.surroundings([out])
    assert found["commits"] == sorted(["4567", document["commit"] or "unknown"])
    compared = compare.summarise(out.parent, {}, "spar compare", [out.name], "equal")
    assert compared["commits"] == found["commits"] and compared["versions"] == found["versions"]
    assert found["versions"]["jax"] == f"0.0.1 / {document['versions']['jax']}" and found["versions"]["numpy"] == now["versions"]["numpy"]
    (out / "summary.json").unlink()
    assert cli.main(["train", "--resume", str(out)]) == 0
    assert "goes on with another" not in capsys.readouterr().out  # than it had when it went on last


def test_leftovers_of_killed_writers_are_swept(tmp_path: Path) -> None:
    mine, dead = tmp_path / f".a.json.tmp-{os.getpid()}-1", tmp_path / ".a.json.tmp-4194303-1"
    for path in (mine, dead):
        path.write_text("{")
    files.sweep(tmp_path)
    assert mine.exists() and not dead.exists()


def test_evaluations_are_not_written_over(tmp_path: Path) -> None:
    run = spar.train("hopper-replay", config=tiny("spar-mlp"), algo="spar-mlp", out=tmp_path / "run", steps_anchor=10, steps_residual=10,
                     episodes=1, loop=api.Settings(batch_size=16, log_every=10), eval=api.EvalConfig(every=0))  # fmt: skip
    for _ in range(2):
        run.evaluate(1)
    kept = run.folder / "evaluations"
    before = (kept / "0002.json").read_text()
    (kept / "0001.json").unlink()
    run.evaluate(1, seed=1)
    assert (kept / "0002.json").read_text() == before and (kept / "0003.json").is_file()
    with pytest.raises(SparError, match="episodes is 0"):
        run.evaluate(0)

    class Meanwhile(Silent):
        def stage(self, name: str, done: int, total: int) -> None:
            """Another process evaluates; then this one's disk is full."""
            run.evaluate(1)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match="No space left"):
        run.evaluate(1, listener=Meanwhile())
    assert {path.name for path in kept.iterdir()} == {"0002.json", "0003.json", "0005.json"}


def test_a_full_disk_is_one_line_with_the_file(
    plant_run: tuple[Path, list[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, _ = plant_run
    pictures = {path: path.read_bytes() for path in (out / "plots").iterdir()}

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fsync", full)
    assert cli.main(["report", str(out)]) == 1
    found = line(capsys)
    assert str(out / "plots") in found and "No space left on device; free some space and repeat the command" in found
    assert pictures == {path: path.read_bytes() for path in (out / "plots").iterdir()}, "nothing is half-written"


def test_mistakes_are_one_line(plant_run: tuple[Path, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, argv = plant_run
    tuned = tmp_path / "tuned"
    tuned.mkdir()
    (tuned / "config.json").write_text(json.dumps({"finetune": {"run": "runs/a"}}))
    (tuned / "summary.json").write_text("{}")
    older = tmp_path / "older"
    older.mkdir()
    (older / "config.json").write_text((out / "config.json").read_text().replace('"batch_size"', '"batch"'))
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text("{")
    report = tmp_path / "report.json"
    report.write_text("{}")
    data = argv[1]
    for command, message in (
        (["train", data, "--loop.log-every", "0"], "loop.log-every is 0"),
        (["train", data, "--eval.episodes", "0"], "eval.episodes is 0"),
        (["compare", data, "--log-every", "0"], "loop.log-every is 0"),
        (["train", data, "--algo", "onestep", "--needs.no-next-action"], "needs.next-action is off"),
        (["data", "check", "hopper-replay", "--policy", str(out)], "the policy's are (3, 2)"),
        (["data", "check", data, "--json", str(tmp_path / "nowhere" / "x.json")], "No such file"),
        (["data", "check", data, "--json", str(report)], "exists already"),
        (["report", str(tuned)], "holds a fine-tuning"),
        (["report", str(tmp_path / "typo")], "not a run directory"),
        (["report", str(older)], str(older / "config.json")),
        (["report", str(broken)], "not valid JSON"),
    ):
        assert cli.main(command) == 1, command
        assert message in line(capsys), command


def test_an_environment_that_is_not_installed_is_said_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = api.configure("pen-human-v1", "bc")
    log = plant_log()
    assert api.environment_for(cfg, log) is None  # its sizes are not this log's
    monkeypatch.setattr(environments, "_registered", lambda env_id: False)
    monkeypatch.setattr(environments.gymnasium, "registry", {})
    with pytest.raises(SparError, match="robotics"):
        api.environment_for(cfg, log)


def test_a_reward_that_is_no_number_stops_with_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(environments.gymnasium.Wrapper):
        def step(self, action: Any) -> Any:
            obs, _, *rest = self.env.step(action)
            return obs, np.nan, *rest

    made = EnvConfig.make
    monkeypatch.setattr(EnvConfig, "make", lambda self: Broken(made(self)))
    evaluator = rollout.Evaluator(EnvConfig("Hopper-v5"), Spec(11, 3))
    with pytest.raises(SparError, match=r"'Hopper-v5': reward nan in step 0 of episode 0 \(seed 7\)"):
        evaluator.run(lambda obs: (np.zeros((len(obs), 3)), np.zeros(len(obs), bool)), 2, 7)
    evaluator.close()


def test_a_study_does_not_replace_a_larger_result(tmp_path: Path) -> None:
    request = Request("quick", ("hopper-replay",), (0,), tmp_path / "runs", tmp_path)
    for budget, tasks, message in (("paper", ["hopper-replay"], "budget paper"), ("quick", ["hopper-replay", "pen-cloned"], "pen-cloned")):
        document = {"study": "table4", "budget": budget, "tasks": {name: {} for name in tasks}, "cells": [], "measured": {}, "command": ""}
        (tmp_path / "table4.json").write_text(json.dumps(document))
        with pytest.raises(SparError, match=message):
            studies.execute(STUDIES["table4"], request)
    assert not (tmp_path / "runs").exists()


def test_iql_decays_over_the_run_whatever_the_log_is_called() -> None:
    cfg = api.configure("my-plant.hdf5", "iql")
    assert cfg.config.decay_steps == cfg.steps_anchor + cfg.steps_residual


def test_what_an_algorithm_asks_of_the_data_can_be_set(tmp_path: Path) -> None:
    data = tmp_path / "plant.hdf5"
    d4rl.write(data, plant_rows(), {})
    flags = ["--algo", "iql", "--needs.no-standardise", "--needs.reward", "return-range", "--steps-anchor", "10", "--steps-residual", "10"]
    small = ["--loop.log-every", "10", "--loop.batch-size", "16", "--eval.every", "0", "--actor.hidden", "8", "--critic.hidden", "8"]
    assert cli.main(["train", str(data), "--out", str(tmp_path / "run"), *flags, *small]) == 0
    needs = experiment.read_config(tmp_path / "run").needs
    assert not needs.standardise and needs.reward == "return-range"


def test_training_begins_with_what_the_reader_had_to_decide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = dataclasses.replace(plant_log(), notes=("units: room [degC]", "'terminals' is read as a time limit"))
    monkeypatch.setattr(api, "finish", lambda *_: None)
    monkeypatch.setattr(api.comparison, "execute", lambda *_: iter([("bc", "stopped")]))
    console = Console(width=200)
    with console.capture() as said:
        api.train(log, "bc", out=tmp_path / "run", listener=Display(console))
        with pytest.raises(SparError, match="every algorithm failed; stopped"):
            api.compare(log, ["bc"], out=tmp_path / "compare", listener=Display(console))
    assert said.get().count("plant: units: room [degC]\n") == said.get().count("plant: 'terminals' is read as a time limit\n") == 2
