"""The table of docs/suite.md from run directories: python benchmarks/suite.py RUN ... , one finished run for each dataset of the suite."""

from __future__ import annotations

import argparse
from pathlib import Path

import spar
from spar import api, files
from spar.data import sheets
from spar.evaluate import offline

ROOT = Path(__file__).resolve().parents[1]
HEAD = """# The suite

Collected by D4RL's recipes with policies trained here (`spar data make NAME`; `spar data show NAME` has each data sheet); never called
D4RL. Written by `benchmarks/suite.py` from one run a dataset.

| dataset | transitions | episodes | behaviour | normalised | anchor | 95 % interval | delta_rho | directions | updates |
|---|---|---|---|---|---|---|---|---|---|
"""
TAIL = """
*behaviour*: mean logged return. *anchor*: the behaviour-cloned anchor in the dataset's own environment, {episodes} episodes, one seed: it
shows that a dataset trains, not how good SPAR is on it. *delta_rho*: the radius that holds 95 % of the logged actions' deviations from that
anchor, actions scaled to [-1, 1] (eq. 3). *directions*: how many hold 95 % of their variance, of all action dimensions.
"""


def row(run: api.Run) -> str:
    summary = run.summary
    name, normalised = summary["dataset"]["name"], summary["normalised"]
    geometry = offline.residual_geometry(run.policy(), spar.load_log(run.config.dataset))
    anchor = summary["intervals"]["anchor"]
    behaviour = summary["intervals"].get("behaviour", {}).get("mean")
    cells = [
        f"`{name}`", f"{summary['dataset']['transitions']:,}", f"{summary['dataset']['episodes']:,}",
        f"{behaviour:.4g}" if behaviour is not None else "-", f"{normalised['behaviour']:.1f}" if normalised else "-",
        f"{anchor['mean']:.4g}", f"[{anchor['low']:.4g}, {anchor['high']:.4g}]", f"{geometry['delta_rho']:.3f}",
        f"{geometry['directions_with_95_percent_of_variance']} of {run.policy().act_dim}",
        f"{summary['steps']['anchor']:,} + {summary['steps']['residual']:,}",
    ]  # fmt: skip
    return "| " + " | ".join(cells) + " |\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "suite.md")
    arguments = parser.parse_args()
    order = [sheet["name"] for sheet in sheets.known()]
    runs = sorted((api.Run(folder) for folder in arguments.runs), key=lambda run: order.index(run.summary["dataset"]["name"]))
    episodes = ", ".join(sorted({str(run.config.episodes) for run in runs}))
    files.write_text(arguments.out, HEAD + "".join(map(row, runs)) + TAIL.format(episodes=episodes))
    print(arguments.out)


if __name__ == "__main__":
    main()
