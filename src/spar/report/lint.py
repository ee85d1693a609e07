"""The lint report of a log on a terminal, to be read in ten seconds."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape

from spar.data.lint import Report

BARS = " ▁▂▃▄▅▆▇█"
STYLE = {"error": "bold red", "warning": "yellow"}


def show_lint(console: Console, report: Report, brief: bool = False) -> None:
    """Print it; `brief` leaves out what only a check wants."""
    n = report.numbers
    lengths, rewards, returns = n["lengths"], n["rewards"], n["returns"]

    def line(name: str, text: str) -> None:
        console.print(f"[bold]{escape(f'{name:<14}')}[/]{escape(text)}", soft_wrap=True, highlight=False)

    line(report.name, f"{n['transitions']:,} transitions in {n['episodes']:,} episodes, fingerprint {n['fingerprint']}")
    line(
        "observation",
        f"{n['observation_dimensions']} numbers, action {n['action_dimensions']}; environment {n['environment'] or 'unknown'}",
    )
    line("lengths", f"{lengths['min']} to {lengths['max']}, median {lengths['median']:g}; {n['unfinished_episodes']} unfinished")
    line("ends", f"{n['terminated']:,} terminated, {n['truncated']:,} truncated, {n['rows_left_out']:,} rows left out")
    if rewards:
        line("rewards", f"{rewards['min']:.4g} to {rewards['max']:.4g}, mean {rewards['mean']:.4g}; {n['nonzero_rewards']:,} are not 0")
    if returns:
        line("returns", f"{returns['min']:.5g} to {returns['max']:.5g}, mean {returns['mean']:.5g}, median {returns['median']:.5g}")
        line("", f"{returns['min']:.4g} {_histogram(returns['histogram']['counts'])} {returns['max']:.4g}")
    for note in n["notes"]:
        line("note", note)
    if brief:
        return
    if n["coverage"]:
        coverage = n["coverage"]
        line(
            "coverage",
            f"{coverage['directions_with_95_percent_of_variance']} directions hold 95 % of the variance; a state's nearest neighbour is "
            f"{coverage['median_nearest_neighbour']:.2g} standard deviations away",
        )
    line("saturated", "actions on a bound, share of steps: " + ", ".join(f"{share:.1%}" for share in n["saturated_actions"]))
    if "residuals" in n:
        geometry = n["residuals"]
        line(
            "residuals",
            f"95 % within {geometry['delta_rho']:.3g} of the anchor (eq. 3); {geometry['directions_with_95_percent_of_variance']} of "
            f"{n['action_dimensions']} directions hold 95 % of their variance",
        )
    line("duplicates", f"{n['duplicate_transitions']:,} of {n['transitions_looked_at']:,} transitions")
    for finding in report.findings:
        console.print(f"[{STYLE[finding.level]}]{finding.level:<14}[/]{escape(finding.text)}", soft_wrap=True, highlight=False)
    verdict = "cannot train" if report.errors else "can train"
    counts = {"error": len(report.errors), "warning": len(report.findings) - len(report.errors)}
    line("verdict", f"{verdict}; " + ", ".join(f"{n} {word}{'' if n == 1 else 's'}" for word, n in counts.items()))


def _histogram(counts: list[int]) -> str:
    """One character a bin, by the share of the fullest; a bin that is not empty shows."""
    top = max(counts)
    return "".join(BARS[max(round(8 * count / top), int(count > 0))] for count in counts)
