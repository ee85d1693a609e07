"""Comparisons: what algorithms share changes nothing, what was cut goes on, and the table says what the runs say."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors.numpy import load_file
from scipy import stats as scipy_stats

from spar import api, cli, registry, trainer
from spar.data.sources import d4rl
from spar.evaluate import stats
from spar.report import compare as report
from spar.runs import cache, compare, environment, experiment
from spar.runs.cache import Cache, code
from spar.runs.config import DataConfig, EvalConfig, RunConfig
from spar.runs.listener import Listener, Silent
from spar.types import SparError
from tests.conftest import plant_log, plant_rows, tiny

LOG = plant_log()
TABLES = arrays.arrays(np.float64, st.tuples(st.integers(1, 4), st.integers(1, 9)), elements=st.integers(-5, 5).map(float))


def config(algo: str, **changes: Any) -> RunConfig:
    """20 + 12 updates on the plant, evaluated offline every 10; two seeds."""
    cfg = RunConfig(
        dataset="plant",
        algo=algo,
        env=None,
        episodes=2,
        seeds=(3, 8),
        steps_anchor=20,
        steps_residual=12,
        config=tiny(algo),
        loop=trainer.Settings(batch_size=16, log_every=10, checkpoint_seconds=0.0),
        needs=registry.get(algo).data,
        data=DataConfig(holdout=0.1),
        eval=EvalConfig(every=10),
    )
    return dataclasses.replace(cfg, **changes)


class Recorder(Silent):
    """Remembers the stages that were trained, and can stop the process at one of them."""

    def __init__(self, stop_in: str = "never") -> None:
        self.stages: list[str] = []
        self.stop_in = stop_in

    def stage(self, name: str, done: int, total: int) -> None:
        self.stages.append(name)

    def progress(self, done: int, note: str) -> None:
        if self.stages[-1].endswith(self.stop_in):
            raise KeyboardInterrupt


def same_run(one: Path, two: Path) -> None:
    """Policy and tables to the bit, and all that the summary says except times."""
    ours, theirs = (load_file(folder / "policy" / "arrays.safetensors") for folder in (one, two))
    assert ours.keys() == theirs.keys()
    for key in ours:
        np.testing.assert_array_equal(ours[key], theirs[key])
    for table in ("metrics.csv", "returns.csv"):
        assert (one / table).read_text() == (two / table).read_text()
    measured = [{k: v for k, v in experiment.read_summary(f).items() if k not in ("seconds", "peak_memory_mib")} for f in (one, two)]
    assert measured[0] == measured[1]


def run(folder: Path, cfgs: list[RunConfig], listener: Listener | None = None) -> list[tuple[str, str]]:
    return list(compare.execute(folder, cfgs, LOG, listener))


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """spar-mlp trained by itself."""
    folder = tmp_path_factory.mktemp("alone") / "spar-mlp"
    experiment.create(folder, config("spar-mlp"), LOG)
    experiment.execute(folder, LOG)
    return folder


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """spar-proj, spar-mlp and bc: cut in spar-mlp's second stage, then continued. The folder, and the stages of the second process."""
    folder = tmp_path_factory.mktemp("compared")
    cfgs = [config(algo) for algo in ("spar-proj", "spar-mlp", "bc")]
    with pytest.raises(KeyboardInterrupt):
        run(folder, cfgs, Recorder(stop_in="spar-mlp: residual"))
    after = Recorder()
    assert run(folder, cfgs, after) == [("spar-proj", ""), ("spar-mlp", ""), ("bc", "")]
    return folder, after.stages


@pytest.mark.skipif(not Path("/proc/self/maps").is_file(), reason="the kernel shows no memory maps here")
def test_finished_runs_leave_no_compiled_programs(tmp_path: Path) -> None:
    """Each program has several memory maps, of which Linux grants a process 65,530: without room, XLA dies. A long study comes there."""

    def maps() -> int:
        return len(Path("/proc/self/maps").read_text().splitlines())

    run(tmp_path, [config("bc")])
    before = maps()
    run(tmp_path, [config(algo) for algo in ("td3bc", "iql")])
    assert maps() < before + 100


def test_a_shared_first_stage_changes_nothing(alone: Path, compared: tuple[Path, list[str]]) -> None:
    folder, _ = compared
    same_run(alone, folder / "spar-mlp")
    assert len(list((folder / "shared").iterdir())) == 1
    seconds = {algo: experiment.read_summary(folder / algo)["seconds"] for algo in ("spar-proj", "spar-mlp", "bc")}
    assert seconds["spar-mlp"]["shared"] == seconds["spar-proj"]["anchor"] and seconds["spar-mlp"]["anchor"] == 0
    assert "shared" not in seconds["spar-proj"] and "shared" not in seconds["bc"]


def test_versions_that_differ_are_all_named() -> None:
    one = {"versions": {"jax": "1", "numpy": "2"}, "machine": {"cores": 2, "devices": ["cpu"]}}
    other = {"versions": {"jax": "1", "numpy": "3"}, "machine": {"cores": 16, "devices": ["gpu"]}}
    found = environment.combined([one, other, one])
    assert found == {"versions": {"jax": "1", "numpy": "2 / 3"}, "machine": {"cores": "2 / 16", "devices": "['cpu'] / ['gpu']"}}
    assert environment.combined([one, one]) == one and environment.combined([]) == {"versions": None, "machine": None}


def test_what_was_cut_goes_on_and_what_was_finished_stays(compared: tuple[Path, list[str]]) -> None:
    folder, stages = compared
    assert stages == ["2/3 spar-mlp: residual", "3/3 bc: policy"]
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    cfgs = [config(algo) for algo in ("spar-proj", "spar-mlp", "bc")]
    again = Recorder()
    run(folder, cfgs, again)
    assert again.stages == []
    with pytest.raises(SparError, match=r"spar-proj: began with loop.batch_size 16, now it is 8; .*--out"):
        run(folder, [dataclasses.replace(cfg, loop=dataclasses.replace(cfg.loop, batch_size=8)) for cfg in cfgs])
    with pytest.raises(SparError, match="spar-proj: began with dataset"):
        list(compare.execute(folder, cfgs, plant_log(seed=1)))
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_what_is_shared_begins_alike() -> None:
    """All that the place of a first stage does not say: its update, the parts' beginning, and no statistics of the log."""
    sharing = [algo for algo in registry.ALGOS.values() if algo.shares]
    assert {algo.name for algo in sharing} == {"spar-mlp", "spar-cvae", "spar-plas", "spar-proj", "spar-flow"}
    assert all(algo.inform is None and algo.stages[0] is sharing[0].stages[0] and algo.shares == sharing[0].shares for algo in sharing)
    one, two = (trainer.start(registry.get(name), tiny(name), LOG.spec, (3, 8)).state for name in ("spar-mlp", "spar-plas"))
    for field, _ in sharing[0].shares:
        for x, y in zip(jax.tree.leaves(getattr(one, field)), jax.tree.leaves(getattr(two, field)), strict=True):
            np.testing.assert_array_equal(x, y)


def test_the_place_depends_on_all_that_decides_and_on_nothing_else(tmp_path: Path) -> None:
    def place(algo: str, fingerprint: str = "f", **changes: Any) -> Path:
        return Cache(tmp_path, registry.get(algo), config(algo, **changes), fingerprint).path

    base, cfg = place("spar-mlp"), config("spar-mlp")
    critic = dataclasses.replace(cfg.config, critic=dataclasses.replace(cfg.config.critic, expectile=0.9))
    gate = dataclasses.replace(cfg.config, gate=dataclasses.replace(cfg.config.gate, eta_rel=0.5))
    penalty = dataclasses.replace(cfg.config, critic=dataclasses.replace(cfg.config.critic, lambda_u=2.0))
    assert base == place("spar-mlp", config=penalty)  # read after the first stage alone
    assert base == place("spar-proj") == place("spar-plas", steps_residual=99) == place("spar-mlp", config=gate, episodes=7, dataset="else")
    changes: list[dict[str, Any]] = [
        {"fingerprint": "g"}, {"config": critic}, {"seeds": (3,)}, {"steps_anchor": 21}, {"data": DataConfig(holdout=0.2)},
        {"loop": dataclasses.replace(cfg.loop, batch_size=8)}, {"needs": dataclasses.replace(cfg.needs, reward_scale=2.0)},
        {"eval": EvalConfig(every=0)},
    ]  # fmt: skip
    assert len({base, *(place("spar-mlp", **change) for change in changes)}) == 1 + len(changes)


def test_the_place_depends_on_the_code_that_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def place() -> Path:
        return Cache(tmp_path, registry.get("spar-mlp"), config("spar-mlp"), "f").path

    before = place()
    monkeypatch.setattr(cache, "code", lambda: "other")
    assert place() != before and len(code()) == 16


def test_a_damaged_place_is_one_line(compared: tuple[Path, list[str]], tmp_path: Path) -> None:
    shutil.copytree(compared[0] / "shared", tmp_path / "shared")
    (path,) = (tmp_path / "shared").glob("*/state.safetensors")
    path.write_bytes(path.read_bytes()[:1000])
    ((_, why),) = run(tmp_path, [config("spar-mlp")])
    assert "state.safetensors: cannot be read" in why and "delete its folder" in why
    with pytest.raises(SparError, match=r"every algorithm failed; .*cannot be read"):
        compare.summarise(tmp_path, {"spar-mlp": why}, "spar compare", ["spar-mlp"], "equal")


def test_an_algorithm_that_diverges_does_not_stop_the_others(tmp_path: Path) -> None:
    spoiled = config("bc", config=tiny("bc", actor={"learning_rate": float("nan")}), eval=EvalConfig(every=0))
    failed = {name: why for name, why in run(tmp_path, [spoiled, config("bc10")]) if why}
    assert list(failed) == ["bc"]
    document = compare.summarise(tmp_path, failed, "spar compare", ["bc", "bc10"], "equal")
    report.write(tmp_path)
    assert [row["label"] for row in document["rows"]] == ["bc10"]
    assert "bc did not finish: stage 'policy', seed 3: 10 steps in a row were not finite" in (tmp_path / "comparison.md").read_text()


def test_an_algorithm_that_diverged_is_in_the_exit_status(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def execute(run: Path, *rest: Any, execute: Any = experiment.execute) -> None:
        if run.name == "bc":
            raise SparError("stage 'policy', seed 0: 10 steps in a row were not finite")
        execute(run, *rest)

    monkeypatch.setattr(experiment, "execute", execute)
    argv = [
        "compare",
        "hopper-replay",
        "--seeds",
        "0",
        "--steps-anchor",
        "12",
        "--steps-residual",
        "8",
        "--eval-every",
        "0",
        "--episodes",
        "1",
    ]
    assert cli.main([*argv, "--batch-size", "16", "--out", str(tmp_path / "c"), "--algos", "bc10", "bc"]) == 1
    printed = capsys.readouterr()
    assert "spar: bc did not finish" in printed.err and "bc did not finish: stage 'policy'" in printed.out
    assert (tmp_path / "c" / "comparison.html").is_file()


def test_without_an_environment_the_table_says_what_the_log_can_tell(compared: tuple[Path, list[str]]) -> None:
    folder, _ = compared
    document = compare.summarise(folder, {}, "spar compare plant", ["spar-proj", "spar-mlp", "bc"], "equal")
    report.write(folder)
    text = (folder / "comparison.md").read_text()
    assert document["base"] is None and "No return was measured" in text and "s shared" in text
    error = np.mean([s["action_rmse"] for s in experiment.read_summary(folder / "bc")["offline"]["seeds"].values()])
    assert f"| bc | {error:.4f} |" in text


def test_the_command_writes_table_pictures_and_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In the simulator, from the command line; two competitors, so that bc is what the other is held against."""
    out = tmp_path / "comparison"
    argv = [
        "compare", "hopper-replay", "--seeds", "0", "42", "--steps-anchor", "12", "--steps-residual", "8", "--eval-every", "10",
        "--log-every", "10", "--eval-episodes", "1", "--episodes", "3", "--batch-size", "16", "--out", str(out), "--algos", "bc10", "bc",
    ]  # fmt: skip
    assert cli.main(argv[:-1]) == 0
    for name in ("metrics.csv", "report.html"):  # what a repository of results need not keep
        (out / "bc10" / name).unlink()
    assert cli.main([*argv[:2], "--algos", "bc", *argv[2:-3]]) == 0  # which joins the first
    printed = capsys.readouterr().out
    document = json.loads((out / "comparison.json").read_text())
    assert document["command"] == "spar " + " ".join(argv) and document["base"] == "bc" and document["episodes"] == 3
    assert [row["label"] for row in document["rows"]] == ["logged behaviour", "bc10", "bc"]
    ours, theirs = (np.asarray(experiment.read_summary(out / algo)["returns"]["policy"]) for algo in ("bc10", "bc"))
    row = document["rows"][1]
    assert row["mean"] == pytest.approx(ours.mean()) and row["iqm"] == pytest.approx(scipy_stats.trim_mean(ours.ravel(), 0.25))
    assert row["improvement"]["mean"] == pytest.approx(naive_improvement(ours, theirs)) and "improvement" not in document["rows"][2]
    text = (out / "comparison.md").read_text()
    commit = json.loads((out / "bc" / "environment.json").read_text())["commit"] or "unknown"
    for part in (f"{ours.mean():.1f}", "12 + 8 updates", document["command"], document["dataset"]["fingerprint"], commit[:12]):
        assert part in text
    assert "P(better than bc)" in printed and "did not finish" not in printed
    assert {path.name for path in (out / "plots").iterdir()} == {"profiles.png", "learning-curves.png"}
    page = (out / "comparison.html").read_text()
    assert page.count("data:image/png;base64,") == 2 and "http" not in page
    assert (out / "bc" / "report.html").is_file()
    assert cli.main(argv) == 0
    assert (out / "comparison.md").read_text() == text


def test_equal_sizes_are_spars() -> None:
    for algo in registry.ALGOS:
        published, equal = (api.configure("antmaze-large-diverse", algo, equal_sizes=flag).config for flag in (False, True))
        parts = {f.name: getattr(equal, f.name) for f in dataclasses.fields(equal) if hasattr(getattr(equal, f.name), "hidden")}
        depth = {"cvae": 3, "residual": 3 if algo == "spar-flow" else 2}
        assert parts and all(part.hidden == (256,) * depth.get(name, 2) for name, part in parts.items())
        undone = {name: dataclasses.replace(part, hidden=getattr(published, name).hidden) for name, part in parts.items()}
        assert dataclasses.replace(equal, **undone) == published  # nothing else differs
        batches = [api.configure("antmaze-large-diverse", algo, equal_sizes=flag).loop.batch_size for flag in (False, True)]
        assert batches == [{"bcq": 100, "plas": 100, "lapo": 512, "onestep": 512}.get(algo, 256), 256]


def test_wrong_names_are_refused_before_anything_is_trained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for algos, message in ((["bc", "bc"], "different names"), (["bc", "cb"], "no algorithm named 'cb'")):
        assert cli.main(["compare", "hopper-replay", "--algos", *algos, "--out", str(tmp_path / "out")]) == 1
        assert message in capsys.readouterr().err
    path = tmp_path / "plant.hdf5"
    d4rl.write(path, plant_rows(), {})
    assert cli.main(["compare", str(path), "--algos", "bc", "--env", "Hopper-v5", "--out", str(tmp_path / "out")]) == 1
    assert "has observations" in capsys.readouterr().err and not (tmp_path / "out").exists()


# Statistics


def naive_improvement(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.mean([1.0 if x > y else 0.5 if x == y else 0.0 for x in ours.ravel() for y in theirs.ravel()]))


@settings(max_examples=20, deadline=None)
@given(TABLES, TABLES)
def test_improvement_equals_a_naive_loop_and_mann_whitney(ours: np.ndarray, theirs: np.ndarray) -> None:
    found = stats.probability_of_improvement(ours, theirs)
    assert found.mean == pytest.approx(naive_improvement(ours, theirs))
    u = scipy_stats.mannwhitneyu(ours.ravel(), theirs.ravel(), method="asymptotic").statistic
    assert found.mean == pytest.approx(u / (ours.size * theirs.size))
    assert 0 <= found.low <= found.high <= 1


@given(arrays.arrays(np.float64, st.integers(1, 40), elements=st.floats(-1e3, 1e3)))
def test_iqm_equals_scipy(values: np.ndarray) -> None:
    assert float(stats.iqm(values)) == pytest.approx(scipy_stats.trim_mean(values, 0.25), abs=1e-9)


def test_iqm_of_known_values_and_over_leading_axes() -> None:
    assert float(stats.iqm(np.array([1e9, 2.0, 3.0, -1e9]))) == 2.5
    np.testing.assert_array_equal(stats.iqm(np.arange(16.0).reshape(2, 8)), [3.5, 11.5])


@settings(max_examples=20, deadline=None)
@given(TABLES, arrays.arrays(np.float64, 5, elements=st.integers(-6, 6).map(float)))
def test_profiles_equal_a_naive_loop(values: np.ndarray, thresholds: np.ndarray) -> None:
    profile = stats.performance_profile(values, thresholds)
    np.testing.assert_allclose(profile.share, [np.mean([x > t for x in values.ravel()]) for t in thresholds])
    assert (profile.low >= 0).all() and (profile.low <= profile.high).all() and (profile.high <= 1).all()


def test_intervals_have_the_width_that_theory_gives() -> None:
    """A share of one half over n episodes of one seed: standard error 1 / (2 sqrt(n)). Against a constant base, improvement is that
    share too. Clear cases have no width."""
    values = np.repeat([0.0, 1.0], 50)[None]
    expected = 1.96 / (2 * np.sqrt(100))
    profile, better = stats.performance_profile(values, np.array([0.5, 2.0])), stats.probability_of_improvement(values, np.array([[0.5]]))
    assert (profile.high[0] - profile.low[0]) / 2 == pytest.approx(expected, rel=0.1)
    assert (better.high - better.low) / 2 == pytest.approx(expected, rel=0.1)
    assert (profile.share[1], profile.low[1], profile.high[1]) == (0, 0, 0)
    assert stats.probability_of_improvement(values + 9, values) == (1, 1, 1)
    iqm = stats.bootstrap(np.arange(8.0), statistic=stats.iqm)
    assert iqm.low < iqm.mean == 3.5 < iqm.high
