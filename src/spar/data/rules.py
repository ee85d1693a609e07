"""What D4RL's evaluation does where gymnasium-robotics, and the datasets that Minari made of D4RL's, do otherwise."""

from __future__ import annotations

from typing import Any

EVALUATION: dict[str, dict[str, Any]] = {  # beginning of an environment's id -> arguments of gymnasium.make
    "AntMaze": {"continuing_task": False},  # reaching the goal ends the episode: the return is its success
    "AdroitHandPen": {"max_episode_steps": 100},
}
OWN = {"AntMaze": {"continuing_task": True}}  # what gymnasium-robotics does where the arguments do not say

GOES_ON = "recorded beyond the goal: rows that reach it are read as terminated, episodes go on, returns count up to the first"


def walks_on(env_id: str | None, notes: list[str]) -> bool:
    """Whether a dataset that Minari made of D4RL's was recorded beyond what ends an evaluation episode, by what `minari` noted of its
    environment; a note says what that means."""
    found = env_id is not None and env_id.startswith("AntMaze") and any(note.startswith("recorded with continuing_task") for note in notes)
    if found:
        notes.append(GOES_ON)
    return found


def recorded(env_id: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments with which an environment was made, its own defaults among them where they matter here."""
    return {**_of(OWN, env_id), **arguments}


def evaluation(env_id: str) -> dict[str, Any]:
    """The arguments that make an environment as D4RL evaluates in it; empty where the two agree."""
    return _of(EVALUATION, env_id)


def _of(table: dict[str, dict[str, Any]], env_id: str) -> dict[str, Any]:
    return next((found for task, found in table.items() if env_id.split("/")[-1].startswith(task)), {})
