"""The shape of the residuals da = a - pi_base(s), and the architecture that fits it (SPAR 4.2, appendix C.2.6).

The paper names three diagnostics without thresholds: concentration of the covariance spectrum, the tail of nearest-neighbour distances,
density clusters. Distances mean little by themselves, so they are compared with those of a structureless cloud: as many points with the
same mean, covariance and radii, in random directions. A heavy tail alone is no structure; clusters, filaments and gaps are.

The limits below lie between clouds of one mode (normal, Student, exponential, uniform, clipped: a filling above 0.78) and curves of a
thickness of 0.02 (below 0.58 in up to six dimensions).
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

from spar.diagnose.support import knn_distance
from spar.method import topology

SAMPLE = 4000  # residuals, drawn at random, that distances and clusters are computed on
NEIGHBOURS = 5
FEW = 200  # residuals below which no shape can be told
CLUSTER_SHARE = 0.05  # of the sample: the smallest cluster
NARROW, TAIL = 0.7, 1.5  # limits of Geometry.filling and of Geometry.tail over expected_tail


class Geometry(NamedTuple):
    """Lengths are Euclidean, in actions scaled to [-1, 1].

    delta_rho: eq. 3 with rho = 0.05. action_radius: the same quantile of |a - mean a| over the log. contraction: delta_rho / action_radius.
    log10_efficiency: that of eq. 23's dominant term (D_A / (2 delta_rho))^d, D_A the same quantile of distances between logged actions,
    which may be below twice that radius: a residual space no larger than the actions' may still not contract by eq. 23.
    spectrum: shares of the residuals' variance along its principal directions, descending. effective_directions: their participation
    ratio, 1 / sum of squares. filling: median distance to the NEIGHBOURS-th nearest residual over that in the structureless cloud; far
    below 1 where the residuals keep to clusters or filaments of the region that they span. tail: the 99 % quantile of those distances
    over their median; expected_tail: the structureless cloud's. clusters: shares of the sample in each density cluster, descending; what
    is missing to 1 belongs to none. Of a single cluster only the core is counted.
    """

    rows: int
    delta_rho: float
    action_radius: float
    contraction: float
    log10_efficiency: float
    spectrum: tuple[float, ...]
    effective_directions: float
    filling: float
    tail: float
    expected_tail: float
    clusters: tuple[float, ...]


class Shape(NamedTuple):
    """What the pictures need of the sample of n residuals."""

    residuals: np.ndarray  # (n, A)
    labels: np.ndarray  # (n,) cluster, -1 for none
    distances: np.ndarray  # (n,) to the NEIGHBOURS-th nearest
    expected_distances: np.ndarray  # (n,) in the structureless cloud


def measure(residuals: np.ndarray, actions: np.ndarray, seed: int = 0) -> tuple[Geometry, Shape]:
    """The geometry of residuals (N, A) of logged actions (M, A), both scaled to [-1, 1]."""
    rng = np.random.default_rng(seed)
    sample = residuals[rng.permutation(len(residuals))[:SAMPLE]].astype(np.float64)
    radius, delta = topology.delta_rho(actions - actions.mean(0)), topology.delta_rho(residuals)
    diameter = topology.delta_rho(topology.differences(actions, topology.PAIRS, np.random.default_rng(seed)))
    spectrum = topology.spectrum(residuals)
    near, expected = (knn_distance(cloud, None, NEIGHBOURS) for cloud in (sample, structureless(sample, rng)))
    labels = density_clusters(sample)
    sizes = np.sort(np.bincount(labels[labels >= 0]))[::-1] / len(sample)
    found = Geometry(
        rows=len(residuals),
        delta_rho=delta,
        action_radius=radius,
        contraction=_ratio(delta, radius),
        log10_efficiency=float(residuals.shape[1] * np.log10(max(diameter, 1e-9) / max(2 * delta, 1e-9))),
        spectrum=tuple(spectrum.tolist()),
        effective_directions=_ratio(1.0, float((spectrum**2).sum())),
        filling=_ratio(float(np.median(near)), float(np.median(expected))),
        tail=_tail(near),
        expected_tail=_tail(expected),
        clusters=tuple(sizes.tolist()),
    )
    return found, Shape(sample, labels, near, expected)


def structureless(points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """As many points as (n, A) `points`, with their mean, covariance and Mahalanobis radii, in uniformly random directions."""
    centre = points.mean(0)
    values, vectors = np.linalg.eigh(np.cov(points.T).reshape(points.shape[1], -1))
    kept = values > 1e-9 * max(float(values.max()), 1e-12)
    scale, vectors = np.sqrt(values[kept]), vectors[:, kept]
    white = (points - centre) @ vectors / scale
    direction = rng.normal(size=white.shape)
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    radii = rng.permutation(np.linalg.norm(white, axis=1))[:, None]
    return centre + direction * radii * scale @ vectors.T


def density_clusters(points: np.ndarray) -> np.ndarray:
    """(n,) labels by HDBSCAN (Campello et al. 2013), which leaves the number of clusters open and may find one; -1: in none."""
    from sklearn.cluster import HDBSCAN

    smallest = max(5, round(CLUSTER_SHARE * len(points)))
    return HDBSCAN(min_cluster_size=min(smallest, len(points)), allow_single_cluster=True, copy=True).fit_predict(points)


def recommend(geometry: Geometry) -> tuple[Literal["spar-mlp", "spar-proj"], list[str]]:
    """The residual that fits the geometry, and why, a sentence each. A compact cloud needs no generative residual; whatever is fragmented,
    narrow, sparse or cannot be told gets spar-proj, which represents both (C.2.6)."""
    against, compact = [], []
    if geometry.rows < FEW:
        against.append(f"only {geometry.rows} residuals: too few to tell their shape")
    if len(geometry.clusters) > 1:
        against.append(
            f"{len(geometry.clusters)} dense clusters, with {', '.join(f'{100 * s:.0f} %' for s in geometry.clusters[:5])} of them"
        )
    else:
        compact.append("one dense cluster" if geometry.clusters else "no separate clusters")
    if geometry.filling < NARROW:
        against.append(
            f"narrow: neighbours are at {geometry.filling:.2f} of the distance expected of a structureless cloud (below {NARROW})"
        )
    else:
        compact.append(f"neighbours are at {geometry.filling:.2f} of the distance expected of a structureless cloud")
    ratio = _ratio(geometry.tail, geometry.expected_tail)
    if ratio > TAIL:
        against.append(f"sparse: the tail of neighbour distances is {ratio:.2f} times that of a structureless cloud (above {TAIL})")
    else:
        compact.append(f"the tail of neighbour distances is {ratio:.2f} times a structureless cloud's")
    compact.append(f"variance lies in {geometry.effective_directions:.1f} of {len(geometry.spectrum)} directions")
    return ("spar-proj", against) if against else ("spar-mlp", compact)


def _tail(distances: np.ndarray) -> float:
    return _ratio(float(np.quantile(distances, 0.99)), float(np.median(distances)))


def _ratio(value: float, unit: float) -> float:
    """1 where both are nothing."""
    return 1.0 if value == unit else value / max(unit, 1e-9)
