"""Exported networks in NumPy alone: policies without an anchor, and anchors.

An actor is `(settings, arrays, s, rng) -> action`: standardised observations (B, obs_dim) to actions (B, act_dim), to be clipped to
[-1, 1]. `settings` is the description that the algorithm exported; `rng` draws the latents of those that sample.
An anchor is the same without `rng`: it is the fallback, which answers alike whenever it is asked.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

Arrays = dict[str, np.ndarray]
Anchor = Callable[[dict[str, Any], Arrays, np.ndarray], np.ndarray]
_erf = np.vectorize(math.erf, otypes=[np.float64])  # NumPy has none
Actor = Callable[[dict[str, Any], Arrays, np.ndarray, np.random.Generator], np.ndarray]


def layers(arrays: Arrays, prefix: str) -> int:
    """How many the MLP stored under `prefix` has. Raises KeyError where it is missing."""
    found = sum(key.startswith(f"{prefix}/Dense_") and key.endswith("/kernel") for key in arrays)
    if not found:
        raise KeyError(f"{prefix}/Dense_0/kernel")
    return found


def mlp(arrays: Arrays, prefix: str, x: np.ndarray) -> np.ndarray:
    """The flax MLP stored under `prefix`: (..., in) -> (..., out); kernels with an ensemble axis (n, in, out) give (n, B, out)."""
    depth = layers(arrays, prefix)
    for i in range(depth):
        kernel, bias = arrays[f"{prefix}/Dense_{i}/kernel"], arrays[f"{prefix}/Dense_{i}/bias"]
        if kernel.ndim == 3:
            bias = bias[:, None, :]
        x = x @ kernel + bias
        if i < depth - 1:
            x = np.maximum(x, 0.0)
    return x


def integrate(arrays: Arrays, prefix: str, condition: np.ndarray, x: np.ndarray, steps: int) -> np.ndarray:
    """Where the flow whose velocity field is stored under `prefix` carries x, in Euler steps: (B, C), (..., B, A) -> (..., B, A)."""
    condition = np.broadcast_to(condition, (*x.shape[:-1], condition.shape[-1]))
    for i in range(steps):
        t = np.full((*x.shape[:-1], 1), i / steps, np.float32)
        x = x + mlp(arrays, prefix, np.concatenate([condition, x, t], -1)) / np.float32(steps)
    return x


def _linear(settings: dict[str, Any], arrays: Arrays, s: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return mlp(arrays, "actor", s)


def _tanh(settings: dict[str, Any], arrays: Arrays, s: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.tanh(mlp(arrays, "actor", s))


def _truncated(settings: dict[str, Any], arrays: Arrays, s: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The mean of a normal truncated to the box, whose own mean is tanh-bounded and whose log std is softly clamped."""
    mean, log_std = np.split(mlp(arrays, "actor", s), 2, -1)
    mean, low, high = np.tanh(mean), settings["log_std_min"], settings["log_std_max"]
    std = np.exp(low + 0.5 * (high - low) * (np.tanh(log_std) + 1))
    edges = [(edge - mean) / std for edge in (-1.0, 1.0)]
    below, above = (np.exp(-0.5 * edge**2) / math.sqrt(2 * math.pi) for edge in edges)
    mass = 0.5 * (_erf(edges[1] / math.sqrt(2)) - _erf(edges[0] / math.sqrt(2)))
    return (mean + std * (below - above) / mass).astype(np.float32)


def _latent(settings: dict[str, Any], arrays: Arrays, s: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The decoder at the latent that the actor chose, through tanh or back from standardised actions."""
    z = settings["latent_bound"] * np.tanh(mlp(arrays, "actor", s))
    raw = mlp(arrays, "decoder", np.concatenate([s, z], -1))
    return np.tanh(raw) if settings["squash"] else arrays["action_mean"] + arrays["action_std"] * raw


def _best_of(settings: dict[str, Any], arrays: Arrays, s: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Decoded latents, each perturbed a little by the actor; the one that the critic values most."""
    z = rng.standard_normal((settings["candidates"], len(s), settings["latent_dim"]), dtype=np.float32)
    z = np.clip(z, -settings["latent_clip"], settings["latent_clip"])
    wide = np.broadcast_to(s, (len(z), *s.shape))
    action = np.tanh(mlp(arrays, "decoder", np.concatenate([wide, z], -1)))
    change = settings["perturbation"] * np.tanh(mlp(arrays, "actor", np.concatenate([wide, action], -1)))
    action = np.clip(action + change, -1.0, 1.0)
    inputs = np.concatenate([wide, action], -1)
    q = mlp(arrays, "critic/members/mlp", inputs.reshape(-1, inputs.shape[-1]))[0].reshape(action.shape[:-1])
    return action[q.argmax(0), np.arange(len(s))]


KINDS: dict[str, Actor] = {"linear": _linear, "tanh": _tanh, "truncated": _truncated, "latent": _latent, "best-of": _best_of}


def _tanh_anchor(settings: dict[str, Any], arrays: Arrays, s: np.ndarray) -> np.ndarray:
    return np.tanh(mlp(arrays, "anchor/mlp", s))


def _flow_anchor(settings: dict[str, Any], arrays: Arrays, s: np.ndarray) -> np.ndarray:
    """From the prior's mode. The velocity field reads (s, x, t): its first layer says how many action dimensions there are."""
    mode = np.zeros((len(s), len(arrays["anchor/Dense_0/kernel"]) - s.shape[-1] - 1), np.float32)
    return integrate(arrays, "anchor", s, mode, settings["flow_steps"])


def _zero_anchor(settings: dict[str, Any], arrays: Arrays, s: np.ndarray) -> np.ndarray:
    return np.tile(arrays["anchor/centre"], (len(s), 1))


TANH = {"kind": "tanh"}  # of a policy that does not say
ANCHORS: dict[str, Anchor] = {"tanh": _tanh_anchor, "flow": _flow_anchor, "zero": _zero_anchor}


class Shape(NamedTuple):
    """What a network takes and gives; members: of an ensemble, with a leading axis."""

    inputs: int
    outputs: int
    ensemble: bool = False


def networks(description: dict[str, Any], arrays: Arrays, obs_dim: int, act_dim: int) -> dict[str, Shape]:
    """The MLPs that a policy of this description must have, by their prefixes. Raises KeyError for a description that is none."""
    both = obs_dim + act_dim
    if description.get("kind") == "actor":
        settings = description["actor"]
        kind = settings["kind"]
        if kind == "latent":
            latent = arrays[f"actor/Dense_{layers(arrays, 'actor') - 1}/bias"].shape[-1]
            return {"actor": Shape(obs_dim, latent), "decoder": Shape(obs_dim + latent, act_dim)}
        if kind == "best-of":
            latent = settings["latent_dim"]
            decoder, critic = Shape(obs_dim + latent, act_dim), Shape(both, 1, ensemble=True)
            return {"actor": Shape(both, act_dim), "decoder": decoder, "critic/members/mlp": critic}
        return {"actor": Shape(obs_dim, 2 * act_dim if kind == "truncated" else act_dim)}
    anchors = {"tanh": {"anchor/mlp": Shape(obs_dim, act_dim)}, "flow": {"anchor": Shape(both + 1, act_dim)}, "zero": {}}
    found = {**anchors[description.get("anchor", TANH)["kind"]], "critics/members/mlp": Shape(both, 1, ensemble=True)}
    residual, latent = description["residual"], description.get("latent_dim", 0)
    if residual in ("mlp", "flow"):
        return found | {"residual": Shape(both if residual == "mlp" else both + act_dim + 1, act_dim)}
    found |= {"actor": Shape(both, latent)} if residual == "plas" else {}
    return found | {"decoder": Shape(both + latent, act_dim)}


def misfit(arrays: Arrays, prefix: str, shape: Shape) -> str | None:
    """Which layer of the MLP under `prefix` does not fit the one before it, or what goes in or comes out; None where all do. Raises
    KeyError where a layer is missing."""
    depth, width, lead = layers(arrays, prefix), shape.inputs, None
    for i in range(depth):
        name = f"{prefix}/Dense_{i}"
        kernel, bias = arrays[f"{name}/kernel"].shape, arrays[f"{name}/bias"].shape
        lead = kernel[:-2] if lead is None else lead
        out = shape.outputs if i == depth - 1 else kernel[-1] if kernel else 0
        expected = (*lead, width, out)
        if len(lead) != int(shape.ensemble) or kernel != expected or bias != (*lead, out):
            return f"'{name}' has kernel {kernel} and bias {bias}, expected {expected} and {(*lead, out)}"
        width = out
    return None
