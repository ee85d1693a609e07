"""The HDF5 storage of a Minari dataset (`minari.py` has the layout).

A million steps lie in thousands of small arrays, so opening them is what takes time: they are opened and read with HDF5's own calls, and
floating-point numbers become float32 on the way. Every array must lie in this very file and be as large as its episode.
"""

from __future__ import annotations

import functools
import itertools
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import h5py
import numpy as np
from h5py import h5a, h5d, h5g, h5l, h5s, h5t

from spar.data.blocks import MAX_EXPANSION, Allocate
from spar.data.episodes import Log
from spar.types import SparError

MAIN = "main_data.hdf5"
SLOTS = 31  # of the chunk cache, which HDF5 makes for each array anew; no chunk is read twice
RETURN = "episode_return"  # attribute of an episode: its return as the log that was written states it


@dataclass
class Steps:
    """E episodes, T steps: observations (T + E, obs_dim) and actions (T, act_dim) float32, rewards (T,) float64, terminated and truncated
    (T,) bool, lengths (E,), and the stated returns (E,) where there are any."""

    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    lengths: np.ndarray
    returns: np.ndarray | None


def read(folder: Path, metadata: dict[str, Any], keys: tuple[str, ...], allocate: Allocate) -> Steps:
    """All steps of the data folder `folder`. Raises SparError naming file, episode and field."""
    path = folder / MAIN
    if not path.is_file():
        raise SparError(f"{path}: no such file; copy the dataset's data folder anew")
    try:
        with h5py.File(path, "r", rdcc_nslots=SLOTS) as file:
            return _read(path, file, metadata, keys, allocate)
    except (KeyError, OSError, RuntimeError, TypeError, ValueError) as error:
        raise SparError(f"{path}: not a readable Minari dataset ({str(error).splitlines()[0]}); the file is damaged") from None


def _read(path: Path, file: h5py.File, metadata: dict[str, Any], keys: tuple[str, ...], allocate: Allocate) -> Steps:
    numbered = sorted((int(match[1]), match[0]) for match in map(re.compile(r"episode_(\d+)").fullmatch, file) if match)
    names, total = [name for _, name in numbered], metadata["total_steps"]
    if len(names) != metadata["total_episodes"]:
        raise SparError(f"{path}: {len(names)} episodes, metadata.json has {metadata['total_episodes']}; copy the data folder anew")
    episodes = _Episodes(path, file.id)
    first = episodes.open(names[0])
    leaves = _leaves(path, h5py.Group(first), keys)
    widths = [math.prod(episodes.dataset(first, names[0], leaf).shape[1:]) for leaf in leaves]
    action_shape = episodes.dataset(first, names[0], "actions").shape
    if len(action_shape) != 2:
        raise SparError(f"{path}: {names[0]}: 'actions' has shape {action_shape}, expected (steps, dimensions)")
    columns = sum(widths) + action_shape[1]
    if total * columns > MAX_EXPANSION * path.stat().st_size:
        raise SparError(f"{path}: metadata.json has {total} steps, more than a file of this size can hold; the dataset is damaged")
    steps = Steps(
        allocate((total + len(names), sum(widths))), allocate((total, action_shape[1])), np.empty(total), np.empty(total, bool),
        np.empty(total, bool), np.empty(len(names), np.int64), np.empty(len(names)) if h5a.exists(first, RETURN.encode()) else None,
    )  # fmt: skip
    at = 0
    for number, name in enumerate(names):
        at += episodes.fill(steps, number, at, name, leaves, widths)
    if at != total:
        raise SparError(f"{path}: the episodes have {at} steps, metadata.json has {total}; copy the data folder anew")
    return steps


def _leaves(path: Path, episode: h5py.Group, keys: tuple[str, ...]) -> list[str]:
    """Paths of the arrays that make up an observation, in the order in which they are joined."""
    top = episode.get("observations")
    if keys and not isinstance(top, h5py.Group):
        raise SparError(f"{path}: observations are plain arrays here, without keys; leave observation_keys out")
    unknown = [key for key in keys if key not in top]
    if unknown:
        raise SparError(f"{path}: observations have no key '{unknown[0]}'; they have: {', '.join(sorted(top))}")

    def below(node: Any, name: str, chosen: tuple[str, ...] = ()) -> Iterator[str]:
        if not isinstance(node, h5py.Group):
            yield name
            return
        for key in chosen or sorted(node, key=lambda key: (int(key[7:]) if re.fullmatch(r"_index_\d+", key) else 0, key)):
            yield from below(node.get(key), f"{name}/{key}")

    return list(below(top, "observations", keys))


@functools.cache
def _way(key: str) -> tuple[bytes, ...]:
    """b"a", b"a/b", b"a/b/c" for "a/b/c"."""
    return tuple(part.encode() for part in itertools.accumulate(key.split("/"), "{}/{}".format))


class _Episodes:
    """Every object that h5py makes costs about as much as reading a thousand numbers: shapes and types are asked for only where HDF5 itself
    would not stumble over wrong ones."""

    def __init__(self, path: Path, file: h5py.h5f.FileID) -> None:
        self.path, self.file = path, file
        self.memory = {np.dtype(bool): h5t.py_create(np.dtype(bool)), np.dtype(np.float32): h5t.NATIVE_FLOAT}
        self.memory[np.dtype(np.float64)] = h5t.NATIVE_DOUBLE
        self.space = functools.lru_cache(h5s.create_simple)

    def open(self, name: str) -> h5g.GroupID:
        if self.file.links.get_info(name.encode()).type != h5l.TYPE_HARD:
            raise SparError(f"{self.path}: '{name}' lies in another place; give a dataset that holds its own data")
        return h5g.open(self.file, name.encode())

    def dataset(self, episode: h5g.GroupID, name: str, key: str) -> h5d.DatasetID:
        """Of an array that lies in this file: every group on the way must, and something must be stored."""
        way = _way(key)
        try:
            for part in way:
                if episode.links.get_info(part).type != h5l.TYPE_HARD:
                    raise SparError(f"{self.path}: {name}: '{key}' lies in another place; give a dataset that holds its own data")
            return h5d.open(episode, way[-1])
        except (KeyError, ValueError, RuntimeError):
            raise SparError(f"{self.path}: {name}: '{key}' is missing or not an array; repair or drop that episode") from None

    def fill(self, steps: Steps, number: int, at: int, name: str, leaves: list[str], widths: list[int]) -> int:
        """Read the episode `name` into `steps`, from step `at` on; how many steps it has."""
        episode = self.open(name)
        rewards = self.dataset(episode, name, "rewards")
        length = (*rewards.shape, 0)[0]
        if length == 0 or at + length > len(steps.rewards):
            why = "has no steps" if length == 0 else "has more steps than metadata.json leaves for it"
            raise SparError(f"{self.path}: {name} {why}; repair or drop that episode")
        here = slice(at, at + length)
        self._read(rewards, name, "rewards", steps.rewards[here])
        self._read_flags(self.dataset(episode, name, "terminations"), name, "terminations", steps.terminated[here])
        self._read_flags(self.dataset(episode, name, "truncations"), name, "truncations", steps.truncated[here])
        self._read_floats(self.dataset(episode, name, "actions"), name, "actions", steps.actions[here])
        rows = steps.observations[at + number : at + number + length + 1]
        for leaf, width, end in zip(leaves, widths, itertools.accumulate(widths), strict=True):
            part = rows if len(leaves) == 1 else np.empty((length + 1, width), np.float32)
            self._read_floats(self.dataset(episode, name, leaf), name, leaf, part)
            if part is not rows:
                rows[:, end - width : end] = part
        steps.lengths[number] = length
        if steps.returns is not None and not h5a.exists(episode, RETURN.encode()):
            steps.returns = None  # somebody added episodes: none is believed
        if steps.returns is not None:
            self._read_return(episode, name, steps.returns[number : number + 1])
        return length

    def _read_floats(self, dataset: h5d.DatasetID, name: str, key: str, out: np.ndarray) -> None:
        """HDF5 would turn integers into floats and (D, T) into (T, D)."""
        if dataset.shape[0:1] != out.shape[0:1]:
            self._refuse_shape(dataset, name, key, out)
        if dataset.get_type().get_class() != h5t.FLOAT:
            what = "discrete actions are not supported" if key == "actions" else "it must be floating point"
            hint = "; choose others with observation_keys" if "/" in key else ""
            raise SparError(f"{self.path}: {name}: '{key}' has type {dataset.dtype}: {what}{hint}")
        self._read(dataset, name, key, out)

    def _read(self, dataset: h5d.DatasetID, name: str, key: str, out: np.ndarray) -> None:
        """Read a whole array into `out`; HDF5 refuses one that has more numbers or fewer."""
        if out.nbytes > MAX_EXPANSION * dataset.get_storage_size():
            raise SparError(f"{self.path}: {name}: '{key}' claims {dataset.shape} but the file holds far less of it; the file is damaged")
        try:
            dataset.read(self.space(out.shape), h5s.ALL, out, self.memory[out.dtype])
        except (OSError, TypeError, ValueError, RuntimeError) as error:
            if math.prod(dataset.shape) != out.size:
                self._refuse_shape(dataset, name, key, out)
            why = f"{dataset.dtype}: {str(error).splitlines()[0]}"
            raise SparError(f"{self.path}: {name}: '{key}' cannot be read ({why}); the file is damaged") from None

    def _refuse_shape(self, dataset: h5d.DatasetID, name: str, key: str, out: np.ndarray) -> NoReturn:
        raise SparError(f"{self.path}: {name}: '{key}' has shape {dataset.shape}, expected {out.shape}; repair or drop that episode")

    def _read_flags(self, dataset: h5d.DatasetID, name: str, key: str, out: np.ndarray) -> None:
        """h5py's bool is an HDF5 enumeration; 0/1 numbers will do, which HDF5 would not turn into one rightly."""
        if dataset.get_type().get_class() == h5t.ENUM:
            self._read(dataset, name, key, out)
            return
        numbers = np.empty(out.shape)
        self._read(dataset, name, key, numbers)
        odd = np.flatnonzero((numbers != 0) & (numbers != 1))
        if len(odd):
            raise SparError(f"{self.path}: {name}: '{key}' row {odd[0]} is {numbers[odd[0]]}; flags are 0 or 1")
        out[:] = numbers.astype(bool)

    def _read_return(self, episode: h5g.GroupID, name: str, out: np.ndarray) -> None:
        try:
            h5a.open(episode, RETURN.encode()).read(out.reshape(()), h5t.NATIVE_DOUBLE)
        except (KeyError, OSError, TypeError) as error:
            raise SparError(f"{self.path}: {name}: attribute '{RETURN}' is not a number ({error}); repair or drop that episode") from None


def write(folder: Path, log: Log) -> None:
    """`log` as the storage in `folder`, which exists and is empty; an array an episode and field, uncompressed."""
    ends = np.cumsum(log.lengths)
    with h5py.File(folder / MAIN, "w", track_order=True) as file:
        for number, (end, length) in enumerate(zip(ends, log.lengths, strict=True)):
            episode, here = file.create_group(f"episode_{number}"), slice(end - length, end)
            episode.attrs["id"], episode.attrs["total_steps"] = number, length
            episode.attrs[RETURN] = log.episode_returns[number]
            episode["observations"] = log.observations[end - length + number : end + number + 1]
            episode["actions"], episode["rewards"] = log.actions[here], log.rewards[here]
            episode["terminations"], episode["truncations"] = log.terminated[here], log.truncated[here]
