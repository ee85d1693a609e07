"""Flow matching as an anchor and as a residual, and the anchor that is zero: losses, what they generate, and the way to deployment."""

from __future__ import annotations

import dataclasses
import functools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from spar import api, registry, trainer
from spar.data.rows import from_rows
from spar.deploy import exports
from spar.deploy import policy as deploy
from spar.deploy.policy import Policy
from spar.method import anchor, critics, flow, gate, residual, spar
from spar.runs import checkpoint, experiment, finetune, finetune_plan
from spar.runs.config import EvalConfig
from spar.runs.listener import Silent
from spar.types import Batch, SparError, Spec, Transitions
from tests.conftest import plant_log, plant_rows, tiny
from tests.pendulum import ENV, pendulum_log
from tests.test_policy_files import spoil_arrays

LOG = plant_log()
SCALER = LOG.scaler()
ROWS = LOG.transitions(SCALER)
OBS = LOG.observations[LOG.obs_index][:64]
KEY = jax.random.key(7)
Params = dict[str, Any]


def dense(params: Params, x: np.ndarray) -> np.ndarray:
    """The MLP in float64, for one row."""
    layers = params["params"]
    for i in range(len(layers)):
        x = x @ np.asarray(layers[f"Dense_{i}"]["kernel"], float) + np.asarray(layers[f"Dense_{i}"]["bias"], float)
        x = np.maximum(x, 0) if i < len(layers) - 1 else x
    return x


def carried(params: Params, condition: np.ndarray, x: np.ndarray, steps: int) -> np.ndarray:
    """Euler's method for one row, in float64."""
    for i in range(steps):
        x = x + dense(params, np.concatenate([condition, x, [i / steps]])) / steps
    return x


def matched(params: Params, conditions: np.ndarray, goals: np.ndarray, w: np.ndarray, key: jax.Array) -> float:
    """The loss row by row, at the draws that `key` gives."""
    noise, t = (np.asarray(x, float) for x in flow.draw(key, jnp.asarray(goals)))
    total = 0.0
    for i in range(len(goals)):
        x = (1 - t[i]) * noise[i] + t[i] * goals[i]
        v = dense(params, np.concatenate([conditions[i], x, t[i]]))
        total += w[i] * sum((v[j] - (goals[i, j] - noise[i, j])) ** 2 for j in range(goals.shape[1]))
    return total / len(goals)


@functools.cache
def fresh(algo: str, kind: anchor.Kind) -> tuple[Any, spar.State]:
    """A configuration and an untrained state of one seed."""
    cfg = tiny(algo, anchor={"kind": kind}, gate={"eta_abs": 0.0, "eta_rel": 0.0})
    return cfg, jax.tree.map(lambda x: x[0], trainer.start(registry.get(algo), cfg, LOG.spec, [3]).state)


@functools.cache
def prepared(algo: str, kind: anchor.Kind) -> tuple[Any, spar.State, Batch]:
    """The same, and 16 rows with their frozen columns."""
    cfg, state = fresh(algo, kind)
    columns = trainer.prepare(registry.get(algo).stages[1], cfg, jax.tree.map(lambda x: x[None], state), ROWS)
    return cfg, state, Batch(*jax.tree.map(lambda x: jnp.asarray(x[:16]), (ROWS, jax.tree.map(lambda x: x[0], columns))))


def deployed(algo: str, kind: anchor.Kind) -> Policy:
    description, arrays = registry.get(algo).export(*fresh(algo, kind))
    return Policy({**description, "delta_rho": 1.0}, {name: np.asarray(array) for name, array in arrays.items()}, SCALER)


STAGE_ONE = jax.jit(spar.stage_one, static_argnums=0)


def acted(algo: str, kind: anchor.Kind) -> dict[str, jax.Array]:
    """What JAX does in OBS."""
    cfg, state = fresh(algo, kind)
    return jax.jit(registry.get(algo).act, static_argnums=0)(cfg, state, jnp.asarray(SCALER.obs_in(OBS)), KEY)


def equal(a: Any, b: Any) -> bool:
    return all(bool((x == y).all()) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


# The flow itself


def test_the_anchors_loss_equals_a_naive_loop() -> None:
    cfg, state = fresh("spar-mlp", "flow")
    rows = jax.tree.map(lambda x: x[:16], ROWS)
    loss, _ = anchor.bc_loss(cfg.anchor, state.anchor.params, rows, KEY)
    expected = matched(state.anchor.params, np.asarray(rows.obs), np.asarray(rows.action), np.ones(16), KEY)
    assert float(loss) == pytest.approx(expected, rel=1e-4)
    assert float(anchor.bc_loss(cfg.anchor, state.anchor.params, rows, jax.random.key(8))[0]) != pytest.approx(expected, rel=1e-3)


def test_the_residuals_loss_equals_a_naive_loop() -> None:
    """Weights of Stage II on every row, some of them 0; the condition holds the anchor's action."""
    cfg, state, batch = prepared("spar-flow", "flow")
    base, w = (np.asarray(batch.frozen[name]) for name in ("a_base", "weight"))
    assert (w > 0).any() and (w == 0).any() and len(set(w[w > 0])) > 1
    loss = flow.fit_loss(cfg.residual, state.residual.params, batch, KEY)
    conditions = np.concatenate([np.asarray(batch.rows.obs), base], -1)
    expected = matched(state.residual.params, conditions, np.asarray(batch.rows.action) - base, w, KEY)
    assert float(loss) == pytest.approx(expected, rel=1e-4)


def test_draws_are_normal_and_uniform_and_apart() -> None:
    noise, t = (np.asarray(x) for x in flow.draw(KEY, jnp.zeros((20_000, 2))))
    assert noise.shape == (20_000, 2) and t.shape == (20_000, 1)
    np.testing.assert_allclose(noise.mean(0), 0, atol=0.03)
    np.testing.assert_allclose(noise.std(0), 1, atol=0.03)
    np.testing.assert_allclose(np.quantile(t, [0.0, 0.25, 0.5, 0.75, 1.0]), [0, 0.25, 0.5, 0.75, 1], atol=0.02)
    assert np.abs(np.corrcoef(np.concatenate([noise, t], -1).T) - np.eye(3)).max() < 0.03


def test_integration_equals_a_naive_loop() -> None:
    cfg, state = fresh("spar-flow", "flow")
    obs, start = np.asarray(ROWS.obs[:8]), np.random.default_rng(0).normal(size=(3, 8, 2)).astype(np.float32)
    params = state.anchor.params
    for steps in (1, 10):
        found = flow.integrate(cfg.anchor.hidden, params, obs, jnp.asarray(start), steps)
        expected = [[carried(params, obs[b], start[k, b], steps) for b in range(8)] for k in range(3)]
        np.testing.assert_allclose(found, expected, atol=1e-5)
    point = [np.clip(carried(params, obs[b], np.zeros(2), cfg.anchor.flow_steps), -1, 1) for b in range(8)]
    np.testing.assert_allclose(anchor.point(cfg.anchor, params, obs), point, atol=1e-5)


def test_the_anchors_action_stays_in_the_box() -> None:
    cfg, state = fresh("spar-mlp", "flow")
    wild = jax.tree.map(lambda p: 3 * p, state.anchor.params)
    assert float(jnp.abs(flow.from_mode(cfg.anchor.hidden, wild, ROWS.obs, 10)).max()) > 1
    assert float(jnp.abs(anchor.point(cfg.anchor, wild, ROWS.obs)).max()) == 1


BIMODAL, SHARE = 0.6, 0.7  # modes at +-BIMODAL, the upper one this often


def cloned(kind: anchor.Kind) -> tuple[anchor.Config, anchor.State]:
    """An anchor of bimodal actions, one observation."""
    rng = np.random.default_rng(0)
    action = np.where(rng.random((4096, 1)) < SHARE, BIMODAL, -BIMODAL) + 0.05 * rng.normal(size=(4096, 1))
    none = jnp.zeros(4096)
    rows = Transitions(jnp.zeros((4096, 1)), jnp.asarray(action, jnp.float32), none, jnp.zeros((4096, 1)), none)
    cfg = anchor.Config(kind=kind, hidden=(64, 64), learning_rate=3e-3)

    @jax.jit
    def train(state: anchor.State) -> anchor.State:
        def step(state: anchor.State, key: jax.Array) -> tuple[anchor.State, None]:
            index_key, update_key = jax.random.split(key)
            index = jax.random.randint(index_key, (256,), 0, 4096)
            return anchor.update(cfg, state, jax.tree.map(lambda x: x[index], rows), update_key)[0], None

        return jax.lax.scan(step, state, jax.random.split(KEY, 1500))[0]

    return cfg, train(anchor.init(cfg, Spec(1, 1), KEY))


def test_a_flow_recovers_both_modes_and_a_deterministic_anchor_lies_between_them() -> None:
    obs = jnp.zeros((1, 1))
    cfg, state = cloned("flow")
    drawn = np.asarray(flow.sample(cfg.hidden, state.params, obs, 4000, cfg.flow_steps, jax.random.key(1)))
    assert drawn.shape == (4000, 1, 1)
    near_upper, near_lower = (np.abs(drawn - mode) < 0.2 for mode in (BIMODAL, -BIMODAL))
    assert near_upper.mean() == pytest.approx(SHARE, abs=0.07)
    assert near_lower.mean() == pytest.approx(1 - SHARE, abs=0.07)
    median = float(anchor.point(cfg, state.params, obs)[0, 0])
    assert median == pytest.approx(BIMODAL, abs=0.15)  # of the actions; the mode that most of them belong to
    assert median == pytest.approx(np.median(drawn), abs=0.1)
    cfg, state = cloned("deterministic")
    mean = BIMODAL * (2 * SHARE - 1)
    assert float(anchor.point(cfg, state.params, obs)[0, 0]) == pytest.approx(mean, abs=0.1)  # an action that was never logged


@pytest.mark.parametrize(("algo", "part"), [("spar-mlp", "anchor"), ("spar-flow", "residual")])
def test_a_flow_without_steps_is_refused(algo: str, part: str) -> None:
    cfg = tiny(algo, **{part: {"flow_steps": 0, **({"kind": "flow"} if part == "anchor" else {})}})
    with pytest.raises(SparError, match=rf"{part}\.flow_steps is 0; .*at least 1"):
        registry.get(algo).init(cfg, LOG.spec, KEY)


# The three stages


def test_stage_one_trains_a_flow_and_leaves_zero_alone() -> None:
    batch = Batch(jax.tree.map(lambda x: x[:32], ROWS), {})
    for kind in ("flow", "zero"):
        cfg, state = fresh("spar-mlp", kind)
        new, metrics = STAGE_ONE(cfg, state, batch, KEY, jnp.int32(0))
        assert equal(new.anchor, state.anchor) == (kind == "zero") == ("anchor_loss" not in metrics)
        assert not equal(new.critics.critic, state.critics.critic)


@pytest.mark.parametrize("kind", ["flow", "zero"])
def test_the_critics_can_bootstrap_through_it(kind: anchor.Kind) -> None:
    """Target "anchor": the step is that of the critics at the anchor's next actions, computed row by row."""
    cfg, state = fresh("spar-mlp", kind)
    cfg = dataclasses.replace(cfg, critic=dataclasses.replace(cfg.critic, target="anchor"))
    rows = jax.tree.map(lambda x: x[:32], ROWS)
    new, metrics = STAGE_ONE(cfg, state, Batch(rows, {}), KEY, jnp.int32(0))
    actions = np.zeros((32, 2))
    if kind == "flow":
        actions = np.stack([np.clip(carried(new.anchor.params, s, np.zeros(2), 10), -1, 1) for s in np.asarray(rows.next_obs)])
        assert np.ptp(actions) > 0.01
    update = jax.jit(critics.update, static_argnums=0)
    _, expected = update(cfg.critic, state.critics, rows, jnp.asarray(actions, jnp.float32))
    assert float(metrics["critic_loss"]) == pytest.approx(float(expected["critic_loss"]), rel=1e-4)


def test_with_zero_the_residual_is_the_action_itself() -> None:
    """A CVAE of residuals is then a CVAE of actions: the loss is the same as with the logged action as the goal."""
    cfg, state, batch = prepared("spar-proj", "zero")
    assert batch.frozen["a_base"].shape == (16, 2) and not np.asarray(batch.frozen["a_base"]).any()
    loss, _ = jax.jit(residual.fit_loss, static_argnums=0)(cfg.cvae, state.residual.params, batch, KEY)
    noise, nothing = jax.random.normal(KEY, (16, cfg.cvae.latent_dim)), jnp.zeros((16, 2))
    params, rows = state.residual.params, batch.rows
    elbo = jax.jit(residual.elbo_loss, static_argnums=0)
    expected, _ = elbo(cfg.cvae, params, rows.obs, nothing, rows.action, batch.frozen["weight"], noise)
    assert float(loss) == pytest.approx(float(expected))


def test_stage_two_moves_the_flow_and_nothing_frozen() -> None:
    """A row without weight teaches nothing."""
    cfg, state, batch = prepared("spar-flow", "flow")
    new, _ = jax.jit(spar.fit_flow, static_argnums=0)(cfg, state, batch, KEY, jnp.int32(0))
    assert equal(new[:2], state[:2]) and not equal(new.residual.params, state.residual.params)
    nothing = batch._replace(frozen={**batch.frozen, "weight": jnp.zeros(16)})
    slope = jax.jit(jax.grad(lambda p: flow.fit_loss(cfg.residual, p, nothing, KEY)))(state.residual.params)
    assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(slope))


# Deployment


@pytest.mark.parametrize("kind", ["flow", "zero"])
def test_numpy_acts_as_jax_does(kind: anchor.Kind) -> None:
    policy, expected = deployed("spar-mlp", kind), acted("spar-mlp", kind)
    decision = policy.act(OBS)
    np.testing.assert_allclose(SCALER.action_in(policy.anchor_action(OBS)), expected["anchor"], atol=1e-5)
    np.testing.assert_array_equal(decision.accepted, expected["accepted"])
    assert 0 < decision.accepted.mean() < 1  # both branches were compared
    np.testing.assert_allclose(decision.action, expected["action"], atol=1e-5)
    np.testing.assert_allclose(decision.gain, expected["gain"], atol=1e-5)


@pytest.mark.parametrize("kind", ["deterministic", "flow"])
def test_a_flows_candidates_are_the_same_in_numpy_and_in_jax(kind: anchor.Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    policy, (cfg, state) = deployed("spar-flow", kind), fresh("spar-flow", kind)
    prior = np.asarray(jax.random.normal(KEY, (cfg.gate.candidates, len(OBS), 2)))

    class Given:
        def standard_normal(self, shape: tuple[int, ...], dtype: type) -> np.ndarray:
            assert shape == prior.shape
            return prior.astype(dtype)

    monkeypatch.setattr(policy, "_rng", Given())
    s = SCALER.obs_in(OBS)
    base = SCALER.action_in(policy.anchor_action(OBS))
    ours = policy._residuals(s, base)
    np.testing.assert_allclose(ours, spar.propose_flow(cfg, state, jnp.asarray(s), jnp.asarray(base), KEY), atol=1e-5)
    assert ours.shape == prior.shape and ours.std(0).min() > 0.1  # K different candidates
    expected, decision = acted("spar-flow", kind), policy.act(OBS)
    np.testing.assert_array_equal(decision.accepted, expected["accepted"])
    np.testing.assert_allclose(decision.action, expected["action"], atol=1e-5)


def test_zero_is_the_centre_of_the_users_box_and_the_correction_the_whole_action() -> None:
    """SPAR-PROJ on no anchor, ungated, with one candidate: what the decoder says, and nothing else."""
    rows = plant_rows()
    low, high = np.array([10.0, -4.0], np.float32), np.array([30.0, 0.0], np.float32)
    action = low + (rows["actions"] + 1) / 2 * (high - low)
    columns = (rows[name] for name in ("rewards", "terminals", "timeouts", "next_observations"))
    log = from_rows("boxed", rows["observations"], action, *columns, action_low=low, action_high=high)
    cfg = tiny("spar-proj", anchor={"kind": "zero"}, gate={**gate.ALWAYS_RESIDUAL, "candidates": 1})
    state = jax.tree.map(lambda x: x[0], trainer.start(registry.get("spar-proj"), cfg, log.spec, [0]).state)
    description, arrays = registry.get("spar-proj").export(cfg, state)
    scaler = log.scaler()
    policy = Policy({**description, "delta_rho": 1.0}, {name: np.asarray(array) for name, array in arrays.items()}, scaler)
    obs = log.observations[log.obs_index][:32]
    np.testing.assert_allclose(policy.anchor_action(obs), np.tile([20.0, -2.0], (32, 1)))
    broken = policy.act(np.full(3, np.nan))
    np.testing.assert_allclose(broken.action, [20.0, -2.0])
    assert broken.reason == deploy.NOT_FINITE
    policy.reset(0)
    z = np.random.default_rng(0).standard_normal((1, 32, cfg.cvae.latent_dim), dtype=np.float32)
    decoded = residual.decode(cfg.cvae, state.residual.params["decoder"], scaler.obs_in(obs), jnp.zeros((32, 2)), z)[0]
    decision = policy.act(obs)
    assert decision.accepted.all()
    np.testing.assert_allclose(scaler.action_in(decision.action), np.clip(decoded, -1, 1), atol=1e-5)


@pytest.mark.parametrize(("algo", "kind"), [("spar-flow", "flow"), ("spar-proj", "zero")])
def test_saved_policies_load_without_jax_and_act_alike(algo: str, kind: anchor.Kind, tmp_path: Path) -> None:
    policy = deployed(algo, kind)
    exports.save(tmp_path / "policy", {0: policy}, {})
    policy.reset(1)
    expected = policy.act(OBS)
    np.save(tmp_path / "obs.npy", OBS)
    code = (
        "import sys, numpy, spar; p = spar.load_policy(sys.argv[1]); p.reset(1); d = p.act(numpy.load(sys.argv[2]));"
        "numpy.savez(sys.argv[3], action=d.action, accepted=d.accepted, gain=d.gain);"
        "bad = [m for m in ('jax', 'flax', 'gymnasium', 'mujoco') if m in sys.modules]; assert not bad, bad"
    )
    command = [sys.executable, "-c", code, tmp_path / "policy", tmp_path / "obs.npy", tmp_path / "decision.npz"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "decision.npz") as found:
        for name in ("action", "accepted", "gain"):
            np.testing.assert_array_equal(found[name], getattr(expected, name))


def test_a_policy_that_names_no_anchor_has_the_networks_one(tmp_path: Path) -> None:
    """Policies written before there was a choice."""
    policy = deployed("spar-mlp", "deterministic")
    exports.save(tmp_path / "policy", {0: policy}, {})
    path = tmp_path / "policy" / "policy.json"
    document = json.loads(path.read_text())
    assert document.pop("anchor") == {"kind": "tanh"}
    path.write_text(json.dumps(document))
    np.testing.assert_array_equal(exports.load(tmp_path / "policy").act(OBS).action, policy.act(OBS).action)


@pytest.mark.parametrize("lost", ["anchor/Dense_0/kernel", "anchor/Dense_2/kernel", "residual/Dense_1/bias", "anchor kind"])
def test_a_damaged_flow_fails_when_loaded(lost: str, tmp_path: Path) -> None:
    exports.save(tmp_path / "policy", {0: deployed("spar-flow", "flow")}, {})
    if lost == "anchor kind":
        path = tmp_path / "policy" / "policy.json"
        path.write_text(path.read_text().replace('"kind": "flow"', '"kind": "wave"'))
    else:
        spoil_arrays(lambda arrays: arrays.pop(f"seed-0/{lost}"))(tmp_path / "policy")
    with pytest.raises(SparError, match="do not fit"):
        exports.load(tmp_path / "policy")


# A whole run


@pytest.mark.parametrize(("algo", "kind"), [("spar-flow", "flow"), ("spar-cvae", "zero")])
def test_a_run_is_cut_goes_on_and_is_finetuned(algo: str, kind: anchor.Kind, tmp_path: Path) -> None:
    """Through the run directory: cut in its second stage, resumed from the checkpoint; then online in a real environment."""
    log, run = pendulum_log(200), tmp_path / "run"
    cfg = api.configure(
        log.name, algo, tiny(algo, anchor={"kind": kind}), env=ENV, seeds=[0], steps_anchor=20, steps_residual=20, episodes=1,
        loop=trainer.Settings(batch_size=16, log_every=10, checkpoint_seconds=0.0), eval=EvalConfig(every=0),
    )  # fmt: skip

    class Cut(Silent):
        def stage(self, name: str, done: int, total: int) -> None:
            self.name = name

        def progress(self, done: int, note: str) -> None:
            if self.name == "residual" and done == 10:
                raise KeyboardInterrupt

    experiment.create(run, cfg, log)
    with pytest.raises(KeyboardInterrupt):
        experiment.execute(run, log, Cut())
    begun = checkpoint.Checkpoints(run / "checkpoints", [20, 20], reader=True)
    halfway = begun.latest(trainer.start(registry.get(algo), cfg.config, log.spec, [0]))
    begun.close()
    assert halfway is not None and halfway.position < (1, 20)
    assert np.isfinite(experiment.execute(run, log)["returns"]["policy"]).all()
    end = checkpoint.last_state(run, cfg, log.spec, [0])
    assert equal(end.anchor, halfway.state.anchor)
    before = load_file(run / "policy" / "arrays.safetensors")
    _, exported = registry.get(algo).export(cfg.config, jax.tree.map(lambda x: x[0], end))
    for name, array in exported.items():
        np.testing.assert_array_equal(before[f"seed-0/{name}"], array)

    finetune.execute(finetune_plan.configure(run, 20, block=10, eval_every=0), tmp_path / "tuned", log)
    after = load_file(tmp_path / "tuned" / "policy" / "arrays.safetensors")
    changed = {key.split("/")[1] for key, array in before.items() if not np.array_equal(array, after[key])}
    assert changed == {"critics", "residual" if algo == "spar-flow" else "decoder"}
