"""NPZ files, plain and OGBench's: their own meaning of names, and nothing unpacked that could harm."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spar.data import memory
from spar.data.episodes import Log
from spar.data.rows import from_rows
from spar.data.sources import npz, ogbench
from spar.types import SparError
from tests.conftest import plant_rows

FLAGS = ("terminals", "timeouts")


def save(path: Path, columns: dict[str, Any]) -> Path:
    np.savez_compressed(path, **columns)
    return path


# Plain NPZ


def test_spellings_and_types_of_columns(tmp_path: Path) -> None:
    rows = plant_rows()
    log = from_rows("x", *(rows[key] for key in ("observations", "actions", "rewards", "terminals", "timeouts", "next_observations")))
    assert npz.read(save(tmp_path / "d4rl.npz", rows)).fingerprint == log.fingerprint
    other = {"obs": "observations", "action": "actions", "reward": "rewards", "terminated": "terminals", "truncated": "timeouts"}
    renamed = {new: rows[old].astype(np.float64) for new, old in other.items()} | {"next_obs": rows["next_observations"]}
    read = npz.read(save(tmp_path / "other.npz", renamed), env_id="Plant-v0")
    assert (read.fingerprint, read.env_id, read.name) == (log.fingerprint, "Plant-v0", "other")
    ended = renamed.pop("terminated")
    for done in (ended, np.maximum(ended, renamed["truncated"])):  # old gym's done means either
        read = npz.read(save(tmp_path / "done.npz", renamed | {"done": done}))
        assert read.fingerprint == log.fingerprint
        assert "'done' is read as terminated or truncated" in read.notes[0]
    del renamed["truncated"]
    read = npz.read(save(tmp_path / "done.npz", renamed | {"done": ended}))
    assert read.terminated.sum() == ended.sum()
    assert "'done' is read as terminations" in read.notes[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows | {"obs": rows["observations"]}, "'observations' and 'obs' mean the same; keep one"),
        (lambda rows: {key: rows[key] for key in rows if key != "rewards"}, "'rewards' is missing; the file has: actions"),
        (lambda rows: rows | {"masks": rows["rewards"]}, "'masks' is OGBench's"),
        (lambda rows: rows | {"rewards": rows["rewards"].astype(object)}, "'rewards' holds Python objects, which are never unpickled"),
        (lambda rows: rows | {"actions": rows["actions"].astype(np.int64)}, "discrete actions are not supported"),
        (lambda rows: rows | {"action_low": np.asarray("a")}, "'action_low' has type <U1, expected numbers"),
        (lambda rows: rows | {"action_low": np.zeros(3)}, "attribute 'action_low' has 3 numbers, 'actions' 2 dimensions"),
        (lambda rows: rows | {"episode_lengths": np.asarray([599])}, "'episode_lengths' must be positive and add up to the 600 rows"),
        (lambda rows: rows | {"rewards": rows["rewards"][:-1]}, "'rewards' has 599 rows but 'observations' has 600"),
        (lambda rows: rows | {"observations": rows["observations"] * np.inf}, "'observations' row 0"),
    ],
)  # fmt: skip
def test_bad_columns_are_named(change: Callable[[Any], Any], message: str, tmp_path: Path) -> None:
    path = save(tmp_path / "bad.npz", change(plant_rows()))
    with pytest.raises(SparError) as error, np.errstate(invalid="ignore"):
        npz.read(path)
    assert message in str(error.value)
    assert str(path) in str(error.value)


def test_objects_that_nobody_asks_for_stay_untouched(tmp_path: Path) -> None:
    rows = plant_rows()
    with_infos = save(tmp_path / "infos.npz", rows | {"infos": np.asarray([{"a": 1}], object)})
    assert npz.read(with_infos).fingerprint == npz.read(save(tmp_path / "plain.npz", rows)).fingerprint


def archive(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(f"{name}.npy", content)
    return path


def npy(array: np.ndarray, shape: tuple[int, ...] | None = None) -> bytes:
    """The bytes of an NPY file, whose header may lie about the shape."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        stream, {"descr": array.dtype.str, "fortran_order": False, "shape": shape or array.shape}
    )  # fmt: skip
    return stream.getvalue() + array.tobytes()


def test_bombs_are_refused_before_anything_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = plant_rows()
    large = save(tmp_path / "large.npz", rows)
    path = archive(tmp_path / "lie.npz", {"observations": npy(np.zeros((1, 3), np.float32), shape=(10**12, 3))})
    with pytest.raises(SparError, match="needs 12000000000000 bytes, 12 are there"):
        npz.read(path)

    small = archive(tmp_path / "claim.npz", {"observations": npy(rows["observations"])})
    content = bytearray(small.read_bytes())
    entry = content.rindex(b"PK\x01\x02")
    content[entry + 24 : entry + 28] = (2**32 - 2).to_bytes(4, "little")  # the directory's uncompressed size
    small.write_bytes(bytes(content))
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda *_: pytest.fail("something is unpacked"))
    with pytest.raises(SparError, match="claims 4294967294 bytes out of"):
        npz.read(small)

    monkeypatch.setattr(memory, "available", lambda: 1000)
    with pytest.raises(SparError, match="GB of memory are available"):
        npz.read(large)


@pytest.mark.parametrize("content", [b"", b"observations", b"PK\x03\x04" + bytes(50)])
def test_what_is_no_archive(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "log.npz"
    with pytest.raises(SparError, match="no such file"):
        npz.read(path)
    path.write_bytes(content)
    with pytest.raises(SparError, match="not a readable NPZ file"):
        npz.read(path)


def test_damaged_bytes_name_the_array(tmp_path: Path) -> None:
    path = save(tmp_path / "log.npz", plant_rows())
    with zipfile.ZipFile(path) as file:
        entry = file.getinfo("rewards.npy")
    content = bytearray(path.read_bytes())
    middle = entry.header_offset + entry.compress_size // 2
    content[middle : middle + 20] = bytes(20)
    path.write_bytes(bytes(content))
    with pytest.raises(SparError, match="'rewards' cannot be read"):
        npz.read(path)


# OGBench


def reference(columns: dict[str, np.ndarray], rewards: np.ndarray, masks: np.ndarray) -> list[tuple[Any, ...]]:
    """(s, a, r, mask, s') of every step, by OGBench's own description: the row where `terminals` is 1 only ends the one before it."""
    found = []
    for i in range(len(rewards) - 1):
        if not columns["terminals"][i]:
            found.append((*columns["observations"][i], *columns["actions"][i], rewards[i], masks[i], *columns["observations"][i + 1]))
    return found


def steps(log: Log) -> list[tuple[Any, ...]]:
    parts = (log.observations[log.obs_index], log.actions, log.rewards[:, None], ~log.terminated[:, None], log.successors)
    return [tuple(row) for row in np.concatenate(parts, axis=1)]


def trajectories(lengths: list[int], rng: np.random.Generator, finished: bool = True) -> dict[str, np.ndarray]:
    last = np.cumsum(lengths) - 1
    rows = int(last[-1]) + 1
    terminals = np.zeros(rows, np.float32)
    terminals[last if finished else last[:-1]] = 1
    position = rng.normal(size=(rows, 2)).astype(np.float32)
    more = rng.normal(size=(rows, 2)).astype(np.float32)
    action = rng.uniform(-1, 1, (rows, 2)).astype(np.float32)
    return {"observations": np.concatenate([position, more], axis=1), "actions": action, "terminals": terminals, "qpos": position}


@given(st.lists(st.integers(1, 5), min_size=2, max_size=6), st.booleans(), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_ogbench_steps_are_those_of_a_naive_loop(tmp_path_factory: Any, lengths: list[int], finished: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    columns = trajectories([*lengths, 3], rng, finished)
    rewards = rng.integers(-3, 1, len(columns["terminals"])).astype(np.float32)
    masks = rng.integers(0, 2, len(rewards)).astype(np.float32)
    path = save(tmp_path_factory.mktemp("ogbench") / "cube-v0.npz", columns | {"rewards": rewards, "masks": masks})
    assert ogbench.is_ogbench(path)
    log = ogbench.read(path)
    assert steps(log) == reference(columns, rewards, masks)
    np.testing.assert_array_equal(log.lengths, [length - 1 for length in [*lengths, 3] if length > 1])
    ends = np.cumsum(log.lengths) - 1
    assert log.truncated[ends[:-1]].all()
    assert log.truncated[-1] == finished
    assert log.truncated.sum() == len(ends) - (not finished)

    goal, radius = (0.3, -0.2), 0.8
    reached = np.asarray([np.hypot(x - goal[0], y - goal[1]) <= radius for x, y in columns["qpos"]])
    relabelled = ogbench.read(path, goal=goal, radius=radius)
    assert steps(relabelled) == reference(columns, reached - 1.0, ~reached)
    assert "those of reaching (0.3, -0.2) within 0.8" in relabelled.notes[0]
    del columns["qpos"]
    plain = save(path.with_name("states.npz"), columns)
    assert ogbench.is_ogbench(plain)
    assert ogbench.read(plain, goal=goal, radius=radius).fingerprint == relabelled.fingerprint


def test_ogbench_with_successors_is_read_row_by_row(tmp_path: Path) -> None:
    columns = trajectories([4, 3, 5], np.random.default_rng(0))
    del columns["qpos"]
    kept = columns["terminals"] == 0
    compact = {key: column[kept] for key, column in columns.items()} | {"next_observations": columns["observations"][1:][kept[:-1]]}
    compact["terminals"] = columns["terminals"][1:][kept[:-1]]
    read = [ogbench.read(save(tmp_path / f"{i}.npz", c), goal=(0, 0), radius=0.5) for i, c in enumerate((columns, compact))]
    assert read[0].fingerprint == read[1].fingerprint


@pytest.mark.parametrize(
    ("change", "goal", "message"),
    [
        (lambda columns: columns, {}, "'rewards' is missing, as in all goal-conditioned files of OGBench; for a maze give goal=(x, y)"),
        (lambda columns: columns, {"goal": (0, 0)}, "'goal' and 'radius' belong together"),
        (lambda columns: columns | {"terminals": 0 * columns["terminals"]}, {"goal": (0, 0), "radius": 1}, "'terminals' is never set"),
        (lambda columns: columns | {"observations": columns["observations"].astype(np.uint8)}, {}, "'observations' has type uint8"),
        (lambda columns: columns | {"qpos": columns["qpos"][:, :1]}, {"goal": (0, 0), "radius": 1}, "a goal needs x and y"),
        (lambda columns: columns | {"qpos": columns["qpos"][1:]}, {"goal": (0, 0), "radius": 1}, "'rewards' has 6 rows but"),
        (lambda columns: columns | {"rewards": columns["terminals"], "masks": 2 + columns["terminals"]}, {}, "masks are 0 or 1"),
    ],
)  # fmt: skip
def test_bad_ogbench_files_say_what_to_do(change: Callable[[Any], Any], goal: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = save(tmp_path / "maze.npz", change(trajectories([4, 3], np.random.default_rng(0))))
    with pytest.raises(SparError) as error:
        ogbench.read(path, **goal)
    assert message in str(error.value)
    assert str(path) in str(error.value)
