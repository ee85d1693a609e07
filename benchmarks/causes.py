"""What stands in the way where SPAR does not surely return more than its own anchor: critic, coverage, or gate.

`measured` is asked of a finished run with an environment, through `spar diagnose`; `read` puts a finding into words, by rules alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import numpy as np

import spar
from spar import api
from spar.evaluate import stats
from spar.runs import diagnose, experiment

HEADER = (
    "dataset", "algorithm", "seeds", "gain", "95 % interval", "clone / log", "critics moved", "order of returns", "order of gains",
    "predicted gain", "real gain", "support distance", "gate accepts, logged states", "what is in the way",
)  # fmt: skip
POOR_CLONE, UNSETTLED, STRAYS, SHUT = 0.5, 0.05, 1.1, 0.05
FEW_SEEDS = 2


def measured(run: api.Run) -> dict[str, Any]:
    """What `spar diagnose` finds, a value a seed; None for a seed where there is none."""
    found = diagnose.execute(run.folder, spar.load_log(run.config.dataset), diagnose.Settings())
    seeds = list(found["seeds"].values())
    gains = [one["calibration"].get("gains") or {} for one in seeds]
    drift = (experiment.read_summary(run.folder)["critics"] or {}).get("drift", {})
    return {
        "drift": [drift.get(seed) for seed in found["seeds"]],
        "returns_order": [one["calibration"]["returns"]["rank_correlation"] for one in seeds],
        "gains_order": [one.get("rank_correlation") for one in gains],
        "predicted_gain": [one.get("predicted_mean") for one in gains],
        "real_gain": [one.get("real_mean") for one in gains],
        "support": [one["support"]["ratio"]["policy"] for one in seeds],
        "accepts": [1 - one["gate"]["states"]["deferring_share"] for one in seeds],
    }


def clone_share(run: api.Run) -> float | None:
    """The anchor's mean return over the logged one; None where that is not positive, or logged episodes last longer than evaluated ones."""
    means, env = {name: one["mean"] for name, one in run.summary["intervals"].items()}, run.config.env
    if env is None or means.get("behaviour", 0.0) <= 0:
        return None
    with contextlib.closing(env.make()) as simulator:
        limit = simulator.spec.max_episode_steps if simulator.spec else None
    longest = int(spar.load_log(run.config.dataset).lengths.max())
    return means["anchor"] / means["behaviour"] if limit is None or longest <= limit else None


def _mean(values: Sequence[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return float(np.mean(present)) if present else None


def _word(values: Sequence[float | None], limit: float, above: bool, text: str) -> list[str]:
    """`text` where the mean over seeds lies beyond a limit; "perhaps" where Student's interval over all seeds does not."""
    mean = _mean(values)
    if mean is None or (mean > limit) is not above:
        return []
    own = [value for value in values if value is not None]
    half, _ = stats.student(np.asarray(own), mean)
    sure = len(own) == len(values) >= FEW_SEEDS and abs(mean - limit) > half
    return [text if sure else f"perhaps {text}"]


def read(row: dict[str, Any]) -> str:
    """Every rule that applies; "not told apart" where none does."""
    found, interval = row["causes"], row["gain"]
    if len(row["seeds"]) < FEW_SEEDS:
        verdict = "one seed tells nothing"
    elif interval["low"] > 0:
        return "surely better"
    else:
        verdict = "surely worse" if interval["high"] < 0 else "not told apart"
    drift = [None if one is None else abs(one) for one in found["drift"]]
    poor = row["clone_share"] is not None and row["clone_share"] < POOR_CLONE
    said = []
    if verdict == "not told apart":
        said.append(f"{sum(gain > 0 for gain in row['seed_gains'])} of {len(row['seeds'])} seeds gain")
    said += ["anchor: the clone returns less than half of what the log does"] if poor else []
    said += _word(drift, UNSETTLED, True, "critic: had not settled")
    said += _word(found["gains_order"], 0.0, False, "critic: predicted gains do not order real ones")
    said += _word(found["real_gain"], 0.0, False, "critic: accepted corrections show no real gain")
    said += _word(found["support"], STRAYS, True, "coverage: corrections leave the logged actions")
    said += _word(found["accepts"], SHUT, False, "gate: hardly opens")
    said += ["gate: without it the policy surely returns more"] if row["opening"] and row["opening"]["low"] > 0 else []
    return f"{verdict}{': ' if said else ''}{'; '.join(said)}"


def cells(row: dict[str, Any]) -> tuple[str, ...]:
    found, interval = row["causes"], row["gain"]
    drift = _mean([None if one is None else abs(one) for one in found["drift"]])
    numbers = [_number(_mean(found[key])) for key in ("returns_order", "gains_order", "predicted_gain", "real_gain", "support")]
    return (
        f"`{row['name']}`", row["algo"], str(len(row["seeds"])), f"{interval['mean']:+.4g}",
        f"[{interval['low']:+.4g}, {interval['high']:+.4g}]", _share(row["clone_share"]), _share(drift, 1), *numbers,
        _share(_mean(found["accepts"])), read(row),
    )  # fmt: skip


def _share(value: float | None, digits: int = 0) -> str:
    return "-" if value is None else f"{100 * value:.{digits}f} %"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
