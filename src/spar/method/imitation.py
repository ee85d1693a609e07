"""Latent self-imitation, the improvement step of SPAR-PROJ (SPAR 3.2.4, Algorithm 4).

K candidates da_k = dec_ema(s, a_base, z_k), z_k ~ N(0, 1), are weighted by omega_k, the normalised w(A_k) of the frozen critics
(eq. 9), and the student is drawn to them. Eq. 10, Proposition 3.3 and Algorithm 4 say different things about how, hence four readings:

    paired    sum_k omega_k |dec(z_k) - da_k|^2            eq. 10 to the letter
    convex    |dec(z) - sum_k omega_k da_k|^2, z ~ N(0, 1) the minimiser of Proposition 3.3 (i)
    elbo      -ELBO(da_k), k ~ omega                       the weighted ELBO of Algorithm 4, line 11
    resample  |dec(z) - da_k|^2, k ~ omega, z ~ N(0, 1)    the same without an encoder

No gradient passes through a critic or through the target decoder. A state none of whose candidates has weight contributes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from spar import ops
from spar.method import critics, residual, weighting
from spar.types import Batch, Metrics, Spec


@dataclass(frozen=True)
class Config:
    reading: Literal["paired", "convex", "elbo", "resample"] = "resample"  # how the student is drawn to the weighted candidates
    lambda_g: float = 0.5  # weight of the imitation loss
    period: int = 10  # steps between imitation steps
    candidates: int = 64  # K
    ema: float = 0.005  # rate of the target decoder


class State(NamedTuple):
    params: ops.Params
    opt: optax.OptState
    target: ops.Params  # EMA of the decoder


def init(cvae: residual.CVAEConfig, spec: Spec, key: jax.Array) -> State:
    params, opt = residual.init_cvae(cvae, spec, key)
    return State(params, opt, jax.tree.map(jnp.copy, params["decoder"]))


def candidate_weights(
    cfg: weighting.Config, critic_cfg: critics.Config, guides: ops.Params, batch: Batch, candidates: jax.Array
) -> jax.Array:
    """omega (K, B) of candidate residuals (K, B, A), eq. 9, by the guiding critics against the anchor's frozen score."""
    action = residual.synthesise(batch.frozen["a_base"], candidates)
    obs = jnp.broadcast_to(batch.rows.obs, (*action.shape[:-1], batch.rows.obs.shape[-1]))
    q = ops.lcb(critics.q_values(critic_cfg, guides, obs, action), critic_cfg.lambda_u)
    return weighting.over_candidates(cfg, (q - batch.frozen["q_base"]) / batch.frozen["sigma"])


def proposals(
    cvae: residual.CVAEConfig,
    weighting_cfg: weighting.Config,
    critic_cfg: critics.Config,
    target: ops.Params,
    guides: ops.Params,
    batch: Batch,
    z: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """The candidates (K, B, A) of latents z (K, B, Z) and their omega (K, B), a block of states at a time."""
    count = ops.block_count(z.shape[1], len(z))

    def of(block: tuple[jax.Array, Batch]) -> tuple[jax.Array, jax.Array]:
        z, batch = block
        candidates = residual.decode(cvae, target, batch.rows.obs, batch.frozen["a_base"], z)
        return candidates, candidate_weights(weighting_cfg, critic_cfg, guides, batch, candidates)

    found = jax.lax.map(of, (ops.cut(z, count, axis=1), ops.cut(batch, count)))
    return ops.joined(found[0], axis=1), ops.joined(found[1], axis=1)


def imitation_loss(
    cfg: Config,
    cvae: residual.CVAEConfig,
    params: ops.Params,
    batch: Batch,
    z: jax.Array,
    candidates: jax.Array,
    omega: jax.Array,
    key: jax.Array,
) -> jax.Array:
    """The loss of the chosen reading: latents z (K, B, Z), their residuals (K, B, A) under the target decoder, weights (K, B)."""
    obs, a_base = batch.rows.obs, batch.frozen["a_base"]
    if cfg.reading == "paired":
        return (omega * residual.squares(cvae, residual.decode(cvae, params["decoder"], obs, a_base, z) - candidates)).sum(0).mean()
    live = (omega.sum(0) > 0).astype(jnp.float32)
    draw_key, noise_key = jax.random.split(key)
    noise = jax.random.normal(noise_key, z.shape[1:])
    if cfg.reading == "convex":
        goal = (omega[..., None] * candidates).sum(0)
    else:
        chosen = jax.random.categorical(draw_key, jnp.log(omega + 1e-20), axis=0)
        goal = jnp.take_along_axis(candidates, chosen[None, :, None], axis=0)[0]
    if cfg.reading == "elbo":
        return residual.elbo_loss(cvae, params, obs, a_base, goal, live, noise, live)[0]
    return (live * residual.squares(cvae, residual.decode(cvae, params["decoder"], obs, a_base, noise) - goal)).mean()


def update(
    cfg: Config,
    cvae: residual.CVAEConfig,
    weighting_cfg: weighting.Config,
    critic_cfg: critics.Config,
    state: State,
    guides: ops.Params,
    batch: Batch,
    key: jax.Array,
    step: jax.Array,
) -> tuple[State, Metrics]:
    """One step on the CVAE's fit, every `period` steps on fit + lambda_g * imitation; then the EMA (Algorithm 4).

    The metric `imitation_loss` is 0 on the steps without imitation.
    """
    tx = ops.adam(cvae.learning_rate, cvae.clip_norm)
    fit_key, z_key, imitation_key = jax.random.split(key, 3)

    def step_with(imitation: Callable[[ops.Params], jax.Array]) -> tuple[ops.Params, optax.OptState, Metrics]:
        def loss(params: ops.Params) -> tuple[jax.Array, Metrics]:
            fit, metrics = residual.fit_loss(cvae, params, batch, fit_key)
            guide = imitation(params)
            return fit + cfg.lambda_g * guide, {**metrics, "imitation_loss": guide}

        return ops.grad_step(loss, state.params, state.opt, tx, name="residual")

    def fit_only() -> tuple[ops.Params, optax.OptState, Metrics]:
        return step_with(lambda params: jnp.zeros(()))

    def imitate() -> tuple[ops.Params, optax.OptState, Metrics]:
        z = jax.random.normal(z_key, (cfg.candidates, *batch.frozen["a_base"].shape[:-1], cvae.latent_dim))
        candidates, omega = proposals(cvae, weighting_cfg, critic_cfg, state.target, guides, batch, z)
        return step_with(lambda params: imitation_loss(cfg, cvae, params, batch, z, candidates, omega, imitation_key))

    params, opt, metrics = jax.lax.cond(step % cfg.period == 0, imitate, fit_only) if cfg.lambda_g else fit_only()
    return State(params, opt, ops.polyak(state.target, params["decoder"], cfg.ema)), metrics
