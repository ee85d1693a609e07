"""SPOT: the estimate of its density, its penalty, lambda online, and its ablations."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from spar import registry
from spar.baselines import common, spot, td3
from spar.types import Batch, Spec
from tests.test_baselines import KEY, OBS, fixed_batch, trained


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
    """The online update at step 0 is the offline one, later the one with a smaller lambda; the density does not move."""
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
    cfg = dataclasses.replace(found.cfg, online_steps=100)
    step = jnp.int32(40)  # the actor's turn too; 60 % of lambda are left
    later, smaller, whole = (
        jax.jit(update, static_argnums=0)(cfg, found.state, batch, KEY, step)[0]
        for update in (registry.get("spot").online, functools.partial(spot.improve, lam=0.6 * cfg.lam), spot.update)
    )
    for a, b in zip(jax.tree.leaves(later), jax.tree.leaves(smaller), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert any(not np.allclose(a, b, rtol=1e-3) for a, b in zip(jax.tree.leaves(later), jax.tree.leaves(whole), strict=True))


def test_spot_without_its_parts() -> None:
    """A Gaussian density's penalty is in units of the CVAE's loss; without normalisation the actor's loss is -Q + lambda times it."""
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
    unit = cfg.cvae.kl_weight / cfg.cvae.latent_per_action  # of L_VAE in nats; one action dimension
    assert support == pytest.approx(-unit * stats.norm.logpdf(action, mean, np.exp(raw)).sum(-1).mean(), rel=1e-4)
    assert loss == pytest.approx(-q.mean() + 0.5 * support, rel=1e-4)
