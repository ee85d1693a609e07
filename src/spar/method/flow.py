"""Conditional flow matching on straight paths, and the residual generator built on it (spar-flow, the flow of SPAR's Table 12).

    x_t = (1 - t) x_0 + t x_1,  x_0 ~ N(0, I),  t ~ U[0, 1]
    L   = E[w |v(c, x_t, t) - (x_1 - x_0)|^2]

The velocity field v is an MLP of the condition c, of x_t and of t as it is; its ODE dx/dt = v(c, x, t) carries the prior at t = 0 to
the data at t = 1, in Euler steps (Lipman et al. 2023 with sigma_min = 0; as a policy: the behaviour clone of FQL, Park et al. 2025).

    anchor.kind = flow   c = s             x_1 = a            w = 1
    spar-flow            c = (s, a_base)   x_1 = a - a_base   w as in eq. 8: weights on the fit, no latent self-imitation

Squares sum over action dimensions, then average over the batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from spar import nets, ops
from spar.types import Batch, Metrics, SparError, Spec


@dataclass(frozen=True)
class Config:
    hidden: tuple[int, ...] = (256, 256, 256)  # widths of the velocity field: those of the CVAE that it replaces
    flow_steps: int = 10  # Euler steps from the prior to a residual
    learning_rate: float = 3e-4  # Adam
    clip_norm: float = 1.0  # global norm of the gradient


class State(NamedTuple):
    params: ops.Params
    opt: optax.OptState


def init_field(hidden: tuple[int, ...], condition_dim: int, act_dim: int, key: jax.Array) -> ops.Params:
    """The parameters of v."""
    return nets.MLP(hidden, act_dim).init(key, jnp.zeros((1, condition_dim + act_dim + 1)))


def check_steps(field: str, steps: int) -> None:
    """Raises SparError when `steps`, the value of the setting `field`, is no number of Euler steps."""
    if steps < 1:
        raise SparError(f"{field} is {steps}; a flow needs at least 1 Euler step")


def velocity(hidden: tuple[int, ...], params: ops.Params, condition: jax.Array, x: jax.Array, t: jax.Array) -> jax.Array:
    """v(c, x, t): (B, C), (..., B, A), (..., B, 1) -> (..., B, A)."""
    condition = jnp.broadcast_to(condition, (*x.shape[:-1], condition.shape[-1]))
    return nets.MLP(hidden, x.shape[-1]).apply(params, jnp.concatenate([condition, x, t], -1))


def draw(key: jax.Array, goal: jax.Array) -> tuple[jax.Array, jax.Array]:
    """x_0 and t for goals x_1 (B, A): (B, A) and (B, 1)."""
    noise_key, time_key = jax.random.split(key)
    return jax.random.normal(noise_key, goal.shape), jax.random.uniform(time_key, (*goal.shape[:-1], 1))


def matching_loss(
    hidden: tuple[int, ...],
    params: ops.Params,
    condition: jax.Array,
    goal: jax.Array,
    w: jax.Array | float,
    noise: jax.Array,
    t: jax.Array,
) -> jax.Array:
    """L above, of goals x_1 (B, A) with weights w (B,), at given x_0 (B, A) and t (B, 1)."""
    x = (1.0 - t) * noise + t * goal
    error = velocity(hidden, params, condition, x, t) - (goal - noise)
    return (w * (error**2).sum(-1)).mean()


def integrate(hidden: tuple[int, ...], params: ops.Params, condition: jax.Array, x: jax.Array, steps: int) -> jax.Array:
    """Where the ODE carries x_0 = `x`, not clipped: (B, C), (..., B, A) -> (..., B, A)."""

    def step(i: jax.Array, x: jax.Array) -> jax.Array:
        return x + velocity(hidden, params, condition, x, jnp.full((*x.shape[:-1], 1), i / steps)) / steps

    return jax.lax.fori_loop(0, steps, step, x)


def from_mode(hidden: tuple[int, ...], params: ops.Params, condition: jax.Array, steps: int) -> jax.Array:
    """Where the ODE carries the prior's mode x_0 = 0: (B, C) -> (B, A), not clipped. In one dimension this is the median of what v
    generates, up to Euler's error, since its paths do not cross."""
    return integrate(hidden, params, condition, jnp.zeros((*condition.shape[:-1], _act_dim(params))), steps)


def sample(hidden: tuple[int, ...], params: ops.Params, condition: jax.Array, count: int, steps: int, key: jax.Array) -> jax.Array:
    """`count` draws from the prior for every condition, integrated, not clipped: (B, C) -> (count, B, A)."""
    noise = jax.random.normal(key, (count, *condition.shape[:-1], _act_dim(params)))
    return integrate(hidden, params, condition, noise, steps)


def _act_dim(params: ops.Params) -> int:
    layers = params["params"]
    return layers[f"Dense_{len(layers) - 1}"]["bias"].shape[-1]


# The residual


def init(cfg: Config, spec: Spec, key: jax.Array) -> State:
    """Raises SparError for an impossible number of Euler steps."""
    check_steps("residual.flow_steps", cfg.flow_steps)
    params = init_field(cfg.hidden, spec.obs_dim + spec.act_dim, spec.act_dim, key)
    return State(params, ops.adam(cfg.learning_rate, cfg.clip_norm).init(params))


def residuals(cfg: Config, params: ops.Params, obs: jax.Array, a_base: jax.Array, count: int, key: jax.Array) -> jax.Array:
    """`count` residuals drawn for every state: (B, obs_dim), (B, A) -> (count, B, A)."""
    return sample(cfg.hidden, params, jnp.concatenate([obs, a_base], -1), count, cfg.flow_steps, key)


def fit_loss(cfg: Config, params: ops.Params, batch: Batch, key: jax.Array) -> jax.Array:
    """The weighted loss of the logged residuals."""
    a_base = batch.frozen["a_base"]
    goal = batch.rows.action - a_base
    noise, t = draw(key, goal)
    return matching_loss(cfg.hidden, params, jnp.concatenate([batch.rows.obs, a_base], -1), goal, batch.frozen["weight"], noise, t)


def update(cfg: Config, state: State, batch: Batch, key: jax.Array) -> tuple[State, Metrics]:
    tx = ops.adam(cfg.learning_rate, cfg.clip_norm)
    params, opt, metrics = ops.grad_step(lambda p: (fit_loss(cfg, p, batch, key), {}), state.params, state.opt, tx, name="residual")
    return State(params, opt), metrics
