"""Writing that cannot be caught half-done: a file or folder appears whole, under its final name, or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from spar.types import SparError


def write_bytes(path: Path, content: bytes) -> None:
    """Replace or create `path`; a reader sees the old content or the new, never a part, also after the power has failed. Raises OSError
    with `path` where that fails."""
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}-{threading.get_ident()}")  # nobody else writes to it
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _keep_names(path.parent)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error  # a full disk names no file
    finally:
        temporary.unlink(missing_ok=True)


def _keep_names(folder: Path) -> None:
    """What was renamed in `folder` stays so when the power fails. Where a system cannot open folders, nothing is done."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """As `write_bytes`, in UTF-8."""
    write_bytes(path, text.encode())


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """As `write_bytes`, in the format safetensors."""
    write_bytes(path, safetensors.numpy.save({key: np.asarray(array, order="C") for key, array in arrays.items()}))


def sweep(folder: Path) -> None:
    """Remove what writers that were killed have left in `folder`."""
    for path in folder.glob(".*.tmp-*"):
        process = path.name.rsplit(".tmp-", 1)[1].split("-")[0]
        if process.isdecimal() and not _alive(int(process)):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return True


def write_json(path: Path, document: Any) -> None:
    """As `write_text`; a NaN or infinity is refused (ValueError), since other readers of JSON refuse it."""
    write_text(path, json.dumps(document, indent=2, allow_nan=False) + "\n")


def read_json(path: Path, advice: str, kind: type = dict) -> Any:
    """The document in `path`, a `kind`. Raises SparError, with the advice, where it is not JSON or something else, OSError where it cannot
    be opened."""
    try:
        document = json.loads(path.read_bytes())
    except ValueError as error:  # neither UTF-8 nor JSON
        raise SparError(f"{path}: not valid JSON ({error}); {advice}") from None
    if not isinstance(document, kind):
        raise SparError(f"{path}: holds a {type(document).__name__} instead of a {kind.__name__}; {advice}")
    return document


class Busy(SparError):
    """Another process is at work in a folder."""


@contextlib.contextmanager
def held(folder: Path, doing: str) -> Iterator[None]:
    """Keeps other processes out of what this one is `doing` in `folder`. Raises Busy where another is at it."""
    import fcntl  # POSIX alone has it; acting, which has no use for it, goes without

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Busy(f"{folder}: another process is {doing} here; wait for it, or choose another folder") from None
        yield
    finally:
        os.close(descriptor)  # which gives the lock back


@contextlib.contextmanager
def numbered(folder: Path) -> Iterator[Path]:
    """The next `NNNN.json` in `folder`, empty, so that no other process takes the same number; it goes where what fills it fails."""
    folder.mkdir(exist_ok=True)
    number = 1 + max((int(path.stem) for path in folder.glob("*.json") if path.stem.isdecimal()), default=0)
    while True:
        path = folder / f"{number:04d}.json"
        try:
            path.open("x").close()
            break
        except FileExistsError:
            number += 1
    try:
        yield path
    except BaseException:
        path.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder to fill, renamed to `folder` at the end. Raises SparError when `folder` exists."""
    if folder.exists():
        raise SparError(f"{folder}: exists already; nothing is written over, choose another path")
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.tmp-{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        temporary.replace(folder)
        _keep_names(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
