"""The command line: `spar train | evaluate | report | algos | presets`."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table

from spar import presets, registry
from spar.runs.config import BUDGETS, Budget, DataConfig, EvalConfig
from spar.trainer import Settings
from spar.types import SparError

USAGE = """usage: spar COMMAND [OPTIONS]

Improve a policy from logged data alone.

  spar train [DATASET]        train on a log (without DATASET: on the embedded Hopper log) and report how much better it got
  spar evaluate RUN           roll out a finished run's policies anew
  spar report RUN             remake a run's plots and page
  spar algos                  the algorithms, a name a line
  spar presets                the paper's settings, task by task

`spar COMMAND --help` explains each.
"""
Positional = tyro.conf.Positional


def _arg(help: str, **settings: Any) -> Any:
    return tyro.conf.arg(help=help, **settings)


def train_arguments(algo: str, config: Any, data: DataConfig) -> type:
    """The dataclass that tyro turns into the flags of `spar train` for one algorithm and its default settings."""
    inline = tyro.conf.arg(name="", prefix_name=False)
    fields: list[tuple[str, Any, Any]] = [
        ("dataset", Annotated[Positional[str], _arg("an embedded dataset's name or the path of a D4RL-layout HDF5 file")], "hopper-replay"),
        ("algo", Annotated[str, _arg(f"{', '.join(registry.ALGOS)}; default: the preset's for a task of the paper, else spar-mlp")], algo),
        ("env", Annotated[str | None, _arg("gymnasium environment to evaluate in; default: the dataset's own, where it names one")], None),
        ("episodes", Annotated[int | None, _arg("final evaluation episodes for each seed; default: 10, or the preset's")], None),
        ("seeds", Annotated[tuple[int, ...] | None, _arg("training seeds, trained side by side; default: the budget's")], None),
        ("steps_anchor", Annotated[int | None, _arg("updates of Stage I, anchor and critics; default: the budget's")], None),
        ("steps_residual", Annotated[int | None, _arg("updates of Stage II, the residual; default: the budget's")], None),
        ("budget", Annotated[Budget, _arg(_budget_help())], "quick"),
        ("out", Annotated[Path | None, _arg("the new run directory; default: a dated one under runs/")], None),
        ("resume", Annotated[Path | None, _arg("continue this run directory instead of beginning a new one; `--out RUN --resume` says the same")], None),
        ("config", Annotated[type(config), inline], config),
        ("loop", Settings, Settings()),
        ("data", DataConfig, data),
        ("eval", EvalConfig, EvalConfig(every=-1)),
    ]
    return dataclasses.make_dataclass("Train", [(name, kind, dataclasses.field(default=default)) for name, kind, default in fields])  # type: ignore[misc]


def _budget_help() -> str:
    parts = [f"{name}: {b.steps_anchor:,} + {b.steps_residual:,} updates, seeds {' '.join(map(str, b.seeds))}" for name, b in BUDGETS.items()]
    return "; ".join(parts) + " (Table 7 of the paper)"


def train(argv: Sequence[str], console: Console) -> None:
    """Improve a policy from a log: train anchor, critics and residual, then show what it gained."""
    from spar import api

    argv = _resume_flag(list(argv))
    name = _peek(argv, "--algo")
    args = _parse(train_arguments(name or "spar-mlp", registry.get(name or "spar-mlp").default, DataConfig()), argv)
    preset = api.preset_for(args.dataset)
    if preset:  # a task of the paper: the same flags again, over its settings
        algo = name or preset.algo
        args = _parse(train_arguments(algo, preset.config(algo), DataConfig()), argv)
    defaults = api.default_data(args.dataset, args.budget)
    given = args.data
    data = dataclasses.replace(
        defaults, **{f.name: getattr(given, f.name) for f in dataclasses.fields(given) if getattr(given, f.name) != getattr(DataConfig(), f.name)}
    )
    every = BUDGETS[args.budget].eval_every if args.eval.every == -1 else args.eval.every
    with _display(console) as display:
        if args.resume:
            run = api.resume(args.resume, listener=display)
        else:
            run = api.train(
                args.dataset, args.algo, args.config, out=args.out, listener=display, budget=args.budget, env=args.env, episodes=args.episodes,
                seeds=args.seeds, steps_anchor=args.steps_anchor, steps_residual=args.steps_residual,
                loop=args.loop, data=data, eval=dataclasses.replace(args.eval, every=every),
            )  # fmt: skip
    _finale(console, run.summary, run.folder)


def evaluate(argv: Sequence[str], console: Console) -> None:
    """Roll out a finished run's policies anew and print the table."""
    from spar import api
    from spar.report.console import show

    def arguments(
        run: Annotated[Positional[Path], _arg("a run directory")],
        episodes: Annotated[int, _arg("episodes for each seed and policy")] = 10,
        env: Annotated[str | None, _arg("gymnasium environment; default: the run's own")] = None,
        seed: Annotated[int, _arg("another number gives other start states")] = 0,
    ) -> Any:
        with _display(console) as display:
            return api.Run(run).evaluate(episodes, env, seed, display)

    show(console, _parse(arguments, argv, evaluate.__doc__, "spar evaluate"))


def report(argv: Sequence[str], console: Console) -> None:
    """Remake a run's plots and its page, report.html."""
    from spar import api

    def arguments(run: Annotated[Positional[Path], _arg("a run directory")]) -> Path:
        return api.Run(run).report()

    console.print(str(_parse(arguments, argv, report.__doc__, "spar report")), soft_wrap=True)


def algos(argv: Sequence[str], console: Console) -> None:
    """The algorithms, a name a line."""
    _parse(lambda: None, argv, algos.__doc__, "spar algos")
    for name in registry.ALGOS:
        print(name)


def show_presets(argv: Sequence[str], console: Console) -> None:
    """The paper's settings, task by task. `spar train` takes them by itself for a dataset named after the task."""
    _parse(lambda: None, argv, show_presets.__doc__, "spar presets")
    table = Table(box=None, pad_edge=False, header_style="bold")
    names = [f.name for f in dataclasses.fields(presets.Preset) if f.name not in ("source", "episodes")]
    for name in names:
        table.add_column(name.replace("_", " "), no_wrap=True)
    for preset in presets.PRESETS.values():
        table.add_row(*(str(getattr(preset, name)) for name in names))
    Console(width=max(console.width, 170), file=console.file).print(table)
    console.print("Table 8 of the paper; the three medium tasks (Table 14) take the medium-replay row of the same robot. All else is Table 7, the defaults.", soft_wrap=True)


COMMANDS: dict[str, Callable[[Sequence[str], Console], None]] = {
    "train": train,
    "evaluate": evaluate,
    "report": report,
    "algos": algos,
    "presets": show_presets,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 done, 1 a mistake that one line explains, 2 wrong usage, 130 interrupted."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0 if argv else 2
    if argv[0] not in COMMANDS:
        print(f"spar: no command '{argv[0]}'; there are: {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    console = Console()
    try:
        COMMANDS[argv[0]](argv[1:], console)
    except SparError as error:
        print(f"spar: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("spar: interrupted; `spar train --resume RUN` goes on from the last checkpoint", file=sys.stderr)
        return 130
    return 0


def _parse(what: Any, argv: Sequence[str], description: str | None = None, prog: str = "spar train") -> Any:
    return tyro.cli(what, args=list(argv), prog=prog, description=description or train.__doc__)


def _peek(argv: Sequence[str], flag: str) -> str | None:
    """The value of a flag, before the flags are known."""
    for i, word in enumerate(argv):
        if word == flag and i + 1 < len(argv):
            return argv[i + 1]
        if word.startswith(flag + "="):
            return word.removeprefix(flag + "=")
    return None


def _resume_flag(argv: list[str]) -> list[str]:
    """`--resume` without a run directory after it takes the one that `--out` names."""
    if "--resume" not in argv:
        return argv
    at = argv.index("--resume")
    has_value = at + 1 < len(argv) and (Path(argv[at + 1]) / "config.json").is_file()
    if has_value or (at + 1 < len(argv) and not argv[at + 1].startswith("-") and "--out" not in argv):
        return argv
    out = _peek(argv, "--out")
    if out is None:
        raise SparError("--resume needs the run directory to continue: `--resume RUN`, or `--out RUN --resume`")
    return [*argv[:at], "--resume", out, *argv[at + 1 :]]


def _display(console: Console) -> Any:
    from spar.report.console import Display

    return Display(console)


def _finale(console: Console, summary: dict[str, Any], folder: Path) -> None:
    from spar.report.console import show

    show(console, summary)
    console.print(f"\npage    {folder / 'report.html'}\npolicy  {folder / 'policy'}\n{summary['seconds']['total']:.0f} s, peak memory {summary['peak_memory_mib']:.0f} MiB", soft_wrap=True)
