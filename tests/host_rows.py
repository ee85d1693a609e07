"""Trains argv[1] with rows on the host, argv[2] seeds side by side or in turn, argv[3] memory-mapped or not, and with rows on the device.

Run by test_trainer.py as a process of its own, without the XLA flags of the tests: batches that are drawn in the compiled program and
batches that come ready-made are the same numbers, but only XLA's usual fusions round them alike.
"""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

import numpy as np

from spar import trainer
from spar.data import blocks
from spar.data.episodes import HostRows
from tests.test_trainer import LOG, SETTINGS, STEPS, equal, fit, registry, tiny


def filled(allocate: blocks.Allocate, array: np.ndarray) -> np.ndarray:
    out = allocate(array.shape)
    out[:] = array
    return out


def main(algo: str, how: Any, where: str) -> None:
    trainer.FEED_BYTES = 5000  # a chunk's batches come in several parts
    log = dataclasses.replace(LOG, observations=filled(blocks.mapped, LOG.observations)) if where == "mapped" else LOG
    assert log.is_mapped is (where == "mapped")
    settings = dataclasses.replace(SETTINGS, seeds=how)
    record, cfg = registry.get(algo), tiny(algo)
    start = trainer.start(record, cfg, LOG.spec, [3, 5])
    host = trainer.run(record, cfg, HostRows(log, LOG.scaler()), [3, 5], STEPS[algo], settings, start, lambda chunk: None)
    device, _ = fit(algo, [3, 5], STEPS[algo], settings)
    equal(host.state, device.state, exactly=True)
    print("equal")


if __name__ == "__main__":
    main(*sys.argv[1:])
