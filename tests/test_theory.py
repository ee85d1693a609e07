"""Proposition 3.3 on curves of known curvature, and Lemma 3.2 on random quadratics."""

from __future__ import annotations

import numpy as np
import pytest

from spar.method.topology import delta_rho


def test_minimiser_of_the_weighted_regression_is_the_convex_combination() -> None:
    """Part (i)."""
    rng = np.random.default_rng(0)
    points, w = rng.normal(size=(5, 3)), rng.dirichlet(np.ones(5))
    best = w @ points
    value = (w * ((best - points) ** 2).sum(1)).sum()
    for _ in range(100):
        other = best + 0.1 * rng.normal(size=3)
        assert (w * ((other - points) ** 2).sum(1)).sum() > value


@pytest.mark.parametrize("kappa", [0.5, 1.0, 4.0])
def test_chord_deviation_is_second_order_with_constant_kappa_over_eight(kappa: float) -> None:
    """Part (ii) on a circle of curvature kappa: deviation / (kappa/8 chord^2) -> 1 as chords shrink.

    The exact sagitta is R - sqrt(R^2 - c^2/4) >= c^2/(8R): the printed bound holds to leading order only, and a long chord breaks it
    (by a factor of 2 at the diameter). The test pins both facts.
    """
    radius = 1 / kappa
    for angle, slack in ((0.01, 1e-4), (0.1, 1e-3), (0.5, 0.03), (np.pi, 1.0)):
        ends = radius * np.array([[np.cos(-angle / 2), np.sin(-angle / 2)], [np.cos(angle / 2), np.sin(angle / 2)]])
        alpha = np.linspace(0, 1, 2001)[:, None]
        chord = (1 - alpha) * ends[0] + alpha * ends[1]
        deviation = np.abs(np.linalg.norm(chord, axis=1) - radius).max()
        bound = kappa / 8 * ((ends[1] - ends[0]) ** 2).sum()
        assert bound * (1 - 1e-6) <= deviation <= bound * (1 + slack) * (1 + 1e-6)


def test_chord_deviation_of_a_parabola_stays_below_the_bound() -> None:
    """y = k x^2 / 2 has its largest curvature k at the vertex, so every chord stays below k/8 chord^2."""
    k, grid = 2.0, np.linspace(-2, 2, 20001)
    curve = np.stack([grid, k * grid**2 / 2], 1)
    rng = np.random.default_rng(0)
    for _ in range(20):
        i, j = rng.integers(len(grid), size=2)
        alpha = np.linspace(0, 1, 21)[:, None]
        chord = (1 - alpha) * curve[i] + alpha * curve[j]
        distance = np.array([np.linalg.norm(curve - x, axis=1).min() for x in chord])
        assert distance.max() <= k / 8 * ((curve[i] - curve[j]) ** 2).sum() + 1e-6


def test_gradient_ascent_drifts_linearly() -> None:
    """A value gradient with a normal component leaves the circle by eta |v_normal| to first order."""
    x, v = np.array([1.0, 0.0]), np.array([0.6, 0.8])
    for eta in (1e-1, 1e-2, 1e-3):
        drift = abs(np.linalg.norm(x + eta * v) - 1)
        assert drift == pytest.approx(eta * 0.6, rel=eta)


def test_localisation_bias_is_bounded_by_the_distance_beyond_the_ball() -> None:
    """Lemma 3.2 on the steepest L-Lipschitz cone, where it is tight."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        base, best, delta, lipschitz = rng.normal(size=2), rng.normal(size=2), rng.uniform(0.1, 2), rng.uniform(0.5, 3)
        gap = np.linalg.norm(best - base)
        inside = best if gap <= delta else base + delta * (best - base) / gap
        bias = lipschitz * np.linalg.norm(inside - best)  # Q(a) = -L |a - best|
        assert bias == pytest.approx(lipschitz * max(gap - delta, 0), abs=1e-9)


def test_delta_rho_is_the_smallest_radius_that_holds_enough() -> None:
    """Eq. 3 by brute force."""
    residuals = np.random.default_rng(0).normal(size=(237, 3))
    norms = np.sort(np.linalg.norm(residuals, axis=1))
    smallest = next(r for r in norms if (norms <= r).mean() >= 0.95)
    assert delta_rho(residuals, 0.05) == smallest
