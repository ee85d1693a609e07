"""Measurements of the studies against naive NumPy and closed forms, on real runs."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from spar import api, registry, trainer
from spar.data.episodes import Log
from spar.deploy import exports
from spar.deploy import policy as deploy
from spar.diagnose import conflict as conflicts
from spar.method import gate, topology
from spar.runs import experiment, outcome, rows
from spar.runs.checkpoint import last_state
from spar.runs.config import DataConfig, EvalConfig
from spar.studies import measure, measure_actions, measure_latency_child
from spar.studies.measure_run import Document
from spar.types import SparError
from tests.conftest import plant_log, tiny
from tests.test_finetune import ENV, pendulum_log

RNG = np.random.default_rng(0)
ANCHOR_STEPS, RESIDUAL_STEPS, EVERY = 60, 40, 20


def train(folder: Path, log: Log, algo: str, seeds: tuple[int, ...], **parts: dict[str, Any]) -> Path:
    """Evaluated in `ENV` where the log is the pendulum's; the plant has no simulator."""
    env = ENV if log.env_id else None
    cfg = api.configure(
        log.name, algo, tiny(algo, **parts), env=env, seeds=seeds, steps_anchor=ANCHOR_STEPS, steps_residual=RESIDUAL_STEPS, episodes=3,
        loop=trainer.Settings(batch_size=32, log_every=EVERY), eval=EvalConfig(every=EVERY, episodes=2), data=DataConfig(holdout=0.2),
    )  # fmt: skip
    experiment.create(folder, cfg, log)
    experiment.execute(folder, log)
    return folder


@pytest.fixture(scope="module")
def pendulum(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Log]:
    """One action dimension, two seeds, an environment; a gate that lets any gain pass."""
    log = pendulum_log()
    folder = tmp_path_factory.mktemp("runs") / "pendulum"
    return train(folder, log, "spar-mlp", (0, 3), gate={"eta_rel": 0.0, "eta_abs": 0.0}), log


@pytest.fixture(scope="module")
def generative(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Log]:
    """As `pendulum`, with a generative residual."""
    log = pendulum_log()
    folder = tmp_path_factory.mktemp("runs") / "generative"
    return train(folder, log, "spar-cvae", (0, 3), gate={"eta_rel": 0.0, "eta_abs": 0.0}), log


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Log]:
    """Two action dimensions, a generative residual without guidance, no environment."""
    log = plant_log()
    return train(tmp_path_factory.mktemp("runs") / "plant", log, "spar-cvae", (0,)), log


def is_json(document: Document) -> bool:
    return json.loads(json.dumps(document, allow_nan=False)) == document


def scaled(action: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    return 2 * (action - low) / (high - low) - 1


# Table 10


def test_thresholds_are_other_gates_of_the_same_policy(pendulum: tuple[Path, Log]) -> None:
    """The run's own pair and the two extremes give the returns of its final evaluation again; another pair, those of a naive loop."""
    run, log = pendulum
    own = (0.0, 0.0)
    document, arrays = measure.thresholds(run, log, [*measure.PAPER_THRESHOLDS, own])
    summary = experiment.read_summary(run)
    never, either, relative, *_, last = document["settings"]
    for found, variant in ((never, "anchor"), (either, "ungated"), (last, "policy")):
        assert found["returns"] == summary["returns"][variant]
        assert {key: found[key] for key in ("mean", "low", "high")} == summary["intervals"][variant]
    assert last["acceptance"] == summary["gate"]["acceptance"] and never["acceptance"] == [0, 0] and either["acceptance"] == [1, 1]
    assert document["episodes"] == 3 and not arrays and is_json(document)
    assert document["seeds"]["3"]["return"] == pytest.approx([np.mean(one["returns"][1]) for one in document["settings"]])
    for i, seed in enumerate((0, 3)):
        returns, share = by_hand(exports.load(run, seed), 3, relative["eta_rel"])
        assert relative["returns"][i] == pytest.approx(returns) and relative["acceptance"][i] == pytest.approx(share)


def test_candidates_are_other_gates_of_the_same_policy(pendulum: tuple[Path, Log], generative: tuple[Path, Log]) -> None:
    """The run's own number gives its returns again; a deterministic residual has one candidate whatever the number; the best of more is
    predicted to gain more."""
    run, log = pendulum
    document, arrays = measure.candidates(run, log, (1, 5))
    summary = experiment.read_summary(run)
    assert all(one["returns"] == summary["returns"]["policy"] for one in document["settings"]) and not arrays and is_json(document)
    run, log = generative
    own, summary = exports.load(run).gate.candidates, experiment.read_summary(run)
    document, _ = measure.candidates(run, log, (1, own, 50))
    one, mine, many = document["settings"]
    assert mine["returns"] == summary["returns"]["policy"] and mine["acceptance"] == summary["gate"]["acceptance"]
    assert np.all(np.less(one["predicted"], mine["predicted"])) and np.all(np.less(mine["predicted"], many["predicted"]))


def by_hand(policy: deploy.Policy, episodes: int, eta_rel: float) -> tuple[list[float], float]:
    always, returns, accepted = policy.with_gate(**gate.ALWAYS_RESIDUAL), [], []
    for episode in range(episodes):
        env, total, over = ENV.make(), 0.0, False
        obs, _ = env.reset(seed=outcome.FINAL_SEED + episode)
        while not over:
            s, candidates = policy.scaler.obs_in(obs[None]), [policy.anchor_action(obs[None]), always.act(obs[None]).action]
            q_base, q = (float(policy.q_rob(s, policy.scaler.action_in(action))[0]) for action in candidates)
            accepted.append((q - q_base) / (abs(q_base) + 1e-8) > eta_rel)
            obs, reward, terminated, truncated, _ = env.step(candidates[accepted[-1]][0])
            total, over = total + float(reward), terminated or truncated
        returns.append(total)
    return returns, float(np.mean(accepted))


# Table 3


def test_conflict_is_a_mean_over_groups_of_batches(pendulum: tuple[Path, Log], plant: tuple[Path, Log]) -> None:
    run, log = pendulum
    document, _ = measure.conflict(run, log, groups=3)
    cfg = experiment.read_config(run)
    trained = rows.training_rows(log.split(cfg.data.holdout)[0], cfg.needs, cfg.data)
    state = last_state(run, cfg, log.spec, [3])
    columns = trainer.prepare(registry.get(cfg.algo).stages[-1], cfg.config, state, trained)
    one, own = jax.tree.map(lambda leaf: leaf[0], (state, columns))
    groups = [conflicts.measure(cfg.config, one, trained, own, 32, seed=i) for i in range(3)]
    for reading in ("alone", "in_training"):
        for name in ("dd", "vsd", "step", "opposing_share"):
            values = np.array([group[reading][name] for group in groups if group])
            found = document["seeds"]["3"][reading][name]
            half = 4.302652729911275 * values.std(ddof=1) / np.sqrt(3)  # Student's t, two degrees of freedom, 97.5 %
            assert found["mean"] == pytest.approx(values.mean(), rel=1e-5) and found["values"] == pytest.approx(values, rel=1e-5)
            assert (found["low"], found["high"]) == pytest.approx((values.mean() - half, values.mean() + half), rel=1e-4, abs=1e-9)
            over_seeds = [document["seeds"][seed][reading][name]["mean"] for seed in ("0", "3")]
            assert document["mean"][reading][name] == pytest.approx(np.mean(over_seeds))
    assert document["mean"]["alone"]["step"] > 0 and document["batches"] == 3 * conflicts.BATCHES and is_json(document)
    unguided, _ = measure.conflict(*plant, groups=1)
    assert unguided["mean"] is None and unguided["seeds"] == {"0": None}


# Table 11


def test_latency_in_processes_of_their_own(pendulum: tuple[Path, Log]) -> None:
    """The deployed policy's process has no JAX, and its memory is its own, not what this process handed on."""
    run, log = pendulum
    document, _ = measure.latency(run, log, steps=40, warm_up=5)
    deployed, jitted = document["seeds"]["0"]["deployed"], document["seeds"]["0"]["jax"]
    assert not deployed["jax_loaded"] and jitted["jax_loaded"] and document["steps"] == 40 and is_json(document)
    assert deployed["peak_mib"] + 50 < jitted["peak_mib"]
    for row in (deployed, jitted):
        assert 0 < row["ms"]["q05"] <= row["ms"]["median"] <= row["ms"]["q95"] <= row["ms"]["q99"]
    with pytest.raises(SparError, match=r"'deployed' failed \(.*no seed 9"):
        measure.latency.__globals__["_measure"]("deployed", run, 9, Path("none"), 0)


def test_both_engines_decide_alike(pendulum: tuple[Path, Log]) -> None:
    run, log = pendulum
    engines = [make(run, 3) for make in measure_latency_child.ENGINES.values()]
    for step, obs in enumerate(log.observations[:20]):
        numpy, jitted = (act(obs, step) for act in engines)
        assert numpy.shape == jitted.shape == (1,)
        np.testing.assert_allclose(numpy, jitted, atol=1e-4)


def test_milliseconds_are_counted_after_the_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    took = [1000, 1000, 3, 1, 2, 5, 4]  # ms
    times = iter(np.repeat(np.cumsum([0, *took]), 2)[1:-1] * 10**6)
    monkeypatch.setattr(measure_latency_child.time, "perf_counter_ns", lambda: int(next(times)))
    seen: list[int] = []

    def act(obs: np.ndarray, step: int) -> np.ndarray:
        seen.append(step)
        return obs

    ms = measure_latency_child.measure(act, np.zeros((7, 2)), 2)
    assert seen == list(range(7)) and ms["mean"] == ms["median"] == 3
    assert (ms["q25"], ms["q75"], ms["q95"]) == pytest.approx((2, 4, 4.8))


# Figures 2 and 5


def test_residuals_and_their_values(plant: tuple[Path, Log]) -> None:
    run, log = plant
    document, arrays = measure.residual_distribution(run, log, samples=80)
    policy, index = exports.load(run), np.sort(np.random.default_rng(0).permutation(len(log))[:80])
    draws = policy.with_gate(**gate.ALWAYS_RESIDUAL, candidates=1)
    episode = np.repeat(np.arange(len(log.lengths)), log.lengths)
    obs = np.stack([log.observations[i + episode[i]] for i in index])
    drawn = draws.act(obs).action
    lengths: dict[str, list[float]] = {"logged": [], "policy": []}
    for row, i in enumerate(index):
        s = (obs[row] - policy.scaler.obs_mean) / policy.scaler.obs_std
        anchor = policy.anchor_action(obs[row][None])[0]
        for name, action in (("logged", log.actions[i]), ("policy", drawn[row])):
            own, base = (scaled(a, log.action_low, log.action_high) for a in (action, anchor))
            lengths[name].append(math.dist(own, base))
            assert arrays[f"{name}_q"][row] == pytest.approx(policy.q_rob(s[None], own[None].astype(np.float32))[0], abs=1e-4)
    found = document["seeds"]["0"]
    for name, values in lengths.items():
        assert found[name]["length"] == pytest.approx(np.mean(values), abs=1e-5)
        assert found[name]["q"] == pytest.approx(arrays[f"{name}_q"].mean(), abs=1e-5) and arrays[name].shape == (80, 2)
    assert arrays["anchor"].shape == (1, 2) and "anchor_q" not in arrays and is_json(document)
    again = measure.residual_distribution(run, log, samples=80)[1]
    assert all(np.array_equal(arrays[name], again[name]) for name in arrays)
    pairs = measure.residual_distribution(run, log, samples=30, space="state-action")[1]
    assert pairs["anchor"].shape == pairs["policy"].shape == (30, 2) and pairs["anchor_q"].shape == (30,)


def test_the_embedding_keeps_clusters_together() -> None:
    labels = RNG.integers(3, size=150)
    flat, divergence = measure_actions.embed(10 * np.eye(5)[labels] + 0.1 * RNG.normal(size=(150, 5)), 20.0)
    near = np.linalg.norm(flat[:, None] - flat[None], axis=-1) + 1e9 * np.eye(150)
    assert (labels[near.argmin(1)] == labels).all() and 0 < divergence < 1
    line, _ = measure_actions.embed(np.linspace(0, 1, 40)[:, None], 30.0)
    assert np.isfinite(line).all() and np.ptp(line) > 0
    assert not measure_actions.embed(np.ones((9, 2)), 30.0)[0].any()


# Figure 3


def test_boundary_of_a_gaussian_cloud() -> None:
    """95 % of N(mean, S) lie in an ellipse of area pi chi2 sqrt(det S), where the quantile of chi2 with two degrees is -2 log 0.05."""
    root = np.array([[2.0, 0.0], [0.8, 0.5]])
    points = RNG.normal(size=(40_000, 2)) @ root.T + [3, -1]
    corners = measure_actions.boundary(points)
    assert measure_actions.area(corners) == pytest.approx(math.pi * -2 * math.log(0.05) * np.linalg.det(root), rel=0.03)
    radii = np.linalg.norm((corners - [3, -1]) @ np.linalg.inv(root).T, axis=1)
    np.testing.assert_allclose(radii, math.sqrt(-2 * math.log(0.05)), rtol=0.03)
    assert measure_actions.area(np.array([[0, 0], [2, 0], [2, 3], [0, 3]])) == 6
    line = measure_actions.boundary(np.stack([np.arange(100.0), np.zeros(100)], 1))
    assert sorted(line[:, 0]) == [2, 96] and measure_actions.area(line) == 0  # the five farthest from the middle are gone


def test_plane_is_that_of_the_singular_values() -> None:
    actions = RNG.normal(size=(500, 4)) @ RNG.normal(size=(4, 4))
    centre, axes, share = measure_actions.plane(actions)
    _, values, directions = np.linalg.svd(actions - actions.mean(0), full_matrices=False)
    np.testing.assert_allclose(np.abs((axes * directions[:2]).sum(1)), 1, atol=1e-9)
    assert share == pytest.approx((values[:2] ** 2).sum() / (values**2).sum()) and np.allclose(centre, actions.mean(0))
    _, axes, share = measure_actions.plane(actions[:, :1])
    assert axes.tolist() == [[1], [0]] and share == pytest.approx(1)


def test_support_ratios_are_those_of_brute_force(plant: tuple[Path, Log], pendulum: tuple[Path, Log]) -> None:
    run, log = plant
    document, arrays = measure.action_support(run, log, states=100)
    policy, index = exports.load(run), np.sort(np.random.default_rng(0).permutation(len(log))[:100])
    obs = log.observations[log.obs_index[index]]
    actions = {"anchor": policy.anchor_action(obs), "ungated": policy.with_gate(**gate.ALWAYS_RESIDUAL).act(obs).action}
    own = np.sort(np.linalg.norm(log.actions[:, None] - log.actions[None], axis=-1), axis=1)[:, 5]
    found = document["seeds"]["0"]
    centre = log.actions.mean(0, dtype=np.float64)
    directions = np.linalg.svd(log.actions - centre, full_matrices=False)[2]
    for name, taken in actions.items():
        fifth = np.sort(np.linalg.norm(taken[:, None] - log.actions[None], axis=-1), axis=1)[:, 4]
        assert found["ratio"][name] == pytest.approx(np.quantile(fifth, 0.95) / np.quantile(own, 0.95), rel=1e-4)
        np.testing.assert_allclose(np.abs(arrays[name]), np.abs((taken - centre) @ directions.T), atol=1e-5)
        ratio = measure_actions.area(arrays[f"{name}_boundary"]) / measure_actions.area(arrays["logged_boundary"])
        assert found["area"][name] == pytest.approx(ratio, rel=1e-4)
    assert set(found["ratio"]) == {"anchor", "ungated", "policy"} and document["plane_share"] == pytest.approx(1) and is_json(document)
    line, arrays = measure.action_support(*pendulum, states=50)
    assert line["seeds"]["3"]["area"] is None and arrays["logged_boundary"].shape == (2, 2)


# Figure 4


def test_action_space_is_that_of_naive_loops(plant: tuple[Path, Log]) -> None:
    run, log = plant
    document, arrays = measure.action_space(run, log, resolution=0.2)
    policy, (training, _) = exports.load(run), log.split(0.2)
    residuals = []
    for i in range(len(training)):
        anchor = policy.anchor_action(training.observations[training.obs_index[i]][None])[0]
        residuals.append(
            math.dist(scaled(training.actions[i], log.action_low, log.action_high), scaled(anchor, log.action_low, log.action_high))
        )
    found = document["seeds"]["0"]
    delta = sorted(residuals)[math.ceil(0.95 * len(residuals)) - 1]
    assert found["delta_rho"] == pytest.approx(delta, abs=1e-6) and found["residual_diameter"] == pytest.approx(2 * delta, abs=1e-6)
    assert found["delta_rho"] == policy.description["delta_rho"]
    actions = scaled(training.actions, log.action_low, log.action_high)
    every = np.linalg.norm(actions[:, None] - actions[None], axis=-1)[np.triu_indices(len(actions), 1)]
    assert found["global_diameter"] == pytest.approx(np.quantile(every, 0.95), rel=0.02)
    assert arrays["global"].mean() == pytest.approx(every.mean(), rel=0.02) and len(arrays["global"]) == topology.PAIRS
    np.testing.assert_allclose(np.sort(arrays["residual"]), 2 * np.sort(residuals), atol=1e-5)
    lipschitz = 7.0
    epsilon = 0.2 * lipschitz * found["delta_rho"]
    ratio = (found["global_diameter"] / (2 * found["delta_rho"])) ** 2  # two dimensions
    factor = math.log(1 + 2 * lipschitz * found["global_diameter"] / epsilon) / math.log(1 + 4 * lipschitz * found["delta_rho"] / epsilon)
    assert 10 ** found["log10_dominant"] == pytest.approx(ratio) and 10 ** found["log10_efficiency"] == pytest.approx(ratio * factor)
    radii = np.sort(np.linalg.norm(actions - actions.mean(0), axis=1))
    assert found["contraction"] == pytest.approx(delta / radii[math.ceil(0.95 * len(radii)) - 1], rel=1e-4) and is_json(document)


def test_effective_diameter_of_gaussian_actions() -> None:
    """|x - y| of N(0, s^2 I) in two dimensions is s sqrt(2) times a Rayleigh variable, whose 95 % quantile is sqrt(-2 log 0.05)."""
    actions = 0.3 * RNG.normal(size=(30_000, 2))
    first, second = topology.random_pairs(len(actions), 100_000, np.random.default_rng(1))
    assert (first != second).all()
    quantile = math.sqrt(-2 * math.log(0.05))
    assert topology.delta_rho(actions[first] - actions[second]) == pytest.approx(0.3 * math.sqrt(2) * quantile, rel=0.02)
    assert topology.delta_rho(actions) == pytest.approx(0.3 * quantile, rel=0.02)
    counts = np.bincount(topology.random_pairs(4, 40_000, np.random.default_rng(2))[1], minlength=4)
    assert (np.abs(counts - 10_000) < 500).all()


# Figure 6


def test_training_curves_are_the_rows_of_the_table(pendulum: tuple[Path, Log], plant: tuple[Path, Log]) -> None:
    run, log = pendulum
    document, _ = measure.training_curves(run, log)
    with (run / "returns.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    expected: dict[tuple[int, str], list[float]] = {}
    for row in rows:
        step = int(row["step"]) + (ANCHOR_STEPS if row["stage_index"] == "1" else 0)
        expected.setdefault((step, row["policy"]), []).append(float(row["return"]))
    found = {(point["step"], point["variant"]): point for point in document["points"]}
    assert sorted(found) == sorted(expected) == [(20, "anchor"), (40, "anchor"), (60, "anchor"), (80, "policy"), (100, "policy")]
    for place, values in expected.items():
        assert np.ravel(found[place]["returns"]).tolist() == values and np.shape(found[place]["returns"]) == (2, 2)
        assert found[place]["low"] <= found[place]["mean"] == pytest.approx(np.mean(values)) and found[place]["normalised"] is None
    seed = [row for row in rows if row["seed"] == "3" and row["stage_index"] == "1" and row["step"] == "40"]
    assert document["seeds"]["3"][-1] == {"step": 100, "variant": "policy", "return": np.mean([float(row["return"]) for row in seed])}
    summary = experiment.read_summary(run)
    for name, variant in (("anchor", "anchor"), ("final", "policy")):
        assert {key: document[name][key] for key in ("mean", "low", "high")} == summary["intervals"][variant]
    assert document["boundary"] == ANCHOR_STEPS and document["steps"] == 100 and is_json(document)
    offline, _ = measure.training_curves(*plant)
    assert offline["points"] == [] and offline["final"] is None and offline["anchor"] is None


def test_what_cannot_be_measured_is_said_in_a_line(pendulum: tuple[Path, Log], plant: tuple[Path, Log], tmp_path: Path) -> None:
    with pytest.raises(SparError, match="names no environment"):
        measure.thresholds(*plant)
    with pytest.raises(SparError, match="has not finished"):
        experiment.create(tmp_path / "begun", experiment.read_config(plant[0]), plant[1])
        measure.action_space(tmp_path / "begun", plant[1])
    with pytest.raises(SparError, match="fingerprint"):
        measure.action_support(pendulum[0], plant[1])
    ungated = train(tmp_path / "bc", plant[1], "bc", (0,))
    with pytest.raises(SparError, match="'bc' has no anchor and no gate"):
        measure.residual_distribution(ungated, plant[1])
    assert measure.training_curves(ungated, plant[1])[0]["boundary"] is None
    assert measure.latency(ungated, plant[1], steps=3, warm_up=0, engines=("deployed",))[0]["seeds"]["0"]["deployed"]["ms"]["median"] > 0
