"""The terminal's side of a report: progress bars with rate and ETA, and tables."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column, Table
from rich.text import Text

from spar.runs import auto

ROWS = {"behaviour": "logged behaviour", "anchor": "anchor", "ungated": "SPAR ungated", "policy": "SPAR"}


def whole(width: int) -> Column:
    """A column that keeps its width in a narrow terminal, where the note gives way."""
    return Column(no_wrap=True, min_width=width)


class RateColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:.0f}/s" if speed else "--/s", style="progress.data.speed")


class Display:
    """A listener that shows one bar a stage. Where the output is no terminal, each stage's end and every message are plain lines."""

    def __init__(self, console: Console) -> None:
        self.console = console
        columns = (
            TextColumn("{task.description}", table_column=whole(20)),
            BarColumn(bar_width=None, table_column=Column(ratio=1, max_width=28)),
            MofNCompleteColumn(table_column=whole(11)),
            RateColumn(table_column=whole(6)),
            TimeElapsedColumn(table_column=whole(7)),
            TextColumn("ETA", table_column=whole(3)),
            TimeRemainingColumn(table_column=whole(7)),
            TextColumn("[dim]{task.fields[note]}", table_column=Column(no_wrap=True, overflow="ellipsis", ratio=2)),
        )
        self.bars = Progress(*columns, console=console, expand=True)
        self.task: Any = None

    def __enter__(self) -> Display:
        if self.console.is_terminal:
            self.bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.console.is_terminal:
            self.bars.stop()

    def stage(self, name: str, done: int, total: int) -> None:
        self.name, self.total = name, total
        self.task = self.bars.add_task(name, total=total, completed=done, note="")
        if not self.console.is_terminal:
            self.console.print(f"{name}: {total} to do")

    def progress(self, done: int, note: str) -> None:
        self.bars.update(self.task, completed=done, note=note)
        if done == self.total and not self.console.is_terminal:
            speed = self.bars.tasks[self.task].speed
            self.console.print(f"{self.name}: {done}/{self.total}" + (f", {speed:.0f}/s" if speed else ""))

    def say(self, text: str) -> None:
        self.console.print(f"  {text}", markup=False, highlight=False, soft_wrap=True)


def show(console: Console, summary: dict[str, Any]) -> None:
    """The table of *logged behaviour / anchor / SPAR ungated / SPAR* and the verdict; or what is known offline."""
    dataset = summary["dataset"]
    size = f"{dataset['transitions']:,} transitions, {dataset['episodes']} episodes, {dataset['fingerprint']}"
    console.print(f"\n[bold]{escape(dataset['name'])}[/] ({size}), {summary['algo']}, seeds {', '.join(map(str, summary['seeds']))}")
    if summary.get("choice"):
        console.print(auto.sentence(summary["choice"]), highlight=False, markup=False)
    if summary["intervals"] is None:
        show_offline(console, summary)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title, justify in (
        ("", "left"),
        ("return", "right"),
        ("95 % interval", "right"),
        ("normalised", "right"),
        ("gate accepts", "right"),
    ):
        table.add_column(title, justify=justify)  # type: ignore[arg-type]
    for key, label in labels(summary).items():
        if key not in summary["intervals"]:
            continue
        row = summary["intervals"][key]
        normalised = summary["normalised"]
        shares = {"policy": percent(summary["gate"]["acceptance"]), "ungated": "100 %", "anchor": "0 %"} if summary["gate"] else {}
        accepts = shares.get(key, "")
        table.add_row(label, f"{row['mean']:.1f}", interval(summary, row), f"{normalised[key]:.1f}" if normalised else "-", accepts)
    console.print(table)
    console.print(verdict(summary))


def show_offline(console: Console, summary: dict[str, Any]) -> None:
    rows = list(summary["offline"]["seeds"].values())
    mean = {key: sum(row[key] for row in rows) / len(rows) for key in rows[0]}
    console.print(f"No return was measured: no environment was named (--env). On {summary['offline']['measured_on']}:")
    table = Table(box=None, pad_edge=False, show_header=False)
    whose = "anchor" if summary["gate"] else "policy"
    table.add_row(f"action error of the {whose}", f"{mean['action_rmse']:.4f}", "root mean square, your units")
    if summary["gate"]:
        accepted = f"a state; {mean['predicted_gain_accepted']:.3g} where accepted; units of return"
        table.add_row("gate accepts", percent(summary["gate"]["acceptance"]), "of states")
        table.add_row("predicted gain", f"{mean['predicted_gain']:.3g}", accepted)
        table.add_row("correction where accepted", f"{mean['deviation']:.2f}", "of the radius that holds 95 % of the logged residuals")
    console.print(table)


def labels(summary: dict[str, Any]) -> dict[str, str]:
    """What the rows of the results are called."""
    return ROWS if summary["gate"] else {**ROWS, "policy": summary["algo"]}


def alone(summary: dict[str, Any]) -> bool:
    """Whether every policy was evaluated in a single episode, which has no spread."""
    return sum(map(len, summary["returns"]["policy"])) == 1


def interval(summary: dict[str, Any], row: dict[str, float]) -> str:
    """[12.3, 45.6]; nothing where there was one episode."""
    return "-" if alone(summary) and row["low"] == row["high"] else f"[{row['low']:.1f}, {row['high']:.1f}]"


def verdict(summary: dict[str, Any]) -> str:
    """One sentence on the gain over the anchor, as the interval allows it and no further."""
    if summary["gain"] is None:
        row = summary["intervals"]["policy"]
        spread = "in its one episode" if alone(summary) else f"95 % interval {interval(summary, row)}"
        return f"{summary['algo']} returns {row['mean']:.1f}, {spread}; it has no anchor and no gate."
    gain = summary["gain"]["policy_over_anchor"]
    if alone(summary):
        return f"One episode cannot tell SPAR from its anchor: gain {gain['mean']:+.1f} there; evaluate more (--episodes)."
    if gain["low"] > 0:
        word = "better than its anchor"
    elif gain["high"] < 0:
        word = "worse than its anchor"
    else:
        word = "not told apart from its anchor"
    scope = (
        "episodes of one seed: the spread between seeds is not in it"
        if len(summary["seeds"]) == 1
        else f"{len(summary['seeds'])} seeds and their episodes"
    )
    return f"SPAR is {word}: gain {gain['mean']:+.1f}, 95 % interval [{gain['low']:+.1f}, {gain['high']:+.1f}] over {scope}."


def percent(shares: list[float]) -> str:
    return f"{100 * sum(shares) / len(shares):.0f} %"
