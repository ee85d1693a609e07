"""Behaviour cloning, and behaviour cloning on the tenth of the episodes that returned most (10 % BC).

    L = E[(pi(s) - a)^2]             deterministic; the square is a mean over action dimensions
    L = E[-log N(a; mu(s), sigma)]   gaussian; the policy is then the mean

10 % BC takes floor(0.1 E) whole episodes, one at least, before observations are standardised.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import jax
import jax.numpy as jnp

from spar import nets, ops
from spar.baselines import common
from spar.types import Algo, Batch, DataNeeds, Metrics, Spec, Stage, Transitions


@dataclass(frozen=True)
class Config:
    kind: Literal["deterministic", "gaussian"] = "deterministic"  # deterministic: squared error; gaussian: negative log likelihood
    actor: common.ActorConfig = field(default_factory=common.ActorConfig)


def init(cfg: Config, spec: Spec, key: jax.Array) -> common.Net:
    head = nets.MLP if cfg.kind == "deterministic" else nets.GaussianPolicy
    return common.start(head(cfg.actor.hidden, spec.act_dim), key, jnp.zeros((1, spec.obs_dim)), learning_rate=cfg.actor.learning_rate)


def loss(cfg: Config, params: ops.Params, rows: Transitions, key: jax.Array | None = None) -> tuple[jax.Array, Metrics]:
    if cfg.kind == "deterministic":
        return ((jnp.tanh(common.mlp(params, rows.obs, cfg.actor.dropout, key)) - rows.action) ** 2).mean(), {}
    return -ops.gaussian_log_prob(rows.action, *common.gaussian(cfg.actor, params, rows.obs, key)).mean(), {}


def update(cfg: Config, state: common.Net, batch: Batch, key: jax.Array, step: jax.Array) -> tuple[common.Net, Metrics]:
    return common.step(lambda p: loss(cfg, p, batch.rows, key), state, cfg.actor.learning_rate, "actor")


def _mean_net(cfg: Config, params: ops.Params) -> ops.Params:
    return params if cfg.kind == "deterministic" else common.mean_net(params)


def policy(cfg: Config, state: common.Net, obs: jax.Array, key: jax.Array) -> jax.Array:
    return jnp.tanh(common.mlp(_mean_net(cfg, state.params), obs))


def export(cfg: Config, state: common.Net) -> tuple[dict[str, Any], dict[str, Any]]:
    return common.exported("tanh", {"actor": _mean_net(cfg, state.params)})


def _algo(name: str, summary: str, data: DataNeeds) -> Algo:
    return Algo(
        name=name,
        summary=summary,
        config=Config,
        default=Config(),
        stages=(Stage("policy", "all", update),),
        init=init,
        act=common.ungated(policy),
        export=export,
        data=data,
    )


BC = _algo("bc", "behaviour cloning", DataNeeds())
BC10 = _algo("bc10", "behaviour cloning of the best tenth of the episodes", DataNeeds(top_episodes=0.1))
