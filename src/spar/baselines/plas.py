"""PLAS (Zhou et al. 2020): a deterministic policy in the latent space of a CVAE of the data, whose decoder is frozen.

    stage 1   L_VAE = |dec(s, z) - a|^2 / A + beta KL / Z
    stage 2   y     = r + gamma (1 - d) [lambda min_i + (1 - lambda) max_i] Q'_i(s', dec(s', pi'(s')))
              L_pi  = -E[Q_1(s, dec(s, pi(s)))],   pi = 2 tanh(.)

The gradient of L_pi passes through the decoder. The variant with a perturbation after it (PLAS+P) is left out: off by default there too.
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
    latent_bound: float = 2.0  # |z| of the policy stays below this
    mix: float = 0.75  # lambda, weight of the smaller critic (d3rlpy's reproduction: 1)
    actor: common.ActorConfig = field(default_factory=lambda: common.ActorConfig(hidden=(400, 300), learning_rate=1e-4))
    critic: common.CriticConfig = field(default_factory=lambda: common.CriticConfig(hidden=(400, 300), learning_rate=1e-3))
    cvae: common.CVAEConfig = field(default_factory=lambda: common.CVAEConfig(learning_rate=1e-4))


class State(NamedTuple):
    cvae: common.Net
    actor: common.Net
    critics: common.Net


def init(cfg: Config, spec: Spec, key: jax.Array) -> State:
    cvae_key, actor_key, critic_key = jax.random.split(key, 3)
    net = nets.MLP(cfg.actor.hidden, cfg.cvae.latent_per_action * spec.act_dim)
    return State(
        common.start_cvae(cfg.cvae, spec, cvae_key),
        common.start(net, actor_key, jnp.zeros((1, spec.obs_dim)), learning_rate=cfg.actor.learning_rate, target=True),
        common.start_critics(cfg.critic, spec, critic_key),
    )


def decoded(cfg: Config, cvae: ops.Params, actor: ops.Params, obs: jax.Array) -> jax.Array:
    """dec(s, pi(s)): (B, obs_dim) -> (B, A)."""
    return common.decode(cvae, obs, cfg.latent_bound * jnp.tanh(common.mlp(actor, obs)))


def fit(cfg: Config, state: State, batch: Batch, key: jax.Array, step: jax.Array) -> tuple[State, Metrics]:
    cvae, metrics = common.cvae_step(cfg.cvae, state.cvae, batch.rows, key)
    return state._replace(cvae=cvae), metrics


def update(cfg: Config, state: State, batch: Batch, key: jax.Array, step: jax.Array) -> tuple[State, Metrics]:
    """The critics, the latent policy, then their targets."""
    rows, cvae = batch.rows, state.cvae.params
    next_action = decoded(cfg, cvae, state.actor.target, rows.next_obs)
    next_q = common.mix(common.q_values(cfg.critic, state.critics.target, rows.next_obs, next_action), cfg.mix)
    y = ops.td_target(rows.reward, rows.terminated, next_q, cfg.critic.discount)
    critics, metrics = common.critic_step(cfg.critic, state.critics, y, rows)
    actor, actor_metrics = common.step(
        lambda p: (-common.first_q(cfg.critic, critics.params, rows.obs, decoded(cfg, cvae, p, rows.obs)).mean(), {}),
        state.actor, cfg.actor.learning_rate, "actor",
    )  # fmt: skip
    state = State(state.cvae, common.follow(actor, cfg.critic.polyak), common.follow(critics, cfg.critic.polyak))
    return state, {**metrics, **actor_metrics}


def policy(cfg: Config, state: State, obs: jax.Array, key: jax.Array) -> jax.Array:
    return decoded(cfg, state.cvae.params, state.actor.params, obs)


def export(cfg: Config, state: State) -> tuple[dict[str, Any], dict[str, Any]]:
    return common.exported(
        "latent", {"actor": state.actor.params, "decoder": state.cvae.params["decoder"]}, latent_bound=cfg.latent_bound, squash=True
    )


PLAS = Algo(
    name="plas",
    summary="PLAS: a policy in the latent space of a frozen CVAE",
    config=Config,
    default=Config(),
    stages=(Stage("CVAE", "all", fit, share=0.5), Stage("latent policy", "all", update, share=0.5)),
    init=init,
    act=common.ungated(policy),
    export=export,
    data=DataNeeds(standardise=False),
)
