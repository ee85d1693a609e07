"""Does value guidance damage the fit? DD and VSD from real Adam steps (SPAR 4.3, Table 3).

    DD  = <grad L_fit(theta), delta>                positive: the step opposes the fit
    VSD = L_fit(theta + delta) - L_fit(theta)       what the step really costs

theta are the parameters that the value acts on, delta is "the actual parameter update vector induced by a single step of value guidance"
with the training's own Adam. That can be read in two ways, and both are measured:

    alone        guidance alone through a fresh Adam; its first step has the size of the learning rate whatever the gradient's
    in_training  what guidance changes in the run's next step, Adam's moments carried on: the step with it minus the step without it

    variant    theta                  L_fit                                        guidance
    spar-mlp   pi_res                 E[w |pi_res - da|^2]                         -lambda_g E[Q_rob]
    spar-plas  latent policy pi_z     E[w |dec(pi_z) - da|^2], decoder frozen      -lambda_g E[Q_rob]
    spar-proj  encoder and decoder    eq. 8                                        lambda_g times the imitation loss

The latent policy of SPAR-PLAS is trained by guidance alone, so that `in_training` is its whole next step. spar-cvae has no guidance.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from spar import ops
from spar.data.episodes import HostRows
from spar.method import critics, imitation, plas, residual, spar
from spar.types import Batch

BATCHES = 16
Loss = Callable[[ops.Params], jax.Array]


class Objective(NamedTuple):
    """One network's two losses on one batch, and how it is trained."""

    params: ops.Params
    opt: optax.OptState
    tx: optax.GradientTransformation
    fit: Loss
    guide: Loss
    fitted: bool  # whether training has the fit in its gradient
    summed: Loss | None = None  # the fit with sums over dimensions, where training takes means: damage is measured in one unit


def measure(
    cfg: spar.StageOneConfig, state: spar.State, rows: HostRows, columns: dict[str, np.ndarray], batch_size: int, seed: int = 0
) -> dict[str, dict[str, float]] | None:
    """Means over BATCHES batches of the training rows, of one seed: `state` and `columns`, those of the last stage's `prepare`, have no
    seed axis. {"alone", "in_training"} -> dd, vsd, cosine (of delta and grad L_fit), step (|delta|), and shares of batches with dd > 0.
    None where the variant has no guidance.
    """
    objective = _objective_of(cfg)
    if objective is None:
        return None
    rng, found = np.random.default_rng(seed), []
    for key in jax.random.split(jax.random.key(seed), BATCHES):
        index = rng.integers(len(rows), size=batch_size)
        batch = Batch(rows.take(index), {name: jnp.asarray(column[index]) for name, column in columns.items()})
        found.append(_one(objective, cfg, state, batch, key))
    mean: dict[str, dict[str, float]] = jax.tree.map(lambda *values: float(np.mean(values)), *found)
    for name, values in mean.items():
        values["opposing_share"] = float(np.mean([float(one[name]["dd"]) > 0 for one in found]))
    return mean


@functools.partial(jax.jit, static_argnums=(0, 1))
def _one(objective: Callable[..., Objective], cfg: spar.StageOneConfig, state: spar.State, batch: Batch, key: jax.Array) -> Any:
    return steps(objective(cfg, state, batch, key))


def steps(objective: Objective) -> dict[str, dict[str, jax.Array]]:
    """Both readings on one batch."""
    params, opt, tx, fit, guide, fitted, summed = objective
    before, slope = jax.value_and_grad(fit)(params)
    judged, before, uphill = (fit, before, slope) if summed is None else (summed, *jax.value_and_grad(summed)(params))
    pull = jax.grad(guide)(params)

    def step(gradient: ops.Params, opt: optax.OptState) -> ops.Params:
        return tx.update(gradient, opt, params)[0]

    whole = step(jax.tree.map(jnp.add, slope, pull) if fitted else pull, opt)
    difference = jax.tree.map(jnp.subtract, whole, step(slope, opt)) if fitted else whole

    def judge(delta: ops.Params) -> dict[str, jax.Array]:
        dd, size = optax.tree_utils.tree_vdot(uphill, delta), optax.global_norm(delta)
        vsd = judged(optax.apply_updates(params, delta)) - before
        return {"dd": dd, "vsd": vsd, "cosine": dd / jnp.maximum(size * optax.global_norm(uphill), 1e-20), "step": size}

    return {"alone": judge(step(pull, tx.init(params))), "in_training": judge(difference)}


def _objective_of(cfg: spar.StageOneConfig) -> Callable[..., Objective] | None:
    kinds: dict[type, Callable[..., Objective]] = {spar.MLPConfig: _mlp, spar.PLASConfig: _plas, spar.PROJConfig: _proj}
    return kinds.get(type(cfg))


def _mlp(cfg: spar.MLPConfig, state: spar.State, batch: Batch, key: jax.Array) -> Objective:
    own, guides = cfg.residual, critics.members(state.critics, "guide")

    def part(name: str, params: ops.Params) -> jax.Array:
        return residual.mlp_loss(own, cfg.critic, params, guides, batch)[1][name]

    tx = ops.adam(own.learning_rate, own.clip_norm)
    fit, guide = (functools.partial(part, name) for name in ("fit_loss", "guide_loss"))
    return Objective(state.residual.params, state.residual.opt, tx, fit, lambda p: own.lambda_g * guide(p), fitted=True)


def _plas(cfg: spar.PLASConfig, state: spar.State, batch: Batch, key: jax.Array) -> Objective:
    guides, decoder = critics.members(state.critics, "guide"), state.residual.params["decoder"]
    obs, a_base, w = batch.rows.obs, batch.frozen["a_base"], batch.frozen["weight"]

    def fit(actor: ops.Params) -> jax.Array:
        z = plas.latent(cfg.plas, cfg.cvae, actor, obs, a_base)
        decoded = residual.decode(cfg.cvae, decoder, obs, a_base, z)
        return (w * ((decoded - (batch.rows.action - a_base)) ** 2).sum(-1)).mean()

    def guide(actor: ops.Params) -> jax.Array:
        return plas.actor_loss(cfg.plas, cfg.cvae, cfg.critic, actor, decoder, guides, batch)[0]

    tx = ops.adam(cfg.plas.learning_rate, cfg.plas.clip_norm)
    return Objective(state.residual.actor, state.residual.actor_opt, tx, fit, guide, fitted=False)


def _proj(cfg: spar.PROJConfig, state: spar.State, batch: Batch, key: jax.Array) -> Objective:
    fit_key, z_key, imitation_key = jax.random.split(key, 3)
    z = jax.random.normal(z_key, (cfg.imitation.candidates, *batch.frozen["a_base"].shape[:-1], cfg.cvae.latent_dim))
    guides = critics.members(state.critics, "guide")
    candidates, omega = imitation.proposals(cfg.cvae, cfg.weighting, cfg.critic, state.residual.target, guides, batch, z)

    def fit(params: ops.Params, own: residual.CVAEConfig = cfg.cvae) -> jax.Array:
        return residual.fit_loss(own, params, batch, fit_key)[0]

    def guide(params: ops.Params) -> jax.Array:
        own = cfg.imitation
        return own.lambda_g * imitation.imitation_loss(own, cfg.cvae, params, batch, z, candidates, omega, imitation_key)

    tx = ops.adam(cfg.cvae.learning_rate, cfg.cvae.clip_norm)
    summed = None if cfg.cvae.reduction == "sum" else functools.partial(fit, own=dataclasses.replace(cfg.cvae, reduction="sum"))
    return Objective(state.residual.params, state.residual.opt, tx, fit, guide, True, summed)
