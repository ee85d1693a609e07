"""docs/evidence.md: what was run, every study's table, and which of the paper's claims it bears out; made from results/*.json alone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from spar import files
from spar.studies import claims, results, tables
from spar.studies.catalogue import STUDIES

HEAD = """# What was measured

Written by `spar study evidence` from the files in `results/`; no result and no verdict on this page was typed. A claim *holds* where 95 %
intervals show it on every task that it speaks of, and *holds where run* where they do on those of the study's tasks that were run; it
*does not hold* where one shows the contrary after Bonferroni's correction over the claim's comparisons; it is *undecided* where intervals
leave both open, where scores differ by less than half a normalised point, or where one value says nothing of its spread. Those intervals
are Student's, over seeds and over seeds and start states, where these are wider than the bootstrap's, which tables have in brackets: of
three seeds the bootstrap's are too narrow. *The paper's own numbers* are its table put to the same question, each mean taken as it is
printed: some claims its text has and its table has not. Our datasets follow D4RL's recipes and are not D4RL's, so the paper's numbers
stand beside ours for orientation only.

What was chosen on returns of these tasks, with these seeds: the rate of SPAR's and its competitors' target critics, on hopper-replay
([readings.md](readings.md#budgets)), and where `readings` has been run the defaults among its readings. A cell with these choices is so
the better of a few, by chance too.
"""
NOTHING = (
    "No study has been run yet: `results/` holds no study's file. `spar study list` shows what there is, `spar study NAME` runs one.\n"
)


def write(folder: Path = Path("results"), out: Path = Path("docs/evidence.md")) -> Path:
    """(Re)make the page from the result documents in `folder`. Raises SparError for one that cannot be read."""
    out.parent.mkdir(parents=True, exist_ok=True)
    files.write_text(out, page(folder, out))
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
    parts = [HEAD, "## What was run\n", overview(documents).markdown() + "\n"]
    if missing:
        parts.append(f"Not run yet: {', '.join(missing)}.\n")
    return "\n".join([*parts, *sections])


def overview(documents: list[dict[str, Any]]) -> tables.Table:
    """A line a study: how much was run, and how its claims fared."""
    words = ("holds", claims.PARTLY, "does not hold", "undecided", claims.MISSING)
    rows = []
    for document in documents:
        study = STUDIES[document["study"]]
        judged = [verdict.word for _, verdict in claims.judge(study.claims, document, study.regimes)]
        runs = {cell["run"] for cell in document["cells"] if cell["run"]}
        rows.append(
            [
                f"[{document['study']}](#{anchor(document)})",
                document["budget"],
                str(len(document["tasks"])),
                str(len(document["seeds"])),
                str(len(runs)),
                *(str(judged.count(word)) for word in words),
            ]
        )
    return tables.Table(["study", "budget", "tasks", "seeds", "runs", *words], rows)


def anchor(document: dict[str, Any]) -> str:
    """The address that Markdown's readers give the study's heading."""
    heading = f"{document['study']}: {document['title']}".lower()
    return "".join(c for c in heading.replace(" ", "-") if c.isalnum() or c in "-_")
