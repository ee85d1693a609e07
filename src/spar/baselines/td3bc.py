"""TD3+BC (Fujimoto and Gu 2021): TD3 with a behaviour-cloning term and a Q whose scale is divided out.

    L_pi = -alpha E[Q_1(s, pi(s))] / E|Q_1(s, pi(s))| + E[(pi(s) - a)^2]     (no gradient through the divisor)

The square is a mean over action dimensions, of actions scaled to [-1, 1]; in CORL, of those in the environment's units, which in a box of
+-m weighs imitation m^2 times as much. D4RL's boxes are +-1. Critics: td3.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import jax

from spar import ops
from spar.baselines import common, td3
from spar.types import Algo, Batch, Metrics, Spec, Stage, Transitions


@dataclass(frozen=True)
class Config:
    alpha: float = 2.5  # weight of Q against imitation
    actor: common.ActorConfig = field(default_factory=common.ActorConfig)
    critic: common.CriticConfig = field(default_factory=common.CriticConfig)
    td3: td3.Config = field(default_factory=td3.Config)


def init(cfg: Config, spec: Spec, key: jax.Array) -> td3.State:
    return td3.init(cfg.actor, cfg.critic, spec, key)


def actor_loss(
    cfg: Config, params: ops.Params, critics: ops.Params, rows: Transitions, key: jax.Array | None = None
) -> tuple[jax.Array, Metrics]:
    action = td3.policy(cfg.actor, params, rows.obs, key)
    imitation = ((action - rows.action) ** 2).mean()
    return cfg.alpha * td3.ascent(cfg.critic, critics, rows.obs, action, normalise=True) + imitation, {"imitation_loss": imitation}


def update(cfg: Config, state: td3.State, batch: Batch, key: jax.Array, step: jax.Array) -> tuple[td3.State, Metrics]:
    def loss(params: ops.Params, critics: ops.Params, loss_key: jax.Array) -> tuple[jax.Array, Metrics]:
        return actor_loss(cfg, params, critics, batch.rows, loss_key)

    return td3.update(cfg.td3, cfg.actor, cfg.critic, state, batch.rows, key, step, loss)


def policy(cfg: Config, state: td3.State, obs: jax.Array, key: jax.Array) -> jax.Array:
    return td3.policy(cfg.actor, state.actor.params, obs)


def export(cfg: Config, state: td3.State) -> tuple[dict[str, Any], dict[str, Any]]:
    return common.exported("tanh", {"actor": state.actor.params})


TD3BC = Algo(
    name="td3bc",
    summary="TD3+BC: TD3 with a behaviour-cloning term",
    config=Config,
    default=Config(),
    stages=(Stage("actor and critics", "all", update),),
    init=init,
    act=common.ungated(policy),
    export=export,
)
