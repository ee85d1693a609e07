"""`spar diagnose RUN`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from spar.cli.common import arg, parse, plain
from spar.report.console import Display


def diagnose(argv: Sequence[str], console: Console) -> None:
    """Why a finished run is as good as it is: the residuals' geometry and the architecture that it asks for, distance from the logged
    actions, gradient conflict, calibration of the critics, and what the gate does. Writes RUN/diagnosis."""

    def arguments(
        run: Annotated[tyro.conf.Positional[Path], arg("a finished run directory", metavar="RUN")],
        seeds: Annotated[tuple[int, ...] | None, arg("which of the run's seeds; default: all", metavar="INT [INT ...]")] = None,
        env: Annotated[str | None, arg("gymnasium environment; default: the run's own", metavar="ID")] = None,
        episodes: Annotated[int, arg("episodes of each seed with every decision kept; 0: only what the log can tell")] = 10,
        branches: Annotated[int, arg("accepted corrections of each seed whose real gain is measured, two episodes each")] = 32,
    ) -> None:
        from spar.data import catalog
        from spar.report import diagnose as report
        from spar.runs import diagnose as runs
        from spar.runs.experiment import read_config

        cfg = read_config(run)
        with Display(console) as display:
            runs.execute(run, catalog.load(cfg.dataset, tier=cfg.data.tier), runs.Settings(seeds, env, episodes, branches), display)
        text, pictures = report.write(run)
        plain(console, text)
        plain(console, f"pictures  {', '.join(path.name for path in pictures.values())}\nin        {run / runs.FOLDER}")

    parse(arguments, argv, "spar diagnose", diagnose.__doc__)
