"""The numbers that the paper prints, as paper.json holds them: tables[NAME].cells[task][row][column], a mean or [mean, deviation]."""

from __future__ import annotations

import functools
import json
from importlib import resources
from typing import Any


@functools.cache
def tables() -> dict[str, dict[str, Any]]:
    """Tables 1 to 6 and 8 to 14, and the two numbers of figure 3."""
    return dict(json.loads((resources.files("spar.studies") / "paper.json").read_text(encoding="utf-8"))["tables"])


def number(table: str | None, task: str | None, row: str, column: str) -> dict[str, Any] | None:
    """mean, std (None where it is not printed) and doubt (why the number is suspect, else None); None where the paper has no number.

    A row that the paper's table does not tell apart is its only one.
    """
    if table is None or task is None:
        return None
    rows = tables()[table]["cells"].get(task, {})
    found = rows.get(row, rows.get("", {})).get(column)
    if not isinstance(found, (int, float, list)):
        return None
    mean, std = found if isinstance(found, list) else (found, None)
    suspects = tables()[table].get("suspect", [])
    doubts = (entry["why"] for entry in suspects if task in entry["tasks"] and column in entry["columns"])
    return {"mean": mean, "std": std, "doubt": next(doubts, None)}
