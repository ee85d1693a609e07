"""TD3 (Fujimoto et al. 2018), the base of TD3+BC and SPOT: they differ in the actor's loss alone.

    y   = r + gamma (1 - d) min_i Q'_i(s', a'),   a' = clip(pi'(s') + clip(eps, +-c), +-1),   eps ~ N(0, sigma^2)
    L_Q = sum_i E[(y - Q_i(s, a))^2]

The actor and all targets move on every second step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from spar import nets, ops
from spar.baselines import common
from spar.types import Metrics, Spec, Transitions


@dataclass(frozen=True)
class Config:
    policy_noise: float = 0.2  # sigma of the noise on the target policy's action
    noise_clip: float = 0.5  # c, its bound
    period: int = 2  # critic steps for each step of the actor and the targets


class State(NamedTuple):
    actor: common.Net
    critics: common.Net


ActorLoss = Callable[[ops.Params, ops.Params, jax.Array], tuple[jax.Array, Metrics]]  # (actor, critics, key) -> loss, metrics


def init(
    actor_cfg: common.ActorConfig,
    critic_cfg: common.CriticConfig,
    spec: Spec,
    key: jax.Array,
    actor_last: float | None = None,
    critic_last: float | None = None,
) -> State:
    """`actor_last`, `critic_last`: the last layers start in +- these."""
    actor_key, critic_key = jax.random.split(key)
    net = nets.MLP(actor_cfg.hidden, spec.act_dim)
    obs = jnp.zeros((1, spec.obs_dim))
    actor = common.start(net, actor_key, obs, learning_rate=actor_cfg.learning_rate, target=True, last=actor_last)
    return State(actor, common.start_critics(critic_cfg, spec, critic_key, critic_last))


def policy(actor_cfg: common.ActorConfig, params: ops.Params, obs: jax.Array, key: jax.Array | None = None) -> jax.Array:
    """pi(s), (B, obs_dim) -> (B, A); with dropout where a key is given."""
    return jnp.tanh(common.mlp(params, obs, actor_cfg.dropout, key))


def smoothed(cfg: Config, action: jax.Array, noise: jax.Array) -> jax.Array:
    """The target policy's action with clipped noise; `noise` (B, A) is standard normal."""
    return jnp.clip(action + jnp.clip(cfg.policy_noise * noise, -cfg.noise_clip, cfg.noise_clip), -1.0, 1.0)


def target(cfg: common.CriticConfig, critics: ops.Params, rows: Transitions, next_action: jax.Array) -> jax.Array:
    """y (B,)."""
    return ops.td_target(rows.reward, rows.terminated, common.q_values(cfg, critics, rows.next_obs, next_action).min(0), cfg.discount)


def update(
    cfg: Config,
    actor_cfg: common.ActorConfig,
    critic_cfg: common.CriticConfig,
    state: State,
    rows: Transitions,
    key: jax.Array,
    step: jax.Array,
    actor_loss: ActorLoss,
) -> tuple[State, Metrics]:
    """A critic step; then, every `period` steps, one of the actor on `actor_loss` and of all targets."""
    dropout_key, noise_key, actor_key = jax.random.split(key, 3)
    next_action = policy(actor_cfg, state.actor.target, rows.next_obs, dropout_key)
    next_action = smoothed(cfg, next_action, jax.random.normal(noise_key, next_action.shape))
    critics, metrics = common.critic_step(critic_cfg, state.critics, target(critic_cfg, state.critics.target, rows, next_action), rows)

    def improve() -> tuple[State, Metrics]:
        actor, found = common.step(lambda p: actor_loss(p, critics.params, actor_key), state.actor, actor_cfg.learning_rate, "actor")
        return State(common.follow(actor, critic_cfg.polyak), common.follow(critics, critic_cfg.polyak)), found

    state, actor_metrics = common.every(cfg.period, step, improve, State(state.actor, critics))
    return state, {**metrics, **actor_metrics}


def ascent(critic_cfg: common.CriticConfig, critics: ops.Params, obs: jax.Array, action: jax.Array, normalise: bool) -> jax.Array:
    """-E[Q_1(s, a)], divided by the batch mean of |Q_1|, through which no gradient flows, where `normalise` says so."""
    q = common.first_q(critic_cfg, critics, obs, action)
    return -(q / jax.lax.stop_gradient(jnp.abs(q).mean()) if normalise else q).mean()
