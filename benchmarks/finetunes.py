"""What fine-tuning was worth: python benchmarks/finetunes.py RUN [RUN ...] [--docs]

One row for each finished `spar finetune`: the return of the offline policy, that of the fine-tuned one, and their paired gain, with 95 %
intervals over seeds and start states, of the gain Student's over seeds where it is wider. `--docs` writes the table into docs/finetune.md.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import page

from spar.evaluate import stats

HEADER = ("dataset", "algorithm", "environment steps a seed", "offline", "online", "gain", "lived episodes ended early")


def shown(interval: Mapping[str, float], form: str = ".1f") -> str:
    return f"{interval['mean']:{form}} [{interval['low']:{form}}, {interval['high']:{form}}]"


def row(run: Path) -> list[str]:
    summary = json.loads((run / "summary.json").read_text())
    lived = [line.rsplit(",", 1)[1] for line in (run / "episodes.csv").read_text().splitlines()[1:]]
    ended = f"{sum(value == '1' for value in lived)} of {len(lived)}"
    gain = stats.paired_gain(*(summary["returns"][name] for name in ("online", "offline")))._asdict()
    scores = [shown(summary["intervals"][name]) for name in ("offline", "online")]
    return [summary["dataset"]["name"], f"`{summary['algo']}`", f"{summary['steps']:,}", *scores, shown(gain, "+.1f"), ended]


if __name__ == "__main__":
    page.of_runs(__doc__, HEADER, lambda run, runs: [row(run)], "finetune.md", "scores")
