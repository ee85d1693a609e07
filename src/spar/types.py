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
    next_action: jax.Array | None = None  # (N, act_dim) float32, the logged successor inside the episode; only where `DataNeeds` asks


@dataclass(frozen=True)
class DataNeeds:
    """What an algorithm asks of the data before training; the default asks nothing.

    A reward becomes `reward_scale * r / unit + reward_shift`, where the unit is 1 (raw), a thousandth of the range of the training
    episodes' returns (return-range) or the largest absolute reward (max). Evaluation always counts raw rewards.
    """

    standardise: bool = True  # observations to zero mean and unit variance
    reward: Literal["raw", "return-range", "max"] = "raw"
    reward_scale: float = 1.0
    reward_shift: float = 0.0
    top_episodes: float = 1.0  # share of the episodes, those of highest return, that trains; chosen before any statistic is taken
    next_action: bool = False  # fill Transitions.next_action; an episode's last row goes unless it terminated: it has no next action


class Batch(NamedTuple):
    """B sampled rows, with the columns that the stage's `prepare` computed once for the whole dataset."""

    rows: Transitions  # leading axis B
    frozen: dict[str, jax.Array]  # leading axis B


@dataclass(frozen=True)
class Stage:
    """A part of an algorithm's training.

    `update(cfg, state, batch, key, step) -> (state, metrics)`; `step` is a scalar shared by all seeds.
    `prepare(cfg, state, rows) -> columns` computes, once for all rows, what stays frozen during the stage; `columns` is a dict of
    arrays with the leading axis of `rows`. It is called on slices of the dataset, so it may not mix rows. `finish(cfg, columns)` may (to
    normalise by a dataset statistic): it replaces the columns named in `reads`, which it is given whole; the others stay.
    """

    name: str
    budget: Literal["anchor", "residual", "all"]  # which of the two step counts this stage draws on; all: their sum
    update: Callable[..., tuple[State, Metrics]]
    share: float = 1.0  # of that step count
    prepare: Callable[..., dict[str, jax.Array]] | None = None
    finish: Callable[..., dict[str, jax.Array]] | None = None
    reads: tuple[str, ...] = ()


@dataclass(frozen=True)
class Algo:
    """An algorithm as the trainer, the evaluator and the exporter see it.

    `init(cfg, spec, key) -> state`
    `act(cfg, state, obs, key) -> dict` with `action` (B, act_dim), `anchor` (B, act_dim), `accepted` (B,) and `gain` (B,)
    `export(cfg, state) -> (description, arrays)`: what the policy bundle needs, JSON-able and a flat dict of arrays
    `inform(cfg, state, rows) -> state`: statistics of the whole dataset that the state keeps, taken once before the first step
    `online`: the update that continues training in an environment, its `step` counted from 0 there; None: the last stage's
    `shares`: pairs (field of the state, the part of the configuration that decides it) that the first stage alone trains, from `init` on
    independently of all other parts: algorithms that agree in them may share that stage's outcome. None may depend on `inform`
    `later`: settings of those parts, as (part, field), that the first stage does not read
    """

    name: str
    summary: str
    config: type
    default: Config
    stages: tuple[Stage, ...]
    init: Callable[..., State]
    act: Callable[..., dict[str, jax.Array]]
    export: Callable[..., tuple[dict[str, Any], dict[str, Any]]]
    data: DataNeeds = DataNeeds()
    inform: Callable[..., State] | None = None
    online: Callable[..., tuple[State, Metrics]] | None = None
    shares: tuple[tuple[str, str], ...] = ()
    later: tuple[tuple[str, str], ...] = ()

    @property
    def gated(self) -> bool:
        """Whether its policy corrects an anchor through a gate: its configuration then has one."""
        return hasattr(self.default, "gate")
