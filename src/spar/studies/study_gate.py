"""The studies of the gate, Stage III, on finished runs: Table 10, and of how many candidates it should choose."""

from __future__ import annotations

from typing import Any

import numpy as np

from spar.studies import measure
from spar.studies.claims import Claim
from spar.studies.grid import Derived, Measurement, Study
from spar.studies.predicates import best, better
from spar.studies.study_mechanism import Cells, Document, no_scores, runs_of, sample
from spar.studies.study_scores import own_run

# Table 10


def pair(eta_abs: float, eta_rel: float) -> str:
    """(1e9, 1e9), as the paper writes thresholds that nothing passes."""
    return f"({', '.join(f'{value:g}'.replace('e+09', 'e9').replace('0.0001', '1e-4') for value in (eta_abs, eta_rel))})"


def threshold_cells(column: str, document: Document) -> Cells:
    return [
        {
            "row": "",
            "column": pair(one["eta_abs"], one["eta_rel"]),
            "unit": None,
            "returns": one["returns"],
            "acceptance": float(np.mean(one["acceptance"])),
        }
        for one in document["settings"]
    ]


ACCEPTS = "accepts, %"


def acceptances(document: dict[str, Any]) -> Derived:
    """Of every policy that was evaluated behind a gate, how many steps took the correction."""
    scored = [cell for cell in document["cells"] if cell["acceptance"] is not None]
    empty: dict[str, Any] = {"paper": None, "run": None, "shows": None, "curve": [], "returns": None, "seeds": None, "unit": "%"}
    cells = []
    for cell in scored:
        share = 100.0 * cell["acceptance"]
        value = {"mean": share, "low": share, "high": share}
        cells.append({**cell, **empty, "row": ACCEPTS, "samples": [[share]], "value": value})
    return cells, []


DEFAULT_GATE = pair(1e-4, 0.01)
SAME_GATE = pair(-1e9, 0.01)  # where |Q_base| is above 0.01, a gain above the relative threshold is above 1e-4 too
OTHER_GATES = [pair(*both) for both in measure.PAPER_THRESHOLDS if pair(*both) not in (DEFAULT_GATE, SAME_GATE)]
OWN_GATES = [pair(*both) for both in measure.OWN_THRESHOLDS]

TABLE10 = Study(
    name="table10",
    title="Thresholds of the gate",
    source="Table 10, C.2.2",
    about="One trained policy, that of the task's preset, behind gates with other (eta_abs, eta_rel); nothing is retrained.",
    variants=no_scores,
    paper="table10",
    measurements=(Measurement("thresholds", measure.thresholds, own_run, smoke={"episodes": 2}, cells=threshold_cells),),
    derive=acceptances,
    claims=(
        Claim(f"The default thresholds return more than the paper's others, {' '.join(OTHER_GATES)}", best(DEFAULT_GATE, OTHER_GATES)),
        Claim("They return more than the anchor alone", better(DEFAULT_GATE, pair(1e9, 1e9))),
        Claim("They return more than always applying the residual", better(DEFAULT_GATE, pair(-1e9, -1e9))),
        Claim(f"the default returns more than lower relative thresholds, {' '.join(OWN_GATES)}", best(DEFAULT_GATE, OWN_GATES), ours=True),
    ),
    notes=(
        f"By eq. 12 {SAME_GATE} is the default's policy wherever |Q_base| exceeds 0.01: no claim compares them, though the paper's numbers "
        "differ.",
        "Relative thresholds of 0.001 and 0.003 are ours. By the performance difference lemma a return higher by the share x takes a "
        "mean gain of x (1 - gamma) of a value at each step: a threshold of 1 - gamma passes what would double the return.",
    ),
)


# Candidates

COUNTS = measure.COUNTS
PREDICTED = "predicted gain"


def column(count: int) -> str:
    return f"K = {count}"


def candidate_cells(name: str, document: Document) -> Cells:
    found: list[dict[str, Any]] = []
    for one in document["settings"]:
        place = column(one["candidates"])
        found.append({"row": "", "column": place, "unit": None, "returns": one["returns"], "acceptance": float(np.mean(one["acceptance"]))})
        found.append(sample(PREDICTED, place, "q", one["predicted"]))
    return found


ONE, DEFAULT, MANY = column(COUNTS[0]), column(10), column(COUNTS[-1])

CANDIDATES = Study(
    name="candidates",
    title="How many candidates should the gate choose from?",
    source="Algorithm 5, C.1.3: K = 10",
    about="Trained policies of SPAR-PROJ whose gate chooses the best of K candidates by the critics; nothing is retrained.",
    variants=no_scores,
    measurements=(
        Measurement("candidates", measure.candidates, runs_of("spar-proj"), smoke={"episodes": 2, "counts": (1, 2)}, cells=candidate_cells),
    ),
    derive=acceptances,
    claims=(
        Claim("the paper's ten candidates return more than one", better(DEFAULT, ONE), ours=True),
        Claim("ten return less than one", better(ONE, DEFAULT), ours=True),
        Claim(f"the critics predict more of more candidates, {MANY} over {ONE}", better((MANY, PREDICTED), (ONE, PREDICTED)), ours=True),
    ),
    notes=(
        "predicted gain: mean over logged states, in units of the critics. The best of K noisy predictions exceeds what it will return, "
        "the more the larger K (the optimizer's curse; Smith and Winkler 2006), and one correction to the next.",
    ),
)

STUDIES = (TABLE10, CANDIDATES)
