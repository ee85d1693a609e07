"""Stage II, the residual policies (SPAR 3.2.3).

    SPAR-MLP   L = E[w |pi_res(s, a_base) - da|^2] - lambda_g E[Q_rob(s, clip(a_base + pi_res))] / c        (eq. 7, there c = 1)
    SPAR-CVAE  L = E[w |pi_res(s, a_base, z) - da|^2] + beta KL(q(z | s, da) || N(0, 1)),  z ~ q            (eq. 8)

with da = a - a_base, and c by default the batch's mean |Q_rob| (`guide_scale`). The weight acts on the reconstruction only. Squares sum
over action dimensions, KL over latent ones; both then average over the batch. Synthesised actions are clipped to the box before a critic
sees them, as the gate does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from spar import nets, ops
from spar.method import critics
from spar.types import Batch, Metrics, Spec

GuideScale = Literal["raw", "mean_abs"]
ACTIVE_VARIANCE = 0.01  # a latent unit is active where its posterior mean varies more than this over the data (Burda et al. 2016)


@dataclass(frozen=True)
class MLPConfig:
    hidden: tuple[int, ...] = (256, 256)  # widths of pi_res
    lambda_g: float = 0.5  # weight of the guide term; 0: fitting alone
    guide_scale: GuideScale = "mean_abs"  # mean_abs: divide Q_rob by the batch mean of |Q_rob|, gradient stopped; raw: as it is
    learning_rate: float = 3e-4  # Adam
    clip_norm: float = 1.0  # global norm of the gradient


@dataclass(frozen=True)
class CVAEConfig:
    hidden: tuple[int, ...] = (256, 256, 256)  # widths of encoder and decoder
    latent_dim: int = 16  # d_z
    kl_weight: float = 0.5  # beta
    reconstruction_weight: float = 1.0  # of eq. 8's first term
    reduction: Literal["sum", "mean"] = "sum"  # of squares over action dimensions and KL over latent ones; mean: as BCQ's and PLAS's code
    encoder_sees_anchor: bool = False  # q(z | s, a_base, da), as in Algorithm 3, instead of q(z | s, da)
    learning_rate: float = 3e-4  # Adam
    clip_norm: float = 1.0  # global norm of the gradient


class State(NamedTuple):
    params: ops.Params
    opt: optax.OptState


def synthesise(a_base: jax.Array, residual: jax.Array) -> jax.Array:
    """clip(a_base + residual) to [-1, 1]: (B, A), (..., B, A) -> (..., B, A)."""
    return jnp.clip(a_base + residual, -1.0, 1.0)


def guide_loss(critic_cfg: critics.Config, guides: ops.Params, obs: jax.Array, action: jax.Array, scale: GuideScale) -> jax.Array:
    """-E[Q_rob(s, a)] over the guiding subset, scaled; to be multiplied by lambda_g."""
    q = ops.lcb(critics.q_values(critic_cfg, guides, obs, action), critic_cfg.lambda_u)
    if scale == "mean_abs":
        q = q / jax.lax.stop_gradient(jnp.maximum(jnp.abs(q).mean(), 1e-6))
    return -q.mean()


# SPAR-MLP


def init_mlp(cfg: MLPConfig, spec: Spec, key: jax.Array) -> State:
    params = nets.MLP(cfg.hidden, spec.act_dim).init(key, jnp.zeros((1, spec.obs_dim + spec.act_dim)))
    return State(params, ops.adam(cfg.learning_rate, cfg.clip_norm).init(params))


def apply_mlp(cfg: MLPConfig, params: ops.Params, obs: jax.Array, a_base: jax.Array) -> jax.Array:
    """pi_res(s, a_base): (B, obs_dim), (B, A) -> (B, A)."""
    return nets.MLP(cfg.hidden, a_base.shape[-1]).apply(params, jnp.concatenate([obs, a_base], -1))


def mlp_loss(cfg: MLPConfig, critic_cfg: critics.Config, params: ops.Params, guides: ops.Params, batch: Batch) -> tuple[jax.Array, Metrics]:
    """Eq. 7."""
    a_base, w = batch.frozen["a_base"], batch.frozen["weight"]
    residual = apply_mlp(cfg, params, batch.rows.obs, a_base)
    fit = (w * ((residual - (batch.rows.action - a_base)) ** 2).sum(-1)).mean()
    guide = guide_loss(critic_cfg, guides, batch.rows.obs, synthesise(a_base, residual), cfg.guide_scale) if cfg.lambda_g else jnp.zeros(())
    metrics = {"fit_loss": fit, "guide_loss": guide, "residual_norm": jnp.linalg.norm(residual, axis=-1).mean()}
    return fit + cfg.lambda_g * guide, metrics


def update_mlp(cfg: MLPConfig, critic_cfg: critics.Config, state: State, guides: ops.Params, batch: Batch) -> tuple[State, Metrics]:
    tx = ops.adam(cfg.learning_rate, cfg.clip_norm)
    params, opt, metrics = ops.grad_step(
        lambda p: mlp_loss(cfg, critic_cfg, p, guides, batch), state.params, state.opt, tx, name="residual"
    )
    return State(params, opt), metrics


# SPAR-CVAE


def _cvae_nets(cfg: CVAEConfig, act_dim: int) -> tuple[nets.MLP, nets.MLP]:
    return nets.MLP(cfg.hidden, 2 * cfg.latent_dim), nets.MLP(cfg.hidden, act_dim)


def init_cvae(cfg: CVAEConfig, spec: Spec, key: jax.Array) -> State:
    encoder, decoder = _cvae_nets(cfg, spec.act_dim)
    encoder_key, decoder_key = jax.random.split(key)
    inputs = spec.obs_dim + spec.act_dim * (2 if cfg.encoder_sees_anchor else 1)
    params = {
        "encoder": encoder.init(encoder_key, jnp.zeros((1, inputs))),
        "decoder": decoder.init(decoder_key, jnp.zeros((1, spec.obs_dim + spec.act_dim + cfg.latent_dim))),
    }
    return State(params, ops.adam(cfg.learning_rate, cfg.clip_norm).init(params))


def encode(cfg: CVAEConfig, params: ops.Params, obs: jax.Array, a_base: jax.Array, residual: jax.Array) -> tuple[jax.Array, jax.Array]:
    """q(z | s, da): mean and log std, both (B, Z)."""
    inputs = [obs, a_base, residual] if cfg.encoder_sees_anchor else [obs, residual]
    out = _cvae_nets(cfg, a_base.shape[-1])[0].apply(params["encoder"], jnp.concatenate(inputs, -1))
    mean, log_std = jnp.split(out, 2, axis=-1)
    return mean, jnp.clip(log_std, nets.LOG_STD_MIN, nets.LOG_STD_MAX)


def decode(cfg: CVAEConfig, decoder: ops.Params, obs: jax.Array, a_base: jax.Array, z: jax.Array) -> jax.Array:
    """pi_res(s, a_base, z): (B, obs_dim), (B, A), (..., B, Z) -> (..., B, A)."""
    inputs = jnp.concatenate([obs, a_base], -1)
    inputs = jnp.concatenate([jnp.broadcast_to(inputs, (*z.shape[:-1], inputs.shape[-1])), z], -1)
    return _cvae_nets(cfg, a_base.shape[-1])[1].apply(decoder, inputs)


def squares(cfg: CVAEConfig, difference: jax.Array) -> jax.Array:
    """(..., A) -> (...)."""
    return (difference**2).sum(-1) if cfg.reduction == "sum" else (difference**2).mean(-1)


def elbo_loss(
    cfg: CVAEConfig,
    params: ops.Params,
    obs: jax.Array,
    a_base: jax.Array,
    residual: jax.Array,
    w: jax.Array,
    noise: jax.Array,
    counts: jax.Array | float = 1.0,
) -> tuple[jax.Array, Metrics]:
    """Eq. 8, the negative weighted ELBO; `noise` (B, Z) is standard normal. `counts` (B,) is 0 for rows that contribute no KL either."""
    mean, log_std = encode(cfg, params, obs, a_base, residual)
    decoded = decode(cfg, params["decoder"], obs, a_base, mean + jnp.exp(log_std) * noise)
    reconstruction = (w * squares(cfg, decoded - residual)).mean()
    kl = (counts * ops.gaussian_kl(mean, log_std).sum(-1)).mean()
    kl_weight = cfg.kl_weight if cfg.reduction == "sum" else cfg.kl_weight / cfg.latent_dim
    active = (mean.var(0) > ACTIVE_VARIANCE).sum().astype(jnp.float32)
    metrics = {"reconstruction_loss": reconstruction, "kl": kl, "active_units": active}
    return cfg.reconstruction_weight * reconstruction + kl_weight * kl, metrics


def fit_loss(cfg: CVAEConfig, params: ops.Params, batch: Batch, key: jax.Array) -> tuple[jax.Array, Metrics]:
    """The weighted ELBO of the logged residuals."""
    a_base = batch.frozen["a_base"]
    noise = jax.random.normal(key, (*a_base.shape[:-1], cfg.latent_dim))
    return elbo_loss(cfg, params, batch.rows.obs, a_base, batch.rows.action - a_base, batch.frozen["weight"], noise)


def update_cvae(cfg: CVAEConfig, state: State, batch: Batch, key: jax.Array) -> tuple[State, Metrics]:
    tx = ops.adam(cfg.learning_rate, cfg.clip_norm)
    params, opt, metrics = ops.grad_step(lambda p: fit_loss(cfg, p, batch, key), state.params, state.opt, tx, name="residual")
    return State(params, opt), metrics
