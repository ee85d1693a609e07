"""What claims say of a table's cells, each a function of the results that gives a verdict: better, throughout, best, steadier, flat,
collapses, alike, below, above."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from spar.evaluate import stats
from spar.studies.claims import ERROR, Part, Results, Sign, Verdict, difference, joint, positive, samples, show, together

Place = tuple[str, str | None]  # column and row; a row of None: the first that has the column


def place(column: str | Place) -> Place:
    return (column, None) if isinstance(column, str) else column


def name_of(column: str | Place) -> str:
    return " ".join(filter(None, reversed(place(column))))


def better(a: str | Place, b: str | Place, *regimes: str) -> Callable[[Results], Verdict]:
    """`a` returns more than `b`, on every task of the regimes (of all, without them)."""

    def predicate(results: Results) -> Verdict:
        return together([compare(results, task, label, a, b) for task, label in results.tasks(*regimes)] + results.absent(*regimes))

    return predicate


def throughout(pairs: Sequence[tuple[str | Place, str | Place]], *regimes: str) -> Callable[[Results], Verdict]:
    """The first of each pair returns more than the second, on every task of the regimes (of all, without them); of each task that pair
    is shown which decides, and where some are missing it is undecided at best."""

    def predicate(results: Results) -> Verdict:
        parts = results.absent(*regimes)
        for task, label in results.tasks(*regimes):
            found = [compare(results, task, f"{label} {name_of(a)} over {name_of(b)}", a, b) for a, b in pairs]
            judged = [part for part in found if part.sign != "missing"]
            parts += [_deciding(judged)] if judged else []
            parts += [Part("missing", part.text) for part in found if part.sign == "missing"]
        return together(parts)

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
        parts = [against_all(results, task, label, a, others) for task, label in results.tasks(*regimes)]
        return together(parts + results.absent(*regimes))

    return predicate


def against_all(results: Results, task: str, label: str, a: str | Place, others: Sequence[str | Place]) -> Part:
    """`a` against each of the others on one task; the text is that of a comparison that decides: the surest loss, else the strongest
    competitor among those that leave it open, else the one that comes closest."""
    own = values(results, task, a)
    if own is None:
        return Part("missing", f"{label} (no {name_of(a)})")
    tables = [(other, table) for other in others if (table := values(results, task, other)) is not None]
    if not tables:
        return Part("missing", f"{label} (nothing to hold {name_of(a)} against)")
    parts = [
        positive(f"{label} over {name_of(other)}", [own, table], difference, interest=results.interest(task)) for other, table in tables
    ]
    found = _deciding(parts, [float(table.mean()) for _, table in tables])
    missing = [name_of(other) for other in others if other not in [present for present, _ in tables]]
    if not missing:
        return found
    return found._replace(sign="open" if found.sign == "shown" else found.sign, text=f"{found.text}, without {', '.join(missing)}")


def _deciding(parts: Sequence[Part], strength: Sequence[float] | None = None) -> Part:
    """One part for comparisons all of which have to show it, in the words of the one that decides: the surest contrary one, else, of those
    of the sign that they come to, the one of most `strength`, by default the one nearest to the contrary."""
    signs = {part.sign for part in parts}
    sign: Sign = "contrary" if "contrary" in signs else "shown" if signs == {"shown"} else "open"
    tail = min((part.tail for part in parts if part.sign == "contrary"), default=0.0)
    weights = [-part.tail for part in parts] if strength is None else strength
    candidates = [i for i, part in enumerate(parts) if part.sign == sign]
    chosen = min(candidates, key=lambda i: (parts[i].tail if sign == "contrary" else 0.0, -weights[i]))
    return Part(sign, parts[chosen].text, tail, len(parts))


def steadier(a: Sequence[Place], b: Sequence[Place], *regimes: str) -> Callable[[Results], Verdict]:
    """The means of the cells `a` spread less, largest minus smallest, than those of as many cells `b`; the number is how much less."""

    def predicate(results: Results) -> Verdict:
        parts, count = results.absent(*regimes), max(1, len(list(results.tasks(*regimes))))
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


def flat(places: Sequence[str | Place], margin: float, *regimes: str) -> Callable[[Results], Verdict]:
    """The means of the cells spread, largest minus smallest, by less than `margin`; contrary where they surely spread by more."""

    def predicate(results: Results) -> Verdict:
        parts, count = results.absent(*regimes), max(1, len(list(results.tasks(*regimes))))
        for task, label in results.tasks(*regimes):
            tables = [values(results, task, one) for one in places]
            present = [table for table in tables if table is not None]
            if len(present) < len(tables):
                lacking = ", ".join(name_of(one) for one, table in zip(places, tables, strict=True) if table is None)
                parts.append(Part("missing", f"{label} (no {lacking})"))
                continue
            found, surely = spread(present), spread(present, ERROR / count)
            sign: Sign = "shown" if found.high < margin else "contrary" if surely.low > margin else "open"
            parts.append(Part(sign, f"{label} {show(found)}"))  # the contrary was asked of as many comparisons as there are tasks
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
        parts = results.absent(*regimes)
        for task, label in results.tasks(*regimes):
            tables = [values(results, task, one) for one in (a, b)]
            lacking = " and ".join(name_of(one) for one, table in zip((a, b), tables, strict=True) if table is None)
            shortfall = positive(
                label, tables, lambda means: share * means[..., 1] - means[..., 0], f"no {lacking}", results.interest(task)
            )
            base = tables[1]
            if shortfall.sign in ("shown", "contrary") and base is not None and joint([base], lambda means: means[..., 0])[0].low <= 0:
                shortfall = Part("open", f"{shortfall.text}: {name_of(b)} is not surely above 0")
            parts.append(shortfall)
        return together(parts)

    return predicate


def alike(a: str | Place, b: str | Place, margin: float, *regimes: str) -> Callable[[Results], Verdict]:
    """`a` and `b` differ by less than `margin`: shown where the interval of the difference lies within it, contrary where outside."""

    def predicate(results: Results) -> Verdict:
        parts = results.absent(*regimes)
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


def below(a: Place, b: Place, factor: float = 1.0, regimes: Sequence[str] = ()) -> Callable[[Results], Verdict]:
    """`a` does `factor` times less damage than `b`, their intervals that far apart: shown where `b` is surely positive and `a`, where it
    is positive at all, that much smaller; contrary where `a` surely is too large. Where `b` does none there is nothing to undercut. For
    measures that are not returns, whose cells have intervals of their own."""

    def predicate(results: Results) -> Verdict:
        parts = results.absent(*regimes)
        for task, label in results.tasks(*regimes):
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


def above(a: Place, limit: float, under: bool = False, regimes: Sequence[str] = ()) -> Callable[[Results], Verdict]:
    """The whole interval of `a` lies above a number, or `under` it."""

    def predicate(results: Results) -> Verdict:
        parts = results.absent(*regimes)
        for task, label in results.tasks(*regimes):
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
    half, _ = stats.student(np.asarray(cell["seeds"] or [0.0]), value.mean)
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
