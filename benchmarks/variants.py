"""What settings do to finished runs: python benchmarks/variants.py RUN [RUN ...] [--docs]

One row a run of SPAR, named by what differs from its task's defaults: the returns of the ungated and of the gated policy with the
bootstrap's intervals, the gated one's by seed, how often the gate accepts, and the gain over the dataset's first run with Student's.
`--docs` writes the table into docs/failures.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import page

from spar.report.console import percent
from spar.runs import experiment

HEADER = ("dataset", "run", "ungated", "95 % interval", "gated", "95 % interval", "by seed", "accepts", "gated, over the first row")


def row(run: Path, runs: Sequence[Path]) -> list[str]:
    summary = experiment.read_summary(run)
    shown = []
    for name in ("ungated", "policy"):
        interval = summary["intervals"][name]
        shown += [f"{interval['mean']:.0f}", f"[{interval['low']:.0f}, {interval['high']:.0f}]"]
    seeds = ", ".join(f"{np.mean(episodes):.0f}" for episodes in summary["returns"]["policy"])
    gain = page.gain_over_first(run, runs, lambda one: experiment.read_summary(one)["dataset"]["name"])
    return [summary["dataset"]["name"], f"`{run.name.replace('~', ' ')}`", *shown, seeds, percent(summary["gate"]["acceptance"]), gain]


if __name__ == "__main__":
    page.of_runs(__doc__, HEADER, lambda run, runs: [row(run, runs)], "failures.md", "variants")
