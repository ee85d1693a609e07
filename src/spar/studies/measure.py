"""What the paper's tables and figures measure on runs that have finished; nothing here trains, and the run is only read.

Every measurement is `name(run, log, **settings) -> (document, arrays)`: a JSON-able document with an entry for each seed in "seeds", and
what its picture in `figures` needs beside. All begin with the checks of `measure_run.opened` and raise what it raises.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from spar import registry, trainer
from spar.data.episodes import Log
from spar.diagnose import conflict as conflicts
from spar.evaluate import scores, stats
from spar.evaluate.rollout import Evaluator
from spar.runs import tables
from spar.runs.checkpoint import last_state
from spar.runs.outcome import FINAL_SEED, roll
from spar.runs.rows import training_rows
from spar.studies.measure_actions import action_space, action_support, residual_distribution
from spar.studies.measure_latency import latency
from spar.studies.measure_run import Arrays, Document, Finished, opened
from spar.types import SparError

NEVER, EITHER = 1e9, -1e9  # how Table 10 writes a threshold that nothing passes, and one that everything does
PAPER_THRESHOLDS = ((NEVER, NEVER), (EITHER, EITHER), (EITHER, 0.01), (1e-4, EITHER), (1e-4, 0.01))  # (eta_abs, eta_rel)
COUNTS = (1, 3, 10, 30)  # of candidates
STATES = 4000  # logged states on which gains are predicted
OWN_THRESHOLDS = ((1e-4, 0.001), (1e-4, 0.003))  # below 1 - gamma, what one step is worth (docs/failures.md)


def thresholds(
    run: Path, log: Log, pairs: Sequence[tuple[float, float]] = (*PAPER_THRESHOLDS, *OWN_THRESHOLDS), episodes: int | None = None
) -> tuple[Document, Arrays]:
    """Table 10: the trained policies behind other gates, `pairs` of (eta_abs, eta_rel), nothing retrained.

    `settings` holds for each pair: returns [seed][episode] of `episodes` episodes (by default as many as the run's final evaluation, from
    the same start states: the run's own pair gives its own returns again), their mean with its 95 % interval, the normalised mean where
    the task has a reference, and the share of steps that the gate accepted, [seed]. Raises SparError when the run names no environment.
    """
    found = opened(run, log)
    named = [{"eta_abs": float(eta_abs), "eta_rel": float(eta_rel)} for eta_abs, eta_rel in pairs]
    open_ones = {"obs_margin": math.inf}  # no gate at all: none of observations either
    gates = [one | (open_ones if max(one.values()) <= EITHER else {}) for one in named]
    rolled = behind(found, log, gates, episodes)
    return _tried(found, [{**name, **one} for name, one in zip(named, rolled, strict=True)])


def candidates(run: Path, log: Log, counts: Sequence[int] = COUNTS, episodes: int | None = None) -> tuple[Document, Arrays]:
    """The trained policies behind gates that choose the best of other numbers of candidates, nothing retrained.

    `settings` holds for each of `counts` what `thresholds` has for a pair, and `predicted`, [seed]: the mean gain that the critics predict
    of the best candidate on STATES logged states. Raises what `thresholds` does.
    """
    found = opened(run, log)
    gates = [{"candidates": int(count)} for count in counts]
    index = np.sort(np.random.default_rng(0).permutation(len(found.training))[:STATES])
    obs = found.training.observations[found.training.obs_index[index]]
    settings = []
    for one, rolled in zip(gates, behind(found, log, gates, episodes), strict=True):
        policies = [policy.with_gate(**one) for policy in found.policies.values()]
        for policy in policies:
            policy.reset(0)
        predicted = [policy.act(obs).gain for policy in policies]
        settings.append({**one, **rolled, "predicted": [float(gain[np.isfinite(gain)].mean()) for gain in predicted]})
    return _tried(found, settings)


def behind(found: Finished, log: Log, gates: Sequence[dict[str, Any]], episodes: int | None) -> list[dict[str, Any]]:
    """The policies behind each of `gates`, changes of their own: returns [seed][episode] of as many `episodes`, by default those of the
    run's final evaluation, from its start states, and the gate's acceptance, [seed]. Raises SparError when the run names no environment."""
    if found.cfg.env is None:
        raise SparError(f"{found.run}: config.json names no environment (env), so no gate can be tried; train with --env")
    count, tried = episodes or found.cfg.episodes, []
    evaluator = Evaluator(found.cfg.env, log.spec)
    try:
        for changes in gates:
            rolled = [roll(evaluator, policy.with_gate(**changes), count, FINAL_SEED) for policy in found.policies.values()]
            returns = _returns(found, np.stack([one.returns for one in rolled]))
            tried.append({**returns, "acceptance": [one.acceptance for one in rolled]})
    finally:
        evaluator.close()
    return tried


def _tried(found: Finished, settings: list[dict[str, Any]]) -> tuple[Document, Arrays]:
    """The document of gates that were tried."""
    seeds = {
        str(seed): {
            "return": [float(np.mean(one["returns"][i])) for one in settings],
            "acceptance": [one["acceptance"][i] for one in settings],
        }
        for i, seed in enumerate(found.policies)
    }
    return found.document(episodes=len(settings[0]["returns"][0]), settings=settings, seeds=seeds), {}


def conflict(run: Path, log: Log, groups: int = 8) -> tuple[Document, Arrays]:
    """Table 3: DD and VSD of real Adam steps (`spar.diagnose.conflict`, both of its readings) on `groups` times BATCHES batches.

    Each measure of a seed is the mean over the batches with its 95 % interval, Student's over the means of the groups, and those
    (`values`); "mean" holds the means over seeds. None where the variant has no value guidance. Raises SparError when the run's
    checkpoint is gone.
    """
    found = opened(run, log)
    cfg = found.cfg
    rows = training_rows(found.training, cfg.needs, cfg.data)
    state = last_state(run, cfg, log.spec, cfg.seeds)
    columns = trainer.prepare(registry.get(cfg.algo).stages[-1], cfg.config, state, rows)
    seeds: dict[str, Any] = {}
    for i, seed in enumerate(cfg.seeds):
        one = jax.tree.map(lambda leaf, i=i: leaf[i], state)
        own = {name: column[i] for name, column in columns.items()}
        means = [conflicts.measure(cfg.config, one, rows, own, cfg.loop.batch_size, seed=group) for group in range(groups)]
        seeds[str(seed)] = None if None in means else jax.tree.map(lambda *values: _student(values), *means)
    guided = [one for one in seeds.values() if one is not None]
    mean = jax.tree.map(lambda *entries: float(np.mean([e["mean"] for e in entries])), *guided, is_leaf=_is_interval) if guided else None
    batches = {"batches": groups * conflicts.BATCHES, "batch_size": cfg.loop.batch_size}
    return found.document(**batches, mean=mean, seeds=seeds), {}


def training_curves(run: Path, log: Log) -> tuple[Document, Arrays]:
    """Figure 6: the evaluations during training, on one axis of updates: the anchor in Stage I, then the policy.

    `points` holds the step since the start, who acted (anchor or policy), returns [seed][episode], their mean and 95 % interval over
    seeds and episodes, and the normalised mean; `anchor` and `final` the same of the final evaluation, without step. `boundary` is the
    step where Stage I ends. anchor and boundary are None for an algorithm without an anchor, final for a run without environment.
    """
    found = opened(run, log, gated=False)
    algo, cfg = registry.get(found.cfg.algo), found.cfg
    steps = trainer.stage_steps(algo, cfg.steps_anchor, cfg.steps_residual)
    table: dict[tuple[int, str], dict[int, list[float]]] = {}
    for stage, _, step, seed, variant, _, value in tables.read(run / "returns.csv", tables.RETURNS_HEADER):
        at = sum(steps[: int(stage)]) + int(step)
        table.setdefault((at, variant), {}).setdefault(int(seed), []).append(float(value))
    points = [
        {"step": step, "variant": variant, **_returns(found, np.asarray([table[step, variant][seed] for seed in cfg.seeds]))}
        for step, variant in sorted(table)
    ]
    returns = found.summary["returns"]
    last = {name: None if returns[name] is None else _returns(found, np.asarray(returns[name])) for name in ("anchor", "policy")}
    seeds = {
        str(seed): [{"step": p["step"], "variant": p["variant"], "return": float(np.mean(p["returns"][i]))} for p in points]
        for i, seed in enumerate(cfg.seeds)
    }
    content = {"boundary": steps[0] if algo.gated else None, "steps": sum(steps), "anchor": last["anchor"], "final": last["policy"]}
    return found.document(**content, points=points, seeds=seeds), {}


def _returns(found: Finished, returns: np.ndarray) -> Document:
    """Returns (S, E) with their mean, its interval, and all three normalised where the task has a reference."""
    interval = stats.bootstrap(returns)
    normalised = scores.normalise(found.cfg.env.task if found.cfg.env else None, np.asarray(interval))
    return {
        "returns": returns.tolist(),
        **interval._asdict(),
        "normalised": None if normalised is None else dict(zip(interval._fields, normalised.tolist(), strict=True)),
    }


def _student(values: Sequence[float], level: float = 0.95) -> dict[str, Any]:
    """Independent values, their mean and its confidence interval; the interval of one value is that value."""
    from scipy.stats import t

    mean, count = float(np.mean(values)), len(values)
    half = float(t.ppf((1 + level) / 2, count - 1) * np.std(values, ddof=1) / np.sqrt(count)) if count > 1 else 0.0
    return {"mean": mean, "low": mean - half, "high": mean + half, "values": list(values)}


def _is_interval(node: Any) -> bool:
    return isinstance(node, dict) and "low" in node


MEASURES: dict[str, Callable[..., tuple[Document, Arrays]]] = {
    measure.__name__: measure
    for measure in (thresholds, candidates, conflict, latency, residual_distribution, action_support, action_space, training_curves)
}
