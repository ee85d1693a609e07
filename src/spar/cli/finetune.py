"""`spar finetune RUN --steps N`."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from spar.cli.common import arg, parse, plain
from spar.online.loop import Settings
from spar.report.console import Display
from spar.runs import experiment
from spar.types import SparError


def arguments(run: Path | None) -> type:
    """The dataclass that tyro turns into flags; with a run, its algorithm's own settings too, as they were offline."""
    notes = {f.name: f for f in dataclasses.fields(Settings)}
    table: list[tuple[str, Any, str, Any, dict[str, Any]]] = [
        ("run", tyro.conf.Positional[Path], "a finished run directory", run or dataclasses.MISSING, {"metavar": "RUN"}),
        ("steps", int, "environment steps of each seed, one update after each", dataclasses.MISSING, {}),
        ("env", str | None, "gymnasium environment to live in; default: the run's own", None, {"metavar": "ID"}),
        ("out", Path | None, "the new folder, by default a dated one beside the run", None, {"metavar": "NEW"}),
        ("seeds", tuple[int, ...] | None, "which of the run's seeds; default: all", None, {"metavar": "INT [INT ...]"}),
        ("eval_every", int, "steps between evaluations, a multiple of block; 0: before and after alone", 5000, {}),
        ("episodes", int | None, "episodes of each evaluation; default: the run's", None, {}),
        ("block", int, "environment steps between dispatches, as many updates follow in one", notes["block"].default, {}),
        ("noise", float, "exploration: standard deviation on actions in [-1, 1]", notes["noise"].default, {}),
        ("new_share", float | None, "share of lived rows in every batch; default: all rows, logged or lived, are equally likely", None, {}),
    ]  # fmt: skip
    if run is not None:
        config = experiment.read_config(run).config
        table.append(("config", type(config), "", config, {"name": "", "prefix_name": False}))
    fields: list[Any] = []
    for name, kind, help, value, more in sorted(table, key=lambda row: row[3] is not dataclasses.MISSING):
        default = dataclasses.field() if value is dataclasses.MISSING else dataclasses.field(default=value)
        fields.append((name, Annotated[kind, arg(help, **more)], default))
    return dataclasses.make_dataclass("Finetune", fields, kw_only=True)


@dataclasses.dataclass(kw_only=True)
class Resume:
    resume: Annotated[Path, arg("the folder of a fine-tuning that was cut off", metavar="NEW")]
    new_episode: Annotated[
        bool, arg("begin a new episode instead of leading the environment through all that was lived: not to the bit")
    ] = False


def finetune(argv: Sequence[str], console: Console) -> None:
    """Go on training a finished run in a real environment, with its log and what is lived there in one replay buffer. RUN comes first.
    `spar finetune --resume NEW` goes on with a fine-tuning that was cut off, with its own settings; `--new-episode` is for an environment
    that cannot be led again through what was lived."""
    from spar import api
    from spar.report import finetune as report

    try:
        with Display(console) as display:
            if any(word.split("=")[0] == "--resume" for word in argv):
                again = parse(Resume, argv, "spar finetune", finetune.__doc__)
                summary = api.resume_finetune(again.resume, listener=display, new_episode=again.new_episode)
            else:
                run = Path(argv[0]) if argv and not argv[0].startswith("-") else None
                settings = vars(parse(arguments(run), argv, "spar finetune", finetune.__doc__))
                if run is None:
                    raise SparError("spar finetune: give the run directory first: `spar finetune RUN --steps N`")
                summary = api.finetune(settings.pop("run"), settings.pop("steps"), listener=display, **settings)
    except KeyboardInterrupt:
        print("spar: interrupted; `spar finetune --resume NEW` goes on from the new folder's last checkpoint", file=sys.stderr)
        raise SystemExit(130) from None
    report.show(console, summary)
    out = Path(summary["folder"])
    plain(console, f"\nplots   {out / 'plots'}\npolicy  {out / 'policy'}\n{summary['seconds']['total']:.0f} s")
