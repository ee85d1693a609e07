"""The pictures and the text of a diagnosis, from what it left in the run directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from spar import files
from spar.report import plots
from spar.runs import diagnose
from spar.runs.diagnose import Points

POLICIES = {"anchor": "anchor", "ungated": "SPAR ungated", "policy": "SPAR"}


def write(run: Path) -> tuple[str, dict[str, Path]]:
    """(Re)make `diagnosis/diagnosis.txt` and `diagnosis/*.png`; returns the text and the pictures' paths by name. Pictures show the first
    seed. Raises SparError where the run has no diagnosis."""
    document, points = diagnose.read(run)
    folder, first = run / diagnose.FOLDER, next(iter(document["seeds"].values()))
    text = tell(document)
    files.write_text(folder / "diagnosis.txt", text)
    figures = {
        "geometry": geometry(first["geometry"], points),
        "support": support(first["support"], points),
        "calibration": calibration(first["calibration"], points),
        "gate": gate(first["gate"]),
    }
    paths = {}
    for name, figure in figures.items():
        paths[name] = folder / f"{name}.png"
        plots.save(figure, paths[name])
    return text, paths


def tell(document: dict[str, Any]) -> str:
    """The measures of every seed, and the recommendation with its reasons."""
    data = document["dataset"]
    lines = [
        f"{document['algo']} on {data['name']} ({data['transitions']:,} transitions, {data['fingerprint']}), {document['measured_on']}"
    ]
    for seed, found in document["seeds"].items():
        lines += ["", f"seed {seed}", *_geometry_lines(found["geometry"]), *_support_lines(found["support"])]
        lines += [*_conflict_lines(found["conflict"]), *_calibration_lines(found["calibration"]), *_gate_lines(found["gate"])]
    trained = "" if document["recommended"] == document["algo"] else f" (this run trained {document['algo']})"
    lines += ["", f"by its residuals' geometry: {document['recommended']}{trained}"]
    lines += [f"  seed {seed}: {'; '.join(found['geometry']['reasons'])}" for seed, found in document["seeds"].items()]
    return "\n".join(lines) + "\n"


def _row(label: str, value: str, note: str = "") -> str:
    return f"  {label:<34}{value:>12}  {note}".rstrip()


def _number(value: float | None, form: str = ".2f") -> str:
    return "-" if value is None else format(value, form)


def _percent(value: float) -> str:
    return f"{100 * value:.0f} %"


def _geometry_lines(found: dict[str, Any]) -> list[str]:
    clusters = "with " + ", ".join(map(_percent, found["clusters"])) + " of them" if len(found["clusters"]) > 1 else ""
    efficiency = f"of the actions' own about their mean; eq. 23's dominant term is 10^{found['log10_efficiency']:.1f}"
    return [
        _row("delta_rho (eq. 3)", _number(found["delta_rho"], ".3f"), "actions in [-1, 1]"),
        _row("residual radius", _percent(found["contraction"]), efficiency),
        _row("effective directions", _number(found["effective_directions"], ".1f"), f"of {len(found['spectrum'])}"),
        _row("neighbour distance", _number(found["filling"]), "of a structureless cloud's"),
        _row("tail of neighbour distances", _number(found["tail"]), f"a structureless cloud's: {found['expected_tail']:.2f}"),
        _row("density clusters", str(len(found["clusters"])), clusters),
    ]


def _support_lines(found: dict[str, Any]) -> list[str]:
    return [
        _row(f"support distance, {label}", _number(found["ratio"][name]), "of the log's own (95 % quantile of kNN distance)")
        for name, label in POLICIES.items()
    ]


def _conflict_lines(found: dict[str, Any] | None) -> list[str]:
    if found is None:
        return [_row("gradient conflict", "-", "no value guidance")]
    names = {"alone": "one step of guidance alone", "in_training": "guidance's part in training"}
    return [
        _row(
            f"{measure.upper()}, {label}",
            _number(found[name][measure], ".1e"),
            f"positive in {_percent(found[name]['opposing_share'])}" * sign,
        )
        for name, label in names.items()
        for measure, sign in (("dd", 1), ("vsd", 0))
    ]


def _calibration_lines(found: dict[str, Any]) -> list[str]:
    labels = {"returns": "Q_rob orders logged returns", "gains": "predicted gain orders real gain"}
    lines = []
    for name, pair in found.items():
        note = f"rank correlation over {pair['points']} steps"
        if name == "gains" and pair["points"]:
            if pair["interval"]:
                note += f" [{pair['interval'][0]:.2f}, {pair['interval'][1]:.2f}]"
            note += f"; mean predicted {pair['predicted_mean']:.3g}, real {pair['real_mean']:.3g}"
            note += f", positive in {_percent(pair['real_positive_share'])}"
        lines.append(_row(labels[name], _number(pair["rank_correlation"]), note))
    return lines


def _gate_lines(found: dict[str, Any]) -> list[str]:
    lines = [_row("gate defers, logged states", _percent(found["states"]["deferring_share"]))]
    if "episodes" in found:
        own = found["episodes"]
        note = "of the steps of its own episodes"
        lines.append(_row("gate defers, episodes", _percent(own["deferring_share"]), note))
        if own["return_deferring_less"] is not None:
            note = f"rank correlation of share and return {_number(own['rank_correlation'])}"
            lines.append(_row("return, half that defers less", _number(own["return_deferring_less"], ".1f"), note))
            lines.append(_row("return, half that defers more", _number(own["return_deferring_more"], ".1f")))
        for name, come in own["to_go"].items():
            if come:
                note = f"{come['above_same_step']:+.1f} beside all episodes at the same step"
                lines.append(_row(f"return to come, {name} steps", _number(come["mean"], ".1f"), note))
    return lines


def geometry(found: dict[str, Any], points: Points) -> plt.Figure:
    """Residuals in their principal plane by cluster; radii with delta_rho; spectrum; neighbour distances beside a structureless cloud's."""
    figure, ((cloud, radii), (spectrum, near)) = plt.subplots(2, 2, figsize=(10, 7))
    residuals, labels = points["geometry_residuals"], points["geometry_labels"].astype(int)
    plane = _plane(residuals)
    for label in np.unique(labels):
        colour, name = (
            ("#bbbbbb", "in none")
            if label < 0
            else (f"C{label % 10}", f"cluster {label + 1}" if labels.max() else "core of the one cluster")
        )
        cloud.scatter(*plane(residuals[labels == label]).T, s=4, alpha=0.5, linewidths=0, color=colour, label=name)
    if len(np.unique(labels)) <= 8:
        cloud.legend(frameon=False, fontsize=8, markerscale=3)
    cloud.set_title("residuals, first two principal directions", fontsize=9)
    radii.hist(np.linalg.norm(residuals, axis=1), bins=50, color=plots.COLOURS["policy"], alpha=0.7)
    for name, colour in (("delta_rho", plots.COLOURS["anchor"]), ("action_radius", "black")):
        radii.axvline(found[name], color=colour, linestyle="--", linewidth=1, label=f"{name.replace('_', ' ')} {found[name]:.2f}")
    radii.legend(frameon=False, fontsize=8)
    radii.set_title("length of the residuals", fontsize=9)
    spectrum.bar(range(1, len(found["spectrum"]) + 1), found["spectrum"], color=plots.COLOURS["policy"])
    spectrum.set_title("shares of the residuals' variance by direction", fontsize=9)
    for name, label in (("geometry_distances", "residuals"), ("geometry_expected_distances", "structureless cloud")):
        values = np.sort(points[name])
        near.plot(values, np.linspace(0, 1, len(values)), label=label)
    near.legend(frameon=False, fontsize=8)
    near.set_title("distance to the 5th nearest residual, share of residuals below", fontsize=9)
    for axes in (cloud, radii, spectrum, near):
        _clean(axes)
    figure.tight_layout()
    return figure


def support(found: dict[str, Any], points: Points) -> plt.Figure:
    """Figure 3: logged and chosen actions in the log's principal plane, with a circle around 95 % of the logged; and the ratios."""
    figure, (cloud, bars) = plt.subplots(1, 2, figsize=(10, 4), width_ratios=[2, 1])
    logged = points["support_logged"]
    plane = _plane(logged)
    flat = plane(logged)
    cloud.scatter(*flat.T, s=4, alpha=0.3, linewidths=0, color=plots.COLOURS["behaviour"], label="logged")
    for name in ("anchor", "policy"):
        cloud.scatter(*plane(points[f"support_{name}"]).T, s=4, alpha=0.3, linewidths=0, color=plots.COLOURS[name], label=POLICIES[name])
    radius = float(np.quantile(np.linalg.norm(flat, axis=1), 0.95))
    cloud.add_patch(plt.Circle((0, 0), radius, fill=False, linestyle="--", linewidth=1, label="95 % of the logged"))
    cloud.legend(frameon=False, fontsize=8, markerscale=3)
    cloud.set_title("actions, first two principal directions of the log", fontsize=9)
    bars.bar(list(POLICIES.values()), [found["ratio"][name] for name in POLICIES], color=[plots.COLOURS[name] for name in POLICIES])
    bars.axhline(1.0, color="black", linestyle="--", linewidth=1)
    bars.set_title("95 % quantile of kNN distance, log = 1", fontsize=9)
    for axes in (cloud, bars):
        _clean(axes)
    figure.tight_layout()
    return figure


def calibration(found: dict[str, Any], points: Points) -> plt.Figure:
    """What the critics predicted against what came."""
    titles = {"returns": "Q_rob of logged actions, discounted return that followed", "gains": "predicted gain, real gain"}
    figure, grid = plt.subplots(1, len(found), figsize=(5 * len(found), 4), squeeze=False)
    for axes, (name, pair) in zip(grid.flat, found.items(), strict=True):
        axes.scatter(points[f"{name}_predicted"], points[f"{name}_real"], s=8, alpha=0.4, linewidths=0, color=plots.COLOURS["policy"])
        axes.set_title(f"{titles[name]}\nrank correlation {_number(pair['rank_correlation'])}", fontsize=9)
        axes.set_xlabel("predicted")
        axes.set_ylabel("real")
        if name == "gains":
            axes.axhline(0, color="black", linewidth=0.8)
        _clean(axes)
    figure.tight_layout()
    return figure


def gate(found: dict[str, Any]) -> plt.Figure:
    """Return of each episode against the share of its steps that defers; without episodes, the reasons on logged states."""
    figure, axes = plt.subplots(figsize=(6, 3.4))
    if "episodes" in found:
        own = found["episodes"]
        axes.scatter(100 * np.asarray(own["episode_deferring_share"]), own["episode_return"], color=plots.COLOURS["policy"])
        axes.set_xlabel("gate defers, % of the episode's steps")
        axes.set_ylabel("return")
    else:
        reasons = found["states"]["reasons"]
        axes.barh(list(reasons), [100 * share for share in reasons.values()], color=plots.COLOURS["policy"])
        axes.set_xlabel("% of logged states")
    _clean(axes)
    return figure


def _plane(points: np.ndarray) -> Any:
    """The projection (n, A) -> (n, 2) on the first two principal directions of `points`, about their mean."""
    centre = points.mean(0)
    directions = np.linalg.svd(points - centre, full_matrices=False)[2][:2]
    return lambda x: np.pad((x - centre) @ directions.T, ((0, 0), (0, 2 - len(directions))))


def _clean(axes: plt.Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)
