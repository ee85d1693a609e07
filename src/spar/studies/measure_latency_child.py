"""The process that `measure_latency` starts: one policy, one observation at a time. It imports JAX only for the engine `jax`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from spar.deploy import exports
from spar.runs.environment import peak_memory_mib

Act = Callable[[np.ndarray, int], np.ndarray]  # observation (obs_dim,), number of the step -> action (A,), in the user's units


def deployed(run: Path, seed: int) -> Act:
    """As on a plant."""
    policy = exports.load(run, seed)
    return lambda obs, step: policy.act(obs).action


def jitted(run: Path, seed: int) -> Act:
    """The algorithm's own `act`, compiled."""
    import jax

    from spar import registry
    from spar.runs.checkpoint import last_state
    from spar.runs.experiment import read_config
    from spar.types import Spec

    cfg, policy = read_config(run), exports.load(run, seed)
    scaler, algo = policy.scaler, registry.get(cfg.algo)
    state = jax.tree.map(lambda leaf: leaf[0], last_state(run, cfg, Spec(policy.obs_dim, policy.act_dim), [seed]))

    @jax.jit
    def decide(state: Any, s: jax.Array, step: int) -> jax.Array:
        key = jax.random.fold_in(jax.random.key(seed), step)
        return algo.act(cfg.config, state, s, key)["action"]

    return lambda obs, step: scaler.action_out(np.asarray(decide(state, scaler.obs_in(obs)[None], step)))[0]


ENGINES: dict[str, Callable[[Path, int], Act]] = {"deployed": deployed, "jax": jitted}


def measure(act: Act, observations: np.ndarray, warm_up: int) -> dict[str, float]:
    """Milliseconds a call, over all but the first `warm_up` observations."""
    taken = np.empty(len(observations))
    for step, obs in enumerate(observations):
        began = time.perf_counter_ns()
        act(obs, step)
        taken[step] = (time.perf_counter_ns() - began) / 1e6
    counted = taken[warm_up:]
    quantiles = {f"q{round(100 * q):02d}": float(np.quantile(counted, q)) for q in (0.05, 0.25, 0.75, 0.95, 0.99)}
    return {"mean": float(counted.mean()), "median": float(np.median(counted)), **quantiles}


def main(engine: str, run: str, seed: str, observations: str, warm_up: str) -> None:
    """Prints one line of JSON."""
    began = time.perf_counter()
    act = ENGINES[engine](Path(run), int(seed))
    loaded = time.perf_counter() - began
    ms = measure(act, np.load(observations, allow_pickle=False), int(warm_up))
    print(json.dumps({"ms": ms, "load": loaded, "peak_mib": peak_memory_mib(), "jax_loaded": "jax" in sys.modules}))


if __name__ == "__main__":
    main(*sys.argv[1:])
