"""Where a run happened: versions, machine, commit; and how much memory it took."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import resource
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from spar import files
from spar.types import SparError

NAME = "environment.json"  # in a run directory
PACKAGES = ("spar", "jax", "jaxlib", "flax", "optax", "numpy", "gymnasium", "mujoco", "h5py")


def describe() -> dict[str, Any]:
    """JSON-able facts about this process's surroundings."""
    import jax

    return {
        "versions": {name: version(name) for name in PACKAGES} | {"python": platform.python_version()},
        "machine": {
            "platform": platform.platform(),
            "processor": _processor(),
            "cores": os.cpu_count(),
            "devices": [str(device) for device in jax.devices()],
        },
        "commit": _commit(),
    }


def read(run: Path) -> list[dict[str, Any]]:
    """What the run directory `run` wrote of where it began, and of every further place where it went on. Raises SparError where that cannot
    be read."""
    path, advice = run / NAME, "put the file back, or train the run again"
    document = dict(files.read_json(path, advice))
    places = [document, *document.pop("continued", [])]
    for place in places:
        for field in ("versions", "machine", "commit"):
            if field not in place:
                raise SparError(f"{path}: has no '{field}'; {advice}")
    return places


def began_with(run: Path) -> str:
    """The fingerprint of the log that the run in the directory `run` began with. Raises SparError where that cannot be read."""
    try:
        return str(read(run)[0]["dataset"]["fingerprint"])
    except (KeyError, TypeError):
        raise SparError(f"{run / NAME}: names no dataset; put the file back, or train the run again") from None


def go_on(run: Path, now: dict[str, Any]) -> str:
    """Where a run goes on with other versions, machine or code than it had last, its environment.json keeps both; returns what differs."""
    first, *further = read(run)
    last = (further or [first])[-1]
    differing = [key for key in ("versions", "machine", "code") if key in last and last[key] != now[key]]
    if not differing:
        return ""
    files.write_json(run / NAME, {**first, "continued": [*further, now]})
    before, after = (json.dumps({key: entry[key] for key in differing}, sort_keys=True) for entry in (last, now))
    return f"goes on with another {', '.join(differing)} than before; it was {before}, it is {after}"


def combined(described: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Versions and machine of several places as one, entries that differ joined by slashes."""
    found: dict[str, Any] = {}
    for part in ("versions", "machine"):
        entries = [one[part] for one in described]
        distinct = {key: unique(entry.get(key) for entry in entries) for key in entries[0]} if entries else {}
        found[part] = {key: own[0] if len(own) == 1 else " / ".join(map(str, own)) for key, own in distinct.items()} or None
    return found


def unique(values: Iterable[Any]) -> list[Any]:
    """Without repetitions, in order; lists are told apart too."""
    found: list[Any] = []
    for value in values:
        if value not in found:
            found.append(value)
    return found


def peak_memory_mib() -> float:
    """Peak resident memory of this process so far. On Linux it is the kernel's VmHWM: `getrusage` begins with the parent's peak."""
    status = Path("/proc/self/status")
    if status.is_file():
        return next(float(line.split()[1]) / 1024 for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024**2 if sys.platform == "darwin" else 1024)


def version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    """The CPU's model and the widest vectors it has, by which libraries choose how to add: last bits depend on it."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(errors="replace").splitlines() if path.is_file() else []
    facts = {key.strip(): value.strip() for key, found, value in (line.partition(":") for line in lines) if found}
    vectors = [name for name in ("avx512f", "avx2", "avx") if name in facts.get("flags", "").split()]
    model = facts.get("model name") or platform.processor() or platform.machine()
    return f"{model}, {vectors[0]}" if vectors else model


def _commit() -> str | None:
    """The last commit that changed this package, in the checkout that it runs from; None for an installed package."""
    package = Path(__file__).resolve().parents[1]
    command = ["git", "-C", str(package), "log", "-1", "--format=%H", "--", "."]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
