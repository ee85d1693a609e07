"""Seconds that every study takes at the smoke budget, one after another in one fresh store, as the tests run them.

    python benchmarks/smoke_studies.py [--docs]

Studies share runs and first stages, so each pays for what those before it have not trained. The target: all together under four minutes on
two cores.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import platform
import tempfile
import time
from pathlib import Path

import page

from spar import cli
from spar.runs import environment
from spar.studies.catalogue import STUDIES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--docs", action="store_true", help="also write the table into docs/speed.md")
    args = parser.parse_args()
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for study in STUDIES:
            began, words = time.monotonic(), ["study", study, "--budget", "smoke"]
            with contextlib.redirect_stdout(io.StringIO()):
                status = cli.main([*words, "--runs", str(folder / "runs"), "--results", str(folder / "results")])
            if status:
                raise SystemExit(f"{study}: failed with status {status}")
            seconds[study] = time.monotonic() - began
            print(f"{study:10} {seconds[study]:6.1f}", flush=True)
    versions = environment.describe()["versions"]
    about = f"Together {sum(seconds.values()):.0f} seconds; jax {versions['jax']}, {os.cpu_count()} cores of {platform.machine()}."
    text = f"{page.table(('study', 'seconds'), ((study, f'{spent:.1f}') for study, spent in seconds.items()))}\n\n{about}"
    print(about)
    if args.docs:
        page.put(page.ROOT / "docs" / "speed.md", "studies", text)


if __name__ == "__main__":
    main()
