"""What the benchmarks write into pages: a block between two marks, the rest of the page untouched."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from spar import files
from spar.evaluate import stats
from spar.runs import experiment

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


def gain_over_first(run: Path, runs: Sequence[Path], alike: Callable[[Path], object]) -> str:
    """The gain of a run's policy over that of the first of `runs` that is `alike`, with its 95 % interval (`stats.paired_gain`); nothing
    for that one itself. Equal seeds and start states are paired."""
    first = next(one for one in runs if alike(one) == alike(run))
    if run == first:
        return ""
    returns = [np.asarray(experiment.read_summary(one)["returns"]["policy"]) for one in (run, first)]
    if returns[0].shape != returns[1].shape:
        return "other seeds"
    mean, low, high = stats.paired_gain(*returns)
    return f"{mean:+.0f} [{low:+.0f}, {high:+.0f}]"


Rows = Callable[[Path, Sequence[Path]], Iterable[Sequence[str]]]


def of_runs(about: str | None, header: Sequence[str], rows: Rows, place: str, mark: str) -> None:
    """The command of a script that makes one table of run directories: `RUN [RUN ...] [--docs]`. `about` is the script's own docstring,
    `rows` what a run says, given all of them; with --docs the table also goes between the marks of docs/`place`."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--docs", action="store_true", help=f"also write the table into docs/{place}")
    args = parser.parse_args()
    text = table(header, [row for run in args.runs for row in rows(run, args.runs)])
    print(text)
    if args.docs:
        put(ROOT / "docs" / place, mark, text)
