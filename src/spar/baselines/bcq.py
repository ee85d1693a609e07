"""BCQ (Fujimoto et al. 2019): maximise over actions that a CVAE of the data generates, each moved a little by a learned perturbation.

    L_VAE = |dec(s, z) - a|^2 / A + beta KL / Z
    y     = r + gamma (1 - d) max_j [lambda min_i + (1 - lambda) max_i] Q'_i(s', a_j + xi'(s', a_j)),   a_j = dec(s', z_j)
    L_xi  = -E[Q_1(s, a + xi(s, a))],   a = dec(s, z)

z ~ N(0, 1) clipped to +-0.5; xi = phi tanh(.); actions are clipped to the box. To act: the best of 100 such actions by Q_1. KL means and
squares are over dimensions; all parts take a step on every batch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from spar import nets, ops
from spar.baselines import common
from spar.types import Algo, Batch, DataNeeds, Metrics, Spec, Stage


@dataclass(frozen=True)
class Config:
    perturbation: float = 0.05  # phi, the largest change of a generated action
    mix: float = 0.75  # lambda, weight of the smaller critic
    candidates: int = 10  # generated actions in the target
    acting_candidates: int = 100  # generated actions to choose from when acting
    latent_clip: float = 0.5  # |z| when generating
    actor: common.ActorConfig = field(default_factory=lambda: common.ActorConfig(hidden=(400, 300), learning_rate=1e-3))
    critic: common.CriticConfig = field(default_factory=lambda: common.CriticConfig(hidden=(400, 300), learning_rate=1e-3))
    cvae: common.CVAEConfig = field(default_factory=common.CVAEConfig)


class State(NamedTuple):
    cvae: common.Net
    actor: common.Net  # xi
    critics: common.Net


def init(cfg: Config, spec: Spec, key: jax.Array) -> State:
    cvae_key, actor_key, critic_key = jax.random.split(key, 3)
    net, inputs = nets.MLP(cfg.actor.hidden, spec.act_dim), jnp.zeros((1, spec.obs_dim + spec.act_dim))
    return State(
        common.start_cvae(cfg.cvae, spec, cvae_key),
        common.start(net, actor_key, inputs, learning_rate=cfg.actor.learning_rate, target=True),
        common.start_critics(cfg.critic, spec, critic_key),
    )


def generate(cfg: Config, cvae: ops.Params, obs: jax.Array, noise: jax.Array) -> jax.Array:
    """Actions of the CVAE: (B, obs_dim), standard normal (..., B, Z) -> (..., B, A)."""
    return common.decode(cvae, obs, jnp.clip(noise, -cfg.latent_clip, cfg.latent_clip))


def perturb(cfg: Config, actor: ops.Params, obs: jax.Array, action: jax.Array) -> jax.Array:
    """clip(a + xi(s, a)): (B, obs_dim), (..., B, A) -> (..., B, A)."""
    obs = jnp.broadcast_to(obs, (*action.shape[:-1], obs.shape[-1]))
    return jnp.clip(action + cfg.perturbation * jnp.tanh(common.mlp(actor, jnp.concatenate([obs, action], -1))), -1.0, 1.0)


def update(cfg: Config, state: State, batch: Batch, key: jax.Array, step: jax.Array) -> tuple[State, Metrics]:
    """The CVAE, the critics, the perturbation, then the targets of the last two."""
    rows = batch.rows
    cvae_key, target_key, actor_key = jax.random.split(key, 3)
    latents = (len(rows.obs), common.latent_dim(cfg.cvae, rows.action))
    cvae, metrics = common.cvae_step(cfg.cvae, state.cvae, rows, cvae_key)

    generated = generate(cfg, cvae.params, rows.next_obs, jax.random.normal(target_key, (cfg.candidates, *latents)))
    next_action = perturb(cfg, state.actor.target, rows.next_obs, generated)
    next_q = common.mix(common.q_values(cfg.critic, state.critics.target, rows.next_obs, next_action), cfg.mix).max(0)
    y = ops.td_target(rows.reward, rows.terminated, next_q, cfg.critic.discount)
    critics, critic_metrics = common.critic_step(cfg.critic, state.critics, y, rows)

    own = generate(cfg, cvae.params, rows.obs, jax.random.normal(actor_key, latents))
    actor, actor_metrics = common.step(
        lambda p: (-common.first_q(cfg.critic, critics.params, rows.obs, perturb(cfg, p, rows.obs, own)).mean(), {}),
        state.actor, cfg.actor.learning_rate, "actor",
    )  # fmt: skip
    state = State(cvae, common.follow(actor, cfg.critic.polyak), common.follow(critics, cfg.critic.polyak))
    return state, {**metrics, **critic_metrics, **actor_metrics}


def policy(cfg: Config, state: State, obs: jax.Array, key: jax.Array) -> jax.Array:
    act_dim = common.widths(state.actor.params)[-1]
    noise = jax.random.normal(key, (cfg.acting_candidates, len(obs), cfg.cvae.latent_per_action * act_dim))
    action = perturb(cfg, state.actor.params, obs, generate(cfg, state.cvae.params, obs, noise))
    best = common.first_q(cfg.critic, state.critics.params, obs, action).argmax(0)
    return jnp.take_along_axis(action, best[None, :, None], axis=0)[0]


def export(cfg: Config, state: State) -> tuple[dict[str, Any], dict[str, Any]]:
    networks = {"decoder": state.cvae.params["decoder"], "actor": state.actor.params}
    networks["critic"] = jax.tree.map(lambda leaf: leaf[:1], state.critics.params)
    return common.exported(
        "best-of", networks, candidates=cfg.acting_candidates, latent_clip=cfg.latent_clip, perturbation=cfg.perturbation,
        latent_dim=cfg.cvae.latent_per_action * common.widths(state.actor.params)[-1],
    )  # fmt: skip


BCQ = Algo(
    name="bcq",
    summary="BCQ: the best of generated and slightly perturbed actions",
    config=Config,
    default=Config(),
    stages=(Stage("CVAE, perturbation and critics", "all", update),),
    init=init,
    act=common.ungated(policy),
    export=export,
    data=DataNeeds(standardise=False),
)
