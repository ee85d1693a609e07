"""Onestep RL (Brandfonbrener et al. 2021): one regularised improvement of the behaviour, valued by SARSA; never a bootstrap through it.

    behaviour   L_beta = -E[log beta(a|s)]
    critic      L_Q    = E[(r + gamma (1 - d) Q'(s', a'_logged) - Q(s, a))^2]
    policy      reverse-kl   E[-Q(s, a~) + alpha mean_10(log pi(a~|s) - log beta(a~|s))],   a~ ~ pi(s)
                exp-weight   -E[min(exp(T (Q(s, a) - b)), 100) log pi(a|s)],   b = mean_10 Q(s, a~), a~ ~ beta(s)

beta is a Gaussian, pi a normal truncated to the box that starts as beta and acts with its mean, which is nearer the middle than that of the
whole normal; the means of these are tanh-bounded, log sigma lies between -5 and 0. The third
operator, easy BCQ, trains no policy and is left out. The stages' shares are near the authors' 5e5, 2e6 and 1e5 steps. Targets move on
every step at half the rate instead of on every second.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from spar import nets, ops
from spar.baselines import common
from spar.types import Algo, Batch, DataNeeds, Metrics, Spec, Stage, Transitions

LOG_STD_MIN, LOG_STD_MAX = -5.0, 0.0
WIDE = (1024, 1024)


@dataclass(frozen=True)
class Config:
    operator: Literal["reverse-kl", "exp-weight"] = "reverse-kl"  # the improvement
    alpha: float = 1.0  # weight of the reverse KL
    temperature: float = 1.0  # T of the exponential weights, inverse: larger follows the advantage more
    max_weight: float = 100.0  # cap of the exponential
    samples: int = 10  # actions for the means over 10
    actor: common.ActorConfig = field(default_factory=lambda: common.ActorConfig(hidden=WIDE, learning_rate=1e-4))
    critic: common.CriticConfig = field(default_factory=lambda: common.CriticConfig(hidden=WIDE, learning_rate=1e-4, polyak=0.0025))


class State(NamedTuple):
    behaviour: common.Net
    critics: common.Net  # one
    actor: common.Net


def init(cfg: Config, spec: Spec, key: jax.Array) -> State:
    actor_key, critic_key = jax.random.split(key)
    net = nets.MLP(cfg.actor.hidden, 2 * spec.act_dim)
    actor = common.start(net, actor_key, jnp.zeros((1, spec.obs_dim)), learning_rate=cfg.actor.learning_rate)
    return State(actor, common.start_critics(cfg.critic, spec, critic_key, size=1), actor)


def gaussian(params: ops.Params, obs: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean in (-1, 1) and log std, softly clamped, (B, A) each."""
    mean, log_std = jnp.split(common.mlp(params, obs), 2, axis=-1)
    return jnp.tanh(mean), LOG_STD_MIN + 0.5 * (LOG_STD_MAX - LOG_STD_MIN) * (jnp.tanh(log_std) + 1)


def reverse_kl_loss(
    cfg: Config, params: ops.Params, behaviour: ops.Params, critics: ops.Params, rows: Transitions, uniform: jax.Array
) -> tuple[jax.Array, Metrics]:
    """`uniform` (K, B, A) makes the draws; Q sees the first."""
    mean, log_std = gaussian(params, rows.obs)
    action = ops.truncated_sample(mean, log_std, uniform)
    divergence = (ops.truncated_log_prob(action, mean, log_std) - ops.gaussian_log_prob(action, *gaussian(behaviour, rows.obs))).mean()
    q = common.first_q(cfg.critic, critics, rows.obs, action[0]).mean()
    return cfg.alpha * divergence - q, {"divergence": divergence, "policy_q": q}


def exp_weight_loss(
    cfg: Config, params: ops.Params, behaviour: ops.Params, critics: ops.Params, rows: Transitions, noise: jax.Array
) -> tuple[jax.Array, Metrics]:
    """`noise` (K, B, A), standard normal, makes the behaviour's draws."""
    mean, log_std = gaussian(behaviour, rows.obs)
    baseline = common.first_q(cfg.critic, critics, rows.obs, jnp.clip(mean + jnp.exp(log_std) * noise, -1.0, 1.0)).mean(0)
    advantage = common.first_q(cfg.critic, critics, rows.obs, rows.action) - baseline
    weight = jnp.minimum(jnp.exp(cfg.temperature * advantage), cfg.max_weight)
    log_prob = ops.truncated_log_prob(rows.action, *gaussian(params, rows.obs))
    return -(weight * log_prob).mean(), {"advantage": advantage.mean(), "weight": weight.mean()}


def clone(cfg: Config, state: State, batch: Batch, key: jax.Array, step: jax.Array) -> tuple[State, Metrics]:
    """A step of the behaviour; the policy is kept equal to it, where it will start."""
    rows = batch.rows
    behaviour, metrics = common.step(
        lambda p: (-ops.gaussian_log_prob(rows.action, *gaussian(p, rows.obs)).mean(), {}),
        state.behaviour, cfg.actor.learning_rate, "behaviour",
    )  # fmt: skip
    return state._replace(behaviour=behaviour, actor=state.actor._replace(params=behaviour.params)), metrics


def evaluate(cfg: Config, state: State, batch: Batch, key: jax.Array, step: jax.Array) -> tuple[State, Metrics]:
    """SARSA on the logged next action."""
    rows = batch.rows
    assert rows.next_action is not None, "DataNeeds.next_action was not honoured"
    next_q = common.first_q(cfg.critic, state.critics.target, rows.next_obs, rows.next_action)
    critics, metrics = common.critic_step(
        cfg.critic, state.critics, ops.td_target(rows.reward, rows.terminated, next_q, cfg.critic.discount), rows
    )
    return state._replace(critics=common.follow(critics, cfg.critic.polyak)), metrics


def improve(cfg: Config, state: State, batch: Batch, key: jax.Array, step: jax.Array) -> tuple[State, Metrics]:
    shape = (cfg.samples, *batch.rows.action.shape)
    loss, draws = (
        (reverse_kl_loss, jax.random.uniform(key, shape))
        if cfg.operator == "reverse-kl"
        else (exp_weight_loss, jax.random.normal(key, shape))
    )
    actor, metrics = common.step(
        lambda p: loss(cfg, p, state.behaviour.params, state.critics.params, batch.rows, draws),
        state.actor,
        cfg.actor.learning_rate,
        "actor",
    )
    return state._replace(actor=actor), metrics


def policy(cfg: Config, state: State, obs: jax.Array, key: jax.Array) -> jax.Array:
    return ops.truncated_mean(*gaussian(state.actor.params, obs))


def export(cfg: Config, state: State) -> tuple[dict[str, Any], dict[str, Any]]:
    return common.exported("truncated", {"actor": state.actor.params}, log_std_min=LOG_STD_MIN, log_std_max=LOG_STD_MAX)


ONESTEP = Algo(
    name="onestep",
    summary="Onestep RL: one regularised improvement of the cloned behaviour on its SARSA values",
    config=Config,
    default=Config(),
    stages=(
        Stage("behaviour", "all", clone, share=0.2),
        Stage("critic", "all", evaluate, share=0.7),
        Stage("policy", "all", improve, share=0.1),
    ),
    init=init,
    act=common.ungated(policy),
    export=export,
    data=DataNeeds(standardise=False, next_action=True),
)
