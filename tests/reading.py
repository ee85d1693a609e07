"""Reads files in another process, with little memory and little time, and says what came of each: for files that mean harm.

A child is started with a format's reader and a limit on the memory it may add to what it starts with; it is told paths, a line each, and
answers a line of JSON each. A crash or a hang is an answer as well: the parent then starts another child.
"""

from __future__ import annotations

import importlib
import json
import os
import select
import subprocess
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from spar.types import SparError

FORMATS = {  # format -> the module that reads it
    "hdf5": "spar.data.sources.d4rl",
    "npz": "spar.data.sources.npz",
    "csv": "spar.data.sources.tables",
    "parquet": "spar.data.sources.tables",
    "minari": "spar.data.sources.minari",
}
MEMORY = 256 << 20  # bytes
SECONDS = 20.0  # after which a reader counts as hung


class Reader:
    """A child process that reads with little memory; `read(format, path, strict)` is what became of it."""

    def __init__(self, kinds: Iterable[str] = FORMATS) -> None:
        self.kinds, self.child = list(kinds), None

    def read(self, kind: str, path: Path, strict: bool = True) -> dict[str, Any]:
        """`outcome` is log, SparError, another exception's name, crash or hang; `message` what it said."""
        child = self._child()
        assert child.stdin is not None and child.stdout is not None
        child.stdin.write(json.dumps([kind, str(path), strict]).encode() + b"\n")
        child.stdin.flush()
        if not select.select([child.stdout], [], [], SECONDS)[0]:
            self.close()
            return {"outcome": "hang", "message": f"more than {SECONDS} s"}
        line = child.stdout.readline()
        if not line:
            code = child.wait()
            self.close()
            return {"outcome": "crash", "message": f"exit code {code}"}
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _child(self) -> subprocess.Popen[bytes]:
        if self.child is None:
            command = [sys.executable, "-m", "tests.reading", *self.kinds]
            root = Path(__file__).resolve().parents[1]
            self.child = subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        return self.child

    def close(self) -> None:
        if self.child is not None:
            self.child.kill()
            self.child.communicate()
            self.child = None


def attempt(kind: str, path: Path, strict: bool) -> dict[str, Any]:
    try:
        log = importlib.import_module(FORMATS[kind]).read(path, strict=strict)
        check(log, strict)
    except SparError as error:
        return {"outcome": "SparError", "message": str(error)}
    except Exception as error:  # noqa: BLE001 - this is what is looked for
        return {"outcome": type(error).__name__, "message": traceback.format_exc()}
    return {"outcome": "log", "message": f"{len(log)} steps, {len(log.lengths)} episodes"}


def check(log: Any, strict: bool) -> None:
    """Whatever a file held, a log that was made of it keeps its promises."""
    steps, episodes = int(log.lengths.sum()), len(log.lengths)
    assert (log.lengths > 0).all() and len(log.episode_returns) == episodes
    assert log.observations.shape == (steps + episodes, log.spec.obs_dim) and log.actions.shape == (steps, log.spec.act_dim)
    assert log.rewards.shape == log.terminated.shape == log.truncated.shape == (steps,)
    assert log.observations.dtype == log.actions.dtype == log.rewards.dtype == np.float32
    assert log.terminated.dtype == log.truncated.dtype == bool
    if strict:
        assert all(np.isfinite(array).all() for array in (log.observations, log.actions, log.rewards))
        slack = 1e-4 * (log.action_high - log.action_low)
        assert (log.actions >= log.action_low - slack).all() and (log.actions <= log.action_high + slack).all()


def main() -> None:
    import resource

    for kind in sys.argv[1:]:
        importlib.import_module(FORMATS[kind])
    status = Path("/proc/self/status").read_text()
    used = 1024 * int(status.split("VmData:")[1].split()[0])
    limit = used + MEMORY
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer
    for line in sys.stdin:
        kind, path, strict = json.loads(line)
        print(json.dumps(attempt(kind, Path(path), strict)), file=answers, flush=True)


if __name__ == "__main__":
    main()
