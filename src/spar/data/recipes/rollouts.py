"""Whole episodes of a behaviour in copies of one environment, in lockstep so that acting is batched, as a D4RL-layout file's columns."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import gymnasium
import numpy as np

from spar.data.recipes import sac

COPIES = 20  # environments in lockstep
Columns = dict[str, np.ndarray]


class Behaviour(Protocol):
    """Who acts, in all copies at once; `i` is a copy's index."""

    def begin(self, i: int, env: gymnasium.Env, seed: int) -> Any:
        """Reset `env`; its first observation."""

    def act(self, live: np.ndarray, obs: np.ndarray) -> np.ndarray:
        """Actions (B, act_dim) for the copies `live` (B,) at `obs` (B, obs_dim)."""

    def after(self, i: int, obs: np.ndarray) -> bool:
        """Sees where each step led, (obs_dim,); whether to cut the episode there, as a timeout."""


class Stochastic:
    """A SAC actor that samples its actions, as it did while it learned."""

    def __init__(self, actor: sac.Actor, act_dim: int, rng: np.random.Generator) -> None:
        self.actor, self.act_dim, self.rng = actor, act_dim, rng

    def begin(self, i: int, env: gymnasium.Env, seed: int) -> Any:
        return env.reset(seed=seed)[0]

    def act(self, live: np.ndarray, obs: np.ndarray) -> np.ndarray:
        return self.actor.act(obs, self.rng.standard_normal((len(live), self.act_dim), dtype=np.float32))

    def after(self, i: int, obs: np.ndarray) -> bool:
        return False


class Mode(Stochastic):
    """An actor that takes its most likely action."""

    def act(self, live: np.ndarray, obs: np.ndarray) -> np.ndarray:
        return self.actor.act(obs)


class Uniform(Stochastic):
    """Uniformly random actions in [-1, 1]."""

    def __init__(self, act_dim: int, rng: np.random.Generator) -> None:
        self.act_dim, self.rng = act_dim, rng

    def act(self, live: np.ndarray, obs: np.ndarray) -> np.ndarray:
        return self.rng.uniform(-1.0, 1.0, (len(live), self.act_dim))


def flat(obs: Any, keys: Sequence[str]) -> np.ndarray:
    """The array of an observation; of a dict, those of `keys` one after another."""
    return np.concatenate([obs[key] for key in keys]) if keys else obs


def physics(env: gymnasium.Env) -> Columns:
    """The simulator's state, from which a logged step can be taken again."""
    return {"infos/qpos": env.unwrapped.data.qpos.copy(), "infos/qvel": env.unwrapped.data.qvel.copy()}


def roll(
    envs: Sequence[gymnasium.Env],
    behaviour: Behaviour,
    rows: int,
    rng: np.random.Generator,
    keys: Sequence[str] = (),
    infos: Callable[[gymnasium.Env], Columns] = physics,
) -> Columns:
    """At least `rows` steps: every copy plays whole episodes until it has its share; one copy's episodes follow another's.

    Columns: observations and next_observations (N, obs_dim), actions (N, act_dim), rewards (N,) float32; terminals and timeouts (N,)
    bool; the simulator's state before each step in float64. No step is without its true successor.
    """
    share = -(-rows // len(envs))
    lived: list[list[tuple]] = [[] for _ in envs]
    obs = np.stack([flat(behaviour.begin(i, env, int(rng.integers(2**31))), keys) for i, env in enumerate(envs)])
    live = np.arange(len(envs))
    while len(live):
        actions = np.asarray(behaviour.act(live, obs[live]), np.float32)
        going = []
        for i, action in zip(live.tolist(), actions, strict=True):
            before = infos(envs[i])
            observed, reward, terminated, truncated, _ = envs[i].step(action)
            following = flat(observed, keys)
            timeout = (behaviour.after(i, following) or truncated) and not terminated
            lived[i].append((obs[i].copy(), action, reward, bool(terminated), timeout, following, *before.values()))
            obs[i] = following
            if terminated or timeout:
                if len(lived[i]) >= share:
                    continue
                obs[i] = flat(behaviour.begin(i, envs[i], int(rng.integers(2**31))), keys)
            going.append(i)
        live = np.asarray(going, int)
    names = ["observations", "actions", "rewards", "terminals", "timeouts", "next_observations", *infos(envs[0])]
    columns = {name: np.asarray(column) for name, column in zip(names, zip(*itertools.chain(*lived), strict=True), strict=True)}
    return {name: column.astype(np.float32) if name in names[:3] or name == names[5] else column for name, column in columns.items()}


def contrast(envs: Sequence[gymnasium.Env], expert: Behaviour, rng: np.random.Generator, keys: Sequence[str]) -> dict[str, float]:
    """Mean returns of uniformly random actions and of `expert`, one episode in each of `envs`."""
    chance = Uniform(envs[0].action_space.shape[0], rng)
    return {
        name: float(roll(envs, behaviour, len(envs), rng, keys)["rewards"].sum(dtype=np.float64) / len(envs))
        for name, behaviour in (("random", chance), ("expert", expert))
    }


def join(parts: Sequence[Columns]) -> Columns:
    """The rows of `parts` one after another."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
