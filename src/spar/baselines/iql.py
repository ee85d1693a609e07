"""IQL, implicit Q-learning (Kostrikov et al. 2021).

    L_V  = E[rho_tau(min_i Q'_i(s, a) - V(s))]
    L_pi = -E[w log pi(a|s)], of a deterministic pi E[w |pi(s) - a|^2],  w = min(exp(beta (min_i Q'_i(s, a) - V(s))), 100)
    L_Q  = sum_i E[(r + gamma (1 - d) V(s') - Q_i(s, a))^2]

in this order, each with the V just updated, then the target critics. pi is a Gaussian with a tanh-bounded mean, not squashed, and one
scale for each dimension. The authors divide locomotion's rewards by the range of returns, CORL those of two tasks.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from spar import nets, ops
from spar.baselines import common
from spar.types import Algo, Batch, DataNeeds, Metrics, Spec, Stage, Transitions


@dataclass(frozen=True)
class Config:
    kind: Literal["gaussian", "deterministic"] = "gaussian"  # gaussian: weighted negative log likelihood; deterministic: squared error
    expectile: float = 0.7  # tau of the value's regression
    temperature: float = 3.0  # beta, inverse: larger follows the advantage more
    max_weight: float = 100.0  # cap of the exponential
    decay_steps: int = (
        1_000_000  # offline the policy's rate falls to 0 over these updates, as a cosine; `configure` sets the run's; 0: constant
    )
    actor: common.ActorConfig = field(default_factory=common.ActorConfig)
    critic: common.CriticConfig = field(default_factory=common.CriticConfig)


class State(NamedTuple):
    actor: common.Net
    critics: common.Net
    value: common.Net


def actor_rate(cfg: Config) -> float | optax.Schedule:
    rate = cfg.actor.learning_rate
    return optax.cosine_decay_schedule(rate, cfg.decay_steps) if cfg.decay_steps else rate


def init(cfg: Config, spec: Spec, key: jax.Array) -> State:
    actor_key, critic_key, value_key = jax.random.split(key, 3)
    obs = jnp.zeros((1, spec.obs_dim))
    return State(
        common.start(nets.GaussianPolicy(cfg.actor.hidden, spec.act_dim), actor_key, obs, learning_rate=actor_rate(cfg)),
        common.start_critics(cfg.critic, spec, critic_key),
        common.start(nets.Value(cfg.critic.hidden), value_key, obs, learning_rate=cfg.critic.learning_rate),
    )


def value(cfg: Config, params: ops.Params, obs: jax.Array) -> jax.Array:
    return nets.Value(cfg.critic.hidden).apply(params, obs)


def value_loss(cfg: Config, params: ops.Params, target_q: jax.Array, rows: Transitions) -> tuple[jax.Array, Metrics]:
    """`target_q` (B,) is the smaller target critic's value of the logged action."""
    v = value(cfg, params, rows.obs)
    return ops.expectile_loss(target_q - v, cfg.expectile).mean(), {"value": v.mean()}


def actor_loss(
    cfg: Config, params: ops.Params, advantage: jax.Array, rows: Transitions, key: jax.Array | None = None
) -> tuple[jax.Array, Metrics]:
    weight = jnp.minimum(jnp.exp(cfg.temperature * advantage), cfg.max_weight)
    mean, log_std = common.gaussian(cfg.actor, params, rows.obs, key)
    squares = ((mean - rows.action) ** 2).sum(-1)
    misfit = squares if cfg.kind == "deterministic" else -ops.gaussian_log_prob(rows.action, mean, log_std)
    return (weight * misfit).mean(), {"advantage": advantage.mean(), "weight": weight.mean()}


def update(cfg: Config, state: State, batch: Batch, key: jax.Array, step: jax.Array) -> tuple[State, Metrics]:
    """V, then the policy, then the critics, then their targets."""
    return _update(cfg, state, batch, key, actor_rate(cfg))


def online(cfg: Config, state: State, batch: Batch, key: jax.Array, step: jax.Array) -> tuple[State, Metrics]:
    """The same at the policy's full rate, which has no end to fall towards here: as a schedule where the optimiser's state has one."""
    rate = cfg.actor.learning_rate
    return _update(cfg, state, batch, key, optax.constant_schedule(rate) if cfg.decay_steps else rate)


def _update(cfg: Config, state: State, batch: Batch, key: jax.Array, rate: float | optax.Schedule) -> tuple[State, Metrics]:
    rows = batch.rows
    target_q = common.q_values(cfg.critic, state.critics.target, rows.obs, rows.action).min(0)
    v, metrics = common.step(lambda p: value_loss(cfg, p, target_q, rows), state.value, cfg.critic.learning_rate, "value")
    advantage = target_q - value(cfg, v.params, rows.obs)
    actor, actor_metrics = common.step(lambda p: actor_loss(cfg, p, advantage, rows, key), state.actor, rate, "actor")
    y = ops.td_target(rows.reward, rows.terminated, value(cfg, v.params, rows.next_obs), cfg.critic.discount)
    critics, critic_metrics = common.critic_step(cfg.critic, state.critics, y, rows)
    return State(actor, common.follow(critics, cfg.critic.polyak), v), {**metrics, **actor_metrics, **critic_metrics}


def policy(cfg: Config, state: State, obs: jax.Array, key: jax.Array) -> jax.Array:
    return common.gaussian(cfg.actor, state.actor.params, obs)[0]


def export(cfg: Config, state: State) -> tuple[dict[str, Any], dict[str, Any]]:
    return common.exported("tanh", {"actor": common.mean_net(state.actor.params)})


IQL = Algo(
    name="iql",
    summary="IQL: implicit Q-learning, in-sample values and advantage-weighted cloning",
    config=Config,
    default=Config(),
    stages=(Stage("value, policy and critics", "all", update),),
    init=init,
    act=common.ungated(policy),
    export=export,
    data=DataNeeds(),
    online=online,
)
