"""Where the actions lie: residuals (figures 2 and 5), the support of the actions (figure 3), and the size of the spaces (figure 4)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import numpy as np

from spar.data.episodes import Log
from spar.deploy.policy import Policy
from spar.diagnose import support
from spar.evaluate import offline
from spar.method import gate, topology
from spar.studies.measure_run import Arrays, Document, opened

STATES = 4000  # logged states that policies are asked on, as many as the paper samples for figure 2: a point each in every set
SHARE = 0.95  # of projected actions inside a boundary
POLICIES: dict[str, dict[str, float]] = {"ungated": gate.UNGATED, "policy": {}}


# Figures 2 and 5


def residual_distribution(
    run: Path, log: Log, samples: int = STATES, space: Literal["residual", "state-action"] = "residual", perplexity: float = 30.0
) -> tuple[Document, Arrays]:
    """Figures 2 and 5: one t-SNE of logged actions and of the learned residual policy's at the same `samples` states, coloured by Q_rob.

    residual: points are da = a - pi_base(s); the anchor is the one point da = 0. state-action: points are (s, a), s standardised, and
    the anchor's (s, pi_base(s)) are a third set. The policy's action is one draw of its residual, neither chosen among candidates nor
    gated. Q_rob is that of the rectifying critics, in units of discounted return.

    The document has for the first seed: points of each set, mean length of its residuals (actions in [-1, 1]), mean Q_rob; and the
    divergence that t-SNE ended with. Arrays: for each set `NAME` (n, 2) and `NAME_q` (n,), the anchor without the latter in residual space.
    """
    found = opened(run, log)
    seed, policy = found.first
    obs, logged = found.states(samples)
    s, scale = policy.scaler.obs_in(obs), policy.scaler.action_in
    one_draw: dict[str, Any] = {**gate.UNGATED, "candidates": 1}
    anchor = scale(policy.anchor_action(obs))
    actions = {"logged": scale(logged), "policy": scale(policy.with_gate(**one_draw).act(obs).action), "anchor": anchor}
    q = {name: policy.q_rob(s, np.clip(action, -1, 1)) for name, action in actions.items()}
    sets = {name: action - anchor if space == "residual" else np.concatenate([s, action], 1) for name, action in actions.items()}
    if space == "residual":
        sets["anchor"] = np.zeros((1, log.spec.act_dim), np.float32)
    flat, divergence = embed(np.concatenate(list(sets.values())), perplexity)
    places = np.split(flat, np.cumsum([len(points) for points in sets.values()])[:-1])
    arrays = dict(zip(sets, places, strict=True))
    arrays |= {f"{name}_q": q[name].astype(np.float32) for name, points in sets.items() if len(points) == len(q[name])}
    told = {
        name: {"points": len(sets[name]), "length": float(np.linalg.norm(action - anchor, axis=1).mean()), "q": float(q[name].mean())}
        for name, action in actions.items()
    }
    return found.document(space=space, seeds={str(seed): {**told, "divergence": divergence}}), arrays


def embed(points: np.ndarray, perplexity: float, seed: int = 0) -> tuple[np.ndarray, float]:
    """t-SNE of points (n, d) in the plane, (n, 2), from their principal plane, and its Kullback-Leibler divergence. One thread: sums in
    another order end elsewhere. Fewer than four points, or equal ones, are all put at the origin."""
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    if len(points) < 4 or not np.ptp(points, axis=0).any():
        return np.zeros((len(points), 2), np.float32), 0.0
    wide = np.pad(points, ((0, 0), (0, max(0, 2 - points.shape[1]))))
    with threadpool_limits(1):
        tsne = TSNE(perplexity=min(perplexity, (len(points) - 1) / 3), init="pca", random_state=seed)
        return tsne.fit_transform(wide).astype(np.float32), float(tsne.kl_divergence_)


# Figure 3


def action_support(run: Path, log: Log, states: int = STATES) -> tuple[Document, Arrays]:
    """Figure 3: the boundary around 95 % of the actions of the log, the anchor, and SPAR ungated and gated, in the principal plane of
    the log's actions, and each policy's support-distance ratio (`spar.diagnose.support`) in the original action space.

    Policies act on `states` logged states; the plane depends on the log alone, so that runs on one log share it. For every seed:
    `boundary` and `ratio` of `support.measure`, and `area`, that of each boundary in the plane over the log's, None where that is a line.
    `plane_share` is the plane's share of the logged actions' variance. Arrays, of the first seed: `NAME` (n, 2), the actions in the
    plane, and `NAME_boundary` (k, 2), corners in order.
    """
    found = opened(run, log)
    obs, _ = found.states(states)
    origin, axes, share = plane(log.actions[:: max(1, len(log) // offline.RESIDUAL_ROWS)])
    sample = log.actions[np.random.default_rng(1).permutation(len(log))[:states]]
    seeds, arrays = {}, Arrays()
    for seed, policy in found.policies.items():
        actions = _chosen(policy, obs)
        flat = {name: (taken - origin) @ axes.T for name, taken in {"logged": sample, **actions}.items()}
        edges = {name: boundary(points) for name, points in flat.items()}
        unit = area(edges["logged"])
        seeds[str(seed)] = {
            **support.measure(log.actions, actions)._asdict(),
            "area": {name: area(edges[name]) / unit for name in actions} if unit > 0 else None,
        }
        if not arrays:
            arrays = {**flat, **{f"{name}_boundary": corners for name, corners in edges.items()}}
            arrays = {name: values.astype(np.float32) for name, values in arrays.items()}
    return found.document(plane_share=share, seeds=seeds), arrays


def _chosen(policy: Policy, obs: np.ndarray) -> dict[str, np.ndarray]:
    """The actions (n, A) of anchor, ungated and gated policy, in the user's units."""
    return {"anchor": policy.anchor_action(obs)} | {
        name: policy.with_gate(**settings).act(obs).action for name, settings in POLICIES.items()
    }


def plane(actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Mean (A,), first two principal directions (2, A) and their share of the variance of actions (N, A). A direction's largest component
    is positive. Where actions have one dimension, the second direction is 0."""
    centre = actions.mean(0, dtype=np.float64)
    values, vectors = np.linalg.eigh(np.cov(actions.T.astype(np.float64)).reshape(len(centre), -1))
    directions = vectors[:, ::-1][:, :2].T
    directions *= np.sign(directions[np.arange(len(directions)), np.abs(directions).argmax(1)])[:, None]
    total = float(values.sum())
    share = float(values[::-1][:2].sum()) / total if total > 0 else 1.0
    return centre, np.pad(directions, ((0, 2 - len(directions)), (0, 0))), share


def boundary(points: np.ndarray, share: float = SHARE) -> np.ndarray:
    """The convex hull of the `share` of points (n, 2) that are nearest to their mean by Mahalanobis distance: its corners (k, 2) in
    order; the two ends where those points lie on a line."""
    from scipy.spatial import ConvexHull, QhullError

    offset = points - points.mean(0)
    inverse = np.linalg.pinv(np.cov(offset.T), rcond=1e-9, hermitian=True)
    distance = np.einsum("ni,ij,nj->n", offset, inverse, offset)
    inner = points[np.argsort(distance, kind="stable")[: max(1, round(share * len(points)))]]
    try:
        return np.asarray(inner[ConvexHull(inner).vertices])
    except (QhullError, ValueError):  # on a line, or too few
        along = (inner - inner.mean(0)) @ np.linalg.svd(inner - inner.mean(0), full_matrices=False)[2][0]
        return np.stack([inner[along.argmin()], inner[along.argmax()]])


def area(corners: np.ndarray) -> float:
    """Of the polygon with these corners (k, 2), in order (the shoelace formula)."""
    x, y = corners.astype(np.float64).T
    return float(abs((x * np.roll(y, -1) - y * np.roll(x, -1)).sum()) / 2)


# Figure 4


def action_space(run: Path, log: Log, pairs: int = topology.PAIRS, resolution: float = 0.1) -> tuple[Document, Arrays]:
    """Figure 4: how large the global and the residual action space are, actions in [-1, 1], on the episodes that trained.

    global: distances |x - y| of random pairs of logged actions; their 95 % quantile is the effective diameter D_A, whose supremum the
    paper defines before it cuts the tail. residual: 2 |a - pi_base(s)|, whose 95 % quantile is D_res = 2 delta_rho (eq. 3).
    For every seed: delta_rho, d (dimensions), and eq. 23 with its dominant term, as log10 (`efficiency`), at epsilon = `resolution` times
    L delta_rho, which the paper leaves open; its regime is a resolution below 1. contraction is delta_rho over the radius that holds as
    much of |a - mean a|: 1 where the anchor explains nothing, where D_A / (2 delta_rho) is below 1.
    Arrays, of the first seed: `global` and `residual` distances.
    """
    found = opened(run, log)
    training = found.training
    rng, arrays, seeds = np.random.default_rng(0), Arrays(), {}
    scaled = found.first[1].scaler.action_in(training.actions)  # the log's box: that of all seeds
    apart = topology.differences(scaled, pairs, rng)
    diameter, radius = topology.delta_rho(apart), topology.delta_rho(scaled - scaled.mean(0))
    for seed, policy in found.policies.items():
        residuals = offline.residuals(policy, training)
        delta = topology.delta_rho(residuals)
        whole, dominant = efficiency(diameter, delta, log.spec.act_dim, resolution)
        seeds[str(seed)] = {
            "global_diameter": diameter,
            "delta_rho": delta,
            "residual_diameter": 2 * delta,
            "dimensions": log.spec.act_dim,
            "log10_efficiency": whole,
            "log10_dominant": dominant,
            "contraction": delta / max(radius, 1e-9),
        }
        if not arrays:
            kept = residuals[np.sort(rng.permutation(len(residuals))[:pairs])]
            arrays = {"global": np.linalg.norm(apart, axis=1), "residual": 2 * np.linalg.norm(kept, axis=1)}
    return found.document(resolution=resolution, seeds=seeds), arrays


def efficiency(diameter: float, delta_rho: float, dimensions: int, resolution: float) -> tuple[float, float]:
    """log10 of the efficiency ratio of eq. 23 without its constant, and of its dominant term:

        N_global / N_spar = Theta( (D_A / (2 delta_rho))^d * log(1 + 2 L D_A / epsilon) / log(1 + 4 L delta_rho / epsilon) )

    L, the Lipschitz constant of Q(s, .), and epsilon, the accuracy asked for, occur as a quotient only, given here as
    `resolution` = epsilon / (L delta_rho). Lengths below 1e-9 count as that.
    """
    diameter, delta_rho = max(diameter, 1e-9), max(delta_rho, 1e-9)
    dominant = dimensions * math.log10(diameter / (2 * delta_rho))
    ratio = math.log1p(2 * diameter / (resolution * delta_rho)) / math.log1p(4 / resolution)
    return dominant + math.log10(ratio), dominant
