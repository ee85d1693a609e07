"""Training without the trainer: the same compiled steps serve the probe problems and the contract of the baselines."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from spar import registry
from spar.types import Batch, Spec, Transitions

BATCH = 64


class Course(NamedTuple):
    """`states[i]` is the state after part i (0: the start); `metrics[i]` are means over part i + 1; `stages[i]` is its stage."""

    states: list[Any]
    metrics: list[dict[str, float]]
    stages: list[int]

    @property
    def state(self) -> Any:
        return self.states[-1]

    def at_end_of(self, stage: int) -> Any:
        return self.states[1 + max(i for i, number in enumerate(self.stages) if number == stage)]


@functools.partial(jax.jit, static_argnums=(0, 1))
def advance(
    update: Callable[..., Any], cfg: Any, state: Any, rows: Transitions, key: jax.Array, first: jax.Array, count: jax.Array
) -> tuple[Any, dict[str, jax.Array]]:
    """`count` updates on batches drawn from `rows`, and the sums of their metrics."""

    def one(step: jax.Array, state: Any) -> tuple[Any, dict[str, jax.Array]]:
        draw_key, update_key = jax.random.split(jax.random.fold_in(key, step))
        index = jax.random.randint(draw_key, (BATCH,), 0, len(rows.obs))
        return update(cfg, state, Batch(jax.tree.map(lambda column: column[index], rows), {}), update_key, step)

    def body(i: jax.Array, carry: tuple[Any, Any]) -> tuple[Any, Any]:
        state, metrics = one(first + i, carry[0])
        return state, jax.tree.map(jnp.add, carry[1], metrics)

    shapes = jax.eval_shape(lambda: one(first, state)[1])
    return jax.lax.fori_loop(0, count, body, (state, jax.tree.map(lambda shape: jnp.zeros((), jnp.float32), shapes)))


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def start(algo: str, cfg: Any, spec: Spec, rows: Transitions, key: jax.Array) -> Any:
    record = registry.get(algo)
    state = record.init(cfg, spec, key)
    return state if record.inform is None else record.inform(cfg, state, rows)


def learn(algo: str, cfg: Any, rows: Transitions, steps: Sequence[int], seed: int = 0, parts: int = 1) -> Course:
    """`steps[i]` updates of stage i, each stage in `parts` equal parts."""
    key = jax.random.key(seed)
    course = Course([start(algo, cfg, Spec(rows.obs.shape[1], rows.action.shape[1]), rows, key)], [], [])
    done = 0
    for number, (stage, total) in enumerate(zip(registry.get(algo).stages, steps, strict=True)):
        for _ in range(parts if total else 0):
            count = total // parts
            state, sums = advance(stage.update, cfg, course.state, rows, key, jnp.int32(done), jnp.int32(count))
            course.states.append(state)
            course.metrics.append({name: float(np.asarray(value)) / count for name, value in sums.items()})
            course.stages.append(number)
            done += count
    return course


def act(algo: str, cfg: Any, state: Any, obs: jax.Array, seed: int = 1) -> dict[str, jax.Array]:
    """The algorithm's `act`, compiled."""
    return jax.jit(registry.get(algo).act, static_argnums=0)(cfg, state, obs, jax.random.key(seed))
