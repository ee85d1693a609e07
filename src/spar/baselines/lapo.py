"""LAPO (Chen et al. 2022): the CVAE itself is trained with the advantage's weights, together with critics and latent policy.

    L_Q   = sum_i E[(r + gamma (1 - d) V(s') - Q_i(s, a))^2]
    L_V   = E[(clip(q(s, dec'(s, pi'(s) + eps)) - V(s))^2]              q = kappa min_i Q'_i + (1 - kappa) max_i Q'_i
    L_VAE = E[w (|dec(s, z) - a|^2 + beta KL)],   w = 0.9 where A > 0, else 0.1,   A = r + gamma (1 - d) q(s', dec'(s', pi'(s'))) - V(s)
    L_pi  = -E[Q_1(s, dec'(s, pi(s)))],   pi = 2 tanh(.)

Squares and KL are sums over dimensions. Actions are standardised by the data and the decoder is linear; dec' is the target CVAE's, used
wherever an action is decoded. V's target is clipped to what the rewards allow, [min r, max r] / (1 - gamma). The encoder's log sigma is
kept in the range of BCQ's (the authors leave it free).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from spar import nets, ops
from spar.baselines import common
from spar.types import Algo, Batch, DataNeeds, Metrics, Spec, Stage, Transitions

WIDE = (256, 256, 256)
STD_FLOOR = 1e-6


@dataclass(frozen=True)
class Config:
    latent_bound: float = 2.0  # |z| of the policy stays below this
    mix: float = 1.0  # kappa, weight of the smaller critic
    favoured: float = 0.9  # weight of a row with a positive advantage; of another: 1 - favoured
    latent_noise: float = 0.1  # sigma of eps in V's target
    latent_noise_clip: float = 0.2  # its bound
    value_range: tuple[float, float] | None = None  # of V's target; None: [min r, max r] / (1 - gamma)
    actor: common.ActorConfig = field(default_factory=lambda: common.ActorConfig(WIDE, 2e-4))
    critic: common.CriticConfig = field(default_factory=lambda: common.CriticConfig(WIDE, 2e-4))
    cvae: common.CVAEConfig = field(default_factory=lambda: common.CVAEConfig(WIDE, kl_weight=1.0, learning_rate=2e-4))


class State(NamedTuple):
    cvae: common.Net
    actor: common.Net
    critics: common.Net
    value: common.Net
    action_mean: jax.Array  # (A,)
    action_std: jax.Array  # (A,)
    reward_range: jax.Array  # (2,)


def init(cfg: Config, spec: Spec, key: jax.Array) -> State:
    cvae_key, actor_key, critic_key, value_key = jax.random.split(key, 4)
    obs, rate = jnp.zeros((1, spec.obs_dim)), cfg.critic.learning_rate
    net = nets.MLP(cfg.actor.hidden, cfg.cvae.latent_per_action * spec.act_dim)
    cvae = common.start_cvae(cfg.cvae, spec, cvae_key)
    return State(
        cvae._replace(target=jax.tree.map(jnp.copy, cvae.params)),
        common.start(net, actor_key, obs, learning_rate=cfg.actor.learning_rate, target=True),
        common.start_critics(cfg.critic, spec, critic_key),
        common.start(nets.Value(cfg.critic.hidden), value_key, obs, learning_rate=rate),
        jnp.zeros(spec.act_dim), jnp.ones(spec.act_dim), jnp.array([-jnp.inf, jnp.inf]),
    )  # fmt: skip


def inform(cfg: Config, state: State, rows: Transitions) -> State:
    """The standardisation of actions and the range of rewards."""
    mean, std = rows.action.mean(0), rows.action.std(0) + STD_FLOOR
    return state._replace(action_mean=mean, action_std=std, reward_range=jnp.stack([rows.reward.min(), rows.reward.max()]))


def decoded(cfg: Config, cvae: ops.Params, actor: ops.Params, obs: jax.Array, noise: jax.Array | float = 0.0) -> jax.Array:
    """dec(s, pi(s) + noise), a standardised action: (B, obs_dim) -> (B, A)."""
    return common.decode(cvae, obs, cfg.latent_bound * jnp.tanh(common.mlp(actor, obs)) + noise, squash=False)


def value(cfg: Config, params: ops.Params, obs: jax.Array) -> jax.Array:
    return nets.Value(cfg.critic.hidden).apply(params, obs)


def cvae_loss(cfg: Config, params: ops.Params, rows: Transitions, weight: jax.Array, noise: jax.Array) -> tuple[jax.Array, Metrics]:
    """`noise` (B, Z) is standard normal."""
    mean, log_std = common.encode(params, rows.obs, rows.action)
    error = ((common.decode(params, rows.obs, mean + jnp.exp(log_std) * noise, squash=False) - rows.action) ** 2).sum(-1)
    kl = ops.gaussian_kl(mean, log_std).sum(-1)
    return (weight * (error + cfg.cvae.kl_weight * kl)).mean(), {"reconstruction_loss": error.mean(), "kl": kl.mean()}


def update(cfg: Config, state: State, batch: Batch, key: jax.Array, step: jax.Array) -> tuple[State, Metrics]:
    """The critics and V, the CVAE, the latent policy, then all targets."""
    rows = batch.rows._replace(action=(batch.rows.action - state.action_mean) / state.action_std)
    cvae_key, noise_key = jax.random.split(key)
    noise = jax.random.normal(noise_key, (len(rows.obs), common.latent_dim(cfg.cvae, rows.action)))
    noise = jnp.clip(cfg.latent_noise * noise, -cfg.latent_noise_clip, cfg.latent_noise_clip)

    def q(obs: jax.Array, noise: jax.Array | float = 0.0) -> jax.Array:
        action = decoded(cfg, state.cvae.target, state.actor.target, obs, noise)
        return common.mix(common.q_values(cfg.critic, state.critics.target, obs, action), cfg.mix)

    discount = cfg.critic.discount
    y = ops.td_target(rows.reward, rows.terminated, value(cfg, state.value.params, rows.next_obs), discount)
    critics, metrics = common.critic_step(cfg.critic, state.critics, y, rows)
    low, high = state.reward_range / (1 - discount) if cfg.value_range is None else cfg.value_range
    goal = jnp.clip(q(rows.obs, noise), low, high)
    v, value_metrics = common.step(
        lambda p: (((goal - value(cfg, p, rows.obs)) ** 2).mean(), {}), state.value, cfg.critic.learning_rate, "value"
    )
    advantage = ops.td_target(rows.reward, rows.terminated, q(rows.next_obs), discount) - value(cfg, v.params, rows.obs)
    weight = jnp.where(advantage > 0, cfg.favoured, 1 - cfg.favoured)
    cvae_noise = jax.random.normal(cvae_key, noise.shape)
    cvae, cvae_metrics = common.step(lambda p: cvae_loss(cfg, p, rows, weight, cvae_noise), state.cvae, cfg.cvae.learning_rate, "cvae")
    actor, actor_metrics = common.step(
        lambda p: (-common.first_q(cfg.critic, critics.params, rows.obs, decoded(cfg, cvae.target, p, rows.obs)).mean(), {}),
        state.actor, cfg.actor.learning_rate, "actor",
    )  # fmt: skip
    cvae, actor, critics = (common.follow(net, cfg.critic.polyak) for net in (cvae, actor, critics))
    state = state._replace(cvae=cvae, actor=actor, critics=critics, value=v)
    return state, {**metrics, **value_metrics, **cvae_metrics, **actor_metrics, "favoured": (advantage > 0).mean()}


def policy(cfg: Config, state: State, obs: jax.Array, key: jax.Array) -> jax.Array:
    return state.action_mean + state.action_std * decoded(cfg, state.cvae.target, state.actor.params, obs)


def export(cfg: Config, state: State) -> tuple[dict[str, Any], dict[str, Any]]:
    networks = {"actor": state.actor.params, "decoder": state.cvae.target["decoder"]}
    description, arrays = common.exported("latent", networks, latent_bound=cfg.latent_bound, squash=False)
    return description, {**arrays, "action_mean": state.action_mean, "action_std": state.action_std}


LAPO = Algo(
    name="lapo",
    summary="LAPO: a policy in the latent space of an advantage-weighted CVAE",
    config=Config,
    default=Config(),
    stages=(Stage("CVAE, policy and critics", "all", update),),
    init=init,
    act=common.ungated(policy),
    export=export,
    data=DataNeeds(reward="max"),
    inform=inform,
)
