"""The loop: many updates a dispatch, seeds as a leading axis, frozen columns computed once, and a guard. It knows no algorithm.

The key of step t is `fold_in(seed's key, t)`, with t counted over all stages: a run that is cut and continued is the same run.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from spar.data.blocks import heap, mapped
from spar.data.episodes import HostRows
from spar.types import Algo, Batch, Config, SparError, Spec, Stage, State, Transitions

INIT_STEP = 2**32 - 1  # the "step" whose key initialises; no training step reaches it
PREPARE_ROWS = 8192  # rows of the dataset that a stage's `prepare` sees at a time
FEED_BYTES = 64 << 20  # of batches handed to one dispatch, where the dataset stays on the host

Carry = tuple[State, "Guard", Any, Any]  # state, guard, sums of the metrics and their count, leading axis S


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
    totals, spent, steps = {"anchor": anchor, "residual": residual, "all": anchor + residual}, dict[str, float](), list[int]()
    for stage in algo.stages:
        before = spent.get(stage.budget, 0.0)
        spent[stage.budget] = before + stage.share
        steps.append(round(totals[stage.budget] * spent[stage.budget]) - round(totals[stage.budget] * before))
    return steps


def start(algo: Algo, cfg: Config, spec: Spec, seeds: Sequence[int]) -> Snapshot:
    """A fresh run. Seed i's state depends on its seed alone, not on the others."""
    count = jnp.zeros(len(seeds), jnp.int32)
    guard = Guard(count, count.copy(), count.copy(), jnp.zeros(len(seeds), bool))
    return Snapshot(Position(0, 0), _initial(algo, cfg, spec, seed_keys(seeds)), guard)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _initial(algo: Algo, cfg: Config, spec: Spec, keys: jax.Array) -> State:
    """Compiled once for each configuration."""
    return jax.vmap(lambda key: algo.init(cfg, spec, jax.random.fold_in(key, INIT_STEP)))(keys)


class Data(NamedTuple):
    """What one dispatch reads: the whole dataset, or, where that stays on the host, the batches of its steps (leading axes S, steps, B)."""

    rows: Transitions
    columns: dict[str, jax.Array]  # leading axes S, N
    keys: jax.Array  # (S,)


@dataclass(frozen=True)
class Work:
    """What the loop does; compiled once for each."""

    stage: Stage
    cfg: Config
    settings: Settings
    fed: bool = False  # batches come ready-made, from a Feed


class Feed:
    """Batches gathered on the host, from rows and columns in memory or in memory-mapped files. They are those that the loop would draw."""

    def __init__(self, settings: Settings, rows: HostRows, columns: dict[str, np.ndarray], keys: jax.Array) -> None:
        self.settings, self.rows, self.columns, self.keys = settings, rows, columns, keys

    def parts(self, first: int, count: int) -> Iterator[tuple[int, int, Data]]:
        """(first step, steps, data) of consecutive dispatches, each with at most FEED_BYTES of batches."""
        row = [*self.rows.take(np.zeros(1, int)), *(column[0, :1] for column in self.columns.values())]
        row_bytes = sum(x.nbytes for x in row if x is not None)
        most = FEED_BYTES // (row_bytes * self.settings.batch_size * len(self.keys))
        size = min(max(1, most), self.settings.log_every)  # always as many batches: another number would be compiled anew
        for start in range(first, first + count, size):
            index = np.asarray(_indices(self.settings, len(self.rows), self.keys, jnp.int32(start), size))
            columns = {name: np.stack([c[i] for c, i in zip(column, index, strict=True)]) for name, column in self.columns.items()}
            rows, columns = jax.tree.map(jnp.asarray, (self.rows.take(index), columns))
            yield start, min(size, first + count - start), Data(rows, columns, self.keys)


def run(
    algo: Algo,
    cfg: Config,
    rows: Transitions | HostRows,
    seeds: Sequence[int],
    steps: Sequence[int],
    settings: Settings,
    snapshot: Snapshot,
    on_chunk: Callable[[Chunk], None],
) -> Snapshot:
    """Train from `snapshot` to the end: `steps[i]` updates of stage i on `rows`; `on_chunk` after every dispatch. The outcome does not
    depend on whether `rows` lie on the device or on the host.

    Raises Halted when the guard of any seed gives up; the state is then the last finite one.
    """
    keys, frozen = seed_keys(seeds), Frozen(cfg, rows)
    inform = algo.inform
    if inform is not None and snapshot.position == (0, 0):
        whole = rows.on_device() if isinstance(rows, HostRows) else rows  # an algorithm that asks for statistics needs room for it
        snapshot = snapshot._replace(state=jax.vmap(lambda state: inform(cfg, state, whole))(snapshot.state))
    for number, (stage, total) in enumerate(zip(algo.stages, steps, strict=True)):
        if number < snapshot.position.stage:
            continue
        done = snapshot.position.step if number == snapshot.position.stage else 0
        columns = frozen.columns(stage, snapshot.state) if done < total else {}
        work, data = Work(stage, cfg, settings, fed=isinstance(rows, HostRows)), dataset(settings, rows, columns, keys)
        offset = sum(steps[:number])
        state, guard = snapshot.state, snapshot.guard
        while done < total:
            count = min(settings.log_every - done % settings.log_every, total - done)
            state, guard, metrics = advance(work, state, guard, data, offset + done, count)
            done += count
            if bool(guard.halted.any()):
                raise Halted(_explain(work, state, guard, data, seeds))
            snapshot = Snapshot(Position(number, done), state, guard)
            on_chunk(Chunk(stage, snapshot, total, {name: np.asarray(value) for name, value in metrics.items()}))
    return snapshot


class Frozen:
    """The columns of a stage, computed once and kept while the next stage asks for the same ones."""

    def __init__(self, cfg: Config, rows: Transitions | HostRows) -> None:
        self.cfg, self.rows = cfg, rows
        self.made_by: Any = None
        self.kept: dict[str, np.ndarray] = {}

    def columns(self, stage: Stage, state: State) -> dict[str, np.ndarray]:
        """Leading axes S, N."""
        if stage.prepare is None:
            return {}
        if self.made_by != (stage.prepare, stage.finish):
            self.kept = prepare(stage, self.cfg, state, self.rows)
            self.made_by = (stage.prepare, stage.finish)
        return self.kept


def prepare(stage: Stage, cfg: Config, state: State, rows: Transitions | HostRows) -> dict[str, np.ndarray]:
    """`stage.prepare` over slices of the rows, then `stage.finish`, for every seed: leading axes S, N, on the host (memory-mapped where
    the log is)."""
    total = len(rows) if isinstance(rows, HostRows) else len(rows.obs)
    allocate = mapped if isinstance(rows, HostRows) and rows.log.is_mapped else heap
    columns: dict[str, np.ndarray] = {}
    for stop in [*range(PREPARE_ROWS, total, PREPARE_ROWS), total]:
        start = max(0, stop - PREPARE_ROWS)  # slices of one size; the last one overlaps the one before
        index = np.arange(start, stop)
        part = rows.take(index) if isinstance(rows, HostRows) else jax.tree.map(operator.itemgetter(index), rows)
        for name, value in _prepare_slice(stage, cfg, state, part).items():
            if name not in columns:
                columns[name] = allocate((value.shape[0], total, *value.shape[2:]))
            columns[name][:, start:stop] = value
    if stage.finish is None:
        return columns
    whole = {name: columns.pop(name) for name in stage.reads}
    return columns | {name: np.asarray(column) for name, column in _finish(stage, cfg, whole).items()}


@functools.partial(jax.jit, static_argnums=(0, 1))
def _prepare_slice(stage: Stage, cfg: Config, state: State, rows: Transitions) -> dict[str, jax.Array]:
    assert stage.prepare is not None
    return jax.lax.map(lambda one: stage.prepare(cfg, one, rows), state)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _finish(stage: Stage, cfg: Config, columns: dict[str, jax.Array]) -> dict[str, jax.Array]:
    assert stage.finish is not None
    return jax.lax.map(lambda one: stage.finish(cfg, one), columns)


def dataset(settings: Settings, rows: Transitions | HostRows, columns: dict[str, np.ndarray], keys: jax.Array) -> Data | Feed:
    """What `advance` reads from."""
    if isinstance(rows, HostRows):
        return Feed(settings, rows, columns, keys)
    return Data(rows, jax.tree.map(jnp.asarray, columns), keys)


def draw_index(settings: Settings, count: int, key: jax.Array, step: jax.Array) -> jax.Array:
    """The rows (B,) of the batch of step number `step`, drawn uniformly with replacement."""
    return jax.random.randint(jax.random.split(jax.random.fold_in(key, step))[0], (settings.batch_size,), 0, count)


@functools.partial(jax.jit, static_argnums=(0, 1, 4))
def _indices(settings: Settings, count: int, keys: jax.Array, first: jax.Array, steps: int) -> jax.Array:
    """(S, steps, B)"""
    return jax.vmap(lambda key: jax.vmap(lambda i: draw_index(settings, count, key, first + i))(jnp.arange(steps)))(keys)


def one_step(work: Work, state: State, data: Data, step: jax.Array, first: jax.Array | int = 0) -> tuple[State, dict[str, jax.Array]]:
    """Step number `step` of one seed, without the guard. `data` has no seed axis; if fed, its batches begin with step `first`."""
    where = step - first if work.fed else draw_index(work.settings, len(data.rows.obs), data.keys, step)
    batch = Batch(*jax.tree.map(lambda column: column[where], (data.rows, data.columns)))
    update_key = jax.random.split(jax.random.fold_in(data.keys, step))[1]
    return work.stage.update(work.cfg, state, batch, update_key, step)


def advance(work: Work, state: State, guard: Guard, data: Data | Feed, first: int, count: int) -> tuple[State, Guard, dict[str, jax.Array]]:
    """`count` guarded steps of all seeds from step `first`. Returns the mean metrics over the steps not skipped, (S,).

    Choosing between old and new state at every step would cost a pass over all parameters. So the chunk runs without that choice first;
    only if a step was not finite is it run again from its beginning, skipping such steps.
    """
    for skipping in (False, True):
        carry: Carry = (state, guard, None, None)
        for start, steps, part in data.parts(first, count) if isinstance(data, Feed) else [(first, count, data)]:
            carry = _dispatch(work, carry, part, jnp.int32(start), jnp.int32(steps), skipping)
        if skipping or bool((carry[1].skipped == guard.skipped).all()):
            break
    sums, taken = carry[2:]
    return carry[0], carry[1], jax.tree.map(lambda total: total / taken, sums)


@functools.partial(jax.jit, static_argnums=(0, 5))
def _dispatch(work: Work, carry: Carry, data: Data, first: jax.Array, count: jax.Array, skipping: bool) -> Carry:
    """The chunk of `advance`, or a part of it. A CPU does the seeds one after another (it has no idle units to fill), a GPU all at once."""

    def guarded(state: State, guard: Guard, data: Data, step: jax.Array) -> tuple[State, Guard, Any, jax.Array]:
        new, metrics = one_step(work, state, data, step, first)
        finite = jnp.stack([jnp.isfinite(value) for value in metrics.values()]).all()
        if not skipping:
            return new, guard._replace(skipped=guard.skipped + ~finite, consecutive=jnp.zeros_like(guard.consecutive)), metrics, finite
        ok = finite & ~guard.halted
        consecutive = jnp.where(finite, 0, guard.consecutive + 1)
        guard = Guard(
            skipped=guard.skipped + ~ok,
            consecutive=jnp.where(guard.halted, guard.consecutive, consecutive),
            first=jnp.where(ok | (guard.consecutive > 0), guard.first, step),
            halted=guard.halted | (consecutive >= work.settings.max_consecutive_errors),
        )
        state = jax.tree.map(lambda new, old: jnp.where(ok, new, old), new, state)
        return state, guard, jax.tree.map(lambda value: jnp.where(ok, value, 0.0), metrics), ok

    def one_seed(carry: Carry, own: Data) -> Carry:
        mine = own if work.fed else own._replace(rows=data.rows)

        def body(i: jax.Array, carry: Carry) -> Carry:
            state, guard, sums, taken = carry
            state, guard, metrics, ok = guarded(state, guard, mine, first + i)
            return state, guard, jax.tree.map(jnp.add, sums, metrics), taken + ok

        state, guard, sums, taken = carry
        if sums is None:
            shapes = jax.eval_shape(lambda: one_step(work, state, mine, first, first)[1])
            sums, taken = jax.tree.map(lambda shape: jnp.zeros((), jnp.float32), shapes), jnp.int32(0)
        return jax.lax.fori_loop(0, count, body, (state, guard, sums, taken))

    per_seed = data if work.fed else data._replace(rows=None)  # type: ignore[arg-type]
    if work.settings.seeds == "vmap" or (work.settings.seeds == "auto" and jax.default_backend() != "cpu"):
        return jax.vmap(one_seed)(carry, per_seed)
    return jax.lax.map(lambda both: one_seed(*both), (carry, per_seed))


def _explain(work: Work, state: State, guard: Guard, data: Data | Feed, seeds: Sequence[int]) -> str:
    """One line: which metric, which step, what the batch looked like. The state has not moved since, so the step can be repeated."""
    i = int(np.flatnonzero(np.asarray(guard.halted))[0])
    step = int(guard.first[i])
    if isinstance(data, Feed):
        data = next(data.parts(step, 1))[2]
        rows, columns = jax.tree.map(lambda x: x[i], (data.rows, data.columns))
        batch = jax.tree.map(lambda x: x[0], rows)
    else:
        rows, columns = data.rows, jax.tree.map(lambda x: x[i], data.columns)
        index = draw_index(work.settings, len(rows.obs), data.keys[i], jnp.int32(step))
        batch = jax.tree.map(lambda x: x[index], rows)
    mine = jax.tree.map(lambda x: x[i], state)
    _, metrics = jax.jit(one_step, static_argnums=0)(work, mine, Data(rows, columns, data.keys[i]), jnp.int32(step), step)
    bad = [name for name, value in metrics.items() if not np.isfinite(value)]
    found = [(name, column) for name, column in batch._asdict().items() if column is not None]
    stats = ", ".join(f"{name} in [{float(column.min()):.3g}, {float(column.max()):.3g}]" for name, column in found)
    return (
        f"stage '{work.stage.name}', seed {seeds[i]}: {work.settings.max_consecutive_errors} steps in a row were not finite, from step "
        f"{step} on ({', '.join(bad)}); batch: {stats}; lower the learning rate or check the rewards"
    )
