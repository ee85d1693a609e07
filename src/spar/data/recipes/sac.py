"""Soft actor-critic (Haarnoja et al. 2018), the collector behind our locomotion datasets.

Twin critics, squashed Gaussian actor, learned temperature with target entropy -act_dim, one update per environment step. D4RL's
locomotion logs were collected with SAC too; this one is not theirs (they used rlkit), only the same algorithm.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from spar import nets, ops


@dataclass(frozen=True)
class Config:
    hidden: tuple[int, ...] = (256, 256)  # widths of actor and critics
    learning_rate: float = 3e-4  # Adam, all networks
    discount: float = 0.99
    polyak: float = 0.005
    batch_size: int = 256


class State(NamedTuple):
    actor: ops.Params
    critic: ops.Params  # leading axis 2
    target: ops.Params
    log_alpha: jax.Array
    actor_opt: optax.OptState
    critic_opt: optax.OptState
    alpha_opt: optax.OptState


class Buffer(NamedTuple):
    """A replay buffer of fixed capacity C on the device, filled from row 0."""

    obs: jax.Array  # (C, obs_dim)
    action: jax.Array  # (C, act_dim)
    reward: jax.Array  # (C,)
    next_obs: jax.Array  # (C, obs_dim)
    terminated: jax.Array  # (C,)


def _modules(cfg: Config, act_dim: int) -> tuple[nets.SquashedGaussianPolicy, nn.Module]:
    """The actor, and both critics as one module: (B, obs_dim), (B, act_dim) -> (2, B)."""
    twins = nn.vmap(nets.Critic, variable_axes={"params": 0}, split_rngs={"params": True}, in_axes=None, out_axes=0, axis_size=2)
    return nets.SquashedGaussianPolicy(cfg.hidden, act_dim), twins(cfg.hidden)


def init(cfg: Config, obs_dim: int, act_dim: int, key: jax.Array) -> State:
    """A fresh state; the target critics start equal to the critics."""
    actor_net, critic_net = _modules(cfg, act_dim)
    actor_key, critic_key = jax.random.split(key)
    obs, action = jnp.zeros((1, obs_dim)), jnp.zeros((1, act_dim))
    actor, critic = actor_net.init(actor_key, obs), critic_net.init(critic_key, obs, action)
    tx, log_alpha = ops.adam(cfg.learning_rate), jnp.zeros(())
    return State(actor, critic, jax.tree.map(jnp.copy, critic), log_alpha, tx.init(actor), tx.init(critic), tx.init(log_alpha))


def empty_buffer(capacity: int, obs_dim: int, act_dim: int) -> Buffer:
    return Buffer(
        jnp.zeros((capacity, obs_dim)),
        jnp.zeros((capacity, act_dim)),
        jnp.zeros(capacity),
        jnp.zeros((capacity, obs_dim)),
        jnp.zeros(capacity),
    )


def sample(actor: ops.Params, net: nets.SquashedGaussianPolicy, obs: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A squashed action and its log density: (B, obs_dim) -> (B, act_dim), (B,)."""
    mean, log_std = net.apply(actor, obs)
    raw = mean + jnp.exp(log_std) * jax.random.normal(key, mean.shape)
    squash = 2 * (jnp.log(2.0) - raw - jax.nn.softplus(-2 * raw))  # log(1 - tanh(raw)^2)
    return jnp.tanh(raw), ops.gaussian_log_prob(raw, mean, log_std) - squash.sum(-1)


def update(cfg: Config, state: State, batch: Buffer, key: jax.Array) -> State:
    """One step of critics, actor and temperature on a batch of B rows."""
    act_dim = batch.action.shape[-1]
    actor_net, critic_net = _modules(cfg, act_dim)
    tx, alpha = ops.adam(cfg.learning_rate), jnp.exp(state.log_alpha)
    next_key, actor_key = jax.random.split(key)
    next_action, next_log_prob = sample(state.actor, actor_net, batch.next_obs, next_key)
    next_q = critic_net.apply(state.target, batch.next_obs, next_action).min(0) - alpha * next_log_prob
    target = ops.td_target(batch.reward, batch.terminated, next_q, cfg.discount)

    def critic_loss(params: ops.Params) -> tuple[jax.Array, ops.Metrics]:
        return ((critic_net.apply(params, batch.obs, batch.action) - target) ** 2).mean(1).sum(), {}

    critic, critic_opt, _ = ops.grad_step(critic_loss, state.critic, state.critic_opt, tx, name="critic")

    def actor_loss(params: ops.Params) -> tuple[jax.Array, ops.Metrics]:
        action, log_prob = sample(params, actor_net, batch.obs, actor_key)
        return (alpha * log_prob - critic_net.apply(critic, batch.obs, action).min(0)).mean(), {"log_prob": log_prob.mean()}

    actor, actor_opt, metrics = ops.grad_step(actor_loss, state.actor, state.actor_opt, tx, name="actor")

    def alpha_loss(log_alpha: jax.Array) -> tuple[jax.Array, ops.Metrics]:
        return -log_alpha * (metrics["log_prob"] - act_dim), {}

    log_alpha, alpha_opt, _ = ops.grad_step(alpha_loss, state.log_alpha, state.alpha_opt, tx, name="alpha")
    return State(actor, critic, ops.polyak(state.target, critic, cfg.polyak), log_alpha, actor_opt, critic_opt, alpha_opt)


@functools.partial(jax.jit, static_argnums=(0, 5), donate_argnums=(1,))
def learn(cfg: Config, state: State, buffer: Buffer, size: jax.Array, key: jax.Array, steps: int) -> State:
    """`steps` updates on batches drawn uniformly from the first `size` rows; step i uses the key `fold_in(key, i)`."""

    def body(state: State, i: jax.Array) -> tuple[State, None]:
        index_key, update_key = jax.random.split(jax.random.fold_in(key, i))
        rows = jax.random.randint(index_key, (cfg.batch_size,), 0, size)
        return update(cfg, state, jax.tree.map(lambda column: column[rows], buffer), update_key), None

    return jax.lax.scan(body, state, jnp.arange(steps))[0]


@functools.partial(jax.jit, donate_argnums=(0,))
def write(buffer: Buffer, rows: Buffer, start: jax.Array) -> Buffer:
    """The buffer with `rows` written from position `start`."""
    return jax.tree.map(lambda column, new: jax.lax.dynamic_update_slice_in_dim(column, new, start, 0), buffer, rows)


@jax.jit
def _in_order(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`in_order` in float64, where a product of two float32 is exact: the sum is rounded to odd there, so that rounding it once more, to
    float32, rounds the exact value (Boldo and Melquiond 2008)."""

    def add(k: jax.Array, total: jax.Array) -> jax.Array:
        product, before = x[:, k, None] * kernel[k], total.astype(jnp.float64)
        rounded = product + before
        part = rounded - product
        error = (product - (rounded - part)) + (before - part)  # of the sum, exactly (Knuth's TwoSum)
        bits = jax.lax.bitcast_convert_type(rounded, jnp.int64)
        towards = jnp.where((error > 0) == (rounded > 0), 1, -1)
        odd = jnp.where((error != 0) & (bits % 2 == 0), bits + towards, bits)
        return jax.lax.bitcast_convert_type(odd, jnp.float64).astype(jnp.float32)

    return jax.lax.fori_loop(0, kernel.shape[0], add, jnp.zeros((x.shape[0], kernel.shape[1]), jnp.float32))


def in_order(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """x @ kernel in float32, (B, K), (K, N) -> (B, N), every sum's terms added one after another, each product and sum rounded once: the
    same bits on every machine and in every batch. A BLAS chooses its order by the kind of CPU and the place in the batch, and a simulator
    turns one bit into another episode."""
    with jax.enable_x64(True):
        return np.asarray(_in_order(x.astype(np.float64), kernel.astype(np.float64)))


class Actor:
    """The actor as NumPy arrays: acting one environment at a time costs more in dispatch than in arithmetic. With `product=in_order` it
    acts on batches alone, with the same sums on every machine.

    `act(obs, noise)`: (..., obs_dim) and standard normal (..., act_dim), or None for the mode -> (..., act_dim) in (-1, 1).
    """

    def __init__(self, params: ops.Params, product: Callable[[np.ndarray, np.ndarray], np.ndarray] = np.matmul) -> None:
        mlp = params["params"]["mlp"]
        self.layers = [(np.asarray(mlp[f"Dense_{i}"]["kernel"]), np.asarray(mlp[f"Dense_{i}"]["bias"])) for i in range(len(mlp))]
        self.product = product

    def act(self, obs: np.ndarray, noise: np.ndarray | None = None) -> np.ndarray:
        x = obs.astype(np.float32)
        for kernel, bias in self.layers[:-1]:
            x = np.maximum(self.product(x, kernel) + bias, 0.0)
        kernel, bias = self.layers[-1]
        mean, log_std = np.split(self.product(x, kernel) + bias, 2, axis=-1)
        if noise is None:
            return np.tanh(mean)
        return np.tanh(mean + np.exp(np.clip(log_std, nets.LOG_STD_MIN, nets.LOG_STD_MAX)) * noise)
