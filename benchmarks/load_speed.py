"""Seconds to load the same Hopper-like log with SPAR, with Minari's own package, and with d3rlpy, all in one run.

    python benchmarks/load_speed.py [--rows 1000000] [--rounds 3] [--json FILE] [--docs]

The log is noise of Hopper's sizes (11 observations, 3 actions, 1000 steps an episode): as a Minari dataset written by `minari`, as a
gzip-compressed D4RL file with next_observations, and as arrays in memory. Every
loader ends with arrays ready to sample batches from:

- SPAR makes its log, which includes every check of lengths, finite values and action bounds;
- minari iterates over its episodes, and their arrays are joined (float32 observations, next observations, actions, rewards, ends);
- d3rlpy has no reader of its own: as its `get_d4rl` does by way of D4RL, h5py reads every column whole, and MDPDataset takes all but the
  next observations.

Loaders take turns; medians are reported, in wall-clock and in CPU time (on a busy machine only the latter means something). A package that
is not installed is left out with a line that says so. The target: three times as fast as the slower package, and not slower than the
faster one.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import json
import os
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import page
from rich.console import Console
from rich.table import Table

from spar.data.rows import from_rows
from spar.data.sources import d4rl
from spar.data.sources import minari as minari_source

HEADER = ("source", "loader", "seconds", "CPU seconds", "SPAR is faster by", "in CPU time by")
OBS_DIM, ACT_DIM, STEPS, DATASET = 11, 3, 1000, "bench/hopper-v0"


def make_episodes(rows: int) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [
        {
            "observations": rng.normal(size=(STEPS + 1, OBS_DIM)),
            "actions": rng.uniform(-1, 1, (STEPS, ACT_DIM)).astype(np.float32),
            "rewards": rng.normal(size=STEPS),
            "terminations": np.zeros(STEPS, bool),
            "truncations": np.arange(STEPS) == STEPS - 1,
        }
        for _ in range(rows // STEPS)
    ]


def write_d4rl(path: Path, episodes: list[dict[str, np.ndarray]]) -> None:
    joined = {
        "observations": [e["observations"][:-1] for e in episodes],
        "next_observations": [e["observations"][1:] for e in episodes],
        "actions": [e["actions"] for e in episodes],
        "rewards": [e["rewards"] for e in episodes],
        "terminals": [e["terminations"] for e in episodes],
        "timeouts": [e["truncations"] for e in episodes],
    }
    with h5py.File(path, "w") as file:
        for key, parts in joined.items():
            column = np.concatenate(parts)
            file.create_dataset(key, data=column if column.dtype == bool else column.astype(np.float32), compression="gzip")


def write_minari(package: Any, episodes: list[dict[str, np.ndarray]]) -> None:
    from gymnasium.spaces import Box
    from minari.data_collector.episode_buffer import EpisodeBuffer

    with warnings.catch_warnings(action="ignore"):
        package.create_dataset_from_buffers(
            DATASET, [EpisodeBuffer(**e, infos={}) for e in episodes],
            observation_space=Box(-np.inf, np.inf, (OBS_DIM,), np.float64), action_space=Box(-1.0, 1.0, (ACT_DIM,), np.float32),
        )  # fmt: skip


def load_with_minari(package: Any) -> list[np.ndarray]:
    episodes = list(package.load_dataset(DATASET).iterate_episodes())
    return [
        np.concatenate([e.observations[:-1] for e in episodes]).astype(np.float32),
        np.concatenate([e.actions for e in episodes]).astype(np.float32),
        np.concatenate([e.rewards for e in episodes]).astype(np.float32),
        np.concatenate([e.observations[1:] for e in episodes]).astype(np.float32),
        np.concatenate([e.terminations for e in episodes]),
        np.concatenate([e.truncations for e in episodes]),
    ]


def columns_of(path: Path) -> dict[str, np.ndarray]:
    with h5py.File(path, "r") as file:
        return {key: file[key][()] for key in file}


def load_arrays(columns: dict[str, np.ndarray]) -> Any:
    order = ("observations", "actions", "rewards", "terminals", "timeouts", "next_observations")
    return from_rows("arrays", *(columns[key] for key in order))


def load_with_d3rlpy(package: Any, columns: dict[str, np.ndarray]) -> Any:
    columns = {key: column for key, column in columns.items() if key != "next_observations"}
    with contextlib.redirect_stdout(io.StringIO()):  # it reports what it infers
        return package.dataset.MDPDataset(**columns)


def measure(loaders: dict[tuple[str, str], Callable[[], Any]], rounds: int) -> list[dict[str, Any]]:
    """One record a loader, after a first round that only warms caches."""
    seen: dict[tuple[str, str], list[tuple[float, float]]] = {key: [] for key in loaders}
    for _ in range(rounds + 1):
        for key, load in loaders.items():
            gc.collect()
            wall, cpu = time.perf_counter(), time.process_time()
            loaded = load()
            seen[key].append((time.perf_counter() - wall, time.process_time() - cpu))
            del loaded
    medians = {key: np.median(np.asarray(times[1:]), axis=0) for key, times in seen.items()}
    return [
        {"source": source, "loader": loader, "seconds": float(wall), "cpu_seconds": float(cpu), "spar_is_faster": float(wall / own[0]),
         "spar_is_faster_cpu": float(cpu / own[1])}
        for (source, loader), (wall, cpu) in medians.items()
        for own in [medians[source, "spar"]]
    ]  # fmt: skip


def cells(record: dict[str, Any]) -> tuple[str, ...]:
    own = record["loader"] == "spar"
    ratios = ("", "") if own else (f"{record['spar_is_faster']:.1f} x", f"{record['spar_is_faster_cpu']:.1f} x")
    return record["source"], record["loader"], f"{record['seconds']:.2f}", f"{record['cpu_seconds']:.2f}", *ratios


def optional(name: str, console: Console) -> Any:
    try:
        return __import__(name)
    except ImportError:
        console.print(f"{name} is not installed: left out")
        return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000, help=f"a multiple of {STEPS}")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", help="also write the records to this file")
    parser.add_argument("--docs", action="store_true", help="also write the table into docs/speed.md")
    arguments = parser.parse_args()
    console = Console()
    with tempfile.TemporaryDirectory() as folder:
        os.environ[minari_source.ROOT_VARIABLE] = folder
        minari, d3rlpy = optional("minari", console), optional("d3rlpy", console)
        episodes, path = make_episodes(arguments.rows), Path(folder) / "hopper.hdf5"
        write_d4rl(path, episodes)
        columns = columns_of(path)
        loaders: dict[tuple[str, str], Callable[[], Any]] = {
            ("arrays", "spar"): lambda: load_arrays(columns),
            ("D4RL file", "spar"): lambda: d4rl.read(path),
        }
        if d3rlpy is not None:
            loaders["arrays", "d3rlpy"] = lambda: load_with_d3rlpy(d3rlpy, columns)
            loaders["D4RL file", "d3rlpy"] = lambda: load_with_d3rlpy(d3rlpy, columns_of(path))
        if minari is not None:
            write_minari(minari, episodes)
            loaders["Minari folder", "spar"] = lambda: minari_source.read(DATASET)
            loaders["Minari folder", "minari"] = lambda: load_with_minari(minari)
        del episodes
        records = measure(loaders, arguments.rounds)
    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in HEADER:
        table.add_column(title, justify="left" if title in ("source", "loader") else "right")
    for record in records:
        table.add_row(*cells(record))
    about = f"{arguments.rows:,} rows, medians of {arguments.rounds} rounds"
    console.print(about)
    console.print(table)
    if arguments.docs:
        page.put(page.ROOT / "docs" / "speed.md", "load", f"{about}:\n\n{page.table(HEADER, map(cells, records))}")
    if arguments.json:
        with Path(arguments.json).open("x") as file:
            json.dump({"rows": arguments.rows, "records": records}, file, indent=2)


if __name__ == "__main__":
    main()
