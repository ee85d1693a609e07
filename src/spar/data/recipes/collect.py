"""Train SAC in a gymnasium environment and keep everything: the replay in order, actor snapshots, and the learning curve."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file

from spar import files, ops
from spar.data.recipes import sac

WINDOW = 10  # training episodes over which a level counts as reached


@dataclass(frozen=True)
class Collector:
    env_id: str
    seed: int = 0
    max_steps: int = 500_000  # environment steps, one update each
    random_steps: int = 10_000  # uniform actions before the actor takes over; updates start after them
    block: int = 50  # environment steps between dispatches; as many updates follow in one
    eval_every: int = 5_000
    eval_episodes: int = 10
    snapshot_every: int = 25_000
    sac: sac.Config = field(default_factory=sac.Config)


class Replay(NamedTuple):
    """Rows in the order they were lived, T of them; `next_obs` is the true successor, also at the end of an episode."""

    obs: np.ndarray  # (T, obs_dim) float32
    action: np.ndarray  # (T, act_dim) float32
    reward: np.ndarray  # (T,) float32
    next_obs: np.ndarray  # (T, obs_dim) float32
    terminated: np.ndarray  # (T,) bool
    truncated: np.ndarray  # (T,) bool


def round_mantissa(x: np.ndarray, bits: int = 15) -> np.ndarray:
    """float32 values rounded to `bits` explicit mantissa bits (relative error at most 2**-(bits + 1)): they then compress well."""
    drop = 23 - bits
    raw = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return ((raw + np.uint32(1 << (drop - 1))) & np.uint32(0xFFFFFFFF ^ ((1 << drop) - 1))).view(np.float32)


def evaluate(actor: sac.Actor, env: gymnasium.Env, episodes: int, seed: int) -> list[float]:
    """Undiscounted returns of the deterministic policy, one for each episode."""
    returns = []
    for episode in range(episodes):
        obs, _ = env.reset(seed=seed + episode)
        total, over = 0.0, False
        while not over:
            obs, reward, terminated, truncated, _ = env.step(actor.act(obs))
            total, over = total + float(reward), terminated or truncated
        returns.append(total)
    return returns


def collect(
    cfg: Collector, out: Path | None = None, until: float = math.inf, say: Callable[[str], None] = print
) -> tuple[Replay, list[tuple[int, float, float]]]:
    """Run SAC for `max_steps`, or until the last WINDOW training episodes averaged a return of `until`.

    Returns the replay, cut after the episode that reached it, and the evaluation curve of (step, mean, std), which does not touch the
    course of training. With `out`, actor snapshots (safetensors) and `curve.csv` are written there as they come.
    """
    env, eval_env = gymnasium.make(cfg.env_id), gymnasium.make(cfg.env_id)
    obs_dim, act_dim = env.observation_space.shape[0], env.action_space.shape[0]
    rng, key = np.random.default_rng(cfg.seed), jax.random.key(cfg.seed)
    init_key, learn_key = jax.random.split(key)
    state = sac.init(cfg.sac, obs_dim, act_dim, init_key)
    buffer = sac.empty_buffer(cfg.max_steps, obs_dim, act_dim)
    columns: list[list] = [[] for _ in Replay._fields]
    episodes: list[float] = [0.0]  # returns; the last one is under way
    reached: int | None = None
    curve: list[tuple[int, float, float]] = []
    actor, (obs, _) = sac.Actor(state.actor), env.reset(seed=cfg.seed)
    for start in range(0, cfg.max_steps, cfg.block):
        end = start + cfg.block
        for step in range(start, end):
            noise = rng.standard_normal(act_dim, dtype=np.float32)
            action = rng.uniform(-1, 1, act_dim) if step < cfg.random_steps else actor.act(obs, noise)
            action = round_mantissa(action)  # executed as it is logged
            next_obs, reward, terminated, truncated, _ = env.step(action)
            for column, value in zip(columns, (obs, action, reward, next_obs, terminated, truncated), strict=True):
                column.append(value)
            episodes[-1] += float(reward)
            if terminated or truncated:
                if reached is None and len(episodes) >= WINDOW and np.mean(episodes[-WINDOW:]) >= until:
                    reached = step + 1
                episodes.append(0.0)
            obs = env.reset()[0] if terminated or truncated else next_obs
        if reached is not None:
            break
        rows = sac.Buffer(*(jnp.asarray(np.asarray(columns[i][start:end], np.float32)) for i in range(5)))
        buffer = sac.write(buffer, rows, jnp.int32(start))
        if end > cfg.random_steps:
            state = sac.learn(cfg.sac, state, buffer, jnp.int32(end), jax.random.fold_in(learn_key, start), cfg.block)
            actor = sac.Actor(state.actor)
        if end % cfg.snapshot_every == 0 and out is not None:
            save_file({key: np.asarray(leaf) for key, leaf in ops.flatten(state.actor).items()}, out / f"actor-{end:08d}.safetensors")
        if end % cfg.eval_every == 0:
            returns = evaluate(actor, eval_env, cfg.eval_episodes, seed=1_000_000 + cfg.seed)
            curve.append((end, float(np.mean(returns)), float(np.std(returns))))
            say(f"{cfg.env_id} seed {cfg.seed}: step {end}, return {curve[-1][1]:.0f} +- {curve[-1][2]:.0f}")
            if out is not None:
                write_curve(out / "curve.csv", curve)
    flags = ("terminated", "truncated")
    kinds = [bool if name in flags else np.float32 for name in Replay._fields]
    return Replay(*(np.asarray(column[:reached], kind) for column, kind in zip(columns, kinds, strict=True))), curve


def write_curve(path: Path, curve: list[tuple[int, float, float]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([("step", "return_mean", "return_std"), *curve])
    files.write_text(path, text.getvalue())
