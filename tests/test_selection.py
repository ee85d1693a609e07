"""Choosing the gate's candidate by the critics that judge it is what the deployed policy does."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np

from tests.test_policy import OBS, make

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))
selection: Any = importlib.import_module("selection")


def test_the_judging_critics_choose_as_the_policy_does() -> None:
    (policy, _, _), (other, _, _) = (make("spar-proj", gate={"eta_abs": 0.0, "eta_rel": 0.0}) for _ in range(2))
    expected = other.act(OBS)
    action, accepted = selection.chooser(policy, policy)(OBS)
    np.testing.assert_array_equal(accepted, expected.accepted)
    np.testing.assert_allclose(action, expected.action, atol=1e-5)
    assert 0 < accepted.mean() < 1
    policy.reset(0)
    contrary = {key: -array if key.startswith("critics") and "Dense_1/" in key else array for key, array in policy.arrays.items()}
    worse, taken = selection.chooser(policy, type(policy)(policy.description, contrary, policy.scaler))(OBS)
    assert not np.allclose(worse, action) and taken.mean() < accepted.mean()  # the worst of the candidates seldom passes the judges
