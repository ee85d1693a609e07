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
from spar.diagnose import calibration
from spar.evaluate import stats
from spar.runs import diagnose, experiment

HEADER = (
    "dataset", "algorithm", "seeds", "gain", "95 % interval", "clone / log", "critics moved", "order of returns", "order of gains",
    "predicted gain", "real gain", "support distance", "the anchor's", "gate accepts, logged states", "what is in the way",
)  # fmt: skip
POOR_CLONE, UNSETTLED, STRAYS, SHUT = 0.5, 0.05, 1.1, 0.05
FEW_SEEDS = 2
CUT_SHORT = 0.1  # share of a log's episodes that were cut before the evaluation's limit, above which returns do not compare


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
        "anchor_support": [one["support"]["ratio"]["anchor"] for one in seeds],
        "gains_compare": _gains_compare(run),
        "accepts": [1 - one["gate"]["states"]["deferring_share"] for one in seeds],
    }


def clone_share(run: api.Run) -> float | None:
    """The anchor's mean return over the logged one; None where that is not positive, or where logged episodes last longer than evaluated
    ones, or many were cut sooner."""
    means, limit = {name: one["mean"] for name, one in run.summary["intervals"].items()}, _limit(run)
    if run.config.env is None or means.get("behaviour", 0.0) <= 0:
        return None
    log = spar.load_log(run.config.dataset)
    cut = log.truncated[np.cumsum(log.lengths) - 1] & (log.lengths < (limit or 0))
    alike = limit is None or (log.lengths.max() <= limit and cut.mean() <= CUT_SHORT)
    return means["anchor"] / means["behaviour"] if alike else None


def _limit(run: api.Run) -> int | None:
    """Steps after which an evaluation episode is cut."""
    if run.config.env is None:
        return None
    with contextlib.closing(run.config.env.make()) as simulator:
        return simulator.spec.max_episode_steps if simulator.spec else None


def _gains_compare(run: api.Run) -> bool:
    """Whether what a correction is predicted to gain is what the branches measure: critics that value the behaviour, as the anchor that
    plays on is, and episodes long enough to show it."""
    critic = run.config.config.critic
    return critic.expectile == 0.5 and not calibration.hidden(_limit(run), critic.discount)


def _lag(found: dict[str, Any]) -> list[float | None]:
    """By how much real gains exceed predicted ones, where their mean is not above 0; a cause needs both."""
    if (_mean(found["real_gain"]) or 0.0) > 0:
        return []
    pairs = zip(found["real_gain"], found["predicted_gain"], strict=True)
    return [None if real is None or predicted is None else real - predicted for real, predicted in pairs]


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
    if found["gains_compare"]:
        said += _word(found["gains_order"], 0.0, False, "critic: predicted gains do not order real ones")
        said += _word(_lag(found), 0.0, False, "critic: accepted corrections show no real gain")
    pairs = zip(found["support"], found["anchor_support"], strict=True)
    farther = [None if own is None or anchor is None else own - anchor for own, anchor in pairs]
    if (_mean(found["support"]) or 0.0) > STRAYS:
        said += _word(farther, 0.0, True, "coverage: corrections lead away from the logged actions")
    said += _word(found["accepts"], SHUT, False, "gate: hardly opens")
    said += ["gate: without it the policy surely returns more"] if row["opening"] and row["opening"]["low"] > 0 else []
    return f"{verdict}{': ' if said else ''}{'; '.join(said)}"


def cells(row: dict[str, Any]) -> tuple[str, ...]:
    found, interval = row["causes"], row["gain"]
    drift = _mean([None if one is None else abs(one) for one in found["drift"]])
    keys = ("returns_order", "gains_order", "predicted_gain", "real_gain", "support", "anchor_support")
    numbers = [_number(found[key]) for key in keys]
    return (
        f"`{row['name']}`", row["algo"], str(len(row["seeds"])), f"{interval['mean']:+.4g}",
        f"[{interval['low']:+.4g}, {interval['high']:+.4g}]", _share(row["clone_share"]), _share(drift, 1), *numbers,
        _share(_mean(found["accepts"])), read(row),
    )  # fmt: skip


def _share(value: float | None, digits: int = 0) -> str:
    return "-" if value is None else f"{100 * value:.{digits}f} %"


def _number(values: Sequence[float | None]) -> str:
    """The mean over seeds, and of how many where some have none."""
    mean, present = _mean(values), sum(value is not None for value in values)
    return "-" if mean is None else f"{mean:.2f}" + (f" ({present} of {len(values)} seeds)" if present < len(values) else "")
