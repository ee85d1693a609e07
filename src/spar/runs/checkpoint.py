"""Training checkpoints (orbax): complete or absent, the two newest kept."""

from __future__ import annotations

import errno
import logging
import os
import warnings
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
    """The checkpoints of one run. `steps` are the updates of each stage, which turn a position into one running count. A `reader` changes
    nothing in `folder`; else what a killed or full disk's save has left there goes."""

    def __init__(self, folder: Path, steps: Sequence[int], reader: bool = False) -> None:
        self.folder, self.steps = folder, list(steps)
        options = ocp.CheckpointManagerOptions(
            max_to_keep=2, create=not reader, read_only=reader, cleanup_tmp_directories=not reader, enable_async_checkpointing=False
        )
        self.manager = ocp.CheckpointManager(folder.absolute(), options=options)

    def save(self, snapshot: Snapshot) -> None:
        """Raises OSError where the disk is full."""
        tree = {"state": snapshot.state, "guard": snapshot.guard}
        try:
            self.manager.save(self._count(snapshot.position), args=ocp.args.StandardSave(tree))
        except ValueError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.folder)) from error

    def latest(self, like: Snapshot) -> Snapshot | None:
        """The newest checkpoint that can be read, with the structure of `like`; None when there is none. One that cannot is said to be so
        in a warning. Raises SparError where none can."""
        shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, {"state": like.state, "guard": like.guard})
        counts = sorted(self.manager.all_steps(), reverse=True)
        for count in counts:
            try:
                tree = self.manager.restore(count, args=ocp.args.StandardRestore(shapes))
            except Exception as error:  # noqa: BLE001 (orbax raises whatever its readers do, all of which mean this)
                warnings.warn(f"{self.folder / str(count)}: cannot be read ({type(error).__name__})", stacklevel=2)
            else:
                return Snapshot(self._position(count), tree["state"], Guard(*tree["guard"]))
        if counts:
            raise SparError(f"{self.folder}: none of its checkpoints can be read ({', '.join(map(str, counts))}); train the run again")
        return None

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
    checkpoints = Checkpoints(folder, trainer.stage_steps(algo, cfg.steps_anchor, cfg.steps_residual), reader=True)
    try:
        snapshot = checkpoints.latest(like)
    finally:
        checkpoints.close()
    if snapshot is None:
        raise SparError(f"{folder}: holds no complete checkpoint; train the run again")
    index = np.asarray([cfg.seeds.index(seed) for seed in seeds])
    return jax.tree.map(lambda leaf: leaf[index], snapshot.state)
