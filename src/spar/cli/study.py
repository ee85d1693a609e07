"""`spar study`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from spar.cli.common import arg, parse, plain, wide
from spar.runs.config import Budget

USAGE = """usage: spar study COMMAND [OPTIONS]

The paper's tables and figures as grids of runs, its numbers beside ours, its claims judged by intervals.

  spar study list             the studies: what each asks, how many runs it takes, whether its result is there
  spar study NAME             train what is missing of a study, then write results/NAME.json, NAME.md and its picture
  spar study all              every study, one after another
  spar study evidence         docs/evidence.md from the files in results/

  spar study table4 --budget smoke              a minute: does it work?
  spar study table4                             quick: a first look, three seeds
  spar study table4 --tasks hopper-replay       on one task; `spar data list` names them, `spar data make NAME` makes one
  spar study table4 --budget paper              Table 7 of the paper to the letter

Runs are kept under --runs and shared: by the studies, and with `spar compare TASK --out RUNS/BUDGET/TASK`. The same command goes on
where it was cut off; a deleted run is trained again, the others stay. `spar study NAME --help` has every option.
"""


def study(argv: Sequence[str], console: Console) -> None:
    """Tables and figures of the paper, run, measured and judged."""
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE, end="")
        raise SystemExit(0 if argv else 2)
    if argv[0] == "list":
        _list(argv[1:], console)
    elif argv[0] == "evidence":
        _evidence(argv[1:], console)
    else:
        _run(argv[0], argv[1:], console)


def _list(argv: Sequence[str], console: Console) -> None:
    """The studies, in the paper's order."""

    def arguments(
        budget: Annotated[str, arg("count the runs of this budget")] = "quick",
        results: Annotated[Path, arg("where results are looked for", metavar="DIR")] = Path("results"),
    ) -> None:
        from spar.studies import grid
        from spar.studies.catalogue import STUDIES

        table = Table(box=None, pad_edge=False, header_style="bold")
        for title, justify in (
            ("study", "left"),
            ("asks", "left"),
            ("paper", "left"),
            ("tasks", "right"),
            ("runs", "right"),
            ("result", "left"),
        ):
            table.add_column(title, justify=justify, overflow="fold")  # type: ignore[arg-type]
        for name, one in STUDIES.items():
            tasks = [grid.task(task) for task in one.tasks]
            runs = sum(len(grid.runs_of(one, task, budget)) for task in tasks)
            done = "there" if (results / f"{name}.json").is_file() else ""
            table.add_row(name, one.title, one.source, str(len(tasks)), str(runs), done)
        wide(console, 170).print(table)
        print("A run has all seeds. Studies share runs, and every run of a task shares its first stage where it can.")

    parse(arguments, argv, "spar study list", _list.__doc__)


def _evidence(argv: Sequence[str], console: Console) -> None:
    """Write the page of evidence from the result files alone."""

    def arguments(
        results: Annotated[Path, arg("the studies' results", metavar="DIR")] = Path("results"),
        out: Annotated[Path, arg("the page", metavar="FILE")] = Path("docs/evidence.md"),
    ) -> None:
        from spar.studies import evidence

        plain(console, str(evidence.write(results, out)))

    parse(arguments, argv, "spar study evidence", _evidence.__doc__)


def _run(name: str, argv: Sequence[str], console: Console) -> None:
    """Train what is missing of a study, measure, and write its table with the paper's numbers and the verdicts."""
    from spar.studies import catalogue
    from spar.studies.run import Request

    studies = list(catalogue.STUDIES.values()) if name == "all" else [catalogue.get(name)]

    def arguments(
        tasks: Annotated[tuple[str, ...] | None, arg("datasets; default: the study's own", metavar="DATASET [DATASET ...]")] = None,
        seeds: Annotated[tuple[int, ...] | None, arg("training seeds; default: 0 42 123, of smoke 0", metavar="INT [INT ...]")] = None,
        budget: Annotated[
            Literal["smoke"] | Budget, arg("smoke: a few updates of tiny networks on hopper-replay; the others as in `spar train`")
        ] = "quick",
        runs: Annotated[Path, arg("where runs are kept: DIR/BUDGET/TASK/RUN", metavar="DIR")] = Request.runs,
        results: Annotated[Path | None, arg("where results are written; default: results, of smoke beside its runs", metavar="DIR")] = None,
    ) -> None:
        _execute(console, studies, Request(budget, tasks, seeds, runs, results))

    parse(arguments, argv, f"spar study {name}", _run.__doc__)


def _execute(console: Console, studies: Sequence[Any], request: Any) -> None:
    from spar.report.compare import Board
    from spar.studies import printed, run, tables

    for one in studies:
        with Board(console) as board:
            board.say(f"{one.name}: {one.title}; the same command goes on from here if it is cut off")
            document = run.execute(one, request, board)
        found = tables.table(document)
        table = Table(box=None, pad_edge=False, header_style="bold")
        for i, title in enumerate(found.header):
            table.add_column(title, justify="right" if i else "left", no_wrap=True)
        for cells in found.rows:
            table.add_row(*map(Text, cells))
        if found.rows:
            wide(console, 200).print(table)
        for line in [*tables.verdicts(document, one.claims, one.regimes, printed.verdicts(one)), *tables.reading(document)]:
            plain(console, line)
        plain(console, f"\nresult  {request.out / one.name}.json\ntable   {request.out / one.name}.md\n")
