"""Updates per second of TD3+BC, IQL and CQL here and in d3rlpy, in one run: same networks, batch, data and cores.

    taskset -c 0 python benchmarks/peers_speed.py [--algos td3bc iql cql] [--updates 300] [--rounds 3] [--json FILE] [--docs]

Needs d3rlpy 2.8 and torch. Absolute numbers mean little on a shared machine; read the ratios. The two take turns, `rounds` times, and
medians are reported. Ours draws its batches from the data on the device, as in training, `updates` in one dispatch. Theirs is measured
twice: as in its own training loop (a batch drawn from its replay buffer for every update), and on one batch already drawn, which leaves
out the cost of drawing and so flatters it. Compilation and the first updates are left out on both sides.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

CORES = len(os.sched_getaffinity(0))
os.environ.setdefault("OMP_NUM_THREADS", str(CORES))

import d3rlpy  # noqa: E402
import jax  # noqa: E402
import page  # noqa: E402
import torch  # noqa: E402
from d3rlpy.models import VectorEncoderFactory  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from spar import registry, trainer  # noqa: E402
from spar.data import catalog  # noqa: E402
from spar.data.episodes import Log  # noqa: E402
from spar.types import Spec  # noqa: E402

HIDDEN, BATCH, SAMPLES = (256, 256), 256, 10
COST = {"cql": 10}  # an update costs about so many of the others': fewer are measured
ENCODER = {f"{name}_encoder_factory": VectorEncoderFactory(list(HIDDEN)) for name in ("actor", "critic")}
THEIRS: dict[str, Any] = {
    "td3bc": d3rlpy.algos.TD3PlusBCConfig(batch_size=BATCH, **ENCODER),
    "iql": d3rlpy.algos.IQLConfig(batch_size=BATCH, value_encoder_factory=VectorEncoderFactory(list(HIDDEN)), **ENCODER),
    "cql": d3rlpy.algos.CQLConfig(batch_size=BATCH, n_action_samples=SAMPLES, **ENCODER),
}


def rate(call: Callable[[], Any], updates: int) -> float:
    """Updates per second of a call that makes `updates` of them."""
    began = time.perf_counter()
    call()
    return updates / (time.perf_counter() - began)


def ours(algo: str, log: Log, updates: int) -> Callable[[], Any]:
    """A call that makes `updates` updates in one dispatch."""
    record = registry.get(algo)
    cfg = record.default
    parts = {name: dataclasses.replace(getattr(cfg, name), hidden=HIDDEN) for name in ("actor", "critic")}
    cfg = dataclasses.replace(cfg, **parts)
    if algo == "cql":
        cfg = dataclasses.replace(cfg, samples=SAMPLES, gap=10.0)
    settings, rows = trainer.Settings(batch_size=BATCH, log_every=updates), log.transitions(log.scaler())
    start = trainer.start(record, cfg, Spec(rows.obs.shape[1], rows.action.shape[1]), [0])

    def run(count: int = updates) -> Any:
        return jax.block_until_ready(trainer.run(record, cfg, rows, [0], [count], settings, start, lambda chunk: None))

    run(2)
    return run


def theirs(algo: str, log: Log) -> tuple[Callable[[int], None], Callable[[int], None]]:
    """Calls that make so many updates: drawing each batch, and on one batch."""
    scaler, terminals = log.scaler(), log.terminated.astype(np.float32)
    dataset = d3rlpy.dataset.MDPDataset(
        scaler.obs_in(log.observations[log.obs_index]), scaler.action_in(log.actions), log.rewards, terminals,
        timeouts=(log.truncated & ~log.terminated).astype(np.float32),
    )  # fmt: skip
    learner = THEIRS[algo].create(device="cpu:0")
    learner.build_with_dataset(dataset)
    fixed = dataset.sample_transition_batch(BATCH)

    def training(count: int) -> None:
        for _ in range(count):
            learner.update(dataset.sample_transition_batch(BATCH))

    def updating(count: int) -> None:
        for _ in range(count):
            learner.update(fixed)

    training(10)
    return training, updating


def measure(algo: str, log: Log, updates: int, rounds: int) -> dict[str, Any]:
    updates = max(20, updates // COST.get(algo, 1))
    mine = ours(algo, log, updates)
    training, updating = theirs(algo, log)
    few = max(10, updates // 5)
    found: dict[str, list[float]] = {"ours": [], "theirs": [], "theirs_fixed_batch": []}
    for _ in range(rounds):
        found["ours"].append(rate(mine, updates))
        found["theirs"].append(rate(lambda: training(few), few))
        found["theirs_fixed_batch"].append(rate(lambda: updating(few), few))
    middle = {name: float(np.median(values)) for name, values in found.items()}
    ratios = {"ratio": middle["ours"] / middle["theirs"], "ratio_fixed_batch": middle["ours"] / middle["theirs_fixed_batch"]}
    return {"algo": algo, **middle, **ratios, "rounds": found}


HEADER = ("algorithm", "here, updates/s", "d3rlpy, updates/s", "ratio", "d3rlpy on one batch", "ratio")


def cells(record: dict[str, Any]) -> tuple[str, ...]:
    return (
        record["algo"], f"{record['ours']:.0f}", f"{record['theirs']:.0f}", f"{record['ratio']:.2f}",
        f"{record['theirs_fixed_batch']:.0f}", f"{record['ratio_fixed_batch']:.2f}",
    )  # fmt: skip


def markdown(document: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in document["versions"].items())
    about = f"Batch {document['batch']}, networks {' x '.join(map(str, document['hidden']))}, {document['cores']} cores; {versions}."
    return f"{page.table(HEADER, map(cells, document['records']))}\n\n{about}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--algos", nargs="+", default=list(THEIRS), choices=list(THEIRS))
    parser.add_argument(
        "--updates", type=int, default=300, help="of ours in a measured dispatch; a fifth as many of theirs, a tenth of both for CQL"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="also write the records to this new file")
    arguments = parser.parse_args()
    torch.set_num_threads(CORES)
    d3rlpy.logging.LOG.disabled = True
    log = catalog.load("hopper-replay")
    records = [measure(algo, log, arguments.updates, arguments.rounds) for algo in arguments.algos]
    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in HEADER:
        table.add_column(title, justify="left" if title == HEADER[0] else "right")
    for record in records:
        table.add_row(*cells(record))
    Console().print(table)
    versions = {"jax": jax.__version__, "torch": torch.__version__, "d3rlpy": d3rlpy.__version__}
    document = {"cores": CORES, "batch": BATCH, "hidden": HIDDEN, "versions": versions, "records": records}
    if arguments.json:
        with arguments.json.open("x") as file:
            json.dump(document, file, indent=2)
    if arguments.docs:
        page.put(page.ROOT / "docs" / "peers.md", "speed", markdown(document))


if __name__ == "__main__":
    main()
