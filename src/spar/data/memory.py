"""Where a log's rows live while it trains: on the device, in host memory, or in memory-mapped files. Decided before anything is loaded."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import jax

from spar.data.episodes import Log

Tier = Literal["device", "host", "mapped"]
SHARE = 0.5  # of the available memory that a log may take
SYSTEM = Path("/")  # below which the kernel's files lie
V2 = ("sys/fs/cgroup", "memory.max", "memory.current", "")  # of control groups: mount, limit, usage, prefix of counts with those below
V1 = {"memory": ("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_")}


class Plan(NamedTuple):
    """The choice, and the sentence that explains it."""

    tier: Tier
    text: str


def available() -> int:
    """Bytes of memory that this process may still take: what is free, within the limits of its control group and its own."""
    limits = [_free(), *_left_in_groups()]
    used = _resident()
    for kind in (resource.RLIMIT_DATA, resource.RLIMIT_AS):
        soft = resource.getrlimit(kind)[0]
        if soft != resource.RLIM_INFINITY:
            limits.append(max(0, soft - used[kind]))
    return min(limits)


def _left_in_groups() -> Iterator[int]:
    """Bytes left in the control group of this process, and in each of those that hold it, where they have a limit; file cache, which the
    kernel drops when memory is needed, counts as left."""
    for line in _text(SYSTEM / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", *V1):
            continue
        mount, limit, usage, total = V1.get(controllers, V2)
        place = Path(path.lstrip("/"))
        for folder in (SYSTEM / mount / part for part in (place, *place.parents)):
            if (room := _number(folder / limit)) is not None:
                stat = dict(line.split() for line in _text(folder / "memory.stat").splitlines())
                cached = sum(int(stat.get(f"{total}{kind}_file", 0)) for kind in ("active", "inactive"))
                yield max(0, room - max(0, (_number(folder / usage) or 0) - cached))


def _number(path: Path) -> int | None:
    return int(text) if (text := _text(path).strip()).isdigit() else None


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _free() -> int:
    """Bytes that the system can give without swapping, reclaimable file cache included where it says so."""
    for line in _text(SYSTEM / "proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            return 1024 * int(line.split()[1])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")


def _resident() -> dict[int, int]:
    """Bytes that count against the limits on data and on address space."""
    pages = [int(number) for number in _text(SYSTEM / "proc/self/statm").split()] or [0] * 6
    page = os.sysconf("SC_PAGE_SIZE")
    return {resource.RLIMIT_AS: pages[0] * page, resource.RLIMIT_DATA: pages[5] * page}


def log_fits(reading_bytes: int) -> bool:
    """Whether a log that takes so much while it is read can be read into memory at all."""
    return reading_bytes <= SHARE * available()


def device_bytes(rows: int, obs_dim: int, act_dim: int) -> int:
    """Of the training arrays of `rows` transitions: observation, successor, action, reward, mask, all float32."""
    return 4 * rows * (2 * obs_dim + act_dim + 2)


def plan(log: Log, wanted: Literal["auto"] | Tier = "auto", more: int = 0) -> Plan:
    """Where the training rows of `log` go, and `more` rows to come. A memory-mapped log stays so; else the device, if they fit there."""
    needed = device_bytes(len(log) + more, *log.spec)
    stats = jax.local_devices()[0].memory_stats() if jax.default_backend() != "cpu" else None
    room = stats["bytes_limit"] - stats["bytes_in_use"] if stats else available()
    what = f"training rows need {_show(needed)}, {_show(room)} {'on the device' if stats else 'of memory'} are free"
    if log.is_mapped:
        return Plan("mapped", f"memory: {what}; the log stays in memory-mapped files, batches are gathered from them")
    if wanted == "host" or (wanted == "auto" and needed > SHARE * room):
        return Plan("host", f"memory: {what}; the log stays as it was read, batches are gathered from it")
    return Plan("device", f"memory: {what}; they are kept on the device")


def _show(count: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"
