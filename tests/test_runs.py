"""What a user does: train, look, evaluate, go on after a kill. Real simulator, small networks."""

from __future__ import annotations

import csv
import html.parser
import json
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import spar
from spar import cli, presets
from spar.data.sources import d4rl
from spar.runs import environment, health
from tests.conftest import TINY_FLAGS, plant_log, plant_rows

SMALL = [*TINY_FLAGS, "--steps-anchor", "60", "--steps-residual", "40"]


def cvae_flags(flags: list[str]) -> list[str]:
    """The same small settings for a generative residual."""
    at = flags.index("--residual.hidden")
    return [*flags[:at], "--cvae.hidden", "16", "--cvae.latent-dim", "3", *flags[at + 2 :]]


@pytest.fixture(scope="module")
def hopper_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished tiny run on the embedded Hopper log, two seeds, through the command line."""
    out = tmp_path_factory.mktemp("runs") / "hopper"
    assert cli.main(["train", "--out", str(out), "--episodes", "3", "--seeds", "0", "42", *SMALL]) == 0
    return out


def test_a_run_directory_holds_what_it_should(hopper_run: Path) -> None:
    summary = json.loads((hopper_run / "summary.json").read_text())
    assert summary["dataset"]["name"] == "hopper-replay"
    assert summary["dataset"]["transitions"] >= 100_000 and summary["dataset"]["episodes"] > 100
    assert len(summary["dataset"]["fingerprint"]) == 16
    assert summary["algo"] == "spar-mlp" and summary["seeds"] == [0, 42] and summary["steps"] == {"anchor": 60, "residual": 40}
    assert {"anchor", "residual", "total"} <= set(summary["seconds"])
    assert len(summary["returns"]["behaviour"]) == pytest.approx(summary["dataset"]["episodes"], abs=1)
    for key in ("anchor", "ungated", "policy"):
        assert np.shape(summary["returns"][key]) == (2, 3)
        assert summary["intervals"][key]["low"] <= summary["intervals"][key]["mean"] <= summary["intervals"][key]["high"]
        expected = 100 * (np.mean(summary["returns"][key]) + 20.272305) / (3234.3 + 20.272305)
        assert summary["normalised"][key] == pytest.approx(expected)
    assert set(summary["normalised"]) == {"behaviour", "anchor", "ungated", "policy"}
    assert len(summary["gate"]["acceptance"]) == 2 and all(0 <= share <= 1 for share in summary["gate"]["acceptance"])
    assert 100 < summary["peak_memory_mib"] <= environment.peak_memory_mib() + 64  # the kernel counts a little late
    for name in (
        "config.json",
        "environment.json",
        "metrics.csv",
        "returns.csv",
        "report.html",
        "policy/policy.json",
        "policy/arrays.safetensors",
    ):
        assert (hopper_run / name).stat().st_size > 0
    assert {path.stem for path in (hopper_run / "plots").iterdir()} == {"losses", "acceptance", "returns", "training"}


def test_metrics_are_complete(hopper_run: Path) -> None:
    with (hopper_run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    steps = {(row["stage"], int(row["step"])) for row in rows}
    assert steps == {("anchor and critics", s) for s in (20, 40, 60)} | {("residual", s) for s in (20, 40)}
    names = {row["metric"] for row in rows}
    assert {
        "anchor_loss",
        "value_loss",
        "critic_loss",
        "q_disagreement",
        "fit_loss",
        "guide_loss",
        "skipped_steps",
        "heldout_acceptance",
    } <= names
    assert {row["seed"] for row in rows} == {"0", "42"}
    assert all(np.isfinite(float(row["value"])) for row in rows)


class Page(html.parser.HTMLParser):
    """Collects what a page would fetch and how its tags nest."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.fetched += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_self_contained_and_well_formed(hopper_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (hopper_run / "report.html").read_text()
    page = Page()
    page.feed(text)
    assert not page.open and len(page.fetched) == 4
    assert all(source.startswith("data:image/png;base64,") for source in page.fetched)
    assert "logged behaviour" in text and "SPAR ungated" in text and "gain" in text
    (hopper_run / "report.html").unlink()
    assert cli.main(["report", str(hopper_run)]) == 0
    assert (hopper_run / "report.html").read_text() == text


def test_evaluate_prints_and_keeps_a_new_measurement(hopper_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["evaluate", str(hopper_run), "--episodes", "2"]) == 0
    assert "logged behaviour" in capsys.readouterr().out
    kept = json.loads((hopper_run / "evaluations" / "0001.json").read_text())
    assert np.shape(kept["returns"]["policy"]) == (2, 2)
    spar.Run(hopper_run).evaluate(2)
    assert json.loads((hopper_run / "evaluations" / "0002.json").read_text()) == kept  # the same start states, the same policy


def test_the_summary_is_what_the_shipped_policy_does(hopper_run: Path) -> None:
    """Roll out the loaded bundle by hand from the same start states: the same returns."""
    import gymnasium

    from spar.runs.outcome import FINAL_SEED

    policy, env = spar.load_policy(hopper_run, seed=42), gymnasium.make("Hopper-v5")
    reported = spar.Run(hopper_run).summary["returns"]["policy"][1]
    for i, expected in enumerate(reported):
        obs, total, over = env.reset(seed=FINAL_SEED + i)[0], 0.0, False
        while not over:
            obs, reward, terminated, truncated, _ = env.step(policy.act(obs).action)
            total, over = total + float(reward), terminated or truncated
        assert total == pytest.approx(expected, rel=1e-3)


def test_nothing_is_written_over(hopper_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in hopper_run.rglob("*")}
    assert cli.main(["train", "--out", str(hopper_run), *SMALL]) == 1
    assert "exists already" in capsys.readouterr().err
    assert before == {path: path.stat().st_mtime_ns for path in hopper_run.rglob("*")}


def test_without_an_environment_it_says_what_can_be_known(plant_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert cli.main(["train", str(plant_file), "--algo", "spar-proj", "--out", str(out), *cvae_flags(SMALL)]) == 0
    printed = capsys.readouterr().out
    assert "No return was measured" in printed and "action error" in printed
    summary = json.loads((out / "summary.json").read_text())
    assert summary["returns"]["policy"] is None and summary["normalised"] is None and summary["intervals"] is None
    assert len(summary["returns"]["behaviour"]) > 5
    assert summary["offline"]["measured_on"] == "held-out episodes"
    assert set(summary["latent"]) == {"kl", "active_units", "collapsed_seeds"}
    assert "No return was measured" in (out / "report.html").read_text()
    assert cli.main(["evaluate", str(out)]) == 1
    assert "--env" in capsys.readouterr().err


def test_posterior_collapse_is_reported(plant_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    flags = [*cvae_flags(SMALL), "--cvae.kl-weight", "1000", "--cvae.learning-rate", "0.01", "--steps-residual", "200"]
    assert cli.main(["train", str(plant_file), "--algo", "spar-cvae", "--out", str(out), *flags]) == 0
    assert "Posterior collapse" in capsys.readouterr().out
    assert json.loads((out / "summary.json").read_text())["latent"]["collapsed_seeds"] == ["0"]
    assert "Posterior collapse" in (out / "report.html").read_text()


def test_critics_that_have_not_settled_are_reported() -> None:
    def rows(curve: dict[int, float], seed: int) -> list[tuple]:
        later = [(1, "residual", 50, seed, "q", 1e6)]  # no concern of Stage I's
        return [(0, "anchor and critics", step, seed, "q", value) for step, value in curve.items()] + later

    settled, rising = {20: 10.0, 80: 99.0, 100: 100.0}, {20: -100.0, 60: -50.0, 100: -40.0}
    found = health.critics(rows(settled, 0) + rows(rising, 7), 100)
    assert found == {"drift": {"0": pytest.approx(0.01), "7": pytest.approx(0.25)}, "moving_seeds": ["7"]}
    told = health.warnings({"latent": None, "critics": found, "skipped_steps": {"0": 0, "7": 3}})
    assert len(told) == 2 and "seed 7" in told[0] and "+25 %" in told[0] and "3 updates were skipped" in told[1]
    assert health.critics(rows({100: 1.0}, 0), 100) is None
    assert health.warnings({"latent": None, "critics": None, "skipped_steps": {"0": 0}}) == []


def test_the_python_door(tmp_path: Path) -> None:
    from spar.registry import get
    from tests.conftest import tiny

    run = spar.train(plant_log(), "spar-plas", tiny("spar-plas"), out=tmp_path / "run", steps_anchor=30, steps_residual=20, seeds=[5])
    decision = run.policy().act(plant_log().observations[:7])
    assert decision.action.shape == (7, 2)
    assert run.config.config == tiny("spar-plas") and get("spar-plas").name == run.summary["algo"]
    assert spar.resume(run.folder).summary == run.summary  # finished: nothing to do


def start(folder: Path, data: Path) -> subprocess.Popen[bytes]:
    flags = [
        *TINY_FLAGS,
        "--steps-anchor",
        "1200",
        "--steps-residual",
        "600",
        "--loop.checkpoint-seconds",
        "0",
        "--loop.log-every",
        "60",
        "--eval.every",
        "600",
    ]
    command = [sys.executable, "-m", "spar", "train", str(data), "--out", str(folder), *flags]
    if (folder / "config.json").exists():
        command += ["--resume"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def assert_whole(folder: Path) -> None:
    """Every file that has its final name is complete."""
    for path in folder.glob("*.json"):
        json.loads(path.read_text())
    for path in folder.glob("*.csv"):
        text = path.read_text()
        assert text.endswith("\n")
        assert len({line.count(",") for line in text.splitlines()}) == 1
    if (folder / "policy").exists():
        spar.load_policy(folder)


def test_killed_at_random_moments_and_resumed_it_is_the_same_run(tmp_path: Path, plant_file: Path) -> None:
    """kill -9 four times, then to the end: the parameters, tables and summary of a run that was never touched."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert start(whole, plant_file).wait() == 0
    rng, kills = random.Random(0), 0
    for _ in range(4):
        process = start(cut, plant_file)
        deadline = time.monotonic() + 60
        ready = cut / "checkpoints"
        while not (ready.exists() and any(ready.iterdir())) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(rng.uniform(0.0, 3.0))
        process.kill()  # SIGKILL; does nothing to a process that has ended
        process.communicate()
        kills += process.returncode == -signal.SIGKILL
        assert_whole(cut)
    assert kills >= 2
    process = start(cut, plant_file)
    output, _ = process.communicate()
    assert process.returncode == 0, output.decode()
    assert_whole(cut)
    assert 100 < json.loads((whole / "summary.json").read_text())["peak_memory_mib"] < 2048  # in a process of its own
    ours, theirs = (load_file(folder / "policy" / "arrays.safetensors") for folder in (whole, cut))
    assert ours.keys() == theirs.keys()
    for key in ours:
        np.testing.assert_array_equal(ours[key], theirs[key])
    for table in ("metrics.csv", "returns.csv"):
        assert (whole / table).read_text() == (cut / table).read_text()
    assert not [path for path in cut.rglob("*") if ".tmp" in path.name]


def test_resume_refuses_another_log(tmp_path: Path, plant_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert cli.main(["train", str(plant_file), "--out", str(out), *SMALL]) == 0
    (out / "summary.json").unlink()
    plant_file.unlink()
    d4rl.write(plant_file, plant_rows(seed=1), {})
    assert cli.main(["train", "--resume", str(out)]) == 1
    assert "fingerprint" in capsys.readouterr().err
    assert cli.main(["train", "--resume", str(tmp_path)]) == 1
    assert "not a run directory" in capsys.readouterr().err


def test_exactly_these_flags_and_every_other_setting_below_them(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["train", "--help"])
    flags = set(re.findall(r"(?<!\S)--[a-z][a-z.-]*", capsys.readouterr().out))
    plain = {flag for flag in flags if "." not in flag} - {"--help"}
    expected = {"--algo", "--env", "--episodes", "--seeds", "--steps-anchor", "--steps-residual", "--budget", "--out", "--resume"}
    assert plain == expected
    assert {"--critic.expectile", "--weighting.temperature", "--gate.eta-abs", "--data.reward-shift", "--loop.batch-size"} <= flags


def test_algos_prints_a_name_a_line_and_presets_all_tasks(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["algos"]) == 0
    spar_first = ["spar-mlp", "spar-cvae", "spar-plas", "spar-proj", "spar-flow"]
    competitors = ["bc", "bc10", "awac", "td3bc", "cql", "iql", "onestep", "bcq", "plas", "lapo", "spot"]
    *names, auto, end = capsys.readouterr().out.split("\n")
    assert names == [*spar_first, *competitors] and auto.startswith("auto: ") and end == ""
    assert cli.main(["presets"]) == 0
    printed = capsys.readouterr().out
    assert all(task in printed for task in presets.PRESETS)
    assert all(f"\n{algo} " in printed for algo in competitors)


def test_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2 and cli.main(["trian"]) == 2
    assert cli.main(["train", "--resume"]) == 1
    assert cli.main(["report", "nowhere"]) == 1
    assert "nowhere" in capsys.readouterr().err
