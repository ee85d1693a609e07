"""What is said to stand in the way of a gain follows from the numbers of a diagnosis."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))
causes: Any = importlib.import_module("causes")

SOUND: dict[str, Any] = {
    "seeds": [0, 1, 2],
    "gain": {"mean": 5.0, "low": -1.0, "high": 11.0},
    "seed_gains": [5.0, 6.0, 4.0],
    "opening": {"mean": -1.0, "low": -2.0, "high": 0.5},
    "clone_share": 1.0,
}
FOUND: dict[str, Any] = {
    "drift": [0.01, -0.01, 0.012],
    "gains_order": [0.5, 0.52, 0.48],
    "real_gain": [1.0, 1.1, 0.9],
    "support": [0.9, 0.95, 0.92],
    "anchor_support": [0.9, 0.9, 0.9],
    "predicted_gain": [2.0, 2.1, 1.9],
    "gains_compare": True,
    "accepts": [0.3, 0.32, 0.28],
}


def said(changes: dict[str, Any] | None = None, **found: Any) -> str:
    return str(causes.read({**SOUND, "causes": {**FOUND, **found}, **(changes or {})}))


@pytest.mark.parametrize(
    ("low", "high", "seeds", "verdict"),
    [
        (1.0, 9.0, [0, 1, 2], "surely better"),
        (-9.0, -1.0, [0, 1, 2], "surely worse"),
        (1.0, 9.0, [0], "one seed tells nothing"),
        (-1.0, 9.0, [0, 1, 2], "not told apart: 3 of 3 seeds gain"),
    ],
)
def test_the_interval_of_the_gain_decides_the_verdict(low: float, high: float, seeds: list[int], verdict: str) -> None:
    assert said({"gain": {"mean": 5.0, "low": low, "high": high}, "seeds": seeds}) == verdict


@pytest.mark.parametrize(
    ("name", "sure", "doubtful", "sentence"),
    [
        ("drift", [-0.2, 0.21, 0.19], [0.095, 0.03, 0.08], "critic: had not settled"),
        ("gains_order", [-0.5, -0.4, -0.45], [-0.45, 0.2, -0.3], "critic: predicted gains do not order real ones"),
        ("real_gain", [-1.0, -1.1, -0.9], [-9.0, 2.5, -0.5], "critic: accepted corrections show no real gain"),
        ("support", [1.5, 1.6, 1.55], [1.6, 0.88, 1.5], "coverage: corrections lead away from the logged actions"),
        ("accepts", [0.01, 0.012, 0.011], [0.005, 0.08, 0.02], "gate: hardly opens"),
    ],
)
def test_each_number_has_its_cause_and_doubt_its_word(name: str, sure: list[float], doubtful: list[float], sentence: str) -> None:
    assert said(**{name: sure}).endswith(f"seeds gain; {sentence}")
    assert said(**{name: doubtful}).endswith(f"seeds gain; perhaps {sentence}")
    assert "perhaps" in said(**{name: [*sure[:2], None]})  # a seed without a number


def test_what_cannot_be_compared_is_no_cause() -> None:
    """Gains where critics value something else, and a distance that the anchor has too."""
    assert said(gains_order=[-0.5, -0.4, -0.45], real_gain=[-1.0, -1.1, -0.9], gains_compare=False).endswith("seeds gain")
    assert said(support=[1.5, 1.6, 1.55], anchor_support=[1.6, 1.7, 1.6]).endswith("seeds gain")
    assert said(real_gain=[-1.0, -1.1, -0.9], predicted_gain=[-2.0, -2.1, -1.9]).endswith("seeds gain")


def test_a_poor_clone_and_a_gate_that_costs_are_named() -> None:
    assert said({"clone_share": 0.3}).endswith("seeds gain; anchor: the clone returns less than half of what the log does")
    better = {"mean": 9.0, "low": 3.0, "high": 15.0}
    assert said({"opening": better}).endswith("seeds gain; gate: without it the policy surely returns more")
    assert said({"seed_gains": [5.0, -6.0, 4.0]}) == "not told apart: 2 of 3 seeds gain"
