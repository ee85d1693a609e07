"""The configuration of a run: typed, frozen, and equal to itself after a round trip through JSON."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from dataclasses import dataclass, field
from typing import Any, Literal

from spar import registry, trainer
from spar.evaluate.environments import EnvConfig
from spar.method import spar
from spar.types import Algo, DataNeeds, SparError

Budget = Literal["quick", "standard", "paper"]
PAPER_SEEDS = (0, 42, 123)
AUTO, CHOICES = "auto", ("spar-mlp", "spar-proj")  # a run's algorithm that is chosen after Stage I, and what from


@dataclass(frozen=True)
class DataConfig:
    standardise: bool = True  # observations to zero mean and unit variance
    reward_shift: float = 0.0  # added to every reward; -1 for AntMaze
    tier: Literal["auto", "device", "host", "mapped"] = "auto"  # where the rows live: mapped for a log larger than memory
    holdout: float = 0.05  # share of episodes kept out of training to measure the action error and the gate on


@dataclass(frozen=True)
class EvalConfig:
    every: int = 5000  # steps between evaluations during training; 0: only at the end
    episodes: int = 5  # episodes in each of those


@dataclass(frozen=True)
class AutoConfig(spar.PROJConfig, spar.MLPConfig):
    """The settings of all that `auto` may choose."""


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides a run's outcome."""

    dataset: str
    algo: str  # a name of the registry, or `auto`
    env: EnvConfig | None
    episodes: int  # of the final evaluation, for each seed
    seeds: tuple[int, ...]
    steps_anchor: int
    steps_residual: int
    config: Any  # the algorithm's own
    loop: trainer.Settings = field(default_factory=trainer.Settings)
    needs: DataNeeds = field(default_factory=DataNeeds)  # what the algorithm asks of the data
    data: DataConfig = field(default_factory=DataConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)


@dataclass(frozen=True)
class BudgetSteps:
    """What `--budget` stands for."""

    steps_anchor: int
    steps_residual: int
    seeds: tuple[int, ...]
    eval_every: int
    holdout: float
    faster: float  # factor of the published rate of target critics: in few steps, values must travel faster
    polyak: dict[str, float]  # rates of those that take another one
    log_every: int  # updates between signs of life

    def target_rate(self, algo: Algo, published: float, anchor: int, residual: int) -> float:
        """Of the target critics in a run of so many updates: the budget's; in k times the budget's updates, k times slower, but no slower
        than published. Only those updates count that train critics."""
        own, given = (self.steps_anchor, anchor) if algo.gated else (self.steps_anchor + self.steps_residual, anchor + residual)
        return max(published, self.polyak.get(algo.name, self.faster * published) * min(1.0, own / max(given, 1)))


# Where 0.02, four times the published rate, was not the better of the two that were tried on hopper-replay: docs/readings.md
POLYAK = {name: 0.05 for name, algo in registry.ALGOS.items() if algo.gated} | {AUTO: 0.05}
POLYAK |= {"awac": 0.03125, "iql": 0.03125, "td3bc": 0.0625, "onestep": 500 / 11_200, "lapo": 0.03125, "bcq": 0.005}
BUDGETS: dict[str, BudgetSteps] = {
    "quick": BudgetSteps(10_000, 6_000, (0,), 2_000, 0.05, 4, POLYAK, 200),
    "standard": BudgetSteps(200_000, 100_000, PAPER_SEEDS, 25_000, 0.05, 1, {}, 1_000),
    "paper": BudgetSteps(1_000_000, 1_000_000, PAPER_SEEDS, 50_000, 0.0, 1, {}, 1_000),  # Table 7: every episode trains
}


def to_dict(value: Any) -> Any:
    """A dataclass as plain JSON types; infinities become strings."""
    if dataclasses.is_dataclass(value):
        return {f.name: to_dict(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, (tuple, list)):
        return [to_dict(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def from_dict(kind: Any, document: Any, where: str = "config") -> Any:
    """The inverse of `to_dict` for the dataclass `kind`. Raises SparError for an unknown or missing field, or one of another type."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        _check(document, dict, where)
        hints = typing.get_type_hints(kind)
        unknown = set(document) - set(hints)
        required = {
            f.name for f in dataclasses.fields(kind) if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        }
        if unknown or required - set(document):
            raise SparError(f"{where}: unknown fields {sorted(unknown)}, missing fields {sorted(required - set(document))}")
        return kind(**{key: from_dict(hints[key], value, f"{where}.{key}") for key, value in document.items()})  # type: ignore[operator]
    if origin is tuple:
        _check(document, (list, tuple), where)
        return tuple(from_dict(args[0], item, where) for item in document)
    if origin in (types.UnionType, typing.Union):
        return None if document is None else from_dict(next(a for a in args if a is not type(None)), document, where)
    if kind is float:
        _check(document, (int, float) if document not in ("inf", "-inf", "nan") else str, where)
        return float(document)
    if origin is Literal and document not in args:
        raise SparError(f"{where} is {document!r}; there are: {', '.join(args)}")
    if kind is int and isinstance(document, float) and document.is_integer():
        return int(document)
    if kind in (int, bool, str):
        _check(document, kind, where)
    return document


def _check(document: Any, kinds: type | tuple[type, ...], where: str) -> None:
    """Raises SparError for a value of another type; a truth value is no number."""
    if not isinstance(document, kinds) or (isinstance(document, bool) and kinds is not bool):
        name = {dict: "an object", str: "a string", bool: "true or false", int: "a whole number", (int, float): "a number"}
        raise SparError(f"{where} is {document!r}; it must be {name.get(kinds, 'a list')}")


def algorithm(name: str) -> Algo:
    """What a run calls `name`; `auto` is the first stage of all that it may choose. Raises SparError for an unknown name."""
    if name != AUTO:
        return registry.get(name)
    first = registry.get(CHOICES[0])
    summary = f"trains Stage I, looks at the shape of the log's residuals, and goes on as {' or '.join(CHOICES)}"
    return dataclasses.replace(
        first, name=AUTO, summary=summary, config=AutoConfig, default=AutoConfig(), stages=first.stages[:1], online=None
    )


def run_config_from_dict(document: dict[str, Any]) -> RunConfig:
    """A RunConfig whose `config` has its algorithm's own type."""
    plain = from_dict(RunConfig, document)
    return dataclasses.replace(plain, config=from_dict(algorithm(plain.algo).config, plain.config, "config.config"))
