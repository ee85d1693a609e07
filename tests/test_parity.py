"""Our losses against d3rlpy's, on the same batch with the same weights and the same noise.

`references/d3rlpy.npz` was written by benchmarks/peers_reference.py; where d3rlpy is installed, fresh ones are made and compared as well.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
from pathlib import Path
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from spar import ops
from spar.baselines import awac, bc, common, cql, iql, td3, td3bc
from spar.types import Spec, Transitions

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = Path(__file__).parent / "references" / "d3rlpy.npz"
ACTOR, CRITIC = common.ActorConfig(hidden=(8, 8)), common.CriticConfig(hidden=(8, 8))
RELATIVE = 2e-5

Part = dict[str, jnp.ndarray]


@functools.cache
def saved() -> dict[str, np.ndarray]:
    with np.load(REFERENCE) as file:
        return {name: file[name] for name in file.files}


def generator() -> ModuleType:
    pytest.importorskip("d3rlpy")
    spec = importlib.util.spec_from_file_location("peers_reference", ROOT / "benchmarks" / "peers_reference.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def part(reference: dict[str, np.ndarray], algo: str, name: str) -> Part:
    prefix = f"{algo}/{name}/"
    return {key.removeprefix(prefix): jnp.asarray(value) for key, value in reference.items() if key.startswith(prefix)}


def ours_bc(rows: Transitions, weights: dict, noise: Part) -> Part:
    return {"loss": bc.loss(bc.Config(actor=ACTOR), weights["actor"], rows)[0]}


def ours_td3bc(rows: Transitions, weights: dict, noise: Part) -> Part:
    cfg = td3bc.Config(actor=ACTOR, critic=CRITIC)
    action = td3.smoothed(cfg.td3, td3.policy(ACTOR, weights["target_actor"], rows.next_obs), noise["0"])
    masked = td3.target(CRITIC, weights["targets"], rows, action)
    return {
        "target": common.q_values(CRITIC, weights["targets"], rows.next_obs, action).min(0),
        "critic_loss": common.critic_loss(CRITIC, weights["critics"], masked, rows)[0],
        "actor_loss": td3bc.actor_loss(cfg, weights["actor"], weights["critics"], rows)[0],
    }


def ours_iql(rows: Transitions, weights: dict, noise: Part) -> Part:
    cfg = iql.Config(actor=ACTOR, critic=CRITIC)
    target_q = common.q_values(CRITIC, weights["targets"], rows.obs, rows.action).min(0)
    next_value = iql.value(cfg, weights["value"], rows.next_obs)
    y = ops.td_target(rows.reward, rows.terminated, next_value, CRITIC.discount)
    return {
        "next_value": next_value,
        "critic_loss": common.critic_loss(CRITIC, weights["critics"], y, rows)[0],
        "value_loss": iql.value_loss(cfg, weights["value"], target_q, rows)[0],
        "actor_loss": iql.actor_loss(cfg, weights["actor"], target_q - iql.value(cfg, weights["value"], rows.obs), rows)[0],
    }


def ours_awac(rows: Transitions, weights: dict, noise: Part) -> Part:
    cfg = awac.Config(temperature=1.0, weights="softmax", bounded=True, actor=ACTOR, critic=CRITIC)
    better = awac.advantage(cfg, weights["critics"], rows, awac.sample(cfg, weights["actor"], rows.obs, noise["0"][0]))
    mean, log_std = common.gaussian(ACTOR, weights["actor"], rows.next_obs)
    next_action = jnp.tanh(jnp.arctanh(mean) + jnp.exp(log_std) * noise["1"])  # their target squashes; ours clips
    next_q = common.q_values(CRITIC, weights["targets"], rows.next_obs, next_action).min(0)
    y = ops.td_target(rows.reward, rows.terminated, next_q, CRITIC.discount)
    return {
        "target": next_q,
        "critic_loss": common.critic_loss(CRITIC, weights["critics"], y, rows)[0],
        "actor_loss": awac.actor_loss(cfg, weights["actor"], better, rows)[0],
    }


def ours_cql(rows: Transitions, weights: dict, noise: Part) -> Part:
    cfg = cql.Config(weight=5.0, gap=10.0, samples=4, log_std_offset=0.0, actor=ACTOR, critic=CRITIC)
    actor, critics, act_dim = weights["actor"], weights["critics"], rows.action.shape[-1]
    next_action, _ = cql.sample(cfg, actor, rows.next_obs, noise["0"])
    next_q = common.q_values(CRITIC, weights["targets"], rows.next_obs, next_action).min(0)
    anywhere = noise["3"].reshape(len(rows.obs), cfg.samples, act_dim).swapaxes(0, 1)
    draws = [cql.sample(cfg, actor, rows.obs, noise["1"]), cql.sample(cfg, actor, rows.next_obs, noise["2"])]
    draws.append((anywhere, jnp.full(anywhere.shape[:2], -act_dim * np.log(2))))
    drawn, log_prob = (jnp.concatenate(column) for column in zip(*draws, strict=True))
    y = ops.td_target(rows.reward, rows.terminated, next_q, CRITIC.discount)
    loss, metrics = cql.critic_loss(cfg, critics, jnp.ones(()), y, rows, drawn, log_prob)
    temperature = jnp.float32(0.3)
    return {
        "target": next_q,
        "critic_loss": loss,
        "conservative_loss": loss - metrics["td_loss"],
        "actor_loss": cql.actor_loss(cfg, actor, critics, temperature, rows, noise["4"])[0],
    }


OURS = {"bc": ours_bc, "td3bc": ours_td3bc, "iql": ours_iql, "awac": ours_awac, "cql": ours_cql}


def differences(reference: dict[str, np.ndarray], algo: str) -> dict[str, float]:
    """The largest difference of every loss, relative to the largest value there."""
    rows = Transitions(**part(reference, algo, "batch"))
    weights = traverse_util.unflatten_dict(part(reference, algo, "weights"), sep="/")
    theirs = part(reference, algo, "losses")
    found = OURS[algo](rows, weights, part(reference, algo, "noise"))
    assert found.keys() == theirs.keys()
    return {name: float(jnp.abs(found[name] - value).max() / jnp.abs(value).max()) for name, value in theirs.items()}


@pytest.mark.parametrize("algo", OURS)
def test_losses_equal_d3rlpys(algo: str) -> None:
    worst = differences(saved(), algo)
    assert max(worst.values()) < RELATIVE, worst


def test_the_comparison_would_notice_a_wrong_constant() -> None:
    """Every hyper-parameter that enters moves a loss by far more than the tolerance."""
    rows = Transitions(**part(saved(), "td3bc", "batch"))
    weights = traverse_util.unflatten_dict(part(saved(), "td3bc", "weights"), sep="/")
    cfg = td3bc.Config(actor=ACTOR, critic=CRITIC)
    right, wrong = (
        float(td3bc.actor_loss(dataclasses.replace(cfg, alpha=alpha), weights["actor"], weights["critics"], rows)[0])
        for alpha in (2.5, 2.51)
    )
    assert abs(right - wrong) > 10 * RELATIVE * abs(right)


@pytest.mark.parametrize("seed", [1, 2])
def test_losses_equal_d3rlpys_made_anew(seed: int) -> None:
    reference = generator().reference(seed)
    for algo in OURS:
        worst = differences(reference, algo)
        assert max(worst.values()) < RELATIVE, (algo, worst)


def test_the_saved_reference_is_what_d3rlpy_gives() -> None:
    for name, value in generator().reference(0).items():
        np.testing.assert_allclose(saved()[name], value, rtol=1e-4, atol=1e-5, err_msg=name)


def test_cql_starts_as_corls_does() -> None:
    """Critics: kernels orthogonal times sqrt 2, the last times 0.01, biases 0. Actor: the last layer small, by Glorot's rule."""
    state = cql.init(cql.Config(), Spec(5, 3), jax.random.key(0))
    layers = state.critics.params["params"]["members"]["mlp"]
    assert len(layers) == 4 and not np.allclose(layers["Dense_1"]["kernel"][0], layers["Dense_1"]["kernel"][1])
    for name, layer in layers.items():
        gain = 1e-2 if name == "Dense_3" else 2**0.5
        assert not layer["bias"].any()
        for kernel in layer["kernel"]:
            smaller = min((kernel.T @ kernel, kernel @ kernel.T), key=lambda product: product.shape[0])
            np.testing.assert_allclose(smaller, gain**2 * np.eye(len(smaller)), atol=1e-4)
    last = np.abs(state.actor.params["params"]["Dense_3"]["kernel"])
    bound = 0.01 * (6 / (256 + 6)) ** 0.5
    assert 0.9 * bound < last.max() <= bound
