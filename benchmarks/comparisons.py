"""docs/comparisons.md from finished comparisons: python benchmarks/comparisons.py [results/runs/quick]

Every folder below it with a comparison.json of SPAR and several competitors (`spar compare TASK --algos ... --out FOLDER/TASK`) becomes a
section: its table, whether SPAR's variants return surely more or less than each competitor, its notes, its pictures. README.md gets the
sentence about the embedded log.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import page

from spar import files, registry
from spar.data import catalog, sheets
from spar.evaluate import scores, stats
from spar.report import compare as report
from spar.runs import compare, experiment
from spar.studies.claims import ERROR, difference, joint, show
from spar.studies.study_scores import label

AUTHORS = page.ROOT / "results" / "settled" / "iql-of-its-authors"  # runs with the settings of implicit_q_learning's code, DATASET each
PAGE = page.ROOT / "docs" / "comparisons.md"
HEAD = """# SPAR and its competitors on equal terms

One section a dataset, written by `benchmarks/comparisons.py` from `spar compare`: equal data, updates, seeds and network sizes, the last
checkpoint, wins and losses as they fell. The suite is [collected by D4RL's recipes](suite.md); the numbers are not D4RL's. The sentences
below a table take Student's intervals over seeds, which of three are wide, after Bonferroni's correction over the competitors.

What was tuned on these returns: target critics follow, for each algorithm, at the better of two rates on hopper-replay, whose means are so
the better of two, of TD3+BC's the best of three, and elsewhere at the rate chosen there; of CQL one alone was tried, and BCQ took the
published one where the faster had diverged ([readings.md](readings.md#budgets)). SPAR had
a second try on pointmaze-large, where its defaults had failed and it takes the paper's settings for AntMaze ([failures.md](failures.md));
the others had none. All other settings but network sizes are as published for the task or its family, or *ours* where nobody published any
([competitors.md](competitors.md)), also learning rates that count on a million updates (Onestep, the CVAE of PLAS, the policy of CQL);
Onestep's operator and weight, which its authors tuned for each dataset, are one pair for all. Times were taken beside other work on the
same two cores and say little. Why SPAR does not lead where it does not: [failures.md](failures.md).
"""


def returns(folder: Path, algo: str) -> np.ndarray:
    """(S, E) in normalised points where the task has a reference."""
    summary = experiment.read_summary(folder / algo)
    values = np.asarray(summary["returns"]["policy"], np.float64)
    normalised = scores.normalise(summary["env"], values)
    return values if normalised is None else normalised


def compared(folder: Path, document: dict[str, Any]) -> Iterator[tuple[str, dict[str, stats.Interval]]]:
    """Each gated algorithm with the intervals of its leads over every competitor, the best first; paired by seed and start state."""
    tables = {row["run"]: returns(folder, row["run"]) for row in document["rows"] if "run" in row}
    competitors = sorted((algo for algo in tables if not registry.get(algo).gated), key=lambda algo: -tables[algo].mean())
    for algo in (algo for algo in tables if competitors and algo not in competitors):
        yield algo, {other: joint([tables[algo], tables[other]], difference, ERROR / len(competitors))[0] for other in competitors}


def sure(leads: dict[str, stats.Interval]) -> tuple[list[str], list[str]]:
    """Those that return surely less, and those that return surely more."""
    return [other for other, one in leads.items() if one.low > 0], [other for other, one in leads.items() if one.high < 0]


def verdicts(folder: Path, document: dict[str, Any]) -> list[str]:
    unit = "normalised points" if scores.reference(document["env"]) else "return"
    found = []
    for algo, leads in compared(folder, document):
        told = dict(zip(("more", "less"), sure(leads), strict=True))
        said = [f"returns surely {word} than {', '.join(f'`{other}`' for other in others)}" for word, others in told.items() if others]
        rest = len(leads) - sum(map(len, told.values()))
        said += [f"is not told apart from {'the other ' if said else 'any of the '}{rest}"] if rest else []
        best = next(iter(leads))
        found.append(f"- `{algo}` {', '.join(said)}; against the best of them, `{best}`: {show(leads[best])} {unit}.")
    return found


def standing(folder: Path) -> str:
    """README's sentence: where SPAR stands on the log that its first command trains on."""
    document = json.loads((folder / compare.NAME).read_text())
    algo, leads = next(iter(compared(folder, document)))
    above, below = ([other for other, one in leads.items() if (one.mean < 0) == higher] for higher in (True, False))
    losers, winners = sure(leads)
    name = document["dataset"]["name"]
    higher = (AUTHORS / name / "summary.json").is_file() and returns(AUTHORS, name).mean() > returns(folder, algo).mean()
    too = " (IQL with its authors' settings too)" if higher and "iql" in below else ""
    ends = [f"surely more than {_listed(losers)}"] if losers else []
    ends += [f"surely less than {_listed(winners)}"] if winners else []
    apart = f"{label(algo)} returns {' and '.join(ends)}" if ends else f"{label(algo)} is told apart from none of them"
    return (
        f"On the same log, with as many updates and seeds {', '.join(map(str, document['seeds']))}, on which target rates were chosen, "
        f"{_listed(above) or 'no competitor'} "
        f"{'has a' if len(above) < 2 else 'have'} higher mean return{'s' if len(above) > 1 else ''} than {label(algo)}{too}, and "
        f"{_listed(below) or 'none'} {'a lower one' if len(below) == 1 else 'lower ones'}; {apart}: "
        "[docs/comparisons.md](docs/comparisons.md)."
    )


def _listed(algos: Sequence[str]) -> str:
    names = [label(algo) for algo in algos]
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def sources(folders: dict[str, Path]) -> str:
    """IQL with CORL's settings and with its authors': which are taken decides where it stands."""
    rows = []
    for name, folder in folders.items():
        if (AUTHORS / name / "summary.json").is_file() and (folder / "iql" / "summary.json").is_file():
            own, theirs = returns(folder, "iql"), returns(AUTHORS, name)
            gain = stats.paired_gain(own, theirs)
            rows.append([name, f"{own.mean():.1f}", f"{theirs.mean():.1f}", show(gain)])
    text = (
        "IQL is published with two sets of settings; `iql` takes CORL's. With its authors' own (states as they are, locomotion's rewards\n"
        "over the range of returns, other settings on Adroit) it returned, in normalised points:\n\n"
    )
    return text + page.table(("", "CORL's", "its authors'", "difference, 95 % interval"), rows) if rows else ""


def glance(folders: Sequence[Path]) -> str:
    """Every algorithm's mean on every dataset."""
    means, titles = list[dict[str, str]](), list[str]()
    for folder in folders:
        document = json.loads((folder / compare.NAME).read_text())
        titles.append(document["dataset"]["name"])
        means.append({row["run"]: f"{returns(folder, row['run']).mean():.1f}" for row in document["rows"] if "run" in row})
    algos = [name for name in registry.ALGOS if any(name in one for one in means)]
    return page.table(["", *titles], ([label(algo), *(one.get(algo, "not run") for one in means)] for algo in algos))


def section(folder: Path) -> str:
    document = json.loads((folder / compare.NAME).read_text())
    header, rows = report.table(document)
    place = os.path.relpath(folder, PAGE.parent)
    pictures = [
        f"![{name}]({place}/plots/{name}.png)" for name in ("profiles", "learning-curves") if (folder / "plots" / f"{name}.png").is_file()
    ]
    parts = [
        f"## {document['dataset']['name']}",
        page.table(header, rows),
        "\n".join(verdicts(folder, document)),
        f"`{document['command']}`",
    ]
    return "\n\n".join(filter(None, [*parts, *report.notes(document), *pictures]))


def _both_kinds(folder: Path) -> bool:
    """Whether SPAR and competitors have finished there."""
    rows = json.loads((folder / compare.NAME).read_text())["rows"]
    return len({registry.get(row["run"]).gated for row in rows if "run" in row}) == 2 and len(rows) > 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="?", type=Path, default=page.ROOT / "results" / "runs" / "quick")
    found = {path.parent.name: path.parent for path in parser.parse_args().runs.glob(f"*/{compare.NAME}")}
    order = [sheet["name"] for sheet in sheets.known()]
    several = [name for name in order if name in found and _both_kinds(found[name])]
    folders = [found[name] for name in several]
    at_once = f"Mean scores, in normalised points:\n\n{glance(folders)}"
    both = sources({name: found[name] for name in several})
    files.write_text(PAGE, "\n\n".join(filter(None, [HEAD.rstrip(), at_once, both, *map(section, folders)])) + "\n")
    for name in catalog.EMBEDDED:
        if name in several:
            page.put(page.ROOT / "README.md", "standing", standing(found[name]))
    print(PAGE)


if __name__ == "__main__":
    main()
