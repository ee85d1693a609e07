"""DD and VSD, the conflict of guidance and fit, against NumPy: all variants that guide, all readings of latent self-imitation."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spar import nets, registry, trainer
from spar.data.episodes import HostRows
from spar.diagnose import conflict
from spar.method import imitation, residual, weighting
from spar.types import Batch
from tests.conftest import plant_log, tiny


def prepared(algo: str, **parts: dict[str, Any]) -> tuple[Any, Any, HostRows, dict[str, np.ndarray]]:
    """Configuration, fresh state, rows of the plant, and the columns of the last stage, of one seed."""
    log, cfg = plant_log(300), tiny(algo, **parts)
    rows, record = HostRows(log, log.scaler()), registry.get(algo)
    states = trainer.start(record, cfg, log.spec, [0]).state
    columns = trainer.prepare(record.stages[-1], cfg, states, rows)
    return cfg, *jax.tree.map(lambda leaf: leaf[0], (states,)), rows, {name: column[0] for name, column in columns.items()}


def numpy_mlp(layers: dict[str, Any], x: np.ndarray) -> np.ndarray:
    for i in range(len(layers)):
        kernel, bias = (np.asarray(layers[f"Dense_{i}"][name], np.float64) for name in ("kernel", "bias"))
        x = x @ kernel + (bias if kernel.ndim == 2 else bias[:, None])
        x = np.maximum(x, 0) if i < len(layers) - 1 else x
    return x


Flat = np.ndarray
Build = Callable[[Any], float]


class Flattened:
    """A tree of parameters as one float64 vector."""

    def __init__(self, params: Any) -> None:
        self.leaves, self.tree = jax.tree.flatten(params)
        self.theta = self.flat(params)

    def flat(self, tree: Any) -> np.ndarray:
        return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)]).astype(np.float64)

    def back(self, theta: np.ndarray) -> Any:
        parts = np.split(theta, np.cumsum([leaf.size for leaf in self.leaves])[:-1])
        return jax.tree.unflatten(self.tree, [part.reshape(leaf.shape) for part, leaf in zip(parts, self.leaves, strict=True)])

    def slope(self, loss: Build) -> np.ndarray:
        """By central differences."""
        theta, steps = self.theta, 1e-6 * np.eye(len(self.theta))
        return np.array([(loss(self.back(theta + e)) - loss(self.back(theta - e))) / 2e-6 for e in steps])


def moments(opt: Any) -> Any:
    """Adam's."""
    return next(part for part in jax.tree.leaves(opt, is_leaf=lambda x: hasattr(x, "mu")) if hasattr(part, "mu"))


def expect(found: Any, flat: Flattened, fit: Build, guide: Build, opt: Any, rate: float, clip: float, fitted: bool = True) -> None:
    """DD, VSD, the step and its cosine, of guidance alone through a fresh Adam and in the run's next step, by hand."""
    slope, pull = flat.slope(fit), flat.slope(guide)
    kept = moments(opt)
    m, v, t = flat.flat(kept.mu), flat.flat(kept.nu), int(kept.count) + 1

    def adam(gradient: np.ndarray, m: np.ndarray, v: np.ndarray, t: int) -> np.ndarray:
        gradient = gradient * min(1.0, clip / np.linalg.norm(gradient))
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        return -rate * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)

    whole = adam(slope + pull, m, v, t) - adam(slope, m, v, t) if fitted else adam(pull, m, v, t)
    assert np.linalg.norm(slope) > 0 and np.linalg.norm(pull) > 0
    for name, delta in {"alone": adam(pull, 0 * m, 0 * v, 1), "in_training": whole}.items():
        own, size = found[name], np.linalg.norm(delta)
        worse = fit(flat.back(flat.theta + delta)) - fit(flat.back(flat.theta))
        assert float(own["step"]) == pytest.approx(size, rel=2e-3)
        assert float(own["dd"]) == pytest.approx(slope @ delta, rel=5e-3, abs=2e-3 * size * np.linalg.norm(slope))
        assert float(own["vsd"]) == pytest.approx(worse, rel=1e-2, abs=2e-6)
        assert float(own["cosine"]) == pytest.approx(slope @ delta / np.linalg.norm(slope) / size, rel=5e-3, abs=2e-3)


class Case(NamedTuple):
    """A batch of the plant as float64, and the guiding critics in NumPy."""

    cfg: Any
    state: Any
    batch: Batch
    obs: np.ndarray
    residual: np.ndarray  # logged
    a_base: np.ndarray
    w: np.ndarray
    guides: Any

    def q_rob(self, action: np.ndarray) -> np.ndarray:
        q = numpy_mlp(self.guides["params"]["members"]["mlp"], np.concatenate([self.obs, np.clip(action, -1, 1)], 1))[..., 0]
        return q.mean(0) - self.cfg.critic.lambda_u * q.std(0)


def case(algo: str, **parts: dict[str, Any]) -> Case:
    cfg, state, rows, columns = prepared(algo, **parts)
    index = np.arange(64)
    batch = Batch(rows.take(index), {name: column[index] for name, column in columns.items()})
    guides = jax.tree.map(lambda leaf: leaf[state.critics.subsets[1]], state.critics.critic)
    obs, action, a_base, w = (
        np.asarray(x, np.float64) for x in (batch.rows.obs, batch.rows.action, columns["a_base"][:64], columns["weight"][:64])
    )
    return Case(cfg, state, batch, obs, action - a_base, a_base, w, guides)


def test_dd_and_vsd_of_the_mlp_are_those_of_numpy() -> None:
    """Losses in float64 NumPy, gradients by central differences, Adam with its norm clip by hand: fresh, and with carried moments."""
    c = case("spar-mlp", residual={"hidden": (6,)})
    own, fitted = c.cfg.residual, c.state.residual
    update = jax.jit(lambda fitted: residual.update_mlp(own, c.cfg.critic, fitted, c.guides, c.batch)[0])
    for _ in range(5):
        fitted = update(fitted)
    found = conflict._one(conflict._mlp, c.cfg, c.state._replace(residual=fitted), c.batch, jax.random.key(0))
    flat = Flattened(fitted.params)

    def pi_res(params: Any) -> np.ndarray:
        return numpy_mlp(params["params"], np.concatenate([c.obs, c.a_base], 1))

    def fit(params: Any) -> float:
        return float((c.w * ((pi_res(params) - c.residual) ** 2).sum(1)).mean())

    unit = np.abs(c.q_rob(c.a_base + pi_res(fitted.params))).mean()
    expect(
        found,
        flat,
        fit,
        lambda p: -own.lambda_g * float(c.q_rob(c.a_base + pi_res(p)).mean()) / unit,
        fitted.opt,
        own.learning_rate,
        own.clip_norm,
    )


def numpy_decode(c: Case, decoder: Any, z: np.ndarray) -> np.ndarray:
    """(..., B, Z) -> (..., B, A)."""
    s = np.broadcast_to(np.concatenate([c.obs, c.a_base], 1), (*z.shape[:-1], c.obs.shape[1] + c.a_base.shape[1]))
    return numpy_mlp(decoder["params"], np.concatenate([s, z], -1))


def test_dd_and_vsd_of_plas_are_those_of_numpy() -> None:
    """Guidance reaches the latent policy through the frozen decoder, and so does the fit, which its training does not have."""
    c = case("spar-plas", plas={"hidden": (6,)}, cvae={"hidden": (6,), "latent_dim": 2}, weighting={"filter": "soft"})
    own, decoder = c.cfg.plas, c.state.residual.params["decoder"]
    found = conflict._one(conflict._plas, c.cfg, c.state, c.batch, jax.random.key(0))
    flat = Flattened(c.state.residual.actor)

    def pi_res(params: Any) -> np.ndarray:
        raw = numpy_mlp(params["params"], np.concatenate([c.obs, c.a_base], 1))
        return numpy_decode(c, decoder, own.latent_bound * np.tanh(raw))

    def fit(params: Any) -> float:
        return float((c.w * ((pi_res(params) - c.residual) ** 2).sum(1)).mean())

    unit = np.abs(c.q_rob(c.a_base + pi_res(c.state.residual.actor))).mean()
    guide = lambda p: -own.lambda_g * float(c.q_rob(c.a_base + pi_res(p)).mean()) / unit  # noqa: E731
    expect(found, flat, fit, guide, c.state.residual.actor_opt, own.learning_rate, own.clip_norm, fitted=False)


@pytest.mark.parametrize("reading", ["paired", "resample", "convex", "elbo"])
def test_dd_and_vsd_of_proj_are_those_of_numpy(reading: Any) -> None:
    """The weighted ELBO and each reading of latent self-imitation, with the draws that the same keys make."""
    c = case(
        "spar-proj",
        cvae={"hidden": (6,), "latent_dim": 2},
        weighting={"filter": "soft", "temperature": 1.0},  # with smaller ones the fit is so steep that the difference drowns in float32
        imitation={"reading": reading, "candidates": 3},
    )
    cvae, own, key = c.cfg.cvae, c.cfg.imitation, jax.random.key(3)
    state = c.state.residual
    if reading == "paired":  # a student equal to its target is not moved
        state = state._replace(target=jax.tree.map(lambda leaf: leaf + 0.3, state.target))
    found = conflict._one(conflict._proj, c.cfg, c.state._replace(residual=state), c.batch, key)
    fit_key, z_key, imitation_key = jax.random.split(key, 3)
    draw_key, noise_key = jax.random.split(imitation_key)
    z, fit_noise, noise = (
        np.asarray(jax.random.normal(k, shape), np.float64) for k, shape in ((z_key, (3, 64, 2)), (fit_key, (64, 2)), (noise_key, (64, 2)))
    )
    candidates = numpy_decode(c, state.target, z)
    gains = np.stack([c.q_rob(c.a_base + one) for one in candidates]) - np.asarray(c.batch.frozen["q_base"], np.float64)
    exact = imitation.candidate_weights(c.cfg.weighting, c.cfg.critic, c.guides, c.batch, jnp.asarray(candidates, jnp.float32))
    omega = np.asarray(
        weighting.over_candidates(c.cfg.weighting, jnp.asarray(gains / np.asarray(c.batch.frozen["sigma"]), jnp.float32)), np.float64
    )
    np.testing.assert_allclose(omega, exact, rtol=1e-3, atol=1e-5)
    live = (omega.sum(0) > 0).astype(float)
    chosen = np.asarray(jax.random.categorical(draw_key, jnp.log(jnp.asarray(exact) + 1e-20), axis=0))
    goal = (omega[..., None] * candidates).sum(0) if reading == "convex" else candidates[chosen, np.arange(64)]

    def elbo(params: Any, to: np.ndarray, w: np.ndarray, eps: np.ndarray, counts: np.ndarray | float) -> float:
        seen = [c.obs, c.a_base, to] if cvae.encoder_sees_anchor else [c.obs, to]
        mean, log_std = np.split(numpy_mlp(params["encoder"]["params"], np.concatenate(seen, 1)), 2, axis=1)
        log_std = np.clip(log_std, nets.LOG_STD_MIN, nets.LOG_STD_MAX)
        decoded = numpy_decode(c, params["decoder"], mean + np.exp(log_std) * eps)
        kl = (0.5 * (mean**2 + np.exp(2 * log_std) - 1) - log_std).sum(1)
        return float(cvae.reconstruction_weight * (w * ((decoded - to) ** 2).sum(1)).mean() + cvae.kl_weight * (counts * kl).mean())

    def guide(params: Any) -> float:
        if reading == "elbo":
            loss = elbo(params, goal, live, noise, live)
        elif reading == "paired":
            loss = float((omega * ((numpy_decode(c, params["decoder"], z) - candidates) ** 2).sum(-1)).sum(0).mean())
        else:
            loss = float((live * ((numpy_decode(c, params["decoder"], noise) - goal) ** 2).sum(-1)).mean())
        return own.lambda_g * loss

    expect(
        found,
        Flattened(state.params),
        lambda p: elbo(p, c.residual, c.w, fit_noise, 1.0),
        guide,
        state.opt,
        cvae.learning_rate,
        cvae.clip_norm,
    )


def test_conflict_of_the_other_variants() -> None:
    """No guidance: nothing to measure. PLAS: guidance is the whole of a fresh training step. PROJ, paired: a student equal to its target
    is not moved at all (the imitation of eq. 10 to the letter); drawn to other candidates it is."""
    cfg, state, rows, columns = prepared("spar-plas")
    assert conflict.measure(tiny("spar-cvae"), state, rows, columns, 32) is None
    found = conflict.measure(cfg, state, rows, columns, 32)
    assert found is not None and found["alone"]["step"] > 0 and found["alone"] == pytest.approx(found["in_training"], rel=1e-4)
    cfg, state, rows, columns = prepared("spar-proj", weighting={"filter": "soft"})
    moved = {}
    for reading in ("paired", "resample"):
        own = dataclasses.replace(cfg, imitation=dataclasses.replace(cfg.imitation, reading=reading))
        found = conflict.measure(own, state, rows, columns, 32)
        assert found is not None
        moved[reading] = found["alone"]["step"]
    assert moved["paired"] == 0 < moved["resample"]


def test_damage_is_measured_in_sums_whatever_training_reduces_by() -> None:
    """Table 3 holds the variants against each other, so one that trains on means must not win by its unit."""
    c = case("spar-proj", cvae={"hidden": (6,), "latent_dim": 2}, weighting={"filter": "soft"})
    mean = dataclasses.replace(c.cfg, cvae=dataclasses.replace(c.cfg.cvae, reduction="mean"))
    sums, means = (conflict._proj(cfg, c.state, c.batch, jax.random.key(3)) for cfg in (c.cfg, mean))
    params = c.state.residual.params
    assert sums.summed is None and means.summed is not None and float(means.fit(params)) != float(sums.fit(params))
    assert float(means.summed(params)) == float(sums.fit(params))
    moved, step = conflict.steps(means)["alone"], conflict.steps(sums)["alone"]
    assert float(moved["dd"]) == pytest.approx(float(step["dd"]), rel=1e-3)  # guidance's own step hardly depends on the reduction
