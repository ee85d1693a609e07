"""What a study is: tasks, variants and what is measured of them, declared; and how a variant becomes the configuration of a run.

A variant is an algorithm on a task's preset (`spar.presets`, `spar.baselines.presets`) with dotted edits of its configuration on top. Two
variants whose edits come to the same configuration share a run, whichever studies they belong to.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from spar import api
from spar.presets import NEAREST
from spar.runs.compare import flat
from spar.runs.config import BUDGETS, PAPER_SEEDS, EvalConfig, RunConfig, to_dict
from spar.studies import paper
from spar.studies.claims import Claim
from spar.trainer import Settings
from spar.types import SparError

Regime = Literal["unimodal", "multimodal", "narrow", "sparse"]
Derived = tuple[list[dict[str, Any]], list[str]]  # cells and notes
SMOKE = "smoke"  # of studies alone: does every part of them work?
SMOKE_TASK, SMOKE_SEEDS, SMOKE_RUNS = "hopper-replay", (0,), 3
SMOKE_SETTINGS: dict[str, Any] = {
    "steps_anchor": 20,
    "steps_residual": 20,
    "episodes": 2,
    "eval": EvalConfig(every=10, episodes=1),
    "loop": Settings(batch_size=16, log_every=10),
}
SMALL: dict[str, Any] = {
    "size": 4,
    "subset": 2,
    "latent_dim": 2,
    "candidates": 2,
    "flow_steps": 2,
}  # upper limits of a smoke run's settings
SMALL_WIDTH = 16
LONGEST_NAME = 200  # characters of a run directory's name before a hash takes the place of its end

PAPER_TASKS: dict[
    str, tuple[str, Regime]
] = {  # the preset's task -> the paper's abbreviation, and its word for the residuals (4.2, Figure 2)
    "halfcheetah-medium-replay": ("HC-MR", "unimodal"),
    "hopper-medium-replay": ("HP-MR", "unimodal"),
    "walker2d-medium-replay": ("WK-MR", "unimodal"),
    "halfcheetah-medium-expert": ("HC-ME", "multimodal"),
    "hopper-medium-expert": ("HP-ME", "multimodal"),
    "walker2d-medium-expert": ("WK-ME", "multimodal"),
    "pen-cloned": ("Pen-CL", "narrow"),
    "pen-human": ("Pen-HM", "narrow"),
    "antmaze-umaze-diverse": ("AM-UD", "sparse"),
    "antmaze-large-diverse": ("AM-LD", "sparse"),
    "hopper-medium": ("HP-M", "unimodal"),
    "halfcheetah-medium": ("HC-M", "unimodal"),
    "walker2d-medium": ("WK-M", "unimodal"),
}
REPRESENTATIVE = ("hopper-replay", "halfcheetah-medium-expert", "pen-cloned", "antmaze-large-diverse")  # the paper's four
TEN = (
    "halfcheetah-medium-replay", "hopper-replay", "walker2d-medium-replay", "halfcheetah-medium-expert", "hopper-medium-expert",
    "walker2d-medium-expert", "pen-cloned", "pen-human", "antmaze-umaze-diverse", "antmaze-large-diverse",
)  # fmt: skip

SUITE = (*TEN, "hopper-medium-replay", "hopper-medium", "halfcheetah-medium", "walker2d-medium", "pointmaze-umaze", "pointmaze-large")


@dataclass(frozen=True)
class Task:
    """A dataset, as `spar data list` names it or a file, and the task of the paper whose settings suit it."""

    name: str
    paper: str | None = None  # the paper's abbreviation; None: the paper has no such task
    regime: Regime | None = None
    algo: str = "spar-proj"  # of the preset; without one, the paper's default where the residuals are not known (C.2.6)

    @property
    def folder(self) -> str:
        return _plain(Path(self.name).stem if "/" in self.name else self.name)


def task(name: str) -> Task:
    """A dataset with what the paper says of its task; of a maze that the paper does not have, what it says of the nearest."""
    preset = api.preset_for(name)
    if preset is None:
        return Task(name)
    if preset.task in NEAREST:
        return Task(name, None, PAPER_TASKS[NEAREST[preset.task].row][1], preset.algo)
    return Task(name, *PAPER_TASKS[preset.task], preset.algo)


@dataclass(frozen=True)
class Variant:
    """A cell's place in its study's table, and the run that fills it."""

    column: str
    algo: str
    edits: Mapping[str, Any] = field(default_factory=dict)  # dotted field of the algorithm's configuration -> value
    row: str = ""  # within the task; empty where a task is one row
    shows: Literal["policy", "ungated", "anchor"] = "policy"  # whose returns


@dataclass(frozen=True)
class Measurement:
    """Something measured on finished runs, kept with them: `measure(run, log, **settings)` -> (document, arrays for pictures).

    `cells(column, document)` are the cells that come of the run in `column`: each has row, column, unit, and returns or samples,
    [seed][...].
    """

    name: str
    measure: Callable[..., tuple[dict[str, Any], dict[str, Any]]]
    of: Callable[[Task], Sequence[Variant]]  # the runs it is made on, told apart by their columns
    settings: Mapping[str, Any] = field(default_factory=dict)
    smoke: Mapping[str, Any] = field(default_factory=dict)  # settings that differ in a smoke study
    cells: Callable[[str, dict[str, Any]], list[dict[str, Any]]] = lambda column, document: []
    keep: bool = False  # the documents in the result file too, for claims that read more than cells
    machine: bool = False  # it depends on the machine, so another one measures anew


@dataclass(frozen=True)
class Study:
    """A table or figure of the paper, or a question that the paper leaves open."""

    name: str
    title: str
    source: str  # where in the paper
    about: str  # what a cell is, for who has not the paper at hand
    variants: Callable[[Task, str], Sequence[Variant]]  # of a task with a budget; the order in which a smoke study takes the first few
    tasks: tuple[str, ...] = REPRESENTATIVE
    claims: tuple[Claim, ...] = ()
    paper: str | None = None  # its table in paper.json
    quoted: tuple[str, ...] = ()  # columns of that table that nothing here fills
    elsewhere: Mapping[str, Callable[[Task], tuple[str, str]]] = field(
        default_factory=dict
    )  # columns printed in another: table, column there
    notes: tuple[str, ...] = ()
    measurements: tuple[Measurement, ...] = ()
    picture: str | None = None  # the measurement that `figures` draws
    derive: Callable[[dict[str, Any]], Derived] | None = None  # what follows from a result document, anew each time it is shown
    available: Callable[[], bool] = lambda: True  # whether what it varies exists here

    def printed(self, task: Task, row: str, column: str) -> dict[str, Any] | None:
        """The paper's number beside a cell, as `paper.number` has it."""
        table, there = self.elsewhere[column](task) if column in self.elsewhere else (self.paper, column)
        return paper.number(table, task.paper, row, there)

    @property
    def regimes(self) -> dict[str, str | None]:
        """Of its own tasks, the paper's word for the residuals."""
        return {name: task(name).regime for name in self.tasks}

    def shown(self, document: dict[str, Any]) -> dict[str, Any]:
        """The document with what follows from it, which no file holds: a number that is changed there changes that too. Its words are the
        study's as they now are."""
        cells, notes = self.derive(document) if self.derive else ([], [])
        words = {key: getattr(self, key) for key in ("title", "source", "about")}
        return {**document, **words, "cells": [*document["cells"], *cells], "notes": [*self.notes, *notes]}


def limited(variants: Sequence[Variant]) -> list[Variant]:
    """For a smoke study: those that share the first few runs."""
    keys = [(v.algo, tuple(sorted((k, str(value)) for k, value in v.edits.items()))) for v in variants]
    kept = list(dict.fromkeys(keys))[:SMOKE_RUNS]
    return [variant for variant, key in zip(variants, keys, strict=True) if key in kept]


def default_seeds(budget: str) -> tuple[int, ...]:
    """The paper's three, as in `spar compare`: also with the quick budget, of which `spar train` runs one."""
    return SMOKE_SEEDS if budget == SMOKE else PAPER_SEEDS


def configure(task: Task, variant: Variant, budget: str, seeds: Sequence[int]) -> tuple[str, RunConfig]:
    """The run that fills a variant: the name of its directory, and its configuration, the environment still open.

    Raises SparError for an unknown budget or algorithm, or an edit of a field that the algorithm's configuration does not have.
    """
    settings = SMOKE_SETTINGS if budget == SMOKE else {}
    if budget not in (SMOKE, *BUDGETS):
        raise SparError(f"no budget named '{budget}'; there are: {', '.join((SMOKE, *BUDGETS))}")
    cfg = api.configure(task.name, variant.algo, budget="quick" if budget == SMOKE else budget, seeds=seeds, equal_sizes=True, **settings)
    own = shrunk(cfg.config) if budget == SMOKE else cfg.config
    edited = edit(own, variant.edits, variant.algo)
    return run_name(variant.algo, own, edited), dataclasses.replace(cfg, config=edited)


def edit(config: Any, edits: Mapping[str, Any], whose: str) -> Any:
    """`config` with the dotted fields replaced. Raises SparError for a field that it does not have."""
    for path, value in edits.items():
        config = _replace(config, path.split("."), value, f"{whose} has no setting '{path}'")
    return config


def _replace(config: Any, path: list[str], value: Any, message: str) -> Any:
    name, *rest = path
    if name not in {f.name for f in dataclasses.fields(config)} or (rest and not dataclasses.is_dataclass(getattr(config, name))):
        raise SparError(message)
    return dataclasses.replace(config, **{name: _replace(getattr(config, name), rest, value, message) if rest else value})


def run_name(algo: str, own: Any, edited: Any) -> str:
    """`algo` for the configuration that it has by itself on the task, else `algo~field=value,...` of what differs."""
    before, after = flat(to_dict(own)), flat(to_dict(edited))
    changes = [f"{key}={_text(after[key])}" for key in sorted(after) if after[key] != before[key]]
    name = _plain(f"{algo}~{','.join(changes)}") if changes else algo
    if len(name) <= LONGEST_NAME:
        return name
    return f"{name[: LONGEST_NAME - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def shrunk(config: Any) -> Any:
    """A configuration with narrow networks of one hidden layer and few candidates, for a smoke study."""
    changes: dict[str, Any] = {}
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if dataclasses.is_dataclass(value):
            changes[f.name] = shrunk(value)
        elif f.name == "hidden":
            changes[f.name] = (SMALL_WIDTH,)
        elif f.name in SMALL:
            changes[f.name] = min(value, SMALL[f.name])
    return dataclasses.replace(config, **changes)


def value_of(config: Any, path: str) -> Any:
    """The dotted field `path` of a configuration."""
    for name in path.split("."):
        config = getattr(config, name)
    return config


def guide_weight(config: Any) -> str | None:
    """The dotted field that holds lambda_g, wherever the algorithm keeps it; None where it has none."""
    parts = (f.name for f in dataclasses.fields(config))
    return next((f"{name}.lambda_g" for name in parts if hasattr(getattr(config, name), "lambda_g")), None)


def guide_edit(algo: str, value: float) -> dict[str, float]:
    """The edit that sets an algorithm's lambda_g. Raises SparError where it has none."""
    from spar import registry

    path = guide_weight(registry.get(algo).default)
    if path is None:
        raise SparError(f"{algo} has no lambda_g")
    return {path: value}


def runs_of(study: Study, task: Task, budget: str) -> dict[str, RunConfig]:
    """Every run that the study needs of a task, by the name of its directory, the environment still open."""
    variants = list(study.variants(task, budget))
    if budget == SMOKE:
        variants = limited(variants)
    variants += [variant for measurement in study.measurements for variant in measurement.of(task)]
    return dict(configure(task, variant, budget, default_seeds(budget)) for variant in variants)


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return "x".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _plain(name: str) -> str:
    """Only characters that every file system and shell takes as they are."""
    return re.sub(r"[^\w.=,~+-]", "_", name, flags=re.ASCII)
