"""Where studies keep their runs, so that each is trained once: RUNS/BUDGET/TASK/RUN, with what runs share of Stage I beside them.

`spar compare TASK --out RUNS/BUDGET/TASK` makes and finds the same runs. What is measured on a run lies in RUN/measured; deleting a run, or
one measurement, makes the next study redo just that.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from spar import files
from spar.data.episodes import Log
from spar.runs import cache, compare, environment
from spar.runs.config import RunConfig
from spar.runs.listener import Listener
from spar.types import SparError

MEASURED = "measured"
PACKAGES = ("scikit-learn", "scipy")  # that measure, beside those that train
MEASURING = (  # the sources that a measurement runs through
    *("types.py", "nets.py", "ops.py", "trainer.py", "data", "method", "baselines", "evaluate", "deploy", "diagnose"),
    *("runs/auto.py", "runs/checkpoint.py", "runs/config.py", "runs/outcome.py", "runs/rows.py", "runs/tables.py"),
    *("studies/measure.py", "studies/measure_actions.py", "studies/measure_latency.py"),
    *("studies/measure_latency_child.py", "studies/measure_run.py", "studies/study_scores.py"),
)


@dataclass(frozen=True)
class Store:
    """The runs of one budget."""

    root: Path  # RUNS
    budget: str

    def folder(self, task: str) -> Path:
        return self.root / self.budget / task

    def train(self, task: str, cfgs: Mapping[str, RunConfig], log: Log, listener: Listener) -> dict[str, str]:
        """Train what is not finished yet of the named runs on `log`; returns why each that failed did.

        Raises SparError where a run there began with other settings or another log.
        """
        return {name: why for name, why in compare.execute(self.folder(task), cfgs, log, listener, "--runs") if why}


def measured(
    run: Path,
    name: str,
    measure: Callable[..., tuple[dict[str, Any], dict[str, Any]]],
    log: Log,
    settings: Mapping[str, Any],
    *,
    machine: bool = False,
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What `measure(run, log, **settings)` finds on a finished run: kept in RUN/measured/NAME-HASH.json and .npz, and read from there. The
    hash is of the settings, of the sources and the versions of the packages that measure, and, where it says so, of the machine.

    Raises SparError for a file there that cannot be read.
    """
    here = environment.describe()
    versions = {**here["versions"], **{package: environment.version(package) for package in PACKAGES}}
    asked = {"settings": {key: settings[key] for key in sorted(settings)}, "versions": versions}
    asked |= {"machine": here["machine"]} if machine else {}
    text = json.dumps(asked, default=str) + cache.code(*MEASURING)
    place = run / MEASURED / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"
    document_path, arrays_path = place.with_suffix(".json"), place.with_suffix(".npz")
    if document_path.is_file():
        return _read(document_path, arrays_path)
    document, arrays = measure(run, log, **settings)
    place.parent.mkdir(exist_ok=True)
    if arrays:
        temporary = arrays_path.with_name(f".{arrays_path.name}.tmp.npz")
        np.savez_compressed(temporary, allow_pickle=False, **arrays)
        temporary.replace(arrays_path)
    files.write_json(document_path, document)  # last: where it is, the arrays are
    return document, arrays


def _read(document_path: Path, arrays_path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    try:
        document = dict(json.loads(document_path.read_text()))
        if not arrays_path.is_file():
            return document, {}
        with np.load(arrays_path, allow_pickle=False) as stored:
            return document, dict(stored)
    except (ValueError, OSError) as error:
        raise SparError(f"{document_path}: cannot be read ({error}); delete it to measure again") from None
