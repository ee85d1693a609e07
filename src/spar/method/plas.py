"""SPAR-PLAS, the paper's gradient-guided generative comparison (SPAR Algorithm 3; PLAS, Zhou et al. 2021).

The CVAE of eq. 8 is fitted and frozen; a deterministic latent policy then ascends

    L_guide = -lambda_g E[Q_rob(s, clip(a_base + dec(s, a_base, z)))] / c,   z = bound * tanh(pi_z(s, a_base)).

with c as in residual.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from spar import nets, ops
from spar.method import critics, residual
from spar.types import Batch, Metrics, Spec


@dataclass(frozen=True)
class Config:
    hidden: tuple[int, ...] = (256, 256)  # widths of the latent policy
    latent_bound: float = 2.0  # |z| stays below this, as in PLAS
    lambda_g: float = 0.5  # weight of the guide term
    guide_scale: residual.GuideScale = "mean_abs"  # as for SPAR-MLP
    learning_rate: float = 3e-4  # Adam
    clip_norm: float = 1.0  # global norm of the gradient


class State(NamedTuple):
    params: ops.Params  # the CVAE
    opt: optax.OptState
    actor: ops.Params
    actor_opt: optax.OptState


def init(cfg: Config, cvae: residual.CVAEConfig, spec: Spec, key: jax.Array) -> State:
    cvae_key, actor_key = jax.random.split(key)
    params, opt = residual.init_cvae(cvae, spec, cvae_key)
    actor = nets.MLP(cfg.hidden, cvae.latent_dim).init(actor_key, jnp.zeros((1, spec.obs_dim + spec.act_dim)))
    return State(params, opt, actor, ops.adam(cfg.learning_rate, cfg.clip_norm).init(actor))


def latent(cfg: Config, cvae: residual.CVAEConfig, actor: ops.Params, obs: jax.Array, a_base: jax.Array) -> jax.Array:
    """z (B, Z), bounded."""
    raw = nets.MLP(cfg.hidden, cvae.latent_dim).apply(actor, jnp.concatenate([obs, a_base], -1))
    return cfg.latent_bound * jnp.tanh(raw)


def actor_loss(
    cfg: Config,
    cvae: residual.CVAEConfig,
    critic_cfg: critics.Config,
    actor: ops.Params,
    decoder: ops.Params,
    guides: ops.Params,
    batch: Batch,
) -> tuple[jax.Array, Metrics]:
    """Algorithm 3, line 16; the decoder is frozen."""
    obs, a_base = batch.rows.obs, batch.frozen["a_base"]
    z = latent(cfg, cvae, actor, obs, a_base)
    action = residual.synthesise(a_base, residual.decode(cvae, decoder, obs, a_base, z))
    guide = residual.guide_loss(critic_cfg, guides, obs, action, cfg.guide_scale)
    return cfg.lambda_g * guide, {"guide_loss": guide, "latent_norm": jnp.linalg.norm(z, axis=-1).mean()}


def update(
    cfg: Config, cvae: residual.CVAEConfig, critic_cfg: critics.Config, state: State, guides: ops.Params, batch: Batch
) -> tuple[State, Metrics]:
    """One step of the latent policy."""
    tx = ops.adam(cfg.learning_rate, cfg.clip_norm)
    actor, actor_opt, metrics = ops.grad_step(
        lambda p: actor_loss(cfg, cvae, critic_cfg, p, state.params["decoder"], guides, batch),
        state.actor,
        state.actor_opt,
        tx,
        name="actor",
    )
    return state._replace(actor=actor, actor_opt=actor_opt), metrics
