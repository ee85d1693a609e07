"""SPOT's own questions: how strong should its constraint be, and what are its parts worth (Wu et al. 2022)?"""

from __future__ import annotations

from typing import Any

from spar.studies.claims import Claim
from spar.studies.grid import REPRESENTATIVE, Study, Task, Variant
from spar.studies.predicates import alike, better

PUBLISHED = "as published"
LAMBDAS = (0.025, 0.05, 0.1, 0.2, 0.25, 0.5, 1.0, 2.0)  # 0.025 to 1: the weights that its authors chose for one task or another
PARTS: dict[str, dict[str, Any]] = {
    "Gaussian density": {"density": "gaussian"},
    "Q not normalised": {"normalise_q": False},
    "L = 10": {"samples": 10},
}


def variants(task: Task, budget: str) -> list[Variant]:
    """At the task's published weight, its parts; then the other weights."""
    found = [Variant(PUBLISHED, "spot"), *(Variant(name, "spot", edits) for name, edits in PARTS.items())]
    return [*found, *(Variant(f"λ = {value:g}", "spot", {"lam": value}) for value in LAMBDAS)]


SPOT = Study(
    name="spot",
    title="The weight and the parts of SPOT",
    source="Wu et al. 2022, analysis on the support constraint and ablation study",
    about="SPOT with its published settings, with parts exchanged, and with other weights lambda of its support constraint.",
    variants=variants,
    tasks=REPRESENTATIVE,
    claims=(
        Claim(
            "A Gaussian density returns less where behaviour is complex",
            better(PUBLISHED, "Gaussian density", "multimodal", "narrow", "sparse"),
        ),
        Claim("Dividing by the mean of |Q| matters little: within ten points", alike(PUBLISHED, "Q not normalised", 10.0)),
    ),
    notes=(
        "The claims are those of SPOT's authors. Both densities are in units of the CVAE's loss, so the published weight means the same; Q "
        "that is not normalised has the scale of the rewards, and there it is another one.",
    ),
)

STUDIES = (SPOT,)
