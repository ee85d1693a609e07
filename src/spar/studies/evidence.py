"""docs/evidence.md: what was run, every study's table, and which of the paper's claims it bears out; made from results/*.json alone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from spar import files, registry
from spar.runs.config import BUDGETS
from spar.runs.environment import unique
from spar.studies import claims, results, tables
from spar.studies.catalogue import STUDIES
from spar.studies.run import write_result

HEAD = """# What was measured

Written by `spar study evidence` from the files in `results/`; no result and no verdict on this page was typed. A claim *holds* where 95 %
intervals show it on every task that it speaks of, and *holds where run* where they do on those of the study's tasks that were run; it
*does not hold* where one shows the contrary after Bonferroni's correction over the claim's comparisons; it is *undecided* where intervals
leave both open, where scores differ by less than half a normalised point, or where one value says nothing of its spread. Those intervals
are Student's, over seeds and over seeds and start states, where these are wider than the bootstrap's, which tables have in brackets: of
three seeds the bootstrap's are too narrow. *The paper's own numbers* are its table put to the same question, each mean taken as it is
printed: some claims its text has and its table has not. Our datasets follow D4RL's recipes and are not D4RL's, so the paper's numbers
stand beside ours for orientation only. Claims that begin with *Ours* are this project's, and are counted apart.

What was chosen on returns of these tasks, with these seeds: the rate of SPAR's and its competitors' target critics, on hopper-replay
([readings.md](readings.md#budgets)); that PointMaze takes the settings of the paper's AntMaze, after those of locomotion had returned
nothing there ([failures.md](failures.md)); and where `readings` has been run the defaults among its readings. A cell with these choices
is so the better of a few, by chance too.
"""
NOTHING = (
    "No study has been run yet: `results/` holds no study's file. `spar study list` shows what there is, `spar study NAME` runs one.\n"
)


def write(folder: Path = Path("results"), out: Path = Path("docs/evidence.md")) -> Path:
    """(Re)make the page from the result documents in `folder`, and each document's own NAME.md and NAME-curves.png beside it. Raises
    SparError for one that cannot be read."""
    out.parent.mkdir(parents=True, exist_ok=True)
    text = page(folder, out)
    for study in STUDIES.values():
        if (folder / f"{study.name}.json").is_file():
            write_result(study, folder)
    files.write_text(out, text)
    return out


def page(folder: Path, out: Path) -> str:
    """The page's text; pictures are addressed from `out`."""
    paths = [folder / f"{name}.json" for name in STUDIES]
    documents = [STUDIES[path.stem].shown(results.read(path)) for path in paths if path.is_file()]
    if not documents:
        return f"{HEAD}\n{NOTHING}"
    address = Path(os.path.relpath(folder, out.parent)).as_posix()
    sections = []
    for document in documents:
        study = STUDIES[document["study"]]
        sections.append(tables.section(document, study, tables.pictures(study.name, folder, f"{address}/")))
    missing = [f"`{name}`" for name in STUDIES if name not in {document["study"] for document in documents}]
    parts = [HEAD, "## What was run\n", *lengths(documents), overview(documents).markdown() + "\n"]
    if missing:
        parts.append(f"Not run yet: {', '.join(missing)}.\n")
    return "\n".join([*parts, *sections])


def lengths(documents: list[dict[str, Any]]) -> list[str]:
    """How far each budget is from the paper's, a paragraph each."""
    paper, spar = BUDGETS["paper"], registry.get("spar-mlp")
    found, published = [], spar.default.critic.polyak
    for name in unique(document["budget"] for document in documents):
        steps = next(document["steps"] for document in documents if document["budget"] == name)
        share = sum(steps.values()) / (paper.steps_anchor + paper.steps_residual)
        rate = published if name not in BUDGETS else BUDGETS[name].target_rate(spar, published, steps["anchor"], steps["residual"])
        if share < 1:
            found.append(
                f"Budget {name}: {steps['anchor']:,} + {steps['residual']:,} updates, {share:.1%} of the paper's {paper.steps_anchor:,} + "
                f"{paper.steps_residual:,} (Table 7); SPAR's target critics follow at {rate:g}, the paper's at {published:g}. What does "
                "not hold after so short a training may hold after a longer one.\n"
            )
    return found


def overview(documents: list[dict[str, Any]]) -> tables.Table:
    """A line a study: how much was run, how the paper's claims fared, and how many of our own held of those judged."""
    words = ("holds", claims.PARTLY, "does not hold", "undecided", claims.MISSING)
    rows = []
    for document in documents:
        study = STUDIES[document["study"]]
        verdicts = claims.judge(study.claims, document, study.regimes)
        judged = [verdict.word for claim, verdict in verdicts if not claim.ours]
        ours = [verdict for claim, verdict in verdicts if claim.ours]
        runs = {cell["run"] for cell in document["cells"] if cell["run"]}
        rows.append(
            [
                f"[{document['study']}](#{anchor(document)})",
                document["budget"],
                str(len(document["tasks"])),
                str(len(document["seeds"])),
                str(len(runs)),
                *(str(judged.count(word)) for word in words),
                f"{sum(verdict.held is True for verdict in ours)} of {len(ours)}" if ours else "",
            ]
        )
    return tables.Table(["study", "budget", "tasks", "seeds", "runs", *words, "ours held"], rows)


def anchor(document: dict[str, Any]) -> str:
    """The address that Markdown's readers give the study's heading."""
    heading = f"{document['study']}: {document['title']}".lower()
    return "".join(c for c in heading.replace(" ", "-") if c.isalnum() or c in "-_")
