"""Updates per second of every stage, beside this machine's matmul ceiling and beside one dispatch a step, all in one run.

    python benchmarks/train_speed.py [--steps 300] [--seeds 1 3] [--algos spar-mlp ...] [--docs]

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
import optax
import page
from rich.console import Console
from rich.table import Table

from spar import ops, registry, trainer
from spar.data import catalog
from spar.method import anchor, critics
from spar.runs import environment
from spar.types import Spec, Transitions


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


def flops_of(work: trainer.Work, state: Any, data: trainer.Data) -> float:
    """Of one update, counted by XLA; a step that imitates and a step that does not are weighed by how often they come."""
    counted = []
    for number in (0, 1):
        step = jax.jit(lambda s, d, number=number: trainer.one_step(work, s, d, jnp.int32(number)))
        counted.append(step.lower(state, data).compile().cost_analysis()["flops"])
    period = getattr(getattr(work.cfg, "imitation", None), "period", 1)
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
        work, data = trainer.Work(stage, cfg, settings), trainer.Data(rows, jax.tree.map(jnp.asarray, columns), keys)

        def chunk(first: int, count: int, work: trainer.Work = work, data: trainer.Data = data, state: Any = state) -> Any:
            return trainer.advance(work, state, guard, data, first, count)

        def one_by_one(count: int, chunk: Any = chunk) -> Any:
            return [chunk(i, 1) for i in range(count)]

        mine, own = jax.tree.map(lambda x: x[0], (state, data.columns))
        flops = flops_of(work, mine, trainer.Data(rows, own, keys[0]))
        jax.block_until_ready(chunk(0, 1))
        times, single, shares = [], [], []
        for _ in range(rounds):
            top = ceiling.measure()
            times.append(seconds_of(lambda: chunk(0, steps)) / steps)
            single.append(seconds_of(lambda: one_by_one(30)) / 30)
            shares.append(flops * len(seeds) / times[-1] / top)
        found.append({
            "algo": algo, "stage": stage.name, "seeds": len(seeds),
            "updates_per_second": len(seeds) / float(np.median(times)),
            "gflop_per_update": flops / 1e9,
            "share_of_ceiling": float(np.median(shares)),
            "speed_up_over_one_dispatch_a_step": float(np.median(single) / np.median(times)),
        })  # fmt: skip
        state = chunk(0, 1)[0]
    return found


def breakdown(rows: Transitions, rounds: int) -> dict[str, float]:
    """Milliseconds of the parts of one Stage I step, each compiled alone (so their sum is a little more than the whole)."""
    cfg = registry.get("spar-mlp").default
    spec = Spec(rows.obs.shape[1], rows.action.shape[1])
    state = jax.tree.map(lambda x: x[0], trainer.start(registry.get("spar-mlp"), cfg, spec, [0]).state)
    index = trainer.draw_index(trainer.Settings(), len(rows.obs), jax.random.key(0), jnp.int32(0))
    batch = jax.tree.map(lambda column: column[index], rows)
    y, tx, critic = jnp.ones(batch.reward.shape), ops.adam(3e-4, 1.0), state.critics.critic

    def loss(params: ops.Params) -> jax.Array:
        return critics.critic_loss(cfg.critic, params, y, batch)[0]

    def optimise(gradient: ops.Params) -> Any:
        updates, opt = jax.vmap(tx.update)(gradient, state.critics.critic_opt, critic)
        return optax.apply_updates(critic, updates), opt

    parts: dict[str, tuple[Callable[..., Any], Any]] = {
        "target critics, forward": (lambda p: critics.q_values(cfg.critic, p, batch.obs, batch.action), state.critics.target),
        "critics, forward and backward": (jax.grad(loss), critic),
        "critics, clip and Adam": (optimise, jax.tree.map(jnp.ones_like, critic)),
        "target average": (lambda p: ops.polyak(state.critics.target, p, 0.005), critic),
        "anchor": (lambda s: anchor.update(cfg.anchor, s, batch), state.anchor),
        "V, Q and targets together": (lambda s: critics.update(cfg.critic, s, batch, batch.action), state.critics),
    }
    found = {}
    for name, (call, argument) in parts.items():
        compiled = jax.jit(call)
        jax.block_until_ready(compiled(argument))
        found[name] = 1e3 * float(np.median([seconds_of(lambda c=compiled, a=argument: c(a), 30) for _ in range(rounds)]))
    return found


HEADER = ("algorithm", "stage", "seeds", "updates/s", "GFLOP/update", "share of ceiling", "x one dispatch a step")


def cells(record: dict[str, Any]) -> tuple[str, ...]:
    return (
        record["algo"], record["stage"], str(record["seeds"]), f"{record['updates_per_second']:.0f}", f"{record['gflop_per_update']:.2f}",
        f"{100 * record['share_of_ceiling']:.0f} %", f"{record['speed_up_over_one_dispatch_a_step']:.2f}",
    )  # fmt: skip


def sentences(document: dict[str, Any]) -> tuple[str, str]:
    middle, low, high = (f(document["ceiling_gflops"]) for f in (np.median, min, max))
    parts = ", ".join(f"{name} {value:.1f} ms" for name, value in document["stage_one_parts_ms"].items())
    ceiling = f"Matmul ceiling: {middle:.0f} GFLOP/s (median; {low:.0f} to {high:.0f} during the run)."
    return ceiling, f"One Stage I step, each part compiled alone: {parts}."


def show(document: dict[str, Any]) -> None:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in HEADER:
        table.add_column(title, justify="left" if title in HEADER[:2] else "right")
    for record in document["records"]:
        table.add_row(*cells(record))
    console, (ceiling, parts) = Console(), sentences(document)
    console.print(ceiling)
    console.print(table)
    console.print(parts)


def markdown(document: dict[str, Any]) -> str:
    ceiling, parts = sentences(document)
    where = document["environment"]
    machine = f"{where['machine']['cores']} cores of {where['machine']['processor']}"
    about = f"Commit {(where['commit'] or 'unknown')[:7]}, jax {where['versions']['jax']}, {machine}."
    return f"{ceiling}\n\n{page.table(HEADER, map(cells, document['records']))}\n\n{parts} {about}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=300, help="updates in a measured dispatch")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 3], help="how many seeds side by side")
    parser.add_argument("--algos", nargs="+", default=[name for name, algo in registry.ALGOS.items() if algo.gated])
    parser.add_argument("--json", help="also write the records to this file")
    parser.add_argument("--docs", action="store_true", help="also put the table between the marks of docs/speed.md")
    arguments = parser.parse_args()
    log = catalog.load("hopper-replay")
    rows, ceiling, records = log.transitions(log.scaler()), Ceiling(), []
    for count in arguments.seeds:
        for i, algo in enumerate(arguments.algos):
            found = measure(algo, list(range(count)), rows, arguments.steps, arguments.rounds, ceiling)
            records += found if i == 0 else found[1:]  # Stage I is the same for all
    document = {
        "environment": environment.describe(),
        "ceiling_gflops": [value / 1e9 for value in ceiling.seen],
        "records": records,
        "stage_one_parts_ms": breakdown(rows, arguments.rounds),
    }
    if arguments.json:
        with Path(arguments.json).open("x") as file:
            json.dump(document, file, indent=2)
    show(document)
    if arguments.docs:
        page.put(page.ROOT / "docs" / "speed.md", "speed", markdown(document))


if __name__ == "__main__":
    main()
