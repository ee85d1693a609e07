"""Claims about a study's table, judged from its cells: intervals decide, not bare means, and nothing is known beforehand.

A claim is judged task by task. It holds where every judged task shows it, it does not where one task shows the contrary, and it is
undecided where an interval leaves both open, or where scores differ by less than INTEREST, however surely: nobody would act on that. Tasks
whose cells are missing are not judged: then no claim holds, and the verdict says why.

Intervals are Student's over seeds where these are wider than the bootstrap's: of three seeds that agree by chance every resample agrees.

What every comparison has to show needs no correction for their number. That some comparison shows the contrary does: among many one will,
by chance. There the level is Bonferroni's, ERROR / 2 over the number of comparisons that the claim makes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from spar.evaluate import stats

RESAMPLES, BLOCK = 4000, 500
ERROR = 0.05  # of the two-sided intervals
INTEREST = 0.5  # normalised points; where a task has no reference, every difference counts
MISSING = "cannot be judged"
Sign = Literal["shown", "contrary", "open", "missing"]


class Verdict(NamedTuple):
    """held: True, False, or None where the numbers leave it open or are not there; because: the numbers."""

    held: bool | None
    because: str

    @property
    def word(self) -> str:
        if self.held is None:
            return MISSING if self.because.startswith(MISSING) else "undecided"
        return "holds" if self.held else "does not hold"


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
    """A result document as claims read it."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document
        self.cells: list[dict[str, Any]] = document["cells"]

    def tasks(self, *regimes: str) -> Iterator[tuple[str, str]]:
        """(name, label) of the tasks whose residuals the paper calls one of `regimes`; without them, of all. The label is the paper's
        abbreviation where that is one task's alone."""
        shorts = [about["paper"] for about in self.document["tasks"].values()]
        for name, about in self.document["tasks"].items():
            if not regimes or about["regime"] in regimes:
                yield name, about["paper"] if about["paper"] and shorts.count(about["paper"]) == 1 else name

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
    """What the paper (or its reader) says of a table, and how the cells are asked whether it is so."""

    text: str
    predicate: Callable[[Results], Verdict]


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

    All are resampled alike, seeds and start states: equal places of different policies' and seeds' rows had equal start states. Of several
    seeds, what each says alone gives Student's interval and p-value; the wider and the larger count.
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
    half, tail = student(statistic(stack.mean(-1).T), mean, error)
    interval = stats.Interval(mean, min(float(low), mean - half), max(float(high), mean + half))
    return interval, max(tail, float((values >= 0).mean()))


def student(seeds: np.ndarray, mean: float, error: float = ERROR) -> tuple[float, float]:
    """Half the interval of `mean` by Student's t from one value a seed (S,), and the one-sided p-value of its being below 0; of one
    seed, or of values that are all equal, 0 and 0: they say nothing of their spread."""
    from scipy.stats import t

    scale = float(np.std(seeds, ddof=1) / np.sqrt(len(seeds))) if len(seeds) > 1 else 0.0
    if scale <= 1e-12 * max(1.0, abs(mean)):
        return 0.0, 0.0
    return float(t.ppf(1 - error / 2, len(seeds) - 1)) * scale, float(t.sf(-mean / scale, len(seeds) - 1))


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
    if present[0].size < 2:
        return Part("open", f"{label}: one value each says nothing of their spread")
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


Place = tuple[str, str | None]  # column and row; a row of None: the first that has the column


def place(column: str | Place) -> Place:
    return (column, None) if isinstance(column, str) else column


def name_of(column: str | Place) -> str:
    return " ".join(filter(None, reversed(place(column))))


def better(a: str | Place, b: str | Place, *regimes: str) -> Callable[[Results], Verdict]:
    """`a` returns more than `b`, on every task of the regimes (of all, without them)."""

    def predicate(results: Results) -> Verdict:
        return together([compare(results, task, label, a, b) for task, label in results.tasks(*regimes)])

    return predicate


def compare(results: Results, task: str, label: str, a: str | Place, b: str | Place) -> Part:
    """`a` minus `b` on one task."""
    tables = [values(results, task, one) for one in (a, b)]
    lacking = " and ".join(name_of(one) for one, table in zip((a, b), tables, strict=True) if table is None)
    return positive(label, tables, difference, f"no {lacking}", results.interest(task))


def values(results: Results, task: str, column: str | Place) -> np.ndarray | None:
    cell = results.cell(task, *place(column))
    return None if cell is None else samples(cell)


def best(a: str | Place, others: Sequence[str | Place], *regimes: str) -> Callable[[Results], Verdict]:
    """`a` returns more than each of `others`, on every task; undecided where it does of those that have been run and some have not."""

    def predicate(results: Results) -> Verdict:
        return together([against_all(results, task, label, a, others) for task, label in results.tasks(*regimes)])

    return predicate


def against_all(results: Results, task: str, label: str, a: str | Place, others: Sequence[str | Place]) -> Part:
    """`a` against each of the others on one task; the text names the one that comes closest, or is ahead the most."""
    own = values(results, task, a)
    if own is None:
        return Part("missing", f"{label} (no {name_of(a)})")
    tables = [(other, table) for other in others if (table := values(results, task, other)) is not None]
    if not tables:
        return Part("missing", f"{label} (nothing to hold {name_of(a)} against)")
    parts = [
        positive(f"{label} over {name_of(other)}", [own, table], difference, interest=results.interest(task)) for other, table in tables
    ]
    signs = {part.sign for part in parts}
    sign: Sign = "contrary" if "contrary" in signs else "shown" if signs == {"shown"} else "open"
    tail = min((part.tail for part in parts if part.sign == "contrary"), default=0.0)
    text = parts[max(range(len(tables)), key=lambda i: float(tables[i][1].mean()))].text
    missing = [name_of(other) for other in others if other not in [present for present, _ in tables]]
    if missing:
        sign, text = "open" if sign == "shown" else sign, f"{text}, without {', '.join(missing)}"
    return Part(sign, text, tail, len(parts))


def steadier(a: Sequence[Place], b: Sequence[Place], *regimes: str) -> Callable[[Results], Verdict]:
    """The means of the cells `a` spread less, largest minus smallest, than those of as many cells `b`; the number is how much less."""

    def predicate(results: Results) -> Verdict:
        parts, count = [], max(1, len(list(results.tasks(*regimes))))
        for task, label in results.tasks(*regimes):
            tables = [[values(results, task, one) for one in group] for group in (a, b)]
            lacking = ", ".join(name_of(one) for one in (*a, *b) if values(results, task, one) is None)
            if lacking:
                parts.append(Part("missing", f"{label} (no {lacking})"))
                continue
            present = [[table for table in group if table is not None] for group in tables]
            less, surely = (_less(*(spread(group, error) for group in present)) for error in (ERROR, ERROR / count))
            sign: Sign = "shown" if less.low > 0 else "contrary" if surely.high < 0 else "open"
            parts.append(Part(sign, f"{label} {show(less)}"))  # the contrary was asked of as many comparisons as there are tasks
        return together(parts)

    return predicate


def _less(own: stats.Interval, other: stats.Interval) -> stats.Interval:
    return stats.Interval(other.mean - own.mean, other.low - own.high, other.high - own.low)


def spread(tables: Sequence[np.ndarray], error: float = ERROR) -> stats.Interval:
    """Largest minus smallest of the tables' means. Noise alone spreads them, so low is that of the contrast that is surest, among all of
    them, to lie above 0, and 0 where none is."""
    pairs = list(itertools.permutations(range(len(tables)), 2))
    found = {(i, j): joint([tables[i], tables[j]], difference, error) for i, j in pairs}
    lows = [found[i, j][0].low for i, j in pairs if found[j, i][1] * len(pairs) / 2 <= error / 2]  # j surely below i
    means = [float(table.mean()) for table in tables]
    return stats.Interval(max(means) - min(means), max([0.0, *lows]), max(interval.high for interval, _ in found.values()))


def collapses(a: str | Place, b: str | Place, *regimes: str, share: float = 0.5) -> Callable[[Results], Verdict]:
    """`a` reaches less than `share` of the score of `b`, which has to lie above 0; the number is how much less."""

    def predicate(results: Results) -> Verdict:
        parts = []
        for task, label in results.tasks(*regimes):
            tables = [values(results, task, one) for one in (a, b)]
            lacking = " and ".join(name_of(one) for one, table in zip((a, b), tables, strict=True) if table is None)
            shortfall = positive(
                label, tables, lambda means: share * means[..., 1] - means[..., 0], f"no {lacking}", results.interest(task)
            )
            base = tables[1]
            if shortfall.sign == "shown" and base is not None and joint([base], lambda means: means[..., 0])[0].low <= 0:
                shortfall = Part("open", f"{shortfall.text}: {name_of(b)} is not surely above 0")
            parts.append(shortfall)
        return together(parts)

    return predicate


def alike(a: str | Place, b: str | Place, margin: float, *regimes: str) -> Callable[[Results], Verdict]:
    """`a` and `b` differ by less than `margin`: shown where the interval of the difference lies within it, contrary where outside."""

    def predicate(results: Results) -> Verdict:
        parts = []
        for task, label in results.tasks(*regimes):
            part = compare(results, task, label, a, b)
            if part.sign != "missing" and "[" in part.text:
                tables = [table for one in (a, b) if (table := values(results, task, one)) is not None]
                (mean, low, high), _ = joint(tables, difference)
                sign: Sign = "shown" if -margin < low and high < margin else "contrary" if low > margin or high < -margin else "open"
                _, tail = joint(tables if mean > 0 else tables[::-1], lambda means: margin - difference(means))
                part = Part(sign, part.text, tail)
            parts.append(part)
        return together(parts)

    return predicate


def below(a: Place, b: Place, factor: float = 1.0) -> Callable[[Results], Verdict]:
    """`a` does `factor` times less damage than `b`, their intervals that far apart: shown where `b` is surely positive and `a`, where it
    is positive at all, that much smaller; contrary where `a` surely is too large. Where `b` does none there is nothing to undercut. For
    measures that are not returns, whose cells have intervals of their own."""

    def predicate(results: Results) -> Verdict:
        parts = []
        for task, label in results.tasks():
            ours, theirs = results.cell(task, *a), results.cell(task, *b)
            if ours is None or theirs is None:
                parts.append(Part("missing", f"{label} (no {name_of(a if ours is None else b)})"))
                continue
            x, y = wide(ours), wide(theirs)
            undercut = y.low > 0 and factor * max(x.high, 0.0) < y.low
            limit = max(y.high, 0.0)
            sign: Sign = "shown" if undercut else "contrary" if factor * x.low > limit else "open"
            tail = _tail(ours, factor * (x.mean - x.low), factor * x.mean - limit)
            parts.append(_unless_single(ours, Part(sign, f"{label} {x.mean:.2g} against {y.mean:.2g}", tail)))
        return together(parts)

    return predicate


def above(a: Place, limit: float, under: bool = False) -> Callable[[Results], Verdict]:
    """The whole interval of `a` lies above a number, or `under` it."""

    def predicate(results: Results) -> Verdict:
        parts = []
        for task, label in results.tasks():
            cell = results.cell(task, *a)
            if cell is None:
                parts.append(Part("missing", f"{label} (no {name_of(a)})"))
                continue
            value = wide(cell)
            sides: tuple[Sign, Sign] = ("contrary", "shown") if under else ("shown", "contrary")
            sign: Sign = sides[0] if value.low > limit else sides[1] if value.high < limit else "open"
            text, half = f"{label} {value.mean:.2g} [{value.low:.2g}, {value.high:.2g}]", (value.high - value.low) / 2
            parts.append(_unless_single(cell, Part(sign, text, _tail(cell, half, abs(limit - value.mean)))))
        return together(parts)

    return predicate


def wide(cell: dict[str, Any]) -> stats.Interval:
    """A cell's interval, or Student's over its seeds where that is wider."""
    value = stats.Interval(**cell["value"])
    half, _ = student(np.asarray(cell["seeds"] or [0.0]), value.mean)
    return stats.Interval(value.mean, min(value.low, value.mean - half), max(value.high, value.mean + half))


def _tail(cell: dict[str, Any], half: float, beyond: float) -> float:
    """One-sided p-value of a mean that lies `beyond` a limit, from half of its interval towards that limit: Student's over the cell's
    seeds, of a single one normal."""
    from scipy.stats import norm, t

    if half <= 0:
        return 1.0
    law = t(len(cell["seeds"]) - 1) if cell["seeds"] and len(cell["seeds"]) > 1 else norm
    return float(law.sf(law.ppf(1 - ERROR / 2) * beyond / half))


def _unless_single(cell: dict[str, Any], part: Part) -> Part:
    """A number without an interval decides nothing."""
    if cell["value"]["low"] < cell["value"]["high"]:
        return part
    return Part("open", f"{part.text}: one value says nothing of its spread")


def judge(claims: Sequence[Claim], document: dict[str, Any]) -> list[tuple[Claim, Verdict]]:
    results = Results(document)
    return [(claim, claim.predicate(results)) for claim in claims]
