"""Every dataset of the suite: which policies collect it, how many rows, and how it differs from the D4RL dataset it is named after."""

from __future__ import annotations

from typing import NamedTuple

from spar.data.recipes import antmaze, locomotion, mazes, pen, pointmaze

Recipe = locomotion.Recipe | antmaze.Recipe | pen.Recipe | pointmaze.Recipe

SAC_NOTES = (
    "collected by D4RL's recipe, with this project's SAC instead of rlkit's",
    "gymnasium's v5 of the task instead of mujoco-py's v2",
)
REPLAY_NOTES = (
    "not a replay buffer: snapshots of the learning curve, each acting for an equal share, in order, with the noise they learned with",
    "no uniformly random start-up actions",
)
MAZE_NOTES = (
    "collected after D4RL's recipe in gymnasium-robotics' maze, whose ant is stronger and whose step is half as long (0.05 s)",
    "the ant's way of walking was trained here, in the open; several routes to a goal are used where there are several",
    "a trajectory ends early when the ant has lain on its back for 50 steps",
)
PEN_NOTES = (
    "no human was involved: a policy trained here, with noise correlated in time on its actions, gives the demonstrations",
    "gymnasium-robotics' AdroitHandPen-v1, which does not end where the pen is dropped: `terminals` are all 0",
)
PEN_LEVEL = "the demonstrator's own episodes are scored under snapshots, over 100 steps; D4RL's expert averages 3077 over as many"
CLONED_NOTES = (
    "half the rows are the demonstrations repeated, half a behaviour-cloned network's episodes of 100 steps, fewer than D4RL's",
)
POINT_NOTES = (
    "collected after D4RL's maze2d in gymnasium-robotics' PointMaze, whose point and walls are its own",
    "several routes to a goal where there are several, instead of one",
    "a reward belongs to the state a step leads to; D4RL's belongs to the state it leaves",
)


class Robot(NamedTuple):
    env_id: str
    learning: tuple[int, ...]  # snapshots, by environment steps of training, up to the medium one
    best: int
    scale: tuple[int, int]  # D4RL's reference returns: random, expert
    replay_rows: int = 200_000


WALKER = (10_000, 20_000, *range(50_000, 350_001, 50_000), 380_000, *range(400_000, 440_001, 20_000), *range(450_000, 490_001, 10_000))
ROBOTS = {
    "hopper": Robot("Hopper-v5", tuple(range(10_000, 170_001, 10_000)), 180_000, (-20, 3234)),
    "halfcheetah": Robot(
        "HalfCheetah-v5", (10_000, 20_000, 30_000, 35_000, *range(40_000, 100_001, 10_000)), 190_000, (-280, 12135), 198_000
    ),
    "walker2d": Robot("Walker2d-v5", WALKER, 590_000, (2, 4592)),
}


def _locomotion() -> dict[str, Recipe]:
    found: dict[str, Recipe] = {}
    for robot, (env_id, learning, best, (low, high), replay_rows) in ROBOTS.items():
        level = f"D4RL's medium is at about a third of its expert's performance, its scale from {low} (random) to {high} (expert); "
        for kind, steps, rows, notes, ours in (
            ("medium", learning[-1:], 200_000, SAC_NOTES, "ours is under returns"),
            ("medium-replay", learning, replay_rows, SAC_NOTES + REPLAY_NOTES, "each snapshot of ours is scored under snapshots"),
            ("medium-expert", (learning[-1], best), 400_000, SAC_NOTES, "our best is as far as training here came, see snapshots"),
        ):
            found[f"{robot}-{kind}"] = locomotion.Recipe(env_id, robot, steps, rows, 0, level + ours, notes)
    return found


def _antmaze(env_id: str, goal: mazes.Cell, limit: int) -> antmaze.Recipe:
    task = mazes.Task(env_id, ("achieved_goal", "observation"), (1, 1), goal, limit, 0.5, ends=True)
    level = "D4RL's scale, 0 to 1, is the share of successes; references.json has what led along the shortest route this ant reaches"
    return antmaze.Recipe(task, "ant-goal", 430_000, 0.2, 200_000, 0, level, MAZE_NOTES)


def _pointmaze(env_id: str, goal: mazes.Cell, limit: int) -> pointmaze.Recipe:
    task = mazes.Task(env_id, ("observation",), None, goal, limit, 0.45, ends=False)
    return pointmaze.Recipe(task, 0.5, 200_000, 0, "no counterpart among D4RL's scores; see references.json", POINT_NOTES)


RECIPES: dict[str, Recipe] = _locomotion() | {
    "antmaze-umaze-diverse": _antmaze("AntMaze_UMaze-v4", (3, 1), 700),
    "antmaze-large-diverse": _antmaze("AntMaze_Large-v4", (7, 9), 1000),
    "pen-human": pen.Recipe("pen", 310_000, 0.2, 0.8, 25, 2, 5_000, 0, 0, PEN_LEVEL, PEN_NOTES),
    "pen-cloned": pen.Recipe("pen", 310_000, 0.2, 0.8, 25, 2, 100_000, 10_000, 0, PEN_LEVEL, PEN_NOTES + CLONED_NOTES),
    "pointmaze-umaze": _pointmaze("PointMaze_UMaze-v3", (1, 1), 300),
    "pointmaze-large": _pointmaze("PointMaze_Large-v3", (7, 9), 800),
}
