"""What it gains to pass many copies of a batch through a network in blocks: python benchmarks/blocks.py [--rounds 15] [--docs]

One update of CQL (31 actions a state) and one imitating update of SPAR-PROJ (64 candidates a state), cut into blocks of `ops.BLOCK_ROWS`
and whole, taking turns in one run on a random batch of the sizes of HalfCheetah. Read the ratios. `--docs` puts the table into
docs/speed.md.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import page

from spar import ops, registry
from spar.runs import environment
from spar.types import Batch, Spec, Transitions

SPEC, ROWS = Spec(17, 6), 256
WHOLE = 10**9
HEADER = ("update of", "copies of 256 rows", "blocks", "ms whole", "ms in blocks", "ratio")


def batch() -> Batch:
    rng = np.random.default_rng(0)
    draw = {
        name: jnp.asarray(rng.normal(size=(ROWS, width)), jnp.float32) for name, width in (("obs", 17), ("next_obs", 17), ("action", 6))
    }
    action, number = jnp.tanh(draw["action"]), jnp.asarray(rng.normal(size=ROWS), jnp.float32)
    frozen = {"a_base": 0.9 * action, "q_base": number, "sigma": jnp.ones(ROWS), "weight": jnp.ones(ROWS)}
    return Batch(Transitions(draw["obs"], action, number, draw["next_obs"], 0 * number, action), frozen)


def compiled(algo: str, rows_at_once: int, rows: Batch) -> Callable[[], Any]:
    """A call that makes the last stage's update number 0, in which SPAR-PROJ imitates."""
    record, ops.BLOCK_ROWS = registry.get(algo), rows_at_once
    state = record.init(record.default, SPEC, jax.random.key(0))
    step = jax.jit(lambda state: record.stages[-1].update(record.default, state, rows, jax.random.key(1), jnp.int32(0)))
    jax.block_until_ready(step(state))
    return lambda: jax.block_until_ready(step(state))


def measure(algo: str, copies: int, rounds: int) -> tuple[str, ...]:
    rows, limit = batch(), ops.BLOCK_ROWS
    count = ops.block_count(ROWS, copies)
    calls = [compiled(algo, rows_at_once, rows) for rows_at_once in (WHOLE, limit)]
    ops.BLOCK_ROWS = limit
    seconds: list[list[float]] = [[], []]
    for _ in range(rounds):
        for call, own in zip(calls, seconds, strict=True):
            began = time.perf_counter()
            call()
            own.append(time.perf_counter() - began)
    whole, blocks = (1e3 * float(np.median(own)) for own in seconds)
    return (f"`{algo}`", str(copies), str(count), f"{whole:.0f}", f"{blocks:.0f}", f"{whole / blocks:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--docs", action="store_true", help="also put the table between the marks of docs/speed.md")
    arguments = parser.parse_args()
    copies = {"cql": 3 * registry.get("cql").default.samples + 1, "spar-proj": registry.get("spar-proj").default.imitation.candidates}
    table = page.table(HEADER, [measure(algo, count, arguments.rounds) for algo, count in copies.items()])
    machine = environment.describe()["machine"]
    text = f"{table}\n\nMedians of {arguments.rounds} rounds; {machine['cores']} cores of {machine['processor']}, jax {jax.__version__}."
    print(text)
    if arguments.docs:
        page.put(page.ROOT / "docs" / "speed.md", "blocks", text)


if __name__ == "__main__":
    main()
