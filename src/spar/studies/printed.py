"""What the paper's own numbers say of a study's claims: some of them its text has and its table has not.

The same predicates read the printed means. They have no seeds, so a mean stands for two seeds that agree: every difference is as sure as it
was printed, and half a point is as good as ten.
"""

from __future__ import annotations

import re
from typing import Any

from spar.studies import claims, paper
from spar.studies.claims import Claim, Results, Verdict
from spar.studies.grid import PAPER_TASKS, Study

SUSPECT = "with numbers marked †"
WIDTH = 1e-9  # of a number, on either side: an interval without any is one value, which says nothing of its spread


class Printed(Results):
    """The paper's table; a row that it does not tell apart stands for each of the study's. `doubted` is set once a number was read that
    is suspect."""

    doubted = False

    def cell(self, task: str, column: str, row: str | None = None) -> dict[str, Any] | None:
        found = super().cell(task, column, row) or (super().cell(task, column, "") if row else None)
        self.doubted |= found is not None and bool(found["paper"]["doubt"])
        return found


def document(study: Study) -> dict[str, Any] | None:
    """The paper's table in the form of a result document; None where it has none."""
    if study.paper is None:
        return None
    table = paper.tables()[study.paper]["cells"]
    tasks = {name: about for name, about in PAPER_TASKS.items() if about[0] in table}
    return {
        "tasks": {name: {"paper": short, "regime": regime} for name, (short, regime) in tasks.items()},
        "cells": [
            _cell(name, row, column, found)
            for name, (short, _) in tasks.items()
            for row, columns in table[short].items()
            for column in columns
            if (found := paper.number(study.paper, short, row, column))
        ],
        "measured": {},
    }


def _cell(task: str, row: str, column: str, found: dict[str, Any]) -> dict[str, Any]:
    mean = found["mean"]
    edge = WIDTH * abs(mean)
    value = {"mean": mean, "low": mean - edge, "high": mean + edge}
    return {
        "task": task, "row": row, "column": column, "returns": None, "reference": None, "samples": [[mean], [mean]], "seeds": [mean, mean],
        "value": value, "paper": found,
    }  # fmt: skip


def verdicts(study: Study) -> dict[str, Verdict]:
    """By the claims' texts, of those that the paper's table can decide."""
    found = document(study)
    if found is None:
        return {}
    judged = {claim.text: _plain(claim, found) for claim in study.claims}
    return {text: verdict for text, verdict in judged.items() if verdict.word != claims.MISSING}


def _plain(claim: Claim, found: dict[str, Any]) -> Verdict:
    """Without intervals of no width; where a suspect number was read, that is said."""
    table = Printed(found)
    verdict = claim.predicate(table)
    because = re.sub(r" \[[^]]*\]", "", verdict.because)
    return verdict._replace(because=f"{because}; {SUSPECT}" if table.doubted else because)
