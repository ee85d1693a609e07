"""A study carried out: its runs trained or found, what it measures measured, and what it found written."""

from __future__ import annotations

import dataclasses
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from spar import api, files
from spar.data import catalog
from spar.data.episodes import Log
from spar.runs.config import RunConfig
from spar.runs.listener import Listener, Silent
from spar.studies import curves, grid, paper, results, tables
from spar.studies.grid import Measurement, Study, Task, Variant
from spar.studies.store import Store, measured
from spar.types import SparError

Pictures = dict[str, tuple[dict[str, Any], dict[str, dict[str, np.ndarray]]]]  # measurement -> documents and arrays, by the picture's keys


@dataclass(frozen=True)
class Request:
    """What a study is asked for; None: the study's own tasks, the paper's seeds."""

    budget: str = "quick"
    tasks: tuple[str, ...] | None = None
    seeds: tuple[int, ...] | None = None
    runs: Path = Path("results/runs")
    results: Path | None = None  # None: results/ here, or, of a smoke study, beside its runs

    @property
    def out(self) -> Path:
        return self.results or (self.runs / grid.SMOKE / "results" if self.budget == grid.SMOKE else Path("results"))

    def tasks_of(self, study: Study) -> tuple[str, ...]:
        return self.tasks or ((grid.SMOKE_TASK,) if self.budget == grid.SMOKE else study.tasks)

    @property
    def all_seeds(self) -> tuple[int, ...]:
        return self.seeds or grid.default_seeds(self.budget)

    def command(self, study: Study) -> str:
        """The command that asks for this again, without the places that it writes to."""
        words = ["spar", "study", study.name, "--budget", self.budget]
        if self.tasks and self.tasks != study.tasks:
            words += ["--tasks", *self.tasks]
        if self.seeds and self.seeds != grid.default_seeds(self.budget):
            words += ["--seeds", *map(str, self.seeds)]
        return shlex.join(words)


def execute(study: Study, request: Request, listener: Listener | None = None) -> dict[str, Any]:
    """Carry the study out; returns its result document, which is written to `request.out` with its table and picture.

    Runs that are there are kept, those that are cut off go on, and one that diverges is recorded as failed. Raises SparError, before
    anything is trained, for an unknown task or budget, a dataset that is not made yet, a run that began with other settings, or where a
    result of another budget or of further tasks would be lost.
    """
    tasks = [grid.task(name) for name in dict.fromkeys(request.tasks_of(study))]
    _check_results(study, request, [task.name for task in tasks])
    for task in tasks:
        check_dataset(task.name)
    work = _Work(study, request, listener or Silent())
    for task in tasks:
        work.on(task)
    document = work.document()
    write(study, document, request.out, work.pictures)
    return document


def _check_results(study: Study, request: Request, tasks: list[str]) -> None:
    path = request.out / f"{study.name}.json"
    if not path.is_file():
        return
    before = results.read(path)
    lost = [name for name in before["tasks"] if name not in tasks]
    if before["budget"] != request.budget or lost:
        what = f"budget {before['budget']}" if before["budget"] != request.budget else f"also {', '.join(lost)}"
        raise SparError(
            f"{path}: holds a result of {what}, which this one would replace; name all tasks, choose another --results, or delete it"
        )


def check_dataset(name: str) -> None:
    """Raises SparError where a dataset of the suite is not made, or nothing has that name; reads the whole log only where it must."""
    if name not in catalog.EMBEDDED and not (catalog.suite_folder() / f"{name}.hdf5").is_file():
        catalog.load(name)


class _Work:
    """A study in the making."""

    def __init__(self, study: Study, request: Request, listener: Listener) -> None:
        self.study, self.request, self.listener = study, request, listener
        self.store = Store(request.runs, request.budget)
        self.tasks: dict[str, dict[str, Any]] = {}
        self.cells: list[results.Cell] = []
        self.measured: dict[str, dict[str, dict[str, Any]]] = {}
        self.pictures: Pictures = {}
        self.runs: dict[Path, None] = {}
        self.steps: dict[str, int] = {}

    def on(self, task: Task) -> None:
        """Train, measure and read one task."""
        budget, seeds = self.request.budget, self.request.all_seeds
        variants = list(self.study.variants(task, budget))
        if budget == grid.SMOKE:
            variants = grid.limited(variants)
        probes = [(measurement, variant) for measurement in self.study.measurements for variant in measurement.of(task)]
        asked = [*variants, *(variant for _, variant in probes)]
        named = [grid.configure(task, variant, budget, seeds) for variant in asked]
        log = catalog.load(task.name, tier=named[0][1].data.tier)
        cfgs = self._in_environment(dict(named), log)
        failed = self.store.train(task.folder, cfgs, log, self.listener)
        cfg = cfgs[named[0][0]]
        self.steps = {"anchor": cfg.steps_anchor, "residual": cfg.steps_residual}
        self.tasks[task.name] = results.task_entry(task, log, cfg.env.task if cfg.env else None, cfg.episodes)
        places = [self.store.folder(task.folder) / name for name, _ in named]
        self.runs |= dict.fromkeys(place for place in places if place.name not in failed)
        for variant, place in zip(variants, places, strict=False):
            self.cells.append(results.score_cell(self.study, task, variant, place, self.request.runs, failed.get(place.name, "")))
        for (measurement, variant), place in zip(probes, places[len(variants) :], strict=True):
            self._measure(task, measurement, variant, place, log, failed.get(place.name, ""))
        row = next((cell["row"] for cell in self.cells if cell["task"] == task.name), "")
        for column in self.study.quoted:
            if paper.number(self.study.paper, task.paper, row, column):
                self.cells.append(results.quoted_cell(self.study, task, row, column))

    def _in_environment(self, cfgs: dict[str, RunConfig], log: Log) -> dict[str, RunConfig]:
        env = api.environment_for(next(iter(cfgs.values())), log)
        return {name: dataclasses.replace(cfg, env=env) for name, cfg in cfgs.items()}

    def _measure(self, task: Task, measurement: Measurement, variant: Variant, run: Path, log: Log, failed: str) -> None:
        settings = {**measurement.settings, **(measurement.smoke if self.request.budget == grid.SMOKE else {})}
        self.listener.say(f"{task.name}: {measurement.name} of {run.name}")
        document: dict[str, Any] = {}
        arrays: dict[str, np.ndarray] = {}
        if not failed:
            try:
                document, arrays = measured(run, measurement.name, measurement.measure, log, settings, machine=measurement.machine)
            except SparError as error:
                failed = str(error)
        if failed:
            lost = Variant(variant.column, variant.algo, variant.edits)
            self.cells.append(results.score_cell(self.study, task, lost, run, self.request.runs, failed))
            return
        for found in measurement.cells(variant.column, document):
            self.cells.append(results.measured_cell(self.study, task, found, variant, run, self.request.runs))
        if measurement.keep:
            self.measured.setdefault(measurement.name, {}).setdefault(variant.column, {})[task.name] = document
        if measurement.name == self.study.picture:
            from spar.studies import figures

            shared = len(measurement.of(task)) > 1
            key = figures.key(self._short(task), variant.column if shared else None)
            documents, all_arrays = self.pictures.setdefault(measurement.name, ({}, {}))
            documents[key], all_arrays[key] = document, arrays

    def _short(self, task: Task) -> str:
        """The paper's name where it is one task's alone."""
        same = [name for name in self.request.tasks_of(self.study) if grid.task(name).paper == task.paper]
        return task.paper if task.paper and len(same) == 1 else task.name

    def document(self) -> dict[str, Any]:
        """Raises SparError when every run failed."""
        if not self.runs:
            reasons = [cell["failed"] for cell in self.cells if cell["failed"]]
            raise SparError(f"{self.study.name}: every run failed; {reasons[0] if reasons else 'there was none'}")
        return {
            **{key: getattr(self.study, key) for key in ("title", "source", "about")},
            "study": self.study.name,
            "notes": list(self.study.notes),
            "command": self.request.command(self.study),
            "budget": self.request.budget,
            "steps": self.steps,
            "seeds": list(self.request.all_seeds),
            **results.surroundings(list(self.runs)),
            "tasks": self.tasks,
            "cells": self.cells,
            "measured": self.measured,
        }


def write(study: Study, document: dict[str, Any], out: Path, pictures: Pictures) -> None:
    """results/NAME.json, where the study has a picture NAME.png, and what `write_result` makes of them."""
    out.mkdir(parents=True, exist_ok=True)
    if study.picture in pictures:
        draw(str(study.picture), pictures, out / f"{study.name}.png")
    results.write(out / f"{study.name}.json", document)
    write_result(study, out)


def write_result(study: Study, out: Path) -> None:
    """NAME.md from NAME.json in the folder `out`, and where policies were trained NAME-curves.png."""
    shown = study.shown(results.read(out / f"{study.name}.json"))
    if curves.has(shown) and study.picture != "training_curves":  # which are curves
        curves.draw(shown, out / f"{study.name}{curves.ENDING}")
    addresses = tables.pictures(study.name, out, "")
    files.write_text(out / f"{study.name}.md", tables.section(shown, study, addresses, "#"))


def draw(name: str, pictures: Pictures, path: Path) -> None:
    from spar.studies import figures

    curves.save(figures.PLOTS[name](*pictures[name]), path)
