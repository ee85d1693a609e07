"""The table of docs/suite.md from run directories: python benchmarks/suite.py RUN ... , one finished run for each dataset of the suite."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import page

import spar
from spar import api, files
from spar.data import sheets
from spar.evaluate import offline
from spar.report.console import percent

HEAD = """# The suite

Collected by D4RL's recipes with policies trained here (`spar data make NAME`; `spar data show NAME` has each data sheet); never called
D4RL. Written by `benchmarks/suite.py` from one run a dataset.

"""
TAIL = """

*behaviour*: mean logged return, and on D4RL's scale (pointmaze: ours). *anchor*: the behaviour-cloned anchor in the dataset's own
environment, {episodes} episodes, one seed. *gain*: of the gated policy of the task's preset over that anchor, with its 95 % interval over
episodes. {steps} updates are a first look: these columns show that a dataset trains, and where so few updates are not enough.
*delta_rho*: the radius that holds 95 % of the logged actions' deviations from that anchor, actions scaled to [-1, 1] (eq. 3). *directions*:
how many hold 95 % of their variance, of all action dimensions. Commits: {commits}. No run yet: {missing}.
"""
HEADER = ("dataset", "transitions", "episodes", "behaviour", "normalised", "anchor", "95 % interval", "algorithm", "gain", "95 % interval",
          "gate accepts", "delta_rho", "directions")  # fmt: skip


def row(run: api.Run) -> tuple[str, ...]:
    summary = run.summary
    name, normalised = summary["dataset"]["name"], summary["normalised"]
    geometry = offline.residual_geometry(run.policy(), spar.load_log(run.config.dataset))
    anchor = summary["intervals"]["anchor"]
    behaviour = summary["intervals"].get("behaviour", {}).get("mean")
    gain = summary["gain"]["policy_over_anchor"]
    return (
        f"`{name}`", f"{summary['dataset']['transitions']:,}", f"{summary['dataset']['episodes']:,}",
        f"{behaviour:.4g}" if behaviour is not None else "-", f"{normalised['behaviour']:.1f}" if normalised else "-",
        f"{anchor['mean']:.4g}", f"[{anchor['low']:.4g}, {anchor['high']:.4g}]", summary["algo"], f"{gain['mean']:+.4g}",
        f"[{gain['low']:+.4g}, {gain['high']:+.4g}]", percent(summary["gate"]["acceptance"]), f"{geometry['delta_rho']:.3f}",
        f"{geometry['directions_with_95_percent_of_variance']} of {run.policy().act_dim}",
    )  # fmt: skip


def _commit(run: api.Run) -> str:
    return str(json.loads((run.folder / "environment.json").read_text())["commit"] or "unknown")[:7]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, default=page.ROOT / "docs" / "suite.md")
    arguments = parser.parse_args()
    order = [sheet["name"] for sheet in sheets.known()]
    runs = sorted((api.Run(folder) for folder in arguments.runs), key=lambda run: order.index(run.summary["dataset"]["name"]))
    about = {
        "episodes": " or ".join(sorted({str(run.config.episodes) for run in runs})),
        "steps": ", ".join(sorted({f"{run.config.steps_anchor:,} + {run.config.steps_residual:,}" for run in runs})),
        "missing": ", ".join(f"`{name}`" for name in order if name not in {run.summary["dataset"]["name"] for run in runs}) or "none",
        "commits": ", ".join(sorted({_commit(run) for run in runs})),
    }
    files.write_text(arguments.out, HEAD + page.table(HEADER, map(row, runs)) + TAIL.format(**about))
    print(arguments.out)


if __name__ == "__main__":
    main()
