"""What a run's critics know of a maze, against the way to its goal: python benchmarks/maze_values.py RUN [RUN ...] [--docs]

For finished runs on a PointMaze log (one fixed goal, held-out and training rows alike). First table: by the number of cells to the goal,
the discounted return that followed the logged actions, cut at the end of the walk, and each run's Q_rob of them. Second table: whether the
critics know the way, as the cosine between an action and the direction of the next cell on the shortest route.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np
import page

from spar.data import catalog
from spar.data.episodes import Log
from spar.data.recipes import mazes
from spar.data.recipes.names import RECIPES
from spar.deploy import exports
from spar.diagnose.calibration import rank_correlation, returns_to_go
from spar.runs import experiment

ROWS, BANDS = 20_000, ((0, 1), (1, 3), (3, 6), (6, 10), (10, 15), (15, 99))


class Rows(NamedTuple):
    """Steps of the log: observations, actions, the discounted return that followed, cells to the goal, unit vector of the way there."""

    obs: np.ndarray
    action: np.ndarray
    value: np.ndarray
    cells: np.ndarray
    way: np.ndarray


def rows(log: Log, task: mazes.Task, discount: float) -> Rows:
    env = mazes.robotics(task.env_id)
    maze = env.unwrapped.maze
    grid = tuple(tuple(row) for row in maze.maze_map)
    free = [(r, c) for r, row in enumerate(grid) for c, kind in enumerate(row) if kind != 1]
    centres = np.stack([maze.cell_rowcol_to_xy(cell) for cell in free])
    following = [mazes.routes(grid, cell, task.goal, 1.0)[0] for cell in free]
    index = np.sort(np.random.default_rng(0).permutation(len(log))[:ROWS])
    obs = log.observations[log.obs_index[index]]
    here = np.linalg.norm(obs[:, None, :2] - centres, axis=-1).argmin(1)
    targets = np.stack([maze.cell_rowcol_to_xy((route or (task.goal,))[0]) for route in following])
    way = targets[here] - obs[:, :2]
    cells = np.array([len(route) for route in following])[here]
    value = returns_to_go(log.rewards.astype(float), log.lengths, discount, log.terminated)[index]
    return Rows(obs, log.actions[index], value, cells, way / np.maximum(np.linalg.norm(way, axis=1, keepdims=True), 1e-9))


def cosine(action: np.ndarray, way: np.ndarray) -> np.ndarray:
    return (action * way).sum(1) / np.maximum(np.linalg.norm(action, axis=1), 1e-9)


def judged(run: Path, of: Rows) -> tuple[np.ndarray, list[str]]:
    """Q_rob of the logged actions, (n,), and the run's row of the second table; means over its seeds."""
    away, found, q = of.cells > 0, [], []
    for seed in experiment.read_config(run).seeds:
        policy = exports.load(run / "policy", seed)
        s, a_base = policy.scaler.obs_in(of.obs), policy.anchor_action(of.obs)
        logged, base = (policy.q_rob(s, policy.scaler.action_in(action)) for action in (of.action, a_base))
        good, decision = (logged > base)[away], policy.act(of.obs)
        toward = {name: cosine(action, of.way)[away] for name, action in (("log", of.action), ("base", a_base), ("own", decision.action))}
        rank = rank_correlation(base, -of.cells.astype(float))
        assert rank is not None
        means = (toward["log"][good], toward["log"][~good], toward["base"], toward["own"])
        found.append([rank, good.mean(), *(np.mean(values) for values in means), decision.accepted.mean()])
        q.append(logged)
    rank, share, *cosines, accepted = np.mean(found, 0)
    return np.mean(q, 0), [f"{rank:.2f}", f"{100 * share:.0f} %", *(f"{value:.2f}" for value in cosines), f"{100 * accepted:.0f} %"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--docs", action="store_true", help="also write the tables into docs/failures.md")
    args = parser.parse_args()
    runs = args.runs
    cfg = experiment.read_config(runs[0])
    of = rows(catalog.load(cfg.dataset, tier=cfg.data.tier), RECIPES[cfg.dataset].task, cfg.config.critic.discount)
    values, lines = zip(*(judged(run, of) for run in runs), strict=True)
    names = [run.name for run in runs]
    bands = [(low, high, (of.cells >= low) & (of.cells < high)) for low, high in BANDS]
    body = [
        [f"{low} to {min(high - 1, of.cells.max())}", f"{here.sum():,}", *(f"{v[here].mean():.2f}" for v in (of.value, *values))]
        for low, high, here in bands
        if here.any()
    ]
    header = ["cells to the goal", "rows", "return that followed", *(f"Q_rob of {name}" for name in names)]
    of_values = page.table(header, body)
    header = ["run", "rank correlation of value and nearness", "logged actions judged better", "their cosine", "of the others"]
    header += ["of the anchor's", "of the policy's", "gate accepts"]
    text = f"{of_values}\n\n{page.table(header, [[name, *line] for name, line in zip(names, lines, strict=True)])}"
    print(text)
    if args.docs:
        page.put(page.ROOT / "docs" / "failures.md", "maze", text)


if __name__ == "__main__":
    main()
