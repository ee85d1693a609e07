"""D4RL's datasets by name (Fu et al. 2020): where each file lies, and which environment of today succeeds its task.

The cache is D4RL's own: $D4RL_DATASET_DIR, or `.d4rl/datasets` in the home folder, files under the last part of their address.
$SPAR_D4RL_MIRRORS, base addresses with commas between them, are asked before D4RL's own server.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import h5py

from spar.data.blocks import Allocate, heap
from spar.data.download import Progress, download
from spar.data.episodes import Log
from spar.data.sources import d4rl
from spar.types import SparError

BASE = "http://rail.eecs.berkeley.edu/datasets/offline_rl"
FOLDER_VARIABLE, MIRRORS_VARIABLE = "D4RL_DATASET_DIR", "SPAR_D4RL_MIRRORS"
SIGNATURE = b"\x89HDF\r\n\x1a\n"


@dataclass(frozen=True)
class Dataset:
    """One D4RL name.

    `env_id` is the task of gymnasium or gymnasium-robotics that succeeds it, its observation that of `observation_keys` joined; None where
    there is none: D4RL's Ant has 111 numbers, its kitchen 60, its eval mazes other walls, and its AntMaze another ant, steps twice as
    long, and positions counted from the start, y growing downwards.
    """

    name: str
    path: str  # of the file, below a base address
    env_id: str | None
    horizon: int  # steps after which D4RL's evaluation stops
    observation_keys: tuple[str, ...] = ()

    @property
    def file(self) -> str:
        return PurePosixPath(self.path).name


def _locomotion() -> Iterator[Dataset]:
    kinds = ("random", "medium", "expert", "medium-replay", "full-replay", "medium-expert")
    for robot, env_id in (("halfcheetah", "HalfCheetah-v5"), ("hopper", "Hopper-v5"), ("walker2d", "Walker2d-v5"), ("ant", None)):
        for kind in kinds:
            stem = f"{robot}_{kind.replace('-', '_')}"
            for version in ("v1", "v2"):
                yield Dataset(f"{robot}-{kind}-{version}", f"gym_mujoco_{version}/{stem}-{version}.hdf5", env_id, 1000)
            if kind == "medium-replay":
                stem = f"{robot.removesuffix('2d')}_mixed"
            if kind != "full-replay":
                yield Dataset(f"{robot}-{kind}-v0", f"gym_mujoco/{stem}.hdf5", env_id, 1000)
    yield Dataset("ant-random-expert-v0", "gym_mujoco/ant_random_expert.hdf5", None, 1000)


def _antmaze() -> Iterator[Dataset]:
    tasks = {  # multistart, multigoal
        "umaze": (False, False),
        "umaze-diverse": (True, True),
        "medium-play": (True, False),
        "medium-diverse": (True, True),
        "large-play": (True, False),
        "large-diverse": (True, True),
    }
    layouts = {"umaze": ("u-maze", 700), "medium": ("big-maze", 1000), "large": ("hardest-maze", 1000)}
    for task, (multistart, multigoal) in tasks.items():
        size = task.split("-")[0]
        layout, horizon = layouts[size]
        for version, pattern in (
            ("v0", f"ant_maze_new/Ant_maze_{layout}_noisy_multistart_%s_multigoal_%s_sparse.hdf5"),
            ("v1", f"ant_maze_v1/Ant_maze_{size}_noisy_multistart_%s_multigoal_%s_sparse.hdf5"),
            ("v2", f"ant_maze_v2/Ant_maze_{layout}_noisy_multistart_%s_multigoal_%s_sparse_fixed.hdf5"),
        ):
            path = pattern % (multistart, multigoal)
            yield Dataset(f"antmaze-{task}-{version}", path, None, horizon, ("achieved_goal", "observation"))


def _adroit() -> Iterator[Dataset]:
    for task, horizon in (("pen", 100), ("door", 200), ("hammer", 200), ("relocate", 200)):
        env_id = f"AdroitHand{task.capitalize()}-v1"
        for kind, old in (("human", "v0_demos_clipped"), ("cloned", "demos-v0-bc-combined"), ("expert", "v0_expert_clipped")):
            yield Dataset(f"{task}-{kind}-v0", f"hand_dapg/{task}-{old}.hdf5", env_id, horizon)
            yield Dataset(f"{task}-{kind}-v1", f"hand_dapg_v1/{task}-{kind}-v1.hdf5", env_id, horizon)


def _maze2d() -> Iterator[Dataset]:
    """Without an environment: gymnasium-robotics' PointMaze places its origin elsewhere and draws a goal that the observation lacks."""
    layouts = {"open": {"v0": 150}, "umaze": {"v0": 150, "v1": 300}, "medium": {"v0": 250, "v1": 600}, "large": {"v0": 600, "v1": 800}}
    layouts |= {f"eval-{size}": {"v1": horizons["v1"]} for size, horizons in layouts.items() if "v1" in horizons}
    for layout, horizons in layouts.items():
        for version, horizon in horizons.items():
            ending = ".hdf5" if version == "v0" else f"-{version}.hdf5"
            for infix, reward in (("", "sparse"), ("-dense", "dense")):
                yield Dataset(f"maze2d-{layout}{infix}-{version}", f"maze2d/maze2d-{layout}-{reward}{ending}", None, horizon)


def _kitchen() -> Iterator[Dataset]:
    subtasks = {
        "complete": "mini_kitchen_microwave_kettle_light_slider",
        "partial": "kitchen_microwave_kettle_light_slider",
        "mixed": "kitchen_microwave_kettle_bottomburner_light",
    }
    for kind, stem in subtasks.items():
        yield Dataset(f"kitchen-{kind}-v0", f"kitchen/{stem}-v0.hdf5", None, 280)


DATASETS = {d.name: d for family in (_locomotion, _antmaze, _adroit, _maze2d, _kitchen) for d in family()}
FILES = {d.file: d for d in DATASETS.values()}


def find(name: str) -> Dataset | None:
    """The dataset of that D4RL name, or None."""
    return DATASETS.get(name)


def folder() -> Path:
    """Where the files lie, or will."""
    return Path(os.environ.get(FOLDER_VARIABLE) or Path("~") / ".d4rl" / "datasets").expanduser()


def bases() -> list[str]:
    """Base addresses in the order in which they are asked. Raises SparError for a mirror that is no web address."""
    mirrors = [base.strip().rstrip("/") for base in os.environ.get(MIRRORS_VARIABLE, "").split(",") if base.strip()]
    for mirror in mirrors:
        if urlsplit(mirror).scheme not in ("http", "https") or not urlsplit(mirror).hostname:
            raise SparError(f"{MIRRORS_VARIABLE}: '{mirror}' is not a base address; give http://... or https://..., commas between them")
    return [*mirrors, BASE]


def fetch(name: str, progress: Progress | None = None) -> Path:
    """The file of that D4RL name, from the cache or downloaded into it.

    Raises SparError for a name that D4RL does not have, and when no server gives the file.
    """
    dataset = find(name)
    if dataset is None:
        close = difflib.get_close_matches(name, DATASETS, 3)
        raise SparError(f"D4RL has no dataset '{name}'{'; did you mean ' + ', '.join(close) if close else ''}")
    return download(
        [f"{base}/{dataset.path}" for base in bases()],
        folder() / dataset.file,
        SIGNATURE,
        check=_opens,
        hint=f", or name a mirror in {MIRRORS_VARIABLE}",
        progress=progress or (lambda done, total: None),
    )


def _opens(path: Path) -> None:
    """Raises SparError where HDF5 finds the file damaged, or shorter than it says it is."""
    try:
        h5py.File(path, "r", locking=False).close()  # we hold the lock ourselves
    except OSError as error:
        raise SparError(f"{path}: not a readable HDF5 file ({str(error).splitlines()[0]})") from None


def read(name: str, strict: bool = True, allocate: Allocate = heap, lazy: bool = False, progress: Progress | None = None) -> Log:
    """The log of that D4RL name (`spar.data.sources.d4rl.read`), fetched first where it is not in the cache."""
    path = fetch(name, progress)
    log = d4rl.read(path, name, DATASETS[name].env_id, strict, allocate, lazy)
    return dataclasses.replace(log, observation_keys=DATASETS[name].observation_keys)
