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
from spar.baselines import common, cql, iql, lapo, presets, spot, td3
from spar.data.rows import from_rows
from spar.data.scalers import Scaler
from spar.deploy import policy as deploy
from spar.deploy.policy import Policy
from spar.method import gate
from spar.runs.config import from_dict, to_dict
from spar.types import Batch, Spec, Transitions
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


@pytest.mark.parametrize("algo", BASELINES)
def test_equal_seeds_are_equal_to_the_bit_and_others_are_not(algo: str) -> None:
    """The first part again; the seed decides the start, the batches and the noise."""
    found, stages = trained(algo), len(registry.get(algo).stages)
    again, other = (learn(algo, found.cfg, fixed_batch(), [STEPS // 4] + [0] * (stages - 1), seed).states[1] for seed in (7, 8))
    first = jax.tree.leaves(found.course.states[1])
    for a, b in zip(first, jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(a, b)
    assert any(not np.array_equal(a, b) for a, b in zip(first, jax.tree.leaves(other), strict=True))


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
    deploy.save(tmp_path / "policy", {3: policy}, {"why": "test"})
    loaded = deploy.load(tmp_path / "policy")
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


FROZEN = {"plas": {1: "cvae"}, "spot": {1: "density"}, "onestep": {1: "behaviour", 2: "behaviour"}}


@pytest.mark.parametrize("algo", FROZEN)
def test_frozen_parts_do_not_move(algo: str) -> None:
    course = trained(algo).course
    for stage, part in FROZEN[algo].items():
        before, after = course.at_end_of(stage - 1), course.at_end_of(stage)
        for a, b in zip(jax.tree.leaves(getattr(before, part)), jax.tree.leaves(getattr(after, part)), strict=True):
            np.testing.assert_array_equal(a, b)
        assert any(not np.array_equal(a, b) for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True))


def targets(state: Any) -> Any:
    """Of the critics."""
    return (state.td3 if hasattr(state, "td3") else state).critics.target


@pytest.mark.parametrize("algo", [name for name in BASELINES if hasattr(registry.get(name).default, "critic")])
def test_a_stage_says_how_often_it_moves_the_target_critics(algo: str) -> None:
    """Counted, in four updates of every stage."""
    cfg, course, key = trained(algo).cfg, trained(algo).course, jax.random.key(7)
    for number, stage in enumerate(registry.get(algo).stages):
        state, moved = course.at_end_of(number), 0
        for step in range(4):
            after, _ = advance(stage.update, cfg, state, fixed_batch(), key, jnp.int32(step), jnp.int32(1))
            pairs = zip(jax.tree.leaves(targets(state)), jax.tree.leaves(targets(after)), strict=True)
            moved += any((np.asarray(old) != np.asarray(new)).any() for old, new in pairs)
            state = after
        assert moved == 4 * stage.moves, stage.name


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


# SPOT's density


def test_spots_estimate_tends_to_the_density_and_never_exceeds_it_on_average() -> None:
    """One latent and one action dimension: log p(a|s) by quadrature over z, and the estimate for growing L."""
    cfg = common.CVAEConfig(hidden=(16,), latent_per_action=1, kl_weight=0.5)
    params = common.start_cvae(cfg, Spec(7, 1), KEY).params
    obs, action = jnp.asarray(OBS[:4]), jnp.array([[-0.5], [0.0], [0.3], [0.8]])
    z = jnp.linspace(-8, 8, 2001)[:, None, None] * jnp.ones((1, 4, 1))
    sigma = np.sqrt(cfg.kl_weight / 2)  # beta A / (2 Z)
    decoded = np.asarray(common.decode(params, obs, z))
    density = stats.norm.pdf(np.asarray(action), decoded, sigma)[..., 0] * stats.norm.pdf(np.asarray(z))[..., 0]
    exact = np.log(np.trapezoid(density, dx=16 / 2000, axis=0))

    @functools.partial(jax.jit, static_argnums=0)
    def estimate(count: int) -> jax.Array:
        keys = jax.random.split(KEY, 2000 // count)
        draw = lambda key: spot.cvae_log_prob(cfg, params, obs, action, jax.random.normal(key, (count, 4, 1)))  # noqa: E731
        return jax.lax.map(draw, keys).mean(0)

    one, ten, many = (np.asarray(estimate(count)) for count in (1, 10, 1000))
    np.testing.assert_allclose(many, exact, atol=0.02)
    assert (one < ten + 0.02).all() and (ten < exact + 0.02).all() and (one < exact).all()


def test_spots_penalty_has_the_units_of_the_elbo_for_every_l() -> None:
    """L = 1 is the closed-form ELBO; a larger L tightens the bound, in the same units; the KL sampled or in closed form is one mean."""
    cfg = spot.Config(cvae=common.CVAEConfig(hidden=(16,)))
    params = common.start_cvae(cfg.cvae, Spec(7, 2), KEY).params
    obs, action = jnp.asarray(OBS[:8]), jnp.asarray(np.random.default_rng(1).uniform(-1, 1, size=(8, 2)), jnp.float32)

    @jax.jit
    def means() -> tuple[jax.Array, ...]:
        def once(key: jax.Array) -> tuple[jax.Array, ...]:
            penalties = [spot.penalty(dataclasses.replace(cfg, samples=k), params, obs, action, key) for k in (1, 2, 50)]
            return (*penalties, spot.cvae_log_prob(cfg.cvae, params, obs, action, jax.random.normal(key, (1, 8, 4))))

        return jax.tree.map(lambda x: x.mean(0), jax.lax.map(once, jax.random.split(KEY, 500)))

    elbo, two, fifty, single = (np.asarray(value) for value in means())
    assert (two < elbo + 0.01).all() and (fifty < two + 0.01).all()
    constant = 0.5 * 2 * np.log(np.pi * cfg.cvae.kl_weight / cfg.cvae.latent_per_action)
    np.testing.assert_allclose(-cfg.cvae.kl_weight / 4 * (single + constant), elbo, atol=0.05)


def test_spots_lambda_decays_online_to_its_floor() -> None:
    cfg = spot.Config(lam=0.5, online_steps=100, online_floor=0.2)
    assert [round(float(spot.online_lam(cfg, jnp.int32(step))), 4) for step in (0, 40, 80, 200)] == [0.5, 0.3, 0.1, 0.1]


def test_spot_goes_on_online_from_its_offline_state() -> None:
    """The online update at step 0 is the offline one; later its lambda is smaller; the density does not move."""
    found, batch = trained("spot"), Batch(jax.tree.map(lambda column: column[:16], fixed_batch()), {})

    @jax.jit
    def both(state: Any) -> tuple[Any, Any]:
        offline = spot.update(found.cfg, state, batch, KEY, jnp.int32(0))
        return offline[0], registry.get("spot").online(found.cfg, state, batch, KEY, jnp.int32(0))

    offline, (online, metrics) = both(found.state)
    for a, b in zip(jax.tree.leaves(offline), jax.tree.leaves(online), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert float(metrics["lambda"]) == pytest.approx(found.cfg.lam)
    for a, b in zip(jax.tree.leaves(online.density), jax.tree.leaves(found.state.density), strict=True):
        np.testing.assert_array_equal(a, b)


def test_spot_without_its_parts() -> None:
    """A Gaussian density is a log likelihood; without normalisation the actor's loss is -Q + lambda times the penalty."""
    found, rows = trained("spot"), jax.tree.map(lambda column: column[:16], fixed_batch())
    cfg = dataclasses.replace(found.cfg, normalise_q=False, density="gaussian", actor=dataclasses.replace(found.cfg.actor, dropout=0.0))

    @jax.jit
    def parts(state: Any) -> tuple[jax.Array, ...]:
        density = spot.init(cfg, Spec(7, 1), KEY).density.params
        loss, metrics = spot.actor_loss(cfg, state.td3.actor.params, state.td3.critics.params, density, rows, KEY, 0.5)
        action = td3.policy(cfg.actor, state.td3.actor.params, rows.obs)
        mean, raw = jnp.split(common.mlp(density, rows.obs), 2, -1)
        q = common.first_q(cfg.critic, state.td3.critics.params, rows.obs, action)
        return loss, metrics["support_loss"], q, action, mean, raw

    loss, support, q, action, mean, raw = (np.asarray(value) for value in parts(found.state))
    assert support == pytest.approx(-stats.norm.logpdf(action, mean, np.exp(raw)).sum(-1).mean(), rel=1e-4)
    assert loss == pytest.approx(-q.mean() + 0.5 * support, rel=1e-4)


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


def test_online_iqls_policy_learns_at_its_full_rate_and_cql_does_not_imitate_again() -> None:
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
    imitating = dataclasses.replace(tiny("cql"), imitation_steps=10)
    start = registry.get("cql").init(imitating, log.spec, jax.random.key(0))
    found, expected, other = (
        f(c, start, batch, key, jnp.int32(0))[0].actor.params
        for f, c in ((cql.online, imitating), (cql.update, tiny("cql")), (cql.update, imitating))
    )
    for ours, plain in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        np.testing.assert_array_equal(ours, plain)
    assert any(not np.array_equal(x, y) for x, y in zip(*map(jax.tree.leaves, (found, other)), strict=True))


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
    assert presets.preset_for("iql", "pointmaze-large") == presets.preset_for("iql", "maze2d-large") == presets.PRESETS["iql"]["maze2d"]
    assert presets.preset_for("spar-mlp", "hopper-medium") is None
