"""An inverted pendulum, small runs on a log of it, and how their folders are read: for the tests of fine-tuning."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np

from spar import api, trainer
from spar.data.episodes import Log
from spar.data.rows import from_rows
from spar.data.sources import npz
from spar.evaluate.environments import EnvConfig
from spar.runs import experiment
from spar.runs.config import EvalConfig
from tests.conftest import tiny

LIMIT = 8  # steps after which an episode is cut: both kinds of end are met
ENV = EnvConfig("InvertedPendulum-v5", json.dumps({"max_episode_steps": LIMIT}))
STEPS, SEEDS = 120, (0, 3)


def pendulum_log(steps: int = 400) -> Log:
    """Random forces of up to 3 N: the pole falls, or the time limit cuts the episode before it does."""
    rng, env = np.random.default_rng(0), ENV.make()
    obs, _ = env.reset(seed=0)
    rows: list[tuple] = []
    for _ in range(steps):
        action = rng.uniform(-3, 3, 1).astype(np.float32)
        following, reward, terminated, truncated, _ = env.step(action)
        rows.append((obs, action, reward, terminated, truncated, following))
        obs = env.reset()[0] if terminated or truncated else following
    columns = [np.asarray(column) for column in zip(*rows, strict=True)]
    log = from_rows("pendulum", *columns, action_low=np.array([-3.0]), action_high=np.array([3.0]), env_id=ENV.id)
    return dataclasses.replace(log, env_kwargs=ENV.kwargs)


def write_log(folder: Path) -> Path:
    path = folder / "pendulum.npz"
    npz.write_log(path, pendulum_log())
    return path


def train(data: Path, folder: Path) -> dict[str, Path]:
    """Finished offline runs, by algorithm."""
    made = {}
    for algo, seeds in (("spot", SEEDS), ("spar-mlp", (0,))):
        made[algo] = folder / algo
        cfg = api.configure(
            str(data), algo, tiny(algo), env=ENV, seeds=seeds, steps_anchor=30, steps_residual=30, episodes=3,
            loop=trainer.Settings(batch_size=32, log_every=30, checkpoint_seconds=0), eval=EvalConfig(every=0),
        )  # fmt: skip
        experiment.create(made[algo], cfg, npz.read(data))
        experiment.execute(made[algo], npz.read(data))
    return made


def fingerprints(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*")) if p.is_file()}


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
