"""AWAC, advantage-weighted actor-critic (Nair et al. 2020).

    y    = r + gamma (1 - d) min_i Q'_i(s', a'),   a' ~ pi(s')
    L_pi = -E[w log pi(a|s)],   A = min_i Q_i(s, a) - min_i Q_i(s, a~),   a~ ~ pi(s)

w = min(exp(A / lambda), 100) as in CORL, or B softmax_batch(A / lambda) as in the authors' code and d3rlpy: two different algorithms at
small lambda. The mean is linear (CORL) or bounded by tanh (d3rlpy); actions drawn are clipped to the box. log sigma is one
parameter for each dimension, between -5 and 2 (CORL: -20 and 2).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from spar import nets, ops
from spar.baselines import common
from spar.types import Algo, Batch, Metrics, Spec, Stage, Transitions


@dataclass(frozen=True)
class Config:
    temperature: float = 1 / 3  # lambda
    weights: Literal["exp", "softmax"] = "exp"  # exp: clipped exponential; softmax: normalised over the batch
    max_weight: float = 100.0  # cap of the exponential
    bounded: bool = False  # the policy's mean goes through tanh
    actor: common.ActorConfig = field(default_factory=lambda: common.ActorConfig(hidden=(256, 256, 256)))
    critic: common.CriticConfig = field(default_factory=lambda: common.CriticConfig(hidden=(256, 256, 256)))


class State(NamedTuple):
    actor: common.Net
    critics: common.Net


def init(cfg: Config, spec: Spec, key: jax.Array) -> State:
    actor_key, critic_key = jax.random.split(key)
    net = nets.GaussianPolicy(cfg.actor.hidden, spec.act_dim, cfg.bounded)
    actor = common.start(net, actor_key, jnp.zeros((1, spec.obs_dim)), learning_rate=cfg.actor.learning_rate)
    return State(actor, common.start_critics(cfg.critic, spec, critic_key))


def sample(cfg: Config, params: ops.Params, obs: jax.Array, noise: jax.Array) -> jax.Array:
    """An action of pi(s) in the box; `noise` (B, A) is standard normal."""
    mean, log_std = common.gaussian(cfg.actor, params, obs, bounded=cfg.bounded)
    return jnp.clip(mean + jnp.exp(log_std) * noise, -1.0, 1.0)


def advantage(cfg: Config, critics: ops.Params, rows: Transitions, sampled: jax.Array) -> jax.Array:
    """A (B,), of the logged action over the `sampled` one."""
    q, v = (common.q_values(cfg.critic, critics, rows.obs, action).min(0) for action in (rows.action, sampled))
    return q - v


def actor_loss(
    cfg: Config, params: ops.Params, advantage: jax.Array, rows: Transitions, key: jax.Array | None = None
) -> tuple[jax.Array, Metrics]:
    scaled = advantage / cfg.temperature
    weight = jnp.minimum(jnp.exp(scaled), cfg.max_weight) if cfg.weights == "exp" else len(scaled) * jax.nn.softmax(scaled)
    log_prob = ops.gaussian_log_prob(rows.action, *common.gaussian(cfg.actor, params, rows.obs, key, cfg.bounded))
    return -(jax.lax.stop_gradient(weight) * log_prob).mean(), {"advantage": advantage.mean(), "weight": weight.mean()}


def update(cfg: Config, state: State, batch: Batch, key: jax.Array, step: jax.Array) -> tuple[State, Metrics]:
    """One step of the critics, one of the actor on the new critics, then the targets."""
    rows = batch.rows
    next_key, sample_key, dropout_key = jax.random.split(key, 3)
    next_action = sample(cfg, state.actor.params, rows.next_obs, jax.random.normal(next_key, rows.action.shape))
    next_q = common.q_values(cfg.critic, state.critics.target, rows.next_obs, next_action).min(0)
    y = ops.td_target(rows.reward, rows.terminated, next_q, cfg.critic.discount)
    critics, metrics = common.critic_step(cfg.critic, state.critics, y, rows)
    sampled = sample(cfg, state.actor.params, rows.obs, jax.random.normal(sample_key, rows.action.shape))
    better = advantage(cfg, critics.params, rows, sampled)
    actor, actor_metrics = common.step(
        lambda p: actor_loss(cfg, p, better, rows, dropout_key), state.actor, cfg.actor.learning_rate, "actor"
    )
    return State(actor, common.follow(critics, cfg.critic.polyak)), {**metrics, **actor_metrics}


def policy(cfg: Config, state: State, obs: jax.Array, key: jax.Array) -> jax.Array:
    return common.gaussian(cfg.actor, state.actor.params, obs, bounded=cfg.bounded)[0]


def export(cfg: Config, state: State) -> tuple[dict[str, Any], dict[str, Any]]:
    return common.exported("tanh" if cfg.bounded else "linear", {"actor": common.mean_net(state.actor.params)})


AWAC = Algo(
    name="awac",
    summary="AWAC: advantage-weighted actor-critic",
    config=Config,
    default=Config(),
    stages=(Stage("actor and critics", "all", update),),
    init=init,
    act=common.ungated(policy),
    export=export,
)
