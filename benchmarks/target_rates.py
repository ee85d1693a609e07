"""What the rate of the target critics does to finished runs: python benchmarks/target_rates.py RUN [RUN ...] [--docs]

One row a run: the rate, how often the targets moved, what is left of their first values then, of critics whose effective horizon is 1 /
(1 - gamma), how far the critics still moved, the return of the last checkpoint, and its gain over the algorithm's first run there.
`--docs` writes the table into docs/readings.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import page

from spar import registry
from spar.runs import experiment

HEADER = ("dataset", "algorithm", "target rate", "moves", "left of the first values", "critics moved", "return", "95 % interval",
          "over the algorithm's first row")  # fmt: skip

MOVES = {"td3bc": 0.5, "spot": 0.9 * 0.5, "plas": 0.5, "onestep": 0.7}  # a competitor's share of updates that move its targets, if not all


def row(run: Path, runs: Sequence[Path]) -> list[str]:
    cfg, summary = experiment.read_config(run), experiment.read_summary(run)
    critic = cfg.config.critic
    both = cfg.steps_anchor + cfg.steps_residual
    moves = cfg.steps_anchor if registry.get(cfg.algo).gated else round(MOVES.get(cfg.algo, 1.0) * both)
    left = math.exp(-moves * critic.polyak * (1 - critic.discount))
    health = summary.get("critics")
    moved = f"{100 * max(abs(share) for share in health['drift'].values()):.1f} %" if health else ""
    found = summary["intervals"]["policy"]
    returns = [f"{found['mean']:.0f}", f"[{found['low']:.0f}, {found['high']:.0f}]"]
    gain = page.gain_over_first(run, runs, lambda one: (experiment.read_config(one).dataset, experiment.read_config(one).algo))
    return [cfg.dataset, f"`{cfg.algo}`", f"{critic.polyak:g}", f"{moves:,}", f"{100 * left:.1f} %", moved, *returns, gain]


if __name__ == "__main__":
    page.of_runs(__doc__, HEADER, lambda run, runs: [row(run, runs)], "readings.md", "rates")
