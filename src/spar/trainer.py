"""The loop: many updates a dispatch, seeds as a leading axis, frozen columns computed once, and a guard. It knows no algorithm.

The key of step t is `fold_in(seed's key, t)`, with t counted over all stages: a run that is cut and continued is the same run.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from spar.types import Algo, Batch, Config, SparError, Spec, Stage, State, Transitions

INIT_STEP = 2**32 - 1  # the "step" whose key initialises; no training step reaches it
PREPARE_ROWS = 8192  # rows of the dataset that a stage's `prepare` sees at a time


class Guard(NamedTuple):
    """What non-finite steps have done so far, one entry a seed. Such a step is skipped: the state stays as it was."""

    skipped: jax.Array  # (S,) int32, all skipped steps
    consecutive: jax.Array  # (S,) int32, skipped in a row up to now
    first: jax.Array  # (S,) int32, the step at which the present row of skips began
    halted: jax.Array  # (S,) bool, too many in a row: every later step is skipped too


class Position(NamedTuple):
    """Where training stands: `step` updates of stage number `stage` are done."""

    stage: int
    step: int


class Snapshot(NamedTuple):
    """All that training needs to go on."""

    position: Position
    state: State  # leading axis S
    guard: Guard


class Chunk(NamedTuple):
    """What `on_chunk` is told after each dispatch."""

    stage: Stage
    snapshot: Snapshot
    total: int  # steps of this stage
    metrics: dict[str, np.ndarray]  # (S,), means over the chunk


@dataclass(frozen=True)
class Settings:
    batch_size: int = 256  # rows drawn for one update
    log_every: int = 1000  # steps a dispatch: metrics are averages over it
    max_consecutive_errors: int = 10  # non-finite steps in a row before the run stops
    seeds: Literal["auto", "map", "vmap"] = "auto"  # seeds one after another within a dispatch, or side by side; auto: map on a CPU
    checkpoint_seconds: float = 30.0  # between checkpoints; it does not change the outcome


class Halted(SparError):
    """Training met `max_consecutive_errors` non-finite steps in a row."""


def seed_keys(seeds: Sequence[int]) -> jax.Array:
    """(S,) keys."""
    return jnp.stack([jax.random.key(seed) for seed in seeds])


def stage_steps(algo: Algo, anchor: int, residual: int) -> list[int]:
    """Updates of each stage of `algo`, from the two step counts a user gives."""
    return [round({"anchor": anchor, "residual": residual}[stage.budget] * stage.share) for stage in algo.stages]


def start(algo: Algo, cfg: Config, spec: Spec, seeds: Sequence[int]) -> Snapshot:
    """A fresh run. Seed i's state depends on its seed alone, not on the others."""
    state = jax.jit(jax.vmap(lambda key: algo.init(cfg, spec, jax.random.fold_in(key, INIT_STEP))))(seed_keys(seeds))
    count = jnp.zeros(len(seeds), jnp.int32)
    return Snapshot(Position(0, 0), state, Guard(count, count.copy(), count.copy(), jnp.zeros(len(seeds), bool)))


def run(
    algo: Algo,
    cfg: Config,
    rows: Transitions,
    seeds: Sequence[int],
    steps: Sequence[int],
    settings: Settings,
    snapshot: Snapshot,
    on_chunk: Callable[[Chunk], None],
) -> Snapshot:
    """Train from `snapshot` to the end: `steps[i]` updates of stage i on `rows`; `on_chunk` after every dispatch.

    Raises Halted when the guard of any seed gives up; the state is then the last finite one.
    """
    keys, frozen = seed_keys(seeds), Frozen(algo, cfg, rows)
    for number, (stage, total) in enumerate(zip(algo.stages, steps, strict=True)):
        if number < snapshot.position.stage:
            continue
        done = snapshot.position.step if number == snapshot.position.stage else 0
        columns = frozen.columns(stage, snapshot.state) if done < total else {}
        offset = sum(steps[:number])
        state, guard = snapshot.state, snapshot.guard
        while done < total:
            count = min(settings.log_every - done % settings.log_every, total - done)
            state, guard, metrics = advance(
                stage, cfg, settings, state, guard, rows, columns, keys, jnp.int32(offset + done), jnp.int32(count)
            )
            done += count
            if bool(guard.halted.any()):
                raise Halted(_explain(stage, cfg, settings, state, guard, rows, columns, keys, seeds))
            snapshot = Snapshot(Position(number, done), state, guard)
            on_chunk(Chunk(stage, snapshot, total, {name: np.asarray(value) for name, value in metrics.items()}))
    return snapshot


class Frozen:
    """The columns of a stage, computed once and kept while the next stage asks for the same ones."""

    def __init__(self, algo: Algo, cfg: Config, rows: Transitions) -> None:
        self.cfg, self.rows = cfg, rows
        self.made_by: Any = None
        self.kept: dict[str, jax.Array] = {}

    def columns(self, stage: Stage, state: State) -> dict[str, jax.Array]:
        """Leading axes S, N."""
        if stage.prepare is None:
            return {}
        if self.made_by != (stage.prepare, stage.finish):
            self.kept = prepare(stage, self.cfg, state, self.rows)
            self.made_by = (stage.prepare, stage.finish)
        return self.kept


@functools.partial(jax.jit, static_argnums=(0, 1))
def prepare(stage: Stage, cfg: Config, state: State, rows: Transitions) -> dict[str, jax.Array]:
    """`stage.prepare` over slices of the rows, then `stage.finish`, for every seed: leading axes S, N."""

    def one_row(state: State, row: Transitions) -> dict[str, jax.Array]:
        assert stage.prepare is not None
        columns = stage.prepare(cfg, state, jax.tree.map(lambda x: x[None], row))
        return jax.tree.map(lambda x: x[0], columns)

    def one_seed(state: State) -> dict[str, jax.Array]:
        columns = jax.lax.map(functools.partial(one_row, state), rows, batch_size=PREPARE_ROWS)
        return columns if stage.finish is None else stage.finish(cfg, columns)

    return jax.lax.map(one_seed, state)


def draw(settings: Settings, rows: Transitions, columns: dict[str, jax.Array], key: jax.Array) -> Batch:
    """A batch of rows drawn uniformly with replacement; `columns` is one seed's."""
    index = jax.random.randint(key, (settings.batch_size,), 0, rows.obs.shape[0])
    return Batch(*jax.tree.map(lambda column: column[index], (rows, columns)))


def one_step(
    stage: Stage,
    cfg: Config,
    settings: Settings,
    state: State,
    rows: Transitions,
    columns: dict[str, jax.Array],
    key: jax.Array,
    step: jax.Array,
) -> tuple[State, dict[str, jax.Array]]:
    """Step number `step` of one seed, without the guard."""
    batch_key, update_key = jax.random.split(jax.random.fold_in(key, step))
    return stage.update(cfg, state, draw(settings, rows, columns, batch_key), update_key, step)


def advance(
    stage: Stage,
    cfg: Config,
    settings: Settings,
    state: State,
    guard: Guard,
    rows: Transitions,
    columns: dict[str, jax.Array],
    keys: jax.Array,
    first: int,
    count: int,
) -> tuple[State, Guard, dict[str, jax.Array]]:
    """`count` guarded steps of all seeds from step `first`. Returns the mean metrics over the steps not skipped, (S,).

    Choosing between old and new state at every step would cost a pass over all parameters. So the chunk runs without that choice first;
    only if a step was not finite is it run again from its beginning, skipping such steps.
    """
    arguments = (stage, cfg, settings, state, guard, rows, columns, keys, jnp.int32(first), jnp.int32(count))
    result = _advance(*arguments, False)
    return result if bool((result[1].skipped == guard.skipped).all()) else _advance(*arguments, True)


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 10))
def _advance(
    stage: Stage,
    cfg: Config,
    settings: Settings,
    state: State,
    guard: Guard,
    rows: Transitions,
    columns: dict[str, jax.Array],
    keys: jax.Array,
    first: jax.Array,
    count: jax.Array,
    skipping: bool,
) -> tuple[State, Guard, dict[str, jax.Array]]:
    """The chunk of `advance` in one dispatch. A CPU does the seeds one after another (it has no idle units to fill), a GPU all at once."""

    def guarded(
        state: State, guard: Guard, columns: dict[str, jax.Array], key: jax.Array, step: jax.Array
    ) -> tuple[State, Guard, Any, jax.Array]:
        new, metrics = one_step(stage, cfg, settings, state, rows, columns, key, step)
        finite = jnp.stack([jnp.isfinite(value) for value in metrics.values()]).all()
        if not skipping:
            return new, guard._replace(skipped=guard.skipped + ~finite, consecutive=jnp.zeros_like(guard.consecutive)), metrics, finite
        ok = finite & ~guard.halted
        consecutive = jnp.where(finite, 0, guard.consecutive + 1)
        guard = Guard(
            skipped=guard.skipped + ~ok,
            consecutive=jnp.where(guard.halted, guard.consecutive, consecutive),
            first=jnp.where(ok | (guard.consecutive > 0), guard.first, step),
            halted=guard.halted | (consecutive >= settings.max_consecutive_errors),
        )
        state = jax.tree.map(lambda new, old: jnp.where(ok, new, old), new, state)
        return state, guard, jax.tree.map(lambda value: jnp.where(ok, value, 0.0), metrics), ok

    def one_seed(state: State, guard: Guard, columns: dict[str, jax.Array], key: jax.Array) -> tuple[State, Guard, dict[str, jax.Array]]:
        def body(i: jax.Array, carry: tuple) -> tuple:
            state, guard, sums, taken = carry
            state, guard, metrics, ok = guarded(state, guard, columns, key, first + i)
            return state, guard, jax.tree.map(jnp.add, sums, metrics), taken + ok

        shapes = jax.eval_shape(lambda: one_step(stage, cfg, settings, state, rows, columns, key, first)[1])
        sums = jax.tree.map(lambda shape: jnp.zeros((), jnp.float32), shapes)
        state, guard, sums, taken = jax.lax.fori_loop(0, count, body, (state, guard, sums, jnp.int32(0)))
        return state, guard, jax.tree.map(lambda total: total / taken, sums)

    inputs = (state, guard, columns, keys)
    if settings.seeds == "vmap" or (settings.seeds == "auto" and jax.default_backend() != "cpu"):
        return jax.vmap(one_seed)(*inputs)
    return jax.lax.map(lambda seed: one_seed(*seed), inputs)


def _explain(
    stage: Stage,
    cfg: Config,
    settings: Settings,
    state: State,
    guard: Guard,
    rows: Transitions,
    columns: dict[str, jax.Array],
    keys: jax.Array,
    seeds: Sequence[int],
) -> str:
    """One line: which metric, which step, what the batch looked like. The state has not moved since, so the step can be repeated."""
    i = int(np.flatnonzero(np.asarray(guard.halted))[0])
    step = int(guard.first[i])
    mine = jax.tree.map(lambda x: x[i], (state, columns))
    _, metrics = one_step(stage, cfg, settings, mine[0], rows, mine[1], keys[i], jnp.int32(step))
    bad = [name for name, value in metrics.items() if not np.isfinite(value)]
    batch = draw(settings, rows, mine[1], jax.random.split(jax.random.fold_in(keys[i], step))[0]).rows
    stats = ", ".join(f"{name} in [{float(column.min()):.3g}, {float(column.max()):.3g}]" for name, column in batch._asdict().items())
    return (
        f"stage '{stage.name}', seed {seeds[i]}: {settings.max_consecutive_errors} steps in a row were not finite, from step {step} on "
        f"({', '.join(bad)}); batch: {stats}. The last checkpoint is intact; lower the learning rate or check the rewards"
    )
