"""Our datasets, made anew.

`python -m spar.data.recipes NAME --out FILE` makes the dataset NAME: the suite's in minutes from the snapshots kept in the package,
hopper-replay from nothing in about half an hour on one core. `python -m spar.data.recipes train COLLECTOR --out DIR` trains the policies
behind them anew, `measure COLLECTOR --out DIR` scores the snapshots in a folder, `references --out FILE` measures PointMaze's scale.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m spar.data.recipes", description=__doc__)
    parser.add_argument("name", help="a dataset's name, for instance hopper-medium; or: train, measure, references")
    parser.add_argument("collector", nargs="?", help="with train and measure: the collector's name, for instance walker2d")
    parser.add_argument("--out", type=Path, required=True, help="the new file, its data sheet beside it as .json; or the folder")
    parser.add_argument("--steps", type=int, help="with train: environment steps after which to stop")
    arguments = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):  # one core, before JAX starts its threads: how sums are split decides their last bits
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    from spar.data.recipes import collectors, suite
    from spar.types import SparError

    def say(text: str) -> None:
        print(text, flush=True)

    try:
        if arguments.name == "train":
            collectors.train(arguments.collector or "", arguments.out, say, arguments.steps)
        elif arguments.name == "measure":
            collectors.measure(arguments.collector or "", arguments.out, say)
        elif arguments.name == "references":
            suite.write_references(arguments.out, say)
        else:
            say(str(suite.make(arguments.name, arguments.out, say)))
    except SparError as error:
        print(f"spar: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
