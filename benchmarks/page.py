"""What the benchmarks write into pages: a block between two marks, the rest of the page untouched."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from spar import files

ROOT = Path(__file__).resolve().parents[1]


def put(page: Path, mark: str, block: str) -> None:
    """Replace what stands between `<!-- mark -->` and `<!-- /mark -->`. Raises ValueError where the page has no such marks."""
    text, count = re.subn(
        f"<!-- {mark} -->.*<!-- /{mark} -->", lambda _: f"<!-- {mark} -->\n{block}\n<!-- /{mark} -->", page.read_text(), flags=re.S
    )
    if count != 1:
        raise ValueError(f"{page}: {count} places marked '{mark}', expected 1")
    files.write_text(page, text)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
