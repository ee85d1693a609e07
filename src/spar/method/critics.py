"""Stage I, the critics: a conservative ensemble learned in-sample (SPAR 3.1; IQL, Kostrikov et al. 2021).

    in-sample (default):  L_V = E[rho_tau(mean_i Qbar_i(s, a) - V(s))]
                          L_Q = E[(y - Q_i(s, a))^2]           y = r + gamma (1 - d) V(s')
    anchor (Algorithm 1): L_Q = E[rho_tau(y - Q_i(s, a))]      y = r + gamma (1 - d) mean_i Qbar_i(s', pi_base(s'))

    Q_rob(s, a) = mean_i Q_i(s, a) - lambda_u std_i Q_i(s, a)  over one of three subsets (eq. 1)

The paper's text and appendix describe the first, its Algorithm 1 the second; both omit the mask (1 - d), without which an
episode's end would bootstrap, and Algorithm 1 averages the online critics where this averages the target ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from spar import nets, ops
from spar.types import Metrics, SparError, Spec, Transitions

Role = Literal["data", "guide", "rectify"]


@dataclass(frozen=True)
class Config:
    size: int = 10  # critics in the ensemble, M
    subset: int = 4  # critics in each of the three subsets: weighting data, guiding the residual, rectifying at run time
    target: Literal["in-sample", "anchor"] = "in-sample"  # anchor: bootstrap through the anchor as in Algorithm 1
    expectile: float = 0.5  # tau; 0.9 for sparse rewards
    value_target: ops.Reduction = "mean"  # reduction over the target critics in V's regression
    discount: float = 0.99  # gamma
    lambda_u: float = 0.5  # weight of the ensemble's standard deviation in Q_rob
    hidden: tuple[int, ...] = (256, 256)  # widths of critics and V
    learning_rate: float = 3e-4  # Adam
    clip_norm: float = 1.0  # global norm, for V and for each critic alone
    polyak: float = 0.005  # rate of the target critics


class State(NamedTuple):
    critic: ops.Params  # leading axis M
    target: ops.Params  # leading axis M
    value: ops.Params
    critic_opt: optax.OptState
    value_opt: optax.OptState
    subsets: jax.Array  # (3, subset) member indices, rows in the order of Role


def subsets(key: jax.Array, size: int, count: int) -> jax.Array:
    """Three sets of `count` member indices, as disjoint as `size` allows: consecutive runs of one permutation, wrapping round."""
    order = jax.random.permutation(key, size)
    return order[jnp.arange(3 * count).reshape(3, count) % size]


def init(cfg: Config, spec: Spec, key: jax.Array) -> State:
    """Raises SparError when a subset is larger than the ensemble."""
    if not 1 <= cfg.subset <= cfg.size:
        raise SparError(f"critic.subset is {cfg.subset}; it must lie between 1 and critic.size = {cfg.size}")
    critic_key, value_key, subset_key = jax.random.split(key, 3)
    obs, action = jnp.zeros((1, spec.obs_dim)), jnp.zeros((1, spec.act_dim))
    critic = nets.CriticEnsemble(cfg.size, cfg.hidden).init(critic_key, obs, action)
    value = nets.Value(cfg.hidden).init(value_key, obs)
    tx = ops.adam(cfg.learning_rate, cfg.clip_norm)
    copy = jax.tree.map(jnp.copy, critic)
    return State(critic, copy, value, jax.vmap(tx.init)(critic), tx.init(value), subsets(subset_key, cfg.size, cfg.subset))


def q_values(cfg: Config, params: ops.Params, obs: jax.Array, action: jax.Array) -> jax.Array:
    """Q_i(s, a) of every member in `params`: (B, obs_dim), (B, act_dim) -> (n, B)."""
    size = jax.tree.leaves(params)[0].shape[0]
    return nets.CriticEnsemble(size, cfg.hidden).apply(params, obs, action)


def members(state: State, role: Role) -> ops.Params:
    """The parameters of one subset of the ensemble, leading axis `subset`."""
    index = state.subsets[("data", "guide", "rectify").index(role)]
    return jax.tree.map(lambda leaf: leaf[index], state.critic)


def value_loss(cfg: Config, params: ops.Params, target_q: jax.Array, obs: jax.Array) -> tuple[jax.Array, Metrics]:
    """Expectile regression of V(s) (B,) on the reduced target critics `target_q` (B,)."""
    value = nets.Value(cfg.hidden).apply(params, obs)
    return ops.expectile_loss(target_q - value, cfg.expectile).mean(), {"value": value.mean()}


def critic_loss(cfg: Config, params: ops.Params, y: jax.Array, rows: Transitions) -> tuple[jax.Array, Metrics]:
    """Sum over members of the mean loss against the shared target `y` (B,)."""
    q = q_values(cfg, params, rows.obs, rows.action)
    error = y - q
    loss = error**2 if cfg.target == "in-sample" else ops.expectile_loss(error, cfg.expectile)
    return loss.mean(1).sum(), {"q": q.mean(), "q_disagreement": q.std(0).mean(), "td_error": jnp.abs(error).mean()}


def update(cfg: Config, state: State, rows: Transitions, next_anchor: jax.Array) -> tuple[State, Metrics]:
    """One step of V and the critics, then of the targets. `next_anchor` is pi_base(s') (B, act_dim), read for target "anchor" only."""
    tx = ops.adam(cfg.learning_rate, cfg.clip_norm)
    value, value_opt = state.value, state.value_opt
    metrics: Metrics = {}
    if cfg.target == "in-sample":
        target_q = ops.reduce_ensemble(q_values(cfg, state.target, rows.obs, rows.action), cfg.value_target)
        value, value_opt, metrics = ops.grad_step(
            lambda p: value_loss(cfg, p, target_q, rows.obs), state.value, state.value_opt, tx, name="value"
        )
        next_value = nets.Value(cfg.hidden).apply(value, rows.next_obs)
    else:
        next_value = ops.reduce_ensemble(q_values(cfg, state.target, rows.next_obs, next_anchor), "mean")
    y = ops.td_target(rows.reward, rows.terminated, next_value, cfg.discount)
    critic, critic_opt, critic_metrics = ops.grad_step(
        lambda p: critic_loss(cfg, p, y, rows), state.critic, state.critic_opt, tx, name="critic", members=True
    )
    target = ops.polyak(state.target, critic, cfg.polyak)
    return State(critic, target, value, critic_opt, value_opt, state.subsets), {**metrics, **critic_metrics}
