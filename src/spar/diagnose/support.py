"""How far a policy's actions lie from those that were logged (SPAR Figure 3)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

NEIGHBOURS = 5  # the paper does not give k
POOL, QUERIES = 50_000, 4000  # logged actions that neighbours are sought among, and actions whose distance is measured


class Support(NamedTuple):
    """Quantiles are of distances to the NEIGHBOURS-th nearest logged action, in the user's action units.

    boundary: the 95 % quantile over logged actions themselves, each left out of its own neighbours. ratio: the 95 % quantile over a
    policy's actions divided by it, for each policy; 1: as close to the log as the log is to itself.
    """

    boundary: float
    ratio: dict[str, float]


def measure(logged: np.ndarray, actions: dict[str, np.ndarray], seed: int = 0) -> Support:
    """Logged actions (N, A) against each policy's (M, A), unscaled: "computed in the original action space and normalized by the dataset
    boundary". States play no part in it, as in the paper: an action counts as supported wherever it was logged."""
    rng = np.random.default_rng(seed)
    pool = logged[rng.permutation(len(logged))[:POOL]]  # unsorted: the first of them speak for the whole log
    boundary = float(np.quantile(knn_distance(pool, None, NEIGHBOURS, QUERIES), 0.95))
    q95 = {name: float(np.quantile(knn_distance(pool, taken[:QUERIES], NEIGHBOURS), 0.95)) for name, taken in actions.items()}
    return Support(boundary, {name: value / max(boundary, 1e-9) for name, value in q95.items()})


def knn_distance(points: np.ndarray, queries: np.ndarray | None, k: int, count: int | None = None) -> np.ndarray:
    """Euclidean distance from each query (M, A) to its k-th nearest of `points` (N, A): (M,). Without queries: from the first `count`
    points, by default all, to the others. Where there are fewer than k others, to the farthest."""
    from sklearn.neighbors import NearestNeighbors

    own = queries is None
    k = min(k, len(points) - own)
    asked = points[:count] if queries is None else queries
    distances, _ = NearestNeighbors().fit(points).kneighbors(asked, k + own)
    return distances[:, -1]
