"""What every command does alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tyro
from rich.console import Console


def arg(help: str, **settings: Any) -> Any:
    return tyro.conf.arg(help=help, **settings)


def parse(what: Any, argv: Sequence[str], prog: str, description: str | None) -> Any:
    """`what` called with, or made from, the arguments; wrong usage exits with 2 after saying what is wrong."""
    return tyro.cli(what, args=list(argv), prog=prog, description=description)


def plain(console: Console, text: str) -> None:
    """Paths and the like, as they are: brackets are no markup, and no line is broken in a narrow terminal."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def wide(console: Console, width: int) -> Console:
    """For a table of `width` columns: a terminal keeps its own width and wraps, a file or pipe gets the whole lines."""
    return console if console.is_terminal else Console(width=max(console.width, width), file=console.file)
