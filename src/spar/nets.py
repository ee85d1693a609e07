"""Networks: the MLP, the ensemble with a leading axis, and the policy heads. Stateless flax modules, nothing method-specific."""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

LOG_STD_MIN, LOG_STD_MAX = -5.0, 2.0


class MLP(nn.Module):
    """ReLU layers of the widths `hidden`, then a linear layer of width `out`: (..., in) -> (..., out).

    With `dropout`, that share of the hidden units is dropped in every call that is given a key, `rngs={"dropout": key}`.
    """

    hidden: Sequence[int]
    out: int
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for width in self.hidden:
            x = nn.relu(nn.Dense(width)(x))
            if self.dropout:
                x = nn.Dropout(self.dropout, deterministic=not self.has_rng("dropout"))(x)
        return nn.Dense(self.out)(x)


class Value(nn.Module):
    """V(s): (B, obs_dim) -> (B,)."""

    hidden: Sequence[int]

    @nn.compact
    def __call__(self, obs: jax.Array) -> jax.Array:
        return MLP(self.hidden, 1, name="mlp")(obs).squeeze(-1)


class Critic(nn.Module):
    """Q(s, a): (B, obs_dim), (B, act_dim) -> (B,)."""

    hidden: Sequence[int]

    @nn.compact
    def __call__(self, obs: jax.Array, action: jax.Array) -> jax.Array:
        return MLP(self.hidden, 1, name="mlp")(jnp.concatenate([obs, action], axis=-1)).squeeze(-1)


class CriticEnsemble(nn.Module):
    """`size` independent critics: (B, obs_dim), (B, act_dim) -> (size, B).

    Every parameter has a leading axis of length `size`, so that a subset of critics is a plain index into it. The input is repeated for
    each member first: the first layer is then one batched product with no transpose behind it, forward and backward.
    """

    size: int
    hidden: Sequence[int]

    @nn.compact
    def __call__(self, obs: jax.Array, action: jax.Array) -> jax.Array:
        members = nn.vmap(Critic, variable_axes={"params": 0}, split_rngs={"params": True}, axis_size=self.size)
        obs, action = (jnp.broadcast_to(x, (self.size, *x.shape)) for x in (obs, action))
        return members(tuple(self.hidden), name="members")(obs, action)


class DeterministicPolicy(nn.Module):
    """tanh MLP: (B, obs_dim) -> (B, act_dim) in (-1, 1)."""

    hidden: Sequence[int]
    act_dim: int

    @nn.compact
    def __call__(self, obs: jax.Array) -> jax.Array:
        return jnp.tanh(MLP(self.hidden, self.act_dim, name="mlp")(obs))


class GaussianPolicy(nn.Module):
    """Gaussian with a state-independent scale and a mean bounded by tanh, or linear: (B, obs_dim) -> mean, log_std, both (B, act_dim)."""

    hidden: Sequence[int]
    act_dim: int
    bounded: bool = True
    dropout: float = 0.0

    @nn.compact
    def __call__(self, obs: jax.Array) -> tuple[jax.Array, jax.Array]:
        mean = MLP(self.hidden, self.act_dim, self.dropout, name="mlp")(obs)
        mean = jnp.tanh(mean) if self.bounded else mean
        log_std = self.param("log_std", nn.initializers.zeros, (self.act_dim,))
        return mean, jnp.broadcast_to(jnp.clip(log_std, LOG_STD_MIN, LOG_STD_MAX), mean.shape)


class SquashedGaussianPolicy(nn.Module):
    """The pre-squash Gaussian of SAC (Haarnoja et al. 2018): (B, obs_dim) -> mean, log_std, both (B, act_dim)."""

    hidden: Sequence[int]
    act_dim: int

    @nn.compact
    def __call__(self, obs: jax.Array) -> tuple[jax.Array, jax.Array]:
        mean, log_std = jnp.split(MLP(self.hidden, 2 * self.act_dim, name="mlp")(obs), 2, axis=-1)
        return mean, jnp.clip(log_std, LOG_STD_MIN, LOG_STD_MAX)
