"""Trains on the file argv[1] in this process, allowed argv[2] more bytes of data than a warmed-up process has; argv[3] is the tier.

Run by test_memory.py as a process of its own: limits cannot be lifted again.
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import spar
from spar.data.episodes import Log
from spar.runs.config import DataConfig, EvalConfig
from spar.trainer import Settings
from tests.conftest import plant_log, tiny


class Printer:
    def stage(self, name: str, done: int, total: int) -> None: ...
    def progress(self, done: int, note: str) -> None: ...
    def say(self, text: str) -> None:
        print(text, flush=True)


def train(log: str | Log, out: Path, tier: str) -> None:
    spar.train(
        log, "spar-mlp", tiny("spar-mlp"), out=out, steps_anchor=20, steps_residual=20, listener=Printer(), seeds=[0],
        data=DataConfig(tier=tier), loop=Settings(log_every=10, batch_size=32), eval=EvalConfig(every=20),
    )  # fmt: skip


def main(path: str, allowance: int, tier: str) -> None:
    train(plant_log(9000), Path(path).parent / f"warm-up-{tier}", "host")
    used = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_DATA, (used + allowance, used + allowance))
    train(path, Path(path).parent / f"limited-{tier}", tier)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
