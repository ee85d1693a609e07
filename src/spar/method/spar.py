"""SPAR: Support-Preserving Action Rectification (Zhao et al. 2026, arXiv 2605.27877), its three stages put together.

    Stage I    anchor pi_base by behaviour cloning, conservative critics in-sample          (3.1, Algorithm 1)
    Stage II   a residual inside the data's support, weighted by frozen critics             (Algorithms 2, 3, 4)
    Stage III  a = a_base + G(residual): the residual only where a robust gain is predicted (Algorithm 5)

Five variants differ in the residual alone: `spar-mlp`, `spar-cvae` (fit only), `spar-plas`, `spar-proj`, `spar-flow` (fit only).
What the paper leaves open, and what is done here, is in docs/readings.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from spar import ops
from spar.method import anchor, critics, flow, gate, imitation, plas, residual, weighting
from spar.types import Algo, Batch, Metrics, Spec, Stage, Transitions


@dataclass(frozen=True)
class StageOneConfig:
    anchor: anchor.Config = field(default_factory=anchor.Config)
    critic: critics.Config = field(default_factory=critics.Config)
    weighting: weighting.Config = field(default_factory=weighting.Config)
    gate: gate.Config = field(default_factory=gate.Config)


@dataclass(frozen=True)
class MLPConfig(StageOneConfig):
    residual: residual.MLPConfig = field(default_factory=residual.MLPConfig)


@dataclass(frozen=True)
class CVAEConfig(StageOneConfig):
    cvae: residual.CVAEConfig = field(default_factory=residual.CVAEConfig)


@dataclass(frozen=True)
class PLASConfig(CVAEConfig):
    plas: plas.Config = field(default_factory=plas.Config)


@dataclass(frozen=True)
class PROJConfig(CVAEConfig):
    imitation: imitation.Config = field(default_factory=imitation.Config)


@dataclass(frozen=True)
class FlowConfig(StageOneConfig):
    residual: flow.Config = field(default_factory=flow.Config)


class State(NamedTuple):
    anchor: anchor.State
    critics: critics.State
    residual: Any  # the variant's


# Stage I


def stage_one(cfg: StageOneConfig, state: State, batch: Batch, key: jax.Array, step: jax.Array) -> tuple[State, Metrics]:
    """Algorithm 1: one step of the anchor and one of the critics on the same batch."""
    rows = batch.rows
    anchor_state, anchor_metrics = anchor.update(cfg.anchor, state.anchor, rows, key)
    next_anchor = anchor.point(cfg.anchor, anchor_state.params, rows.next_obs)  # compiled away where the target does not read it
    critic_state, critic_metrics = critics.update(cfg.critic, state.critics, rows, next_anchor)
    return state._replace(anchor=anchor_state, critics=critic_state), {**anchor_metrics, **critic_metrics}


# Stage II: what is frozen is computed once


def freeze(cfg: StageOneConfig, state: State, rows: Transitions) -> dict[str, jax.Array]:
    """The anchor's action and the raw advantage of every row, (n, A) and (n,)."""
    data, guides = critics.members(state.critics, "data"), critics.members(state.critics, "guide")
    a_base = anchor.point(cfg.anchor, state.anchor.params, rows.obs)
    q_anchor = critics.q_values(cfg.critic, data, rows.obs, a_base)
    q_action = critics.q_values(cfg.critic, data, rows.obs, rows.action)
    return {
        "a_base": a_base,
        "advantage": ops.lcb(q_action, cfg.critic.lambda_u) - ops.lcb(q_anchor, cfg.critic.lambda_u),
        "ensemble_std": q_anchor.std(0),
        "q_base": ops.lcb(critics.q_values(cfg.critic, guides, rows.obs, a_base), cfg.critic.lambda_u),
    }


def weigh(cfg: StageOneConfig, columns: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """sigma_Q and the weight of every row, from the whole columns `WEIGHED`."""
    sigma = weighting.sigma_q(cfg.weighting, columns["advantage"], columns["ensemble_std"])
    weight = weighting.weights(cfg.weighting, columns["advantage"] / sigma)
    return {"sigma": sigma, "weight": weight}


WEIGHED = ("advantage", "ensemble_std")


def fit_mlp(cfg: MLPConfig, state: State, batch: Batch, key: jax.Array, step: jax.Array) -> tuple[State, Metrics]:
    """Algorithm 2."""
    guides = critics.members(state.critics, "guide")
    new, metrics = residual.update_mlp(cfg.residual, cfg.critic, state.residual, guides, batch)
    return state._replace(residual=new), metrics


def fit_cvae(cfg: CVAEConfig, state: State, batch: Batch, key: jax.Array, step: jax.Array) -> tuple[State, Metrics]:
    """Eq. 8 alone: SPAR-CVAE, and the first phase of Algorithm 3."""
    fitted = residual.State(state.residual.params, state.residual.opt)
    fitted, metrics = residual.update_cvae(cfg.cvae, fitted, batch, key)
    return state._replace(residual=state.residual._replace(params=fitted.params, opt=fitted.opt)), metrics


def guide_plas(cfg: PLASConfig, state: State, batch: Batch, key: jax.Array, step: jax.Array) -> tuple[State, Metrics]:
    """The second phase of Algorithm 3."""
    guides = critics.members(state.critics, "guide")
    new, metrics = plas.update(cfg.plas, cfg.cvae, cfg.critic, state.residual, guides, batch)
    return state._replace(residual=new), metrics


def fit_proj(cfg: PROJConfig, state: State, batch: Batch, key: jax.Array, step: jax.Array) -> tuple[State, Metrics]:
    """Algorithm 4."""
    guides = critics.members(state.critics, "guide")
    new, metrics = imitation.update(cfg.imitation, cfg.cvae, cfg.weighting, cfg.critic, state.residual, guides, batch, key, step)
    return state._replace(residual=new), metrics


def fit_flow(cfg: FlowConfig, state: State, batch: Batch, key: jax.Array, step: jax.Array) -> tuple[State, Metrics]:
    """Table 12's residual: flow matching with the weights of eq. 8."""
    new, metrics = flow.update(cfg.residual, state.residual, batch, key)
    return state._replace(residual=new), metrics


# Online


def _continued(fit: Callable[..., tuple[State, Metrics]]) -> Callable[..., tuple[State, Metrics]]:
    def finetune(cfg: StageOneConfig, state: State, batch: Batch, key: jax.Array, step: jax.Array) -> tuple[State, Metrics]:
        """A step of the critics in-sample, then one of Stage II's `fit` with what it reads recomputed on the batch from the critics as
        they now are; sigma_Q is the batch's. The anchor, which is the fallback, stays frozen."""
        rows = batch.rows
        next_anchor = anchor.point(cfg.anchor, state.anchor.params, rows.next_obs)
        critic_state, critic_metrics = critics.update(cfg.critic, state.critics, rows, next_anchor)
        state = state._replace(critics=critic_state)
        columns = freeze(cfg, state, rows)
        columns |= weigh(cfg, {name: columns[name] for name in WEIGHED})
        state, metrics = fit(cfg, state, Batch(rows, columns), key, step)
        weight = columns["weight"]
        return state, {**critic_metrics, **metrics, "weight": weight.mean(), "weighted_share": (weight > 0).mean()}

    return finetune


# Stage III


def propose_mlp(cfg: MLPConfig, state: State, obs: jax.Array, a_base: jax.Array, key: jax.Array) -> jax.Array:
    return residual.apply_mlp(cfg.residual, state.residual.params, obs, a_base)[None]


def propose_cvae(cfg: CVAEConfig, state: State, obs: jax.Array, a_base: jax.Array, key: jax.Array) -> jax.Array:
    z = jax.random.normal(key, (cfg.gate.candidates, obs.shape[0], cfg.cvae.latent_dim))
    return residual.decode(cfg.cvae, state.residual.params["decoder"], obs, a_base, z)


def propose_plas(cfg: PLASConfig, state: State, obs: jax.Array, a_base: jax.Array, key: jax.Array) -> jax.Array:
    z = plas.latent(cfg.plas, cfg.cvae, state.residual.actor, obs, a_base)
    return residual.decode(cfg.cvae, state.residual.params["decoder"], obs, a_base, z)[None]


def propose_flow(cfg: FlowConfig, state: State, obs: jax.Array, a_base: jax.Array, key: jax.Array) -> jax.Array:
    return flow.residuals(cfg.residual, state.residual.params, obs, a_base, cfg.gate.candidates, key)


def _actor(propose: Callable[..., jax.Array]) -> Callable[..., dict[str, jax.Array]]:
    def act(cfg: StageOneConfig, state: State, obs: jax.Array, key: jax.Array) -> dict[str, jax.Array]:
        """Algorithm 5 for a batch (B, obs_dim) of standardised observations; actions in [-1, 1]."""
        a_base = anchor.point(cfg.anchor, state.anchor.params, obs)
        candidates = residual.synthesise(a_base, propose(cfg, state, obs, a_base, key))  # (K, B, A)
        scorers = critics.members(state.critics, "rectify")

        def q_rob(action: jax.Array) -> jax.Array:
            return ops.lcb(
                critics.q_values(cfg.critic, scorers, jnp.broadcast_to(obs, (*action.shape[:-1], obs.shape[-1])), action),
                cfg.critic.lambda_u,
            )

        verdict = gate.rectify(cfg.gate, q_rob(a_base), q_rob(candidates))
        best = jnp.take_along_axis(candidates, verdict.best[None, :, None], axis=0)[0]
        action = jnp.where(verdict.accepted[:, None], best, a_base)
        return {"action": action, "anchor": a_base, "accepted": verdict.accepted, "gain": verdict.gain}

    return act


# What leaves the building


def _exporter(kind: str, parts: Callable[[State], dict[str, ops.Params]]) -> Callable[..., tuple[dict[str, Any], dict[str, Any]]]:
    def export(cfg: StageOneConfig, state: State) -> tuple[dict[str, Any], dict[str, Any]]:
        """Everything Stage III needs and nothing more: the anchor, the residual, the rectifying critics, the thresholds."""
        networks = {"anchor": state.anchor.params, "critics": critics.members(state.critics, "rectify"), **parts(state)}
        description: dict[str, Any] = {"kind": "spar", "anchor": anchor.describe(cfg.anchor), "residual": kind}
        description |= {"lambda_u": cfg.critic.lambda_u, "gate": asdict(cfg.gate)}
        if isinstance(cfg, CVAEConfig):
            description["latent_dim"] = cfg.cvae.latent_dim
        if isinstance(cfg, PLASConfig):
            description["latent_bound"] = cfg.plas.latent_bound
        if isinstance(cfg, FlowConfig):
            description["flow_steps"] = cfg.residual.flow_steps
        return description, ops.flatten(networks)

    return export


def _init(make_residual: Callable[[Any, Spec, jax.Array], Any]) -> Callable[..., State]:
    def init(cfg: StageOneConfig, spec: Spec, key: jax.Array) -> State:
        anchor_key, critic_key, residual_key = jax.random.split(key, 3)
        return State(
            anchor.init(cfg.anchor, spec, anchor_key), critics.init(cfg.critic, spec, critic_key), make_residual(cfg, spec, residual_key)
        )

    return init


STAGE_ONE = Stage("anchor and critics", "anchor", stage_one)
SHARES = (("anchor", "anchor"), ("critics", "critic"))
LATER = (("critic", "lambda_u"),)  # Q_rob is what later stages make of the critics

MLP = Algo(
    name="spar-mlp",
    summary="SPAR with a deterministic residual: for compact, unimodal residuals",
    config=MLPConfig,
    default=MLPConfig(),
    stages=(STAGE_ONE, Stage("residual", "residual", fit_mlp, prepare=freeze, finish=weigh, reads=WEIGHED)),
    init=_init(lambda cfg, spec, key: residual.init_mlp(cfg.residual, spec, key)),
    act=_actor(propose_mlp),
    export=_exporter("mlp", lambda state: {"residual": state.residual.params}),
    shares=SHARES,
    later=LATER,
    online=_continued(fit_mlp),
)

CVAE = Algo(
    name="spar-cvae",
    summary="SPAR with a generative residual, fitted only (no latent self-imitation)",
    config=CVAEConfig,
    default=CVAEConfig(),
    stages=(STAGE_ONE, Stage("residual", "residual", fit_cvae, prepare=freeze, finish=weigh, reads=WEIGHED)),
    init=_init(lambda cfg, spec, key: residual.init_cvae(cfg.cvae, spec, key)),
    act=_actor(propose_cvae),
    export=_exporter("cvae", lambda state: {"decoder": state.residual.params["decoder"]}),
    shares=SHARES,
    later=LATER,
    online=_continued(fit_cvae),
)

PLAS = Algo(
    name="spar-plas",
    summary="SPAR with a generative residual steered by value gradients in latent space (a comparison of the paper's)",
    config=PLASConfig,
    default=PLASConfig(),
    stages=(
        STAGE_ONE,
        Stage("residual CVAE", "residual", fit_cvae, share=0.5, prepare=freeze, finish=weigh, reads=WEIGHED),
        Stage("latent policy", "residual", guide_plas, share=0.5, prepare=freeze, finish=weigh, reads=WEIGHED),
    ),
    init=_init(lambda cfg, spec, key: plas.init(cfg.plas, cfg.cvae, spec, key)),
    act=_actor(propose_plas),
    export=_exporter("plas", lambda state: {"decoder": state.residual.params["decoder"], "actor": state.residual.actor}),
    shares=SHARES,
    later=LATER,
    online=_continued(guide_plas),
)

PROJ = Algo(
    name="spar-proj",
    summary="SPAR with latent self-imitation: for multimodal, narrow or uncertain residuals",
    config=PROJConfig,
    default=PROJConfig(),
    stages=(STAGE_ONE, Stage("residual", "residual", fit_proj, prepare=freeze, finish=weigh, reads=WEIGHED)),
    init=_init(lambda cfg, spec, key: imitation.init(cfg.cvae, spec, key)),
    act=_actor(propose_cvae),
    export=_exporter("cvae", lambda state: {"decoder": state.residual.params["decoder"]}),
    shares=SHARES,
    later=LATER,
    online=_continued(fit_proj),
)

FLOW = Algo(
    name="spar-flow",
    summary="SPAR with a flow-matching residual, fitted only (a comparison of the paper's)",
    config=FlowConfig,
    default=FlowConfig(),
    stages=(STAGE_ONE, Stage("residual", "residual", fit_flow, prepare=freeze, finish=weigh, reads=WEIGHED)),
    init=_init(lambda cfg, spec, key: flow.init(cfg.residual, spec, key)),
    act=_actor(propose_flow),
    export=_exporter("flow", lambda state: {"residual": state.residual.params}),
    shares=SHARES,
    later=LATER,
    online=_continued(fit_flow),
)
