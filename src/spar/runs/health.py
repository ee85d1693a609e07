"""What a run's own metrics say against it, for summary.json, the terminal and the page."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

COLLAPSED_KL = 0.1  # nats: a generative residual below this ignores its latent
MOVING = 0.05  # share of their mean value by which critics may move over the last fifth of Stage I

Rows = Iterable[tuple[Any, ...]]  # of metrics.csv


def latent(rows: Rows) -> dict[str, Any] | None:
    """Is the CVAE alive? Its last KL and active units, seed by seed; None where the residual is not generative."""
    last: dict[str, dict[str, float]] = {"kl": {}, "active_units": {}}
    for _, _, _, seed, name, value in rows:
        if name in last:
            last[name][str(seed)] = float(value)
    if not last["active_units"]:
        return None
    collapsed = [seed for seed, kl in last["kl"].items() if kl < COLLAPSED_KL or last["active_units"][seed] < 1]
    return {**last, "collapsed_seeds": collapsed}


def critics(rows: Rows, steps: int) -> dict[str, Any] | None:
    """Had the critics settled when Stage I ended, after `steps` updates? The share of their mean value of logged actions by which it moved
    over the last fifth, seed by seed; None where they were not looked at that early."""
    curves: dict[str, dict[int, float]] = {}
    for stage, _, step, seed, name, value in rows:
        if int(stage) == 0 and name == "q":
            curves.setdefault(str(seed), {})[int(step)] = float(value)
    drift = {}
    for seed, curve in curves.items():
        before = [step for step in curve if step <= 0.8 * steps]
        if before:
            first, last = curve[max(before)], curve[max(curve)]
            drift[seed] = (last - first) / max(abs(last), 1e-12)
    return {"drift": drift, "moving_seeds": [seed for seed, share in drift.items() if abs(share) > MOVING]} if drift else None


def warnings(summary: dict[str, Any]) -> list[str]:
    """Sentences for a person; empty where nothing speaks against the run."""
    found = []
    collapsed = (summary.get("latent") or {}).get("collapsed_seeds")
    if collapsed:
        found.append(
            f"Posterior collapse: the latent of seed {', '.join(collapsed)} carries almost nothing, so its candidates are almost one "
            "action. Lower --cvae.kl-weight or use spar-mlp."
        )
    moving = (summary.get("critics") or {}).get("moving_seeds")
    if moving:
        shares = ", ".join(f"{100 * summary['critics']['drift'][seed]:+.0f} %" for seed in moving)
        found.append(
            f"The critics of seed {', '.join(moving)} were still moving when Stage I ended ({shares} over its last fifth): the gains that "
            "they predict, and so the gate, are not settled. More --steps-anchor, or --budget standard."
        )
    for seed, count in summary["skipped_steps"].items():
        if count:
            found.append(f"Seed {seed}: {count} updates were skipped because a loss or gradient was not finite.")
    return found
