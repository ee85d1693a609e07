"""The environment that a log came from, made again: by its id, its arguments, and the parts of its observation that the log has."""

from __future__ import annotations

import contextlib
import importlib
import json
import warnings
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np

from spar.data import rules
from spar.data.episodes import Log
from spar.types import SparError, Spec

PLUGINS = ("gymnasium_robotics",)  # packages that register further environments when they are imported; an extra of ours


@dataclass(frozen=True)
class EnvConfig:
    """How to make an evaluation environment."""

    id: str  # gymnasium's
    kwargs: str = ""  # a JSON object of arguments for gymnasium.make; empty: D4RL's, where it has the task
    observation_keys: tuple[str, ...] = ()  # parts of a dict observation, joined in this order; empty: all, alphabetically

    @property
    def task(self) -> str:
        """The id under which scores know the task. PointMaze with a goal that is drawn anew in every episode is none of theirs."""
        return f"{self.id}, random goals" if "PointMaze" in self.id and '"g"' not in self.kwargs else self.id

    @property
    def arguments(self) -> dict[str, Any]:
        """Raises SparError when `kwargs` is no JSON object."""
        if not self.kwargs:
            return rules.evaluation(self.id)
        try:
            found = json.loads(self.kwargs)
        except json.JSONDecodeError as error:
            raise SparError(f"environment '{self.id}': its arguments are not JSON ({error})") from None
        if not isinstance(found, dict):
            raise SparError(f"environment '{self.id}': its arguments are not a JSON object: {self.kwargs}")
        return found

    def make(self) -> gymnasium.Env:
        """One copy, its observations flat vectors. Raises SparError when it cannot be made."""
        if self.id not in gymnasium.registry and ":" not in self.id and not _registered(self.id):
            raise SparError(
                f"environment '{self.id}' is not known to gymnasium; "
                "AntMaze, PointMaze, Adroit and Kitchen come with the extra `robotics`: pip install '.[robotics]' in spar's sources"
            )
        try:
            env = gymnasium.make(self.id, disable_env_checker=True, **self.arguments)
        except Exception as error:  # noqa: BLE001  # gymnasium passes on whatever an environment's own imports and constructor raise
            raise SparError(f"environment '{self.id}' cannot be made: {str(error).splitlines()[0]}") from None
        return Joined(env, self.observation_keys) if isinstance(env.observation_space, gymnasium.spaces.Dict) else env

    def shapes(self) -> tuple[Any, Any]:
        """Of its observations and actions. Raises SparError when it cannot be made."""
        env = self.make()
        found = env.observation_space.shape, env.action_space.shape
        env.close()
        return found

    def check(self, spec: Spec) -> None:
        """Raises SparError when the environment cannot be made, or its sizes are not those of the log."""
        shapes = self.shapes()
        if shapes != ((spec.obs_dim,), (spec.act_dim,)):
            raise SparError(
                f"environment '{self.id}' has observations {shapes[0]} and actions {shapes[1]}, "
                f"the log has ({spec.obs_dim},) and ({spec.act_dim},); name the environment that the log came from"
            )


class Joined(gymnasium.ObservationWrapper):
    """A dict observation as one vector: the entries `keys` in that order, or all of them alphabetically; an entry that is a dict itself
    is joined in the same way."""

    def __init__(self, env: gymnasium.Env, keys: tuple[str, ...]) -> None:
        super().__init__(env)
        spaces = env.observation_space.spaces
        missing = [key for key in keys if key not in spaces]
        if missing:
            raise SparError(f"the environment's observation has no part '{missing[0]}'; it has: {', '.join(spaces)}")
        self.keys = keys or tuple(sorted(spaces))
        size = sum(gymnasium.spaces.flatdim(spaces[key]) for key in self.keys)
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (size,), np.float64)

    def observation(self, observation: dict[str, Any]) -> np.ndarray:
        spaces = self.env.observation_space.spaces
        return np.concatenate([gymnasium.spaces.flatten(spaces[key], observation[key]) for key in self.keys])


def of_log(log: Log) -> EnvConfig | None:
    """What the log says of its environment."""
    return EnvConfig(log.env_id, log.env_kwargs, log.observation_keys) if log.env_id else None


def chosen(own: EnvConfig | None, env_id: str | None) -> EnvConfig | None:
    """`own`, unless another id is named: then that, seen through the same parts of a dict observation."""
    if env_id is None or (own and own.id == env_id):
        return own
    return EnvConfig(env_id, observation_keys=own.observation_keys if own else ())


def _registered(env_id: str) -> bool:
    """Whether one of the plugins that are installed knows the environment."""
    for name in PLUGINS:
        with contextlib.suppress(ImportError), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about environments that nobody asked for
            gymnasium.register_envs(importlib.import_module(name))
    return env_id in gymnasium.registry
