"""Shared functions against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize, stats

from spar import nets, ops


@pytest.mark.parametrize("tau", [0.1, 0.5, 0.7, 0.9])
def test_expectile_loss_is_minimised_by_the_expectile(tau: float) -> None:
    x = np.random.default_rng(0).exponential(size=4000)
    root = optimize.brentq(lambda m: tau * np.maximum(x - m, 0).mean() - (1 - tau) * np.maximum(m - x, 0).mean(), 0, 10)
    found = optimize.minimize_scalar(lambda m: float(ops.expectile_loss(jnp.asarray(x - m), tau).mean()), bounds=(0, 10), method="bounded")
    assert found.x == pytest.approx(root, abs=2e-3)


def test_expectile_half_is_half_the_square() -> None:
    error = jnp.linspace(-3, 3, 13)
    np.testing.assert_allclose(ops.expectile_loss(error, 0.5), 0.5 * error**2, rtol=1e-6)


def test_lcb_closed_form() -> None:
    q = jnp.array([[1.0, 2.0], [3.0, 2.0]])
    np.testing.assert_allclose(ops.lcb(q, 0.5), [2.0 - 0.5 * 1.0, 2.0])
    np.testing.assert_allclose(ops.lcb(q, 0.0), q.mean(0))


def test_reduce_ensemble() -> None:
    q = jnp.array([[1.0, 5.0], [3.0, 2.0]])
    np.testing.assert_allclose(ops.reduce_ensemble(q, "mean"), [2.0, 3.5])
    np.testing.assert_allclose(ops.reduce_ensemble(q, "min"), [1.0, 2.0])


def test_td_target_bootstraps_unless_terminated() -> None:
    y = ops.td_target(jnp.array([1.0, 1.0]), jnp.array([0.0, 1.0]), jnp.array([10.0, 10.0]), 0.9)
    np.testing.assert_allclose(y, [10.0, 1.0])


def test_gaussian_log_prob_and_kl_against_scipy() -> None:
    rng = np.random.default_rng(1)
    x, mean, log_std = rng.normal(size=(3, 5, 4))
    expected = stats.norm.logpdf(x, mean, np.exp(log_std)).sum(-1)
    np.testing.assert_allclose(ops.gaussian_log_prob(x, mean, log_std), expected, rtol=1e-4)
    samples = mean[0, 0] + np.exp(log_std[0, 0]) * rng.normal(size=400_000)
    estimate = (stats.norm.logpdf(samples, mean[0, 0], np.exp(log_std[0, 0])) - stats.norm.logpdf(samples)).mean()
    assert ops.gaussian_kl(mean, log_std)[0, 0] == pytest.approx(estimate, abs=0.02)


def test_polyak() -> None:
    target = ops.polyak({"w": jnp.zeros(2)}, {"w": jnp.ones(2)}, 0.005)
    np.testing.assert_allclose(target["w"], 0.005, rtol=1e-6)


def test_ensemble_members_are_independent_critics() -> None:
    rng = np.random.default_rng(2)
    obs, action = rng.normal(size=(7, 4)).astype(np.float32), rng.normal(size=(7, 2)).astype(np.float32)
    params = nets.CriticEnsemble(3, (8, 8)).init(jax.random.key(0), obs, action)
    together = nets.CriticEnsemble(3, (8, 8)).apply(params, obs, action)
    for i in range(3):
        alone = nets.Critic((8, 8)).apply({"params": jax.tree.map(lambda p, i=i: p[i], params["params"]["members"])}, obs, action)
        np.testing.assert_allclose(together[i], alone, rtol=1e-5, atol=1e-6)
    assert np.abs(np.diff(together, axis=0)).min() > 1e-4  # different initial weights


def test_member_clip_acts_on_each_member_alone() -> None:
    """A huge gradient in one member must not shrink another's step (a joint clip would)."""
    tx = ops.adam(1.0, 1.0)
    params = {"w": jnp.zeros((2, 3))}
    scale = jnp.array([1e6, 1e-3])[:, None]
    _, opt, metrics = ops.grad_step(lambda p: ((p["w"] * scale).sum(), {}), params, jax.vmap(tx.init)(params), tx, name="x", members=True)
    first_moment = opt[1][0].mu["w"]
    np.testing.assert_allclose(first_moment[1], 0.1 * 1e-3, rtol=1e-4)  # untouched by the other's clip
    np.testing.assert_allclose(np.linalg.norm(first_moment[0]), 0.1, rtol=1e-4)  # clipped to norm 1
    assert metrics["x_grad_norm"] == pytest.approx(1e6 * np.sqrt(3), rel=1e-4)


def test_flatten_names_every_leaf() -> None:
    params = nets.Value((4,)).init(jax.random.key(0), jnp.zeros((1, 2)))
    flat = ops.flatten({"value": params})
    assert set(flat) == {"value/mlp/Dense_0/kernel", "value/mlp/Dense_0/bias", "value/mlp/Dense_1/kernel", "value/mlp/Dense_1/bias"}


def test_truncated_normal_against_scipy() -> None:
    mean, log_std = np.array([-0.9, 0.3], np.float32), np.array([-1.0, 0.0], np.float32)
    std = np.exp(log_std)
    own = {"loc": mean, "scale": std, "a": (-1 - mean) / std, "b": (1 - mean) / std}
    x, u = (np.linspace(low, high, 9)[:, None] * np.ones((1, 2)) for low, high in ((-0.99, 0.99), (0.05, 0.95)))
    log_prob, sample = jax.jit(lambda: (ops.truncated_log_prob(x, mean, log_std), ops.truncated_sample(mean, log_std, u)))()
    np.testing.assert_allclose(log_prob, stats.truncnorm.logpdf(x, **own).sum(-1), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(sample, stats.truncnorm.ppf(u, **own), atol=1e-4)
    np.testing.assert_allclose(ops.truncated_mean(mean, log_std), stats.truncnorm.mean(**own), atol=1e-5)


def test_the_bound_of_one_critic_or_of_equal_ones_has_a_gradient() -> None:
    for q in (jnp.ones((1, 3)), jnp.ones((4, 3))):
        gradient = jax.grad(lambda x: ops.lcb(x, 0.5).sum())(q)
        np.testing.assert_allclose(gradient, np.full(q.shape, 1 / len(q)), atol=1e-7)
    spread = jnp.asarray([[0.0], [1.0], [5.0]])
    np.testing.assert_allclose(ops.lcb(spread, 0.5), np.mean([0, 1, 5]) - 0.5 * np.std([0, 1, 5]), rtol=1e-6)
