"""What stands in the way where SPAR does not surely return more than its own anchor: critic, coverage, or gate.

`measured` is asked of a finished run with an environment, through `spar diagnose`; `read` puts a finding into words, by rules alone.
"""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np

import spar
from spar import api
from spar.runs import diagnose, experiment
from spar.studies.claims import difference, joint

HEADER = (
    "dataset", "algorithm", "seeds", "gain", "95 % interval", "clone / log", "critics moved", "order of returns", "order of gains",
    "predicted gain", "real gain", "support distance", "gate accepts", "what is in the way",
)  # fmt: skip
POOR_CLONE, UNSETTLED, STRAYS, SHUT = 0.5, 0.05, 1.1, 0.05


def gain(summary: dict[str, Any]) -> dict[str, float]:
    """Of the gated policy over its anchor: the bootstrap's interval, or Student's over seeds where that is wider."""
    tables = [np.asarray(summary["returns"][name], np.float64) for name in ("policy", "anchor")]
    return dict(joint(tables, difference)[0]._asdict())


def measured(run: api.Run) -> dict[str, Any]:
    """Means over seeds of what `spar diagnose` finds, and the pooled corrections whose real gain was measured."""
    found = diagnose.execute(run.folder, spar.load_log(run.config.dataset), diagnose.Settings())
    seeds = list(found["seeds"].values())
    gains = [one["calibration"]["gains"] for one in seeds if "gains" in one["calibration"]]
    summary = experiment.read_summary(run.folder)
    return {
        "drift": max(abs(share) for share in summary["critics"]["drift"].values()) if summary["critics"] else None,
        "returns_order": _mean([one["calibration"]["returns"]["rank_correlation"] for one in seeds]),
        "gains_order": _mean([one["rank_correlation"] for one in gains]),
        "predicted_gain": _mean([one["predicted_mean"] for one in gains]),
        "real_gain": _mean([one["real_mean"] for one in gains]),
        "corrections": sum(one["points"] for one in gains),
        "support": _mean([one["support"]["ratio"]["policy"] for one in seeds]),
        "accepts": 1 - _mean([one["gate"]["states"]["deferring_share"] for one in seeds]),
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


def _mean(values: list[float | None]) -> Any:
    present = [value for value in values if value is not None]
    return float(np.mean(present)) if present else None


def read(row: dict[str, Any]) -> str:
    """Every rule that applies; "not told apart" where none does."""
    found, interval = row["causes"], row["gain"]
    if interval["low"] > 0:
        return "surely better"
    said = []
    if row["clone_share"] is not None and row["clone_share"] < POOR_CLONE:
        said.append("anchor: the clone returns less than half of what the log does")
    if found["drift"] is not None and found["drift"] > UNSETTLED:
        said.append("critic: had not settled")
    if found["gains_order"] is not None and found["gains_order"] <= 0:
        said.append("critic: predicted gains do not order real ones")
    if found["real_gain"] is not None and found["real_gain"] <= 0:
        said.append("critic: accepted corrections show no real gain")
    if found["support"] is not None and found["support"] > STRAYS:
        said.append("coverage: corrections leave the logged actions")
    if found["accepts"] is not None and found["accepts"] < SHUT:
        said.append("gate: hardly opens")
    verdict = "surely worse" if interval["high"] < 0 else "not told apart"
    return f"{verdict}{': ' if said else ''}{'; '.join(said)}"


def cells(row: dict[str, Any]) -> tuple[str, ...]:
    found, interval = row["causes"], row["gain"]
    return (
        f"`{row['name']}`", row["algo"], str(len(row["seeds"])), f"{interval['mean']:+.4g}",
        f"[{interval['low']:+.4g}, {interval['high']:+.4g}]", _share(row["clone_share"]), _share(found["drift"], 1),
        _number(found["returns_order"]), _number(found["gains_order"]), _number(found["predicted_gain"]),
        _number(found["real_gain"]), _number(found["support"]), _share(found["accepts"]),
        read(row),
    )  # fmt: skip


def _share(value: float | None, digits: int = 0) -> str:
    return "-" if value is None else f"{100 * value:.{digits}f} %"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
