"""The studies that measure finished runs: Tables 3 and 11, figures 2 to 6."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from spar.studies import measure
from spar.studies.claims import Claim, Part, Results, Sign, Verdict, together
from spar.studies.grid import TEN, Derived, Measurement, Study, Task, Variant
from spar.studies.predicates import above, below, better
from spar.studies.study_scores import GEOMETRY, PAIRED, PAIRED_VARIANT, label, own_run, preset, regimes

Document = dict[str, Any]
Cells = list[dict[str, Any]]
THREE = ("spar-mlp", "spar-plas", "spar-proj")


def runs_of(*algos: str) -> Any:
    return lambda task: [Variant(label(algo), algo) for algo in algos]


def no_scores(task: Task, budget: str) -> Sequence[Variant]:
    """A study all of whose cells are measured."""
    return ()


def sample(row: str, column: str, unit: str, values: Sequence[float], value: tuple[float, float, float] | None = None) -> dict[str, Any]:
    """A cell of one number a seed; `value` is its mean, low and high where the seeds' own intervals are known."""
    given = None if value is None else dict(zip(("mean", "low", "high"), map(float, value), strict=True))
    return {"row": row, "column": column, "unit": unit, "samples": [[float(one)] for one in values], "value": given}


# Table 3


def with_paired(task: Task) -> list[Variant]:
    """The three, and the reading of eq. 10 to the letter, whose imitation hardly moves a student that is near its own average."""
    return [*runs_of(*THREE)(task), PAIRED_VARIANT]


def conflict_cells(column: str, document: Document) -> Cells:
    """Both readings of the step; an interval reaches over those of all seeds."""
    seeds = [one for one in document["seeds"].values() if one is not None]
    found = []
    for reading, ending in (("alone", ""), ("in_training", ", in training")):
        for name in ("dd", "vsd"):
            own = [one[reading][name] for one in seeds]
            if own:
                mean, low, high = np.mean([i["mean"] for i in own]), min(i["low"] for i in own), max(i["high"] for i in own)
                found.append(sample(name.upper() + ending, column, "loss", [i["mean"] for i in own], (mean, low, high)))
    return found


READINGS = ("DD", "VSD", "DD, in training", "VSD, in training")
PROJS = (("SPAR-PROJ", False), (PAIRED, True))  # whether a claim of it is ours: the paper prints one SPAR-PROJ, and not which reading

TABLE3 = Study(
    name="table3",
    title="Does value guidance damage the fit?",
    source="Table 3, section 4.3",
    about=(
        "DD, the guidance step along the gradient of the fit, and VSD, what the step adds to the fit's loss; positive: damage. "
        "DD and VSD are of a step of guidance alone through a fresh Adam, those in training of what it changes in the run's next step."
    ),
    variants=no_scores,
    paper="table3",
    measurements=(Measurement("conflict", measure.conflict, with_paired, smoke={"groups": 2}, cells=conflict_cells),),
    claims=(
        *(
            Claim(f"The value gradient of {own} {does}: {name} above 0", above((own, name), 0.0))
            for name, does in zip(READINGS, ("opposes the fit", "worsens the fit") * 2, strict=True)
            for own in ("SPAR-MLP", "SPAR-PLAS")
        ),
        *(
            Claim(f"{own}'s {name} is at least ten times below that of {other}", below((own, name), (other, name), 10.0), ours)
            for own, ours in PROJS
            for name in READINGS
            for other in ("SPAR-MLP", "SPAR-PLAS")
        ),
    ),
    notes=(
        "Brackets reach over the seeds' 95 % intervals over batches.",
        "\"Ten times\" is for the text's orders of magnitude; on two tasks the paper's VSD of SPAR-PLAS is 2.5 and 4 times SPAR-PROJ's.",
        "Which step the paper took it does not say; each claim is judged of both. The size of a fresh Adam's step does not depend on the "
        "gradient's, so there a weak guidance counts like a strong one.",
    ),
)


# Table 11


def latency_cells(column: str, document: Document) -> Cells:
    found = []
    for engine in ("deployed", "jax"):
        own = [one[engine] for one in document["seeds"].values() if engine in one]
        if own:
            times = [np.mean([one["ms"][name] for one in own]) for name in ("mean", "q05", "q95")]
            memory = [one["peak_mib"] for one in own]
            found.append(sample(engine, f"{column} ms", "ms", [one["ms"]["mean"] for one in own], (times[0], times[1], times[2])))
            found.append(sample(engine, f"{column} MB", "MiB", memory, (float(np.mean(memory)), min(memory), max(memory))))
    return found


def measured_on(document: Document) -> Derived:
    """The machines that decided, which need not be those that trained."""
    found = [one for column in document["measured"].get("latency", {}).values() for one in column.values()]
    machines = {
        f"{one['machine']['cores']} cores of {one['machine']['processor']}, {', '.join(one['machine']['devices'])}" for one in found
    }
    return [], [f"Measured on {'; '.join(sorted(machines))}."] if machines else []


def _faster(engine: str) -> Callable[[Results], Verdict]:
    """Our 95 % quantile of milliseconds against the paper's mean."""

    def predicate(results: Results) -> Verdict:
        parts = []
        for task, name in results.tasks():
            cell = results.cell(task, "SPAR-PROJ ms", engine)
            if cell is None or cell["paper"] is None:
                parts.append(Part("missing", name))
            else:
                parts.append(_quicker(f"{name} {{:.3f}} ms against {{:.3f}} ms", cell["value"], cell["paper"]["mean"]))
        return together(parts)

    return predicate


def _slower(results: Results) -> Verdict:
    """SPAR-MLP's 95 % quantile against SPAR-PROJ's mean, of both engines."""
    parts = []
    for task, name in results.tasks():
        for engine in ("deployed", "jax"):
            proj, mlp = (results.cell(task, f"{column} ms", engine) for column in ("SPAR-PROJ", "SPAR-MLP"))
            if proj is None or mlp is None:
                parts.append(Part("missing", f"{name} {engine}"))
            else:
                text = f"{name} {engine}: SPAR-MLP {{:.3f}} ms against {{:.3f}} ms"
                parts.append(_quicker(text, mlp["value"], proj["value"]["mean"]))
    return together(parts)


def _quicker(text: str, own: dict[str, float], other: float) -> Part:
    """Of single decisions, 5 % and 95 % quantiles, against a mean."""
    sign: Sign = "shown" if own["high"] < other else "contrary" if own["low"] > other else "open"
    return Part(sign, text.format(own["mean"], other))


TABLE11 = Study(
    name="table11",
    title="Latency and memory of a decision",
    source="Table 11, C.2.3",
    about="Milliseconds from an observation to its action at batch size 1, and peak memory of a process that does nothing else.",
    variants=no_scores,
    paper="table11",
    quoted=("DAC ms", "DAC MB"),
    measurements=(
        Measurement(
            "latency",
            measure.latency,
            runs_of("spar-proj", "spar-mlp"),
            smoke={"steps": 20, "warm_up": 5},
            cells=latency_cells,
            keep=True,
            machine=True,
        ),
    ),
    derive=measured_on,
    claims=(
        Claim("A generative residual decides more slowly than a deterministic one: SPAR-PROJ, SPAR-MLP", _slower),
        *(
            Claim(f"SPAR-PROJ takes {what} than DAC", below((f"SPAR-PROJ {unit}", None), (f"DAC {unit}", None)))
            for what, unit in (("less time", "ms"), ("less memory", "MB"))
        ),
        Claim("the deployed policy decides faster than the paper's SPAR-PROJ did on the paper's machine", _faster("deployed"), ours=True),
        Claim("so does the compiled one", _faster("jax"), ours=True),
    ),
    notes=(
        "deployed: the exported policy with NumPy alone. jax: the same decision compiled.",
        "The mean over steps, as in the paper; a shared machine's pauses raise it. Brackets: 5 % and 95 % quantiles of single decisions.",
        "Memory is in MiB; the paper's column says MB. The paper's machine is not known; DAC is not implemented here.",
    ),
)


# Figures 2 and 5


def residual_cells(column: str, document: Document) -> Cells:
    """Mean lengths of residuals, and mean Q_rob, of the seed that is drawn."""
    sets = list(document["seeds"].values())
    found = []
    for name in ("logged", "policy"):
        found.append(sample("", f"length, {name}", "length", [one[name]["length"] for one in sets]))
    for name in ("logged", "policy", "anchor"):
        found.append(sample("", f"Q_rob, {name}", "q", [one[name]["q"] for one in sets]))
    return found


RESIDUALS = Measurement("residual_distribution", measure.residual_distribution, own_run, smoke={"samples": 120}, cells=residual_cells)
SHAPES = Claim(
    "The residuals are compact in medium-replay data and fragmented, narrow or sparse elsewhere, by limits of ours, without intervals",
    regimes,
)
DRAWN = (
    "Cells: mean length of residuals (actions in [-1, 1]) and mean Q_rob at the same states, first seed.",
    "The claim is judged by the geometry in residual space (`spar diagnose`), not by the picture.",
)

FIGURE2 = Study(
    name="figure2",
    title="The residuals and their values",
    source="Figure 2, section 4.2",
    about="Logged residuals and the learned residual policy's in one t-SNE, coloured by Q_rob.",
    variants=no_scores,
    measurements=(RESIDUALS, GEOMETRY),
    picture="residual_distribution",
    claims=(SHAPES,),
    notes=DRAWN,
)
FIGURE5 = Study(
    name="figure5",
    title="The residuals of all ten tasks",
    source="Figure 5, C.3",
    about="As figure 2, of states and actions together: (s, a), as text and caption have it, though the section is headed residuals.",
    variants=no_scores,
    tasks=TEN,
    measurements=(dataclasses.replace(RESIDUALS, settings={"space": "state-action"}), GEOMETRY),
    picture="residual_distribution",
    claims=(SHAPES,),
    notes=DRAWN,
)


# Figure 3


def support_cells(column: str, document: Document) -> Cells:
    return [
        sample(row, column, "ratio", [one["ratio"][name] for one in document["seeds"].values()])
        for name, row in (("policy", "gated"), ("ungated", "ungated"))
    ]


def support_runs(task: Task) -> list[Variant]:
    return [*runs_of("spar-proj", "spar-plas")(task), PAIRED_VARIANT]


PLAS_GATED, NARROW = ("SPAR-PLAS", "gated"), ("narrow",)

FIGURE3 = Study(
    name="figure3",
    title="How far do actions stray from the log's?",
    source="Figure 3, section 4.2",
    about="95 % quantile of the distance to the nearest logged actions, over that of the log's own; left in the picture: boundaries.",
    variants=no_scores,
    paper="figure3",
    measurements=(Measurement("action_support", measure.action_support, support_runs, smoke={"states": 200}, cells=support_cells),),
    picture="action_support",
    claims=(
        Claim("On narrow data SPAR-PLAS deviates substantially: a ratio above 1.1", above(PLAS_GATED, 1.1, regimes=NARROW)),
        *(
            claim
            for own, ours in PROJS
            for claim in (
                Claim(f"On narrow data {own} strays less than SPAR-PLAS", below((own, "gated"), PLAS_GATED, regimes=NARROW), ours),
                Claim(f"On narrow data {own} stays close to support: a ratio below 1.1", above((own, "gated"), 1.1, True, NARROW), ours),
                Claim(f"on every task {own} strays less than SPAR-PLAS", below((own, "gated"), PLAS_GATED), ours=True),
                Claim(
                    f"on every task {own} strays less than SPAR-PLAS, both ungated",
                    below((own, "ungated"), ("SPAR-PLAS", "ungated")),
                    ours=True,
                ),
                Claim(f"on every task {own} stays close to support", above((own, "gated"), 1.1, under=True), ours=True),
            )
        ),
    ),
    notes=(
        "The paper shows Pen-Cloned alone.",
        "The paper does not say whether its policies were gated; its number stands beside both. It prints 0.98 for SPAR-PROJ; 1.1 is ours.",
    ),
)


# Figure 4

CONTRACTION, SMALLER, SHARE = "log10 (D_A / 2 δ_ρ)^d", "δ_ρ / radius of the log's actions", "δ_ρ / D_A"
LOGARITHMS = "logarithmic factor of eq. 23"


def space_cells(column: str, document: Document) -> Cells:
    columns = (
        ("D_A", "global_diameter"), ("2 δ_ρ", "residual_diameter"), (SMALLER, "contraction"), (CONTRACTION, "log10_dominant"),
        ("log10 eq. 23", "log10_efficiency"),
    )  # fmt: skip
    seeds = list(document["seeds"].values())
    shares = sample("", SHARE, "ratio", [one["delta_rho"] / one["global_diameter"] for one in seeds])
    factors = sample("", LOGARITHMS, "ratio", [10 ** (one["log10_efficiency"] - one["log10_dominant"]) for one in seeds])
    return [*(sample("", name, "length", [one[key] for one in seeds]) for name, key in columns), factors, shares]


FIGURE4 = Study(
    name="figure4",
    title="How much smaller is the residual space?",
    source="Figure 4, appendix A; eqs. 3 and 23",
    about="Diameters that hold 95 % of the distances between logged actions and of twice the residuals, and what eq. 23 makes of them.",
    variants=no_scores,
    tasks=TEN,
    measurements=(Measurement("action_space", measure.action_space, own_run, smoke={"pairs": 500}, cells=space_cells),),
    picture="action_space",
    notes=(
        "eq. 23 is taken with epsilon = 0.1 L δ_ρ, an accuracy for which the paper gives no number. "
        "D_A holds 95 % of the distances between logged actions.",
    ),
    claims=(
        Claim("Residuals are smaller than the action space: δ_ρ below D_A", above((SHARE, ""), 1.0, under=True)),
        Claim("So the search space contracts: the dominant term of eq. 23, (D_A / 2 δ_ρ)^d, exceeds 1", above((CONTRACTION, ""), 0.0)),
        Claim("Its logarithmic factor is a small constant, below 2", above((LOGARITHMS, ""), 2.0, under=True)),
        Claim(
            "of lengths that can be compared: the radius that holds 95 % of the residuals is below that about the mean action",
            above((SMALLER, ""), 1.0, under=True),
            ours=True,
        ),
    ),
)


# Figure 6

FIGURE6 = Study(
    name="figure6",
    title="Training curves",
    source="Figure 6, C.4",
    about="The task's preset; the table has the final evaluation.",
    variants=lambda task, budget: [preset("SPAR", task), preset("Base", task, shows="anchor")],
    tasks=TEN,
    measurements=(Measurement("training_curves", measure.training_curves, own_run),),
    picture="training_curves",
    claims=(Claim("the policy ends above its anchor", better("SPAR", "Base"), ours=True),),
)

STUDIES = (TABLE3, TABLE11, FIGURE2, FIGURE3, FIGURE4, FIGURE5, FIGURE6)
