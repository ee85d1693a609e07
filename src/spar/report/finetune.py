"""Pictures and the terminal's table of a fine-tuning."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from rich.console import Console
from rich.table import Table

from spar.report import plots
from spar.report.console import percent
from spar.runs import finetune, tables


def draw(folder: Path, summary: dict[str, Any]) -> dict[str, Path]:
    """Write `plots/curve.png` and `plots/losses.png` of the fine-tuning in `folder`; returns them by name."""
    out = folder / "plots"
    out.mkdir(exist_ok=True)
    figures = {"curve": curve(folder, summary), "losses": plots.losses(tables.read(folder / "metrics.csv", tables.METRICS_HEADER))}
    paths = {}
    for name, figure in figures.items():
        paths[name] = out / f"{name}.png"
        plots.save(figure, paths[name])
    return paths


def curve(folder: Path, summary: dict[str, Any]) -> plt.Figure:
    """Return of the deployed policy against environment steps, with the offline level marked; exploring episodes as dots behind it."""
    seeds: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for step, seed, mean, *_ in tables.read(folder / "curve.csv", finetune.CURVE_HEADER):
        seeds[seed].append((int(step), float(mean)))
    lived = [(int(step), float(value)) for _, step, value, *_ in tables.read(folder / "episodes.csv", finetune.EPISODES_HEADER)]
    figure, axes = plt.subplots(figsize=(7, 3.6))
    if lived:
        axes.scatter(*zip(*lived, strict=True), s=10, alpha=0.5, linewidths=0, color=plots.COLOURS["behaviour"], label="exploring episodes")
    for points in seeds.values():
        axes.plot(*zip(*points, strict=True), color=plots.COLOURS["policy"], linewidth=0.8, alpha=0.4)
    steps = [step for step, _ in next(iter(seeds.values()))]
    mean = np.mean([[value for _, value in points] for points in seeds.values()], axis=0)
    axes.plot(steps, mean, color=plots.COLOURS["policy"], marker="o", markersize=4, label=f"{summary['algo']}, mean of its seeds")
    axes.axhline(summary["intervals"]["offline"]["mean"], color=plots.COLOURS["anchor"], linestyle="--", linewidth=1, label="offline")
    axes.set_xlabel("environment steps of each seed, one update after each")
    axes.set_ylabel(f"return ({summary['episodes']} episodes a point)")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)
    return figure


def show(console: Console, summary: dict[str, Any]) -> None:
    """Offline against online, and the gain on equal start states."""
    console.print(
        f"\n[bold]{summary['algo']}[/] in {summary['env']}, {summary['steps']:,} steps, seeds {', '.join(map(str, summary['seeds']))}"
    )
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("", "return", "95 % interval", "normalised", "gate accepts"):
        table.add_column(title, justify="right" if title else "left")
    for key in ("offline", "online"):
        row, normalised, gate = summary["intervals"][key], summary["normalised"], summary["acceptance"]
        interval, score = f"[{row['low']:.1f}, {row['high']:.1f}]", f"{normalised[key]:.1f}" if normalised else "-"
        table.add_row(key, f"{row['mean']:.1f}", interval, score, percent(gate[key]) if gate else "")
    console.print(table)
    gain, count = summary["gain"], len(summary["seeds"])
    scope = "episodes of one seed: the spread between seeds is not in it" if count == 1 else f"{count} seeds and their episodes"
    console.print(f"gain online {gain['mean']:+.1f}, 95 % interval [{gain['low']:+.1f}, {gain['high']:+.1f}] over {scope}")
