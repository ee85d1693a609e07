"""Fine-tuning online: what the buffer mixes, what moves and what stays, what is recorded. Real environment, small networks."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from spar import cli, registry, trainer
from spar.baselines import spot
from spar.data.episodes import HostRows
from spar.data.sources import npz
from spar.deploy import exports
from spar.online import loop, replay
from spar.online.explore import Explorer
from spar.runs import experiment, finetune, finetune_plan
from spar.types import Batch, SparError, Transitions
from tests.conftest import plant_log, tiny
from tests.pendulum import ENV, LIMIT, SEEDS, STEPS, fingerprints, pendulum_log, table, train, write_log


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_log(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def runs(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return train(data, tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def tuned(runs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SPOT, both seeds, through the command line; lambda falls to its floor on the way."""
    out = tmp_path_factory.mktemp("tuned") / "spot"
    before = fingerprints(runs["spot"])
    flags = ["--steps", str(STEPS), "--block", "20", "--eval-every", "60", "--online-steps", "100"]
    assert cli.main(["finetune", str(runs["spot"]), "--out", str(out), *flags]) == 0
    assert fingerprints(runs["spot"]) == before, "the offline run was touched"
    return out


def numbered(first: int, *lead: int) -> Transitions:
    """Rows that carry their number in every column."""
    values = first + jnp.arange(np.prod(lead), dtype=jnp.float32).reshape(lead)
    return Transitions(values[..., None] + jnp.zeros(3), values[..., None], values, -values[..., None] + jnp.zeros(3), values)


# The buffer


def test_the_buffer_is_the_log_followed_by_what_was_lived() -> None:
    """Every batch equals a naive gather from the concatenation, seed by seed, and rows not yet written are never drawn."""
    logged, seeds, capacity, lived = numbered(0, 50), 2, 30, 12
    buffer = replay.start(logged, seeds, capacity)
    for at, size in ((0, 5), (5, 7)):
        new = jax.tree.map(lambda *x: jnp.stack(x), *(numbered(1000 * (s + 1) + at, size) for s in range(seeds)))
        buffer = buffer._replace(lived=replay.write(buffer.lived, new, jnp.int32(at)))
    keys, mix = trainer.seed_keys(range(seeds)), replay.Mix(8)
    drawn = replay.draw(mix, buffer, jnp.int32(lived), keys, jnp.int32(3), 4)
    for s in range(seeds):
        whole = np.concatenate([np.arange(50), 1000 * (s + 1) + np.arange(lived)])
        for i in range(4):
            index_key = jax.random.split(jax.random.fold_in(keys[s], 3 + i))[0]
            expected = whole[np.asarray(replay.draw_index(mix, 50, jnp.int32(lived), index_key))]
            np.testing.assert_array_equal(drawn.reward[s, i], expected)
            np.testing.assert_array_equal(drawn.obs[s, i, :, 0], expected)
            np.testing.assert_array_equal(drawn.next_obs[s, i, :, 2], -expected)


@pytest.mark.parametrize(("share", "expected"), [(None, 30 / 90), (0.25, 0.25)])
def test_old_and_new_rows_are_mixed_as_said(share: float | None, expected: float) -> None:
    """By default in proportion to their numbers, each row equally likely; else in the share asked for, exactly, in every batch."""
    mix = replay.Mix(64, share)
    keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(1), i))(jnp.arange(500))
    index = np.asarray(jax.vmap(lambda key: replay.draw_index(mix, 60, jnp.int32(30), key))(keys))
    new = index >= 60
    assert new.mean() == pytest.approx(expected, abs=5 * np.sqrt(0.25 / index.size))
    assert index.min() == 0 and index.max() == 89
    if share is not None:
        assert (new.sum(1) == 16).all()
    counts = np.bincount(index[new] - 60, minlength=30)
    assert np.abs(counts - counts.mean()).max() < 5 * np.sqrt(counts.mean())


def test_a_time_limit_is_not_stored_as_an_end(runs: dict[str, Path]) -> None:
    """The rows lived, against the environment stepped again with the stored actions."""
    policy, log = exports.load(runs["spot"]), pendulum_log()
    rows = HostRows(log, policy.scaler, reward_scale=2.0, reward_shift=-1.0)
    explorer = Explorer(ENV, rows, 1.0, seed=7)
    lived = [explorer.live(policy, 40) for _ in range(3)]
    explorer.close()
    lived = jax.tree.map(lambda *x: np.concatenate(x), *lived)
    env, (obs, _) = ENV.make(), (None, None)
    obs, _ = env.reset(seed=7)
    ends = []
    for i in range(120):
        np.testing.assert_allclose(lived.obs[i], policy.scaler.obs_in(obs), atol=1e-5)
        obs, reward, terminated, truncated, _ = env.step(policy.scaler.action_out(lived.action[i]))
        np.testing.assert_allclose(lived.next_obs[i], policy.scaler.obs_in(obs), atol=1e-5)
        assert lived.terminated[i] == terminated and lived.reward[i] == 2 * reward - 1
        if terminated or truncated:
            ends.append((i + 1, bool(terminated)))
            obs, _ = env.reset()
    env.close()
    assert [(one.step, one.terminated) for one in explorer.episodes] == ends
    assert {terminated for _, terminated in ends} == {True, False}
    assert np.abs(lived.action).max() <= 1.0 and lived.action.dtype == np.float32


@pytest.mark.parametrize("what", ["nan reward", "huge reward", "huge observation", "nan after a reset"])
def test_an_environment_that_returns_nonsense_is_named(runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """Of a float64 beyond float32 too, which would train as an infinity, and of the first observation of an episode."""
    policy = exports.load(runs["spot"])
    explorer = Explorer(ENV, HostRows(pendulum_log(), policy.scaler), 0.1, seed=0)
    fine, bad = np.zeros(4), np.array([0.0, np.nan, 0.0, 0.0])
    answers = {
        "nan reward": (fine, np.nan, False, False, {}), "huge reward": (fine, 1e39, False, False, {}),
        "huge observation": (fine + 1e39, 1.0, False, False, {}), "nan after a reset": (fine, 1.0, True, False, {}),
    }  # fmt: skip
    monkeypatch.setattr(explorer.env, "step", lambda action: answers[what])
    monkeypatch.setattr(explorer.env, "reset", lambda **settings: (bad, {}))
    with pytest.raises(SparError, match=r"InvertedPendulum-v5.*step 1 is not finite"):
        explorer.live(policy, 5)
    with pytest.raises(SparError, match=r"InvertedPendulum-v5.*step 1 is not finite"):
        explorer.begin_anew(1, [], 1)
    explorer.close()


def test_an_environment_may_go_on_writing_into_its_observation(runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are what it said, not what its array holds later."""
    policy, state = exports.load(runs["spot"]), np.zeros(4)
    explorer = Explorer(ENV, HostRows(pendulum_log(), policy.scaler), 0.1, seed=0)

    def step(action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, float]]:
        state[:] += 1.0
        return state, 0.0, False, False, {}

    monkeypatch.setattr(explorer.env, "step", step)
    monkeypatch.setattr(explorer.env, "reset", lambda **settings: (state, {}))
    explorer.begin_anew(0, [], 1)
    lived = explorer.live(policy, 4)
    for found, first in ((lived.obs, 0), (lived.next_obs, 1)):
        np.testing.assert_array_equal(found, policy.scaler.obs_in(np.arange(first, first + 4)[:, None] + np.zeros(4)))
    explorer.close()


# What moves


SPAR_FROZEN = (".anchor", ".critics.subsets")
FROZEN: dict[str, tuple[str, ...]] = {
    "spot": (".density",),
    "spar-mlp": SPAR_FROZEN,
    "spar-cvae": SPAR_FROZEN,
    "spar-proj": SPAR_FROZEN,
    "spar-flow": SPAR_FROZEN,
    "spar-plas": (*SPAR_FROZEN, ".residual.params", ".residual.opt"),
    "plas": (".cvae",),
    "lapo": (".action_mean", ".action_std", ".reward_range"),  # statistics of the log
    "cql": (".log_multiplier",),  # of the variant that is off by default
}


@pytest.mark.parametrize("algo", [name for name in registry.ALGOS if name not in ("bc", "bc10", "onestep")])
def test_what_is_frozen_is_handed_through_and_all_else_is_computed(algo: str) -> None:
    """Read off the traced update, which needs no column of the log: a frozen array leaves it as the very variable that came in."""
    chosen, cfg, log = registry.get(algo), tiny(algo), plant_log(64)
    stage = loop.online_stage(chosen, cfg, chosen.data)
    batch, key = Batch(log.transitions(log.scaler()), {}), jax.random.key(0)
    state = jax.eval_shape(lambda key: chosen.init(cfg, log.spec, key), key)
    traced, (new, metrics) = jax.make_jaxpr(lambda s: stage.update(cfg, s, batch, key, jnp.int32(0)), return_shape=True)(state)
    assert jax.tree.structure(new) == jax.tree.structure(state)
    assert [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(new)] == [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(state)]
    assert metrics and all(leaf.shape == () for leaf in metrics.values())
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_flatten_with_path(state)[0]]
    for path, given, made in zip(paths, traced.jaxpr.invars, traced.jaxpr.outvars, strict=False):
        assert (given is made) == path.startswith(FROZEN.get(algo, ())), path


def test_settings_without_sense_are_refused(runs: dict[str, Path]) -> None:
    """lambda would be divided by them."""
    own = dataclasses.replace(experiment.read_config(runs["spot"]).config, online_steps=0)
    with pytest.raises(SparError, match="online-steps is 0; it must be at least 1"):
        finetune_plan.configure(runs["spot"], STEPS, config=own, block=20, eval_every=0)


@pytest.mark.parametrize(("algo", "why"), [("bc", "no critic"), ("bc10", "no critic"), ("onestep", "the log alone")])
def test_what_cannot_learn_online_says_so(algo: str, why: str) -> None:
    chosen = registry.get(algo)
    with pytest.raises(SparError, match=why):
        loop.online_stage(chosen, chosen.default, chosen.data)


def test_lambda_falls_linearly_to_a_fifth() -> None:
    cfg = spot.Config(lam=0.25)
    steps = np.array([0, 1, 250_000, 800_000, 1_000_000, 5_000_000])
    found = [float(spot.online_lam(cfg, jnp.int32(step))) for step in steps]
    assert found == pytest.approx(0.25 * np.maximum(0.2, 1 - steps / 1e6), rel=1e-6)


def test_lambda_begins_anew_online(tuned: Path) -> None:
    lam, seen = registry.get("spot").default.lam, [row for row in table(tuned / "metrics.csv") if row["metric"] == "lambda"]
    expected = lam * np.maximum(0.2, 1 - np.arange(STEPS) / 100).mean()
    assert [float(row["value"]) for row in seen] == pytest.approx([expected] * len(SEEDS), rel=1e-4)


def test_updates_that_are_not_finite_are_skipped_then_stop(runs: dict[str, Path]) -> None:
    offline, algo = experiment.read_config(runs["spot"]), registry.get("spot")
    cfg, policies = dataclasses.replace(offline.config, online_steps=100), [exports.load(runs["spot"], seed) for seed in SEEDS]
    rows = HostRows(pendulum_log(), policies[0].scaler, reward_scale=1e38)  # its square is not finite
    state = trainer.start(algo, cfg, rows.log.spec, SEEDS).state
    stage, settings = loop.online_stage(algo, cfg, algo.data), loop.Settings(STEPS, block=20)
    learner = loop.Loop(algo, stage, cfg, settings, offline.loop, rows, ENV, SEEDS, state, policies)
    with pytest.raises(trainer.Halted, match=r"seed 0: 10 updates in a row .* from step 0 on"):
        next(learner.run())
    learner.close()
    assert learner.guard.skipped.tolist() == [20, 20]
    assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(learner.state), strict=True))


# The whole


def test_before_and_after_are_recorded(runs: dict[str, Path], tuned: Path) -> None:
    summary, offline = json.loads((tuned / "summary.json").read_text()), json.loads((runs["spot"] / "summary.json").read_text())
    assert summary["returns"]["offline"] == offline["returns"]["policy"]  # from the checkpoint, on the same start states
    assert np.shape(summary["returns"]["online"]) == (len(SEEDS), 3)
    assert summary["gain"]["mean"] == pytest.approx(np.mean(summary["returns"]["online"]) - np.mean(summary["returns"]["offline"]))
    assert summary["skipped_steps"] == {"0": 0, "3": 0} and summary["acceptance"] is None
    curve = table(tuned / "curve.csv")
    assert [(int(row["step"]), int(row["seed"])) for row in curve] == [(step, seed) for step in (0, 60, 120) for seed in SEEDS]
    for i, seed in enumerate(SEEDS):
        last = [float(row["return"]) for row in table(tuned / "returns.csv") if int(row["seed"]) == seed and row["step"] == "120"]
        assert last == summary["returns"]["online"][i]
        lived = [row for row in table(tuned / "episodes.csv") if int(row["seed"]) == seed]
        assert len(lived) == summary["lived_episodes"][str(seed)] and all(int(row["length"]) <= LIMIT for row in lived)
    assert {"curve.png", "losses.png"} == {path.name for path in (tuned / "plots").iterdir()}
    config = json.loads((tuned / "config.json").read_text())
    assert config["finetune"]["config"]["online_steps"] == 100 and config["offline"]["config"]["online_steps"] == 1_000_000


def test_the_policy_left_behind_is_the_one_that_was_scored(tuned: Path) -> None:
    summary = json.loads((tuned / "summary.json").read_text())
    for i, seed in enumerate(SEEDS):
        policy, env, returns = exports.load(tuned, seed), ENV.make(), []
        for episode in range(3):
            obs, total, over = env.reset(seed=2_000_000 + episode)[0], 0.0, False
            while not over:
                obs, reward, terminated, truncated, _ = env.step(policy.act(obs).action)
                total, over = total + float(reward), terminated or truncated
            returns.append(total)
        env.close()
        assert returns == summary["returns"]["online"][i]


def test_the_same_seeds_give_the_same_policies(runs: dict[str, Path], tuned: Path, tmp_path: Path, data: Path) -> None:
    own = dataclasses.replace(experiment.read_config(runs["spot"]).config, online_steps=100)
    cfg = finetune_plan.configure(runs["spot"], STEPS, config=own, block=20, eval_every=0)
    summary = finetune.execute(cfg, tmp_path / "again", npz.read(data))
    offline, arrays, again = (load_file(f / "policy" / "arrays.safetensors") for f in (runs["spot"], tuned, tmp_path / "again"))
    assert all(np.array_equal(arrays[key], again[key]) for key in arrays)  # evaluations on the way do not touch the course
    assert summary["returns"] == json.loads((tuned / "summary.json").read_text())["returns"]
    name = "actor/Dense_0/kernel"
    for seed in SEEDS:
        assert not np.array_equal(arrays[f"seed-{seed}/{name}"], offline[f"seed-{seed}/{name}"])
    assert not np.array_equal(arrays[f"seed-0/{name}"], arrays[f"seed-3/{name}"])


def test_spar_keeps_its_anchor_and_its_gate(runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "tuned"
    assert cli.main(["finetune", str(runs["spar-mlp"]), "--steps", "60", "--block", "20", "--out", str(out), "--new-share", "0.5"]) == 0
    assert "gain online" in capsys.readouterr().out
    before, after = (load_file(folder / "policy" / "arrays.safetensors") for folder in (runs["spar-mlp"], out))
    assert set(before) == set(after)
    for key in before:
        stays = "/anchor/" in key or "/scaler/" in key
        assert np.array_equal(before[key], after[key]) == stays, key
    old, new = exports.load(runs["spar-mlp"]), exports.load(out)
    assert new.gated and new.gate == old.gate and new.description["delta_rho"] == old.description["delta_rho"]
    assert len(json.loads((out / "summary.json").read_text())["acceptance"]["online"]) == 1


def test_the_score_before_is_the_offline_runs_own_whatever_is_changed(runs: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "tuned"
    assert cli.main(["finetune", str(runs["spar-mlp"]), "--steps", "20", "--block", "20", "--out", str(out), "--gate.eta-rel", "inf"]) == 0
    summary, offline = (json.loads((folder / "summary.json").read_text()) for folder in (out, runs["spar-mlp"]))
    assert summary["returns"]["offline"] == offline["returns"]["policy"]
    assert summary["acceptance"]["online"] == [0.0] and exports.load(out).gate.eta_rel == np.inf


def test_a_run_without_a_gate_can_be_evaluated_anew(runs: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["evaluate", str(runs["spot"]), "--episodes", "1"]) == 0
    assert "spot" in capsys.readouterr().out
    kept = json.loads((runs["spot"] / "evaluations" / "0001.json").read_text())
    assert kept["gate"] is None and np.shape(kept["returns"]["policy"]) == (len(SEEDS), 1)


def test_nothing_is_overwritten(runs: dict[str, Path], tuned: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = fingerprints(tuned)
    assert cli.main(["finetune", str(runs["spot"]), "--steps", "20", "--out", str(tuned)]) == 1
    assert "exists already" in capsys.readouterr().err
    assert fingerprints(tuned) == before


def test_mistakes_are_one_line(runs: dict[str, Path], tuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(runs["spot"])
    for flags, said in (
        ([str(tmp_path), "--steps", "5"], "not a run directory"),
        (["--steps", "5"], "RUN"),
        ([run, "--steps", "5", "--seeds", "1"], "choose among 0, 3"),
        ([run, "--steps", "5", "--eval-every", "7"], "multiple of block"),
        ([run, "--steps", "0"], "at least 1"),
        ([run, "--steps", "5", "--new-share", "1.5"], "both lived and logged"),
        ([run, "--steps", "5", "--new-share", "0"], "both lived and logged"),
        ([run, "--steps", "5", "--new-share", "0.001"], "both lived and logged"),
        ([run, "--steps", "5", "--episodes", "-3"], "episodes is -3"),
        ([run, "--steps", "5", "--noise", "nan"], "noise"),
        ([str(tuned), "--steps", "5"], "holds a fine-tuning"),
        (["--resume", run], "holds no fine-tuning"),
        (["--resume", str(tuned), "--steps", "5"], "steps"),
        ([run, "--steps", "5", "--env", "Pendulum-v1"], "name the environment that the log came from"),
        ([run, "--steps", "5", "--actor.hidden", "32", "32"], "other networks"),
    ):
        out = tmp_path / "new"
        try:
            status = cli.main(["finetune", *flags, *([] if "--resume" in flags else ["--out", str(out)])])
        except SystemExit as stop:
            status = int(stop.code or 0)
        error = capsys.readouterr()
        assert status != 0 and said in error.err + error.out, flags
        assert not out.exists(), flags
