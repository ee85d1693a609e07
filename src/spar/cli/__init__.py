"""The command line: `spar train | finetune | compare | study | data | evaluate | diagnose | report | algos | presets`."""

from __future__ import annotations

import dataclasses
import errno
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table

from spar import presets, registry
from spar.baselines import presets as baselines
from spar.cli.common import arg, parse, plain, wide
from spar.cli.compare import compare
from spar.cli.data import data
from spar.cli.diagnose import diagnose
from spar.cli.finetune import finetune
from spar.cli.study import study
from spar.evaluate.environments import chosen
from spar.report.console import Display, show
from spar.runs.config import AUTO, BUDGETS, Budget, DataConfig, EvalConfig, RunConfig, algorithm, to_dict
from spar.trainer import Settings
from spar.types import DataNeeds, SparError

if TYPE_CHECKING:
    from spar.api import Run

USAGE = """usage: spar COMMAND [OPTIONS]

Improve a policy from logged data alone.

  spar train [DATASET]        train on a log (without DATASET: on the embedded Hopper log) and report how much better it got
  spar finetune RUN           go on training a finished run in its environment
  spar compare [DATASET]      train several algorithms on one log on equal terms: a table, pictures and a page
  spar study COMMAND          the paper's tables and figures as grids of runs, beside its numbers
  spar data COMMAND           list, show, check, import, make and download datasets
  spar evaluate RUN           roll out a finished run's policies anew
  spar diagnose RUN           why it is as good as it is, and which residual its log asks for
  spar report RUN             remake a run's plots and page
  spar algos                  the algorithms, a name a line
  spar presets                the paper's settings, task by task

`spar COMMAND --help` explains each.
"""


DEFAULT_DATASET = "hopper-replay"
GOES_ON = {  # after Ctrl-C
    "train": "; `spar train --resume RUN` goes on where it was, RUN being the folder that it named first",
    "finetune": "; `spar finetune --resume NEW` goes on where it was, NEW being the folder that it named first",
    "compare": "; the same command with `--out DIR`, the folder that it named first, goes on where it was",
    "study": "; the same command goes on where it was",
}


def train_arguments(base: RunConfig, budget: str) -> type:
    """The dataclass that tyro turns into the flags of `spar train`; `base` holds the defaults that dataset, algorithm and budget imply."""
    budgets = [
        f"{name}: {b.steps_anchor:,} + {b.steps_residual:,} updates, seeds {' '.join(map(str, b.seeds))}" for name, b in BUDGETS.items()
    ]
    table: list[tuple[str, Any, str, Any, dict[str, Any]]] = [
        ("dataset", tyro.conf.Positional[str], "a dataset's name (`spar data list`) or file", base.dataset, {"metavar": "[DATASET]"}),
        ("algo", str, f"one of {', '.join(registry.ALGOS)}; {AUTO}: {algorithm(AUTO).summary}", base.algo, {"metavar": "NAME"}),
        ("env", str | None, "gymnasium environment to evaluate in, where the data does not name one", None, {"metavar": "ID"}),
        ("episodes", int, "final evaluation episodes for each seed", base.episodes, {}),
        ("seeds", tuple[int, ...], "training seeds", base.seeds, {"metavar": "INT [INT ...]"}),
        ("steps_anchor", int, "updates of Stage I: anchor and critics", base.steps_anchor, {}),
        ("steps_residual", int, "updates of Stage II: the residual", base.steps_residual, {}),
        ("budget", Budget, "; ".join(budgets) + ", Table 7 of the paper to the letter", budget, {}),
        ("out", Path | None, "the new run directory, by default a dated one under runs/", None, {"metavar": "RUN"}),
        ("resume", Path | None, "continue this run directory; `--out RUN --resume` says the same", None, {"metavar": "RUN"}),
        ("config", type(base.config), "", base.config, {"name": "", "prefix_name": False}),
        ("loop", Settings, "", base.loop, {}),
        ("data", DataConfig, "", base.data, {}),
        ("needs", DataNeeds, "", base.needs, {}),
        ("eval", EvalConfig, "", base.eval, {}),
    ]  # fmt: skip
    fields = [(name, Annotated[kind, arg(help, **more)], dataclasses.field(default=value)) for name, kind, help, value, more in table]
    return dataclasses.make_dataclass("Train", fields)


def train(argv: Sequence[str], console: Console) -> None:
    """Improve a policy from a log: train anchor, critics and residual, then show what it gained."""
    from spar import api

    argv = _resume_flag(list(argv))
    if resume := _peek(argv, "--resume"):
        _refuse_changes(Path(resume), argv)
        with Display(console) as display:
            _finished(console, api.resume(resume, listener=display))
        return
    algo, budget = _peek(argv, "--algo"), _peek(argv, "--budget") or "quick"
    dataset = argv[0] if argv and not argv[0].startswith("-") else DEFAULT_DATASET
    base = api.configure(dataset, algo, budget=budget)
    args = parse(train_arguments(base, budget), argv, "spar train", train.__doc__)
    steps = {"steps_anchor": args.steps_anchor, "steps_residual": args.steps_residual}
    implied = api.configure(args.dataset, algo, budget=budget, **steps)
    if implied != base:  # a dataset that stood elsewhere in the line has its own preset, a rate's decay takes the whole run
        args = parse(train_arguments(implied, budget), argv, "spar train", train.__doc__)
    settings = vars(args)
    del settings["resume"]
    with Display(console) as display:
        run = api.train(listener=display, **settings)
    _finished(console, run)


def _finished(console: Console, run: Run) -> None:
    summary = run.summary
    show(console, summary)
    cost = f"{summary['seconds']['total']:.0f} s, peak memory {summary['peak_memory_mib']:.0f} MiB"
    plain(console, f"\npage    {run.folder / 'report.html'}\npolicy  {run.folder / 'policy'}\n{cost}")


def evaluate(argv: Sequence[str], console: Console) -> None:
    """Roll out a finished run's policies anew and print the table."""
    from spar import api

    def arguments(
        run: Annotated[tyro.conf.Positional[Path], arg("a run directory", metavar="RUN")],
        episodes: Annotated[int, arg("episodes for each seed and policy")] = 10,
        env: Annotated[str | None, arg("gymnasium environment; default: the run's own", metavar="ID")] = None,
        seed: Annotated[int, arg("another number gives other start states")] = 0,
    ) -> Any:
        with Display(console) as display:
            return api.Run(run).evaluate(episodes, env, seed, display)

    show(console, parse(arguments, argv, "spar evaluate", evaluate.__doc__))


def report(argv: Sequence[str], console: Console) -> None:
    """Remake a run's plots and its page, report.html."""
    from spar import api

    def arguments(run: Annotated[tyro.conf.Positional[Path], arg("a run directory", metavar="RUN")]) -> Path:
        return api.Run(run).report()

    plain(console, str(parse(arguments, argv, "spar report", report.__doc__)))


def algos(argv: Sequence[str], console: Console) -> None:
    """The algorithms, a name a line, and what chooses one by itself."""
    parse(lambda: None, argv, "spar algos", algos.__doc__)
    for name in registry.ALGOS:
        print(name)
    print(f"{AUTO}: {algorithm(AUTO).summary}")


def show_presets(argv: Sequence[str], console: Console) -> None:
    """The paper's settings, task by task, and where the competitors' come from. `spar train` takes them by itself for a dataset named after
    the task."""
    parse(lambda: None, argv, "spar presets", show_presets.__doc__)
    table = Table(box=None, pad_edge=False, header_style="bold")
    names = [f.name for f in dataclasses.fields(presets.Preset) if f.name not in ("source", "episodes")]
    for name in names:
        table.add_column(name.replace("_", " "), overflow="fold")
    for preset in presets.PRESETS.values():
        table.add_row(*(str(getattr(preset, name)) for name in names))
    wide(console, 170).print(table)
    print("Table 8 of the paper; the three medium tasks (Table 14) take the medium-replay row of the same robot. The rest is Table 7.")
    print(
        f"Mazes that the paper does not have take the row of the nearest, PointMaze's with its own rewards: {', '.join(presets.NEAREST)}."
    )
    sources = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("competitor", *baselines.FAMILIES):
        sources.add_column(name, overflow="fold")
    for algo, families in baselines.PRESETS.items():
        sources.add_row(algo, *(families[name].source for name in baselines.FAMILIES))
    wide(console, 170).print("", sources)


COMMANDS: dict[str, Callable[[Sequence[str], Console], None]] = {
    "train": train,
    "compare": compare,
    "finetune": finetune,
    "study": study,
    "data": data,
    "evaluate": evaluate,
    "diagnose": diagnose,
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
        print(f"spar: interrupted{GOES_ON.get(argv[0], '')}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # who read what this prints, such as `head`, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or flushing at exit fails again
        return 141
    except OSError as error:  # no such folder, no permission, no space left
        advice = "; free some space and repeat the command, a training with --resume" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        print(f"spar: {error.filename or 'a file'}: {error.strerror or error}{advice}", file=sys.stderr)
        return 1
    return 0


def _peek(argv: Sequence[str], flag: str) -> str | None:
    """The value of a flag, before the flags are known."""
    for i, word in enumerate(argv):
        if word == flag and i + 1 < len(argv):
            return argv[i + 1]
        if word.startswith(flag + "="):
            return word.removeprefix(flag + "=")
    return None


def _refuse_changes(run: Path, argv: Sequence[str]) -> None:
    """A run goes on with its own settings: what is typed beside --resume and asks for others is a mistake. Raises SparError."""
    from spar.runs import experiment
    from spar.runs.compare import flat

    own, out = experiment.asked(run), _peek(argv, "--out")
    if out is not None and Path(out).resolve() != run.resolve():
        raise SparError(f"--resume names {run}, --out names {out}; give one of them")
    now, algo = own, _peek(argv, "--algo")
    if algo in (None, own.algo):
        args = parse(train_arguments(own, _peek(argv, "--budget") or "quick"), argv, "spar train", train.__doc__)
        settings = {name: value for name, value in vars(args).items() if name not in ("algo", "env", "budget", "out", "resume")}
        if _peek(argv, "--budget"):
            means = {name: getattr(BUDGETS[args.budget], name) for name in ("steps_anchor", "steps_residual", "seeds")}
            settings |= {name: value for name, value in means.items() if not _typed(argv, name)}
        now = dataclasses.replace(own, **settings, env=chosen(own.env, args.env))
    before, after = flat(to_dict(own)), flat(to_dict(now)) | {"algo": algo or own.algo}
    changed = sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))
    if changed:
        key = changed[0]
        raise SparError(
            f"{run}: began with {key} {before.get(key)}, these flags say {after.get(key)}; leave them out, or begin a new run with --out"
        )


def _typed(argv: Sequence[str], name: str) -> bool:
    return any(word.split("=")[0].lstrip("-").replace("-", "_") == name for word in argv if word.startswith("--"))


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
