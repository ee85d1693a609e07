"""Latency of one decision and memory of the process that makes it (Table 11), each in a fresh process that does nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from spar.data.episodes import Log
from spar.runs import environment
from spar.studies.measure_run import Arrays, Document, opened
from spar.types import SparError

STEPS = 1500  # the paper's
CHILD = "spar.studies.measure_latency_child"


def latency(
    run: Path, log: Log, steps: int = STEPS, warm_up: int = 100, engines: Sequence[str] = ("deployed", "jax")
) -> tuple[Document, Arrays]:
    """Table 11: milliseconds from an observation to its action at batch size 1, over `steps` logged observations after `warm_up` others.

    deployed: `deploy.load` and `Policy.act`, NumPy alone. jax: the run's last checkpoint through the algorithm's `act`, jitted, with the
    observation brought to the device and the action back. For the first seed and each engine: mean, median and quantiles in `ms`, seconds
    to `load` (JAX's import counted), peak resident memory in MiB from the start of its process, and whether JAX was loaded there. And the
    `machine` that this was measured on.
    Raises SparError when a process fails.
    """
    found = opened(run, log, gated=False)
    seed, _ = found.first
    index = np.random.default_rng(0).integers(len(log), size=warm_up + steps)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "observations.npy"
        np.save(path, log.observations[log.obs_index[index]].astype(np.float32), allow_pickle=False)
        rows = {engine: _measure(engine, run, seed, path, warm_up) for engine in engines}
    return found.document(steps=steps, batch=1, machine=environment.describe()["machine"], seeds={str(seed): rows}), {}


def _measure(engine: str, run: Path, seed: int, observations: Path, warm_up: int) -> Document:
    command = [sys.executable, "-m", CHILD, engine, str(run), str(seed), str(observations), str(warm_up)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        why = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise SparError(f"{run}: the process that measures '{engine}' failed ({why})")
    return dict(json.loads(done.stdout.splitlines()[-1]))
