"""What the corpus of bad files is made with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MARKER = "executed"  # a file that appears beside a hostile one if what is in it is ever executed
Columns = dict[str, Any]


@dataclass(frozen=True)
class Case:
    format: str
    make: Callable[[Path], object]  # fills the file (for Minari: the folder) that it is given
    says: str  # a part of the message, which also names the file


def hostile(path: Path) -> bytes:
    """A pickle, written by hand, that creates MARKER beside `path` when it is loaded."""
    return b"cposix\nsystem\n(S'touch " + str(path.parent / MARKER).encode() + b"'\ntR."


def raw(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


def cut(make: Callable[[Path], object], share: float) -> Callable[[Path], object]:
    """The first `share` of the file that `make` makes."""

    def truncated(path: Path) -> None:
        make(path)
        content = path.read_bytes()
        path.write_bytes(content[: int(share * len(content))])

    return truncated
