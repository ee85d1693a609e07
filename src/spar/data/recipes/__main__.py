"""`python -m spar.data.recipes NAME --out FILE`: collect a dataset anew. The embedded Hopper log takes about half an hour on one core."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m spar.data.recipes", description=__doc__)
    parser.add_argument("name", help="the dataset's name, for instance hopper-replay")
    parser.add_argument("--out", type=Path, required=True, help="the new HDF5 file; its data sheet is written beside it as .json")
    arguments = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):  # one core, before JAX starts its threads: how sums are split decides their last bits
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    from spar.data.recipes import replay
    from spar.types import SparError

    try:
        print(replay.make(arguments.name, arguments.out, say=lambda text: print(text, flush=True)))
    except SparError as error:
        print(f"spar: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
