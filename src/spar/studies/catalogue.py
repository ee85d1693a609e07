"""Every study by its name, in the paper's order, then those of our own."""

from __future__ import annotations

from spar.studies import study_flow, study_mechanism, study_scores, study_spot, study_sweeps
from spar.studies.grid import Study
from spar.types import SparError

_DECLARED = (*study_scores.STUDIES, *study_sweeps.STUDIES, *study_mechanism.STUDIES, *study_flow.STUDIES, *study_spot.STUDIES)


def _order(study: Study) -> tuple[int, int]:
    for place, kind in enumerate(("table", "figure")):
        if study.name.startswith(kind):
            return place, int(study.name.removeprefix(kind))
    return 2, 0


STUDIES: dict[str, Study] = {study.name: study for study in sorted(_DECLARED, key=_order) if study.available()}


def get(name: str) -> Study:
    """Raises SparError for an unknown name."""
    if name not in STUDIES:
        raise SparError(f"no study named '{name}'; there are: {', '.join(STUDIES)}")
    return STUDIES[name]
