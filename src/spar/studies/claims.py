"""Claims about a study's table, judged from its cells: intervals decide, not bare means, and nothing is known beforehand.

A claim is judged task by task. It holds where every judged task shows it, it does not where one task shows the contrary, and it is
undecided where an interval leaves both open, or where scores differ by less than INTEREST, however surely: nobody would act on that. Tasks
whose cells are missing are not judged: then no claim holds, and the verdict says why. Where a study's own tasks were not all run, what
holds on the others *holds where run*.

Intervals are Student's, over seeds and over seeds and start states together, where these are wider than the bootstrap's: of three seeds
that agree by chance every resample agrees. One seed decides nothing: its episodes say nothing of the spread between seeds.

What every comparison has to show needs no correction for their number. That some comparison shows the contrary does: among many one will,
by chance. There the level is Bonferroni's, ERROR / 2 over the number of comparisons that the claim makes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from spar.evaluate import stats

RESAMPLES, BLOCK = 4000, 500
ERROR = 0.05  # of the two-sided intervals
INTEREST = 0.5  # normalised points; where a task has no reference, every difference counts
MISSING, PARTLY = "cannot be judged", "holds where run"
Regimes = Mapping[str, str | None]  # of a study's own tasks, the paper's word for the residuals
Sign = Literal["shown", "contrary", "open", "missing"]


class Verdict(NamedTuple):
    """held: True, False, or None where the numbers leave it open or are not there; because: the numbers; partly: not on all tasks."""

    held: bool | None
    because: str
    partly: bool = False

    @property
    def word(self) -> str:
        if self.held is None:
            return MISSING if self.because.startswith(MISSING) else "undecided"
        return (PARTLY if self.partly else "holds") if self.held else "does not hold"


class Part(NamedTuple):
    """What one task says: of `comparisons` that it makes, `tail` is the one-sided p-value of the one most contrary."""

    sign: Sign
    text: str
    tail: float = 0.0
    comparisons: int = 1

    def among(self, comparisons: int) -> Part:
        """Itself, or open where it shows the contrary not surely enough for one of so many comparisons."""
        if self.sign != "contrary" or self.tail * comparisons <= ERROR / 2:
            return self
        return self._replace(sign="open", text=f"{self.text}: not sure among {comparisons} comparisons")


class Results:
    """A result document as claims read it. `declared` are the tasks of its study; `passed_over`, those that were not run and that the
    claim, by the regimes for which it asked, speaks of."""

    def __init__(self, document: dict[str, Any], declared: Regimes | None = None) -> None:
        self.document, self.declared = document, declared or {}
        self.cells: list[dict[str, Any]] = document["cells"]
        self.passed_over: dict[str, None] = {}

    def tasks(self, *regimes: str) -> Iterator[tuple[str, str]]:
        """(name, label) of the tasks whose residuals the paper calls one of `regimes`; without them, of all. The label is the paper's
        abbreviation where that is one task's alone."""
        absent = [
            name for name, regime in self.declared.items() if name not in self.document["tasks"] and (not regimes or regime in regimes)
        ]
        self.passed_over |= dict.fromkeys(absent)
        shorts = [about["paper"] for about in self.document["tasks"].values()]
        for name, about in self.document["tasks"].items():
            if not regimes or about["regime"] in regimes:
                yield name, about["paper"] if about["paper"] and shorts.count(about["paper"]) == 1 else name

    def absent(self, *regimes: str) -> list[Part]:
        """One part for each of `regimes` of which no task was run: a claim about it cannot hold."""
        there = {about["regime"] for about in self.document["tasks"].values()}
        return [Part("missing", f"no {regime} task") for regime in regimes if regime not in there]

    def cell(self, task: str, column: str, row: str | None = None) -> dict[str, Any] | None:
        """The cell in `column`, in `row` or, without one, in the first row that has it; None where it is missing or has no values."""
        fitting = (c for c in self.cells if c["task"] == task and c["column"] == column and row in (None, c["row"]))
        cell = next(fitting, None)
        return cell if cell is not None and samples(cell) is not None else None

    def interest(self, task: str) -> float:
        """The least difference between scores of a task that says something."""
        return INTEREST if any(cell["returns"] is not None and cell["reference"] for cell in self.cells if cell["task"] == task) else 0.0

    def measured(self, task: str, name: str) -> dict[str, Any] | None:
        """The document of a measurement on the task's first run that has it."""
        columns: dict[str, dict[str, Any]] = self.document["measured"].get(name, {})
        return next((documents[task] for documents in columns.values() if task in documents), None)


@dataclass(frozen=True)
class Claim:
    """What the paper says of a table, or where `ours` is set this project, and how the cells are asked whether it is so."""

    text: str
    predicate: Callable[[Results], Verdict]
    ours: bool = False


def samples(cell: dict[str, Any]) -> np.ndarray | None:
    """A cell's values (S, E), one row a seed, in the cell's unit: scores where the task has a reference; None where it has no values."""
    values = cell["returns"] if cell["returns"] is not None else cell["samples"]
    if values is None:
        return None
    table = np.asarray(values, np.float64)
    if cell["returns"] is None or cell["reference"] is None:
        return table
    low, high = cell["reference"]
    return 100.0 * (table - low) / (high - low)


def joint(
    tables: Sequence[np.ndarray], statistic: Callable[[np.ndarray], np.ndarray], error: float = ERROR
) -> tuple[stats.Interval, float]:
    """`statistic` of the means of n tables (S, E), which maps (..., n) to (...), with its interval, by default of 95 %, and the one-sided
    p-value of its being below 0.

    All are resampled alike, seeds and start states: equal places of different policies' and seeds' rows had equal start states. What each
    seed, and each start state, says alone gives Student's interval and p-value (`stats.student`); the wider and the larger count.
    """
    stack = np.stack(tables)
    (n, seeds, episodes), rng, found = stack.shape, np.random.default_rng(0), []
    flat = stack.reshape(n, -1)
    for _ in range(RESAMPLES // BLOCK):
        rows = rng.integers(seeds, size=(BLOCK, seeds, 1))
        columns = rng.integers(episodes, size=(BLOCK, 1, episodes))
        index = (rows * episodes + columns).reshape(BLOCK, -1)
        found.append(statistic(flat[:, index].mean(-1).T))
    values, mean = np.concatenate(found), float(statistic(flat.mean(-1)))
    low, high = np.quantile(values, [error / 2, 1 - error / 2])
    half, tail = stats.student(statistic(stack.mean(-1).T), mean, error, starts=statistic(stack.mean(1).T))
    interval = stats.Interval(mean, min(float(low), mean - half), max(float(high), mean + half))
    return interval, max(tail, float((values >= 0).mean()))


def together(parts: Sequence[Part]) -> Verdict:
    """One verdict on several tasks."""
    judged = [part for part in parts if part.sign != "missing"]
    missing = [part.text for part in parts if part.sign == "missing"]
    if not judged:
        return Verdict(None, f"{MISSING}: {'; '.join(missing) or 'no such task was run'}")
    number = sum(part.comparisons for part in judged)
    judged = [part.among(number) for part in judged]
    signs = {part.sign for part in judged}
    held = False if "contrary" in signs else True if signs == {"shown"} and not missing else None
    texts = [part.text for part in judged] + ([f"not judged: {', '.join(missing)}"] if missing else [])
    return Verdict(held, "; ".join(texts))


def positive(
    label: str,
    tables: Sequence[np.ndarray | None],
    statistic: Callable[[np.ndarray], np.ndarray],
    lacking: str = "",
    interest: float = 0.0,
) -> Part:
    """Whether a statistic of the tables' means lies above 0: shown where its interval does, contrary where it lies below, and open where
    the statistic is smaller than `interest`."""
    present = [table for table in tables if table is not None]
    if len(present) < len(tables):
        return Part("missing", f"{label} ({lacking})" if lacking else label)
    if len({table.shape for table in present}) > 1:
        return Part("missing", f"{label} (unequal numbers of seeds or episodes)")
    if len(present[0]) < 2:
        return Part("open", f"{label}: one seed says nothing of their spread")
    interval, tail = joint(present, statistic)
    sign: Sign = "shown" if interval.low > 0 else "contrary" if interval.high < 0 else "open"
    if sign != "open" and abs(interval.mean) < interest:
        return Part("open", f"{label} {show(interval)}: too little to matter")
    return Part(sign, f"{label} {show(interval)}", tail)


def show(interval: stats.Interval) -> str:
    """+12.3 [+4.1, +20.2]"""
    digits = "+.1f" if abs(interval.mean) >= 0.1 or interval.mean == 0 else "+.2g"
    return f"{interval.mean:{digits}} [{interval.low:{digits}}, {interval.high:{digits}}]"


def difference(means: np.ndarray) -> np.ndarray:
    """First minus second."""
    return means[..., 0] - means[..., 1]


def judge(claims: Sequence[Claim], document: dict[str, Any], declared: Regimes | None = None) -> list[tuple[Claim, Verdict]]:
    """Every claim with its verdict; `declared` are the tasks that the study has of itself."""
    found = []
    for claim in claims:
        results = Results(document, declared)
        verdict = claim.predicate(results)
        if verdict.held and results.passed_over:
            verdict = verdict._replace(because=f"{verdict.because}; not run: {', '.join(results.passed_over)}", partly=True)
        found.append((claim, verdict))
    return found
