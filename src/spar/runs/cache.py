"""What several algorithms share of their first stage, trained once: state and tables under a hash of everything that decides them."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from spar import files, trainer
from spar.runs import environment, tables
from spar.runs.config import RunConfig, to_dict
from spar.runs.tables import Table
from spar.trainer import Guard, Position, Snapshot
from spar.types import Algo, SparError

DECIDING = ("env", "seeds", "loop", "needs", "data", "eval")  # fields of RunConfig, beside the configuration of the shared parts


ROOMS = (
    "types.py",
    "nets.py",
    "ops.py",
    "trainer.py",
    "data",
    "method",
    "baselines",
    "evaluate",
    "runs/rows.py",
)  # of the package: what training runs through


@functools.cache
def code(*rooms: str) -> str:
    """A hash of the sources in `rooms`, by default those that decide what a first stage comes to, committed or not; changes of other files
    leave it alone."""
    package, found = Path(__file__).resolve().parents[1], hashlib.sha256()
    for room in rooms or ROOMS:
        place = package / room
        for path in [place] if place.is_file() else sorted(place.rglob("*.py")):
            found.update(f"{path.relative_to(package)}\n".encode() + path.read_bytes())
    return found.hexdigest()[:16]


def surroundings() -> dict[str, Any]:
    """Versions, machine, commit, and the code that trains."""
    return {**environment.describe(), "code": code()}


class Entry(NamedTuple):
    """What `Cache.recall` finds."""

    snapshot: Snapshot
    metrics: list[tuple[Any, ...]]
    returns: list[tuple[Any, ...]]
    algo: str  # who trained it
    seconds: float  # how long that took


class Cache:
    """The place in `folder` for the first stage of one run; `end` is where that stage ends."""

    def __init__(self, folder: Path, algo: Algo, cfg: RunConfig, fingerprint: str) -> None:
        self.algo, self.end = algo, Position(0, trainer.stage_steps(algo, cfg.steps_anchor, cfg.steps_residual)[0])
        self.decided_by = self._decided_by(cfg, fingerprint)
        text = json.dumps(self.decided_by, sort_keys=True)
        self.path = folder / hashlib.sha256(text.encode()).hexdigest()[:16]

    def recall(self, fresh: Snapshot) -> Entry | None:
        """The end of the first stage, in `fresh` where it says nothing; None where nobody has trained it.

        Raises SparError when what was kept cannot be read.
        """
        if not self.path.is_dir():
            return None
        advice = "delete its folder to train it again"
        try:
            arrays = load_file(self.path / "state.safetensors")
        except (OSError, SafetensorError) as error:
            raise SparError(f"{self.path / 'state.safetensors'}: cannot be read ({error}); {advice}") from None
        paths, structure = jax.tree_util.tree_flatten_with_path(self._shared(fresh))
        tree = jax.tree.unflatten(structure, [jnp.asarray(arrays[jax.tree_util.keystr(path)]) for path, _ in paths])
        guard = Guard(**tree.pop("guard"))
        about = files.read_json(self.path / "about.json", advice)
        return Entry(
            Snapshot(self.end, fresh.state._replace(**tree), guard),
            list(tables.read(self.path / "metrics.csv", tables.METRICS_HEADER)),
            list(tables.read(self.path / "returns.csv", tables.RETURNS_HEADER)),
            about["algo"],
            about["seconds"],
        )

    def keep(self, snapshot: Snapshot, written: Sequence[Table], seconds: float) -> None:
        """Leave the end of the first stage and the tables up to it, whole or not at all; what is there already stays."""
        if self.path.exists():
            return
        leaves = jax.tree_util.tree_leaves_with_path(self._shared(snapshot))
        try:
            with files.new_folder(self.path) as new:
                files.write_arrays(new / "state.safetensors", {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves})
                for table in written:
                    Table(new / table.path.name, table.header, table.rows).write()
                files.write_json(new / "about.json", {"algo": self.algo.name, "seconds": round(seconds, 2), "decided_by": self.decided_by})
        except (OSError, SparError):
            if not self.path.is_dir():  # else another process has left the same there meanwhile
                raise

    def _shared(self, snapshot: Snapshot) -> dict[str, Any]:
        return {**{field: getattr(snapshot.state, field) for field, _ in self.algo.shares}, "guard": snapshot.guard._asdict()}

    def _decided_by(self, cfg: RunConfig, fingerprint: str) -> dict[str, Any]:
        stage, document = self.algo.stages[0], to_dict(cfg)
        return {
            "dataset": fingerprint,
            "stage": [stage.name, stage.update.__module__, stage.update.__qualname__, self.end.step],
            "parts": {
                field: {key: value for key, value in document["config"][part].items() if (part, key) not in self.algo.later}
                for field, part in self.algo.shares
            },
            **{field: document[field] for field in DECIDING},
            **{key: value for key, value in environment.describe().items() if key != "commit"},
            "code": code(),
        }
