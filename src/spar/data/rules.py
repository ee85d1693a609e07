"""What D4RL's evaluation does where gymnasium-robotics, and the datasets that Minari made of D4RL's, do otherwise."""

from __future__ import annotations

from typing import Any

EVALUATION: dict[str, dict[str, Any]] = {  # beginning of an environment's id -> arguments of gymnasium.make
    "AntMaze": {"continuing_task": False},  # reaching the goal ends the episode: the return is its success
    "AdroitHandPen": {"max_episode_steps": 100},
}


def evaluation(env_id: str) -> dict[str, Any]:
    """The arguments that make an environment as D4RL evaluates in it; empty where the two agree."""
    return next((found for task, found in EVALUATION.items() if env_id.split("/")[-1].startswith(task)), {})
