"""Every study by its name, in the paper's order, then those of our own."""

from __future__ import annotations

from spar.studies import study_flow, study_gate, study_mechanism, study_scores, study_spot, study_sweeps
from spar.studies.grid import Study
from spar.types import SparError

_ROOMS = (study_scores, study_sweeps, study_mechanism, study_gate, study_flow, study_spot)
_DECLARED = [study for room in _ROOMS for study in room.STUDIES]


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
