"""Stage II's losses against naive loops in NumPy."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spar import ops, registry, trainer
from spar.method import anchor, critics, imitation, plas, residual, spar, weighting
from spar.types import Batch, Spec
from tests.conftest import plant_log, tiny

LOG = plant_log()
ROWS = LOG.transitions(LOG.scaler())


def prepared(algo: str, **parts: Any) -> tuple[Any, spar.State, Batch]:
    """A configuration, a fresh state of one seed, and a batch of 16 with its frozen columns."""
    cfg = tiny(algo, **parts)
    state = trainer.start(registry.get(algo), cfg, LOG.spec, [0]).state
    columns = trainer.prepare(registry.get(algo).stages[1], cfg, state, ROWS)
    batch = Batch(*jax.tree.map(lambda x: x[:16], (ROWS, jax.tree.map(lambda x: x[0], columns))))
    return cfg, jax.tree.map(lambda x: x[0], state), batch


def dense(params: dict[str, Any], x: np.ndarray) -> np.ndarray:
    layers = params.get("params", params)
    for i in range(len(layers)):
        x = x @ np.asarray(layers[f"Dense_{i}"]["kernel"]) + np.asarray(layers[f"Dense_{i}"]["bias"])
        x = np.maximum(x, 0) if i < len(layers) - 1 else x
    return x


def q_rob(state: spar.State, row: int, s: np.ndarray, a: np.ndarray, weight: float) -> float:
    """One row's LCB over the subset in row `row` of `subsets`, critic by critic."""
    values = []
    for i in np.asarray(state.critics.subsets)[row]:
        params = jax.tree.map(lambda p, i=i: p[i], state.critics.critic)["params"]["members"]["mlp"]
        values.append(dense(params, np.concatenate([s, a]))[0])
    return float(np.mean(values) - weight * np.std(values))


@pytest.mark.parametrize("sigma", ["batch", "ensemble", "none"])
@pytest.mark.parametrize("sensitivity", ["exp", "uniform"])
@pytest.mark.parametrize("hardness", ["hard", "soft"])
def test_precomputed_weights_equal_the_per_step_ones(sigma: str, sensitivity: str, hardness: str) -> None:
    """Row by row with the definition of 3.2.2, all four regimes and all readings of sigma_Q."""
    cfg, state, batch = prepared("spar-mlp", weighting={"sigma": sigma, "sensitivity": sensitivity, "filter": hardness, "temperature": 0.5})
    advantages = []
    for i in range(len(LOG)):
        s, a = np.asarray(ROWS.obs[i]), np.asarray(ROWS.action[i])
        if i < 16 or sigma == "batch":
            base = np.asarray(anchor.point(cfg.anchor, state.anchor.params, ROWS.obs[i : i + 1]))[0] if i < 16 else None
        if i < 16:
            advantages.append(q_rob(state, 0, s, a, cfg.critic.lambda_u) - q_rob(state, 0, s, base, cfg.critic.lambda_u))
            np.testing.assert_allclose(batch.frozen["a_base"][i], base, rtol=1e-4, atol=1e-6)
            assert float(batch.frozen["q_base"][i]) == pytest.approx(q_rob(state, 1, s, base, cfg.critic.lambda_u), abs=1e-5)
    raw = spar.freeze(cfg, state, ROWS)
    scale = {
        "batch": np.full(16, np.std(np.asarray(raw["advantage"]))),
        "ensemble": np.asarray(raw["ensemble_std"])[:16],
        "none": np.ones(16),
    }[sigma]
    normalised = np.asarray(advantages) / np.maximum(scale, weighting.SIGMA_FLOOR)
    w = np.minimum(np.exp(normalised / 0.5), 100.0) if sensitivity == "exp" else np.ones(16)
    w = np.where(normalised > 0, w, 0.0) if hardness == "hard" else w
    np.testing.assert_allclose(batch.frozen["weight"], w, rtol=2e-2, atol=1e-4)


def test_weight_ceiling_and_normalisation() -> None:
    cfg = weighting.Config(temperature=0.1, clip=100.0)
    np.testing.assert_allclose(weighting.weights(cfg, jnp.array([5.0, 0.0, -1.0])), [100.0, 0.0, 0.0])
    omega = weighting.over_candidates(weighting.Config(sensitivity="uniform"), jnp.array([[1.0, -1.0], [3.0, 0.0]]))
    np.testing.assert_allclose(omega, [[0.5, 0.0], [0.5, 0.0]])


@pytest.mark.parametrize("hardness", ["hard", "soft"])
@pytest.mark.parametrize("temperature", [0.1, 0.3, 1.0])
def test_candidate_weights_are_eq_9_at_any_advantage(hardness: str, temperature: float) -> None:
    """Against a float64 softmax. No ceiling: it would make all good candidates equal; nothing under- or overflows."""
    advantage = np.random.default_rng(0).normal(scale=np.array([0.1, 1.0, 5.0, 50.0])[:, None], size=(8, 4, 30)).reshape(8, -1)
    cfg = weighting.Config(filter=hardness, temperature=temperature)
    logits = np.where((advantage > 0) | (hardness == "soft"), advantage.astype(np.float32) / np.float64(temperature), -np.inf)
    top = logits.max(0)
    want = np.where(np.isfinite(top), np.exp(logits - np.where(np.isfinite(top), top, 0)), 0.0)
    want /= np.maximum(want.sum(0), 1e-300)
    np.testing.assert_allclose(weighting.over_candidates(cfg, jnp.asarray(advantage)), want, rtol=1e-3, atol=1e-6)
    assert hardness == "hard" or (want.sum(0) > 0).all()


@pytest.mark.parametrize("reading", ["paired", "convex", "elbo", "resample"])
def test_a_state_without_a_weighted_candidate_teaches_nothing(reading: str) -> None:
    cfg, state, batch = prepared("spar-proj", imitation={"reading": reading})
    z = jax.random.normal(jax.random.key(0), (4, 16, 3))
    candidates = 1 + residual.decode(cfg.cvae, state.residual.target, batch.rows.obs, batch.frozen["a_base"], z)
    gradient = jax.grad(
        lambda p: imitation.imitation_loss(cfg.imitation, cfg.cvae, p, batch, z, candidates, jnp.zeros((4, 16)), jax.random.key(1))
    )(state.residual.params)
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize("scale", ["raw", "mean_abs"])
def test_mlp_loss_equals_a_naive_loop(scale: str) -> None:
    """Eq. 7, row by row."""
    cfg, state, batch = prepared("spar-mlp", residual={"guide_scale": scale, "lambda_g": 0.7}, weighting={"filter": "soft"})
    guides = critics.members(state.critics, "guide")
    loss, metrics = residual.mlp_loss(cfg.residual, cfg.critic, state.residual.params, guides, batch)
    fit, q = [], []
    for i in range(16):
        s, a, base = (np.asarray(x) for x in (batch.rows.obs[i], batch.rows.action[i], batch.frozen["a_base"][i]))
        out = dense(state.residual.params, np.concatenate([s, base]))
        fit.append(float(batch.frozen["weight"][i]) * ((out - (a - base)) ** 2).sum())
        q.append(q_rob(state, 1, s, np.clip(base + out, -1, 1), cfg.critic.lambda_u))
    guide = np.mean(q) / (np.mean(np.abs(q)) if scale == "mean_abs" else 1.0)
    assert float(loss) == pytest.approx(np.mean(fit) - 0.7 * guide, rel=1e-3)
    assert float(metrics["fit_loss"]) == pytest.approx(np.mean(fit), rel=1e-3)


@pytest.mark.parametrize("sees_anchor", [False, True])
def test_elbo_equals_a_naive_loop(sees_anchor: bool) -> None:
    """Eq. 8 with given noise: weight on the reconstruction only, sums over dimensions, means over the batch."""
    cfg, state, batch = prepared("spar-cvae", cvae={"encoder_sees_anchor": sees_anchor, "kl_weight": 0.3}, weighting={"filter": "soft"})
    noise = np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32)
    base, w = np.asarray(batch.frozen["a_base"]), np.asarray(batch.frozen["weight"])
    da = np.asarray(batch.rows.action) - base
    loss, metrics = residual.elbo_loss(cfg.cvae, state.residual.params, batch.rows.obs, base, da, w, noise)
    total = np.zeros(2)  # sums and means over dimensions
    for i in range(16):
        s = np.asarray(batch.rows.obs[i])
        encoded = dense(state.residual.params["encoder"], np.concatenate([s, base[i], da[i]] if sees_anchor else [s, da[i]]))
        mean, log_std = encoded[:3], encoded[3:]
        out = dense(state.residual.params["decoder"], np.concatenate([s, base[i], mean + np.exp(log_std) * noise[i]]))
        kl = sum(0.5 * (m**2 + np.exp(2 * ls) - 1 - 2 * ls) for m, ls in zip(mean, log_std, strict=True))
        total += np.array([w[i] * ((out - da[i]) ** 2).sum() + 0.3 * kl, w[i] * ((out - da[i]) ** 2).mean() + 0.3 * kl / 3])
    assert float(loss) == pytest.approx(total[0] / 16, rel=1e-3)
    means = dataclasses.replace(cfg.cvae, reduction="mean")
    again, _ = residual.elbo_loss(means, state.residual.params, batch.rows.obs, base, da, w, noise)
    assert float(again) == pytest.approx(total[1] / 16, rel=1e-3)
    assert 0 <= float(metrics["active_units"]) <= 3


@pytest.mark.parametrize("reading", ["paired", "convex", "elbo", "resample"])
def test_imitation_equals_a_naive_loop(reading: str) -> None:
    """The four readings, candidate by candidate, given the same draws."""
    cfg, state, batch = prepared("spar-proj", imitation={"reading": reading}, weighting={"filter": "hard", "temperature": 0.5})
    key, rng = jax.random.key(5), np.random.default_rng(0)
    target = jax.tree.map(lambda p: p + 0.1 * rng.normal(size=p.shape).astype(np.float32), state.residual.target)
    z = rng.normal(size=(4, 16, 3)).astype(np.float32)
    obs, base = np.asarray(batch.rows.obs), np.asarray(batch.frozen["a_base"])
    candidates = np.stack([[dense(target, np.concatenate([obs[i], base[i], z[k, i]])) for i in range(16)] for k in range(4)])
    guides = critics.members(state.critics, "guide")
    omega = np.asarray(imitation.candidate_weights(cfg.weighting, cfg.critic, guides, batch, jnp.asarray(candidates)))
    for i in range(16):
        scores = np.array([q_rob(state, 1, obs[i], np.clip(base[i] + candidates[k, i], -1, 1), cfg.critic.lambda_u) for k in range(4)])
        a = (scores - float(batch.frozen["q_base"][i])) / float(batch.frozen["sigma"][i])
        w = np.where(a > 0, np.exp(a / 0.5), 0)
        np.testing.assert_allclose(omega[:, i], w / w.sum() if w.sum() else 0 * w, rtol=5e-2, atol=2e-3)
    assert 0 < (omega.sum(0) == 0).mean() < 1 or (omega.sum(0) > 0).all()

    loss = imitation.imitation_loss(cfg.imitation, cfg.cvae, state.residual.params, batch, z, candidates, omega, key)
    draw_key, noise_key = jax.random.split(key)
    noise = np.asarray(jax.random.normal(noise_key, (16, 3)))
    chosen = np.asarray(jax.random.categorical(draw_key, jnp.log(omega + 1e-20), axis=0))
    decoder, total = state.residual.params["decoder"], 0.0
    for i in range(16):
        live = omega[:, i].sum() > 0
        fresh = dense(decoder, np.concatenate([obs[i], base[i], noise[i]]))
        if reading == "paired":
            for k in range(4):
                out = dense(decoder, np.concatenate([obs[i], base[i], z[k, i]]))
                total += omega[k, i] * ((out - candidates[k, i]) ** 2).sum()
        elif reading == "convex":
            total += live * ((fresh - (omega[:, i, None] * candidates[:, i]).sum(0)) ** 2).sum()
        elif reading == "resample":
            total += live * ((fresh - candidates[chosen[i], i]) ** 2).sum()
        else:
            goal = candidates[chosen[i], i]
            encoded = dense(state.residual.params["encoder"], np.concatenate([obs[i], goal]))
            mean, log_std = encoded[:3], encoded[3:]
            out = dense(decoder, np.concatenate([obs[i], base[i], mean + np.exp(log_std) * noise[i]]))
            kl = 0.5 * (mean**2 + np.exp(2 * log_std) - 1 - 2 * log_std).sum()
            total += live * (((out - goal) ** 2).sum() + cfg.cvae.kl_weight * kl)
    assert float(loss) == pytest.approx(total / 16, rel=1e-3)


def test_paired_reading_is_zero_where_student_and_teacher_agree() -> None:
    """Eq. 10 to the letter has nothing to teach a student that equals its own average: the puzzle of docs/readings.md."""
    cfg, state, batch = prepared("spar-proj", imitation={"reading": "paired"}, weighting={"filter": "soft"})
    z = jax.random.normal(jax.random.key(0), (4, 16, 3))
    candidates = residual.decode(cfg.cvae, state.residual.params["decoder"], batch.rows.obs, batch.frozen["a_base"], z)
    omega = jnp.full((4, 16), 0.25)

    def loss(params: ops.Params) -> jax.Array:
        return imitation.imitation_loss(
            cfg.imitation, cfg.cvae, params, batch, z, jax.lax.stop_gradient(candidates), omega, jax.random.key(1)
        )

    value, gradient = jax.value_and_grad(loss)(state.residual.params)
    assert float(value) < 1e-10
    assert max(float(jnp.abs(g).max()) for g in jax.tree.leaves(gradient)) < 1e-5


@pytest.mark.parametrize("algo", ["spar-mlp", "spar-cvae", "spar-plas", "spar-proj", "spar-flow"])
def test_stage_two_moves_the_residual_and_nothing_frozen(algo: str) -> None:
    """Anchor, critics and (in PLAS's second phase) the CVAE stay as they are, bit for bit."""
    cfg, state, batch = prepared(algo)
    for stage in registry.get(algo).stages[1:]:
        new, _ = stage.update(cfg, state, batch, jax.random.key(0), jnp.int32(0))
        assert all(bool((a == b).all()) for a, b in zip(jax.tree.leaves(state[:2]), jax.tree.leaves(new[:2]), strict=True))
        moved = [name for name in state.residual._fields if not _equal(getattr(state.residual, name), getattr(new.residual, name))]
        expected = {"latent policy": ["actor", "actor_opt"]}.get(stage.name, ["params", "opt"])
        assert [name for name in moved if name != "target"] == expected


def _equal(a: Any, b: Any) -> bool:
    return all(bool((x == y).all()) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def test_plas_latent_is_bounded_and_its_loss_is_the_guide() -> None:
    cfg, state, batch = prepared("spar-plas", plas={"guide_scale": "raw", "lambda_g": 2.0})
    z = plas.latent(cfg.plas, cfg.cvae, jax.tree.map(lambda p: 100 * p, state.residual.actor), batch.rows.obs, batch.frozen["a_base"])
    assert float(jnp.abs(z).max()) <= 2.0
    guides = critics.members(state.critics, "guide")
    loss, _ = plas.actor_loss(cfg.plas, cfg.cvae, cfg.critic, state.residual.actor, state.residual.params["decoder"], guides, batch)
    z = np.asarray(plas.latent(cfg.plas, cfg.cvae, state.residual.actor, batch.rows.obs, batch.frozen["a_base"]))
    q = []
    for i in range(16):
        s, base = np.asarray(batch.rows.obs[i]), np.asarray(batch.frozen["a_base"][i])
        da = dense(state.residual.params["decoder"], np.concatenate([s, base, z[i]]))
        q.append(q_rob(state, 1, s, np.clip(base + da, -1, 1), cfg.critic.lambda_u))
    assert float(loss) == pytest.approx(-2.0 * np.mean(q), rel=1e-3)


def test_imitation_runs_on_its_period_only() -> None:
    cfg, state, batch = prepared("spar-proj", imitation={"period": 3, "reading": "convex"})
    seen = [
        float(registry.get("spar-proj").stages[1].update(cfg, state, batch, jax.random.key(0), jnp.int32(t))[1]["imitation_loss"])
        for t in range(6)
    ]
    assert [value > 0 for value in seen] == [True, False, False, True, False, False]


def test_a_live_cvae_uses_its_latent_and_a_crushed_one_does_not() -> None:
    """Two residual modes per state: a small KL weight keeps units active, a huge one collapses the posterior."""
    rng = np.random.default_rng(0)
    obs, base = jnp.asarray(rng.normal(size=(2048, 2)), jnp.float32), jnp.zeros((2048, 1))
    da = jnp.asarray(rng.choice([-0.5, 0.5], size=(2048, 1)), jnp.float32)
    outcome = {}
    for kl_weight in (0.02, 50.0):
        cfg = residual.CVAEConfig(hidden=(32, 32), latent_dim=2, kl_weight=kl_weight, learning_rate=3e-3)
        state = residual.init_cvae(cfg, Spec(2, 1), jax.random.key(0))
        rows = ROWS._replace(obs=obs, action=da)
        batch = Batch(rows, {"a_base": base, "weight": jnp.ones(2048)})
        step = jax.jit(lambda state, key, cfg=cfg, batch=batch: residual.update_cvae(cfg, state, batch, key))
        for t in range(400):
            state, metrics = step(state, jax.random.key(t))
        samples = residual.decode(cfg, state.params["decoder"], obs, base, jax.random.normal(jax.random.key(9), (2048, 2)))
        outcome[kl_weight] = (float(metrics["active_units"]), float(metrics["kl"]), float((jnp.abs(samples) > 0.35).mean()))
    assert outcome[0.02][0] >= 1 and outcome[0.02][1] > 0.3 and outcome[0.02][2] > 0.7  # both modes, little in between
    assert outcome[50.0][0] == 0 and outcome[50.0][1] < 0.05 and outcome[50.0][2] < 0.2  # the mean of the modes
