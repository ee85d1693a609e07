"""Writing that cannot be caught half-done: a file or folder appears whole, under its final name, or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from spar.types import SparError


def write_text(path: Path, text: str) -> None:
    """Replace or create `path`; a reader sees the old content or the new, never a part."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", encoding="utf-8", newline="") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def write_json(path: Path, document: Any) -> None:
    """As `write_text`; a NaN or infinity is refused (ValueError), since other readers of JSON refuse it."""
    write_text(path, json.dumps(document, indent=2, allow_nan=False) + "\n")


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
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
