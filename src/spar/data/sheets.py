"""The datasets we collect ourselves, by name: their data sheets, and making them again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import Any

from spar.data import catalog
from spar.types import SparError


def find(name: str) -> dict[str, Any] | None:
    """The data sheet of an embedded dataset or one of the suite, or None, as for any path."""
    for part in (Path("embedded"), Path("recipes") / "sheets") if Path(name).name == name else ():
        file = resources.files("spar.data") / str(part) / f"{name}.json"
        if file.is_file():
            return dict(json.loads(file.read_text()))
    return None


def physics_note(name: str) -> str | None:
    """A warning where the dataset was collected with another version of MuJoCo than the one installed: trajectories differ."""
    sheet = find(name)
    recorded = sheet["versions"].get("mujoco") if sheet else None
    installed = version("mujoco")
    if recorded in (None, installed):
        return None
    return f"'{name}' was collected with MuJoCo {recorded}, this is {installed}: equal actions lead elsewhere, returns are not comparable"


def known() -> Iterator[dict[str, Any]]:
    """name, kind (embedded or suite), transitions and mean return where a sheet has them, and where it lies, or how to get it."""
    from spar.data.recipes.names import RECIPES

    for name in [*catalog.EMBEDDED, *RECIPES]:
        sheet = find(name) or {}
        made = catalog.suite_folder() / f"{name}.hdf5"
        yield {
            "name": name,
            "kind": "embedded" if name in catalog.EMBEDDED else "suite",
            "transitions": sheet.get("transitions", sheet.get("rows")),
            "return": sheet.get("returns", {}).get("mean"),
            "where": str(made) if made.is_file() else f"spar data make {name}",
        }


def make(name: str, out: Path, say: Callable[[str], None]) -> None:
    """Make the dataset `name` as the new file `out`, in a process of its own that keeps to one core: how sums are split between cores
    decides their last bits. Raises SparError for what that process says went wrong."""
    command = [sys.executable, "-m", "spar.data.recipes", name, "--out", str(out)]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None and process.stderr is not None
        for line in process.stdout:
            say(line.rstrip())
        errors = process.stderr.read().strip().splitlines()
    if process.returncode:
        raise SparError(errors[-1].removeprefix("spar: ") if errors else f"making '{name}' failed with status {process.returncode}")
    say(same_as_published(name, json.loads(out.with_suffix(".json").read_text())["fingerprint"]))


def same_as_published(name: str, fingerprint: str) -> str:
    """Whether a dataset made just now is, to the bit, the one that our results were measured on."""
    published = (find(name) or {}).get("fingerprint")
    if fingerprint == published:
        return f"fingerprint {fingerprint}: the same as published, to the bit"
    return (
        f"fingerprint {fingerprint}, published {published}: the same recipe, but rounding on this machine led the simulator elsewhere; "
        "returns compare with the published ones as those of another sample"
    )
