"""Updates per second of every stage, beside this machine's matmul ceiling and beside one dispatch a step, all in one run.

    python benchmarks/train_speed.py [--steps 300] [--seeds 1 3] [--algos spar-mlp ...]

Absolute numbers mean little on a shared machine; read the ratios. The ceiling is the best of two float32 products through XLA: one of
2048^3, and ten of 256^3 side by side, which is the shape of the critics' largest layer. `share` is the stage's own arithmetic (counted
by XLA from the compiled step) over the time it takes, as a part of that ceiling; the rest goes to element-wise work (ReLU, Adam, target
averages: all bound by memory), to small layers, and to drawing the batch. Each stage is measured in several rounds between measurements of
the ceiling, and the medians are reported.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

from spar import registry, trainer
from spar.data import catalog
from spar.types import Spec, Stage, Transitions


def seconds_of(call: Callable[[], Any], repeats: int = 1) -> float:
    began = time.perf_counter()
    for _ in range(repeats):
        result = call()
    jax.block_until_ready(result)
    return (time.perf_counter() - began) / repeats


class Ceiling:
    """Float32 matmul throughput in FLOP/s."""

    def __init__(self) -> None:
        key = jax.random.key(0)
        self.large, self.batched = jax.random.normal(key, (2048, 2048)), jax.random.normal(key, (10, 256, 256))
        self.product = jax.jit(lambda x: x @ x)
        self.seen: list[float] = []
        jax.block_until_ready((self.product(self.large), self.product(self.batched)))

    def measure(self) -> float:
        large = 2 * 2048**3 / seconds_of(lambda: self.product(self.large), 2)
        batched = 10 * 2 * 256**3 / seconds_of(lambda: self.product(self.batched), 30)
        self.seen.append(max(large, batched))
        return self.seen[-1]


def flops_of(stage: Stage, cfg: Any, settings: trainer.Settings, one: tuple[Any, Any], rows: Transitions, key: jax.Array) -> float:
    """Of one update, counted by XLA; a step that imitates and a step that does not are weighed by how often they come."""
    counted = []
    for number in (0, 1):
        step = jax.jit(lambda s, c, number=number: trainer.one_step(stage, cfg, settings, s, rows, c, key, jnp.int32(number)))
        counted.append(step.lower(*one).compile().cost_analysis()["flops"])
    period = getattr(getattr(cfg, "imitation", None), "period", 1)
    return (counted[0] + (period - 1) * counted[1]) / period


def measure(algo: str, seeds: list[int], rows: Transitions, steps: int, rounds: int, ceiling: Ceiling) -> list[dict[str, Any]]:
    """One record a stage."""
    record = registry.get(algo)
    cfg, settings = record.default, trainer.Settings(log_every=steps)
    spec = Spec(rows.obs.shape[1], rows.action.shape[1])
    state, guard = trainer.start(record, cfg, spec, seeds)[1:]
    keys, found = trainer.seed_keys(seeds), []
    for stage in record.stages:
        columns = trainer.prepare(stage, cfg, state, rows) if stage.prepare else {}

        def chunk(count: int, stage: Stage = stage, columns: Any = columns, state: Any = state) -> Any:
            return trainer.advance(stage, cfg, settings, state, guard, rows, columns, keys, 0, count)

        flops = flops_of(stage, cfg, settings, jax.tree.map(lambda x: x[0], (state, columns)), rows, keys[0])
        jax.block_until_ready(chunk(1))
        times, single, shares = [], [], []
        for _ in range(rounds):
            top = ceiling.measure()
            times.append(seconds_of(lambda: chunk(steps)) / steps)
            single.append(seconds_of(lambda: chunk(1), max(steps // 10, 10)))
            shares.append(flops * len(seeds) / times[-1] / top)
        found.append({
            "algo": algo, "stage": stage.name, "seeds": len(seeds),
            "updates_per_second": len(seeds) / float(np.median(times)),
            "gflop_per_update": flops / 1e9,
            "share_of_ceiling": float(np.median(shares)),
            "speed_up_over_one_dispatch_a_step": float(np.median(single) / np.median(times)),
        })  # fmt: skip
        state = chunk(1)[0]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=300, help="updates in a measured dispatch")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 3], help="how many seeds side by side")
    parser.add_argument("--algos", nargs="+", default=list(registry.ALGOS))
    parser.add_argument("--json", help="also write the records to this file")
    arguments = parser.parse_args()
    log = catalog.load("hopper-replay")
    rows, ceiling, records = log.transitions(log.scaler()), Ceiling(), []
    for count in arguments.seeds:
        for i, algo in enumerate(arguments.algos):
            found = measure(algo, list(range(count)), rows, arguments.steps, arguments.rounds, ceiling)
            records += found if i == 0 else found[1:]  # Stage I is the same for all
    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in ("algo", "stage", "seeds", "updates/s", "GFLOP/update", "share of ceiling", "x one dispatch a step"):
        table.add_column(title, justify="left" if title in ("algo", "stage") else "right")
    for r in records:
        table.add_row(
            r["algo"], r["stage"], str(r["seeds"]), f"{r['updates_per_second']:.0f}", f"{r['gflop_per_update']:.2f}",
            f"{100 * r['share_of_ceiling']:.0f} %", f"{r['speed_up_over_one_dispatch_a_step']:.2f}",
        )  # fmt: skip
    console = Console()
    middle, low, high = (f(ceiling.seen) / 1e9 for f in (np.median, min, max))
    console.print(f"matmul ceiling: {middle:.0f} GFLOP/s (median; {low:.0f} to {high:.0f} during this run)")
    console.print(table)
    if arguments.json:
        document = {"ceiling_gflops": [value / 1e9 for value in ceiling.seen], "records": records}
        with Path(arguments.json).open("x") as file:
            json.dump(document, file, indent=2)


if __name__ == "__main__":
    main()
