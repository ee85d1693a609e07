"""Stage I, the anchor: pure behaviour cloning, never advantage-weighted (SPAR 3.1, Algorithm 1 lines 4-5).

L_BC = E[|pi_base(s) - a|^2]             deterministic (locomotion)
L_BC = E[-log N(a; mu(s), sigma)]        gaussian (Adroit, AntMaze); pi_base(s) is then the mean
L_BC = E[|v(s, x_t, t) - (a - x_0)|^2]   flow (Tables 12 and 13; flow.py); pi_base(s) is where the flow carries x_0 = 0, clipped to the box

With `zero` nothing is cloned: pi_base(s) is 0, the centre of the box, and the residual is the action itself. That is Table 2's generative
policy in the global action space.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from spar import nets, ops
from spar.method import flow
from spar.types import Metrics, Spec, Transitions

Kind = Literal["deterministic", "gaussian", "flow", "zero"]


@dataclass(frozen=True)
class Config:
    kind: Kind = "deterministic"  # deterministic: MSE; gaussian: negative log likelihood; flow: flow matching; zero: always 0, untrained
    hidden: tuple[int, ...] = (256, 256)  # widths of the hidden layers
    flow_steps: int = 10  # Euler steps of a flow
    learning_rate: float = 3e-4  # Adam
    clip_norm: float = 1.0  # global norm of the gradient


class State(NamedTuple):
    params: ops.Params
    opt: optax.OptState


def _net(cfg: Config, act_dim: int) -> nets.DeterministicPolicy | nets.GaussianPolicy:
    head = nets.DeterministicPolicy if cfg.kind == "deterministic" else nets.GaussianPolicy
    return head(cfg.hidden, act_dim)


def init(cfg: Config, spec: Spec, key: jax.Array) -> State:
    """Raises SparError for an impossible number of Euler steps."""
    if cfg.kind == "flow":
        flow.check_steps("anchor.flow_steps", cfg.flow_steps)
        params = flow.init_field(cfg.hidden, spec.obs_dim, spec.act_dim, key)
    elif cfg.kind == "zero":
        params = {"params": {"centre": jnp.zeros(spec.act_dim)}}
    else:
        params = _net(cfg, spec.act_dim).init(key, jnp.zeros((1, spec.obs_dim)))
    return State(params, ops.adam(cfg.learning_rate, cfg.clip_norm).init(params))


def point(cfg: Config, params: ops.Params, obs: jax.Array) -> jax.Array:
    """pi_base(s) as a point, (B, obs_dim) -> (B, act_dim): the output, the mean of the Gaussian, the flow of the prior's mode, or 0."""
    if cfg.kind == "flow":
        return jnp.clip(flow.from_mode(cfg.hidden, params, obs, cfg.flow_steps), -1.0, 1.0)
    if cfg.kind == "zero":
        centre = params["params"]["centre"]
        return jnp.broadcast_to(centre, (*obs.shape[:-1], *centre.shape))
    layers = params["params"]["mlp"]
    out = _net(cfg, layers[f"Dense_{len(layers) - 1}"]["bias"].shape[-1]).apply(params, obs)
    return out if cfg.kind == "deterministic" else out[0]


def bc_loss(cfg: Config, params: ops.Params, rows: Transitions, key: jax.Array | None = None) -> tuple[jax.Array, Metrics]:
    """Summed over action dimensions, averaged over the batch. A flow draws x_0 and t from `key`; the others need none."""
    if cfg.kind == "flow":
        assert key is not None
        return flow.matching_loss(cfg.hidden, params, rows.obs, rows.action, 1.0, *flow.draw(key, rows.action)), {}
    if cfg.kind == "gaussian":
        mean, log_std = _net(cfg, rows.action.shape[-1]).apply(params, rows.obs)
        return -ops.gaussian_log_prob(rows.action, mean, log_std).mean(), {"anchor_std": jnp.exp(log_std).mean()}
    return ((point(cfg, params, rows.obs) - rows.action) ** 2).sum(-1).mean(), {}


def update(cfg: Config, state: State, rows: Transitions, key: jax.Array | None = None) -> tuple[State, Metrics]:
    """One step of the clone; `key` as for `bc_loss`. `zero` stays as it is, and has no metrics."""
    if cfg.kind == "zero":
        return state, {}
    tx = ops.adam(cfg.learning_rate, cfg.clip_norm)
    params, opt, metrics = ops.grad_step(lambda p: bc_loss(cfg, p, rows, key), state.params, state.opt, tx, name="anchor")
    return State(params, opt), metrics


def describe(cfg: Config) -> dict[str, Any]:
    """What `point` needs beside the parameters where there is no JAX: one of deploy.actors.ANCHORS, with its settings."""
    if cfg.kind == "flow":
        return {"kind": "flow", "flow_steps": cfg.flow_steps}
    return {"kind": "zero" if cfg.kind == "zero" else "tanh"}
