"""SPOT, supported policy optimization (Wu et al. 2022): TD3 whose actor pays for leaving the density of the data.

    stage 1   the density of the behaviour: a CVAE on its ELBO, L_VAE = |dec(s, z) - a|^2 / A + beta KL / Z, then frozen
    stage 2   L_pi = -E[Q_1(s, pi(s))] / E|Q_1(s, pi(s))| - lambda E[log beta^(pi(s)|s)]      (no gradient through the divisor)

    log beta^ = log 1/L sum_l p(a, z_l|s) / q(z_l|s, a),   z_l ~ q(z|s, a);   with L = 1 the ELBO, its KL in closed form

The penalty is in units of L_VAE for every L: -beta / Z times the log density, less its constant; the decoder's variance that makes L_VAE an
ELBO is beta A / (2 Z). Gradients pass through encoder and decoder to pi(s). Dropout stays on in the target policy, as in the authors' code.
Actions are scaled to [-1, 1]. Online, lambda decays linearly to a share of itself. Ablations: a Gaussian density, no division by E|Q_1|.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from spar import nets, ops
from spar.baselines import common, td3
from spar.types import Algo, Batch, Metrics, Spec, Stage, Transitions


@dataclass(frozen=True)
class Config:
    lam: float = 0.1  # lambda, weight of the support term
    samples: int = 1  # L, latents of the density's estimate; 1: the ELBO
    density: Literal["cvae", "gaussian"] = "cvae"  # gaussian: the ablation
    normalise_q: bool = True  # divide Q by the batch mean of |Q| in the actor's loss
    online_steps: int = 1_000_000  # steps of fine-tuning over which lambda falls by its whole
    online_floor: float = 0.2  # share of lambda that it never falls below
    actor_last: float | None = None  # the policy's last layer starts in +- this; None: as the others
    critic_last: float | None = None  # the critics'
    actor: common.ActorConfig = field(default_factory=lambda: common.ActorConfig(dropout=0.1))
    critic: common.CriticConfig = field(default_factory=common.CriticConfig)
    td3: td3.Config = field(default_factory=td3.Config)
    cvae: common.CVAEConfig = field(default_factory=common.CVAEConfig)  # widths and learning rate are the Gaussian's too


class State(NamedTuple):
    density: common.Net
    td3: td3.State


def init(cfg: Config, spec: Spec, key: jax.Array) -> State:
    density_key, td3_key = jax.random.split(key)
    if cfg.density == "cvae":
        density = common.start_cvae(cfg.cvae, spec, density_key)
    else:
        net, obs = nets.MLP(cfg.cvae.hidden, 2 * spec.act_dim), jnp.zeros((1, spec.obs_dim))
        density = common.start(net, density_key, obs, learning_rate=cfg.cvae.learning_rate)
    return State(density, td3.init(cfg.actor, cfg.critic, spec, td3_key, cfg.actor_last, cfg.critic_last))


# The density


def cvae_log_prob(cfg: common.CVAEConfig, params: ops.Params, obs: jax.Array, action: jax.Array, noise: jax.Array) -> jax.Array:
    """The importance-sampled log beta^(a|s) in nats, (B,), from standard normal `noise` (L, B, Z)."""
    mean, log_std = common.encode(params, obs, action)
    z = mean + jnp.exp(log_std) * noise
    log_sigma = 0.5 * math.log(cfg.kl_weight / (2 * cfg.latent_per_action))
    joint = ops.gaussian_log_prob(action, common.decode(params, obs, z), jnp.full(action.shape, log_sigma))
    joint += ops.gaussian_log_prob(z, jnp.zeros_like(z), jnp.zeros_like(z))
    return jax.nn.logsumexp(joint - ops.gaussian_log_prob(z, mean, log_std), axis=0) - math.log(len(noise))


def penalty(cfg: Config, params: ops.Params, obs: jax.Array, action: jax.Array, key: jax.Array) -> jax.Array:
    """Minus the log density of actions, in units of L_VAE, the CVAE's without its constant, (B,)."""
    act_dim, latent = action.shape[-1], common.latent_dim(cfg.cvae, action)
    if cfg.density == "gaussian":
        return -cfg.cvae.kl_weight / latent * ops.gaussian_log_prob(action, *common.mean_and_log_std(params, obs))
    noise = jax.random.normal(key, (cfg.samples, len(obs), latent))
    if cfg.samples == 1:
        return common.negative_elbo(cfg.cvae, params, obs, action, noise[0])[0]
    constant = 0.5 * act_dim * math.log(math.pi * cfg.cvae.kl_weight / cfg.cvae.latent_per_action)
    return -cfg.cvae.kl_weight / latent * (cvae_log_prob(cfg.cvae, params, obs, action, noise) + constant)


def fit(cfg: Config, state: State, batch: Batch, key: jax.Array, step: jax.Array) -> tuple[State, Metrics]:
    """Stage 1."""
    rows = batch.rows
    if cfg.density == "cvae":
        density, metrics = common.cvae_step(cfg.cvae, state.density, rows, key)
    else:
        density, metrics = common.step(
            lambda p: (penalty(cfg, p, rows.obs, rows.action, key).mean(), {}), state.density, cfg.cvae.learning_rate, "density"
        )
    return state._replace(density=density), metrics


# The policy


def actor_loss(
    cfg: Config, params: ops.Params, critics: ops.Params, density: ops.Params, rows: Transitions, key: jax.Array, lam: float | jax.Array
) -> tuple[jax.Array, Metrics]:
    dropout_key, latent_key = jax.random.split(key)
    action = td3.policy(cfg.actor, params, rows.obs, dropout_key)
    support = penalty(cfg, density, rows.obs, action, latent_key).mean()
    return td3.ascent(cfg.critic, critics, rows.obs, action, cfg.normalise_q) + lam * support, {"support_loss": support}


def improve(cfg: Config, state: State, batch: Batch, key: jax.Array, step: jax.Array, lam: float | jax.Array) -> tuple[State, Metrics]:
    def loss(params: ops.Params, critics: ops.Params, loss_key: jax.Array) -> tuple[jax.Array, Metrics]:
        return actor_loss(cfg, params, critics, state.density.params, batch.rows, loss_key, lam)

    new, metrics = td3.update(cfg.td3, cfg.actor, cfg.critic, state.td3, batch.rows, key, step, loss)
    return state._replace(td3=new), metrics


def update(cfg: Config, state: State, batch: Batch, key: jax.Array, step: jax.Array) -> tuple[State, Metrics]:
    """Stage 2, offline."""
    return improve(cfg, state, batch, key, step, cfg.lam)


def online_lam(cfg: Config, step: jax.Array) -> jax.Array:
    """lambda after `step` steps of fine-tuning."""
    return cfg.lam * jnp.maximum(cfg.online_floor, 1.0 - step / cfg.online_steps)


def finetune(cfg: Config, state: State, batch: Batch, key: jax.Array, step: jax.Array) -> tuple[State, Metrics]:
    """The same step online; `step` counts from 0 at the first of fine-tuning."""
    lam = online_lam(cfg, step)
    state, metrics = improve(cfg, state, batch, key, step, lam)
    return state, {**metrics, "lambda": lam}


def policy(cfg: Config, state: State, obs: jax.Array, key: jax.Array) -> jax.Array:
    return td3.policy(cfg.actor, state.td3.actor.params, obs)


def export(cfg: Config, state: State) -> tuple[dict[str, Any], dict[str, Any]]:
    return common.exported("tanh", {"actor": state.td3.actor.params})


SPOT = Algo(
    name="spot",
    summary="SPOT: TD3 kept where the data's density is high; made for fine-tuning online",
    config=Config,
    default=Config(),
    stages=(Stage("density", "all", fit, share=0.1), Stage("actor and critics", "all", update, share=0.9)),
    init=init,
    act=common.ungated(policy),
    export=export,
    online=finetune,
)
