"""docs/comparisons.md from finished comparisons: python benchmarks/comparisons.py [results/runs/quick]

Every folder below it with a comparison.json of SPAR and several competitors (`spar compare TASK --algos ... --out FOLDER/TASK`) becomes a
section: its table, whether SPAR's variants return surely more or less than each competitor, its notes, its pictures.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import page

from spar import files, registry
from spar.data import sheets
from spar.evaluate import scores
from spar.report import compare as report
from spar.runs import compare, experiment
from spar.studies.claims import ERROR, difference, joint, show

PAGE = page.ROOT / "docs" / "comparisons.md"
HEAD = """# SPAR and its competitors on equal terms

One section a dataset, written by `benchmarks/comparisons.py` from `spar compare`: equal data, updates, seeds and network sizes, the last
checkpoint, wins and losses as they fell. The suite is [collected by D4RL's recipes](suite.md); the numbers are not D4RL's. The sentences
below a table take Student's intervals over seeds, which of three are wide, after Bonferroni's correction over the competitors.

What was tuned on these returns: target critics follow, for each algorithm, at the better of two rates on hopper-replay, whose means are so
the better of two, and elsewhere at the rate chosen there; of CQL one alone was tried ([readings.md](readings.md#budgets)). SPAR had
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


def verdicts(folder: Path, document: dict[str, Any]) -> list[str]:
    """Each gated algorithm against every competitor, paired by seed and start state."""
    tables = {row["run"]: returns(folder, row["run"]) for row in document["rows"] if "run" in row}
    competitors = sorted((algo for algo in tables if not registry.get(algo).gated), key=lambda algo: -tables[algo].mean())
    unit = "normalised points" if scores.reference(document["env"]) else "return"
    found = []
    for algo in (algo for algo in tables if competitors and algo not in competitors):
        intervals = {other: joint([tables[algo], tables[other]], difference, ERROR / len(competitors))[0] for other in competitors}
        more, less = ([other for other, one in intervals.items() if sure(one)] for sure in (lambda i: i.low > 0, lambda i: i.high < 0))
        said = [
            f"returns surely {word} than {', '.join(f'`{other}`' for other in others)}"
            for word, others in (("more", more), ("less", less))
            if others
        ]
        rest = len(competitors) - len(more) - len(less)
        said += [f"is not told apart from {'the other ' if said else 'any of the '}{rest}"] if rest else []
        best = competitors[0]
        found.append(f"- `{algo}` {', '.join(said)}; against the best of them, `{best}`: {show(intervals[best])} {unit}.")
    return found


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
    files.write_text(PAGE, "\n\n".join([HEAD.rstrip(), *(section(found[name]) for name in several)]) + "\n")
    print(PAGE)


if __name__ == "__main__":
    main()
