"""Where a log's rows live while it trains: on the device, in host memory, or in memory-mapped files. Decided before anything is loaded."""

from __future__ import annotations

import os
import resource
from pathlib import Path
from typing import Literal, NamedTuple

import jax

from spar.data.episodes import Log

Tier = Literal["device", "host", "mapped"]
SHARE = 0.5  # of the available memory that a log may take
CGROUP_LIMITS = ("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory/memory.limit_in_bytes")


class Plan(NamedTuple):
    """The choice, and the sentence that explains it."""

    tier: Tier
    text: str


def available() -> int:
    """Bytes of memory that this process may still take: what is free, within the limits of its control group and its own."""
    limits = [_free()]
    for path in CGROUP_LIMITS:
        if (file := Path("/") / path).is_file() and (text := file.read_text().strip()).isdigit():
            limits.append(int(text))
    used = _resident()
    for kind in (resource.RLIMIT_DATA, resource.RLIMIT_AS):
        soft = resource.getrlimit(kind)[0]
        if soft != resource.RLIM_INFINITY:
            limits.append(max(0, soft - used[kind]))
    return min(limits)


def _free() -> int:
    """Bytes that the system can give without swapping, reclaimable file cache included where it says so."""
    info = Path("/proc/meminfo")
    for line in info.read_text().splitlines() if info.is_file() else []:
        if line.startswith("MemAvailable:"):
            return 1024 * int(line.split()[1])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")


def _resident() -> dict[int, int]:
    """Bytes that count against the limits on data and on address space."""
    pages = [int(number) for number in Path("/proc/self/statm").read_text().split()] if Path("/proc/self/statm").is_file() else [0] * 6
    page = os.sysconf("SC_PAGE_SIZE")
    return {resource.RLIMIT_AS: pages[0] * page, resource.RLIMIT_DATA: pages[5] * page}


def log_fits(matrix_bytes: int) -> bool:
    """Whether a log with matrices of that size can be read into memory at all."""
    return matrix_bytes <= SHARE * available()


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
