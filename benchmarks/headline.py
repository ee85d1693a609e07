"""Turn a finished run into the README's table and picture, and keep what they were made from.

    spar train --out runs/headline
    python benchmarks/headline.py runs/headline    # without the run: anew from what was kept of it

Writes `results/headline-*.json` (summary, configuration, environment), `docs/gain.png`, and what stands between README.md's headline marks.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import page

from spar.evaluate import stats
from spar.report import plots
from spar.report.console import ROWS, percent, verdict
from spar.runs import environment, outcome
from spar.runs.config import PAPER_SEEDS


def table(summary: dict[str, Any], surroundings: dict[str, Any]) -> str:
    """The block between the marks, in Markdown."""
    rows = []
    for key, label in ROWS.items():
        row, accepts = summary["intervals"][key], percent(summary["gate"]["acceptance"]) if key == "policy" else ""
        score = summary["normalised"][key]
        rows.append((label, f"{row['mean']:.0f}", f"[{row['low']:.0f}, {row['high']:.0f}]", f"{score:.1f}", accepts))
    command = f"spar train --seeds {' '.join(map(str, summary['seeds']))} --episodes {len(summary['returns']['policy'][0])}"
    data, steps, episodes = summary["dataset"], summary["steps"], len(summary["returns"]["policy"][0])
    policy, anchor, ungated = (np.asarray(summary["returns"][name]) for name in ("policy", "anchor", "ungated"))
    places = [surroundings, *surroundings.get("continued", [])]
    commits = ", ".join(environment.unique(place["commit"][:7] for place in places))
    by_seed = ", ".join(f"{gain:+.0f}" for gain in (policy - anchor).mean(1))
    summary = {
        **summary,
        **outcome.measures(
            summary["env"], np.asarray(summary["returns"]["behaviour"]), {name: summary["returns"][name] for name in outcome.VARIANTS}
        ),
    }
    lines = [
        "![returns of the log, the anchor, and SPAR](docs/gain.png)",
        "",
        page.table(("", "return", "95 % interval", "normalised", "gate accepts"), rows),
        "",
        f"{verdict(summary)} `{command}`: dataset {data['name']} ({data['fingerprint']}), {summary['algo']},",
        f"{steps['anchor']:,} + {steps['residual']:,} updates, last checkpoint, {episodes} episodes, commit {commits}.",
        f"Gain by seed: {by_seed}. Over the ungated policy: {signed(stats.paired_gain(policy, ungated))}.",
        *selected(summary["seeds"], policy, anchor),
        "Raw returns: `results/headline-summary.json`.",
    ]
    return "\n".join(lines)


def signed(gain: stats.Interval) -> str:
    return f"{gain.mean:+.0f} [{gain.low:+.0f}, {gain.high:+.0f}]"


def selected(seeds: list[int], policy: np.ndarray, anchor: np.ndarray) -> list[str]:
    """What the seeds say on which nothing was chosen (docs/readings.md, "Budgets"), where the run has both."""
    fresh = [i for i, seed in enumerate(seeds) if seed not in PAPER_SEEDS]
    if not fresh or len(fresh) == len(seeds):
        return []
    gain = stats.paired_gain(policy[fresh], anchor[fresh])
    return [
        f"On seeds {', '.join(str(seed) for seed in seeds if seed in PAPER_SEEDS)} the rate of the target critics was chosen; the others "
        f"alone return {policy[fresh].mean():.0f}, a gain of {signed(gain)}."
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, nargs="?")
    run = parser.parse_args().run
    kept = {name: page.ROOT / "results" / f"headline-{name}.json" for name in ("summary", "config", "environment")}
    for name, place in kept.items() if run else ():
        shutil.copyfile(run / f"{name}.json", place)
    summary, surroundings = (json.loads(kept[name].read_text()) for name in ("summary", "environment"))
    plots.final_returns(summary).savefig(page.ROOT / "docs" / "gain.png", dpi=110, bbox_inches="tight")
    page.put(page.ROOT / "README.md", "headline", table(summary, surroundings))


if __name__ == "__main__":
    main()
