"""Training checkpoints (orbax): complete or absent, the two newest kept."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp

from spar import registry, trainer
from spar.runs.config import RunConfig
from spar.trainer import Guard, Position, Snapshot
from spar.types import SparError, Spec, State

logging.getLogger("absl").setLevel(logging.ERROR)  # orbax narrates every save


class Checkpoints:
    """The checkpoints of one run. `steps` are the updates of each stage, which turn a position into one running count."""

    def __init__(self, folder: Path, steps: Sequence[int]) -> None:
        self.steps = list(steps)
        options = ocp.CheckpointManagerOptions(max_to_keep=2, create=True, enable_async_checkpointing=False)
        self.manager = ocp.CheckpointManager(folder.absolute(), options=options)

    def save(self, snapshot: Snapshot) -> None:
        tree = {"state": snapshot.state, "guard": snapshot.guard}
        self.manager.save(self._count(snapshot.position), args=ocp.args.StandardSave(tree))

    def latest(self, like: Snapshot) -> Snapshot | None:
        """The newest checkpoint, with the structure of `like`; None when there is none."""
        count = self.manager.latest_step()
        if count is None:
            return None
        shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, {"state": like.state, "guard": like.guard})
        tree = self.manager.restore(count, args=ocp.args.StandardRestore(shapes))
        return Snapshot(self._position(count), tree["state"], Guard(*tree["guard"]))

    def close(self) -> None:
        self.manager.close()

    def _count(self, position: Position) -> int:
        return sum(self.steps[: position.stage]) + position.step

    def _position(self, count: int) -> Position:
        """The end of a stage rather than the beginning of the next."""
        for stage, total in enumerate(self.steps):
            if count <= total:
                return Position(stage, count)
            count -= total
        raise ValueError(f"checkpoint beyond the end: {count} steps too many")


def last_state(run: Path, cfg: RunConfig, spec: Spec, seeds: Sequence[int]) -> State:
    """The chosen seeds of the last checkpoint of the run directory `run`, optimiser states included.

    Raises SparError when the run directory holds no checkpoint.
    """
    algo, folder = registry.get(cfg.algo), run / "checkpoints"
    if not folder.is_dir():
        raise SparError(f"{run}: no checkpoints here; this goes on from the run's last one, train the run again")
    fresh = jax.eval_shape(lambda: trainer.start(algo, cfg.config, spec, cfg.seeds))
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here), fresh)
    checkpoints = Checkpoints(folder, trainer.stage_steps(algo, cfg.steps_anchor, cfg.steps_residual))
    try:
        snapshot = checkpoints.latest(like)
    finally:
        checkpoints.close()
    if snapshot is None:
        raise SparError(f"{folder}: holds no complete checkpoint; train the run again")
    index = np.asarray([cfg.seeds.index(seed) for seed in seeds])
    return jax.tree.map(lambda leaf: leaf[index], snapshot.state)
