"""Turn a finished run into the README's table and picture, and keep what they were made from.

    spar train --out runs/headline
    python benchmarks/headline.py runs/headline

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

from spar.report import plots
from spar.report.console import ROWS, percent, verdict
from spar.runs import outcome


def table(summary: dict[str, Any], environment: dict[str, Any]) -> str:
    """The block between the marks, in Markdown."""
    rows = []
    for key, label in ROWS.items():
        row, accepts = summary["intervals"][key], percent(summary["gate"]["acceptance"]) if key == "policy" else ""
        score = summary["normalised"][key]
        rows.append((label, f"{row['mean']:.0f}", f"[{row['low']:.0f}, {row['high']:.0f}]", f"{score:.1f}", accepts))
    command = f"spar train --seeds {' '.join(map(str, summary['seeds']))} --episodes {len(summary['returns']['policy'][0])}"
    data, steps, episodes = summary["dataset"], summary["steps"], len(summary["returns"]["policy"][0])
    policy, anchor = (np.asarray(summary["returns"][name]) for name in ("policy", "anchor"))
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
        f"{steps['anchor']:,} + {steps['residual']:,} updates, last checkpoint, {episodes} episodes, commit {environment['commit'][:7]}.",
        f"Gain by seed: {by_seed}.",
        "Raw returns: `results/headline-summary.json`.",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    run = parser.parse_args().run
    for name in ("summary", "config", "environment"):
        shutil.copyfile(run / f"{name}.json", page.ROOT / "results" / f"headline-{name}.json")
    summary, environment = (json.loads((run / f"{name}.json").read_text()) for name in ("summary", "environment"))
    plots.final_returns(summary).savefig(page.ROOT / "docs" / "gain.png", dpi=110, bbox_inches="tight")
    page.put(page.ROOT / "README.md", "headline", table(summary, environment))


if __name__ == "__main__":
    main()
