"""One contract for every baseline, and what only some of them promise."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from spar import nets, registry
from spar.baselines import common, cql, iql, lapo, onestep, presets, td3
from spar.data.rows import from_rows
from spar.data.scalers import Scaler
from spar.deploy import exports
from spar.deploy import policy as deploy
from spar.deploy.policy import Policy
from spar.method import gate
from spar.runs.config import from_dict, to_dict
from spar.types import Batch, DataNeeds, Spec, Transitions
from tests import test_probes
from tests.conftest import plant_log, tiny
from tests.learning import Course, act, advance, learn

BASELINES = [name for name in registry.ALGOS if name in presets.PRESETS]
KEY = jax.random.key(0)
FALLING = {"bc": ["actor"], "bc10": ["actor"], "onestep": ["behaviour", "critic"], "bcq": ["cvae", "critic"], "plas": ["cvae", "critic"],
           "lapo": ["cvae", "critic"], "spot": ["cvae", "critic"], "cql": ["td"]}  # fmt: skip
STEPS = 120  # of every stage


def fixed_batch() -> Transitions:
    """16 rows repeated, each with an observation of its own, all terminated: actions and rewards can be learned by heart. Shapes are the
    probes', so that both use the same compiled programs."""
    rows = test_probes.transitions()
    index = jnp.arange(len(rows.obs)) % 16 * (len(rows.obs) // 16)
    obs = jnp.asarray(np.random.default_rng(0).random(rows.obs.shape), jnp.float32)
    return jax.tree.map(lambda column: column[index], rows._replace(obs=obs, terminated=jnp.ones_like(rows.terminated)))


class Trained(NamedTuple):
    cfg: Any
    course: Course
    policy: Policy

    @property
    def state(self) -> Any:
        return self.course.state


ZERO, ONE = np.zeros(7, np.float32), np.ones(7, np.float32)
SCALER = Scaler(ZERO, ONE, ZERO, ONE, -ONE[:1], ONE[:1], ZERO)
OBS = np.random.default_rng(0).random((64, 7)).astype(np.float32)


@functools.cache
def trained(algo: str) -> Trained:
    """`STEPS` updates of every stage on a fixed batch."""
    record, cfg = registry.get(algo), test_probes.configure(algo)
    course = learn(algo, cfg, fixed_batch(), [STEPS] * len(record.stages), seed=7, parts=4)
    description, arrays = record.export(cfg, course.state)
    policy = Policy({**description, "delta_rho": 1.0}, {name: np.asarray(array) for name, array in arrays.items()}, SCALER)
    return Trained(cfg, course, policy)


@pytest.mark.parametrize("algo", BASELINES)
def test_losses_fall_on_a_fixed_batch(algo: str) -> None:
    course = trained(algo).course
    for name in FALLING.get(algo, ["critic"]):
        values = [metrics[f"{name}_loss"] for metrics in course.metrics if f"{name}_loss" in metrics]
        assert values[-1] < 0.7 * values[0] or values[-1] < values[0] - 0.1, (name, values)
    assert all(np.isfinite(value) for metrics in course.metrics for value in metrics.values())


MOVES = [(algo, "actor") for algo in BASELINES if not algo.startswith("bc") or algo == "bcq"] + [("iql", "value"), ("lapo", "value")]


def only(new: Any, old: Any, part: str) -> Any:
    """`old`, but for `part`; SPOT's and TD3+BC's lie one level down."""
    if hasattr(old, "td3"):
        return old._replace(td3=only(new.td3, old.td3, part))
    return old._replace(**{part: getattr(new, part)})


@pytest.mark.parametrize(("algo", "part"), MOVES)
def test_a_loss_falls_while_all_that_it_reads_stands_still(algo: str, part: str) -> None:
    """What the others learned on the fixed batch, and a fresh actor, or value: it alone moves."""
    found, last = trained(algo), registry.get(algo).stages[-1]

    def update(cfg: Any, state: Any, batch: Batch, key: jax.Array, step: jax.Array) -> tuple[Any, dict[str, jax.Array]]:
        new, metrics = last.update(cfg, state, batch, key, step)
        return only(new, state, part), {"loss": metrics[f"{part}_loss"]}

    state, losses = only(found.course.states[0], found.state, part), []
    for i in range(3):
        state, sums = advance(update, found.cfg, state, fixed_batch(), KEY, jnp.int32(i * STEPS), jnp.int32(STEPS))
        losses.append(float(sums["loss"]) / STEPS)
    assert max(losses[1:]) < losses[0], losses


@pytest.mark.parametrize("algo", BASELINES)
def test_equal_seeds_are_equal_to_the_bit_and_others_are_not(algo: str) -> None:
    """At the end of every stage; the seed decides the start, the batches and the noise."""
    steps = [10] * len(registry.get(algo).stages)
    first, again, other = (learn(algo, trained(algo).cfg, fixed_batch(), steps, seed) for seed in (7, 7, 8))
    for stage in range(len(steps)):
        one, same, different = (jax.tree.leaves(course.at_end_of(stage)) for course in (first, again, other))
        for a, b in zip(one, same, strict=True):
            np.testing.assert_array_equal(a, b)
        assert any(not np.array_equal(a, b) for a, b in zip(one, different, strict=True))


@pytest.mark.parametrize("algo", BASELINES)
def test_acting_has_shapes_bounds_and_no_chance_of_its_own(algo: str) -> None:
    found = trained(algo)
    obs = jnp.asarray(SCALER.obs_in(OBS))
    first, again = (act(algo, found.cfg, found.state, obs) for _ in range(2))
    assert first["action"].shape == (64, 1) and first["accepted"].shape == first["gain"].shape == (64,)
    assert (jnp.abs(first["action"]) <= 1).all() and bool(first["accepted"].all()) and not first["gain"].any()
    np.testing.assert_array_equal(first["action"], first["anchor"])
    np.testing.assert_array_equal(first["action"], again["action"])


@pytest.mark.parametrize("algo", BASELINES)
def test_numpy_acts_as_jax_does(algo: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = trained(algo)
    settings = found.policy.description["actor"]
    if "candidates" in settings:
        z = np.asarray(jax.random.normal(jax.random.key(1), (settings["candidates"], len(OBS), settings["latent_dim"])))

        class Given:
            def standard_normal(self, shape: tuple[int, ...], dtype: type) -> np.ndarray:
                assert shape == z.shape
                return z.astype(dtype)

        monkeypatch.setattr(found.policy, "_rng", Given())
    expected = act(algo, found.cfg, found.state, jnp.asarray(SCALER.obs_in(OBS)))["action"]
    decision = found.policy.act(OBS)
    difference = np.abs(SCALER.action_in(decision.action) - expected).max(-1)
    if "candidates" in settings:  # of two candidates whose values differ by a rounding error, either may win
        q = [test_probes.Q_VALUES(found.cfg.critic, found.state.critics.params, OBS, a)[0] for a in (decision.action, expected)]
        np.testing.assert_allclose(*q, atol=1e-5)
        assert (difference < 1e-5).mean() > 0.9
    else:
        assert difference.max() < 1e-5
    assert decision.accepted.all() and not decision.gain.any() and not decision.support.any()
    assert set(decision.reason) == {deploy.NO_GATE}


@pytest.mark.parametrize("algo", BASELINES)
def test_saved_and_loaded_policies_are_the_same(algo: str, tmp_path: Path) -> None:
    policy = trained(algo).policy
    exports.save(tmp_path / "policy", {3: policy}, {"why": "test"})
    loaded = exports.load(tmp_path / "policy")
    policy.reset(1)
    loaded.reset(1)
    for before, after in zip(policy.act(OBS), loaded.act(OBS), strict=True):
        np.testing.assert_array_equal(before, after)
    assert loaded.with_gate(**gate.ALWAYS_ANCHOR) is loaded and not loaded.gated


def test_bad_observations_get_a_usable_action_and_the_reason() -> None:
    policy = trained("awac").policy  # a linear mean, which nothing else bounds
    broken, far = OBS[0].copy(), OBS[0].copy()
    broken[2], far[3] = np.nan, 1e6
    assert policy.act(far).accepted  # as the method was published; the guard is the deployer's choice
    guarded = policy.with_gate(obs_margin=1.0)
    for obs, reason in ((broken, deploy.NOT_FINITE), (far, deploy.OUT_OF_RANGE), (np.zeros(4), deploy.WRONG_SHAPE)):
        decision = guarded.act(obs)
        assert decision.reason == reason.replace("anchor: ", deploy.FALLBACK)
        assert decision.accepted is False and decision.gain == -np.inf
        assert np.isfinite(decision.action).all() and (np.abs(decision.action) <= 1).all()
    own = np.array([0.25], np.float32)
    np.testing.assert_array_equal(policy.act(broken, own).action, own)  # the user's controller keeps the plant
    np.testing.assert_array_equal(policy.act(OBS[0], own).action, policy.act(OBS[0]).action)


FROZEN = {"plas": {1: ("cvae",)}, "spot": {1: ("density",)}, "onestep": {1: ("behaviour", "actor"), 2: ("behaviour", "critics")}}


@pytest.mark.parametrize("algo", FROZEN)
def test_frozen_parts_do_not_move(algo: str) -> None:
    course = trained(algo).course
    for stage, parts in FROZEN[algo].items():
        before, after = course.at_end_of(stage - 1), course.at_end_of(stage)
        for part in parts:
            for a, b in zip(jax.tree.leaves(getattr(before, part)), jax.tree.leaves(getattr(after, part)), strict=True):
                np.testing.assert_array_equal(a, b)
        assert any(not np.array_equal(a, b) for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True))


@pytest.mark.parametrize("algo", [name for name in BASELINES if hasattr(registry.get(name).default, "critic")])
def test_targets_are_those_of_the_target_critics(algo: str) -> None:
    """Five more than they say, and the loss that reads them changes: of IQL and LAPO that of V, to which the critics are fitted."""
    cfg, state, rows = trained(algo).cfg, trained(algo).state, test_probes.transitions()
    number = 1 if algo == "onestep" else len(registry.get(algo).stages) - 1
    holder = state.td3 if algo == "spot" else state

    def losses(target: Any) -> dict[str, float]:
        own = holder._replace(critics=holder.critics._replace(target=target))
        own = state._replace(td3=own) if algo == "spot" else own
        _, sums = advance(registry.get(algo).stages[number].update, cfg, own, rows, KEY, jnp.int32(0), jnp.int32(1))
        return {name: float(value) for name, value in sums.items()}

    raised = jax.tree.map(lambda leaf: leaf + (5.0 if leaf.shape[-1] == 1 and leaf.ndim < 3 else 0.0), holder.critics.target)
    plain, shifted = losses(holder.critics.target), losses(raised)
    reads = "value_loss" if algo in ("iql", "lapo") else "critic_loss"
    assert abs(shifted[reads] - plain[reads]) > 0.1 * abs(plain[reads])


def test_onesteps_policy_starts_as_the_behaviour() -> None:
    state = trained("onestep").course.at_end_of(1)
    for a, b in zip(jax.tree.leaves(state.actor.params), jax.tree.leaves(state.behaviour.params), strict=True):
        np.testing.assert_array_equal(a, b)


# The pieces


def test_layers_start_as_pytorchs_do() -> None:
    obs, action = jnp.zeros((1, 11)), jnp.zeros((1, 3))
    critics, gaussian = jax.jit(
        lambda: (
            common.uniform(nets.CriticEnsemble(2, (400, 300)), KEY, obs, action, last=1e-3),
            common.uniform(nets.GaussianPolicy((8,), 3), KEY, obs),
        )
    )()
    layers = critics["params"]["members"]["mlp"]
    for name, bound in (("Dense_0", 14**-0.5), ("Dense_1", 400**-0.5), ("Dense_2", 1e-3)):
        for leaf in layers[name].values():
            assert 0.9 * bound < float(np.abs(leaf).max()) <= bound or leaf.size < 10
    assert not np.array_equal(layers["Dense_0"]["kernel"][0], layers["Dense_0"]["kernel"][1])  # the critics differ
    assert not np.asarray(gaussian["params"]["log_std"]).any()


def test_every_runs_on_multiples_and_its_metrics_average_right() -> None:
    def counted(step: int) -> tuple[Any, dict[str, jax.Array]]:
        return common.every(2, jnp.int32(step), lambda: (jnp.int32(1), {"loss": jnp.float32(3.0)}), jnp.int32(0))

    runs = [counted(step) for step in range(4)]
    assert [int(run[0]) for run in runs] == [1, 0, 1, 0]
    assert np.mean([float(run[1]["loss"]) for run in runs]) == 3.0


def test_dropout_needs_a_key() -> None:
    @jax.jit
    def outputs(x: jax.Array) -> tuple[jax.Array, ...]:
        params = common.uniform(nets.MLP((64,), 2), KEY, x)
        return nets.MLP((64,), 2).apply(params, x), common.mlp(params, x, 0.5), common.mlp(params, x, 0.5, KEY)

    plain, idle, dropped = outputs(jnp.ones((5, 3)))
    np.testing.assert_array_equal(idle, plain)
    assert not np.allclose(dropped, plain)


def test_target_noise_is_clipped_and_stays_in_the_box() -> None:
    action = td3.smoothed(td3.Config(), jnp.array([[0.0], [0.0], [0.9]]), jnp.array([[1.0], [-100.0], [100.0]]))
    np.testing.assert_allclose(action[:, 0], [0.2, -0.5, 1.0], rtol=1e-6)


def test_cqls_penalty_against_a_loop() -> None:
    found, rows = trained("cql"), jax.tree.map(lambda column: column[:8], fixed_batch())
    rng = np.random.default_rng(0)
    drawn, log_prob = rng.uniform(-1, 1, size=(4, 8, 1)).astype(np.float32), rng.normal(size=(4, 8)).astype(np.float32)
    params = found.state.critics.params

    @jax.jit
    def both() -> tuple[jax.Array, ...]:
        values = (common.q_values(found.cfg.critic, params, rows.obs, action) for action in (drawn, rows.action))
        return (cql.conservative(found.cfg, params, rows, drawn, log_prob), *values)

    penalty, q, data = (np.asarray(value, np.float64) for value in both())
    for i in range(2):
        rises = [np.log(sum(np.exp(q[i, k, b] - log_prob[k, b]) for k in range(4))) - data[i, b] for b in range(8)]
        assert penalty[i] == pytest.approx(np.mean(rises), rel=1e-4)


def test_onesteps_reverse_kl_is_that_of_quadrature() -> None:
    """KL(pi || behaviour) in one dimension, pi truncated to the box and the behaviour not; Q is taken off."""
    obs, grid = jnp.asarray(test_probes.EYE[:1]), np.linspace(-1, 1, 20001)
    rows = jax.tree.map(lambda column: column[:1], test_probes.transitions())._replace(obs=obs)
    cfg = dataclasses.replace(trained("onestep").cfg, operator="reverse-kl", alpha=0.3)
    state, uniform = trained("onestep").state, (jnp.arange(4000)[:, None, None] + 0.5) / 4000

    @jax.jit
    def both() -> tuple[Any, ...]:
        args = (state.behaviour.params, state.critics.params, rows, uniform)
        loss, metrics = onestep.reverse_kl_loss(cfg, state.actor.params, *args)
        return loss, metrics, onestep.gaussian(state.actor.params, obs), onestep.gaussian(state.behaviour.params, obs)

    loss, metrics, (mean, log_std), (other_mean, other_log_std) = both()
    own = stats.truncnorm((-1 - mean) / np.exp(log_std), (1 - mean) / np.exp(log_std), mean, np.exp(log_std))
    density = own.pdf(grid)[0]
    log_ratio = np.maximum(own.logpdf(grid)[0], -1e6) - stats.norm(other_mean, np.exp(other_log_std)).logpdf(grid)[0]
    assert float(metrics["divergence"]) == pytest.approx(
        np.trapezoid(np.where(density > 0, density * log_ratio, 0.0), grid), rel=1e-2, abs=1e-3
    )
    assert float(loss) == pytest.approx(0.3 * float(metrics["divergence"]) - float(metrics["policy_q"]), rel=1e-4)


def test_cqls_entropy_bonus_is_in_the_target_where_it_is_asked_for() -> None:
    """Against the same update with rewards that hold the bonus already."""
    plain = dataclasses.replace(trained("cql").cfg, gap=None)
    bonus, rows = dataclasses.replace(plain, backup_entropy=True), fixed_batch()
    rows, state, key = jax.tree.map(lambda column: column[:8], rows), trained("cql").state, jax.random.key(3)
    rows = rows._replace(terminated=jnp.zeros(8))

    @jax.jit
    def outcome() -> tuple[Any, ...]:
        _, next_key, _ = jax.random.split(key, 3)
        _, log_prob = cql.sample(plain, state.actor.params, rows.next_obs, jax.random.normal(next_key, (1, *rows.action.shape)))
        taken = -plain.critic.discount * jnp.exp(state.log_alpha.params) * log_prob[0]
        own = cql.update(bonus, state, Batch(rows, {}), key, jnp.int32(9))[1]
        same = cql.update(plain, state, Batch(rows._replace(reward=rows.reward + taken), {}), key, jnp.int32(9))[1]
        return own["td_loss"], same["td_loss"], jnp.abs(taken).min()

    own, same, least = map(float, outcome())
    assert own == pytest.approx(same, rel=1e-4) and least > 0


def test_iqls_policy_rate_falls_to_nothing() -> None:
    rate = iql.actor_rate(iql.Config(decay_steps=100))
    assert [round(float(rate(step)), 9) for step in (0, 50, 100)] == [3e-4, 1.5e-4, 0.0]


def test_lapo_takes_its_statistics_from_the_whole_data() -> None:
    """And acts in the units of the data: no action is farther from the mean than the decoder says, in standard deviations."""
    found, rows = trained("lapo"), fixed_batch()
    np.testing.assert_allclose(found.state.action_mean, rows.action.mean(0), atol=1e-6)
    np.testing.assert_allclose(found.state.action_std, rows.action.std(0), rtol=1e-4)
    np.testing.assert_allclose(found.state.reward_range, [rows.reward.min(), rows.reward.max()])
    action, raw = jax.jit(
        lambda state: (
            lapo.policy(found.cfg, state, rows.obs, KEY),
            lapo.decoded(found.cfg, state.cvae.target, state.actor.params, rows.obs),
        )
    )(found.state)
    np.testing.assert_allclose(action, found.state.action_mean + found.state.action_std * raw, atol=1e-5)


# Presets


@pytest.mark.parametrize("algo", BASELINES)
def test_presets_say_where_they_come_from_and_survive_json(algo: str) -> None:
    for family in presets.FAMILIES:
        preset = presets.preset_for(algo, family)
        assert preset is not None and preset.source and type(preset.config) is registry.get(algo).config
        assert from_dict(type(preset.config), to_dict(preset.config)) == preset.config
    assert presets.preset_for(algo, "my-own-plant") is None
    data = registry.get(algo).data
    assert preset.data.next_action == data.next_action and preset.data.top_episodes == data.top_episodes


def test_deterministic_iql_fits_by_the_weighted_square() -> None:
    cfg, rows = dataclasses.replace(tiny("iql"), kind="deterministic"), fixed_batch()
    params = registry.get("iql").init(cfg, Spec(7, 1), KEY).actor.params
    advantage = np.linspace(-1, 3, len(rows.reward))
    mean, _ = common.gaussian(cfg.actor, params, rows.obs)
    expected = np.mean([min(np.exp(3 * a), 100) * np.sum((m - x) ** 2) for a, m, x in zip(advantage, mean, rows.action, strict=True)])
    assert float(iql.actor_loss(cfg, params, jnp.asarray(advantage), rows)[0]) == pytest.approx(expected, rel=1e-5)


def test_online_iqls_policy_learns_at_its_full_rate() -> None:
    """After an offline run whose schedule has come to its end."""
    log = plant_log()
    batch, key = Batch(log.transitions(log.scaler()), {}), jax.random.key(1)
    cfg = dataclasses.replace(tiny("iql"), decay_steps=2)
    state = registry.get("iql").init(cfg, log.spec, jax.random.key(0))
    for step in range(3):
        state, _ = iql.update(cfg, state, batch, key, jnp.int32(step))
    stuck, _ = iql.update(cfg, state, batch, key, jnp.int32(3))
    moving, _ = iql.online(cfg, state, batch, key, jnp.int32(0))
    assert jax.tree.structure(moving) == jax.tree.structure(stuck)
    for old, same, new in zip(*map(jax.tree.leaves, (state.actor.params, stuck.actor.params, moving.actor.params)), strict=True):
        np.testing.assert_array_equal(old, same)
        assert not np.array_equal(old, new)


def test_of_equal_returns_the_shorter_episodes_are_the_best() -> None:
    ends = np.zeros(12, bool)
    ends[[4, 6, 11]] = True  # 5, 2 and 5 steps, each with one reward at its end
    log = from_rows("goals", np.arange(12.0)[:, None], np.zeros((12, 1)), ends.astype(float), ends, np.zeros(12, bool))
    assert log.best(0.4).lengths.tolist() == [2]


def test_presets_of_tasks() -> None:
    assert presets.preset_for("spot", "halfcheetah-medium-expert").config.lam == 1.0
    assert presets.preset_for("spot", "antmaze-umaze").config.lam == 0.25
    assert presets.preset_for("iql", "antmaze-large-diverse").config.expectile == 0.9
    assert presets.preset_for("iql", "hopper-medium").data.reward == "return-range"
    assert presets.preset_for("iql", "hopper-medium-replay").config.kind == "deterministic"
    assert presets.preset_for("iql", "walker2d-medium").data == DataNeeds()
    assert presets.preset_for("iql", "pointmaze-large") == presets.preset_for("iql", "maze2d-large") == presets.PRESETS["iql"]["maze2d"]
    assert presets.preset_for("spar-mlp", "hopper-medium") is None
