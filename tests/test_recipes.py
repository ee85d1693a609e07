"""The suite's recipes: miniatures are byte-identical, logged steps can be taken again in the simulator, sheets agree with a count."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spar.data import sheets
from spar.data.recipes import collectors, goal_ant, mazes, pen, pointmaze, sac, suite
from spar.data.sources import d4rl
from spar.types import SparError

FAMILIES = ("hopper-medium-replay", "antmaze-umaze-diverse", "pen-cloned", "pointmaze-large")  # one dataset of each way of collecting
SHEETS = sorted(suite.SHEETS.glob("*.json"))
RECIPES = dict(suite.RECIPES)  # as they are, whatever a test puts in their place


def miniature(name: str, **changes: Any) -> Any:
    """The recipe of `name` with a few hundred rows."""
    recipe = dataclasses.replace(RECIPES[name], rows=400, **changes)
    if isinstance(recipe, pen.Recipe):
        recipe = dataclasses.replace(recipe, updates=min(recipe.updates, 20))
    if not isinstance(recipe, pen.Recipe) and hasattr(recipe, "task"):
        recipe = dataclasses.replace(recipe, task=dataclasses.replace(recipe.task, limit=150))
    return recipe


def rows_of(path: Path) -> dict[str, np.ndarray]:
    with h5py.File(path) as file:
        columns: dict[str, np.ndarray] = {}
        file.visititems(lambda key, item: columns.update({key: item[()]}) if isinstance(item, h5py.Dataset) else None)
        return columns


@pytest.fixture(scope="module", params=FAMILIES)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """(name, file) of one miniature dataset of each family."""
    patch, name = pytest.MonkeyPatch(), request.param
    patch.setitem(suite.RECIPES, name, miniature(name))
    path = tmp_path_factory.mktemp("suite") / f"{name}.hdf5"
    suite.make(name, path, lambda text: None)
    yield name, path
    patch.undo()


def test_a_miniature_is_made_again_byte_for_byte(made: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name, path = made
    suite.make(name, tmp_path / "again.hdf5", lambda text: None)
    monkeypatch.setitem(suite.RECIPES, name, miniature(name, seed=7))
    suite.make(name, tmp_path / "other.hdf5", lambda text: None)
    assert path.read_bytes() == (tmp_path / "again.hdf5").read_bytes() != (tmp_path / "other.hdf5").read_bytes()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 24), st.integers(1, 40))
def test_an_actor_rounds_alike_wherever_it_acts(seed: int, batch: int, terms: int) -> None:
    """Terms are added in order, product and sum rounded once together; what a row yields does not depend on the others."""
    rng = np.random.default_rng(seed)
    x, kernel = rng.normal(size=(batch, terms)).astype(np.float32), rng.normal(size=(terms, 8)).astype(np.float32)
    total = np.zeros((batch, 8), np.float32)
    for k in range(terms):
        exact = x[:, k, None].astype(np.longdouble) * kernel[k] + total  # 64 bits hold nearly every such sum
        total = exact.astype(np.float32)
    found = sac.in_order(x, kernel)
    assert np.array_equal(found, total)
    assert np.array_equal(sac.in_order(x[-1:], kernel), found[-1:])


def test_a_dataset_made_again_says_whether_it_is_the_published_one() -> None:
    published = json.loads((suite.SHEETS / "pen-human.json").read_text())["fingerprint"]
    assert "the same as published" in sheets.same_as_published("pen-human", published)
    other = sheets.same_as_published("pen-human", "0" * 16)
    assert published in other and "another sample" in other


def test_the_sheet_of_a_miniature_agrees_with_a_count(made: tuple[str, Path]) -> None:
    name, path = made
    rows, sheet = rows_of(path), json.loads(path.with_suffix(".json").read_text())
    log = d4rl.read(path, name=name)
    returns, total = [], 0.0
    for i in range(len(rows["rewards"])):
        total += float(rows["rewards"][i])
        last = i + 1 == len(rows["rewards"])
        if rows["timeouts"][i] or last or (rows["next_observations"][i] != rows["observations"][i + 1]).any():
            returns.append(total)
            total = 0.0
    assert sheet["rows"] == len(rows["rewards"]) == len(log) >= 400
    assert sheet["trajectories"] == len(returns) and sheet["terminals"] == rows["terminals"].sum() == log.terminated.sum()
    assert sheet["fingerprint"] == log.fingerprint
    assert np.allclose([sheet["returns"][k] for k in ("mean", "min", "max")], [np.mean(returns), min(returns), max(returns)])
    assert sum(sheet["returns"]["histogram"]["counts"]) == len(returns)


def test_logged_steps_can_be_taken_again(made: tuple[str, Path]) -> None:
    """Put back into its logged state, the simulator answers each logged action with the logged successor and reward.

    What the state leaves out is the constraint solver's warm start: it moves a successor by less than 1e-4 of its size.
    """
    name, path = made
    rows = rows_of(path)
    with h5py.File(path) as file:
        env_id, keys = file.attrs["env_id"], str(file.attrs.get("observation_keys", "")).split(",")
    env = mazes.robotics(env_id)
    env.reset(seed=0)
    task = getattr(suite.RECIPES[name], "task", None)
    goal = None if task is None else mazes.centre(env, task.goal)
    for i in range(0, len(rows["rewards"]), 7):
        _put(env, rows, i)
        obs, reward, *_ = env.step(rows["actions"][i])
        following = np.concatenate([obs[key] for key in keys]) if isinstance(obs, dict) else obs
        np.testing.assert_allclose(following, rows["next_observations"][i], rtol=1e-4, atol=1e-4, err_msg=f"{name} row {i}")
        if goal is not None:
            reward = float(np.linalg.norm(following[:2] - goal) <= task.radius)
        assert reward == pytest.approx(rows["rewards"][i], rel=1e-4, abs=1e-4), f"{name} row {i}"


def _put(env: gymnasium.Env, rows: dict[str, np.ndarray], i: int) -> None:
    base = env.unwrapped
    if "infos/desired_orien" in rows:
        base.set_env_state({key: rows[f"infos/{key}"][i] for key in ("qpos", "qvel", "desired_orien")})
    else:
        getattr(base, "ant_env", getattr(base, "point_env", base)).set_state(rows["infos/qpos"][i], rows["infos/qvel"][i])


def test_observations_are_the_logged_states(made: tuple[str, Path]) -> None:
    """Position and velocity in the observations are those of the simulator's state, row by row."""
    _, path = made
    rows = rows_of(path)
    skip = 1 if rows["observations"].shape[1] == 11 else 0  # Hopper does not see its own x
    seen = rows["observations"][:, : rows["infos/qpos"].shape[1] - skip]
    if rows["observations"].shape[1] == 45:  # the hand's joints; the pen is seen otherwise
        seen = seen[:, :24]
    assert np.allclose(seen, rows["infos/qpos"][:, skip : skip + seen.shape[1]], atol=1e-5)


@pytest.mark.parametrize("path", SHEETS, ids=lambda path: path.stem)
def test_a_kept_sheet_is_of_its_recipe(path: Path) -> None:
    sheet = json.loads(path.read_text())
    recipe = RECIPES[path.stem]
    asked = json.loads(json.dumps(dataclasses.asdict(recipe)))
    assert {key: sheet["recipe"][key] for key in asked if key not in ("level", "differs")} == {
        key: value for key, value in asked.items() if key not in ("level", "differs")
    }
    assert sheet["snapshots"] == suite.snapshots_of(recipe, collectors.SNAPSHOTS)
    assert sheet["level"] == recipe.level and sheet["differs_from_d4rl"] == list(recipe.differs)


def test_every_recipe_has_its_snapshots_and_a_sheet() -> None:
    for name, recipe in RECIPES.items():
        assert all(snapshot["sha256"] for snapshot in suite.snapshots_of(recipe, collectors.SNAPSHOTS)), name
    assert {path.stem for path in SHEETS} == set(RECIPES)


def test_the_snapshots_are_small_finite_and_have_their_curves() -> None:
    kept = sorted(collectors.SNAPSHOTS.rglob("*.safetensors"))
    assert 0 < sum(path.stat().st_size for path in collectors.SNAPSHOTS.rglob("*")) <= 40_000_000
    for path in kept:
        assert all(np.isfinite(array).all() for layer in collectors.load(path).layers for array in layer), path
        assert (path.parent / "curve.csv").exists() and path.parent.name in collectors.TRAININGS


def test_an_unknown_name_is_one_line(tmp_path: Path) -> None:
    for call in (lambda: suite.make("nothing", tmp_path / "x.hdf5"), lambda: collectors.train("nothing", tmp_path)):
        with pytest.raises(SparError, match="there are: ") as caught:
            call()
        assert "\n" not in str(caught.value)
    with pytest.raises(SparError, match="no such snapshot"):
        suite.make("hopper-medium", tmp_path / "y.hdf5", snapshots=tmp_path)


def test_a_collector_trains_and_its_snapshot_acts_as_it_did(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training = collectors.TRAININGS["hopper"]
    net = sac.Config(hidden=(16, 16), batch_size=16)
    small = dataclasses.replace(training.collector, max_steps=5000, random_steps=4950, eval_every=5000, eval_episodes=1, sac=net)
    monkeypatch.setitem(collectors.TRAININGS, "hopper", dataclasses.replace(training, collector=small))
    moments = []
    monkeypatch.setattr(collectors, "save", lambda params, path, save=collectors.save: (moments.append(params), save(params, path)))
    collectors.train("hopper", tmp_path, lambda text: None)
    obs = np.random.default_rng(0).normal(size=(8, 11))
    again = collectors.load(tmp_path / "step-0005000.safetensors")
    assert np.allclose(again.act(obs), sac.Actor(moments[-1]).act(obs), atol=2e-3)  # float16 weights
    assert (tmp_path / "curve.csv").read_text().splitlines()[0] == "step,return_mean,return_std"
    with pytest.raises(SparError, match="nothing is written over"):
        collectors.train("hopper", tmp_path)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_what_the_ant_sees_does_not_depend_on_where_it_is_or_heads(seed: int) -> None:
    """Moving and turning the world, goal included, leaves the policy's view as it was."""
    rng = np.random.default_rng(seed)
    obs, goal = rng.normal(size=(1, 29)), rng.normal(size=(1, 2)) * 4
    obs[:, 3:7] /= np.linalg.norm(obs[:, 3:7])
    angle, shift = rng.uniform(-np.pi, np.pi), rng.normal(size=2) * 10
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    moved = obs.copy()
    moved[0, :2], moved[0, 15:17] = turn @ obs[0, :2] + shift, turn @ obs[0, 15:17]
    (w, x, y, z), (a, b) = obs[0, 3:7], (np.cos(angle / 2), np.sin(angle / 2))
    moved[0, 3:7] = a * w - b * z, a * x - b * y, a * y + b * x, a * z + b * w  # turned about the vertical
    assert np.allclose(goal_ant.features(obs, goal), goal_ant.features(moved, (turn @ goal[0] + shift)[None]), atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(1.0, 1.6))
def test_routes_are_all_the_ways_through(seed: int, detour: float) -> None:
    """Random grids: routes are walkable, repeat no cell, are distinct, no longer than asked, and include a shortest one."""
    rng = np.random.default_rng(seed)
    cells = rng.random((5, 6)) < 0.3
    cells[[0, -1]] = cells[:, [0, -1]] = True
    cells[1, 1:5] = cells[3, 1:5] = cells[1:4, 4] = False  # a way there always is
    grid = tuple(tuple(int(wall) for wall in row) for row in cells)
    ways = mazes.routes(grid, (1, 1), (3, 1), detour)
    shortest = min(len(way) for way in ways)
    assert len(set(ways)) == len(ways) and all(len(way) <= detour * shortest for way in ways)
    for way in ways:
        full = ((1, 1), *way)
        assert full[-1] == (3, 1) and len(set(full)) == len(full)
        assert all(abs(a - c) + abs(b - d) == 1 and not cells[c, d] for (a, b), (c, d) in itertools.pairwise(full))


def test_the_reference_returns_separate_the_planner_from_chance() -> None:
    table = json.loads(suite.REFERENCES.read_text())
    for recipe in RECIPES.values():
        if isinstance(recipe, pointmaze.Recipe):
            assert table[recipe.task.env_id]["expert"] > 10 * table[recipe.task.env_id]["random"] > 0
