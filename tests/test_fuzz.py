"""The readers against spoilt files (`tests/fuzz.py`): a log or one line, whatever the bytes. SPAR_FUZZ_CASES says how many a format."""

from __future__ import annotations

import os

import pytest

from tests import fuzz
from tests.corpus import VALID

CASES = int(os.environ.get("SPAR_FUZZ_CASES", "60"))


@pytest.mark.parametrize("kind", VALID)
def test_a_log_or_one_line(kind: str) -> None:
    outcomes, bad = fuzz.run([kind], CASES)
    assert not bad, "\n\n".join(bad[:3])
    assert sum(outcomes.values()) == 2 * CASES
    assert outcomes[f"{kind} SparError"] and outcomes[f"{kind} log"]  # neither all broken nor all unharmed
