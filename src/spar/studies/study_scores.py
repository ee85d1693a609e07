"""The studies whose cells are scores of finished algorithms: Tables 1, 2, 9 and 14, and whether the geometry picks the right residual."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from spar import registry
from spar.data.episodes import Log
from spar.diagnose.geometry import FEW, Geometry, recommend
from spar.method import gate
from spar.runs import auto
from spar.studies.claims import Claim, Part, Results, Verdict, difference, joint, together
from spar.studies.grid import SUITE, TEN, Derived, Measurement, Study, Task, Variant, guide_edit
from spar.studies.measure_run import opened
from spar.studies.predicates import against_all, best, better, collapses, compare, values

LABELS = {
    "spar-mlp": "SPAR-MLP", "spar-proj": "SPAR-PROJ", "spar-plas": "SPAR-PLAS", "spar-cvae": "SPAR-CVAE", "spar-flow": "SPAR-FLOW",
    "bc": "BC", "bc10": "10 % BC", "awac": "AWAC", "td3bc": "TD3+BC", "cql": "CQL", "iql": "IQL", "onestep": "Onestep", "bcq": "BCQ",
    "plas": "PLAS", "lapo": "LAPO", "spot": "SPOT",
}  # fmt: skip
PAIRED = "SPAR-PROJ, paired"
PAIRED_VARIANT = Variant(PAIRED, "spar-proj", {"imitation.reading": "paired"})  # eq. 10 to the letter
MIXED = ("multimodal", "narrow", "sparse")
ALWAYS = {f"gate.{name}": value for name, value in gate.UNGATED.items()}
GLOBAL = {"anchor.kind": "zero", **ALWAYS, "gate.candidates": 1}  # the residual of an anchor at 0 is the action itself, never gated
UNWEIGHTED = {"weighting.sensitivity": "uniform", "weighting.filter": "soft"}


def label(algo: str) -> str:
    return LABELS.get(algo, algo)


def preset(column: str, task: Task, **more: Any) -> Variant:
    """The algorithm of the task's preset, as it is."""
    return Variant(column, task.algo, **more)


# Table 1


def table1(task: Task, budget: str) -> list[Variant]:
    ours = [name for name in registry.ALGOS if registry.ALGOS[name].gated]
    first, rest = ("spar-mlp", "spar-proj"), [name for name in registry.ALGOS if name not in ours]
    return [
        Variant("Base", "spar-mlp", shows="anchor"),
        *(Variant(label(name), name) for name in (*first, *rest)),
        PAIRED_VARIANT,
        *(Variant(label(name), name) for name in ours if name not in first),
    ]


COMPETITORS = tuple(label(name) for name, algo in registry.ALGOS.items() if not algo.gated)
IN_SUPPORT, GRADIENTS = ("AWAC", "IQL", "LAPO"), ("BCQ", "TD3+BC", "CQL", "PLAS")
NOT_RUN = ("Diff-QL", "IDQL", "EQL", "CQL-AW")


def better_of_two(competitors: Sequence[str]) -> Callable[[Results], Verdict]:
    """The variant of the paper's word for the residuals against each of them."""
    own = {"unimodal": "SPAR-MLP", **dict.fromkeys(MIXED, "SPAR-PROJ")}

    def predicate(results: Results) -> Verdict:
        regimes = {task: results.document["tasks"][task]["regime"] for task, _ in results.tasks()}
        parts = [against_all(results, task, name, own[regimes[task]], competitors) for task, name in results.tasks(*own)]
        return together(parts + results.absent(*own))

    return predicate


TABLE1 = Study(
    name="table1",
    title="SPAR and its competitors",
    source="Table 1, section 4.1",
    about=(
        "Every algorithm with its published settings, but layers as wide as SPAR's, on equal data, updates and seeds; "
        "Base is the anchor of SPAR-MLP."
    ),
    variants=table1,
    tasks=TEN,
    paper="table1",
    quoted=NOT_RUN,
    claims=(
        Claim("On unimodal residuals SPAR-MLP returns more than its anchor", better("SPAR-MLP", "Base", "unimodal")),
        Claim("On unimodal residuals SPAR-MLP returns more than SPAR-PROJ", better("SPAR-MLP", "SPAR-PROJ", "unimodal")),
        Claim("On all other residuals SPAR-PROJ returns more than SPAR-MLP", better("SPAR-PROJ", "SPAR-MLP", *MIXED)),
        Claim("SPAR-PROJ returns more than the anchor on every task", better("SPAR-PROJ", "Base")),
        Claim("of the \"marked performance drop\" of 4.1: on multimodal residuals SPAR-MLP returns less than its anchor",
              better("Base", "SPAR-MLP", "multimodal"), ours=True),
        Claim("On multimodal residuals SPAR-PROJ returns more than in-support learning and value gradients",
              best("SPAR-PROJ", (*IN_SUPPORT, *GRADIENTS), "multimodal")),
        Claim("On unimodal residuals SPAR-MLP returns more than policy gradient guidance (BCQ, TD3+BC, CQL, PLAS)",
              best("SPAR-MLP", GRADIENTS, "unimodal")),
        Claim("On unimodal residuals SPAR-MLP returns more than in-support learning (AWAC, IQL, LAPO)",
              best("SPAR-MLP", IN_SUPPORT, "unimodal")),
        Claim("On narrow and sparse data SPAR-PROJ returns more than in-support learning and value gradients",
              best("SPAR-PROJ", (*IN_SUPPORT, *GRADIENTS), "narrow", "sparse")),
        Claim("The variant that the paper picks for the residuals returns more than every competitor run here", better_of_two(COMPETITORS)),
        Claim("It returns more than those of the paper's competitors that are not run here, Diff-QL, IDQL, EQL and CQL-AW",
              better_of_two(NOT_RUN)),
        Claim("the default reading of latent self-imitation returns more than the paired one", better("SPAR-PROJ", PAIRED), ours=True),
    ),
    notes=("The paper lists Diff-QL among gradient-based optimization (section 4), and its text calls it generative.",),
)  # fmt: skip


# Table 2


def table2(task: Task, budget: str) -> list[Variant]:
    return [
        preset("SPAR full", task),
        preset("w/o Stage III", task, shows="ungated"),
        preset("Res. w/o LSI", task, edits=guide_edit(task.algo, 0.0)),
        Variant("CVAE base", "spar-proj", {**GLOBAL, **UNWEIGHTED, "imitation.lambda_g": 0.0}),
        Variant("Global SI", "spar-proj", GLOBAL),
        *([PAIRED_VARIANT] if task.algo == "spar-proj" else []),
    ]


TABLE2 = Study(
    name="table2",
    title="What each component is worth",
    source="Table 2, section 4.2",
    about="SPAR as the task's preset has it, and with parts taken away.",
    variants=table2,
    paper="table2",
    claims=(
        Claim("The full pipeline is best", best("SPAR full", ("w/o Stage III", "Res. w/o LSI", "CVAE base", "Global SI"))),
        Claim("On the harder tasks self-imitation in the global action space collapses, to less than half of the CVAE base",
              collapses("Global SI", "CVAE base", *MIXED)),
        Claim("The gate of Stage III adds to the ungated residual", better("SPAR full", "w/o Stage III")),
        Claim("The improvement step adds to the fitted residual", better("SPAR full", "Res. w/o LSI")),
        Claim("A fitted residual alone already returns more than a generative clone", better("Res. w/o LSI", "CVAE base")),
        Claim("So does the residual without Stage III", better("w/o Stage III", "CVAE base")),
        Claim("on tasks of SPAR-PROJ the full pipeline is best with the paired reading, eq. 10 to the letter",
              best(PAIRED, ("w/o Stage III", "Res. w/o LSI", "CVAE base", "Global SI"), *MIXED), ours=True),
    ),
    notes=(
        "CVAE base: SPAR-PROJ with its anchor at 0, unweighted, without imitation or gate, one sample: a CVAE clone of the actions.",
        "Global SI: the same with the preset's weights and latent self-imitation; advantages are over the action 0.",
        "Res. w/o LSI: the preset's residual without its improvement step (lambda_g = 0), as the paper's numbers in Tables 2 and 4 agree.",
    ),
)  # fmt: skip


# Table 9

TABLE9 = Study(
    name="table9",
    title="Recent baselines",
    source="Table 9, C.2.1",
    about="SPAR with the task's preset beside what the paper prints.",
    variants=lambda task, budget: [preset("SPAR", task)],
    paper="table9",
    quoted=("DAC", "FQL", "QIPO"),
    claims=(Claim("SPAR returns more than DAC, FQL and QIPO", best("SPAR", ("DAC", "FQL", "QIPO"))),),
    notes=("DAC, FQL and QIPO are not implemented here, so nothing of theirs is measured.",),
)


# Table 14


def table14(task: Task, budget: str) -> list[Variant]:
    return [
        Variant("Base", "spar-mlp", shows="anchor"),
        *(Variant(label(algo), algo) for algo in ("spar-mlp", "spar-proj")),
    ]


TABLE14 = Study(
    name="table14",
    title="MuJoCo medium datasets",
    source="Table 14, C.2.5",
    about="Both variants and their anchor; the paper prints no settings, these are those of the medium-replay row of Table 8.",
    variants=table14,
    tasks=("hopper-medium", "halfcheetah-medium", "walker2d-medium"),
    paper="table14",
    claims=(
        Claim("SPAR-MLP returns more than SPAR-PROJ on these nearly unimodal residuals", better("SPAR-MLP", "SPAR-PROJ")),
        Claim("SPAR-MLP returns more than its anchor", better("SPAR-MLP", "Base")),
        Claim("SPAR-PROJ returns more than its anchor", better("SPAR-PROJ", "Base")),
    ),
)


# Does the geometry choose well?

RECOMMENDED = "recommended"


def shape(run: Path, log: Log) -> tuple[dict[str, Any], dict[str, Any]]:
    """The geometry of the logged residuals from each seed's anchor, and the algorithm that `--algo auto` would choose."""
    found = opened(run, log)
    seeds = {str(seed): auto.judge(policy, found.training)[0] for seed, policy in found.policies.items()}
    choice = auto.conclude(seeds)
    return found.document(recommended=choice["chosen"], reasons=choice["reasons"], seeds=seeds), {}


def own_run(task: Task) -> list[Variant]:
    """The run of the task's preset."""
    return [preset(label(task.algo), task)]


GEOMETRY = Measurement("geometry", shape, own_run, keep=True)  # anchors are those of every variant


def concluded(geometry: dict[str, Any]) -> dict[str, Any]:
    """What `auto` would choose, and why, from the shapes that a geometry document holds."""
    seeds = {}
    for seed, found in geometry["seeds"].items():
        algo, reasons = recommend(Geometry(**{name: found[name] for name in Geometry._fields}))
        seeds[seed] = {**found, "recommended": algo, "reasons": reasons}
    return auto.conclude(seeds)


def recommendations(document: dict[str, Any]) -> Derived:
    """A column with the recommended variant's cells, why it was recommended, and how often that was right."""
    found = [item for documents in document["measured"].get("geometry", {}).values() for item in documents.items()]
    cells, notes, recommended = list[dict[str, Any]](), list[str](), dict[str, str]()
    for task, geometry in found:
        choice = concluded(geometry)
        column = recommended[task] = label(choice["chosen"])
        own = [cell for cell in document["cells"] if cell["task"] == task and cell["column"] == column and not cell["failed"]]
        cells += [{**cell, "column": RECOMMENDED, "paper": None, "run": None, "curve": []} for cell in own]
        notes.append(f"{task}: {column}, because of {'; '.join(choice['reasons'])}.")
    return cells, [*notes, hits(Results(document), recommended)]


def hits(results: Results, recommended: dict[str, str]) -> str:
    """How often the recommended one returned more, how often that is sure, and what was lost where it did not."""
    right, ties, sure, regrets = 0, 0, 0, []
    for task, column in recommended.items():
        tables = [values(results, task, name) for name in (column, *({"SPAR-MLP", "SPAR-PROJ"} - {column}))]
        if any(table is None for table in tables):
            continue
        own, other = (table for table in tables if table is not None)
        (gain, low, high), _ = joint([own, other], difference)
        right, ties, sure = right + (gain > 0), ties + (gain == 0), sure + (low > 0 or high < 0)
        regrets.append(max(0.0, -gain))
    if not regrets:
        return "No task has both variants and a recommendation."
    told = f"equal on {ties}, told apart on {sure or 'none'}"
    return (
        f"The recommended variant had the higher mean on {right} of {len(regrets)} tasks ({told}); mean regret {np.mean(regrets):.1f}, "
        f"largest {max(regrets):.1f}, where another unit is not said in normalised points."
    )


def chosen_over_other(results: Results) -> Verdict:
    parts = []
    for task, name in results.tasks():
        geometry = results.measured(task, "geometry")
        if geometry is None:
            parts.append(Part("missing", f"{name} (no geometry)"))
            continue
        chosen = label(concluded(geometry)["chosen"])
        other = next(column for column in ("SPAR-MLP", "SPAR-PROJ") if column != chosen)
        parts.append(compare(results, task, f"{name}: {chosen} over {other}", chosen, other))
    return together(parts)


def regimes(results: Results) -> Verdict:
    """Whether the geometry says of each task what the paper says, in the residuals of every seed's anchor: by the limits of
    `geometry.recommend`, which know no interval."""
    parts = results.absent("unimodal", *MIXED)
    for task, name in results.tasks():
        geometry, regime = results.measured(task, "geometry"), results.document["tasks"][task]["regime"]
        if results.document["tasks"][task]["paper"] is None:  # of which the paper says nothing
            continue
        if geometry is None:
            parts.append(Part("missing", name))
            continue
        shapes = list(geometry["seeds"].values())
        asked = {found["recommended"] for found in concluded(geometry)["seeds"].values()}
        filling = np.mean([found["filling"] for found in shapes])
        tail = np.mean([found["tail"] / found["expected_tail"] for found in shapes])
        shape = f"neighbours at {filling:.2f} of a structureless cloud's distance, their tail {tail:.2f} times as long"
        text = f"{name} asks for {' or '.join(sorted(asked))} ({shape}), the paper calls it {regime}"
        if len(asked) > 1 or min(found["rows"] for found in shapes) < FEW:
            parts.append(Part("open", text))
        else:
            parts.append(Part("shown" if (asked == {"spar-mlp"}) == (regime == "unimodal") else "contrary", text))
    return together(parts)


AUTO = Study(
    name="auto",
    title="Does the residuals' geometry pick the better architecture?",
    source="Section 4.2 and C.2.6",
    about="`--algo auto` measures the logged residuals after Stage I; here its choice stands beside both that it chooses from.",
    variants=lambda task, budget: [Variant(label(algo), algo) for algo in ("spar-mlp", "spar-proj")],
    tasks=SUITE,
    paper="table1",
    measurements=(GEOMETRY,),
    derive=recommendations,
    claims=(Claim("the recommended variant returns more than the other", chosen_over_other, ours=True),),
    notes=("Whether the geometry agrees with what the paper calls the residuals is asked in figure 2.",),
)

STUDIES = (TABLE1, TABLE2, TABLE9, TABLE14, AUTO)
