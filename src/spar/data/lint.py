"""A log looked at before it is believed: numbers, and findings in plain words with what each would do to the result.

An error stops training; a warning says what it would do. `inspect` never raises for what is in the values of a log: that is its subject.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from spar.data.blocks import BOX_TOLERANCE, gather
from spar.data.episodes import Log
from spar.data.scalers import STD_FLOOR

Level = Literal["error", "warning"]
BINS = 20
LOOKED_AT = 200_000  # steps, evenly spaced, for what cannot be counted in one pass
NEIGHBOUR_SAMPLE, NEIGHBOUR_POOL = 500, 20_000
JUMP, JUMP_TO_START = 50.0, 8.0  # times the median step: a jump, and one that lands where episodes start
SATURATED_SHARE, DUPLICATE_SHARE, SINGLE_SHARE, BOTH_SHARE = 0.5, 0.05, 0.5, 0.5
FEW_EPISODES, FEW_TRANSITIONS = 20, 1_000
TINY = 10 * STD_FLOOR  # a standard deviation that the floor makes much smaller than 1


@dataclass(frozen=True)
class Finding:
    level: Level
    code: str
    text: str


@dataclass(frozen=True)
class Report:
    """`numbers` is plain JSON types, non-finite ones left out."""

    name: str
    numbers: dict[str, Any]
    findings: tuple[Finding, ...]

    @property
    def errors(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.level == "error")

    def refused(self, why: str | None) -> Report:
        """With what the strict reader says, if anything, as one more error."""
        return self if why is None else replace(self, findings=(Finding("error", "refused", why), *self.findings))

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, **self.numbers, "findings": [finding.__dict__ for finding in self.findings]}


def inspect(log: Log) -> Report:
    """The report on `log`, read with `strict` off so that bad values are counted instead of refused."""
    numbers = {
        **_sizes(log),
        **_rewards(log),
        **_ends(log),
        "non_finite": [_problem(p) for p in log.problems if p.kind == "not finite"],
        "outside_the_box": [_problem(p) for p in log.problems if p.kind == "outside the box"],
        **_dimensions(log),
        **_repetition(log),
    }
    clean = not numbers["non_finite"]
    numbers |= {"jumps": _jumps(log) if clean else None, "coverage": _coverage(log) if clean else None}
    return Report(log.name, numbers, tuple(_findings(log, numbers)))


def _sizes(log: Log) -> dict[str, Any]:
    lengths = log.lengths
    return {
        "source": log.source,
        "environment": log.env_id,
        "fingerprint": log.fingerprint,
        "transitions": len(log),
        "rows_left_out": log.rows_left_out,
        "observation_dimensions": log.spec.obs_dim,
        "action_dimensions": log.spec.act_dim,
        "episodes": len(lengths),
        "lengths": {"min": int(lengths.min()), "median": float(np.median(lengths)), "max": int(lengths.max())},
        "notes": list(log.notes),
    }


def _rewards(log: Log) -> dict[str, Any]:
    returns, rewards = log.returns, log.rewards[np.isfinite(log.rewards)]
    found: dict[str, Any] = {
        "unfinished_episodes": int(len(log.lengths) - len(returns)),
        "nonzero_rewards": int(np.count_nonzero(rewards)),
        "rewards": {"min": float(rewards.min()), "mean": float(rewards.mean(dtype=np.float64)), "max": float(rewards.max())}
        if len(rewards)
        else None,
        "returns": None,
    }
    if len(returns):
        counts, edges = np.histogram(returns, bins=BINS)
        found["returns"] = {
            "min": float(returns.min()), "mean": float(returns.mean()), "median": float(np.median(returns)), "max": float(returns.max()),
            "histogram": {"edges": edges.tolist(), "counts": counts.tolist()},
        }  # fmt: skip
    return found


def _ends(log: Log) -> dict[str, Any]:
    last = np.cumsum(log.lengths) - 1
    return {
        "terminated": int(log.terminated.sum()),
        "truncated": int(log.truncated.sum()),
        "terminated_and_truncated": int((log.terminated & log.truncated).sum()),
        "terminated_inside_episodes": int(log.terminated.sum() - log.terminated[last].sum()),
    }


def _problem(problem: Any) -> dict[str, Any]:
    bad = problem.first
    return {"field": problem.field, "first_row": bad.row, "first_column": bad.column, "cells": bad.cells, "place": problem.place}


def _some(log: Log) -> np.ndarray:
    """Step indices, evenly spaced, at most LOOKED_AT."""
    return np.arange(len(log)) if len(log) <= LOOKED_AT else np.linspace(0, len(log) - 1, LOOKED_AT, dtype=np.int64)


def _dimensions(log: Log) -> dict[str, Any]:
    index = _some(log)
    obs, actions = gather(log.observations, log.obs_index[index]), gather(log.actions, index)
    span = log.action_high - log.action_low
    at_edge = (actions <= log.action_low + BOX_TOLERANCE * span) | (actions >= log.action_high - BOX_TOLERANCE * span)
    constant = (obs == obs[0]).all(0)
    with np.errstate(over="ignore", invalid="ignore"):
        tiny = obs.std(0, dtype=np.float64) < TINY
    return {
        "constant_observations": np.flatnonzero(constant).tolist(),
        "tiny_observations": np.flatnonzero(tiny & ~constant).tolist(),
        "constant_actions": np.flatnonzero((actions == actions[0]).all(0)).tolist(),
        "duplicate_observations": _equal_columns(obs),
        "saturated_actions": [round(float(share), 4) for share in at_edge.mean(0)],
    }


def _equal_columns(matrix: np.ndarray) -> list[list[int]]:
    """Pairs of columns that are equal in every row, constant ones apart."""
    seen: dict[bytes, int] = {}
    pairs = []
    for column in np.flatnonzero((matrix != matrix[0]).any(0)):
        first = seen.setdefault(matrix[:, column].tobytes(), int(column))
        if first != column:
            pairs.append([first, int(column)])
    return pairs


def _repetition(log: Log) -> dict[str, Any]:
    """Transitions that occurred before, among those looked at (a run of consecutive ones, where there are more)."""
    count = min(len(log), LOOKED_AT)
    obs = log.observations[log.obs_index[:count]]
    rows = np.ascontiguousarray(np.concatenate([obs, log.actions[:count], log.rewards[:count, None]], 1))
    unique = np.unique(rows.view([("", rows.dtype)] * rows.shape[1])[:, 0])
    return {"transitions_looked_at": count, "duplicate_transitions": count - len(unique)}


def _jumps(log: Log) -> dict[str, Any]:
    """Steps inside an episode that move so far, or land so near to where episodes start, that an end may have been missed."""
    index = _some(log)
    obs = gather(log.observations, log.obs_index[index])
    after = gather(log.observations, log.obs_index[index] + 1)
    scale = obs.std(0) + 1e-6
    moved = np.linalg.norm((after - obs) / scale, axis=-1) / np.sqrt(obs.shape[1])
    inside = ~log.terminated[index]
    typical = float(np.median(moved[inside])) if inside.any() else 0.0
    starts = log.observations[np.cumsum(np.append(0, log.lengths[:-1] + 1))][:200] / scale
    far = np.flatnonzero(inside & (moved > JUMP_TO_START * typical) & (typical > 0))
    to_start = np.array([np.linalg.norm(starts - after[i] / scale, axis=-1).min() / np.sqrt(obs.shape[1]) for i in far])
    suspects = far[(moved[far] > JUMP * typical) | (to_start < typical)] if len(far) else far
    return {
        "steps_looked_at": len(index),
        "count": len(suspects),
        "first_step": int(index[suspects[0]]) if len(suspects) else None,
        "median_step": typical,
        "largest_step": float(moved[inside].max()) if inside.any() else 0.0,
    }


def _coverage(log: Log) -> dict[str, Any] | None:
    """How many directions the states spread in, and how alone a state is: the median distance to its nearest neighbour in another part of
    the log, in standard deviations a dimension. None for a log too short to say."""
    if len(log) < 2:
        return None
    rng = np.random.default_rng(0)
    pool = np.sort(rng.permutation(len(log))[:NEIGHBOUR_POOL])
    states = gather(log.observations, log.obs_index[pool])
    states = (states - states.mean(0)) / (states.std(0) + 1e-6)
    variance = np.sort(np.linalg.eigvalsh(np.cov(states.T).reshape(states.shape[1], -1)))[::-1]
    share = np.cumsum(variance) / max(float(variance.sum()), 1e-12)
    sample = np.sort(rng.permutation(len(pool))[:NEIGHBOUR_SAMPLE])
    squares = (states**2).sum(1)
    distance = squares[sample, None] + squares[None] - 2 * states[sample] @ states.T
    distance[np.arange(len(sample)), sample] = np.inf
    nearest = np.sqrt(np.maximum(distance.min(1), 0) / states.shape[1])
    return {
        "directions_with_95_percent_of_variance": int(np.searchsorted(share, 0.95) + 1),
        "median_nearest_neighbour": float(np.median(nearest)),
    }


def _findings(log: Log, n: dict[str, Any]) -> list[Finding]:
    found: list[Finding] = []

    def say(level: Level, code: str, when: Any, text: str) -> None:
        if when:
            found.append(Finding(level, code, text))

    for problem in log.problems:
        effect = (
            "nothing can be learned from them" if problem.kind == "not finite" else "give the true bounds, or the policy could not act so"
        )
        say("error", problem.kind.replace(" ", "-"), True, f"{problem.first.cells} cells of '{problem.field}' are {problem.kind}, "
            f"first {problem.place}: {problem.first.value:.6g}; {effect}")  # fmt: skip
    say("error", "no-reward", n["nonzero_rewards"] == 0, "every reward is 0: no action can be told from another, nothing can be learned")
    jumps = n["jumps"] or {}
    say("warning", "jumps", jumps.get("count"), f"{jumps.get('count')} steps jump like a missed episode end, first at step "
        f"{jumps.get('first_step')}: values would leak from one episode into another; mark those ends")  # fmt: skip
    full = n["lengths"]["max"]
    cut_as_end = int(((log.lengths == full) & log.terminated[np.cumsum(log.lengths) - 1]).sum())
    say("warning", "limit-as-end", cut_as_end > 0.2 * n["episodes"] and n["truncated"] == 0 and n["episodes"] > 4 and full > 1,
        f"{cut_as_end} episodes terminate at exactly {full} steps and none is truncated: a time limit was probably logged as a "
        "termination, and the value of what comes after would be lost; log it as truncated")  # fmt: skip
    both = n["terminated_and_truncated"]
    say("warning", "both-ends", both > 1 and both > BOTH_SHARE * n["truncated"], f"{both:,} of {n['truncated']:,} truncated steps are "
        "terminated too, as where 'done' means either end: what comes after a time limit would be worth nothing; clear 'terminated' "
        "there")  # fmt: skip
    say("warning", "no-return", n["returns"] is None, "no episode is finished: there is no logged return to compare with")
    say("warning", "few-episodes", n["episodes"] < FEW_EPISODES,
        f"only {n['episodes']} episodes: what is held out says little, and intervals over logged returns are wide")  # fmt: skip
    single = int((log.lengths == 1).sum())
    say("warning", "single-steps", single > SINGLE_SHARE * n["episodes"] and n["episodes"] > 1,
        f"{single:,} of {n['episodes']:,} episodes are one step long: unless this is a bandit, an end was marked, or an episode id "
        "changed, at every row, and nothing of what follows an action can be learned")  # fmt: skip
    say("warning", "few-transitions", n["transitions"] < FEW_TRANSITIONS, f"only {n['transitions']:,} transitions: critics of the default "
        "size know them by heart, and what they predict elsewhere is not worth trusting")  # fmt: skip
    say("warning", "constant-actions", n["constant_actions"], f"action dimensions {n['constant_actions']} never vary: nothing can be "
        "learned about them, the policy will keep their value")  # fmt: skip
    say(
        "warning",
        "constant-observations",
        n["constant_observations"],
        f"observation dimensions {n['constant_observations']} never vary: at run time any other value there counts as out of range",
    )
    say("warning", "tiny-observations", n["tiny_observations"], f"observation dimensions {n['tiny_observations']} vary by less than "
        f"{TINY:g} (standard deviation): beside the floor of {STD_FLOOR:g} added to it they shrink or vanish; give them in another "
        "unit")  # fmt: skip
    say(
        "warning",
        "duplicate-observations",
        n["duplicate_observations"],
        f"observation dimensions {n['duplicate_observations']} are copies of one another: harmless, but drop one of each pair",
    )
    saturated = [i for i, share in enumerate(n["saturated_actions"]) if share > SATURATED_SHARE]
    say("warning", "saturated-actions", saturated, f"action dimensions {saturated} lie on their bounds most of the time: corrections "
        "there can only go one way, and a Gaussian anchor fits badly")  # fmt: skip
    repeated = n["duplicate_transitions"] / max(n["transitions_looked_at"], 1)
    say("warning", "duplicates", repeated > DUPLICATE_SHARE, f"{repeated:.0%} of the transitions are exact copies: they count double, "
        "and a held-out copy makes errors look too small")  # fmt: skip
    say("warning", "terminated-inside", n["terminated_inside_episodes"], f"{n['terminated_inside_episodes']} terminated steps lie inside "
        "episodes (as in AntMaze): the value stops there, the episode goes on")  # fmt: skip
    return found
