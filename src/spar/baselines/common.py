"""What three or more baselines share: a network in training, twin critics, the CVAE of BCQ, and the export of a policy without a gate.

Layers start as PyTorch's do, uniform in +-1/sqrt(fan-in), weights and biases alike, as in CORL's and most authors' code. CQL's critics
start orthogonal, as CORL's. IQL's authors start everything so, CORL's IQL does not; ours follows CORL's in this.
Shapes: B batch, K candidates, A action dimensions, Z latent ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import traverse_util

from spar import nets, ops
from spar.types import Metrics, Spec, State, Transitions

LATENT_LOG_STD_MIN, LATENT_LOG_STD_MAX = -4.0, 15.0  # of q(z | s, a), as in BCQ's code


@dataclass(frozen=True)
class ActorConfig:
    hidden: tuple[int, ...] = (256, 256)  # widths of the policy
    learning_rate: float = 3e-4  # Adam
    dropout: float = 0.0  # share of the policy's hidden units dropped in training


@dataclass(frozen=True)
class CriticConfig:
    hidden: tuple[int, ...] = (256, 256)  # widths of both critics (and of V where there is one)
    learning_rate: float = 3e-4  # Adam
    discount: float = 0.99  # gamma
    polyak: float = 0.005  # rate of the target networks


@dataclass(frozen=True)
class CVAEConfig:
    hidden: tuple[int, ...] = (750, 750)  # widths of encoder and decoder
    latent_per_action: int = 2  # latent dimensions for each action dimension
    kl_weight: float = 0.5  # beta; squares and KL are both means over their dimensions
    learning_rate: float = 1e-3  # Adam


class Net(NamedTuple):
    """A network in training; `target` is its slow copy, where the method has one."""

    params: ops.Params
    opt: optax.OptState
    target: ops.Params = None


def uniform(net: nn.Module, key: jax.Array, *inputs: jax.Array, last: float | None = None) -> ops.Params:
    """Fresh parameters: Dense layers uniform in +-1/sqrt(fan-in), the last in +-`last` where that is given; anything else 0."""
    flat = traverse_util.flatten_dict(jax.eval_shape(net.init, key, *inputs))
    deepest = max(path[-2] for path in flat if path[-1] == "kernel")
    draws = jax.random.uniform(key, (sum(leaf.size for leaf in flat.values()),), minval=-1.0)  # at once: it compiles faster
    for path, leaf in flat.items():
        bound = flat[(*path[:-1], "kernel")].shape[-2] ** -0.5 if path[-1] in ("kernel", "bias") else 0.0
        bound = last if last is not None and path[-2] == deepest else bound
        own, draws = jnp.split(draws, [leaf.size])
        flat[path] = bound * own.reshape(leaf.shape)
    return traverse_util.unflatten_dict(flat)


def orthogonal(net: nn.Module, key: jax.Array, *inputs: jax.Array, last: float | None = None) -> ops.Params:
    """Fresh parameters: orthogonal kernels times sqrt(2), the last layer's times `last` where that is given; biases 0. Every member of an
    ensemble draws its own."""
    flat = traverse_util.flatten_dict(jax.eval_shape(net.init, key, *inputs))
    kernels = [path for path in flat if path[-1] == "kernel"]
    deepest = max(path[-2] for path in kernels)
    fresh = {path: jnp.zeros(leaf.shape) for path, leaf in flat.items()}
    for path, own in zip(kernels, jax.random.split(key, len(kernels)), strict=True):
        draw = nn.initializers.orthogonal(last if last is not None and path[-2] == deepest else math.sqrt(2.0))
        *members, fan_in, fan_out = flat[path].shape
        keys = jax.random.split(own, math.prod(members))
        fresh[path] = jnp.stack([draw(one, (fan_in, fan_out)) for one in keys]).reshape(flat[path].shape)
    return traverse_util.unflatten_dict(fresh)


def start(
    net: nn.Module,
    key: jax.Array,
    *inputs: jax.Array,
    learning_rate: float | optax.Schedule,
    target: bool = False,
    last: float | None = None,
    fresh: Callable[..., ops.Params] = uniform,
) -> Net:
    """A fresh network with its optimiser, and a target equal to it where asked."""
    params = fresh(net, key, *inputs, last=last)
    return Net(params, ops.adam(learning_rate).init(params), jax.tree.map(jnp.copy, params) if target else None)


def step(
    loss: Callable[..., tuple[jax.Array, Metrics]], net: Net, learning_rate: float | optax.Schedule, name: str, blocks: Any = None
) -> tuple[Net, Metrics]:
    """One Adam step; the target stays. `blocks` as for `ops.grad_step`."""
    params, opt, metrics = ops.grad_step(loss, net.params, net.opt, ops.adam(learning_rate), name=name, blocks=blocks)
    return Net(params, opt, net.target), metrics


def follow(net: Net, rate: float) -> Net:
    """The target moves towards the network."""
    return net._replace(target=ops.polyak(net.target, net.params, rate))


def every(period: int, count: jax.Array, update: Callable[[], tuple[Any, Metrics]], idle: Any) -> tuple[Any, Metrics]:
    """`update()` where `count` is a multiple of `period`, else `idle` with metrics 0. Metrics are scaled so that their mean is right."""
    if period == 1:
        return update()
    shapes = jax.eval_shape(update)[1]

    def rest() -> tuple[Any, Metrics]:
        return idle, jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), shapes)

    state, metrics = jax.lax.cond(count % period == 0, update, rest)
    return state, {name: period * value for name, value in metrics.items()}


def widths(params: ops.Params) -> list[int]:
    """Output sizes of an MLP's layers."""
    layers = params["params"]
    return [layers[f"Dense_{i}"]["bias"].shape[-1] for i in range(len(layers))]


def mlp(params: ops.Params, x: jax.Array, dropout: float = 0.0, key: jax.Array | None = None) -> jax.Array:
    """The nets.MLP that `params` belong to, with dropout where a key is given."""
    *hidden, out = widths(params)
    return nets.MLP(hidden, out, dropout).apply(params, x, rngs=None if key is None else {"dropout": key})


def gaussian(
    cfg: ActorConfig, params: ops.Params, obs: jax.Array, key: jax.Array | None = None, bounded: bool = True
) -> tuple[jax.Array, jax.Array]:
    """The nets.GaussianPolicy that `params` belong to: mean and log std, (B, A) each; with dropout where a key is given."""
    net = nets.GaussianPolicy(cfg.hidden, params["params"]["log_std"].shape[-1], bounded, cfg.dropout)
    return net.apply(params, obs, rngs=None if key is None else {"dropout": key})


def mean_and_log_std(params: ops.Params, obs: jax.Array, offset: float = 0.0) -> tuple[jax.Array, jax.Array]:
    """Both halves of an MLP's outputs, (B, A) each; `offset` is added to log std before it is clipped to what nets has for all."""
    mean, log_std = jnp.split(mlp(params, obs), 2, axis=-1)
    return mean, jnp.clip(log_std + offset, nets.LOG_STD_MIN, nets.LOG_STD_MAX)


def mean_net(params: ops.Params) -> ops.Params:
    """The MLP inside a nets.GaussianPolicy."""
    return {"params": params["params"]["mlp"]}


# Twin critics


def start_critics(cfg: CriticConfig, spec: Spec, key: jax.Array, last: float | None = None, size: int = 2, **how: Any) -> Net:
    """`size` critics along a leading axis, with their targets; `how` as for `start`."""
    obs, action = jnp.zeros((1, spec.obs_dim)), jnp.zeros((1, spec.act_dim))
    return start(nets.CriticEnsemble(size, cfg.hidden), key, obs, action, learning_rate=cfg.learning_rate, target=True, last=last, **how)


def q_values(cfg: CriticConfig, params: ops.Params, obs: jax.Array, action: jax.Array) -> jax.Array:
    """Q_i(s, a): (B, obs_dim), (..., B, A) -> (number of critics, ..., B)."""
    size, lead = jax.tree.leaves(params)[0].shape[0], action.shape[:-1]
    obs = jnp.broadcast_to(obs, (*lead, obs.shape[-1])).reshape(-1, obs.shape[-1])
    return nets.CriticEnsemble(size, cfg.hidden).apply(params, obs, action.reshape(-1, action.shape[-1])).reshape(size, *lead)


def first_q(cfg: CriticConfig, params: ops.Params, obs: jax.Array, action: jax.Array) -> jax.Array:
    """Q_1(s, a): (B, obs_dim), (..., B, A) -> (..., B); the second critic is not computed."""
    return q_values(cfg, jax.tree.map(lambda leaf: leaf[:1], params), obs, action)[0]


def mix(q: jax.Array, weight: float) -> jax.Array:
    """weight * min + (1 - weight) * max over the critics: (2, ...) -> (...). BCQ's soft clipped double Q."""
    return weight * q.min(0) + (1 - weight) * q.max(0)


def critic_loss(cfg: CriticConfig, params: ops.Params, y: jax.Array, rows: Transitions) -> tuple[jax.Array, Metrics]:
    """Sum over the critics of the mean squared error against `y` (B,)."""
    q = q_values(cfg, params, rows.obs, rows.action)
    return ((q - y) ** 2).mean(1).sum(), {"q": q.mean()}


def critic_step(cfg: CriticConfig, critics: Net, y: jax.Array, rows: Transitions) -> tuple[Net, Metrics]:
    return step(lambda p: critic_loss(cfg, p, y, rows), critics, cfg.learning_rate, "critic")


# The CVAE of BCQ, which PLAS and SPOT use too


def start_cvae(cfg: CVAEConfig, spec: Spec, key: jax.Array) -> Net:
    latent = cfg.latent_per_action * spec.act_dim
    encoder_key, decoder_key = jax.random.split(key)
    shapes = {"encoder": (encoder_key, spec.act_dim, 2 * latent), "decoder": (decoder_key, latent, spec.act_dim)}
    params = {name: uniform(nets.MLP(cfg.hidden, out), k, jnp.zeros((1, spec.obs_dim + width))) for name, (k, width, out) in shapes.items()}
    return Net(params, ops.adam(cfg.learning_rate).init(params))


def latent_dim(cfg: CVAEConfig, action: jax.Array) -> int:
    return cfg.latent_per_action * action.shape[-1]


def encode(params: ops.Params, obs: jax.Array, action: jax.Array) -> tuple[jax.Array, jax.Array]:
    """q(z | s, a): mean and log std, (B, Z) each."""
    mean, log_std = jnp.split(mlp(params["encoder"], jnp.concatenate([obs, action], -1)), 2, axis=-1)
    return mean, jnp.clip(log_std, LATENT_LOG_STD_MIN, LATENT_LOG_STD_MAX)


def decode(params: ops.Params, obs: jax.Array, z: jax.Array, squash: bool = True) -> jax.Array:
    """The action of latent z: (B, obs_dim), (..., B, Z) -> (..., B, A), through tanh or as it is."""
    obs = jnp.broadcast_to(obs, (*z.shape[:-1], obs.shape[-1]))
    raw = mlp(params["decoder"], jnp.concatenate([obs, z], -1))
    return jnp.tanh(raw) if squash else raw


def negative_elbo(cfg: CVAEConfig, params: ops.Params, obs: jax.Array, action: jax.Array, noise: jax.Array) -> tuple[jax.Array, Metrics]:
    """|a' - a|^2 / A + beta KL / Z for every row (B,); `noise` (B, Z) is standard normal."""
    mean, log_std = encode(params, obs, action)
    reconstruction = ((decode(params, obs, mean + jnp.exp(log_std) * noise) - action) ** 2).mean(-1)
    kl = ops.gaussian_kl(mean, log_std)
    return reconstruction + cfg.kl_weight * kl.mean(-1), {"reconstruction_loss": reconstruction.mean(), "kl": kl.sum(-1).mean()}


def cvae_step(cfg: CVAEConfig, cvae: Net, rows: Transitions, key: jax.Array) -> tuple[Net, Metrics]:
    noise = jax.random.normal(key, (len(rows.obs), latent_dim(cfg, rows.action)))

    def loss(params: ops.Params) -> tuple[jax.Array, Metrics]:
        values, metrics = negative_elbo(cfg, params, rows.obs, rows.action, noise)
        return values.mean(), metrics

    return step(loss, cvae, cfg.learning_rate, "cvae")


# Acting without a gate, and what leaves the building


def ungated(policy: Callable[..., jax.Array]) -> Callable[..., dict[str, jax.Array]]:
    """`Algo.act` of a policy without an anchor, from `policy(cfg, state, obs, key) -> (B, A)`, clipped to the box."""

    def act(cfg: Any, state: State, obs: jax.Array, key: jax.Array) -> dict[str, jax.Array]:
        action = jnp.clip(policy(cfg, state, obs, key), -1.0, 1.0)
        return {"action": action, "anchor": action, "accepted": jnp.ones(len(obs), bool), "gain": jnp.zeros(len(obs))}

    return act


def exported(kind: str, networks: dict[str, ops.Params], **settings: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """`Algo.export` of a policy without an anchor; `kind` is one of deploy.actors.KINDS, which says what it reads."""
    return {"kind": "actor", "actor": {"kind": kind, **settings}}, ops.flatten(networks)


def mean_outputs(params: ops.Params) -> ops.Params:
    """An MLP that gives mean and log std, cut down to the mean: the first half of its last layer's outputs."""
    count, last = widths(params)[-1] // 2, f"Dense_{len(params['params']) - 1}"
    return {"params": {**params["params"], last: {name: leaf[..., :count] for name, leaf in params["params"][last].items()}}}
