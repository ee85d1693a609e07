"""The paper's pictures, drawn from what `measure` found; a panel a task.

Every picture is `plot_name(documents, arrays) -> Figure`, both by task. A key may also be `TASK / VARIANT` (see `key`): the runs of one
task then share its panel, each under its variant's name, by default its algorithm's.
"""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Callable
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from spar.report import plots
from spar.studies.measure_run import Arrays, Document

BETWEEN = " / "
COLUMNS = 4  # panels in a row
LOGGED, ANCHOR, GLOBAL, RESIDUAL = plots.COLOURS["behaviour"], "#d55e00", "#000000", "#d55e00"
VARIANTS = ("#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")  # Okabe and Ito's, told apart by the colour-blind
VALUES = "viridis"  # of Q_rob: grows in lightness
SETS = {"logged": "logged", "policy": "residual policy", "anchor": "anchor"}
Run = tuple[str, str, Document]  # key, variant, document


def key(task: str, variant: str | None = None) -> str:
    """The key of a run among several of one task."""
    return task if variant is None else f"{task}{BETWEEN}{variant}"


def by_task(documents: dict[str, Document]) -> dict[str, list[Run]]:
    """The runs of each task, in the order of the documents."""
    tasks: dict[str, list[Run]] = {}
    for name, document in documents.items():
        task, between, variant = name.partition(BETWEEN)
        tasks.setdefault(task, []).append((name, variant if between else document["algo"], document))
    return tasks


def colours(documents: dict[str, Document]) -> dict[str, str]:
    """One for each variant, the same in every panel."""
    variants = dict.fromkeys(variant for runs in by_task(documents).values() for _, variant, _ in runs)
    return dict(zip(variants, itertools.cycle(VARIANTS), strict=False))


def panels(count: int, width: float, height: float, columns: int = COLUMNS) -> tuple[plt.Figure, list[plt.Axes]]:
    """`count` empty axes, at most `columns` in a row."""
    across = min(count, columns)
    rows = -(-count // across)
    figure, grid = plt.subplots(rows, across, figsize=(width * across, height * rows), squeeze=False, layout="constrained")
    for axes in grid.flat[count:]:
        axes.axis("off")
    return figure, list(grid.flat[:count])


def clean(axes: plt.Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)


def legend_below(figure: plt.Figure, drawn: list[plt.Axes]) -> None:
    """One legend for all panels, each label once."""
    found = {label: handle for axes in drawn for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    if found:
        figure.legend(found.values(), found.keys(), loc="outside lower center", ncols=min(4, len(found)), frameon=False, fontsize=9)


# Figures 2 and 5


def plot_residual_distribution(documents: dict[str, Document], arrays: dict[str, Arrays]) -> plt.Figure:
    """Figures 2 and 5: a column a run, a row for the logged points, one for the residual policy's, and one for the anchor's where it is
    more than a point; in one t-SNE, coloured by Q_rob on one scale for the run. One run alone is a row."""
    names = list(documents)
    sets = [name for name in SETS if all(f"{name}_q" in arrays[run] for run in names)]
    across, alone = min(len(names), COLUMNS), len(names) == 1
    shape = (1, len(sets)) if alone else (-(-len(names) // across) * len(sets), across)
    figure, grid = plt.subplots(*shape, figsize=(3.1 * shape[1], 3.4 * shape[0]), squeeze=False, layout="constrained")
    for axes in grid.flat:
        axes.axis("off")
    for i, name in enumerate(names):
        band, column = divmod(i, across)
        own = grid[0] if alone else grid[band * len(sets) : (band + 1) * len(sets), column]
        _embedding(figure, list(own), sets, _titled(name, documents), arrays[name])
    legend_below(figure, list(grid.flat))
    return figure


def _embedding(figure: plt.Figure, grid: list[plt.Axes], sets: list[str], title: str, arrays: Arrays) -> None:
    """Squares: a t-SNE's distances mean the same in both directions."""
    low, high = np.quantile(np.concatenate([arrays[f"{name}_q"] for name in sets]), [0.02, 0.98])
    places = np.concatenate([arrays[name] for name in SETS])
    side_by_side = grid[0].get_subplotspec().rowspan == grid[-1].get_subplotspec().rowspan
    middle = (places.min(0) + places.max(0)) / 2
    half = 0.53 * float(np.ptp(places, axis=0).max()) + 1e-6
    points = None
    for axes, name in zip(grid, sets, strict=True):
        axes.axis("on")
        order = np.argsort(arrays[f"{name}_q"], kind="stable")
        points = axes.scatter(
            *arrays[name][order].T, c=arrays[f"{name}_q"][order], s=5, linewidths=0, cmap=VALUES, vmin=low, vmax=high, rasterized=True
        )
        if "anchor" not in sets:
            axes.scatter(*arrays["anchor"].T, marker="X", s=70, color=ANCHOR, edgecolors="white", linewidths=0.8, label="anchor (da = 0)")
        axes.set(xlim=(middle[0] - half, middle[0] + half), ylim=(middle[1] - half, middle[1] + half), xticks=[], yticks=[], box_aspect=1)
        axes.set_title(f"{title}: {SETS[name]}", fontsize=9)
    bar = figure.colorbar(points, ax=grid, location="bottom", shrink=0.3 if side_by_side else 0.8, aspect=30, pad=0.02, extend="both")
    bar.set_label("Q_rob, discounted return", fontsize=8)
    bar.ax.tick_params(labelsize=8)


def _titled(name: str, documents: dict[str, Document]) -> str:
    """A key as a title: the variant's name only where the task has several."""
    task, _, variant = name.partition(BETWEEN)
    return f"{task}, {variant}" if variant and len(by_task(documents)[task]) > 1 else task


# Figure 3


def plot_action_support(documents: dict[str, Document], arrays: dict[str, Arrays]) -> plt.Figure:
    """Figure 3: a row a task. Left, boundaries of 95 % of the actions in the log's principal plane; right, ratios of support distances,
    mean over seeds, a dot a seed. The anchor is that of the task's first run."""
    tasks, paints = by_task(documents), colours(documents)
    figure, grid = plt.subplots(len(tasks), 2, figsize=(9.5, 3.7 * len(tasks)), squeeze=False, width_ratios=[3, 2], layout="constrained")
    for (task, runs), (left, right) in zip(tasks.items(), grid, strict=True):
        _boundaries(left, runs, arrays, paints)
        left.set_title(f"{task}: boundaries of 95 % of the actions", fontsize=9)
        _ratios(right, runs, paints)
        right.set_title(f"{task}: 95 % quantile of kNN distance", fontsize=9)
    legend_below(figure, list(grid[:, 0]))
    return figure


def _boundaries(axes: plt.Axes, runs: list[Run], arrays: dict[str, Arrays], paints: dict[str, str]) -> None:
    first = arrays[runs[0][0]]
    axes.scatter(*first["logged"].T, s=4, alpha=0.35, linewidths=0, color=LOGGED, rasterized=True, label="logged actions")
    _outline(axes, first["logged_boundary"], "logged", color=LOGGED, linewidth=2.2)
    _outline(axes, first["anchor_boundary"], "anchor", color=ANCHOR, linestyle=":", linewidth=2)
    for name, variant, _ in runs:
        _outline(axes, arrays[name]["ungated_boundary"], f"{variant}, ungated", color=paints[variant], linestyle="--", linewidth=1.4)
        _outline(axes, arrays[name]["policy_boundary"], variant, color=paints[variant], linewidth=1.4)
    share = 100 * runs[0][2]["plane_share"]
    axes.set_xlabel(f"first two principal directions of the logged actions ({share:.0f} % of their variance)", fontsize=8)
    axes.tick_params(labelsize=8)
    clean(axes)


def _outline(axes: plt.Axes, corners: np.ndarray, label: str, **style: Any) -> None:
    axes.plot(*np.concatenate([corners, corners[:1]]).T, label=label, **style)


def _ratios(axes: plt.Axes, runs: list[Run], paints: dict[str, str]) -> None:
    bars = [("anchor", runs[0][2], "anchor", ANCHOR, 0.9)]
    for _, variant, document in runs:
        bars += [(f"{variant}, ungated", document, "ungated", paints[variant], 0.45), (variant, document, "policy", paints[variant], 0.9)]
    for i, (_, document, policy, colour, alpha) in enumerate(bars):
        values = [one["ratio"][policy] for one in document["seeds"].values()]
        axes.barh(i, np.mean(values), color=colour, alpha=alpha, height=0.62)
        axes.scatter(values, np.full(len(values), i), s=12, color="black", zorder=3)
        axes.annotate(f"{np.mean(values):.2f}", (max(values), i), (5, 0), textcoords="offset points", va="center", fontsize=8)
    axes.axvline(1, color="black", linestyle="--", linewidth=1)
    axes.set_yticks(range(len(bars)), [textwrap.fill(label, 26) for label, *_ in bars], fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.14)
    axes.set_xlim(left=0)
    axes.set_xlabel("over the log's own (dashed: 1); dots: seeds", fontsize=8)
    axes.tick_params(axis="x", labelsize=8)
    clean(axes)


# Figure 4


def plot_action_space(documents: dict[str, Document], arrays: dict[str, Arrays]) -> plt.Figure:
    """Figure 4: how the distances in the global and in the residual action space, actions in [-1, 1], are distributed, with their 95 %
    quantiles, of the first seed; eq. 23's efficiency above."""
    figure, drawn = panels(len(documents), 3.2, 2.9)
    marks = (
        ("global", "global_diameter", "global: |x - y| of logged actions", "D_A", GLOBAL),
        ("residual", "residual_diameter", "residual: 2 |a - pi_base(s)|", "D_res", RESIDUAL),
    )
    for axes, (name, document) in zip(drawn, documents.items(), strict=True):
        own, top = arrays[name], max(float(values.max()) for values in arrays[name].values())
        first = next(iter(document["seeds"].values()))
        edges = np.linspace(0, max(top, 1e-6), 51)
        for what, field, label, _, colour in marks:
            axes.hist(own[what], bins=edges, density=True, color=colour, alpha=0.12)
            axes.hist(own[what], bins=edges, density=True, histtype="step", color=colour, linewidth=1.5, label=label)
            axes.axvline(first[field], color=colour, linestyle="--", linewidth=1.1)
        ends = ", ".join(f"{short} {first[field]:.2f}" for _, field, _, short, _ in marks)
        title = f"{_titled(name, documents)}\n{ends}\neq. 23: 10^{first['log10_efficiency']:.1f} (d = {first['dimensions']})"
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("distance; dashed: 95 % quantile", fontsize=8)
        axes.set_ylabel("density", fontsize=8)
        axes.tick_params(labelsize=8)
        clean(axes)
    legend_below(figure, drawn)
    return figure


# Figure 6


def plot_training_curves(documents: dict[str, Document], arrays: dict[str, Arrays]) -> plt.Figure:
    """Figure 6: returns during both stages, mean and 95 % interval over seeds and episodes, normalised where the task has a reference;
    the final evaluation as a diamond, the anchor's as a line."""
    tasks, paints = by_task(documents), colours(documents)
    figure, drawn = panels(len(tasks), 3.6, 2.9)
    for axes, (task, runs) in zip(drawn, tasks.items(), strict=True):
        normalised = all(document["final"] and document["final"]["normalised"] for *_, document in runs)
        for _, variant, document in runs:
            _curve(axes, document, variant, paints[variant], normalised)
        anchored = [document for *_, document in runs if document["anchor"]]
        if anchored:
            _stage_one(axes, anchored, normalised)
        axes.set_title(task, fontsize=9)
        axes.set_xlabel("updates", fontsize=8)
        axes.set_ylabel("normalised return" if normalised else "return", fontsize=8)
        axes.xaxis.set_major_formatter(thousands)
        axes.tick_params(labelsize=8)
        clean(axes)
    legend_below(figure, drawn)
    return figure


def _stage_one(axes: plt.Axes, documents: list[Document], normalised: bool) -> None:
    """The anchor's curve, once where several runs have the same; its final level and the end of the stage, those of the first run."""
    curves = {tuple(point["mean"] for point in document["points"] if point["variant"] == "anchor"): document for document in documents}
    for document in curves.values():
        _band(axes, [point for point in document["points"] if point["variant"] == "anchor"], ANCHOR, "anchor during Stage I", normalised)
    level = _interval(documents[0]["anchor"], normalised)[0]
    axes.axhline(level, color=ANCHOR, linestyle="--", linewidth=1.1, label="anchor, final evaluation")
    axes.axvline(documents[0]["boundary"], color="black", linewidth=0.8, alpha=0.5, label="Stage I ends")


def _curve(axes: plt.Axes, document: Document, variant: str, colour: str, normalised: bool) -> None:
    """The policy's, with its final evaluation."""
    _band(axes, [point for point in document["points"] if point["variant"] == "policy"], colour, variant, normalised)
    if document["final"]:
        mean, low, high = _interval(document["final"], normalised)
        ends = [[mean - low], [high - mean]]
        axes.errorbar(document["steps"], mean, yerr=ends, color=colour, marker="D", markersize=6, capsize=3, linestyle="none")
        axes.plot([], [], color="black", marker="D", markersize=6, linestyle="none", label="final evaluation")


def _band(axes: plt.Axes, points: list[Document], colour: str, label: str, normalised: bool) -> None:
    """Means as a line inside their intervals; a name for the legend even where nothing was evaluated."""
    mean, low, high = np.asarray([_interval(point, normalised) for point in points]).reshape(-1, 3).T
    steps = [point["step"] for point in points]
    axes.plot(steps, mean, color=colour, marker="o", markersize=3, linewidth=1.3, label=label)
    axes.fill_between(steps, low, high, color=colour, alpha=0.15, linewidth=0)


def _interval(point: Document, normalised: bool) -> tuple[float, float, float]:
    own = point["normalised"] if normalised else point
    return own["mean"], own["low"], own["high"]


def thousands(value: float, _: int) -> str:
    """10000 as 10k, for an axis."""
    return f"{value / 1e6:g}M" if abs(value) >= 1e6 else f"{value / 1e3:g}k" if abs(value) >= 1e3 else f"{value:g}"


PLOTS: dict[str, Callable[[dict[str, Document], dict[str, Arrays]], plt.Figure]] = {
    plot.__name__.removeprefix("plot_"): plot
    for plot in (plot_residual_distribution, plot_action_support, plot_action_space, plot_training_curves)
}
