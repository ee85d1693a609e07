"""Verdicts beside which something must be said: tasks that were not run, which comparison decides, and the paper's own table."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from spar.studies import claims, paper, predicates, printed, tables
from spar.studies.catalogue import STUDIES
from spar.studies.claims import Claim
from tests.test_study_claims import cell, document, verdict

NOISE = np.random.default_rng(0).normal(size=(3, 20))
BETTER = (cell("t", "a", NOISE + 9), cell("t", "b", NOISE))


def judged(claim: Claim, declared: dict[str, str | None], *cells: dict[str, Any], **more: Any) -> claims.Verdict:
    return claims.judge([claim], document(*(cells or BETTER), **more), declared)[0][1]


def test_a_claim_holds_where_run_until_all_tasks_of_its_study_are() -> None:
    everywhere, one_regime = Claim("c", predicates.better("a", "b")), Claim("c", predicates.better("a", "b", "narrow"))
    found = judged(everywhere, {"t": None, "u": None})
    assert found.word == "holds where run" and found.because.endswith("; not run: u")
    assert judged(everywhere, {"t": None}).word == "holds"
    regimes = {"t": "narrow"}
    assert judged(one_regime, {"t": "narrow", "u": "sparse"}, regimes=regimes).word == "holds"
    assert judged(one_regime, {"t": "narrow", "u": "narrow"}, regimes=regimes).word == "holds where run"
    lost = judged(everywhere, {"t": None, "u": None}, cell("t", "a", NOISE - 9), cell("t", "b", NOISE))
    assert lost.word == "does not hold"  # on one task is enough
    sentence, _ = tables.verdicts(document(*BETTER), [everywhere], {"t": None, "u": None})
    assert sentence == "The paper's claim holds where run."


def test_one_seed_decides_nothing() -> None:
    found = verdict(predicates.better("a", "b"), cell("t", "a", NOISE[:1] + 9), cell("t", "b", NOISE[:1]))
    assert found.word == "undecided" and "one seed says nothing" in found.because


def test_the_comparison_that_decides_is_shown() -> None:
    """Not that with the highest mean, whose interval may say the opposite."""
    wild = 40 * np.array([[-1.0], [0.2], [0.8]])
    best = predicates.best("own", ("high", "sure"))
    lost = verdict(best, cell("t", "own", NOISE + 50), cell("t", "high", NOISE + 57 + wild), cell("t", "sure", NOISE + 53))
    assert lost.held is False and "over sure -3.0" in lost.because and "high" not in lost.because
    left_open = verdict(best, cell("t", "own", NOISE + 50), cell("t", "high", NOISE + 42 + wild), cell("t", "sure", NOISE + 45))
    assert left_open.held is None and "over high +8.0" in left_open.because


def test_the_papers_table_is_asked_what_its_text_says() -> None:
    """By hand: LAPO's 111.0 stands above SPAR-PROJ's 108.7 on HP-ME, PLAS spreads less than SPAR-PROJ over lambda_g on AM-LD."""
    table1, table4 = printed.verdicts(STUDIES["table1"]), printed.verdicts(STUDIES["table4"])
    lapo = next(found for text, found in table1.items() if "On multimodal residuals SPAR-PROJ returns more than in-support" in text)
    assert lapo.held is False and "HP-ME over LAPO -2.3" in lapo.because and "[" not in lapo.because
    assert table1["On unimodal residuals SPAR-MLP returns more than its anchor"].held is True
    spread = table4["On narrow and sparse data SPAR-PROJ's scores spread less over lambda_g than SPAR-PLAS's"]
    assert spread.held is False and "AM-LD -17.6" in spread.because  # 31.0 against 13.4
    assert not any("reading" in text for text in table1)  # what the table does not tell apart
    narrow = printed.verdicts(STUDIES["figure3"])["On narrow data SPAR-PROJ strays less than SPAR-PLAS"]
    assert narrow.held is True and "0.98 against 6.3" in narrow.because
    others = table1["It returns more than those of the paper's competitors that are not run here, Diff-QL, IDQL, EQL and CQL-AW"]
    assert others.held is False and "WK-MR over Diff-QL -1.5" in others.because
    uniform = next(found for text, found in printed.verdicts(STUDIES["table5"]).items() if "at every temperature" in text)
    assert uniform.held is False and "HP-MR soft T = 0.1 over soft uniform -10.3" in uniform.because


def test_a_verdict_by_suspect_numbers_says_so() -> None:
    """Table 1 has two columns of the mazes exchanged."""
    found = printed.verdicts(STUDIES["table1"])
    doubted = next(text for text in found if "On narrow and sparse data" in text)
    assert found[doubted].because.endswith(printed.SUSPECT)
    assert tables.own(found[doubted]._replace(held=True)) == " The paper's own numbers agree, with numbers marked †."
    assert printed.SUSPECT not in found["On unimodal residuals SPAR-MLP returns more than its anchor"].because


@pytest.mark.parametrize("name", [name for name, study in STUDIES.items() if study.paper])
def test_every_printed_number_is_a_cell(name: str) -> None:
    found, table = printed.document(STUDIES[name]), paper.tables()[STUDIES[name].paper or ""]["cells"]
    assert found is not None
    means = sorted(one["value"]["mean"] for one in found["cells"])
    numbers = [x[0] if isinstance(x, list) else x for rows in table.values() for columns in rows.values() for x in columns.values()]
    shorts = {about["paper"] for about in found["tasks"].values()}
    assert shorts == set(table) and means == sorted(float(x) for x in numbers if isinstance(x, (int, float)))


def test_the_page_says_what_the_paper_says() -> None:
    claim = Claim("c", predicates.better("a", "b"))
    agree, differ = claims.Verdict(True, "HP-MR +9.0"), claims.Verdict(False, "HP-MR -9.0")
    for found, ending in ((agree, "The paper's own numbers agree."), (differ, "The paper's own numbers: does not hold (HP-MR -9.0).")):
        assert tables.verdicts(document(*BETTER), [claim], None, {"c": found})[1].endswith(ending)
    assert "paper" not in tables.verdicts(document(*BETTER), [claim], None, {})[1]
