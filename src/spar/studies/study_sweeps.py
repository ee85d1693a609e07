"""The studies that move settings: Tables 4, 5, 6 and 8, and what the paper leaves open."""

from __future__ import annotations

import itertools
import typing
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from spar import api, registry
from spar.evaluate import stats
from spar.method import imitation, residual, weighting
from spar.presets import PRESETS
from spar.studies.claims import Claim, Part, Results, Verdict, together
from spar.studies.grid import SMOKE, TEN, Derived, Study, Task, Variant, guide_edit, guide_weight, value_of
from spar.studies.predicates import Place, alike, best, better, collapses, flat, steadier, throughout, values
from spar.studies.predicates import against_all as against
from spar.studies.study_scores import label

GUIDES, UNCERTAINTIES, TEMPERATURES = (0.0, 0.5, 2.0), (0.0, 0.5, 2.0), (0.1, 0.3, 1.0)
FILTERS = ("soft", "hard")
UNIFORM = "uniform"


def of(symbol: str, value: Any) -> str:
    return f"{symbol} = {value:g}" if isinstance(value, float) else str(value)


# Table 4


def table4(task: Task, budget: str) -> list[Variant]:
    others = [algo for algo in ("spar-mlp", "spar-plas", "spar-proj") if algo != task.algo]
    return [Variant(of("λ_g", value), algo, guide_edit(algo, value), row=label(algo)) for algo in (task.algo, *others) for value in GUIDES]


def along(row: str) -> list[Place]:
    return [(of("λ_g", value), row) for value in GUIDES]


TABLE4 = Study(
    name="table4",
    title="The weight of value guidance",
    source="Table 4, section 4.3",
    about="Each variant with three weights lambda_g of its improvement step, the rest as in the task's preset.",
    variants=table4,
    paper="table4",
    claims=(
        *(Claim(f"On narrow and sparse data SPAR-PROJ's scores spread less over lambda_g than {other}'s",
                steadier(along("SPAR-PROJ"), along(other), "narrow", "sparse")) for other in ("SPAR-PLAS", "SPAR-MLP")),
        Claim("Latent self-imitation improves SPAR-PROJ: lambda_g = 0.5 over 0",
              better(("λ_g = 0.5", "SPAR-PROJ"), ("λ_g = 0", "SPAR-PROJ"))),
        Claim("On unimodal residuals the value gradient improves SPAR-MLP: lambda_g = 0.5 over 0",
              better(("λ_g = 0.5", "SPAR-MLP"), ("λ_g = 0", "SPAR-MLP"), "unimodal")),
        *(Claim(f"Much value guidance costs {name}: lambda_g = 0.5 over 2", better(("λ_g = 0.5", name), ("λ_g = 2", name)))
          for name in ("SPAR-PLAS", "SPAR-MLP")),
        *(Claim(f"With dense data {name} is insensitive to lambda_g: its scores spread by less than ten points",
                flat(along(name), 10.0, "unimodal", "multimodal"))
          for name in ("SPAR-MLP", "SPAR-PROJ")),
    ),
    notes=(
        "SPAR-PLAS with lambda_g = 0 leaves its latent policy as it was initialised. Otherwise lambda_g is all but inert there: the second "
        "phase of Algorithm 3 has no other loss, and Adam does not see the scale of its only one. That a large weight costs it can hardly "
        "be seen; its spread is that between a trained and an untrained policy, so whether it is insensitive is not asked.",
    ),
)  # fmt: skip


# Table 5


def table5(task: Task, budget: str) -> list[Variant]:
    found = []
    for kept in FILTERS:
        for temperature in TEMPERATURES:
            edits: dict[str, Any] = {"weighting.filter": kept, "weighting.temperature": temperature}
            found.append(Variant(of("T", temperature), task.algo, edits, row=kept))
        found.append(Variant(UNIFORM, task.algo, {"weighting.filter": kept, "weighting.sensitivity": "uniform"}, row=kept))
    return found


def exponential_over_uniform(results: Results) -> Verdict:
    """With the filter and the temperature of the task's preset."""
    parts = []
    for task, name in results.tasks():
        preset = api.preset_for(task)
        if preset is None:
            parts.append(Part("missing", f"{name} (no preset)"))
        else:
            own = (of("T", preset.temperature), preset.filter)
            parts.append(against(results, task, name, own, [(UNIFORM, kept) for kept in FILTERS]))
    return together(parts)


def over_temperatures(kept: str) -> list[Place]:
    return [(of("T", t), kept) for t in TEMPERATURES]


EVERY_WEIGHT = [(column, kept) for kept in FILTERS for column in (*(of("T", t) for t in TEMPERATURES), UNIFORM)]

TABLE5 = Study(
    name="table5",
    title="Filtering and temperature of the weights",
    source="Table 5, section 4.4",
    about="The preset's variant with other weights of logged actions and candidates.",
    variants=table5,
    paper="table5",
    claims=(
        Claim("Weighting by advantage, as in the task's preset, returns more than uniform weights", exponential_over_uniform),
        Claim("It does at every temperature and with both filters, each against uniform weights with the same filter",
              throughout([((of("T", t), kept), (UNIFORM, kept)) for kept in FILTERS for t in TEMPERATURES])),
        Claim("On narrow and sparse data soft filtering at T = 0.3 is best",
              best(("T = 0.3", "soft"), [p for p in EVERY_WEIGHT if p != ("T = 0.3", "soft")], "narrow", "sparse")),
        Claim("On sparse data soft filtering returns more than hard at T = 0.3",
              better(("T = 0.3", "soft"), ("T = 0.3", "hard"), "sparse")),
        Claim("On multimodal dense data hard filtering returns more than soft at T = 0.3",
              better(("T = 0.3", "hard"), ("T = 0.3", "soft"), "multimodal")),
        *(Claim(f"On {regime} dense data both filters do alike at T = {t:g}, the preset's, within ten points",
                alike((of("T", t), "hard"), (of("T", t), "soft"), 10.0, regime)) for regime, t in (("unimodal", 1.0), ("multimodal", 0.3))),
        Claim("On narrow data hard filtering is steadier over temperatures than soft",
              steadier(over_temperatures("hard"), over_temperatures("soft"), "narrow")),
    ),
    notes=(
        "Weights end at weighting.clip = 100, a ceiling of ours: at T = 0.1 an action 0.46 σ_Q better than the anchor's has reached it, "
        "at T = 0.3 one 1.4 better.",
    ),
)  # fmt: skip


# Table 6


def table6(task: Task, budget: str) -> list[Variant]:
    return [Variant(of("λ_u", value), task.algo, {"critic.lambda_u": value}, row=label(task.algo)) for value in UNCERTAINTIES]


TABLE6 = Study(
    name="table6",
    title="The weight of the critics' disagreement",
    source="Table 6, section 4.4",
    about="The preset's variant with three weights lambda_u of the ensemble's standard deviation in Q_rob.",
    variants=table6,
    paper="table6",
    claims=(
        Claim("Removing the penalty costs: lambda_u = 0.5 over 0", better("λ_u = 0.5", "λ_u = 0")),
        Claim(
            "On narrow and sparse data scores collapse without it, to less than half", collapses("λ_u = 0", "λ_u = 0.5", "narrow", "sparse")
        ),
        Claim("On sparse data too much of it costs: lambda_u = 0.5 over 2", better("λ_u = 0.5", "λ_u = 2", "sparse")),
        Claim("lambda_u = 0.5 is best", best("λ_u = 0.5", ("λ_u = 0", "λ_u = 2"))),
    ),
)


# Table 8

OWN = "as in Table 8"
TUNED = {"critic.expectile": "τ", "critic.lambda_u": "λ_u", "weighting.filter": "filter", "weighting.temperature": "T"}
TABLE8_ROWS = [preset for preset in PRESETS.values() if preset.source == "Table 8"]


def table8(task: Task, budget: str) -> list[Variant]:
    """The preset, and each of its tuned fields at the other values that Table 8 has for it, one at a time."""
    config = api.configure(task.name, task.algo).config
    found = [Variant(OWN, task.algo)]
    used: dict[str, list[Any]] = {
        "critic.expectile": sorted({row.expectile for row in TABLE8_ROWS}),
        "critic.lambda_u": sorted({row.lambda_u for row in TABLE8_ROWS}),
        "weighting.filter": sorted({row.filter for row in TABLE8_ROWS}),
        "weighting.temperature": sorted({row.temperature for row in TABLE8_ROWS}),
    }
    symbols, guide = dict(TUNED), guide_weight(config)
    if guide:
        used[guide], symbols[guide] = sorted({row.lambda_g for row in TABLE8_ROWS}), "λ_g"
    for path, tried in used.items():
        for value in tried:
            if value != value_of(config, path):
                found.append(Variant(of(symbols[path], value), task.algo, {path: value}))
    others = sorted({row.algo for row in TABLE8_ROWS} - {task.algo})
    return found + [Variant(label(algo), algo) for algo in others]


def preset_is_best(results: Results) -> Verdict:
    parts = []
    for task, name in results.tasks():
        columns = {cell["column"] for cell in results.cells if cell["task"] == task} - {OWN}
        parts.append(against(results, task, name, OWN, sorted(columns)))
    return together(parts)


TABLE8 = Study(
    name="table8",
    title="The tuned settings against their neighbours",
    source="Table 8, C.1",
    about="The task's preset, and each field that Table 8 tunes moved to the other values that it uses, one at a time.",
    variants=table8,
    tasks=TEN,
    claims=(Claim("No neighbour returns as much as the preset", preset_is_best),),
    elsewhere={OWN: lambda task: ("table1", label(task.algo))},
    notes=("The paper says which settings were best and does not print the others; beside the preset stands its score in Table 1.",),
)


# What the paper leaves open

READINGS: tuple[str, ...] = typing.get_args(typing.get_type_hints(imitation.Config)["reading"])
SIGMAS: tuple[str, ...] = typing.get_args(typing.get_type_hints(weighting.Config)["sigma"])
SCALES: tuple[str, ...] = typing.get_args(residual.GuideScale)
REDUCTIONS: tuple[str, ...] = typing.get_args(typing.get_type_hints(residual.CVAEConfig)["reduction"])
SIGMA, READING, SCALE, REDUCTION = "weighting.sigma", "imitation.reading", "residual.guide_scale", "cvae.reduction"


def readings(task: Task, budget: str) -> list[Variant]:
    """Readings of self-imitation crossed with reductions of the ELBO, on which a latent's life depends, and one other factor at a time
    around the defaults; with larger budgets than quick every reading, and every guide scale, with every sigma."""
    proj = registry.get("spar-proj").default
    own = (value_of(proj, READING), value_of(proj, REDUCTION))
    default_first = sorted(itertools.product(READINGS, REDUCTIONS), key=lambda both: both != own)
    found = [Variant(_both(*both), "spar-proj", dict(zip((READING, REDUCTION), both, strict=True)), "SPAR-PROJ") for both in default_first]
    found += [Variant(_sigma(sigma), "spar-proj", {SIGMA: sigma}, "SPAR-PROJ") for sigma in SIGMAS]
    found += [Variant(_sigma(sigma), "spar-mlp", {SIGMA: sigma}, "SPAR-MLP") for sigma in SIGMAS]
    found += [Variant(_scale(scale), "spar-mlp", {SCALE: scale}, "SPAR-MLP") for scale in SCALES]
    if budget not in (SMOKE, "quick"):
        found += [
            Variant(f"{_reading(reading)}, {_sigma(sigma)}", "spar-proj", {READING: reading, SIGMA: sigma}, "SPAR-PROJ")
            for reading in READINGS
            for sigma in SIGMAS
            if reading != value_of(proj, READING) and sigma != value_of(proj, SIGMA)
        ]
        mlp = registry.get("spar-mlp").default
        found += [
            Variant(f"{_scale(scale)}, {_sigma(sigma)}", "spar-mlp", {SCALE: scale, SIGMA: sigma}, "SPAR-MLP")
            for scale in SCALES
            for sigma in SIGMAS
            if scale != value_of(mlp, SCALE) and sigma != value_of(mlp, SIGMA)
        ]
    return found


def _reading(value: str) -> str:
    return f"reading {value}"


def _both(reading: str, reduction: str) -> str:
    return f"{_reading(reading)}, ELBO in {reduction}s"


def _sigma(value: str) -> str:
    return f"σ_Q {value}"


def _scale(value: str) -> str:
    return f"guide {value}"


class Factor(NamedTuple):
    """A choice that the paper leaves open: a field of an algorithm's configuration, its values, and the columns of each, over all values
    of what it is crossed with."""

    algo: str
    path: str
    values: tuple[str, ...]
    columns: Callable[[str], Sequence[str]]
    own: Callable[[str], str]  # the one of them where all else is as by default

    @property
    def default(self) -> str:
        return str(value_of(registry.get(self.algo).default, self.path))

    def places(self, value: str) -> list[Place]:
        return [(column, label(self.algo)) for column in self.columns(value)]

    def claim(self) -> Claim:
        own, *others = ((self.own(value), label(self.algo)) for value in sorted(self.values, key=lambda value: value != self.default))
        rest = " and ".join(value for value in self.values if value != self.default)
        text = f"{label(self.algo)}: {self.path} = {self.default}, the default, returns more than {rest}"
        return Claim(text, best(own, others), ours=True)


def alone(algo: str, path: str, values: tuple[str, ...], named: Callable[[str], str]) -> Factor:
    """A factor that is crossed with none."""
    return Factor(algo, path, values, lambda value: (named(value),), named)


_PROJ = registry.get("spar-proj").default
FACTORS = (
    Factor(
        "spar-proj", READING, READINGS, lambda reading: [_both(reading, reduction) for reduction in REDUCTIONS],
        lambda reading: _both(reading, value_of(_PROJ, REDUCTION)),
    ),
    Factor(
        "spar-proj", REDUCTION, REDUCTIONS, lambda reduction: [_both(reading, reduction) for reading in READINGS],
        lambda reduction: _both(value_of(_PROJ, READING), reduction),
    ),
    alone("spar-proj", SIGMA, SIGMAS, _sigma),
    alone("spar-mlp", SIGMA, SIGMAS, _sigma),
    alone("spar-mlp", SCALE, SCALES, _scale),
)  # fmt: skip


def standings(results: Results, factor: Factor) -> tuple[int, dict[str, stats.Interval]]:
    """Over how many tasks, those with scores of every value, each value's mean score was taken, also over what it is crossed with, and
    that mean; intervals, Student's over seeds, are of its difference from the default's."""
    tables = []
    for task, _ in results.tasks():
        own = [values(results, task, place) for value in factor.values for place in factor.places(value)]
        present = [table.mean(1) for table in own if table is not None]
        if len(present) == len(own) and results.interest(task) and len({len(table) for table in present}) == 1:
            tables.append(np.stack(present).reshape(len(factor.values), -1, len(present[0])).mean(1))
    if not tables or len({table.shape for table in tables}) > 1:
        return 0, {}
    scores = np.mean(tables, axis=0)  # (values, seeds)
    differences, found = scores - scores[factor.values.index(factor.default)], {}
    for value, score, difference in zip(factor.values, scores, differences, strict=True):
        half, _ = stats.student(difference, float(difference.mean()))
        found[value] = stats.Interval(float(score.mean()), float(difference.mean()) - half, float(difference.mean()) + half)
    return len(tables), found


def ranking(document: dict[str, Any]) -> Derived:
    """For each factor the values by their means over the tasks: the highest is what the default should be."""
    results, notes = Results(document), []
    for factor in FACTORS:
        count, found = standings(results, factor)
        if not found:
            notes.append(f"{label(factor.algo)}, {factor.path}: no task has scores of all values.")
            continue
        said = []
        for value, score in sorted(found.items(), key=lambda item: -item[1].mean):
            versus = "the default" if value == factor.default else f"{score.low:+.1f} to {score.high:+.1f} of the default"
            said.append(f"{value} {score.mean:.1f} ({versus})")
        notes.append(f"{label(factor.algo)}, {factor.path}, mean score over {count} task{'s' if count > 1 else ''}: {', '.join(said)}.")
    return [], notes


READINGS_STUDY = Study(
    name="readings",
    title="What the paper leaves open",
    source="Eq. 10, Proposition 3.3, Algorithm 4; sigma_Q of 3.2.2; the scale of eq. 7",
    about=(
        "Readings of latent self-imitation, crossed with reductions of the ELBO, one of which leaves latents alive; of sigma_Q and of the "
        "guide term (SPAR-PROJ has none), one at a time around the defaults on the task's preset with the budgets smoke and quick, "
        "crossed with the former with larger ones."
    ),
    variants=readings,
    tasks=TEN,
    claims=tuple(factor.claim() for factor in FACTORS),
    derive=ranking,
    notes=(
        "Of sigma_Q the paper says the ensemble's standard deviation (3.1), not at which action; eq. 7 has no guide scale.",
        "The defaults are the highest of these means, so the claims describe how clearly, and are no evidence of their own.",
    ),
)

STUDIES = (TABLE4, TABLE5, TABLE6, TABLE8, READINGS_STUDY)
