"""Episodes with every decision kept, and episodes that follow a given course up to a step and then another policy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import gymnasium
import numpy as np

from spar.deploy.policy import Policy

AT_ONCE = 32  # environments in lockstep
Act = Callable[[np.ndarray, int, np.ndarray], np.ndarray]  # episodes that go on (B,), their step, observations -> actions (B, A)


class Trace(NamedTuple):
    """One episode of T steps, of the gated policy; fields of Decision for every step."""

    seed: int  # of the environment's reset
    obs: np.ndarray  # (T, obs_dim)
    action: np.ndarray  # (T, A)
    accepted: np.ndarray  # (T,)
    gain: np.ndarray  # (T,)
    reason: np.ndarray  # (T,)
    rewards: np.ndarray  # (T,)


def play(envs: Sequence[gymnasium.Env], seeds: Sequence[int], act: Act) -> list[np.ndarray]:
    """The rewards of an episode for each of `seeds`, as many at a time as there are environments."""
    rewards: list[list[float]] = [[] for _ in seeds]
    for first in range(0, len(seeds), len(envs)):
        live = np.arange(first, min(first + len(envs), len(seeds)))
        obs = {i: envs[i - first].reset(seed=seeds[i])[0] for i in live.tolist()}
        step = 0
        while len(live):
            going = []
            for i, action in zip(live.tolist(), act(live, step, np.stack([obs[i] for i in live.tolist()])), strict=True):
                obs[i], reward, terminated, truncated, _ = envs[i - first].step(action)
                rewards[i].append(float(reward))
                if not (terminated or truncated):
                    going.append(i)
            live, step = np.asarray(going, int), step + 1
    return [np.asarray(one) for one in rewards]


def record(envs: Sequence[gymnasium.Env], policy: Policy, episodes: int, seed: int) -> list[Trace]:
    """Episodes of the policy as it is deployed; episode e starts from `reset(seed=seed + e)`."""
    policy.reset(seed)
    kept: list[list[tuple[Any, ...]]] = [[] for _ in range(episodes)]

    def act(live: np.ndarray, step: int, obs: np.ndarray) -> np.ndarray:
        decision = policy.act(obs)
        for i, *row in zip(live, obs, decision.action, decision.accepted, decision.gain, decision.reason, strict=True):
            kept[i].append(tuple(row))
        return decision.action

    seeds = [seed + e for e in range(episodes)]
    rewards = play(envs, seeds, act)
    columns = [[np.asarray(column) for column in zip(*rows, strict=True)] for rows in kept]
    return [Trace(*parts) for parts in zip(seeds, *zip(*columns, strict=True), rewards, strict=True)]
