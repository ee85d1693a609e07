"""`--algo auto`: the log's residuals decide, and the outcome is that of the chosen algorithm asked for by name, also after kill -9."""

from __future__ import annotations

import dataclasses
import io
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from safetensors.numpy import load_file

from spar import api, cli, presets, registry
from spar.data.episodes import Log
from spar.data.rows import from_rows
from spar.data.sources import npz
from spar.report import compare as comparison
from spar.report import console, page
from spar.runs import auto, compare, diagnose, experiment
from spar.runs.config import AUTO, CHOICES, AutoConfig, RunConfig, run_config_from_dict, to_dict
from spar.runs.listener import Listener
from spar.types import SparError
from tests import test_compare
from tests.conftest import TINY_FLAGS, tiny
from tests.test_compare import Recorder


def planted(modes: int, rows: int = 600) -> Log:
    """Actions around 0: one normal cloud, or two small ones apart; no anchor can tell from the observations which it will be."""
    rng = np.random.default_rng(0)
    obs, noise = rng.normal(size=(rows, 3)), rng.normal(size=(rows, 2))
    action = 0.2 * noise if modes == 1 else 0.05 * noise + np.array([0.6, 0.3]) * rng.choice([-1.0, 1.0], size=(rows, 1))
    ended = np.arange(rows) % 30 == 29
    return from_rows("planted", obs, action, -np.abs(obs[:, 0] - action[:, 0]), np.zeros(rows, bool), ended)


LOGS = {"spar-mlp": planted(1), "spar-proj": planted(2)}


def config(algo: str, **changes: Any) -> RunConfig:
    """As in the tests of comparisons; of both choices for `auto`."""
    if algo != AUTO:
        return test_compare.config(algo, **changes)
    return dataclasses.replace(test_compare.config(CHOICES[0]), algo=AUTO, config=auto.union(tiny), **changes)


def execute(folder: Path, cfg: RunConfig, log: Log, listener: Listener | None = None) -> Path:
    """Begin the run, or go on with it."""
    if not folder.exists():
        experiment.create(folder, cfg, log)
    experiment.execute(folder, log, listener)
    return folder


def assert_same(one: Path, two: Path) -> None:
    """Policy and tables to the bit, and all that the summary says except times and how the algorithm was found."""
    ours, theirs = (load_file(folder / "policy" / "arrays.safetensors") for folder in (one, two))
    assert ours.keys() == theirs.keys()
    for key in ours:
        np.testing.assert_array_equal(ours[key], theirs[key])
    for name in ("policy/policy.json", "metrics.csv", "returns.csv"):
        assert (one / name).read_text() == (two / name).read_text()
    differing = ("seconds", "peak_memory_mib", "choice")
    measured = [{k: v for k, v in experiment.read_summary(folder).items() if k not in differing} for folder in (one, two)]
    assert measured[0] == measured[1]
    assert experiment.read_config(one) == experiment.read_config(two)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """By the algorithm that the planted log asks for: the run of `auto`, and that of the algorithm by its name."""
    folder = tmp_path_factory.mktemp("runs")
    return {
        algo: (execute(folder / f"auto-{algo}", config(AUTO), log), execute(folder / algo, config(algo), log)) for algo, log in LOGS.items()
    }


@pytest.mark.parametrize("algo", LOGS)
def test_the_planted_shape_is_found_and_the_outcome_is_that_of_the_algorithm_by_name(runs: dict[str, tuple[Path, Path]], algo: str) -> None:
    chosen, direct = runs[algo]
    assert_same(chosen, direct)
    summary, choice = experiment.read_summary(chosen), json.loads((chosen / "choice.json").read_text())
    assert summary["choice"] == choice and experiment.read_summary(direct)["choice"] is None
    assert (choice["asked"], choice["chosen"], summary["algo"]) == (AUTO, algo, algo)
    assert set(choice["seeds"]) == {"3", "8"}
    assert choice["reasons"] == [*choice["seeds"]["3"]["reasons"], "these are numbers of seed 3, and 8 asked for the same"]
    clusters = [len(found["clusters"]) for found in choice["seeds"].values()]
    assert clusters == [2, 2] if algo == "spar-proj" else max(clusters) <= 1
    assert experiment.asked(chosen).algo == AUTO and isinstance(experiment.asked(chosen).config, AutoConfig)
    assert len(list((chosen / auto.SHARED).iterdir())) == 1 and not (chosen / auto.STAGE_ONE).exists()
    assert summary["seconds"]["anchor"] > 0 and summary["seconds"]["choice"] > 0 and "shared" not in summary["seconds"]


def test_report_and_terminal_say_what_was_chosen_and_why(runs: dict[str, tuple[Path, Path]]) -> None:
    chosen, direct = runs["spar-proj"]
    choice = auto.read(chosen)
    assert choice is not None
    said = auto.sentence(choice)
    assert said.startswith("auto chose spar-proj: 2 dense clusters")
    assert said in page.write(chosen).read_text() and "auto chose" not in page.write(direct).read_text()
    for folder, expected in ((chosen, True), (direct, False)):
        terminal = io.StringIO()
        console.show(Console(width=10_000, file=terminal), experiment.read_summary(folder))
        assert (said in terminal.getvalue()) == expected


def test_a_diagnosis_of_the_run_finds_the_same_geometry(runs: dict[str, tuple[Path, Path]]) -> None:
    chosen, _ = runs["spar-mlp"]
    choice = experiment.read_summary(chosen)["choice"]
    document = diagnose.execute(chosen, LOGS["spar-mlp"], diagnose.Settings(episodes=0))
    assert document["recommended"] == choice["chosen"] and document["algo"] == "spar-mlp"
    found = json.loads(json.dumps({seed: parts["geometry"] for seed, parts in document["seeds"].items()}))
    assert found == choice["seeds"]


class Told(Recorder):
    """Remembers what is said, and can stop the process at a word of it, or in the second dispatch of a stage: the first is then saved."""

    def __init__(self, stop_in: str = "never", stop_at: str = "never") -> None:
        super().__init__(stop_in)
        self.said: list[str] = []
        self.stop_at = stop_at

    def progress(self, done: int, note: str) -> None:
        if done > 10:
            super().progress(done, note)

    def say(self, text: str) -> None:
        self.said.append(text)
        if self.stop_at in text:
            raise KeyboardInterrupt


def test_cut_in_any_part_it_goes_on(runs: dict[str, tuple[Path, Path]], tmp_path: Path) -> None:
    """In Stage I, after it in Stage II, and right after the choice; what is done is not done again."""
    cut, cfg, log = tmp_path / "cut", config(AUTO), LOGS["spar-proj"]
    with pytest.raises(KeyboardInterrupt):
        execute(cut, cfg, log, Told(stop_in="anchor and critics"))
    assert list((cut / auto.STAGE_ONE).iterdir()) and not (cut / auto.DOCUMENT).exists()
    with pytest.raises(SparError, match=r"cut: no choice.json; auto chooses after Stage I, .*--resume"):
        experiment.read_config(cut)
    with pytest.raises(SparError, match="has not finished"):
        page.write(cut)
    with pytest.raises(KeyboardInterrupt):
        execute(cut, cfg, log, Told(stop_at="auto chose"))
    assert (cut / auto.DOCUMENT).is_file() and not (cut / "checkpoints").exists()
    told = Told(stop_in="residual")
    with pytest.raises(KeyboardInterrupt):
        execute(cut, cfg, log, told)
    assert told.stages == ["residual"] and not (cut / auto.STAGE_ONE).exists()
    again = Told()
    api.resume(cut, log, again)
    assert again.stages == ["residual"] and not any("chose" in text for text in again.said)
    assert_same(cut, runs["spar-proj"][1])
    assert "auto chose spar-proj" in (cut / "report.html").read_text()


def test_without_what_stage_one_left_it_is_trained_again(runs: dict[str, tuple[Path, Path]], tmp_path: Path) -> None:
    """The place was made by other versions, or somebody tidied up; the choice stays."""
    cut, cfg, log = tmp_path / "cut", config(AUTO), LOGS["spar-mlp"]
    with pytest.raises(KeyboardInterrupt):
        execute(cut, cfg, log, Told(stop_at="auto chose"))
    for path in sorted((cut / auto.SHARED).rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    told = Told()
    execute(cut, cfg, log, told)
    assert told.stages == ["anchor and critics", "residual"]
    assert_same(cut, runs["spar-mlp"][1])


def test_a_comparison_shares_stage_one_with_auto(runs: dict[str, tuple[Path, Path]], tmp_path: Path) -> None:
    log, listener = LOGS["spar-mlp"], Recorder()
    cfgs = [config(algo) for algo in ("spar-proj", AUTO, "spar-mlp")]
    assert list(compare.execute(tmp_path, cfgs, log, listener)) == [("spar-proj", ""), ("auto", ""), ("spar-mlp", "")]
    assert listener.stages == [
        "1/3 spar-proj: anchor and critics",
        "1/3 spar-proj: residual",
        "2/3 auto: residual",
        "3/3 spar-mlp: residual",
    ]
    assert len(list((tmp_path / compare.CACHE).iterdir())) == 1 and not (tmp_path / AUTO / auto.SHARED).exists()
    assert_same(tmp_path / AUTO, tmp_path / "spar-mlp")
    assert_same(tmp_path / AUTO, runs["spar-mlp"][1])
    seconds = experiment.read_summary(tmp_path / AUTO)["seconds"]
    assert seconds["anchor"] == 0 and seconds["shared"] == experiment.read_summary(tmp_path / "spar-proj")["seconds"]["anchor"]

    names = [cfg.algo for cfg in cfgs]
    document = compare.summarise(tmp_path, {}, "spar compare", names, "equal")
    comparison.write(tmp_path)
    assert [row["label"] for row in document["rows"]] == names and "| auto |" in (tmp_path / "comparison.md").read_text()
    again = Recorder()
    list(compare.execute(tmp_path, cfgs, log, again))
    assert again.stages == []
    cvae = dataclasses.replace(cfgs[1].config, cvae=dataclasses.replace(cfgs[1].config.cvae, latent_dim=5))
    with pytest.raises(SparError, match=r"auto: began with config.cvae.latent_dim 3, now it is 5"):
        list(compare.execute(tmp_path, [dataclasses.replace(cfgs[1], config=cvae)], log))


@pytest.mark.parametrize("dataset", [*presets.PRESETS, "somebody-s.csv"])
@pytest.mark.parametrize("budget", ["quick", "paper"])
def test_the_settings_are_those_of_both_choices(dataset: str, budget: str) -> None:
    cfg = api.configure(dataset, AUTO, budget=budget, seeds=[2])
    assert run_config_from_dict(json.loads(json.dumps(to_dict(cfg)))) == cfg
    for algo in CHOICES:
        assert auto.resolve(cfg, algo) == api.configure(dataset, algo, budget=budget, seeds=[2])


def test_what_is_chosen_from_shares_its_first_stage() -> None:
    first, *others = (registry.get(algo) for algo in CHOICES)
    for other in others:
        assert first.stages[0] is other.stages[0] and first.shares == other.shares and first.data == other.data


def test_seeds_that_differ_get_the_robust_default() -> None:
    found = {
        "0": {"recommended": "spar-mlp", "reasons": ["one dense cluster", "a short tail"]},
        "7": {"recommended": "spar-proj", "reasons": ["sparse"]},
    }
    choice = auto.conclude(found)
    assert choice["chosen"] == "spar-proj" and choice["seeds"] == found
    assert auto.sentence(choice) == (
        "auto chose spar-proj: seed 0 asks for spar-mlp: one dense cluster, a short tail; seed 7 asks for spar-proj: sparse; "
        "the seeds differ, and spar-proj represents both shapes"
    )
    alone = auto.conclude({"0": found["0"]})
    assert (alone["chosen"], alone["reasons"]) == ("spar-mlp", ["one dense cluster", "a short tail"])
    assert auto.agree(["spar-mlp", "spar-mlp"]) == "spar-mlp"


def test_a_choice_that_there_is_not_is_one_line(tmp_path: Path) -> None:
    assert auto.read(tmp_path) is None
    (tmp_path / auto.DOCUMENT).write_text('{"chosen": "spar-cvae"}')
    with pytest.raises(SparError, match=r"choice.json: 'chosen' is spar-cvae; there are: spar-mlp, spar-proj; delete"):
        auto.read(tmp_path)


# The command line, killed

GENERATIVE = ["--cvae.hidden", "16", "--cvae.latent-dim", "3", "--imitation.candidates", "4", "--imitation.period", "2"]
WITHOUT_MLP = [*TINY_FLAGS[: TINY_FLAGS.index("--residual.hidden")], *TINY_FLAGS[TINY_FLAGS.index("--residual.hidden") + 2 :]]
COUNTS = [
    "--steps-anchor",
    "200",
    "--steps-residual",
    "400",
    "--loop.checkpoint-seconds",
    "0",
    "--loop.log-every",
    "40",
    "--eval.every",
    "40",
]


def start(folder: Path, data: Path) -> subprocess.Popen[str]:
    flags = ["--resume", str(folder)]
    if not (folder / "config.json").exists():
        flags = [str(data), "--algo", AUTO, "--out", str(folder), *TINY_FLAGS, *GENERATIVE, *COUNTS]
    return subprocess.Popen([sys.executable, "-m", "spar", "train", *flags], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def killed_when(process: subprocess.Popen[str], moment: Callable[[], bool]) -> None:
    """SIGKILL as soon as `moment` has come."""
    deadline = time.monotonic() + 120
    while not moment() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    process.kill()
    output, _ = process.communicate()
    assert process.returncode == -signal.SIGKILL, output


def test_killed_around_the_choice_it_is_the_run_of_the_chosen_algorithm(tmp_path: Path) -> None:
    """kill -9 between Stage I and the choice, and in Stage II."""
    data, cut, whole = tmp_path / "planted.npz", tmp_path / "cut", tmp_path / "whole"
    npz.write_log(data, LOGS["spar-proj"])
    killed_when(start(cut, data), lambda: (cut / auto.SHARED).is_dir() and any(len(p.name) == 16 for p in (cut / auto.SHARED).iterdir()))
    assert not (cut / auto.DOCUMENT).exists()
    killed_when(start(cut, data), lambda: any(int(p.name) > 200 for p in (cut / "checkpoints").glob("*") if p.name.isdigit()))
    assert (cut / auto.DOCUMENT).is_file() and not (cut / "summary.json").exists()
    process = start(cut, data)
    output, _ = process.communicate()
    assert process.returncode == 0 and "auto chose spar-proj: 2 dense clusters" in " ".join(output.split()), output
    assert cli.main(["train", str(data), "--algo", "spar-proj", "--out", str(whole), *WITHOUT_MLP, *GENERATIVE, *COUNTS]) == 0
    assert_same(cut, whole)
    assert not [path for path in cut.rglob("*") if ".tmp" in path.name]


def test_the_command_line_offers_auto_and_the_settings_of_both(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["train", "--algo", AUTO, "--help"])
    printed = capsys.readouterr().out
    assert all(flag in printed for flag in ("--residual.hidden", "--cvae.latent-dim", "--imitation.reading", "--anchor.kind"))
    assert "auto: trains Stage I" in " ".join(printed.split())
    assert cli.main(["algos"]) == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith(AUTO))
    assert line.startswith("auto: trains Stage I") and all(algo in line for algo in CHOICES)
