"""Your own log, from arrays to a better controller: a heated room that somebody ran with a noisy thermostat.

python examples/own_arrays.py [--steps 3000]
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

import spar


def thermostat(obs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The controller that wrote the log: proportional, a little late, and jittery. obs: temperature error and outside temperature."""
    return np.clip(0.8 * obs[:1] + 0.4 * rng.normal(size=1), -1.0, 1.0)


def log_of(episodes: int, rng: np.random.Generator) -> spar.Log:
    """One row a step. `truncated` marks where recording stopped; nothing ever terminates here."""
    columns: dict[str, list] = {key: [] for key in ("obs", "action", "reward", "terminated", "truncated", "next_obs")}
    for _ in range(episodes):
        error, outside = rng.normal(), rng.normal()
        for step in range(100):
            obs = np.array([error, outside])
            action = thermostat(obs, rng)
            error = 0.95 * error - 0.3 * action[0] + 0.1 * outside + 0.05 * rng.normal()
            outside = 0.98 * outside + 0.1 * rng.normal()
            row = (obs, action, -(error**2) - 0.05 * action[0] ** 2, False, step == 99, np.array([error, outside]))
            for column, value in zip(columns.values(), row, strict=True):
                column.append(value)
    return spar.from_rows("heated-room", **{key: np.asarray(column) for key, column in columns.items()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=3000, help="updates of each stage")
    steps = parser.parse_args().steps
    rng = np.random.default_rng(0)
    log = log_of(100, rng)
    print(f"{len(log)} steps, {len(log.lengths)} episodes, mean logged return {log.returns.mean():.1f}")
    with tempfile.TemporaryDirectory() as folder:
        run = spar.train(log, "spar-mlp", out=Path(folder) / "run", steps_anchor=steps, steps_residual=steps)
        policy = run.policy()
        for observation in (np.array([1.0, 0.0]), np.array([0.0, -1.0]), np.array([np.nan, 0.0])):
            decision = policy.act(observation, anchor_action=thermostat(np.nan_to_num(observation), rng))
            print(f"{observation} -> {decision.action}  {decision.reason}")


if __name__ == "__main__":
    main()
