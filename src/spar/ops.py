"""Small pure functions that several algorithms share. Shapes: B batch, N ensemble members, A action dimensions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from jax.scipy.special import ndtr, ndtri

Params = Any
Metrics = dict[str, jax.Array]
Reduction = Literal["mean", "min"]
BLOCK_ROWS = 2048  # that pass through a network at once on a CPU: more spill its activations out of the cache, and memory sets the pace
TAIL = 1e-6  # probabilities are kept this far from 0 and 1 before they are inverted


def polyak(target: Params, online: Params, rate: float | jax.Array) -> Params:
    """theta' <- rate * theta + (1 - rate) * theta'. Call it after the gradient step."""
    return optax.incremental_update(online, target, rate)


def td_target(reward: jax.Array, terminated: jax.Array, next_value: jax.Array, discount: float | jax.Array) -> jax.Array:
    """r + discount * (1 - terminated) * next_value, all (B,). A truncated step bootstraps; only `terminated` does not."""
    return reward + discount * (1.0 - terminated) * next_value


def expectile_loss(error: jax.Array, expectile: float | jax.Array) -> jax.Array:
    """|expectile - 1[error < 0]| * error**2, elementwise (Kostrikov et al. 2021, eq. 5). `error` is target minus prediction."""
    return jnp.where(error < 0, 1.0 - expectile, expectile) * error**2


def lcb(q: jax.Array, weight: float | jax.Array) -> jax.Array:
    """Mean minus `weight` population standard deviations over the ensemble: (N, B) -> (B,) (SPAR eq. 1)."""
    variance = q.var(0)
    spread = jnp.where(variance > 0, jnp.sqrt(jnp.where(variance > 0, variance, 1.0)), 0.0)  # where all agree, its gradient is 0, not NaN
    return q.mean(0) - weight * spread


def reduce_ensemble(q: jax.Array, how: Reduction) -> jax.Array:
    """(N, B) -> (B,), the mean or the minimum over the ensemble."""
    return q.mean(0) if how == "mean" else q.min(0)


def gaussian_log_prob(x: jax.Array, mean: jax.Array, log_std: jax.Array) -> jax.Array:
    """Log density of a diagonal Gaussian, summed over the last axis: (B, A) -> (B,)."""
    return (-0.5 * ((x - mean) * jnp.exp(-log_std)) ** 2 - log_std - 0.5 * jnp.log(2 * jnp.pi)).sum(-1)


def squash(raw: jax.Array, mean: jax.Array, log_std: jax.Array) -> tuple[jax.Array, jax.Array]:
    """tanh(raw) and its log density, where `raw` is a draw of the Gaussian: (..., B, A) -> (..., B, A), (..., B)."""
    correction = 2 * (jnp.log(2.0) - raw - jax.nn.softplus(-2 * raw))  # log(1 - tanh(raw)^2)
    return jnp.tanh(raw), gaussian_log_prob(raw, mean, log_std) - correction.sum(-1)


def box_mass(mean: jax.Array, log_std: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The normal's probability below the box and inside it, for each dimension."""
    low, high = (ndtr((edge - mean) * jnp.exp(-log_std)) for edge in (-1.0, 1.0))
    return low, high - low


def truncated_log_prob(action: jax.Array, mean: jax.Array, log_std: jax.Array) -> jax.Array:
    """Of a normal truncated to [-1, 1]: (..., B, A) -> (..., B)."""
    return gaussian_log_prob(action, mean, log_std) - jnp.log(box_mass(mean, log_std)[1]).sum(-1)


def truncated_mean(mean: jax.Array, log_std: jax.Array) -> jax.Array:
    """Of a normal truncated to [-1, 1], from the mean and log std of the whole one: (..., A) -> (..., A)."""
    low, high = (jnp.exp(-0.5 * ((edge - mean) * jnp.exp(-log_std)) ** 2) / jnp.sqrt(2 * jnp.pi) for edge in (-1.0, 1.0))
    return mean + jnp.exp(log_std) * (low - high) / box_mass(mean, log_std)[1]


def truncated_sample(mean: jax.Array, log_std: jax.Array, uniform: jax.Array) -> jax.Array:
    """By inversion; `uniform` (..., B, A) is uniform in [0, 1]."""
    low, mass = box_mass(mean, log_std)
    return jnp.clip(mean + jnp.exp(log_std) * ndtri(jnp.clip(low + uniform * mass, TAIL, 1 - TAIL)), -1.0, 1.0)


def gaussian_kl(mean: jax.Array, log_std: jax.Array) -> jax.Array:
    """KL(N(mean, std) || N(0, 1)) for each latent dimension: (B, Z) -> (B, Z)."""
    return 0.5 * (mean**2 + jnp.exp(2 * log_std) - 1.0) - log_std


def adam(learning_rate: float | optax.Schedule, clip_norm: float | None = None) -> optax.GradientTransformation:
    """Adam, after clipping the global norm of this network's gradient where `clip_norm` is given."""
    step = optax.adam(learning_rate)
    return step if clip_norm is None else optax.chain(optax.clip_by_global_norm(clip_norm), step)


def block_count(batch: int, copies: int) -> int:
    """Into how many equal blocks a batch of B rows is cut of which each passes through a network in so many copies: the fewest that hold
    no more than BLOCK_ROWS, if they hold an eighth of it. One on a GPU."""
    if jax.default_backend() != "cpu":
        return 1
    fitting = (n for n in range(1, batch + 1) if batch % n == 0 and batch // n * copies <= BLOCK_ROWS)
    count = next(fitting, 1)
    return count if batch // count * copies >= min(BLOCK_ROWS // 8, batch * copies) else 1


def cut(tree: Any, count: int, axis: int = 0) -> Any:
    """(..., B, ...) -> (count, ..., B / count, ...) for every leaf, blocks of `axis` in order."""

    def one(x: jax.Array) -> jax.Array:
        return jnp.moveaxis(x.reshape(*x.shape[:axis], count, -1, *x.shape[axis + 1 :]), axis, 0)

    return jax.tree.map(one, tree)


def joined(x: jax.Array, axis: int = 0) -> jax.Array:
    """What `cut` cut."""
    x = jnp.moveaxis(x, 0, axis)
    return x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])


def mean_over(of: Callable[[Any], Any], blocks: Any) -> Any:
    """The mean of `of(block)` over the leading axis of `blocks`, one after another; both are pytrees."""
    count = jax.tree.leaves(blocks)[0].shape[0]
    shapes = jax.eval_shape(lambda: of(jax.tree.map(lambda x: x[0], blocks)))

    def add(total: Any, block: Any) -> tuple[Any, None]:
        return jax.tree.map(lambda t, x: t + x / count, total, of(block)), None

    return jax.lax.scan(add, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes), blocks)[0]


def grad_step(
    loss: Callable[..., tuple[jax.Array, Metrics]],
    params: Params,
    opt_state: optax.OptState,
    tx: optax.GradientTransformation,
    *,
    name: str,
    members: bool = False,
    blocks: Any = None,
) -> tuple[Params, optax.OptState, Metrics]:
    """One gradient step on `loss(params) -> (scalar, metrics)`, or on the mean of `loss(params, block)` over `blocks` of equal
    size, which is the same where losses and metrics are means over rows; returns parameters, optimiser state and metrics.

    The metrics gain `<name>_loss` and `<name>_grad_norm` (before clipping). With `members`, parameters carry a leading ensemble axis
    and the optimiser, its norm clip included, acts on each member alone.
    """
    compute = jax.value_and_grad(loss, has_aux=True)
    (value, metrics), gradient = compute(params) if blocks is None else mean_over(lambda block: compute(params, block), blocks)
    transform = jax.vmap(tx.update) if members else tx.update
    updates, opt_state = transform(gradient, opt_state, params)
    metrics = {**metrics, f"{name}_loss": value, f"{name}_grad_norm": optax.global_norm(gradient)}
    return optax.apply_updates(params, updates), opt_state, metrics


def flatten(params: Params) -> dict[str, jax.Array]:
    """A nested dict of arrays as a flat one, keys joined by '/', flax's outer 'params' left out."""
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    return {"/".join(str(part.key) for part in path if part.key != "params"): leaf for path, leaf in leaves}
