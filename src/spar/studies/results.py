"""The result document of a study: everything its table, its claims and its page are made from, and where each number came from.

study, title, source, about, notes, command, budget, steps, seeds, commits, versions, machine, peak_memory_mib
tasks      name -> paper (abbreviation), regime, env, reference, episodes, fingerprint, transitions, behaviour
cells      one for each task, row and column, see `score_cell`, `measured_cell` and `quoted_cell`
measured   measurement -> column -> task -> document, where the study keeps it
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from spar import files, registry, trainer
from spar.data.episodes import Log
from spar.evaluate import scores, stats
from spar.runs import environment, experiment, tables
from spar.runs.outcome import describe_log
from spar.studies import claims
from spar.studies.grid import Study, Task, Variant
from spar.types import SparError

Cell = dict[str, Any]
SCORE, RETURN = "score", "return"
THIRD_QUARTER = (0.5, 0.75)  # of the stages that train the policy


def task_entry(task: Task, log: Log, env: str | None, episodes: int) -> dict[str, Any]:
    """What the document says of a task."""
    reference = scores.reference(env)
    behaviour = float(log.returns.mean()) if log.returns.size else None
    return {
        "paper": task.paper,
        "regime": task.regime,
        "env": env,
        "reference": None if reference is None else list(reference),
        "episodes": episodes,
        **{key: value for key, value in describe_log(log).items() if key in ("fingerprint", "transitions")},
        "behaviour": behaviour if behaviour is None else _scaled(behaviour, reference),
    }


def _empty(study: Study, task: Task, row: str, column: str) -> Cell:
    return {
        "task": task.name,
        "row": row,
        "column": column,
        "paper": study.printed(task, row, column),
        "run": None,
        "algo": None,
        "edits": {},
        "shows": None,
        "failed": None,
        "unit": None,
        "reference": None,
        "returns": None,
        "samples": None,
        "value": None,
        "seeds": None,
        "others": {},
        "acceptance": None,
        "seconds": None,
        "curve": [],
        "late": None,
        "collapsed": [],
        "moving": [],
    }


def _course(run: Path, reference: tuple[float, float] | None) -> dict[str, Any]:
    """How a run's training went. curve: [step since the start, who acted, mean, low, high] of each evaluation during training. late: by
    how much the policy's return changed from the third quarter of its training to its end (mean, low, high), None where too few
    evaluations can tell. collapsed, moving: the seeds whose latent carries almost nothing, and whose critics had not settled when Stage I
    ended."""
    summary, (found, last_stage) = experiment.read_summary(run), evaluations(run)
    points = []
    for (step, acted), rows in sorted(found.items()):
        points.append([step, acted, *_interval(stats.bootstrap(rows), reference).values()])
    return {
        "curve": points,
        "late": _late(found, last_stage, reference),
        "collapsed": (summary["latent"] or {}).get("collapsed_seeds", []),
        "moving": (summary["critics"] or {}).get("moving_seeds", []),
    }


def evaluations(run: Path) -> tuple[dict[tuple[int, str], np.ndarray], int]:
    """Those during training: returns (S, E) by the step since the start and by who acted, from equal start states each time; and the step
    at which the last stage began."""
    cfg = experiment.read_config(run)
    steps = trainer.stage_steps(registry.get(cfg.algo), cfg.steps_anchor, cfg.steps_residual)
    found: dict[tuple[int, str], dict[str, list[float]]] = {}
    for stage, _, at, seed, acted, _, value in tables.read(run / "returns.csv", tables.RETURNS_HEADER):
        found.setdefault((sum(steps[: int(stage)]) + int(at), acted), {}).setdefault(seed, []).append(float(value))
    return {key: np.asarray(list(rows.values())) for key, rows in found.items()}, sum(steps[:-1])


def _late(found: Mapping[tuple[int, str], np.ndarray], before: int, reference: tuple[float, float] | None) -> dict[str, float] | None:
    """Paired: the last evaluation of the policy minus the mean of those in the third quarter of its last stage, which begins at the step
    `before`: only there does what acts learn (Onestep's critic has a stage of its own)."""
    last = max((step for step, acted in found if acted == "policy" and step > before), default=before)
    low, high = (before + share * (last - before) for share in THIRD_QUARTER)
    third = [rows for (step, acted), rows in found.items() if acted == "policy" and low < step <= high and step < last]
    if not third or found[last, "policy"].size < 2:
        return None
    interval, _ = claims.joint([found[last, "policy"], np.mean(third, axis=0)], claims.difference)
    unit = 1.0 if reference is None else 100.0 / (reference[1] - reference[0])
    return {key: float(unit * value) for key, value in interval._asdict().items()}


def quoted_cell(study: Study, task: Task, row: str, column: str) -> Cell:
    """A number of the paper that no run here stands against."""
    return _empty(study, task, row, column)


def score_cell(study: Study, task: Task, variant: Variant, run: Path, root: Path, failed: str) -> Cell:
    """What a run says of a variant.

    returns: [seed][episode] of the final evaluation, raw. unit: `score` where the task has a reference, the (random, expert) returns in
    `reference`, else `return`; in that unit are `value` (mean, low, high: 95 % interval), `seeds` (a mean each), `others` (means of the
    log's behaviour, the anchor, and SPAR ungated). acceptance: of the gate, mean over seeds. seconds: of training. failed: why there is
    none of that, else None. Further, what `_course` finds.
    """
    cell = _empty(study, task, variant.row, variant.column) | {
        "run": str(run.relative_to(root)),
        "algo": variant.algo,
        "edits": {key: _plain(value) for key, value in variant.edits.items()},
        "shows": variant.shows,
    }
    if failed:
        return cell | {"failed": failed.replace(f"{root}/", "")}
    summary = experiment.read_summary(run)
    returns = summary["returns"][variant.shows]
    if returns is None:
        why = "no environment to evaluate in" if summary["env"] is None else f"{variant.algo} has no {variant.shows}"
        return cell | {"failed": why}
    reference = scores.reference(summary["env"])
    others = {name: interval["mean"] for name, interval in summary["intervals"].items() if name in ("behaviour", "anchor", "ungated")}
    return cell | {
        "unit": RETURN if reference is None else SCORE,
        "reference": None if reference is None else list(reference),
        "returns": returns,
        "value": _interval(stats.Interval(**summary["intervals"][variant.shows]), reference),
        "seeds": [_scaled(float(np.mean(row)), reference) for row in returns],
        "others": {name: _scaled(mean, reference) for name, mean in others.items()},
        "acceptance": float(np.mean(summary["gate"]["acceptance"])) if summary["gate"] else None,
        "seconds": sum(value for key, value in summary["seconds"].items() if key not in ("evaluation", "total")),
        **_course(run, reference),
    }


def measured_cell(study: Study, task: Task, found: Mapping[str, Any], variant: Variant, run: Path, root: Path) -> Cell:
    """A cell that a measurement on a run has found: `returns` as in `score_cell`, or `samples` [seed][...] in the unit that it names."""
    cell = _empty(study, task, found["row"], found["column"]) | {
        "run": str(run.relative_to(root)),
        "algo": variant.algo,
        "edits": {key: _plain(value) for key, value in variant.edits.items()},
        **found,
    }
    reference = scores.reference(experiment.read_summary(run)["env"])
    cell |= _course(run, reference)
    if cell["returns"] is not None:
        cell |= {"unit": RETURN if reference is None else SCORE, "reference": None if reference is None else list(reference)}
    values = claims.samples(cell)
    if values is None:
        return cell | {"failed": cell["failed"] or "nothing to measure"}
    if cell["value"] is None:
        cell["value"] = {key: float(number) for key, number in stats.bootstrap(values)._asdict().items()}
    return cell | {"seeds": values.mean(1).tolist()}


def surroundings(runs: list[Path]) -> dict[str, Any]:
    """Commits, versions, machine and peak memory of finished runs."""
    where = [place for run in runs for place in environment.read(run)]
    summaries = [experiment.read_summary(run) for run in runs]
    return {
        "commits": sorted({one["commit"] or "unknown" for one in where}),
        **environment.combined(where),
        "peak_memory_mib": max((summary["peak_memory_mib"] for summary in summaries), default=None),
    }


def write(path: Path, document: dict[str, Any]) -> None:
    """As JSON, a cell a line. Raises ValueError for a NaN or an infinity."""
    fields = []
    for key, value in document.items():
        if key == "cells":
            lines = ",\n".join(f"  {json.dumps(cell, ensure_ascii=False, allow_nan=False)}" for cell in value)
            fields.append(f' "cells": [\n{lines}\n ]')
        else:
            fields.append(f" {json.dumps(key)}: {json.dumps(value, ensure_ascii=False, allow_nan=False)}")
    files.write_text(path, "{\n" + ",\n".join(fields) + "\n}\n")


def read(path: Path) -> dict[str, Any]:
    """Raises SparError for a file that is no result document, or bears another study's name."""
    try:
        document = dict(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise SparError(f"{path}: is not JSON ({error}); make it again with `spar study {path.stem}`") from None
    lacking = {"study", "cells", "tasks", "measured", "command"} - document.keys()
    if not lacking and document["cells"]:
        lacking = {"late", "seeds", "samples"} - document["cells"][0].keys()
    if lacking:
        raise SparError(f"{path}: has no '{min(lacking)}'; make it again with `spar study {path.stem}`")
    if document["study"] != path.stem:
        raise SparError(f"{path}: is the result of '{document['study']}'; give it its own name back")
    return document


def _scaled(value: float, reference: tuple[float, float] | None) -> float:
    return value if reference is None else 100.0 * (value - reference[0]) / (reference[1] - reference[0])


def _interval(interval: stats.Interval, reference: tuple[float, float] | None) -> dict[str, float]:
    return {key: float(_scaled(value, reference)) for key, value in interval._asdict().items()}


def _plain(value: Any) -> Any:
    """JSON has no infinities."""
    return str(value) if isinstance(value, float) and not np.isfinite(value) else value
