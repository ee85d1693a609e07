"""NPZ files of flat step-aligned arrays under D4RL's names or common spellings of them (`SPELLINGS`); attributes are arrays as well.

Nothing is unpickled, and nothing is decompressed before the archive's directory and each array's header have said how large it gets.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from spar.data import memory
from spar.data.blocks import MAX_EXPANSION, Allocate, heap
from spar.data.episodes import Log
from spar.data.sources import columns
from spar.types import SparError

SPELLINGS = {  # of each column; the first is D4RL's
    "observations": ("observations", "observation", "obs"),
    "actions": ("actions", "action"),
    "rewards": ("rewards", "reward"),
    "terminals": ("terminals", "terminal", "terminations", "terminated"),
    "timeouts": ("timeouts", "timeout", "truncations", "truncated"),
    "next_observations": ("next_observations", "next_observation", "next_obs"),
}
DONE = ("dones", "done")  # terminals, where no better name is there; with timeouts beside it, the end of an episode of either kind
TEXTS = ("env_id", "env_kwargs", "observation_keys")
NUMBERS = ("action_low", "action_high", "terminals_end_episodes", "episode_lengths")
SMALL = 1 << 16  # bytes that need no proof


def read(path: Path, name: str | None = None, env_id: str | None = None, strict: bool = True, allocate: Allocate = heap) -> Log:
    """The log in the file `path`, with `write_log`'s attributes where it has them.

    Raises SparError with file, array and row for anything that cannot be trusted (with `strict` off, values are not looked at).
    """
    path = Path(path)
    found, done = {}, []
    with open_file(path) as file:
        if "masks" in file.names:
            raise SparError(f"{path}: 'masks' is OGBench's: its 'terminals' end trajectories, not tasks; read it as an OGBench file")
        for key, spellings in SPELLINGS.items():
            chosen = [spelling for spelling in spellings if spelling in file.names]
            if key == "terminals" and not chosen:
                chosen = done = [spelling for spelling in DONE if spelling in file.names]
            if len(chosen) > 1:
                raise SparError(f"{path}: {' and '.join(map(repr, chosen))} mean the same; keep one")
            if not chosen and key in columns.REQUIRED:
                raise SparError(f"{path}: '{key}' is missing; the file has: {', '.join(sorted(file.names)) or 'nothing'}")
            if chosen:
                found[key] = columns.column(str(path), key, file.array(chosen[0]))
        if columns.RETURNS in file.names:
            found[columns.RETURNS] = file.numbers(columns.RETURNS).astype(np.float64).reshape(-1)
        attributes: dict[str, Any] = {key: file.numbers(key) for key in NUMBERS if key in file.names}
        attributes |= {key: file.array(key) for key in TEXTS if key in file.names}
    attributes |= {"env_id": env_id} if env_id else {}
    rows = columns.to_rows(str(path), found, attributes, (name, path.stem))
    if done and "timeouts" in found:
        rows.terminated &= ~rows.truncated
        rows.notes.insert(0, f"'{done[0]}' is read as terminated or truncated: where a time limit is marked, no termination")
    elif done:
        rows.notes.insert(0, f"'{done[0]}' is read as terminations: episodes cut by a time limit must not set it")
    return rows.log(name or path.stem, strict, allocate)


def write_log(path: Path, log: Log) -> None:
    """`log` as a new NPZ file, from which `read` makes an equal log. Raises SparError if `path` exists."""
    path = Path(path)
    if path.exists():
        raise SparError(f"{path}: exists already; nothing is written over, choose another path")
    found, attributes = columns.from_log(log)
    arrays: dict[str, Any] = {**found, **attributes}  # none of objects: nothing is pickled
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        np.savez(file, **arrays)
    temporary.replace(path)


class Archive:
    """The arrays of one NPZ file, each checked before it is unpacked."""

    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        self.path, self.archive = path, archive
        self.entries = {info.filename.removesuffix(".npy"): info for info in archive.infolist() if info.filename.endswith(".npy")}
        self.names: Collection[str] = self.entries.keys()

    def array(self, key: str) -> np.ndarray:
        """Raises SparError for Python objects, for what would not fit into memory, and for entries that are not what they claim."""
        if key not in self.entries:
            raise SparError(f"{self.path}: '{key}' is missing; the file has: {', '.join(sorted(self.names)) or 'nothing'}")
        entry = self.entries[key]
        if entry.file_size > SMALL and entry.file_size > MAX_EXPANSION * entry.compress_size:
            sizes = f"{entry.file_size} bytes out of {entry.compress_size}"
            raise SparError(f"{self.path}: '{key}' claims {sizes}: no array shrinks that far; the file is damaged or hostile")
        if entry.file_size > (room := memory.available()):
            raise SparError(
                f"{self.path}: '{key}' takes {entry.file_size / 1e9:.1f} GB, {room / 1e9:.1f} GB of memory are available; "
                "split the file, or write it as HDF5, which is read in blocks"
            )
        try:
            with self.archive.open(entry) as stream:
                self._check_header(key, stream, entry.file_size)
            with self.archive.open(entry) as stream:
                return np.lib.format.read_array(stream, allow_pickle=False)
        except (OSError, ValueError, EOFError, NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
            raise SparError(f"{self.path}: '{key}' cannot be read ({str(error).splitlines()[0]}); the file is damaged") from None

    def _check_header(self, key: str, stream: IO[bytes], size: int) -> None:
        """The array's own header must claim exactly what the archive's directory does, since its claim is what gets allocated."""
        version = np.lib.format.read_magic(stream)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"array format {version[0]}.{version[1]}")
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = header(stream)
        if dtype.hasobject:
            raise SparError(f"{self.path}: '{key}' holds Python objects, which are never unpickled; save it as an array of numbers")
        claimed = dtype.itemsize
        for length in shape:
            claimed *= length
        if claimed != size - stream.tell():
            raise ValueError(f"shape {shape} of {dtype} needs {claimed} bytes, {size - stream.tell()} are there")

    def numbers(self, key: str) -> np.ndarray:
        """`array`, of numbers or flags."""
        array = self.array(key)
        if array.dtype.kind not in "biuf":
            raise SparError(f"{self.path}: '{key}' has type {array.dtype}, expected numbers")
        return array


@contextmanager
def open_file(path: Path) -> Iterator[Archive]:
    """Raises SparError where there is no readable NPZ file."""
    if not path.is_file():
        raise SparError(f"{path}: no such file; give an NPZ file")
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, NotImplementedError, ValueError) as error:
        raise SparError(f"{path}: not a readable NPZ file ({str(error).splitlines()[0]})") from None
    with archive:
        yield Archive(path, archive)
