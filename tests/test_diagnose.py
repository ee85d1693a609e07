"""Diagnoses: distances, delta_rho, DD and VSD against NumPy; planted shapes; a real run from the command line."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.distance import pdist

from spar import api, cli, registry, trainer
from spar.data.episodes import HostRows
from spar.data.sources import npz
from spar.deploy import exports
from spar.diagnose import calibration, deferral, geometry, support, traces
from spar.evaluate.rollout import Evaluator
from spar.method import gate
from spar.runs import diagnose, experiment, outcome
from spar.runs.config import DataConfig, EvalConfig
from spar.types import SparError, Spec
from tests.conftest import tiny
from tests.test_finetune import ENV, pendulum_log

RNG = np.random.default_rng(0)


# Distances and shapes


@pytest.mark.parametrize("k", [1, 5, 60])
def test_knn_distance_is_that_of_brute_force(k: int) -> None:
    points, queries = RNG.normal(size=(40, 3)), RNG.normal(size=(7, 3))
    brute = np.sort(np.linalg.norm(queries[:, None] - points[None], axis=-1), axis=1)
    np.testing.assert_allclose(support.knn_distance(points, queries, k), brute[:, min(k, 40) - 1])
    own = np.sort(np.linalg.norm(points[:9, None] - points[None], axis=-1), axis=1)  # the first is the point itself
    np.testing.assert_allclose(support.knn_distance(points, None, k, 9), own[:, min(k, 39)], atol=1e-7)


def test_support_ratio_is_a_quotient_of_quantiles_in_the_users_units() -> None:
    logged, near, far = RNG.normal(size=(300, 2)) * [1, 100], RNG.normal(size=(50, 2)) * [1, 100], np.full((50, 2), 1000.0)
    found = support.measure(logged, {"near": near, "far": far})
    distances = np.sort(np.linalg.norm(logged[:, None] - logged[None], axis=-1), axis=1)
    boundary = np.quantile(distances[:, 5], 0.95)
    assert found.boundary == pytest.approx(boundary)
    for name, actions in (("near", near), ("far", far)):
        fifth = np.sort(np.linalg.norm(actions[:, None] - logged[None], axis=-1), axis=1)[:, 4]
        assert found.ratio[name] == pytest.approx(np.quantile(fifth, 0.95) / boundary)
    assert found.ratio["near"] < 2 < found.ratio["far"]


def test_the_logs_boundary_is_that_of_all_of_it() -> None:
    """A log whose second half is spread ten times as far, as where one policy follows another: its own actions lie at a ratio of 1."""
    logged = RNG.normal(size=(4 * support.QUERIES, 2)) * np.repeat([1.0, 10.0], 2 * support.QUERIES)[:, None]
    found = support.measure(logged, {"own": logged[RNG.permutation(len(logged))[: support.QUERIES]] + 1e-4})
    assert found.ratio["own"] == pytest.approx(1.0, abs=0.15)


def compact(n: int) -> np.ndarray:
    return RNG.normal(size=(n, 3)) * [0.3, 0.1, 0.02]


def heavy(n: int) -> np.ndarray:
    return 0.1 * RNG.normal(size=(n, 3)) / np.sqrt(RNG.chisquare(3, size=(n, 1)) / 3)


def clusters(n: int) -> np.ndarray:
    centres = np.array([[0.6, 0, 0], [-0.3, 0.5, 0], [-0.3, -0.5, 0.2]])
    return centres[RNG.integers(3, size=n)] + 0.05 * RNG.normal(size=(n, 3))


def curve(n: int) -> np.ndarray:
    t = RNG.uniform(0, 5, n)
    return 0.5 * np.stack([np.cos(t), np.sin(t), 0.3 * t], 1) + 0.02 * RNG.normal(size=(n, 3))


@pytest.mark.parametrize(
    ("cloud", "algo", "word"),
    [
        (compact, "spar-mlp", "one dense cluster"),
        (heavy, "spar-mlp", "one dense cluster"),
        (clusters, "spar-proj", "3 dense clusters"),
        (curve, "spar-proj", "narrow"),
    ],
)
def test_planted_shapes_get_the_residual_that_fits_them(cloud: Callable[[int], np.ndarray], algo: str, word: str) -> None:
    residuals = cloud(1000)
    found, shape = geometry.measure(residuals, 2 * residuals + 0.1)
    chosen, reasons = geometry.recommend(found)
    assert chosen == algo and any(word in reason for reason in reasons), (chosen, reasons)
    norms = np.sort(np.linalg.norm(residuals, axis=1))
    assert found.delta_rho == next(r for r in norms if (norms <= r).mean() >= 0.95)
    centred = np.sort(np.linalg.norm(2 * (residuals - residuals.mean(0)), axis=1))
    assert found.action_radius == pytest.approx(centred[949]) and found.contraction == pytest.approx(norms[949] / centred[949])
    apart = np.quantile(pdist(2 * residuals), 0.95)
    assert found.log10_efficiency == pytest.approx(3 * np.log10(apart / (2 * norms[949])), abs=0.05)
    singular = np.linalg.svd(residuals - residuals.mean(0), compute_uv=False) ** 2
    np.testing.assert_allclose(found.spectrum, singular / singular.sum(), rtol=1e-6)
    assert found.effective_directions == pytest.approx(singular.sum() ** 2 / (singular**2).sum())
    assert len(shape.labels) == len(shape.distances) == len(shape.expected_distances) == 1000


def test_the_structureless_cloud_keeps_mean_covariance_and_radii() -> None:
    points = clusters(4000)
    cloud = geometry.structureless(points, np.random.default_rng(1))
    np.testing.assert_allclose(cloud.mean(0), points.mean(0), atol=0.03)
    np.testing.assert_allclose(np.cov(cloud.T), np.cov(points.T), atol=0.01)

    def radii(x: np.ndarray) -> np.ndarray:
        offset = x - points.mean(0)
        return np.sort(np.sqrt((offset @ np.linalg.inv(np.cov(points.T)) * offset).sum(1)))

    np.testing.assert_allclose(radii(cloud), radii(points), rtol=1e-6)


@pytest.mark.parametrize(("residuals", "algo"), [(np.zeros((500, 2)), "spar-mlp"), (RNG.normal(size=(50, 2)), "spar-proj")])
def test_no_residuals_and_few_of_them(residuals: np.ndarray, algo: str) -> None:
    assert geometry.recommend(geometry.measure(residuals, RNG.normal(size=(500, 2)))[0])[0] == algo


# Calibration


def test_returns_to_go_stay_inside_their_episode() -> None:
    rewards, lengths = RNG.normal(size=9).astype(np.float32), np.array([4, 5])
    found = calibration.returns_to_go(rewards, lengths, 0.9)
    for start, end in ((0, 4), (4, 9)):
        for t in range(start, end):
            assert found[t] == pytest.approx(sum(0.9 ** (i - t) * float(rewards[i]) for i in range(t, end)))


def test_returns_to_go_stop_at_a_terminated_step_inside_an_episode() -> None:
    found = calibration.returns_to_go(np.ones(5), np.array([5]), 0.5, np.array([False, True, False, False, True]))
    np.testing.assert_allclose(found, [1.5, 1.0, 1.75, 1.5, 1.0])


def test_rank_correlation() -> None:
    x = np.arange(20.0)
    assert calibration.rank_correlation(x, x**3) == pytest.approx(1) and calibration.rank_correlation(x, -x) == pytest.approx(-1)
    assert calibration.rank_correlation(x, np.ones(20)) is None and calibration.rank_correlation(x[:5], x[:5]) is None
    low, high = calibration.interval(0.5, 30) or (0, 0)
    assert -1 < low < 0.5 < high < 1


# A real run


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "pendulum.npz"
    npz.write_log(path, pendulum_log())
    return path


def create(data: Path, folder: Path, algo: str) -> Path:
    gates = {"gate": {"eta_rel": 0.0, "eta_abs": 0.0}} if hasattr(registry.get(algo).default, "gate") else {}
    cfg = api.configure(
        str(data), algo, tiny(algo, **gates), env=ENV, seeds=(0,), steps_anchor=60, steps_residual=60, episodes=2,
        loop=trainer.Settings(batch_size=32, log_every=30), eval=EvalConfig(every=0), data=DataConfig(holdout=0.2),
    )  # fmt: skip
    experiment.create(folder, cfg, pendulum_log())
    return folder


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = create(data, tmp_path_factory.mktemp("runs") / "spar-mlp", "spar-mlp")
    experiment.execute(folder, pendulum_log())
    return folder


def fingerprints(folder: Path) -> dict[str, str]:
    paths = [path for path in folder.rglob("*") if path.is_file() and diagnose.FOLDER not in path.parts]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def test_diagnose_from_the_command_line(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = fingerprints(run)
    assert cli.main(["diagnose", str(run), "--episodes", "6", "--branches", "12"]) == 0
    assert fingerprints(run) == before, "the run was touched"
    document, points = diagnose.read(run)
    found = document["seeds"]["0"]
    text = (run / "diagnosis" / "diagnosis.txt").read_text()
    assert text in capsys.readouterr().out and document["recommended"] in text
    assert all((run / "diagnosis" / f"{name}.png").stat().st_size > 5000 for name in ("geometry", "support", "calibration", "gate"))
    policy = exports.load(run)
    assert found["geometry"]["delta_rho"] == pytest.approx(policy.description["delta_rho"])
    assert found["gate"]["episodes"]["deferring_share"] < 1 and found["calibration"]["gains"]["points"] == 12 == len(points["gains_real"])
    assert set(found["conflict"]) == {"alone", "in_training"} and document["measured_on"] == "held-out episodes"

    assert cli.main(["diagnose", str(run), "--episodes", "0"]) == 0  # what the log alone can tell; the earlier diagnosis is replaced
    offline = json.loads((run / "diagnosis" / "diagnosis.json").read_text())
    assert offline["seeds"]["0"]["geometry"] == found["geometry"] and offline["seeds"]["0"]["conflict"] == found["conflict"]
    assert "episodes" not in offline["seeds"]["0"]["gate"] and "gains" not in offline["seeds"]["0"]["calibration"]


def test_q_rob_is_compared_where_the_return_is_known(run: Path) -> None:
    """Discount 1/2: four steps from a truncated end a sixteenth is missing, three steps an eighth; a terminated end hides nothing."""
    policy, log = exports.load(run), pendulum_log()
    pairs = calibration.logged(policy, log, HostRows(log, log.scaler(), reward_scale=2.0, reward_shift=-1.0), 0.5)
    predicted, real, start = [], [], 0
    for episode, length in enumerate(log.lengths):
        end = start + length
        for t in range(start, end):
            if log.terminated[end - 1] or end - t >= 4:
                s = policy.scaler.obs_in(log.observations[t + episode][None])
                predicted.append(policy.q_rob(s, policy.scaler.action_in(log.actions[t][None]))[0])
                real.append(sum(0.5 ** (i - t) * (2 * log.rewards[i] - 1) for i in range(t, end)))
        start = end
    assert log.terminated.any() and log.truncated.any() and 0 < len(real) < len(log)
    np.testing.assert_allclose(pairs.predicted, predicted, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(pairs.real, real, rtol=1e-5)


def test_the_real_gain_is_that_of_one_correction_on_the_anchors_course(run: Path) -> None:
    """One accepted step, replayed by hand in an environment of our own."""
    policy, log = exports.load(run).with_gate(**gate.ALWAYS_RESIDUAL), pendulum_log()
    rows = HostRows(log, log.scaler(), reward_scale=2.0, reward_shift=-1.0)
    envs = [ENV.make() for _ in range(3)]
    episodes = traces.record(envs, policy, 4, seed=50)
    pairs = calibration.branched(envs, policy, episodes, rows, 0.9, branches=5, seed=1)
    steps = [(e, t) for e, trace in enumerate(episodes) for t in range(len(trace.rewards))]
    for i, choice in enumerate(np.random.default_rng(1).permutation(len(steps))[:5]):
        episode, at = episodes[steps[choice][0]], steps[choice][1]
        values = []
        for first in (episode.action[at], policy.anchor_action(episode.obs[at][None])[0]):
            env, value = ENV.make(), 0.0
            obs, over, t = env.reset(seed=episode.seed)[0], False, 0
            while not over:
                action = episode.action[t] if t < at else first if t == at else policy.anchor_action(obs[None])[0]
                obs, reward, terminated, truncated, _ = env.step(action)
                value += 0.9 ** (t - at) * (2 * float(reward) - 1) if t >= at else 0.0
                over, t = terminated or truncated, t + 1
            values.append(value)
        assert pairs.real[i] == pytest.approx(values[0] - values[1], abs=1e-6)
        assert pairs.predicted[i] == episode.gain[at]
    moved = [trace._replace(seed=trace.seed + 1) for trace in episodes]
    with pytest.raises(SparError, match="does not repeat an episode"):
        calibration.branched(envs, policy, moved, rows, 0.9, branches=5)


def test_gate_statistics_are_counts(run: Path) -> None:
    envs = [ENV.make() for _ in range(4)]
    episodes = traces.record(envs, exports.load(run), 4, seed=7)
    found = deferral.over_episodes(episodes)
    shares = [1 - episode.accepted.mean() for episode in episodes]
    assert found["episode_deferring_share"] == pytest.approx(shares)
    assert found["deferring_share"] == pytest.approx(1 - np.concatenate([episode.accepted for episode in episodes]).mean())
    assert sum(found["reasons"].values()) == pytest.approx(1)
    assert found["return_deferring_less"] * 2 + found["return_deferring_more"] * 2 == pytest.approx(sum(found["episode_return"]))
    come: dict[str, list[float]] = {"deferring": [], "accepting": []}
    above: dict[str, list[float]] = {"deferring": [], "accepting": []}
    for episode in episodes:
        for t, passed in enumerate(episode.accepted):
            others = [other.rewards[t:].sum() for other in episodes if len(other.rewards) > t]
            come["accepting" if passed else "deferring"].append(episode.rewards[t:].sum())
            above["accepting" if passed else "deferring"].append(episode.rewards[t:].sum() - np.mean(others))
    for name, values in come.items():
        if values:
            assert found["to_go"][name] == pytest.approx({"mean": np.mean(values), "above_same_step": np.mean(above[name])}, abs=1e-9)
        else:
            assert found["to_go"][name] is None
    policy = exports.load(run)
    rolled = outcome.roll(Evaluator(ENV, Spec(policy.obs_dim, policy.act_dim)), policy, 4, 7)
    assert found["episode_return"] == pytest.approx(rolled.returns.tolist())


def test_what_cannot_be_diagnosed_is_said_in_a_line(run: Path, data: Path, tmp_path: Path) -> None:
    log = pendulum_log()
    with pytest.raises(SparError, match="choose among 0"):
        diagnose.execute(run, log, diagnose.Settings(seeds=(5,)))
    with pytest.raises(SparError, match="fingerprint"):
        diagnose.execute(run, dataclasses.replace(log, rewards=log.rewards + 1), diagnose.Settings())
    with pytest.raises(SparError, match="observations"):
        diagnose.execute(run, log, diagnose.Settings(env="Hopper-v5"))
    with pytest.raises(SparError, match="'bc' has no anchor and no gate"):
        (create(data, tmp_path / "bc", "bc") / "summary.json").write_text("{}")
        diagnose.execute(tmp_path / "bc", log, diagnose.Settings())
    with pytest.raises(SparError, match="the run has not finished"):
        diagnose.execute(create(data, tmp_path / "begun", "spar-mlp"), log, diagnose.Settings())
    with pytest.raises(SparError, match="make it with"):
        diagnose.read(tmp_path)
