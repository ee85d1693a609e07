"""Train SAC in a gymnasium environment and keep everything it lived through, in order, with its learning curve."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

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


class Moment(NamedTuple):
    """Where a training run stands after a block of environment steps; `columns` and `episodes` grow as it goes on."""

    step: int  # environment steps so far
    params: ops.Params  # the actor's
    columns: list[list]  # one list of rows for each field of Replay
    episodes: list[tuple[int, float]]  # (step after which it ended, return) of the finished training episodes


def live(cfg: Collector, env: gymnasium.Env, updates: int | None = None) -> Iterator[Moment]:
    """SAC learning in `env` for `max_steps`, one block after another; `updates` a block, by default one for each environment step."""
    obs_dim, act_dim = env.observation_space.shape[0], env.action_space.shape[0]
    rng, key = np.random.default_rng(cfg.seed), jax.random.key(cfg.seed)
    init_key, learn_key = jax.random.split(key)
    state = sac.init(cfg.sac, obs_dim, act_dim, init_key)
    buffer = sac.empty_buffer(cfg.max_steps, obs_dim, act_dim)
    columns: list[list] = [[] for _ in Replay._fields]
    episodes: list[tuple[int, float]] = []
    actor, (obs, _), total = sac.Actor(state.actor), env.reset(seed=cfg.seed), 0.0
    for start in range(0, cfg.max_steps, cfg.block):
        end = start + cfg.block
        for step in range(start, end):
            noise = rng.standard_normal(act_dim, dtype=np.float32)
            action = rng.uniform(-1, 1, act_dim) if step < cfg.random_steps else actor.act(obs, noise)
            action = round_mantissa(action)  # executed as it is logged
            next_obs, reward, terminated, truncated, _ = env.step(action)
            for column, value in zip(columns, (obs, action, reward, next_obs, terminated, truncated), strict=True):
                column.append(value)
            total += float(reward)
            if terminated or truncated:
                episodes.append((step + 1, total))
                total = 0.0
            obs = env.reset()[0] if terminated or truncated else next_obs
        rows = sac.Buffer(*(jnp.asarray(np.asarray(columns[i][start:end], np.float32)) for i in range(5)))
        buffer = sac.write(buffer, rows, jnp.int32(start))
        if end > cfg.random_steps:
            block_key = jax.random.fold_in(learn_key, start)
            state = sac.learn(cfg.sac, state, buffer, jnp.int32(end), block_key, updates or cfg.block)
            actor = sac.Actor(state.actor)
        yield Moment(end, state.actor, columns, episodes)


def reached(episodes: list[tuple[int, float]], until: float) -> int | None:
    """The step after which the last WINDOW training episodes first averaged a return of `until`, or None."""
    if len(episodes) < WINDOW:
        return None
    means = np.lib.stride_tricks.sliding_window_view([value for _, value in episodes], WINDOW).mean(-1)
    first = int(np.argmax(means >= until))
    return episodes[first + WINDOW - 1][0] if means[first] >= until else None


def replay_of(columns: list[list], rows: int | None = None) -> Replay:
    """The first `rows` steps lived, all of them by default."""
    flags = ("terminated", "truncated")
    kinds = [bool if name in flags else np.float32 for name in Replay._fields]
    return Replay(*(np.asarray(column[:rows], kind) for column, kind in zip(columns, kinds, strict=True)))


def collect(cfg: Collector, until: float = math.inf, say: Callable[[str], None] = print) -> tuple[Replay, list[tuple[int, float, float]]]:
    """Run SAC for `max_steps`, or until the last WINDOW training episodes averaged a return of `until`.

    Returns the replay, cut after the episode that reached it, and the evaluation curve of (step, mean, std), which does not touch the
    course of training.
    """
    eval_env = gymnasium.make(cfg.env_id)
    curve: list[tuple[int, float, float]] = []
    rows = None
    for moment in live(cfg, gymnasium.make(cfg.env_id)):
        rows = reached(moment.episodes, until)
        if rows is not None:
            break
        if moment.step % cfg.eval_every == 0:
            curve.append(score(cfg, moment, eval_env, say))
    return replay_of(moment.columns, rows), curve


def score(cfg: Collector, moment: Moment, env: gymnasium.Env, say: Callable[[str], None]) -> tuple[int, float, float]:
    """A point of the learning curve: (step, mean, std) of the deterministic policy's returns."""
    returns = evaluate(sac.Actor(moment.params), env, cfg.eval_episodes, seed=1_000_000 + cfg.seed)
    point = moment.step, float(np.mean(returns)), float(np.std(returns))
    say(f"{cfg.env_id} seed {cfg.seed}: step {point[0]}, return {point[1]:.0f} +- {point[2]:.0f}")
    return point


def write_table(path: Path, header: Sequence[str], rows: Iterable[Sequence]) -> None:
    """A CSV file, replaced whole."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    files.write_text(path, text.getvalue())
