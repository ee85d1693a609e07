"""Training checkpoints (orbax): complete or absent, the two newest kept."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from spar import files, registry, trainer
from spar.runs.config import RunConfig
from spar.trainer import Guard, Position, Snapshot
from spar.types import SparError, Spec, State

logging.getLogger("absl").setLevel(logging.CRITICAL)  # orbax narrates every save, and what it raises besides

STEPS = "steps.json"


class Checkpoints:
    """The checkpoints of one run. `steps` are the updates of each stage, which turn a position into one running count, and are kept beside
    them (folders of older versions have no such file). A `reader` changes nothing in `folder`; else what a killed or full disk's save has
    left there goes.

    Raises SparError where `folder` holds the checkpoints of a run of other steps.
    """

    def __init__(self, folder: Path, steps: Sequence[int], reader: bool = False) -> None:
        self.folder, self.steps, self.reader = folder, list(steps), reader
        known = folder / STEPS
        began = files.read_json(known, "delete the file, unless steps have been changed", list) if known.is_file() else self.steps
        if began != self.steps:
            raise self._other_steps(f"{' + '.join(map(str, began))} updates")
        options = ocp.CheckpointManagerOptions(
            max_to_keep=2, create=not reader, read_only=reader, cleanup_tmp_directories=not reader, enable_async_checkpointing=False
        )
        self.manager = ocp.CheckpointManager(folder.absolute(), options=options)
        if beyond := [count for count in self.manager.all_steps() if count > sum(self.steps)]:
            self.manager.close()
            raise self._other_steps(f"at least {max(beyond)} updates")
        if not reader and not known.is_file():
            files.write_json(known, self.steps)
        self.good: set[int] = set()  # those that this process has written or read

    def save(self, snapshot: Snapshot) -> None:
        """Raises OSError where the disk is full, SparError where a checkpoint that nobody has read stands in the way."""
        tree, count = {"state": snapshot.state, "guard": snapshot.guard}, self._count(snapshot.position)
        if count in self.good:
            return
        try:
            saved = self.manager.save(count, args=ocp.args.StandardSave(tree))
        except ValueError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.folder)) from error
        if not saved:  # orbax writes over none, and nothing before the newest
            raise SparError(f"{self.folder / str(self.manager.latest_step())}: is in the way of checkpoint {count}; move it elsewhere")
        self.good.add(count)

    def latest(self, like: Snapshot) -> Snapshot | None:
        """The newest checkpoint that can be read, with the structure of `like`; None when there is none. One that cannot is said to be so
        in a warning and, unless this is a reader, deleted, so that it can be made again. Raises SparError where none can."""
        counts = sorted(self.manager.all_steps(), reverse=True)
        damaged: list[int] = []
        for count in counts:
            try:
                snapshot = self._read(count, like)
            except Exception as error:  # noqa: BLE001 (orbax raises whatever its readers do, all of which mean this)
                warnings.warn(f"{self.folder / str(count)}: cannot be read ({type(error).__name__})", stacklevel=2)
                damaged.append(count)
            else:
                for worse in () if self.reader else damaged:
                    self.manager.delete(worse)
                return snapshot
        if counts:
            raise SparError(f"{self.folder}: none of its checkpoints can be read ({', '.join(map(str, counts))}); train the run again")
        return None

    def last(self, like: Snapshot) -> Snapshot:
        """The checkpoint at the end of the last stage, with the structure of `like`. Raises SparError where it is not there or cannot be
        read: an earlier one is of another policy."""
        count = sum(self.steps)
        path = self.folder / str(count)
        if count not in self.manager.all_steps():
            raise SparError(f"{path}: the checkpoint of the run's end is not there; train the run again")
        try:
            return self._read(count, like)
        except Exception as error:  # noqa: BLE001 (as above)
            raise SparError(
                f"{path}: the checkpoint of the run's end cannot be read ({type(error).__name__}); train the run again"
            ) from None

    def _read(self, count: int, like: Snapshot) -> Snapshot:
        shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, {"state": like.state, "guard": like.guard})
        with _quietly():
            tree = self.manager.restore(count, args=ocp.args.StandardRestore(shapes))
        self.good.add(count)
        return Snapshot(self._position(count), tree["state"], Guard(*tree["guard"]))

    def close(self) -> None:
        self.manager.close()

    def _count(self, position: Position) -> int:
        return sum(self.steps[: position.stage]) + position.step

    def _position(self, count: int) -> Position:
        """The end of a stage rather than the beginning of the next."""
        stage = 0
        while count > self.steps[stage]:
            stage, count = stage + 1, count - self.steps[stage]
        return Position(stage, count)

    def _other_steps(self, began: str) -> SparError:
        now = " + ".join(map(str, self.steps))
        return SparError(f"{self.folder}: is of a run of {began}, config.json now says {now}; put its steps back, or begin a new run")


def last_state(run: Path, cfg: RunConfig, spec: Spec, seeds: Sequence[int]) -> State:
    """The chosen seeds of the run directory `run` at the end of its training, optimiser states included.

    Raises SparError when the checkpoint of the run's end is gone or damaged.
    """
    algo, folder = registry.get(cfg.algo), run / "checkpoints"
    if not folder.is_dir():
        raise SparError(f"{run}: no checkpoints here; this goes on from the run's last one, train the run again")
    fresh = jax.eval_shape(lambda: trainer.start(algo, cfg.config, spec, cfg.seeds))
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here), fresh)
    checkpoints = Checkpoints(folder, trainer.stage_steps(algo, cfg.steps_anchor, cfg.steps_residual), reader=True)
    try:
        snapshot = checkpoints.last(like)
    finally:
        checkpoints.close()
    index = np.asarray([cfg.seeds.index(seed) for seed in seeds])
    return jax.tree.map(lambda leaf: leaf[index], snapshot.state)


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Where one array cannot be read, orbax gives up the others, which then complain, some of them much later, that nobody waits for them:
    a dozen tracebacks beside the error itself. Stays so after an error."""
    usual = sys.unraisablehook

    def unless_given_up(found: Any) -> None:
        if "Event loop is closed" not in str(found.exc_value) and "_read_array" not in repr(found.object):
            usual(found)

    sys.unraisablehook = unless_given_up
    yield
    sys.unraisablehook = usual
