"""What a fine-tuning goes on from where it was cut off: checkpoints of the learner, and what was lived, a file between two of them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from spar import trainer
from spar.online.loop import Loop
from spar.runs.checkpoint import Checkpoints
from spar.types import Transitions


class Lived:
    """In `folder`: `checkpoints/` (orbax) and `lived/FIRST-END.safetensors`, the rows of all seeds, (S, n, ...), scaled as they train."""

    def __init__(self, folder: Path, steps: int) -> None:
        self.rows = folder / "lived"
        self.rows.mkdir(exist_ok=True)
        self.checkpoints = Checkpoints(folder / "checkpoints", [steps])
        self.until = 0  # the step up to which rows are kept

    def keep(self, learner: Loop) -> None:
        """Rows first: those beyond the newest checkpoint are lived again, missing ones could not be."""
        fresh = {name: np.ascontiguousarray(x) for name, x in learner.lived(self.until)._asdict().items() if x is not None}
        path = self.rows / f"{self.until:010d}-{learner.done:010d}.safetensors"
        temporary = path.with_name(f".{path.name}.tmp")
        save_file(fresh, temporary)
        temporary.replace(path)
        self.checkpoints.save(trainer.Snapshot(trainer.Position(0, learner.done), learner.state, learner.guard))
        self.until = learner.done

    def recall(self, like: Loop) -> tuple[trainer.Snapshot, Transitions] | None:
        """The newest checkpoint and what was lived up to it; None where there is none. `like` is a learner that has not begun."""
        snapshot = self.checkpoints.latest(trainer.Snapshot(trainer.Position(0, 0), like.state, like.guard))
        self.until = snapshot.position.step if snapshot else 0
        parts = []
        for path in sorted(self.rows.iterdir()):
            if (
                path.name.startswith(".") or int(path.name.split("-")[0]) >= self.until
            ):  # of a process that was killed before its checkpoint
                path.unlink()
            else:
                parts.append(load_file(path))
        if snapshot is None:
            return None
        return snapshot, Transitions(**{name: np.concatenate([part[name] for part in parts], 1) for name in parts[0]})  # type: ignore[arg-type]

    def close(self) -> None:
        self.checkpoints.close()

    def forget(self) -> None:
        """After the end nothing goes on from here. To be called once closed."""
        for folder in (self.rows, Path(self.checkpoints.manager.directory)):
            shutil.rmtree(folder)
