"""The self-contained page of a run: one HTML file, pictures inside, no script, nothing fetched."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from spar import files
from spar.report import plots
from spar.report.console import interval, labels, percent, verdict
from spar.runs import auto, environment, experiment, health


def write(folder: Path) -> Path:
    """(Re)make `folder/plots/*.png` and `folder/report.html`. Raises SparError when the run has not finished."""
    experiment.asked(folder)
    summary = experiment.read_summary(folder)
    pictures = {name: base64.b64encode(path.read_bytes()).decode() for name, path in plots.draw(folder, summary).items()}
    context = {
        "summary": summary,
        "config": json.dumps(json.loads((folder / "config.json").read_bytes()), indent=2),
        "places": environment.read(folder),
        "pictures": pictures,
        "rows": _rows(summary),
        "choice": auto.sentence(summary["choice"]) if summary.get("choice") else None,
        "warnings": health.warnings(summary),
        "verdict": verdict(summary) if summary["intervals"] else None,
        "accepts": percent(summary["gate"]["acceptance"]) if summary["gate"] else None,
        "offline": _offline(summary),
        "behaviour": _behaviour(summary["returns"]["behaviour"]),
        "policy": (folder / "policy").as_posix(),
    }
    loader = jinja2.PackageLoader("spar.report", "templates")
    template = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined).get_template("report.html")
    path = folder / "report.html"
    files.write_text(path, template.render(context))
    return path


def _rows(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """One entry a policy for the page's main table."""
    if summary["intervals"] is None:
        return []
    normalised = summary["normalised"] or {}
    return [
        {
            "label": label,
            "score": normalised.get(key),
            "mean": summary["intervals"][key]["mean"],
            "interval": interval(summary, summary["intervals"][key]),
        }
        for key, label in labels(summary).items()
        if key in summary["intervals"]
    ]


def _offline(summary: dict[str, Any]) -> dict[str, float]:
    """Means over seeds."""
    rows = list(summary["offline"]["seeds"].values())
    return {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}


def _behaviour(returns: list[float]) -> dict[str, float] | None:
    if not returns:
        return None
    return {"mean": float(np.mean(returns)), "best": max(returns), "q90": float(np.quantile(returns, 0.9)), "episodes": len(returns)}
