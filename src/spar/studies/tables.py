"""A result document as text: its table with the paper's numbers beside ours, the verdicts, and what a reader must know of both."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from spar.evaluate import stats
from spar.runs.environment import unique
from spar.studies import claims, curves, printed
from spar.studies.claims import Claim, Regimes, Verdict
from spar.studies.grid import SMOKE, Study
from spar.studies.results import RETURN, SCORE

FEW_SEEDS = 3
MANY_COLUMNS = 6  # more than this lie down the side
DOUBT = "†"


@dataclasses.dataclass(frozen=True)
class Table:
    header: list[str]
    rows: list[list[str]]

    def markdown(self) -> str:
        line = ["---", *["---:"] * (len(self.header) - 1)]
        return "\n".join("| " + " | ".join(cells) + " |" for cells in [self.header, line, *self.rows])


def table(document: dict[str, Any]) -> Table:
    """Rows are tasks (and rows within them), columns the study's; where those are many, the other way round."""
    cells = document["cells"]
    columns = unique(cell["column"] for cell in cells)
    rows = list(dict.fromkeys((cell["task"], cell["row"]) for cell in cells))
    texts = {(cell["task"], cell["row"], cell["column"]): text(cell) for cell in cells}
    labels = [" ".join(filter(None, (task_label(document, task), row))) for task, row in rows]
    if len(columns) <= MANY_COLUMNS:
        lines = [[label, *(texts.get((*row, column), "") for column in columns)] for label, row in zip(labels, rows, strict=True)]
        return Table(["", *columns], lines)
    return Table(["", *labels], [[column, *(texts.get((*row, column), "") for row in rows)] for column in columns])


def task_label(document: dict[str, Any], task: str) -> str:
    short = document["tasks"][task]["paper"]
    return f"{task} ({short})" if short else task


def text(cell: dict[str, Any]) -> str:
    """`29.1 [27.0, 31.2] (101.9 ± 0.4)`: ours with its interval, the paper's in parentheses; one of them where the other is missing."""
    ours = "failed" if cell["failed"] else ""
    if cell["value"] is not None:
        mean, low, high = (number(cell["value"][key], cell["unit"]) for key in ("mean", "low", "high"))
        ours = mean if low == high else f"{mean} [{low}, {high}]"
    printed = cell["paper"]
    if printed is None:
        return ours
    theirs = f"{printed['mean']:g}" + (f" ± {printed['std']:g}" if printed["std"] is not None else "")
    return f"{ours} ({theirs}{DOUBT if printed['doubt'] else ''})".strip()


def number(value: float, unit: str | None) -> str:
    if unit in (SCORE, RETURN):
        return f"{value:.1f}"
    return {"ms": f"{value:.3f}", "MiB": f"{value:.0f}"}.get(unit or "", f"{value:.3g}")


def verdicts(
    document: dict[str, Any], of: Sequence[Claim], declared: Regimes | None = None, papers: Mapping[str, Verdict] | None = None
) -> list[str]:
    """A paragraph that counts the verdicts, then each claim with its own and with the numbers behind it; and, where `papers` has it, the
    verdict of the paper's table. `declared` are the tasks that the study has of itself."""
    judged = claims.judge(of, document, declared)
    if not judged:
        return []
    papers_own = counted("the paper's", [verdict.word for claim, verdict in judged if not claim.ours])
    ours = counted("our own", [verdict.word for claim, verdict in judged if claim.ours])
    theirs = {claim.text: own(verdict) for claim, _ in judged if (verdict := (papers or {}).get(claim.text))}
    lines = [
        f"- **{verdict.word}**: {'Ours: ' if claim.ours else ''}{claim.text}. {because(verdict)}{theirs.get(claim.text, '')}"
        for claim, verdict in judged
    ]
    return [f"{papers_own} {ours}".strip(), "\n".join(lines)]


def counted(whose: str, words: Sequence[str]) -> str:
    """Of the paper's 4 claims, 3 held, 1 did not hold."""
    if len(words) < 2:
        return f"{whose.capitalize()} claim {SINGLE[words[0]]}." if words else ""
    return f"Of {whose} {len(words)} claims, {', '.join(f'{words.count(word)} {said}' for word, said in COUNTED.items() if word in words)}."


def own(table: Verdict) -> str:
    """What the paper's own table says, and where it does not say what the claim says."""
    if table.held:
        return f" The paper's own numbers agree{f', {printed.SUSPECT}' if table.because.endswith(printed.SUSPECT) else ''}."
    return f" The paper's own numbers: {table.word} ({table.because})."


SINGLE = {word: word for word in ("holds", claims.PARTLY, "does not hold", claims.MISSING)} | {"undecided": "stays undecided"}
COUNTED = {
    "holds": "held", claims.PARTLY: "held where run", "does not hold": "did not hold", "undecided": "stayed undecided",
    claims.MISSING: "could not be judged",
}  # fmt: skip


def because(verdict: Verdict) -> str:
    found = verdict.because.removeprefix(f"{claims.MISSING}: ")
    return f"{found[:1].upper()}{found[1:]}."


def reading(document: dict[str, Any]) -> list[str]:
    """How to read the table: units, intervals, conditions, and every doubt, a line each."""
    cells, seeds = document["cells"], document["seeds"]
    ours = [cell for cell in cells if cell["value"] is not None]
    found = []
    if document["budget"] == SMOKE:
        found.append("A smoke study shows that every part works; its numbers and verdicts mean nothing.")
    elif len(seeds) < FEW_SEEDS:
        found.append(f"Fewer than {FEW_SEEDS} seeds: a first look, not evidence.")
    if any(cell["unit"] == SCORE for cell in ours):
        spread = "the episodes of one seed, not the spread between seeds" if len(seeds) == 1 else "seeds and their episodes"
        found.append(f"Normalised scores; brackets: 95 % bootstrap interval over {spread}; last checkpoint.")
    logs = [
        f"{task_label(document, name)} {about['behaviour']:.1f}"
        for name, about in document["tasks"].items()
        if about["behaviour"] is not None
    ]
    if logs and any(cell["unit"] in (SCORE, RETURN) for cell in ours):
        found.append(f"What the logs' own episodes return, as long as they were recorded, in the same units: {'; '.join(logs)}.")
    if curves.has(document):
        found.append("Lines of training curves are evaluations on the way, of few episodes; the diamond is the final one, of the table's.")
    unscored = unique(cell["task"] for cell in ours if cell["unit"] == RETURN)
    if unscored:
        found.append(f"Plain returns, because they have no reference score: {', '.join(unscored)}.")
    if any(cell["paper"] for cell in cells):
        found.append("Parentheses: what the paper prints for D4RL's own data and simulators; these datasets follow D4RL's recipes.")
    for doubt in unique(cell["paper"]["doubt"] for cell in cells if cell["paper"] and cell["paper"]["doubt"]):
        found.append(f"{DOUBT} {doubt}.")
    for cell in cells:
        if cell["failed"]:
            found.append(f"{where(document, cell)} has no number: {cell['failed']}.")
    return [*found, *document["notes"], *late(document), *unwell(document), *edited(document)]


def late(document: dict[str, Any]) -> list[str]:
    """Which runs were still rising or falling when they ended, and how many were evaluated too seldom to tell."""
    changes = [(cell, cell["late"]) for cell in _one_a_run(document)]
    told = [(cell, late) for cell, late in changes if late]
    rising = [_changed(document, cell, late) for cell, late in told if late["low"] > 0]
    falling = [_changed(document, cell, late) for cell, late in told if late["high"] < 0]
    found = [f"Not flattened, so more training may change them: {'; '.join(rising)}."] if rising else []
    found += [f"Fell towards the end of training: {'; '.join(falling)}."] if falling else []
    open_ones = len(told) - len(rising) - len(falling)
    if open_ones:
        found.append(f"Runs whose few evaluation episodes show no sure change from the third quarter of training to its end: {open_ones}.")
    untold = len(changes) - len(told)
    return found + ([f"Runs with too few evaluations to tell whether they had flattened: {untold}."] if untold else [])


def _changed(document: dict[str, Any], cell: dict[str, Any], change: dict[str, float]) -> str:
    return f"{of_run(document, cell)} {claims.show(stats.Interval(**change))} since the third quarter"


def unwell(document: dict[str, Any]) -> list[str]:
    """Which generative residuals ignore their latent, and on which tasks the critics behind the gate had not settled."""
    runs, of = _one_a_run(document), len(document["seeds"])
    collapsed = [f"{of_run(document, cell)} ({len(cell['collapsed'])} of {of} seeds)" for cell in runs if cell["collapsed"]]
    moving = unique(f"{task_label(document, cell['task'])} ({len(cell['moving'])} of {of})" for cell in runs if cell["moving"])
    found = [f"Posterior collapse, all candidates are almost one action: {'; '.join(collapsed)}."] if collapsed else []
    return found + ([f"Critics still moving when Stage I ended, seeds a task: {', '.join(moving)}."] if moving else [])


def edited(document: dict[str, Any]) -> list[str]:
    """Cells whose printed mean, or whose seeds' means, are not those of their own numbers: somebody changed one of them."""
    found = []
    for cell in document["cells"]:
        values = claims.samples(cell)
        if values is None or cell["value"] is None:
            continue
        pairs = [(cell["value"]["mean"], values.mean()), *zip(cell["seeds"] or [], values.mean(1), strict=False)]
        changed = next((pair for pair in pairs if not np.isclose(*pair, rtol=1e-6, atol=1e-6)), None)
        if changed:
            stated, own = (number(float(value), cell["unit"]) for value in changed)
            of = "episodes" if cell["returns"] is not None else "samples"
            found.append(f"{where(document, cell)}: the file says {stated}, its {of} say {own}: the file was changed by hand.")
    return found


def of_run(document: dict[str, Any], cell: dict[str, Any]) -> str:
    """The run behind a cell: its place in the table, or its name where the cell was measured on it, one of several."""
    return where(document, cell) if cell["shows"] else f"{task_label(document, cell['task'])} {cell['run'].split('/')[-1]}"


def where(document: dict[str, Any], cell: dict[str, Any]) -> str:
    return " ".join(filter(None, (task_label(document, cell["task"]), cell["row"], cell["column"])))


def _one_a_run(document: dict[str, Any]) -> list[dict[str, Any]]:
    """The trained policy's cell of each run, or one that was measured on it."""
    found = {cell["run"]: cell for cell in document["cells"] if cell["run"] and cell["curve"] and cell["shows"] in ("policy", None)}
    return list(found.values())


def pictures(name: str, folder: Path, address: str) -> list[str]:
    """The addresses of a study's pictures in `folder`, which has that address from the page."""
    return [f"{address}{name}{ending}" for ending in (".png", curves.ENDING) if (folder / f"{name}{ending}").is_file()]


def section(document: dict[str, Any], study: Study, addresses: Sequence[str], level: str = "##") -> str:
    """A study's part of the page; `addresses` are those of its pictures from there."""
    parts = [f"{level} {document['study']}: {document['title']}", f"{document['source']}. {document['about']}"]
    parts += [f"![{document['title']}{': training curves' if one.endswith(curves.ENDING) else ''}]({one})" for one in addresses]
    if document["cells"]:
        parts.append(table(document).markdown())
    parts += verdicts(document, study.claims, study.regimes, printed.verdicts(study))
    notes = reading(document)
    if notes:
        parts.append("\n".join(f"- {note}" for note in notes))
    parts.append(f"`{document['command']}`: {conditions(document)}")
    return "\n\n".join(parts) + "\n"


def _devices(found: Any) -> str:
    return found if isinstance(found, str) else ", ".join(found)


def conditions(document: dict[str, Any]) -> str:
    """Budget, updates, seeds, data, commit and cost."""
    steps, machine, memory = document["steps"], document["machine"] or {}, document["peak_memory_mib"]
    episodes = unique(f"{about['episodes']}" for about in document["tasks"].values())
    data = ", ".join(f"{name} {about['fingerprint']} ({about['transitions']:,} transitions)" for name, about in document["tasks"].items())
    return (
        f"budget {document['budget']}, {steps['anchor']:,} + {steps['residual']:,} updates, "
        f"seeds {', '.join(map(str, document['seeds']))}, "
        f"{' or '.join(episodes)} episodes a seed; {data}; commit {', '.join(c[:12] for c in document['commits']) or 'unknown'}; "
        f"{machine.get('cores', '?')} cores, {_devices(machine.get('devices', 'no device known'))}"
        + (f"; at most {memory:,.0f} MiB." if memory else ".")
    )
