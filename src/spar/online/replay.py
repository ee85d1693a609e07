"""The replay buffer of fine-tuning, on the device: the log, which all seeds share, and behind it what each seed has lived since.

Shapes: S seeds, N rows of the log, C rows that will be lived, B batch.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from spar.types import Transitions


@dataclass(frozen=True)
class Mix:
    """How a batch is drawn, with replacement."""

    batch_size: int
    new_share: float | None = None  # share of lived rows in every batch; None: every row, logged or lived, is as likely

    @property
    def new(self) -> int:
        """Lived rows in a batch, where their share is fixed."""
        return 0 if self.new_share is None else round(self.new_share * self.batch_size)


class Replay(NamedTuple):
    logged: Transitions  # leading axis N
    lived: Transitions  # leading axes S, C; filled from row 0


def start(logged: Transitions, seeds: int, capacity: int) -> Replay:
    """A buffer with the whole log in it and room for `capacity` lived rows a seed."""
    return Replay(logged, jax.tree.map(lambda column: jnp.zeros((seeds, capacity, *column.shape[1:]), column.dtype), logged))


@functools.partial(jax.jit, donate_argnums=(0,))
def write(lived: Transitions, rows: Transitions, at: jax.Array) -> Transitions:
    """`lived` with `rows` (S, n, ...) written from row `at` on."""
    return jax.tree.map(lambda column, new: jax.lax.dynamic_update_slice_in_dim(column, new, at, 1), lived, rows)


def draw_index(mix: Mix, logged: int, lived: jax.Array, key: jax.Array) -> jax.Array:
    """(B,) rows of a buffer of `logged` and `lived` rows; numbers from `logged` on mean lived ones."""
    if mix.new_share is None:
        return jax.random.randint(key, (mix.batch_size,), 0, logged + lived)
    old_key, new_key = jax.random.split(key)
    old = jax.random.randint(old_key, (mix.batch_size - mix.new,), 0, logged)
    return jnp.concatenate([old, logged + jax.random.randint(new_key, (mix.new,), 0, lived)])


@functools.partial(jax.jit, static_argnums=(0, 5))
def draw(mix: Mix, replay: Replay, lived: jax.Array, keys: jax.Array, first: jax.Array, count: int) -> Transitions:
    """The batches (S, count, B, ...) of the updates from number `first` on, from the log and the first `lived` rows after it.

    Update t draws with the first half of `split(fold_in(key, t))`, as offline; `keys` (S,).
    """
    logged = len(replay.logged.obs)

    def batches(key: jax.Array, own: Transitions) -> Transitions:
        index_keys = jax.vmap(lambda t: jax.random.split(jax.random.fold_in(key, t))[0])(first + jnp.arange(count))
        index = jax.vmap(lambda one: draw_index(mix, logged, lived, one))(index_keys)
        old, new = jnp.minimum(index, logged - 1), jnp.maximum(index - logged, 0)

        def pick(a: jax.Array, b: jax.Array) -> jax.Array:
            chosen = (index < logged).reshape(*index.shape, *[1] * (a.ndim - 1))
            return jnp.where(chosen, a[old], b[new])

        return jax.tree.map(pick, replay.logged, own)

    return jax.vmap(batches)(keys, replay.lived)
