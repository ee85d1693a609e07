"""CQL, conservative Q-learning (Kumar et al. 2020): SAC whose critics are pushed down on drawn actions and up on the logged ones.

    y    = r + gamma (1 - d) (min_i Q'_i(s', a') [- alpha log pi(a'|s')]),   a' ~ pi(s')       ([]: with `backup_entropy`)
    C_i  = E[log sum_j exp(Q_i(s, a_j) - log p_j) - Q_i(s, a)]
    L_Q  = sum_i E[(y - Q_i(s, a))^2] + weight sum_i C_i
    L_pi = E[alpha log pi(a~|s) - min_i Q_i(s, a~)]

The a_j are `samples` each of uniform actions, of pi(s) and of pi(s'), all valued at s. With `gap` the term is a learned multiplier times
weight (C_i - gap), as in CORL and d3rlpy. With `max_backup` the target takes the best of `samples` actions. log sigma lies between -5 and 2
(official: -20 and 2); CORL's learned offset of it stays at -1. Rates, starts and initialisation are CORL's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from spar import nets, ops
from spar.baselines import common
from spar.types import Algo, Batch, Metrics, Spec, Stage, Transitions

LARGEST = 1e6  # of the multiplier
LAST = 1e-2  # gain of the last layers at the start: the critics' orthogonal, the actor's by Glorot's rule


@dataclass(frozen=True)
class Config:
    weight: float = 10.0  # of the conservative term
    samples: int = 10  # actions drawn from each of the three sources
    gap: float | None = None  # threshold of the learned multiplier; None: no multiplier
    floor: float = -math.inf  # the difference inside C_i is no smaller than this, in every row
    max_backup: bool = False  # the target takes the best of `samples` next actions
    backup_entropy: bool = False  # SAC's entropy bonus in the target; not with max_backup
    temperature_rate: float | None = None  # Adam, for SAC's entropy temperature; None: the policy's
    multiplier_rate: float | None = None  # Adam, for the multiplier; None: the critics'
    multiplier_start: float = 1.0  # of its logarithm
    log_std_offset: float = -1.0  # added to what the network says
    actor: common.ActorConfig = field(default_factory=lambda: common.ActorConfig(hidden=(256, 256, 256), learning_rate=3e-5))
    critic: common.CriticConfig = field(default_factory=lambda: common.CriticConfig(hidden=(256, 256, 256)))


class State(NamedTuple):
    actor: common.Net
    critics: common.Net
    log_alpha: common.Net  # SAC's entropy temperature
    log_multiplier: common.Net


def init(cfg: Config, spec: Spec, key: jax.Array) -> State:
    actor_key, critic_key = jax.random.split(key)
    net, last = nets.MLP(cfg.actor.hidden, 2 * spec.act_dim), LAST * math.sqrt(6 / (cfg.actor.hidden[-1] + 2 * spec.act_dim))
    actor = common.start(net, actor_key, jnp.zeros((1, spec.obs_dim)), learning_rate=cfg.actor.learning_rate, last=last)
    logs = (common.Net(x, ops.adam(cfg.actor.learning_rate).init(x)) for x in (jnp.zeros(()), jnp.float32(cfg.multiplier_start)))
    return State(actor, common.start_critics(cfg.critic, spec, critic_key, last=LAST, fresh=common.orthogonal), *logs)


def sample(cfg: Config, params: ops.Params, obs: jax.Array, noise: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Actions of pi(s) and their log densities: (B, obs_dim), standard normal (..., B, A) -> (..., B, A), (..., B)."""
    mean, log_std = common.mean_and_log_std(params, obs, cfg.log_std_offset)
    return ops.squash(mean + jnp.exp(log_std) * noise, mean, log_std)


def conservative(cfg: Config, params: ops.Params, rows: Transitions, drawn: jax.Array, log_prob: jax.Array) -> jax.Array:
    """C_i (2,), from actions `drawn` (K, B, A) with log densities (K, B)."""
    raised = jax.nn.logsumexp(common.q_values(cfg.critic, params, rows.obs, drawn) - log_prob, axis=1)
    return jnp.maximum(raised - common.q_values(cfg.critic, params, rows.obs, rows.action), cfg.floor).mean(1)


def critic_loss(
    cfg: Config, params: ops.Params, multiplier: jax.Array, y: jax.Array, rows: Transitions, drawn: jax.Array, log_prob: jax.Array
) -> tuple[jax.Array, Metrics]:
    td, metrics = common.critic_loss(cfg.critic, params, y, rows)
    gap = cfg.weight * (conservative(cfg, params, rows, drawn, log_prob) - (cfg.gap or 0.0))
    return td + (multiplier * gap).sum(), {**metrics, "td_loss": td, "conservative_gap": gap.mean()}


def actor_loss(
    cfg: Config, params: ops.Params, critics: ops.Params, alpha: jax.Array, rows: Transitions, noise: jax.Array
) -> tuple[jax.Array, Metrics]:
    action, log_prob = sample(cfg, params, rows.obs, noise)
    q = common.q_values(cfg.critic, critics, rows.obs, action).min(0)
    return (alpha * log_prob - q).mean(), {"log_prob": log_prob.mean()}


def draw(cfg: Config, actor: ops.Params, rows: Transitions, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The a_j (3 * samples, B, A) and their log densities."""
    here_key, there_key, uniform_key = jax.random.split(key, 3)
    shape = (cfg.samples, *rows.action.shape)
    here, here_log = sample(cfg, actor, rows.obs, jax.random.normal(here_key, shape))
    there, there_log = sample(cfg, actor, rows.next_obs, jax.random.normal(there_key, shape))
    anywhere = jax.random.uniform(uniform_key, shape, minval=-1.0, maxval=1.0)
    anywhere_log = jnp.full(shape[:-1], -shape[-1] * math.log(2.0))
    return jnp.concatenate([here, there, anywhere]), jnp.concatenate([here_log, there_log, anywhere_log])


def raised(log: common.Net, excess: jax.Array, learning_rate: float, name: str) -> common.Net:
    """A multiplier after a step that raises it where `excess` is positive."""
    return common.step(lambda p: (-jnp.minimum(jnp.exp(p), LARGEST) * excess, {}), log, learning_rate, name)[0]


def update(cfg: Config, state: State, batch: Batch, key: jax.Array, step: jax.Array) -> tuple[State, Metrics]:
    """The temperature, the actor, the critics and their multiplier, then the targets."""
    rows = batch.rows
    actor_key, next_key, draw_key = jax.random.split(key, 3)
    alpha, own = jnp.exp(state.log_alpha.params), cfg.actor.learning_rate
    noise = jax.random.normal(actor_key, rows.action.shape)
    actor, metrics = common.step(lambda p: actor_loss(cfg, p, state.critics.params, alpha, rows, noise), state.actor, own, "actor")
    rate = own if cfg.temperature_rate is None else cfg.temperature_rate
    log_alpha = raised(state.log_alpha, metrics["log_prob"] - rows.action.shape[-1], rate, "alpha")  # over the target entropy of -A
    count = cfg.samples if cfg.max_backup else 1
    next_action, next_log = sample(cfg, state.actor.params, rows.next_obs, jax.random.normal(next_key, (count, *rows.action.shape)))
    next_q = common.q_values(cfg.critic, state.critics.target, rows.next_obs, next_action).min(0).max(0)
    if cfg.backup_entropy and not cfg.max_backup:
        next_q -= alpha * next_log[0]
    y = ops.td_target(rows.reward, rows.terminated, next_q, cfg.critic.discount)
    drawn, log_prob = jax.lax.stop_gradient(draw(cfg, state.actor.params, rows, draw_key))
    multiplier = jnp.ones(()) if cfg.gap is None else jnp.minimum(jnp.exp(state.log_multiplier.params), LARGEST)
    count = ops.block_count(len(y), len(drawn) + 1)
    blocks = (*ops.cut((y, rows), count), *ops.cut((drawn, log_prob), count, axis=1))
    rate = cfg.critic.learning_rate
    critics, critic_metrics = common.step(lambda p, b: critic_loss(cfg, p, multiplier, *b), state.critics, rate, "critic", blocks)
    log_multiplier, rate = state.log_multiplier, rate if cfg.multiplier_rate is None else cfg.multiplier_rate
    if cfg.gap is not None:
        log_multiplier = raised(log_multiplier, critic_metrics["conservative_gap"], rate, "multiplier")
    found = {**metrics, **critic_metrics, "alpha": alpha, "multiplier": multiplier}
    return State(actor, common.follow(critics, cfg.critic.polyak), log_alpha, log_multiplier), found


def policy(cfg: Config, state: State, obs: jax.Array, key: jax.Array) -> jax.Array:
    return jnp.tanh(common.mean_and_log_std(state.actor.params, obs)[0])


def export(cfg: Config, state: State) -> tuple[dict[str, Any], dict[str, Any]]:
    return common.exported("tanh", {"actor": common.mean_outputs(state.actor.params)})


CQL = Algo(
    name="cql",
    summary="CQL: conservative Q-learning on SAC",
    config=Config,
    default=Config(),
    stages=(Stage("actor and critics", "all", update),),
    init=init,
    act=common.ungated(policy),
    export=export,
)
