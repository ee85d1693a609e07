"""A comparison as a table, pictures and a self-contained page, made from the files in its folder."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import jinja2
import matplotlib.pyplot as plt
import numpy as np

from spar import files, registry, trainer
from spar.data import rules
from spar.evaluate import stats
from spar.report.console import Display, percent
from spar.report.plots import COLOURS, Curve, save
from spar.runs import compare, experiment, tables

ANCHOR_COLOUR = "#222222"
FEW_SEEDS = 5
SIZES = {
    "equal": "layers of equal width for all (SPAR has ten critics, its competitors as many as they publish)",
    "as published": "layers as published",
}
THRESHOLDS, BANDS = 101, 6  # of a performance profile; of algorithms whose bands can be told apart
PAGE = "comparison.html"


class Board(Display):
    """One line for the run that is being trained; the lines of finished ones make room."""

    def stage(self, name: str, done: int, total: int) -> None:
        if self.task is not None:
            self.bars.update(self.task, visible=False)
        super().stage(name, done, total)


def write(folder: Path) -> Path:
    """(Re)make comparison.md, plots/*.png and comparison.html from comparison.json and the run directories; returns the page's path."""
    document = compare.read(folder)
    summaries = {row["run"]: experiment.read_summary(folder / row["run"]) for row in document["rows"] if "run" in row}
    header, rows = table(document)
    files.write_text(folder / "comparison.md", markdown(document, header, rows))
    made = {"learning-curves": learning_curves(folder, summaries)}
    if document["episodes"]:
        made["profiles"] = profiles(summaries, document)
    paths = _save({name: figure for name, figure in made.items() if figure}, folder / "plots")
    loader = jinja2.PackageLoader("spar.report", "templates")
    template = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined).get_template("comparison.html")
    context = {
        "document": document,
        "header": header,
        "rows": rows,
        "notes": notes(document),
        "pictures": {name: base64.b64encode(path.read_bytes()).decode() for name, path in paths.items()},
    }
    path = folder / PAGE
    files.write_text(path, template.render(context))
    return path


def table(document: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and cells. Without an environment: what the log can tell."""
    if not document["episodes"]:
        return ["", "action error", "gate accepts", "training time"], [
            [row["label"], f"{row['action_rmse']:.4f}", "" if row["acceptance"] is None else percent([row["acceptance"]]), _time(row)]
            for row in document["rows"]
        ]
    has_scores = any(row["normalised"] is not None for row in document["rows"])
    header = ["", "return", "95 % interval", "IQM", f"P(better than {document['base']})", "normalised", "training time"]
    wanted = [True, True, True, True, document["base"] is not None, has_scores, True]
    rows = []
    for row in document["rows"]:
        better = row.get("improvement")
        cells = [
            row["label"],
            f"{row['mean']:.1f}",
            f"[{row['low']:.1f}, {row['high']:.1f}]",
            f"{row['iqm']:.1f}",
            f"{better['mean']:.2f} [{better['low']:.2f}, {better['high']:.2f}]" if better else "",
            "" if row["normalised"] is None else f"{row['normalised']:.1f}",
            _time(row),
        ]
        rows.append([cell for cell, is_wanted in zip(cells, wanted, strict=True) if is_wanted])
    return [title for title, is_wanted in zip(header, wanted, strict=True) if is_wanted], rows


def notes(document: dict[str, Any]) -> list[str]:
    """What a reader must know beside the numbers."""
    dataset, steps, seeds = document["dataset"], document["steps"], document["seeds"]
    found = [
        f"Dataset {dataset['name']} ({dataset['fingerprint']}), {steps['anchor']:,} + {steps['residual']:,} updates for every algorithm, "
        f"{SIZES[document['network_sizes']]}, last checkpoint, "
        f"seeds {', '.join(map(str, seeds))}, commit {', '.join(commit[:12] for commit in document['commits'])}.",
    ]
    if document["episodes"]:
        scope = "the episodes of one seed: the spread between seeds is not in them" if len(seeds) == 1 else "seeds and start states"
        few = " Of few seeds such an interval is too narrow." if 1 < len(seeds) < FEW_SEEDS else ""
        found.append(
            f"{document['env']}, {document['episodes']} episodes a seed, the same start states for all. Intervals are 95 % bootstrap "
            f"intervals over {scope}.{few} IQM: mean of the middle half of all episodes. P(better): how often an episode returns more than "
            "one of the other, ties half (Agarwal et al. 2021). The log's own returns compare only where its episodes last as long."
        )
    else:
        found.append(f"No return was measured: no environment was named (--env). Action errors are measured on {document['measured_on']}.")
    limit = rules.evaluation(document["env"] or "").get("max_episode_steps")
    if limit:
        found.append(f"Evaluation ends an episode after {limit} steps, as D4RL's does.")
    if document["episodes"] and document["base"] is None:
        found.append("No improvement is given: that is one over the anchor of SPAR, or over bc, and neither is among them.")
    if any("shared" in row.get("seconds", {}) for row in document["rows"]):
        found.append("Shared time: the stage was trained once, by an earlier row, with the same outcome to the bit.")
    return found + [f"{algo} did not finish: {why}" for algo, why in document["failed"].items()]


def markdown(document: dict[str, Any], header: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(cells) + " |" for cells in [header, ["---", *["---:"] * (len(header) - 1)], *rows]]
    return "\n".join([*lines, "", f"`{document['command']}`", "", "\n\n".join(notes(document))]) + "\n"


def learning_curves(folder: Path, summaries: dict[str, dict[str, Any]]) -> plt.Figure | None:
    """Mean return during training over seeds and episodes, at the end that of the final evaluation; dashed before the stage that trains the
    policy. None where nothing was evaluated."""
    figure, axes = plt.subplots(figsize=(8, 4.2))
    for (algo, summary), colour in zip(summaries.items(), _colours(len(summaries)), strict=True):
        steps = trainer.stage_steps(registry.get(summary["algo"]), summary["steps"]["anchor"], summary["steps"]["residual"])
        curves: dict[bool, Curve] = {False: {}, True: {}}  # by whether the policy is being trained
        for stage, _, step, _, _, _, value in tables.read(folder / algo / "returns.csv", tables.RETURNS_HEADER):
            curves[int(stage) == len(steps) - 1].setdefault(sum(steps[: int(stage)]) + int(step), []).append(float(value))
        if curves[True] or curves[False]:
            curves[True][sum(steps)] = np.ravel(summary["returns"]["policy"]).tolist()
        for trained, curve in curves.items():
            x = sorted(curve)
            style = {"marker": "o", "markersize": 3} if trained else {"linewidth": 0.9, "linestyle": "--"}
            axes.plot(x, [np.mean(curve[step]) for step in x], color=colour, label=algo if trained else None, **style)
    if not any(len(line.get_xdata()) for line in axes.lines):
        plt.close(figure)
        return None
    axes.set_xlabel("updates (dashed: before the stage that trains the policy)")
    axes.set_ylabel("return, mean of seeds and episodes")
    _legend(axes)
    return figure


def profiles(summaries: dict[str, dict[str, Any]], document: dict[str, Any]) -> plt.Figure:
    """Share of episodes that return more than a threshold, with pointwise 95 % intervals, of more than BANDS algorithms of SPAR's and the
    anchor alone: bands of all would hide each other. The log's own episodes have none."""
    returns = {algo: np.asarray(summary["returns"]["policy"]) for algo, summary in summaries.items()}
    logged = np.asarray(next(iter(summaries.values()))["returns"]["behaviour"], np.float64)
    everything = np.concatenate([logged, *(values.ravel() for values in returns.values())])
    thresholds = np.linspace(everything.min(), everything.max(), THRESHOLDS)
    figure, axes = plt.subplots(figsize=(8, 4.2))
    for (algo, values), colour in zip(returns.items(), _colours(len(returns)), strict=True):
        _profile(axes, values, thresholds, algo, colour, band=len(returns) <= BANDS or bool(summaries[algo]["gate"]))
    anchored = next((s for s in summaries.values() if s["returns"]["anchor"] is not None), None)
    if anchored:
        _profile(axes, np.asarray(anchored["returns"]["anchor"]), thresholds, document["base"], ANCHOR_COLOUR)
    if logged.size:
        share = (logged[:, None] > thresholds).mean(0)
        axes.plot(thresholds, share, color=COLOURS["behaviour"], linestyle=":", label="logged behaviour")
    axes.set_xlabel("return")
    axes.set_ylabel("share of episodes above it")
    _legend(axes)
    return figure


def _profile(axes: plt.Axes, values: np.ndarray, thresholds: np.ndarray, label: str, colour: Any, band: bool = True) -> None:
    profile = stats.performance_profile(values, thresholds)
    axes.plot(thresholds, profile.share, color=colour, label=label)
    if band:
        axes.fill_between(thresholds, profile.low, profile.high, color=colour, alpha=0.12, linewidth=0)


def _legend(axes: plt.Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _save(figures: dict[str, plt.Figure], folder: Path) -> dict[str, Path]:
    folder.mkdir(exist_ok=True)
    paths = {name: folder / f"{name}.png" for name in figures}
    for name, figure in figures.items():
        save(figure, paths[name])
    return paths


def _colours(count: int) -> list[Any]:
    return [plt.get_cmap("tab20" if count > 10 else "tab10")(i) for i in range(count)]


def _time(row: dict[str, Any]) -> str:
    """Of training alone, without evaluation."""
    if "seconds" not in row:
        return ""
    own = sum(value for key, value in row["seconds"].items() if key not in ("evaluation", "total", "shared"))
    return f"{own:.0f} s" + (f" + {row['seconds']['shared']:.0f} s shared" if "shared" in row["seconds"] else "")
