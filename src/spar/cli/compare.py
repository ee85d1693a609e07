"""`spar compare`."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table

from spar import registry
from spar.cli.common import arg, parse, plain, wide
from spar.runs.config import AUTO, BUDGETS, PAPER_SEEDS, Budget, EvalConfig
from spar.types import SparError

DEFAULT_ALGOS = ("spar-mlp", "spar-proj", "bc", "td3bc", "iql")


def compare(argv: Sequence[str], console: Console) -> None:
    """Train several algorithms on one log with equal data, steps and seeds, and put their returns side by side. The same command with
    the same --out goes on where it was cut off, and finished runs stay, also those that another --algos put there."""

    def arguments(
        dataset: Annotated[
            tyro.conf.Positional[str], arg("a dataset's name (`spar data list`) or file", metavar="[DATASET]")
        ] = "hopper-replay",
        algos: Annotated[tuple[str, ...], arg("of " + ", ".join([*registry.ALGOS, AUTO]), metavar="NAME [NAME ...]")] = DEFAULT_ALGOS,
        seeds: Annotated[tuple[int, ...], arg("training seeds", metavar="INT [INT ...]")] = PAPER_SEEDS,
        steps_anchor: Annotated[int | None, arg("updates of SPAR's Stage I; default: the budget's", metavar="INT")] = None,
        steps_residual: Annotated[int | None, arg("updates of its Stage II; competitors take both together", metavar="INT")] = None,
        budget: Annotated[Budget, arg("as in `spar train`, without its seeds")] = "quick",
        env: Annotated[str | None, arg("gymnasium environment to evaluate in, where the data does not name one", metavar="ID")] = None,
        episodes: Annotated[int | None, arg("final evaluation episodes for each seed", metavar="INT")] = None,
        eval_every: Annotated[int | None, arg("updates between evaluations during training; default: the budget's", metavar="INT")] = None,
        eval_episodes: Annotated[int, arg("episodes in each of those")] = EvalConfig.episodes,
        log_every: Annotated[int | None, arg("updates between signs of life; default: the budget's", metavar="INT")] = None,
        equal_sizes: Annotated[bool, arg("competitors' networks and batches as large as SPAR's; --no-equal-sizes: as published")] = True,
        batch_size: Annotated[int | None, arg("rows drawn for one update; default: 256 for all", metavar="INT")] = None,
        out: Annotated[
            Path | None, arg("the folder, by default a dated one under runs/; one that was begun goes on", metavar="DIR")
        ] = None,
    ) -> None:
        means = BUDGETS[budget]
        settings = {
            "seeds": seeds,
            "steps_anchor": steps_anchor,
            "steps_residual": steps_residual,
            "budget": budget,
            "env": env,
            "episodes": episodes,
            "equal_sizes": equal_sizes,
            "eval": EvalConfig(means.eval_every if eval_every is None else eval_every, eval_episodes),
            "batch_size": batch_size,
            "log_every": log_every,
        }
        _compare(console, dataset, algos, settings, out, _command(argv))

    parse(arguments, argv, "spar compare", compare.__doc__)


def _command(argv: Sequence[str]) -> str:
    """What was typed, with a place for the algorithms: those of an earlier comparison in the same folder join them."""
    words, kept, listing = ["spar", "compare", *argv], [], False
    for word in words:
        listing = word == "--algos" or (listing and not word.startswith("-"))
        if not listing and not word.startswith("--algos="):
            kept.append(word)
    return f"{shlex.join(kept)} --algos {{algos}}"


def _compare(console: Console, dataset: str, algos: Sequence[str], settings: dict[str, Any], out: Path | None, command: str) -> None:
    from spar import api
    from spar.report import compare as report

    with report.Board(console) as board:
        document = api.compare(dataset, algos, out=out, command=command, listener=board, **settings)
    header, rows = report.table(document)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for i, title in enumerate(header):
        table.add_column(title, justify="right" if i else "left")
    for cells in rows:
        table.add_row(*cells)
    wide(console, 140).print(table)
    for note in report.notes(document):
        plain(console, note)
    folder = Path(document["folder"])
    plain(console, f"\npage   {folder / report.PAGE}\ntable  {folder / 'comparison.md'}")
    if document["failed"]:
        raise SparError(f"{', '.join(document['failed'])} did not finish, for the reasons above; the table holds the others")
