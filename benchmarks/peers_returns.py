"""Returns of BC, TD3+BC, IQL, AWAC and CQL here and in d3rlpy, after equal updates on the embedded log: do they agree within noise?

    python benchmarks/peers_returns.py [--algos bc td3bc iql] [--updates 10000] [--seeds 0 1 2] [--episodes 10] [--docs]

Needs d3rlpy 2.8 and torch. Both sides get the same standardised observations, batches of 256, networks of 256 x 256, equal settings, and
are rolled out from equal start states in the log's environment; the entropy bonus that d3rlpy's AWAC adds to its targets is taken out, CQL
has one on both sides. What cannot be set equal: in d3rlpy the log sigma of AWAC and IQL is a sigmoid between two bounds, and its CQL starts
from PyTorch's weights, ours from CORL's. They draw their own weights and batches, so returns can only
agree in distribution: the table gives the difference of the means with its 95 % interval over seeds and episodes. Results are kept in
results/peers-returns.json, an algorithm at a time; what is there is not computed again. An algorithm whose update costs more can be run
alone with fewer of them: the table says how many, and holds all that was kept.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import d3rlpy
import jax
import numpy as np
import page
import torch
from d3rlpy.models import VectorEncoderFactory

from spar import api, files, registry
from spar.data import catalog
from spar.data.episodes import Log
from spar.evaluate import rollout, stats
from spar.runs import environment
from spar.runs.config import DataConfig, EvalConfig
from spar.runs.outcome import FINAL_SEED
from spar.trainer import Settings
from spar.types import DataNeeds

HIDDEN, BATCH, RATE = (256, 256), 256, 3e-4
NO_BONUS = -50.0  # of the logarithm of the entropy temperature
RESULTS = page.ROOT / "results" / "peers-returns.json"


def _encoders(*names: str) -> dict[str, Any]:
    return {f"{name}encoder_factory": VectorEncoderFactory(list(HIDDEN)) for name in names}


BOTH = {**_encoders("actor_", "critic_"), "actor_learning_rate": RATE, "critic_learning_rate": RATE, "batch_size": BATCH}
THEIRS: dict[str, Any] = {
    "bc": d3rlpy.algos.BCConfig(batch_size=BATCH, learning_rate=RATE, **_encoders("")),
    "td3bc": d3rlpy.algos.TD3PlusBCConfig(**BOTH),
    "iql": d3rlpy.algos.IQLConfig(**BOTH, **_encoders("value_")),
    "awac": d3rlpy.algos.AWACConfig(**BOTH),
    "cql": d3rlpy.algos.CQLConfig(**(BOTH | {"actor_learning_rate": 1e-4}), conservative_weight=5.0, soft_q_backup=True),
}
SAME: dict[str, dict[str, Any]] = {  # what of d3rlpy's settings differs from ours
    "iql": {"decay_steps": 0},
    "awac": {"temperature": 1.0, "weights": "softmax", "bounded": True},
    "cql": {
        "weight": 5.0,
        "gap": 10.0,
        "temperature_rate": 1e-4,
        "multiplier_rate": 1e-4,
        "multiplier_start": 0.0,
        "log_std_offset": 0.0,
        "backup_entropy": True,
    },
}
RATES = {"cql": 1e-4}  # of the actor


def ours(algo: str, log: Log, updates: int, seeds: Sequence[int], episodes: int) -> list[list[float]]:
    """Returns [seed][episode] of the last checkpoint."""
    cfg = dataclasses.replace(registry.get(algo).default, **SAME.get(algo, {}))
    rates = {"actor": RATES.get(algo, RATE), "critic": RATE}
    parts = {
        name: dataclasses.replace(getattr(cfg, name), hidden=HIDDEN, learning_rate=rates[name]) for name in rates if hasattr(cfg, name)
    }
    with tempfile.TemporaryDirectory() as folder:
        run = api.train(
            log, algo, dataclasses.replace(cfg, **parts), out=Path(folder) / "run", seeds=seeds, episodes=episodes,
            steps_anchor=updates // 2, steps_residual=updates - updates // 2, eval=EvalConfig(every=0),
            data=DataConfig(holdout=0.0), needs=DataNeeds(), loop=Settings(BATCH, 500),
        )  # fmt: skip
        return [list(map(float, row)) for row in run.summary["returns"]["policy"]]


def theirs(algo: str, log: Log, updates: int, seeds: Sequence[int], episodes: int) -> list[list[float]]:
    """The same in d3rlpy."""
    scaler, env = log.scaler(), api.environment_for(api.configure(log.name, algo), log)
    assert env is not None
    evaluator = rollout.Evaluator(env, log.spec)
    dataset = d3rlpy.dataset.MDPDataset(
        scaler.obs_in(log.observations[log.obs_index]), scaler.action_in(log.actions), log.rewards, log.terminated.astype(np.float32),
        timeouts=(log.truncated & ~log.terminated).astype(np.float32),
    )  # fmt: skip
    found = []
    for seed in seeds:
        d3rlpy.seed(seed)
        learner = THEIRS[algo].create(device="cpu:0")
        learner.build_with_dataset(dataset)
        if algo == "awac":
            torch.nn.init.constant_(learner.impl.modules.log_temp._parameter, NO_BONUS)
        for _ in range(updates):
            learner.update(dataset.sample_transition_batch(BATCH))
        found.append(evaluator.run(acting(learner, scaler), episodes, FINAL_SEED).returns.tolist())
    evaluator.close()
    return found


def acting(learner: Any, scaler: Any) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    def act(obs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        action = learner.predict(np.asarray(scaler.obs_in(obs), np.float32))
        return scaler.action_out(np.clip(action, -1.0, 1.0)), np.ones(len(obs), bool)

    return act


HEADER = ("algorithm", "updates", "here", "95 % interval", "d3rlpy", "95 % interval", "difference", "95 % interval")


def cells(algo: str, record: dict[str, Any]) -> tuple[str, ...]:
    intervals = [stats.bootstrap(np.asarray(record[side])) for side in ("ours", "theirs")]
    intervals.append(stats.paired_gain(np.asarray(record["ours"]), np.asarray(record["theirs"])))
    return (algo, f"{record['updates']:,}", *(text for i in intervals for text in (f"{i.mean:.0f}", f"[{i.low:.0f}, {i.high:.0f}]")))


def markdown(records: dict[str, Any]) -> str:
    first = next(iter(records.values()))
    versions = ", ".join(f"{name} {version}" for name, version in first["versions"].items())
    episodes = len(first["ours"][0])
    about = (
        f"{first['dataset']} ({first['fingerprint']}), seeds {', '.join(map(str, first['seeds']))}, "
        f"{episodes} episodes each, last checkpoint; {versions}; commits {', '.join(sorted({r['commit'][:7] for r in records.values()}))}. "
        "Raw returns: `results/peers-returns.json`."
    )
    return f"{page.table(HEADER, (cells(algo, records[algo]) for algo in THEIRS if algo in records))}\n\n{about}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--algos", nargs="+", default=list(THEIRS), choices=list(THEIRS))
    parser.add_argument("--updates", type=int, default=10_000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--episodes", type=int, default=10)
    parser.add_argument("--docs", action="store_true", help="also put the table between the marks of docs/peers.md")
    arguments = parser.parse_args()
    d3rlpy.logging.LOG.disabled = True
    log = catalog.load("hopper-replay")
    records: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    for algo in arguments.algos:
        about = {
            "dataset": log.name, "fingerprint": log.fingerprint, "updates": arguments.updates, "seeds": arguments.seeds,
            "settings": {**SAME.get(algo, {}), "actor_rate": RATES.get(algo, RATE), "hidden": list(HIDDEN), "no_bonus": NO_BONUS},
            "versions": {"jax": jax.__version__, "torch": torch.__version__, "d3rlpy": d3rlpy.__version__},
        }  # fmt: skip
        before = records.get(algo, {})
        if any(before.get(key) != value for key, value in about.items()) or len(before["ours"][0]) != arguments.episodes:
            sides = {
                name: side(algo, log, arguments.updates, arguments.seeds, arguments.episodes)
                for name, side in (("ours", ours), ("theirs", theirs))
            }
            records[algo] = {**about, "commit": environment.describe()["commit"] or "unknown", **sides}
            files.write_json(RESULTS, records)
        print(*cells(algo, records[algo]), sep="  ", flush=True)
    if arguments.docs:
        page.put(page.ROOT / "docs" / "peers.md", "returns", markdown(records))


if __name__ == "__main__":
    main()
