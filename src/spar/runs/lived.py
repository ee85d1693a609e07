"""What a fine-tuning goes on from where it was cut off: checkpoints of the learner, and what was lived, a file between two of them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from spar import files, trainer
from spar.online.loop import Loop
from spar.runs.checkpoint import Checkpoints
from spar.types import SparError, Transitions

Metrics = dict[str, np.ndarray]
PENDING = "pending/"  # before the names of metrics that no table has yet
BEGIN_AGAIN = "begin again in a new folder"


class Lived:
    """In `folder`: `checkpoints/` (orbax); `lived/FIRST-END.safetensors`, the rows of all seeds, (S, n, ...), scaled as they train, with
    metrics that were waiting at END; `new-episodes.json`, the steps at which episodes began anew because nothing was lived again."""

    def __init__(self, folder: Path, steps: int) -> None:
        self.rows, self.anew = folder / "lived", folder / "new-episodes.json"
        self.rows.mkdir(exist_ok=True)
        self.checkpoints = Checkpoints(folder / "checkpoints", [steps])
        self.until = 0  # the step up to which rows are kept
        self.junctions: list[int] = files.read_json(self.anew, BEGIN_AGAIN, list) if self.anew.is_file() else []

    def keep(self, learner: Loop, pending: Sequence[Metrics]) -> None:
        """Rows first: those beyond the newest checkpoint are lived again, missing ones could not be."""
        fresh = {name: np.asarray(x) for name, x in learner.lived(self.until)._asdict().items() if x is not None}
        fresh |= {PENDING + name: np.stack([part[name] for part in pending]) for name in (pending[0] if pending else ())}
        files.write_arrays(self.rows / f"{self.until:010d}-{learner.done:010d}.safetensors", fresh)
        self.checkpoints.save(trainer.Snapshot(trainer.Position(0, learner.done), learner.state, learner.guard))
        self.until = learner.done

    def recall(self, like: Loop) -> trainer.Snapshot | None:
        """The newest checkpoint; None where there is none. `like` is a learner that has not begun. Rows beyond it are deleted.

        Raises SparError where rows before it are missing.
        """
        snapshot = self.checkpoints.latest(trainer.Snapshot(trainer.Position(0, 0), like.state, like.guard))
        self.until, end = snapshot.position.step if snapshot else 0, 0
        for path in sorted(self.rows.iterdir()):
            if path.name.startswith(".") or _span(path)[0] >= self.until:  # of a process that was killed before its checkpoint
                path.unlink()
            elif _span(path)[0] == end:
                end = _span(path)[1]
        if end != self.until:
            raise SparError(f"{self.rows}: holds what was lived up to step {end}, the checkpoint is at {self.until}; {BEGIN_AGAIN}")
        return snapshot

    def parts(self) -> Iterator[Transitions]:
        """What was lived up to the checkpoint, piece by piece. Raises SparError where a file cannot be read."""
        for path in sorted(self.rows.iterdir()):
            columns: dict[str, Any] = {name: x for name, x in _load(path).items() if not name.startswith(PENDING)}
            yield Transitions(**columns)

    def pending(self) -> list[Metrics]:
        """What was given to the `keep` that wrote the checkpoint."""
        found = _load(max(self.rows.iterdir()))
        waiting = {name.removeprefix(PENDING): x for name, x in found.items() if name.startswith(PENDING)}
        return [{name: x[i] for name, x in waiting.items()} for i in range(len(next(iter(waiting.values()), ())))]

    def begin_anew(self) -> None:
        """Remember that episodes begin anew at the checkpoint."""
        self.junctions.append(self.until)
        files.write_json(self.anew, self.junctions)

    def close(self) -> None:
        self.checkpoints.close()


def forget(folder: Path) -> None:
    """After the end nothing goes on from here."""
    for name in ("lived", "checkpoints"):
        shutil.rmtree(folder / name, ignore_errors=True)


def _span(path: Path) -> tuple[int, int]:
    first, end = path.stem.split("-")
    return int(first), int(end)


def _load(path: Path) -> dict[str, np.ndarray]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise SparError(f"{path}: cannot be read ({error}); {BEGIN_AGAIN}") from None
