"""D4RL's names: their files, families and successors, and reading by name through a mirror."""

from __future__ import annotations

from pathlib import Path

import pytest

from spar.data.sources import d4rl, d4rl_names
from spar.data.sources.columns import UNKNOWN, family_of
from spar.types import SparError
from tests.conftest import plant_rows
from tests.test_download import Page, Site, site

__all__ = ["site"]  # the fixture


def test_every_name_has_one_file_one_family_and_its_successor() -> None:
    assert len({dataset.path for dataset in d4rl_names.DATASETS.values()}) == len(d4rl_names.DATASETS)
    for name, dataset in d4rl_names.DATASETS.items():
        family = family_of(name)
        assert family is not UNKNOWN
        assert family == family_of(Path(dataset.file).stem), dataset.file
        if not (name.startswith("maze2d") and name.endswith("v0")):
            assert family.horizon == dataset.horizon, name
        if dataset.env_id is not None:
            assert family == family_of(dataset.env_id), name


PATHS = {
    "halfcheetah-medium-replay-v2": ("gym_mujoco_v2/halfcheetah_medium_replay-v2.hdf5", "HalfCheetah-v5", 1000, ()),
    "hopper-full-replay-v1": ("gym_mujoco_v1/hopper_full_replay-v1.hdf5", "Hopper-v5", 1000, ()),
    "walker2d-medium-replay-v0": ("gym_mujoco/walker_mixed.hdf5", "Walker2d-v5", 1000, ()),
    "walker2d-medium-expert-v0": ("gym_mujoco/walker2d_medium_expert.hdf5", "Walker2d-v5", 1000, ()),
    "ant-medium-v2": ("gym_mujoco_v2/ant_medium-v2.hdf5", None, 1000, ()),
    "antmaze-umaze-diverse-v2": (
        "ant_maze_v2/Ant_maze_u-maze_noisy_multistart_True_multigoal_True_sparse_fixed.hdf5",
        None, 700, ("achieved_goal", "observation"),
    ),
    "antmaze-medium-play-v1": (
        "ant_maze_v1/Ant_maze_medium_noisy_multistart_True_multigoal_False_sparse.hdf5",
        None, 1000, ("achieved_goal", "observation"),
    ),
    "antmaze-large-diverse-v0": (
        "ant_maze_new/Ant_maze_hardest-maze_noisy_multistart_True_multigoal_True_sparse.hdf5",
        None, 1000, ("achieved_goal", "observation"),
    ),
    "pen-cloned-v1": ("hand_dapg_v1/pen-cloned-v1.hdf5", "AdroitHandPen-v1", 100, ()),
    "door-cloned-v0": ("hand_dapg/door-demos-v0-bc-combined.hdf5", "AdroitHandDoor-v1", 200, ()),
    "relocate-human-v0": ("hand_dapg/relocate-v0_demos_clipped.hdf5", "AdroitHandRelocate-v1", 200, ()),
    "hammer-expert-v0": ("hand_dapg/hammer-v0_expert_clipped.hdf5", "AdroitHandHammer-v1", 200, ()),
    "maze2d-open-dense-v0": ("maze2d/maze2d-open-dense.hdf5", None, 150, ()),
    "maze2d-large-v1": ("maze2d/maze2d-large-sparse-v1.hdf5", None, 800, ()),
    "maze2d-eval-medium-dense-v1": ("maze2d/maze2d-eval-medium-dense-v1.hdf5", None, 600, ()),
    "kitchen-complete-v0": ("kitchen/mini_kitchen_microwave_kettle_light_slider-v0.hdf5", None, 280, ()),
    "kitchen-mixed-v0": ("kitchen/kitchen_microwave_kettle_bottomburner_light-v0.hdf5", None, 280, ()),
}  # fmt: skip


@pytest.mark.parametrize("name", PATHS)
def test_names_as_d4rl_has_them(name: str) -> None:
    dataset = d4rl_names.find(name)
    assert dataset is not None
    assert (dataset.path, dataset.env_id, dataset.horizon, dataset.observation_keys) == PATHS[name]


def test_by_name_through_a_mirror_into_d4rls_folder(site: Site, tmp_path: Path, plant_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path / "sets"))
    monkeypatch.setenv("SPAR_D4RL_MIRRORS", f" {site.base}/empty/ ,{site.base}/d4rl")
    site.pages["/d4rl/gym_mujoco_v2/hopper_medium-v2.hdf5"] = page = Page(body=plant_file.read_bytes())
    log = d4rl_names.read("hopper-medium-v2")
    assert (log.name, log.env_id) == ("hopper-medium-v2", "Hopper-v5")
    assert log.fingerprint == d4rl.read(plant_file).fingerprint
    assert d4rl_names.fetch("hopper-medium-v2") == tmp_path / "sets" / "hopper_medium-v2.hdf5"
    assert len(page.asked) == 1

    monkeypatch.setattr(d4rl_names, "BASE", f"{site.base}/none")
    site.pages["/d4rl/hand_dapg_v1/pen-human-v1.hdf5"] = Page(body=plant_file.read_bytes()[:-5000])
    with pytest.raises(SparError, match=r"truncated file.*HTTP 404.*'?or name a mirror in SPAR_D4RL_MIRRORS"):
        d4rl_names.fetch("pen-human-v1")
    d4rl.write(tmp_path / "sets" / "pen-human-v1.hdf5", plant_rows(), {})
    assert d4rl_names.fetch("pen-human-v1").name == "pen-human-v1.hdf5"

    with pytest.raises(SparError, match="no dataset 'hopper-medium-v7'; did you mean hopper-medium-v2"):
        d4rl_names.fetch("hopper-medium-v7")
    monkeypatch.setenv("SPAR_D4RL_MIRRORS", "ftp://somewhere")
    with pytest.raises(SparError, match="SPAR_D4RL_MIRRORS: 'ftp://somewhere' is not a base address"):
        d4rl_names.fetch("door-human-v1")


def test_the_folder_is_d4rls_own_unless_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("D4RL_DATASET_DIR", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert d4rl_names.folder() == tmp_path / ".d4rl" / "datasets"
