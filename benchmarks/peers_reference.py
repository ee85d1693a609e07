"""Losses of d3rlpy's algorithms on a fixed batch, with the weights and the noise they saw: what tests/test_parity.py compares ours with.

    python benchmarks/peers_reference.py tests/references/d3rlpy.npz        # needs d3rlpy 2.8 and torch; writes a new file

Tiny networks. Weights are stored under the names and shapes that our networks use. Plain arrays only.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import d3rlpy
import numpy as np
import torch
from d3rlpy.models import VectorEncoderFactory

OBS_DIM, ACT_DIM, ROWS, HIDDEN = 5, 3, 16, (8, 8)
TEMPERATURE = 0.3  # of SAC's entropy in CQL's actor loss
Arrays = dict[str, np.ndarray]


def batch(seed: int) -> Arrays:
    rng = np.random.default_rng(seed)
    return {
        "obs": rng.normal(size=(ROWS, OBS_DIM)).astype(np.float32),
        "action": np.clip(0.5 * rng.normal(size=(ROWS, ACT_DIM)), -0.99, 0.99).astype(np.float32),
        "reward": rng.normal(size=ROWS).astype(np.float32),
        "next_obs": rng.normal(size=(ROWS, OBS_DIM)).astype(np.float32),
        "terminated": (rng.random(ROWS) < 0.3).astype(np.float32),
    }


def as_torch(rows: Arrays) -> Any:
    column = {name: torch.tensor(value if value.ndim == 2 else value[:, None]) for name, value in rows.items()}
    return SimpleNamespace(
        observations=column["obs"], actions=column["action"], rewards=column["reward"], next_observations=column["next_obs"],
        terminals=column["terminated"], intervals=torch.ones(ROWS, 1), returns_to_go=torch.zeros(ROWS, 1), device="cpu:0",
    )  # fmt: skip


@contextmanager
def recorded(seed: int) -> Iterator[list[np.ndarray]]:
    """Every random number that torch draws inside comes from NumPy and is kept, in order."""
    rng, seen = np.random.default_rng(seed), list[np.ndarray]()

    def normal(shape: Any, *_: Any, **__: Any) -> torch.Tensor:
        seen.append(rng.normal(size=tuple(shape)).astype(np.float32))
        return torch.tensor(seen[-1])

    def uniform(tensor: torch.Tensor, low: float, high: float) -> torch.Tensor:
        seen.append(rng.uniform(low, high, size=tuple(tensor.shape)).astype(np.float32))
        return torch.tensor(seen[-1])

    kept = torch.distributions.normal._standard_normal, torch.randn, torch.Tensor.uniform_
    torch.distributions.normal._standard_normal, torch.randn, torch.Tensor.uniform_ = normal, normal, uniform  # type: ignore[assignment]
    try:
        yield seen
    finally:
        torch.distributions.normal._standard_normal, torch.randn, torch.Tensor.uniform_ = kept  # type: ignore[method-assign]


def dense(module: Any) -> list[tuple[np.ndarray, np.ndarray]]:
    """(kernel, bias) of every layer in order; heads for mean and log std become one layer."""
    state = {name: value.detach().numpy() for name, value in module.state_dict().items()}
    names = [name.removesuffix(".weight") for name in state if name.endswith(".weight")]
    found = [(state[f"{name}.weight"].T, state[f"{name}.bias"]) for name in names]
    if "_logstd" in names:
        mean, log_std = found[-2:]
        found[-2:] = [tuple(np.concatenate(pair, -1) for pair in zip(mean, log_std, strict=True))]
    return found


def named(prefix: str, layers: list[tuple[np.ndarray, np.ndarray]]) -> Arrays:
    return {
        f"{prefix}/Dense_{i}/{name}": value for i, layer in enumerate(layers) for name, value in zip(("kernel", "bias"), layer, strict=True)
    }


def ensemble(prefix: str, modules: Any) -> Arrays:
    members = [named(f"{prefix}/params/members/mlp", dense(module)) for module in modules]
    return {name: np.stack([member[name] for member in members]) for name in members[0]}


def created(config: Any, seed: int) -> Any:
    torch.manual_seed(seed)
    algo = config.create(device="cpu:0")
    algo.create_impl((OBS_DIM,), ACT_DIM)
    impl = algo.impl
    modules = impl.modules
    for module in getattr(modules, "targ_q_funcs", []):  # targets that differ from the critics
        for parameter in module.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    return impl


def encoders(*names: str) -> dict[str, Any]:
    return {f"{name}_factory": VectorEncoderFactory(list(HIDDEN)) for name in names}


ACTOR_CRITIC = encoders("actor_encoder", "critic_encoder")


def bc(rows: Arrays, seed: int) -> tuple[Arrays, Arrays, list[np.ndarray]]:
    impl, data = created(d3rlpy.algos.BCConfig(**encoders("encoder")), seed), as_torch(rows)
    return named("actor/params", dense(impl.modules.imitator)), {"loss": impl.compute_loss(data.observations, data.actions).loss}, []


def td3bc(rows: Arrays, seed: int) -> tuple[Arrays, Arrays, list[np.ndarray]]:
    impl, data = created(d3rlpy.algos.TD3PlusBCConfig(**ACTOR_CRITIC), seed), as_torch(rows)
    with recorded(seed) as noise:
        target = impl.compute_target(data)
    losses = {
        "target": target[:, 0],
        "critic_loss": impl.compute_critic_loss(data, target).critic_loss,
        "actor_loss": impl.compute_actor_loss(data, impl.modules.policy(data.observations)).actor_loss,
    }
    weights = {
        **named("actor/params", dense(impl.modules.policy)),
        **named("target_actor/params", dense(impl.modules.targ_policy)),
        **ensemble("critics", impl.modules.q_funcs), **ensemble("targets", impl.modules.targ_q_funcs),
    }  # fmt: skip
    return weights, losses, noise


def iql(rows: Arrays, seed: int) -> tuple[Arrays, Arrays, list[np.ndarray]]:
    impl, data = created(d3rlpy.algos.IQLConfig(**ACTOR_CRITIC, **encoders("value_encoder")), seed), as_torch(rows)
    target = impl.compute_target(data)
    found = impl.compute_critic_loss(data, target)
    output = impl.modules.policy(data.observations)
    losses = {
        "next_value": target[:, 0], "critic_loss": found.q_loss, "value_loss": found.v_loss,
        "actor_loss": impl.compute_actor_loss(data, output).actor_loss,
    }  # fmt: skip
    weights = {
        **named("actor/params/mlp", dense(impl.modules.policy)), "actor/params/log_std": output.logstd[0],
        **named("value/params/mlp", dense(impl.modules.value_func)),
        **ensemble("critics", impl.modules.q_funcs), **ensemble("targets", impl.modules.targ_q_funcs),
    }  # fmt: skip
    return weights, losses, []


def awac(rows: Arrays, seed: int) -> tuple[Arrays, Arrays, list[np.ndarray]]:
    impl, data = created(d3rlpy.algos.AWACConfig(**ACTOR_CRITIC), seed), as_torch(rows)
    output = impl.modules.policy(data.observations)
    next(impl.modules.log_temp.parameters()).data.fill_(-50.0)  # theirs is 1: SAC's entropy bonus, which AWAC's target does not have
    with recorded(seed) as noise:
        actor_loss = impl.compute_actor_loss(data, output).actor_loss / ROWS  # theirs is a sum over the batch
        target = impl.compute_target(data)
    losses = {"actor_loss": actor_loss, "target": target[:, 0], "critic_loss": impl.compute_critic_loss(data, target).critic_loss}
    weights = {
        **named("actor/params/mlp", dense(impl.modules.policy)), "actor/params/log_std": output.logstd[0],
        **ensemble("critics", impl.modules.q_funcs), **ensemble("targets", impl.modules.targ_q_funcs),
    }  # fmt: skip
    return weights, losses, noise


def cql(rows: Arrays, seed: int) -> tuple[Arrays, Arrays, list[np.ndarray]]:
    config = d3rlpy.algos.CQLConfig(
        **ACTOR_CRITIC, initial_alpha=1.0, alpha_learning_rate=0.0, temp_learning_rate=0.0, n_action_samples=4, soft_q_backup=True
    )
    impl, data = created(config, seed), as_torch(rows)
    log_temperature = next(impl.modules.log_temp.parameters())
    with recorded(seed) as noise:
        log_temperature.data.fill_(-50.0)  # no entropy in the target
        target = impl.compute_target(data)
        found = impl.compute_critic_loss(data, target)
        log_temperature.data.fill_(math.log(TEMPERATURE))
        actor_loss = impl.compute_actor_loss(data, impl.modules.policy(data.observations)).actor_loss
    losses = {
        "target": target[:, 0], "critic_loss": found.critic_loss, "conservative_loss": found.conservative_loss, "actor_loss": actor_loss,
    }  # fmt: skip
    weights = {
        **named("actor/params", dense(impl.modules.policy)),
        **ensemble("critics", impl.modules.q_funcs), **ensemble("targets", impl.modules.targ_q_funcs),
    }  # fmt: skip
    return weights, losses, noise


PEERS = {"bc": bc, "td3bc": td3bc, "iql": iql, "awac": awac, "cql": cql}


def reference(seed: int) -> Arrays:
    """Keys `<algo>/<batch|weights|losses|noise>/<name>`."""
    found: Arrays = {}
    for algo, peer in PEERS.items():
        rows = batch(seed)
        weights, losses, noise = peer(rows, seed)
        parts = {"batch": rows, "weights": weights, "losses": losses, "noise": {str(i): draw for i, draw in enumerate(noise)}}
        for part, values in parts.items():
            for name, value in values.items():
                found[f"{algo}/{part}/{name}"] = np.asarray(value.detach() if isinstance(value, torch.Tensor) else value, np.float32)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="the new file")
    arguments = parser.parse_args()
    with arguments.out.open("xb") as file:
        np.savez_compressed(file, **reference(0))


if __name__ == "__main__":
    main()
