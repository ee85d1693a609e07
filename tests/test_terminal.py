"""What the terminal shows: bars whose numbers survive a narrow window, names as they are, and no verdict where there is no spread."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from spar import cli
from spar.data.sources import d4rl
from spar.report import console
from spar.runs import compare, experiment
from tests.conftest import TINY_FLAGS, plant_rows


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_count_rate_and_eta_are_whole_in_every_window(width: int) -> None:
    """The note gives way."""
    text = io.StringIO()
    display = console.Display(Console(file=text, width=width, force_terminal=True, color_system=None))
    display.stage("anchor and critics", 0, 200_000)
    display.progress(120_000, "loss: anchor 0.681, critic 83.8, value 7.25")
    display.bars.console.print(display.bars)
    (line,) = [one for one in text.getvalue().splitlines() if "anchor and critics" in one]
    assert len(line.rstrip()) <= width
    for part in ("120000/200000", "/s", "ETA", *(["loss:"] if width >= 80 else [])):
        assert part in line, line
    assert "…" not in line.split("ETA")[0]


def test_a_path_in_brackets_is_printed_as_it_is() -> None:
    text = io.StringIO()
    console.Display(Console(file=text, width=40)).say("runs/o [v2]/run[/v1]: cut off, it goes on with a long command that is not broken")
    assert text.getvalue() == "  runs/o [v2]/run[/v1]: cut off, it goes on with a long command that is not broken\n"


def run_of(tmp_path: Path, algo: str, *flags: str) -> Path:
    data, out = tmp_path / "my log [v2].hdf5", tmp_path / f"{algo} [/v1]"
    if not data.exists():
        d4rl.write(data, plant_rows(), {})
    flags = (*(TINY_FLAGS if algo == "spar-mlp" else []), "--steps-anchor", "20", "--steps-residual", "10", *flags)
    assert cli.main(["train", str(data), "--algo", algo, "--out", str(out), *flags]) == 0
    return out


def test_names_in_brackets_train_and_show(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And a policy without an anchor is not said to have one."""
    out = run_of(tmp_path, "bc")
    said = capsys.readouterr().out
    assert "my log [v2]" in said and f"{out / 'report.html'}" in said and f"--resume '{out}'" in said
    assert "action error of the policy" in said and "anchor" not in said.split("No return was measured")[1]
    page = (out / "report.html").read_text()
    assert "learned by bc" in page and "the anchor&#39;s" not in page and "the anchor's" not in page
    assert cli.main(["report", str(out)]) == 0 and str(out) in capsys.readouterr().out


def test_a_run_is_not_resumed_under_other_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = run_of(tmp_path, "spar-mlp", "--loop.log-every", "5", "--eval.every", "5")
    for words, said in (
        (["--resume", str(out), "--out", str(tmp_path / "other")], "give one of them"),
        (["--resume", "nosuch", "--out", str(out)], "these flags say nosuch"),
        (["--resume", str(out), "walker2d"], "these flags say walker2d"),
        (["--resume", str(out), "--env", "Hopper-v5"], "began with env"),
        (["--resume", str(out), "--algo", "bc"], "began with algo spar-mlp, these flags say bc"),
        (["--resume", str(out), "--budget", "standard"], "began with seeds"),
    ):
        assert cli.main(["train", *words]) == 1, words
        assert said in capsys.readouterr().err, words
    for words in (["--loop.log-every", "5"], ["--out", str(out)], ["--steps-anchor", "20", "--algo", "spar-mlp"]):
        assert cli.main(["train", "--resume", str(out), *words]) == 0, words


def summary(returns: list[list[float]], gain: tuple[float, float, float] | None) -> dict[str, Any]:
    row = {"mean": 32.3, "low": 32.3, "high": 32.3}
    over = None if gain is None else {"policy_over_anchor": dict(zip(("mean", "low", "high"), gain, strict=True))}
    return {"algo": "bc", "seeds": [0] * len(returns), "returns": {"policy": returns}, "gain": over, "intervals": {"policy": row}}


def test_one_episode_gives_no_verdict() -> None:
    one, two = [[32.3]], [[32.3, 32.3]]
    sure = (32.3, 32.3, 32.3)
    assert console.verdict(summary(one, sure)).startswith("One episode cannot tell SPAR from its anchor: gain +32.3 there")
    assert console.verdict(summary(two, sure)).startswith("SPAR is better than its anchor")
    assert "in its one episode" in console.verdict(summary(one, None)) and "[" not in console.verdict(summary(one, None))
    assert console.interval(summary(one, None), {"low": 1.0, "high": 1.0}) == "-"


def test_a_run_that_diverges_leaves_its_losses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = tmp_path / "plant.hdf5", tmp_path / "run"
    d4rl.write(data, {**plant_rows(), "rewards": plant_rows()["rewards"] + 1e30}, {})
    flags = [*TINY_FLAGS, "--steps-anchor", "40", "--steps-residual", "10", "--loop.log-every", "5", "--eval.every", "5"]
    assert cli.main(["train", str(data), "--algo", "spar-mlp", "--out", str(out), *flags, "--loop.max-consecutive-errors", "2"]) == 1
    said = capsys.readouterr().err
    assert "were not finite" in said and "it has no checkpoint yet" in said
    assert (out / "metrics.csv").is_file()


def test_a_busy_run_is_no_failed_algorithm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The comparison that is there stays."""
    from spar import files

    data, out = tmp_path / "plant.hdf5", tmp_path / "compared"
    d4rl.write(data, plant_rows(), {})
    argv = ["compare", str(data), "--seeds", "0", "--out", str(out), "--steps-anchor", "20", "--steps-residual", "10", "--log-every", "10"]
    argv += ["--eval-every", "10"]
    assert cli.main([*argv, "--algos", "bc", "bc10"]) == 0
    before = json.loads((out / compare.NAME).read_text())
    (out / "bc10" / "summary.json").unlink()
    with files.held(out / "bc10", "training"):
        assert cli.main([*argv, "--algos", "bc", "bc10"]) == 1
    assert "another process is training here" in capsys.readouterr().err
    assert json.loads((out / compare.NAME).read_text()) == before
    assert experiment.asked(out / "bc10").algo == "bc10"
