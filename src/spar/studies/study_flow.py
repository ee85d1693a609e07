"""Tables 12 and 13: a flow-matching anchor, and a residual that a flow generates."""

from __future__ import annotations

import typing

from spar import registry
from spar.method import anchor
from spar.studies.claims import Claim
from spar.studies.grid import Study, Task, Variant
from spar.studies.predicates import best, better
from spar.studies.study_scores import label, preset

FLOW_ALGO = "spar-flow"
FLOW_BASE = {"anchor.kind": "flow"}


def flow_base() -> bool:
    return "flow" in typing.get_args(typing.get_type_hints(anchor.Config)["kind"])


def flow_residual() -> bool:
    return flow_base() and FLOW_ALGO in registry.ALGOS


def table12(task: Task, budget: str) -> list[Variant]:
    return [
        preset("MLP base", task, shows="anchor"),
        Variant("MLP base + flow", FLOW_ALGO),
        preset("Flow base", task, shows="anchor", edits=FLOW_BASE),
        Variant("Flow base + flow", FLOW_ALGO, FLOW_BASE),
        preset("SPAR", task),
    ]


def table13(task: Task, budget: str) -> list[Variant]:
    row = label(task.algo)
    return [
        preset("Flow base", task, row=row, shows="anchor", edits=FLOW_BASE),
        preset("SPAR on it", task, row=row, edits=FLOW_BASE),
    ]


TABLE12 = Study(
    name="table12",
    title="A flow as base and as residual",
    source="Table 12, C.2.4",
    about="The residual of the task's preset against one that a flow generates, on the usual anchor and on a flow-matching one.",
    variants=table12,
    paper="table12",
    claims=(
        Claim("SPAR returns more than any flow variant", best("SPAR", ("MLP base + flow", "Flow base", "Flow base + flow"))),
        Claim("a flow residual improves the usual base", better("MLP base + flow", "MLP base"), ours=True),
        Claim("a flow residual improves a flow base", better("Flow base + flow", "Flow base"), ours=True),
    ),
    notes=("The usual base is an MLP: deterministic for locomotion, Gaussian elsewhere.",),
    available=flow_residual,
)
TABLE13 = Study(
    name="table13",
    title="SPAR on a flow base",
    source="Table 13, C.2.4",
    about="The task's preset with a flow-matching anchor.",
    variants=table13,
    paper="table13",
    claims=(Claim("SPAR improves a flow base", better("SPAR on it", "Flow base")),),
    available=flow_base,
)

STUDIES = (TABLE12, TABLE13)
