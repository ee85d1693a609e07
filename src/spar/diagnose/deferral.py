"""What the gate does: how often it defers to the anchor, why, and how episodes fare that defer more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from spar.deploy.policy import Decision
from spar.diagnose.calibration import rank_correlation
from spar.diagnose.traces import Trace


def on_states(decision: Decision) -> dict[str, Any]:
    """Over a batch of logged states: the share that defers, the share of each reason, quantiles of the finite predicted gains."""
    gain = np.asarray(decision.gain)[np.isfinite(decision.gain)]
    marks = (0.05, 0.25, 0.5, 0.75, 0.95)
    return {
        "deferring_share": float(1 - np.mean(decision.accepted)),
        "reasons": _shares(decision.reason),
        "gain_quantiles": {str(q): float(np.quantile(gain, q)) for q in marks} if len(gain) else None,
    }


def over_episodes(traces: Sequence[Trace]) -> dict[str, Any]:
    """Share of all steps that defers, reasons, and returns given each episode's share: the rank correlation, and the mean return of the
    half of the episodes that defers less and of the half that defers more. `to_go`: the mean undiscounted return still to come at steps
    that defer and at steps that accept, and by how much each lies above that of all episodes that still run at the same step, since there
    is less to come the later it is. None where there are no such steps."""
    share = np.asarray([1 - trace.accepted.mean() for trace in traces])
    returns = np.asarray([trace.rewards.sum() for trace in traces])
    halves = np.array_split(returns[np.argsort(share, kind="stable")], 2) if len(traces) > 1 else None
    return {
        "deferring_share": float(1 - np.concatenate([trace.accepted for trace in traces]).mean()),
        "reasons": _shares(np.concatenate([trace.reason for trace in traces])),
        "episode_deferring_share": share.tolist(),
        "episode_return": returns.tolist(),
        "rank_correlation": rank_correlation(share, returns),
        "return_deferring_less": float(halves[0].mean()) if halves else None,
        "return_deferring_more": float(halves[1].mean()) if halves else None,
        "to_go": _to_go(traces),
    }


def _to_go(traces: Sequence[Trace]) -> dict[str, dict[str, float] | None]:
    table = np.full((len(traces), max(len(trace.rewards) for trace in traces)), np.nan)
    for row, trace in zip(table, traces, strict=True):
        row[: len(trace.rewards)] = np.cumsum(trace.rewards[::-1])[::-1]
    above = np.concatenate([row[np.isfinite(row)] for row in table - np.nanmean(table, axis=0)])
    come = np.concatenate([row[np.isfinite(row)] for row in table])
    accepted = np.concatenate([trace.accepted for trace in traces]).astype(bool)
    return {
        name: {"mean": float(come[steps].mean()), "above_same_step": float(above[steps].mean())} if steps.any() else None
        for name, steps in (("deferring", ~accepted), ("accepting", accepted))
    }


def _shares(reasons: np.ndarray) -> dict[str, float]:
    names, counts = np.unique(reasons, return_counts=True)
    return {str(name): float(count / len(reasons)) for name, count in zip(names, counts, strict=True)}
