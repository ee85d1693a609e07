"""The policies behind the datasets: `train(NAME, folder)` trains one from nothing and writes its learning curve and its snapshots.

A snapshot is the actor alone, as float16 safetensors, named by its environment steps. Those in `snapshots/` make every dataset of the
suite without training anything.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from safetensors.numpy import load_file, save_file

from spar import ops
from spar.data.recipes import collect, goal_ant, mazes, rollouts, sac
from spar.types import SparError

SNAPSHOTS = Path(__file__).parent / "snapshots"
DENSE_UNTIL, DENSE_EVERY, EVERY = 50_000, 5_000, 10_000  # environment steps between the snapshots that training writes
FAST = sac.Config(batch_size=128)  # half the arithmetic of the default
FASTER = sac.Config(hidden=(128, 128), batch_size=128)  # an eighth of it


class PenInHand(gymnasium.Wrapper):
    """AdroitHandPen to learn in: reward (r + 1) / 10, positive while the pen is held, and an end where it is dropped, as D4RL's has."""

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        obs, reward, _, truncated, info = self.env.step(action)
        return (
            obs,
            0.1 * (float(reward) + 1.0),
            bool(self.env.unwrapped.data.xpos[self.env.unwrapped.obj_body_id][2] < 0.075),
            truncated,
            info,
        )


def make_pen() -> gymnasium.Env:
    return mazes.robotics("AdroitHandPen-v1", max_episode_steps=100)


@dataclass(frozen=True)
class Training:
    """How one collector learns. The collector's `env_id` is a name only where `make` builds something else."""

    collector: collect.Collector
    make: Callable[[], gymnasium.Env]  # the environment it learns in
    make_eval: Callable[[], gymnasium.Env]  # the one its learning curve is measured in
    steps_per_update: int = 1


def _gym(collector: collect.Collector, steps_per_update: int = 1) -> Training:
    make = functools.partial(gymnasium.make, collector.env_id)
    return Training(collector, make, make, steps_per_update)


TRAININGS: dict[str, Training] = {
    "hopper": _gym(collect.Collector("Hopper-v5", 1)),
    "halfcheetah": _gym(collect.Collector("HalfCheetah-v5", 0, sac=FAST)),
    "walker2d": _gym(collect.Collector("Walker2d-v5", 0, max_steps=1_000_000, eval_every=10_000, sac=FASTER), 2),
    "ant-goal": Training(
        collect.Collector("GoalAnt", 0, max_steps=1_000_000, eval_every=10_000, sac=FAST),
        lambda: gymnasium.wrappers.TimeLimit(goal_ant.GoalAnt(), 500),
        lambda: gymnasium.wrappers.TimeLimit(goal_ant.GoalAnt(), 500),
        steps_per_update=2,
    ),
    "pen": Training(
        collect.Collector("AdroitHandPen-v1", 0, max_steps=1_000_000, eval_every=10_000, eval_episodes=20, sac=FASTER),
        lambda: PenInHand(make_pen()),
        make_pen,
        steps_per_update=2,
    ),
}


def train(name: str, out: Path, say: Callable[[str], None] = print, steps: int | None = None) -> None:
    """Train the collector `name` for `steps` environment steps; curve.csv and snapshots land in the folder `out` as they come.

    Raises SparError for an unknown name or a folder that has a curve already.
    """
    training = _training(name)
    if (out / "curve.csv").exists():
        raise SparError(f"{out}: has a curve.csv already; nothing is written over, choose another folder")
    out.mkdir(parents=True, exist_ok=True)
    cfg, env, curve = training.collector, training.make_eval(), []
    for moment in collect.live(cfg, training.make(), cfg.block // training.steps_per_update):
        if moment.step % (DENSE_EVERY if moment.step <= DENSE_UNTIL else EVERY) == 0:
            save(moment.params, path_of(out, moment.step))
        if moment.step % cfg.eval_every == 0:
            curve.append(collect.score(cfg, moment, env, say))
            collect.write_table(out / "curve.csv", ("step", "return_mean", "return_std"), curve)
        if moment.step == steps:
            return


def measure(name: str, folder: Path, say: Callable[[str], None] = print, episodes: int = 20) -> None:
    """scores.csv in `folder`: returns of every snapshot there, sampling its actions and with its mode, over `episodes` episodes each."""
    training = _training(name)
    envs = [training.make_eval() for _ in range(episodes)]
    rows = []
    for path in sorted(folder.glob("step-*.safetensors")):
        actor, returns = load(path), []
        for kind in (rollouts.Stochastic, rollouts.Mode):
            rng = np.random.default_rng(0)
            behaviour = kind(actor, envs[0].action_space.shape[0], rng)
            columns = rollouts.roll(envs, behaviour, episodes, rng, infos=lambda env: {})
            ends = np.flatnonzero(columns["terminals"] | columns["timeouts"])
            returns.append(np.add.reduceat(columns["rewards"].astype(np.float64), np.append(0, ends[:-1] + 1)))
        rows.append((int(path.stem.removeprefix("step-")), *(f"{x:.2f}" for r in returns for x in (r.mean(), r.std()))))
        say(f"{name} step {rows[-1][0]}: sampled {rows[-1][1]} +- {rows[-1][2]}, mode {rows[-1][3]} +- {rows[-1][4]}")
        collect.write_table(folder / "scores.csv", ("step", "sampled_mean", "sampled_std", "mode_mean", "mode_std"), rows)


def _training(name: str) -> Training:
    if name not in TRAININGS:
        raise SparError(f"no collector named '{name}'; there are: {', '.join(TRAININGS)}")
    return TRAININGS[name]


def path_of(folder: Path, step: int) -> Path:
    """The snapshot of environment step `step`."""
    return folder / f"step-{step:07d}.safetensors"


def save(params: ops.Params, path: Path) -> None:
    """The actor's arrays in float16."""
    temporary = path.with_suffix(".tmp")
    save_file({key: np.asarray(leaf, np.float16) for key, leaf in ops.flatten(params).items()}, temporary)
    temporary.replace(path)


def load(path: Path) -> sac.Actor:
    """The actor of a snapshot, computing in float32. Raises SparError when the file is not there."""
    if not path.is_file():
        raise SparError(f"{path}: no such snapshot; there are: {', '.join(p.stem for p in sorted(path.parent.glob('*.safetensors')))}")
    arrays = load_file(path)
    layers: dict[str, dict[str, np.ndarray]] = {}
    for key, array in arrays.items():
        _, layer, kind = key.split("/")
        layers.setdefault(layer, {})[kind] = array.astype(np.float32)
    return sac.Actor({"params": {"mlp": layers}}, sac.in_order)
