"""AdroitHandPen: demonstrations by a trained hand with a human's faults, and a clone of it, after D4RL's pen-human and pen-cloned.

human is few demonstrations: the best of a snapshot's attempts, whose hand trembles (noise correlated in time on the action). cloned is
half those demonstrations, repeated, and half what a network does that was fitted to them by behaviour cloning.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from spar import nets, ops
from spar.data.recipes import collectors, mazes, rollouts, sac

ENV_ID = "AdroitHandPen-v1"
DEMO_STEPS, CLONE_STEPS = 200, 100  # limits of a demonstration, and of a clone's episode, which is D4RL's evaluation too


class Trembling(rollouts.Stochastic):
    """The actor's mode plus stationary noise of standard deviation `noise` whose correlation from step to step is `correlation`."""

    def __init__(self, actor: sac.Actor, act_dim: int, copies: int, noise: float, correlation: float, rng: np.random.Generator) -> None:
        super().__init__(actor, act_dim, rng)
        self.noise, self.correlation = noise, correlation
        self.tremor = rng.standard_normal((copies, act_dim))

    def act(self, live: np.ndarray, obs: np.ndarray) -> np.ndarray:
        fresh = np.sqrt(1 - self.correlation**2) * self.rng.standard_normal((len(live), self.act_dim))
        self.tremor[live] = self.correlation * self.tremor[live] + fresh
        return np.clip(self.actor.act(obs) + self.noise * self.tremor[live], -1.0, 1.0)


def infos(env: gymnasium.Env) -> rollouts.Columns:
    """The simulator's state and the target's orientation, a quaternion."""
    state = env.unwrapped.get_env_state()
    return {f"infos/{name}": state[name].copy() for name in ("qpos", "qvel", "desired_orien")}


@functools.partial(jax.jit, static_argnums=(3, 4))
def fit(obs: jax.Array, action: jax.Array, key: jax.Array, updates: int, batch: int) -> ops.Params:
    """Behaviour cloning of (N, obs_dim) -> (N, act_dim) in (-1, 1): the mode tanh(mlp) by mean squared error, Adam at 1e-3."""
    net, tx = nets.MLP((256, 256), 2 * action.shape[1]), ops.adam(1e-3)
    init_key, batch_key = jax.random.split(key)
    params = net.init(init_key, obs[:1])

    def body(carry: tuple[ops.Params, Any], step: jax.Array) -> tuple[tuple[ops.Params, Any], None]:
        rows = jax.random.randint(jax.random.fold_in(batch_key, step), (batch,), 0, len(obs))

        def loss(params: ops.Params) -> tuple[jax.Array, ops.Metrics]:
            mode = jnp.tanh(jnp.split(net.apply(params, obs[rows]), 2, axis=-1)[0])
            return ((mode - action[rows]) ** 2).mean(), {}

        params, state, _ = ops.grad_step(loss, carry[0], carry[1], tx, name="clone")
        return (params, state), None

    return jax.lax.scan(body, (params, tx.init(params)), jnp.arange(updates))[0][0]


@dataclass(frozen=True)
class Recipe:
    collector: str
    step: int  # the demonstrator's snapshot, by environment steps of training
    noise: float  # standard deviation of the tremor on the action
    correlation: float  # of the tremor from step to step
    demos: int
    attempts: int  # for each demonstration kept; the best are
    rows: int  # demos * DEMO_STEPS without clones; with them half of it is the demonstrations, repeated
    updates: int  # of behaviour cloning; 0 for the demonstrations alone
    seed: int
    level: str
    differs: tuple[str, ...]

    def columns(self, say: Callable[[str], None], snapshots: Path) -> tuple[rollouts.Columns, dict[str, str]]:
        """The dataset's columns and its file's attributes."""
        rng = np.random.default_rng(self.seed)
        demos = max(1, min(self.demos, self.rows // DEMO_STEPS))
        attempts = demos * self.attempts
        envs = [mazes.robotics(ENV_ID, max_episode_steps=DEMO_STEPS) for _ in range(attempts)]
        actor = collectors.load(collectors.path_of(snapshots / self.collector, self.step))
        act_dim = envs[0].action_space.shape[0]
        hand = Trembling(actor, act_dim, attempts, self.noise, self.correlation, rng)
        tried = rollouts.roll(envs, hand, attempts, rng, infos=infos)
        best = np.sort(np.argsort(tried["rewards"].reshape(attempts, DEMO_STEPS).sum(1))[-demos:])
        human = {key: column.reshape(attempts, DEMO_STEPS, -1)[best].reshape(-1, *column.shape[1:]) for key, column in tried.items()}
        say(f"{demos} demonstrations: mean reward {human['rewards'].mean():.1f} a step")
        parts = [human]
        if self.updates:
            key = jax.random.key(self.seed)
            params = fit(jnp.asarray(human["observations"]), jnp.asarray(human["actions"]), key, self.updates, 256)
            clone = rollouts.Mode(sac.Actor({"params": {"mlp": params["params"]}}, sac.in_order), act_dim, rng)
            envs = [mazes.robotics(ENV_ID, max_episode_steps=CLONE_STEPS) for _ in range(demos)]
            cloned = rollouts.roll(envs, clone, self.rows // 2, rng, infos=infos)
            say(f"clone: mean reward {cloned['rewards'].mean():.1f} a step")
            parts = [human] * max(1, round(self.rows / 2 / len(human["rewards"]))) + [cloned]
        return rollouts.join(parts), {"env_id": ENV_ID, "env_kwargs": f'{{"max_episode_steps": {CLONE_STEPS}}}'}
