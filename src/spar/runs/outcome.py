"""What finished policies are worth: roll-outs from agreed start states, returns with intervals, and what a log alone can tell."""

from __future__ import annotations

from typing import Any

import numpy as np

from spar.data.episodes import Log
from spar.deploy import policy as deploy
from spar.evaluate import offline, rollout, scores, stats
from spar.method import gate
from spar.runs.config import RunConfig
from spar.runs.listener import Listener

TRAINING_SEED, FINAL_SEED, LATER_SEED = 1_000_000, 2_000_000, 3_000_000  # first reset seeds: during training, after it, and asked for later
SEED_SPACING = 10_000  # between the start states of different later evaluations
VARIANTS: dict[str, dict[str, float]] = {"anchor": gate.ALWAYS_ANCHOR, "ungated": gate.UNGATED, "policy": {}}


def describe_log(log: Log) -> dict[str, Any]:
    return {"name": log.name, "fingerprint": log.fingerprint, "transitions": len(log), "episodes": len(log.lengths)}


def roll(evaluator: rollout.Evaluator, policy: deploy.Policy, episodes: int, seed: int) -> rollout.Episodes:
    """Episodes of a deployed policy, its latents restarted."""
    policy.reset(seed)

    def act(obs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        decision = policy.act(obs)
        return decision.action, decision.accepted

    return evaluator.run(act, episodes, seed)


def evaluate_policies(
    policies: dict[int, deploy.Policy], evaluator: rollout.Evaluator, episodes: int, seed: int, listener: Listener
) -> tuple[dict[str, list[list[float]]], list[float]]:
    """Returns of anchor, ungated and gated policy, [seed][episode] each, on equal start states; and the gate's acceptance, [seed].
    A policy without a gate has the one variant, and no acceptance."""
    variants = VARIANTS if all(policy.gated for policy in policies.values()) else {"policy": {}}
    returns: dict[str, list[list[float]]] = {variant: [] for variant in variants}
    acceptance: list[float] = []
    listener.stage("evaluation", 0, len(policies) * len(variants))
    for i, policy in enumerate(policies.values()):
        for j, (variant, settings) in enumerate(variants.items()):
            result = roll(evaluator, policy.with_gate(**settings), episodes, seed)
            returns[variant].append(result.returns.tolist())
            if variant == "policy" and policy.gated:
                acceptance.append(result.acceptance)
            listener.progress(i * len(variants) + j + 1, variant)
    return returns, acceptance


def summarise(
    cfg: RunConfig,
    log: Log,
    heldout: Log | None,
    policies: dict[int, deploy.Policy],
    evaluator: rollout.Evaluator | None,
    listener: Listener,
) -> dict[str, Any]:
    """The part of summary.json that the policies decide."""
    gated = all(policy.gated for policy in policies.values())
    offline_rows = {str(seed): offline.measure(policy, heldout or log) for seed, policy in policies.items()}
    summary: dict[str, Any] = {
        "dataset": describe_log(log),
        "notes": list(log.notes),
        "algo": cfg.algo,
        "env": cfg.env.task if cfg.env else None,
        "seeds": list(cfg.seeds),
        "returns": {"behaviour": log.returns.tolist(), **dict.fromkeys(VARIANTS)},
        "normalised": None,
        "intervals": None,
        "gain": None,
        "gate": {"acceptance": [row["acceptance"] for row in offline_rows.values()], "acceptance_on": "logged states"} if gated else None,
        "offline": {"measured_on": "held-out episodes" if heldout else "training episodes", "seeds": offline_rows},
    }
    if evaluator is None:
        return summary
    returns, acceptance = evaluate_policies(policies, evaluator, cfg.episodes, FINAL_SEED, listener)
    summary["returns"] |= returns
    summary["gate"] = {"acceptance": acceptance, "acceptance_on": "steps of the evaluation episodes"} if gated else None
    return summary | measures(summary["env"], log.returns, returns)


def measures(env_id: str | None, behaviour: np.ndarray, returns: dict[str, list[list[float]]]) -> dict[str, Any]:
    """Means, 95 % intervals and paired gains of [seed][episode] returns; normalised scores where the task has a reference."""
    tables_of = {"behaviour": np.asarray(behaviour)[None], **{key: np.asarray(value) for key, value in returns.items()}}
    tables_of = {key: value for key, value in tables_of.items() if value.size}
    intervals = {key: stats.bootstrap(value)._asdict() for key, value in tables_of.items()}
    others = [key for key in ("anchor", "ungated") if key in tables_of]
    gain = {f"policy_over_{key}": stats.paired_gain(tables_of["policy"], tables_of[key])._asdict() for key in others}
    normalised = {key: scores.normalise(env_id, value.mean()) for key, value in tables_of.items()}
    has_reference = scores.reference(env_id) is not None
    return {
        "intervals": intervals,
        "gain": gain or None,
        "normalised": {key: float(value) for key, value in normalised.items() if value is not None} if has_reference else None,
    }
