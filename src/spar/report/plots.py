"""The pictures of a run, drawn from its tables."""

from __future__ import annotations

import io
from collections import defaultdict
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from spar import files, registry, trainer
from spar.report.console import ROWS, labels
from spar.runs import tables

COLOURS = {"behaviour": "#8c8c8c", "anchor": "#c44e52", "ungated": "#dd8452", "policy": "#4c72b0"}
Curve = dict[int, list[float]]  # step -> one value a seed (or an episode)


def draw(folder: Path, summary: dict[str, Any]) -> dict[str, Path]:
    """Write the plots that the run's tables allow into `folder/plots`; returns them by name."""
    out = folder / "plots"
    out.mkdir(exist_ok=True)
    metrics = tables.read(folder / "metrics.csv", tables.METRICS_HEADER)
    returns = tables.read(folder / "returns.csv", tables.RETURNS_HEADER)
    made = {"losses": losses(metrics), "acceptance": acceptance(metrics, summary) if summary["gate"] else None}
    if summary["intervals"] is not None:
        made |= {"returns": final_returns(summary), "training": training_returns(returns, summary)}
    paths = {}
    for name, figure in made.items():
        if figure is not None:
            paths[name] = out / f"{name}.png"
            save(figure, paths[name])
    return paths


def save(figure: plt.Figure, path: Path) -> None:
    """As a PNG, whole or not at all; the figure is closed."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=110, bbox_inches="tight")
    plt.close(figure)
    files.write_bytes(path, picture.getvalue())


def final_returns(summary: dict[str, Any]) -> plt.Figure:
    """Every evaluation episode as a dot, means and 95 % intervals on top."""
    present = [key for key in ROWS if key in summary["intervals"]]
    figure, axes = plt.subplots(figsize=(7, 3.6))
    rng = np.random.default_rng(0)
    for i, key in enumerate(present):
        values = (
            np.concatenate([np.ravel(episodes) for episodes in summary["returns"][key]])
            if key != "behaviour"
            else np.asarray(summary["returns"][key])
        )
        axes.scatter(
            values,
            i + rng.uniform(-0.22, 0.22, len(values)),
            s=9,
            alpha=0.35 if len(values) < 200 else 0.12,
            color=COLOURS[key],
            linewidths=0,
        )
        row = summary["intervals"][key]
        axes.errorbar(
            row["mean"], i, xerr=[[row["mean"] - row["low"]], [row["high"] - row["mean"]]], color="black", fmt="o", capsize=4, markersize=5
        )
        axes.annotate(f"{row['mean']:.0f}", (row["mean"], i + 0.32), ha="center", fontsize=9)
    axes.set_yticks(range(len(present)), [labels(summary)[key] for key in present])
    axes.invert_yaxis()
    axes.set_xlabel("undiscounted return of an episode; black: mean and 95 % interval")
    _clean(axes)
    return figure


def training_returns(returns: list[tuple[str, ...]], summary: dict[str, Any]) -> plt.Figure | None:
    """Returns during both stages on one step axis, with the anchor's final level marked."""
    curves: dict[str, Curve] = defaultdict(lambda: defaultdict(list))
    for stage, _, step, _, policy, _, value in returns:
        curves[policy][_total_step(int(stage), int(step), summary)].append(float(value))
    if not curves:
        return None
    figure, axes = plt.subplots(figsize=(7, 3.6))
    for policy, curve in curves.items():
        _band(axes, curve, COLOURS[policy], {"anchor": "anchor, Stage I", "policy": f"{labels(summary)['policy']}, last stage"}[policy])
    if "anchor" in summary["intervals"]:
        axes.axhline(summary["intervals"]["anchor"]["mean"], color=COLOURS["anchor"], linestyle="--", linewidth=1, label="final anchor")
        axes.axvline(summary["steps"]["anchor"], color="black", linewidth=0.8, alpha=0.4)
    axes.set_xlabel("updates (line: Stage I ends)" if "anchor" in summary["intervals"] else "updates")
    axes.set_ylabel("return (mean, shaded: middle 80 % of episodes)")
    axes.legend(frameon=False)
    _clean(axes)
    return figure


def losses(metrics: list[tuple[str, ...]]) -> plt.Figure:
    """Every loss, one panel each, all seeds."""
    panels: dict[tuple[str, str], dict[str, list[tuple[int, float]]]] = defaultdict(lambda: defaultdict(list))
    for _, stage, step, seed, name, value in metrics:
        if name.endswith("_loss") or name in ("kl", "active_units", "q", "q_disagreement"):
            panels[stage, name][seed].append((int(step), float(value)))
    columns = 3
    rows = -(-len(panels) // columns)
    figure, grid = plt.subplots(rows, columns, figsize=(11, 2.3 * rows), squeeze=False)
    for axes, ((stage, name), seeds) in zip(grid.flat, panels.items(), strict=False):
        for points in seeds.values():
            axes.plot(*zip(*points, strict=True), linewidth=1)
        axes.set_title(f"{stage}: {name.replace('_', ' ')}", fontsize=9)
        _clean(axes)
    for axes in grid.flat[len(panels) :]:
        axes.axis("off")
    figure.tight_layout()
    return figure


def acceptance(metrics: list[tuple[str, ...]], summary: dict[str, Any]) -> plt.Figure | None:
    """Share of logged states on which the gate applies the residual, during Stage II."""
    curve: Curve = defaultdict(list)
    for stage, _, step, _, name, value in metrics:
        if name.endswith("_acceptance") and int(stage) > 0:
            curve[_total_step(int(stage), int(step), summary) - summary["steps"]["anchor"]].append(100 * float(value))
    if not curve:
        return None
    figure, axes = plt.subplots(figsize=(7, 2.6))
    _band(axes, curve, COLOURS["policy"], None)
    axes.set_xlabel("updates of Stage II")
    axes.set_ylabel("gate accepts, % of states")
    axes.set_ylim(0, 100)
    _clean(axes)
    return figure


def _total_step(stage: int, step: int, summary: dict[str, Any]) -> int:
    """Updates since the start."""
    steps = trainer.stage_steps(registry.get(summary["algo"]), summary["steps"]["anchor"], summary["steps"]["residual"])
    return sum(steps[:stage]) + step


def _band(axes: plt.Axes, curve: Curve, colour: str, label: str | None) -> None:
    steps = sorted(curve)
    axes.plot(steps, [np.mean(curve[step]) for step in steps], color=colour, marker="o", markersize=4, label=label)
    low, high = ([np.quantile(curve[step], q) for step in steps] for q in (0.1, 0.9))
    axes.fill_between(steps, low, high, color=colour, alpha=0.15, linewidth=0)


def _clean(axes: plt.Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)
