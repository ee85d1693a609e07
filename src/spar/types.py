"""Types shared by every room. Shapes: N rows of a dataset, B batch, S seeds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:  # the deployed policy imports this module and has no JAX
    import jax

State = Any  # an algorithm's NamedTuple of arrays
Config = Any  # an algorithm's frozen dataclass
Metrics = dict[str, Any]  # of scalar arrays


class SparError(Exception):
    """A mistake that its user can mend. The message is one line: what, where, and what to do."""


class Spec(NamedTuple):
    """Sizes of the problem."""

    obs_dim: int
    act_dim: int


class Transitions(NamedTuple):
    """Rows ready for training: observations standardised, actions in [-1, 1]."""

    obs: jax.Array  # (N, obs_dim) float32
    action: jax.Array  # (N, act_dim) float32
    reward: jax.Array  # (N,) float32
    next_obs: jax.Array  # (N, obs_dim) float32
    terminated: jax.Array  # (N,) float32, 1 where the environment itself ended: only this stops the bootstrap


class Batch(NamedTuple):
    """B sampled rows, with the columns that the stage's `prepare` computed once for the whole dataset."""

    rows: Transitions  # leading axis B
    frozen: dict[str, jax.Array]  # leading axis B


@dataclass(frozen=True)
class Stage:
    """A part of an algorithm's training.

    `update(cfg, state, batch, key, step) -> (state, metrics)`; `step` is a scalar shared by all seeds.
    `prepare(cfg, state, rows) -> columns` computes, once for all rows, what stays frozen during the stage; `columns` is a dict of
    arrays with the leading axis of `rows`. It is called on slices of the dataset, so it may not mix rows; `finish(cfg, columns)`
    then sees whole columns and may (to normalise by a dataset statistic).
    """

    name: str
    budget: Literal["anchor", "residual"]  # which of the two step counts this stage draws on
    update: Callable[..., tuple[State, Metrics]]
    share: float = 1.0  # of that step count
    prepare: Callable[..., dict[str, jax.Array]] | None = None
    finish: Callable[..., dict[str, jax.Array]] | None = None


@dataclass(frozen=True)
class Algo:
    """An algorithm as the trainer, the evaluator and the exporter see it.

    `init(cfg, spec, key) -> state`
    `act(cfg, state, obs, key) -> dict` with `action` (B, act_dim), `anchor` (B, act_dim), `accepted` (B,) and `gain` (B,)
    `export(cfg, state) -> (description, arrays)`: what the policy bundle needs, JSON-able and a flat dict of arrays
    """

    name: str
    summary: str
    config: type
    default: Config
    stages: tuple[Stage, ...]
    init: Callable[..., State]
    act: Callable[..., dict[str, jax.Array]]
    export: Callable[..., tuple[dict[str, Any], dict[str, Any]]]
