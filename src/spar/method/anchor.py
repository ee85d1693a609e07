"""Stage I, the anchor: pure behaviour cloning, never advantage-weighted (SPAR 3.1, Algorithm 1 lines 4-5).

L_BC = E[|pi_base(s) - a|^2]            deterministic (locomotion)
L_BC = E[-log N(a; mu(s), sigma)]       gaussian (Adroit, AntMaze); pi_base(s) is then the mean
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from spar import nets, ops
from spar.types import Metrics, Spec, Transitions


@dataclass(frozen=True)
class Config:
    kind: Literal["deterministic", "gaussian"] = "deterministic"  # deterministic: MSE; gaussian: negative log likelihood
    hidden: tuple[int, ...] = (256, 256)  # widths of the hidden layers
    learning_rate: float = 3e-4  # Adam
    clip_norm: float = 1.0  # global norm of the gradient


class State(NamedTuple):
    params: ops.Params
    opt: optax.OptState


def _net(cfg: Config, act_dim: int) -> nets.DeterministicPolicy | nets.GaussianPolicy:
    head = nets.DeterministicPolicy if cfg.kind == "deterministic" else nets.GaussianPolicy
    return head(cfg.hidden, act_dim)


def init(cfg: Config, spec: Spec, key: jax.Array) -> State:
    params = _net(cfg, spec.act_dim).init(key, jnp.zeros((1, spec.obs_dim)))
    return State(params, ops.adam(cfg.learning_rate, cfg.clip_norm).init(params))


def point(cfg: Config, params: ops.Params, obs: jax.Array) -> jax.Array:
    """pi_base(s) as a point, (B, obs_dim) -> (B, act_dim): the output, or the mean of the Gaussian."""
    layers = params["params"]["mlp"]
    out = _net(cfg, layers[f"Dense_{len(layers) - 1}"]["bias"].shape[-1]).apply(params, obs)
    return out if cfg.kind == "deterministic" else out[0]


def bc_loss(cfg: Config, params: ops.Params, rows: Transitions) -> tuple[jax.Array, Metrics]:
    """Summed over action dimensions, averaged over the batch."""
    if cfg.kind == "gaussian":
        mean, log_std = _net(cfg, rows.action.shape[-1]).apply(params, rows.obs)
        return -ops.gaussian_log_prob(rows.action, mean, log_std).mean(), {"anchor_std": jnp.exp(log_std).mean()}
    return ((point(cfg, params, rows.obs) - rows.action) ** 2).sum(-1).mean(), {}


def update(cfg: Config, state: State, rows: Transitions) -> tuple[State, Metrics]:
    tx = ops.adam(cfg.learning_rate, cfg.clip_norm)
    params, opt, metrics = ops.grad_step(lambda p: bc_loss(cfg, p, rows), state.params, state.opt, tx, name="anchor")
    return State(params, opt), metrics
