"""`spar data list | show | check | import | make | download`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table

from spar import files
from spar.cli.common import arg, parse, plain, wide
from spar.data import catalog, lint, sheets
from spar.data.sources import d4rl, d4rl_names, guess, minari, npz, tables
from spar.report.lint import show_lint
from spar.types import SparError

USAGE = """usage: spar data COMMAND [OPTIONS]

  spar data list              datasets by name: embedded, the suite, D4RL's, local Minari ones
  spar data show DATASET      what is known of one: size, returns, origin
  spar data check DATASET     a lint report; exit status 1 where something forbids training
  spar data import DATASET    read any format, check it, write it as .hdf5, .npz, .parquet, .csv or a Minari dataset
  spar data make NAME         make a dataset of the suite from the policies kept here
  spar data download NAME     fetch a D4RL or Minari dataset

`spar data COMMAND --help` explains each.
"""

Dataset = Annotated[tyro.conf.Positional[str], arg("a dataset's name or file", metavar="DATASET")]
MappingFile = Annotated[Path | None, arg("mapping of a table's columns, by default the TOML file beside it", metavar="FILE")]


def data(argv: Sequence[str], console: Console) -> None:
    """Datasets: what there is, whether it can be trusted, and how to make or fetch more."""
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE, end="")
        raise SystemExit(0 if argv else 2)
    if argv[0] not in COMMANDS:
        raise SparError(f"no command 'data {argv[0]}'; there are: {', '.join(COMMANDS)}")
    COMMANDS[argv[0]](argv[1:], console)


def list_(argv: Sequence[str], console: Console) -> None:
    """Datasets that can be named, with what is known of each without reading it."""
    parse(lambda: None, argv, "spar data list", list_.__doc__)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("name", "what", "transitions", "rewards an episode", "where"):
        table.add_column(column, justify="right" if column in ("transitions", "rewards an episode") else "left", no_wrap=True)
    for sheet in sheets.known():
        count, mean = sheet.get("transitions"), sheet.get("return")
        made = "embedded" if sheet["kind"] == "embedded" else sheet["where"]
        table.add_row(sheet["name"], sheet["kind"], f"{count:,}" if count else "", f"{mean:.1f}" if mean is not None else "", made)
    for folder in sorted(minari.root().glob("**/data/metadata.json")) if minari.root().is_dir() else []:
        table.add_row(str(folder.parent.parent.relative_to(minari.root())), "Minari", "", "", str(folder.parent.parent))
    wide(console, 120).print(table)
    names = list(d4rl_names.DATASETS)
    print(f"\nand {len(names)} D4RL names, fetched when first used: {', '.join(names[:3])}, ... , {names[-1]}")


def show(argv: Sequence[str], console: Console) -> None:
    """What is known of a dataset: size, returns, environment, and the sheet that says how it was collected."""

    def arguments(dataset: Dataset, mapping: MappingFile = None) -> None:
        log = catalog.load(dataset, strict=False, mapping=mapping)
        report = lint.inspect(log)
        show_lint(console, report, brief=True)
        sheet = sheets.find(dataset)
        if sheet:
            console.print("\nhow it was collected", style="bold")
            for key in ("what", "level", "differs_from_d4rl"):
                for line in [sheet[key]] if isinstance(sheet.get(key), str) else sheet.get(key, []):
                    plain(console, f"  {line}")
            plain(console, f"  made again by: {sheet['recipe']['command']}")

    parse(arguments, argv, "spar data show", show.__doc__)


def check(argv: Sequence[str], console: Console) -> None:
    """Look at a log before believing it. Errors forbid a useful run (exit status 1), warnings say what they would do to the result."""

    def arguments(
        dataset: Dataset,
        mapping: MappingFile = None,
        json_out: Annotated[Path | None, arg("write the report as JSON too", name="json", metavar="FILE")] = None,
        policy: Annotated[Path | None, arg("a run or policy folder: adds the geometry of the log's residuals", metavar="RUN")] = None,
    ) -> lint.Report:
        if json_out is not None and json_out.exists():
            raise SparError(f"{json_out}: exists already; nothing is written over, choose another path")
        log = catalog.load(dataset, strict=False, mapping=mapping)
        report = lint.inspect(log)
        if not report.errors:
            report = report.refused(_refusal(dataset, mapping))
        if policy is not None:
            from spar.deploy.exports import load
            from spar.evaluate import offline

            report.numbers["residuals"] = offline.residual_geometry(load(policy), log)
        if json_out is not None:
            files.write_json(json_out, report.to_json())
        show_lint(console, report)
        return report

    report = parse(arguments, argv, "spar data check", check.__doc__)
    if report.errors:
        raise SystemExit(1)


def _refusal(dataset: str, mapping: Path | None) -> str | None:
    """What training would say of a log that it does not take; None where it does."""
    try:
        catalog.load(dataset, mapping=mapping)
    except SparError as error:
        return str(error)
    return None


def import_(argv: Sequence[str], console: Console) -> None:
    """Read a log of any format, check it, and write it in another. Nothing is written over."""

    def arguments(
        dataset: Dataset,
        out: Annotated[
            Path | None, arg("the new file: .hdf5, .npz, .parquet or .csv; without a suffix, a Minari dataset's folder", metavar="FILE")
        ] = None,
        mapping: MappingFile = None,
        env: Annotated[str | None, arg("gymnasium environment the log came from", metavar="ID")] = None,
        observation_keys: Annotated[
            tuple[str, ...], arg("parts of a Minari dataset's dict observation, in order; default: all, alphabetically", metavar="KEY ...")
        ] = (),
        goal: Annotated[tuple[float, float] | None, arg("make an OGBench maze's rewards: reach this place", metavar="X Y")] = None,
        radius: Annotated[float | None, arg("within this distance", metavar="METRES")] = None,
        guess_mapping: Annotated[
            bool, arg("only print a mapping guessed from a table's header and values, to be corrected by hand")
        ] = False,
    ) -> None:
        if guess_mapping:
            print(guess.guess_mapping(Path(dataset)), end="")
            return
        if out is None:
            raise SparError("import needs --out FILE (or --guess-mapping, to begin with a table)")
        if out.exists():
            raise SparError(f"{out}: exists already; nothing is written over, choose another path")
        log = catalog.load(dataset, env, mapping=mapping, observation_keys=observation_keys, goal=goal, radius=radius)
        out.parent.mkdir(parents=True, exist_ok=True)
        writers: dict[str, Callable[[Path, Any], None]] = {
            ".hdf5": d4rl.write_log, ".h5": d4rl.write_log, ".npz": npz.write_log,
            ".parquet": tables.write_log, ".csv": tables.write_log, "": minari.write_log,
        }  # fmt: skip
        if out.suffix.lower() not in writers:
            raise SparError(f"{out}: no format '{out.suffix}'; give one of {', '.join(filter(None, writers))}, or none for Minari")
        writers[out.suffix.lower()](out, log)
        show_lint(console, lint.inspect(log), brief=True)
        plain(console, f"\nwritten  {out}")

    parse(arguments, argv, "spar data import", import_.__doc__)


def make(argv: Sequence[str], console: Console) -> None:
    """Make a dataset of the suite from the policies kept in the package; `spar train NAME` then finds it."""

    def arguments(
        name: Annotated[tyro.conf.Positional[str], arg("the dataset's name", metavar="NAME")],
        out: Annotated[Path | None, arg("the new .hdf5 file, by default where NAME is looked for", metavar="FILE")] = None,
    ) -> None:
        path = out or catalog.suite_folder() / f"{name}.hdf5"
        path.parent.mkdir(parents=True, exist_ok=True)
        sheets.make(name, path, lambda text: plain(console, text))
        plain(console, f"written  {path}\nsheet    {path.with_suffix('.json')}")

    parse(arguments, argv, "spar data make", make.__doc__)


def download(argv: Sequence[str], console: Console) -> None:
    """Fetch a dataset by its D4RL name (hopper-medium-v2) or its Minari id (D4RL/hopper/medium-v2), resuming what was cut off."""

    def arguments(name: Annotated[tyro.conf.Positional[str], arg("the dataset's name", metavar="NAME")]) -> None:
        if "/" in name or (d4rl_names.find(name) is None and minari.ID.fullmatch(name)):
            path = minari.download(name)
        else:
            columns = (TextColumn(name), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
            with Progress(*columns, console=console, transient=True) as bar:
                task = bar.add_task(name, total=None)
                path = d4rl_names.fetch(name, lambda done, total: bar.update(task, completed=done, total=total))
        plain(console, f"at  {path}")

    parse(arguments, argv, "spar data download", download.__doc__)


COMMANDS: dict[str, Callable[[Sequence[str], Console], None]] = {
    "list": list_, "show": show, "check": check, "import": import_, "make": make, "download": download,
}  # fmt: skip
