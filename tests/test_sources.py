"""Minari, OGBench and NPZ: what other packages write is read as they mean it, and every format gives back the log that went in."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import numpy as np
import pytest
from gymnasium.spaces import Box
from gymnasium.spaces.utils import flatten
from hypothesis import given, settings
from hypothesis import strategies as st

from spar.data.blocks import mapped
from spar.data.episodes import Log
from spar.data.rows import from_rows
from spar.data.sources import d4rl, minari, npz
from spar.types import SparError
from tests.conftest import plant_log

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:minari")  # it would like authors and descriptions

ENDS = {"terminated": (True, False), "truncated": (False, True), "both": (True, True), "unfinished": (False, False)}


@st.composite
def logs(draw: st.DrawFn) -> Log:
    """Every kind of end, interior terminations, an unfinished tail, boxes, names: whatever a log may say."""
    lengths = np.asarray(draw(st.lists(st.integers(1, 4), min_size=1, max_size=5)), np.int64)
    steps, last = int(lengths.sum()), np.cumsum(lengths) - 1
    kinds = [draw(st.sampled_from(["terminated", "truncated", "both"])) for _ in lengths]
    kinds[-1] = draw(st.sampled_from([kinds[-1], "unfinished"]))
    terminated = np.asarray(draw(st.lists(st.booleans(), min_size=steps, max_size=steps))) & draw(st.booleans())
    truncated = np.zeros(steps, bool)
    terminated[last], truncated[last] = np.asarray([ENDS[kind] for kind in kinds]).T
    number = st.floats(-1e6, 1e6, width=32)
    returns = [np.nan if kind == "unfinished" else draw(st.floats(-1e9, 1e9)) for kind in kinds]
    low = np.asarray(draw(st.lists(st.floats(-3, -1, width=32), min_size=2, max_size=2)), np.float32)
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    return Log(
        "x", rng.normal(size=(steps + len(lengths), 3)).astype(np.float32), rng.uniform(-1, 1, (steps, 2)).astype(np.float32),
        np.asarray(draw(st.lists(number, min_size=steps, max_size=steps)), np.float32), terminated, truncated, lengths,
        np.asarray(returns), low, -low,
        env_id=draw(st.sampled_from([None, "Hopper-v5", "lab/Robot-v0", "no gymnasium id"])),
        env_kwargs=draw(st.sampled_from(["", '{"max_episode_steps": 50}'])),
        observation_keys=draw(st.sampled_from([(), ("observation",), ("position", "goal")])),
    )  # fmt: skip


def assert_equal(one: Log, other: Log) -> None:
    assert one.fingerprint == other.fingerprint
    for field in ("episode_returns", "action_low", "action_high"):
        np.testing.assert_array_equal(getattr(one, field), getattr(other, field), strict=True)
    for field in ("env_id", "env_kwargs", "observation_keys"):
        assert getattr(one, field) == getattr(other, field)


@given(logs())
@settings(max_examples=30, deadline=None)
def test_every_format_gives_back_the_log_that_went_in(log: Log) -> None:
    with tempfile.TemporaryDirectory() as folder:
        read = log
        for source, name in ((d4rl, "log.hdf5"), (minari, "log-v0"), (npz, "log.npz"), (minari, "again"), (d4rl, "again.hdf5")):
            source.write_log(Path(folder) / name, read)
            read = source.read(Path(folder) / name)
            assert_equal(log, read)


# Minari


@pytest.fixture
def datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(minari.ROOT_VARIABLE, str(tmp_path / "datasets"))
    return tmp_path / "datasets"


def episode(rng: np.random.Generator, length: int, observation: Any, terminated: bool = False) -> dict[str, Any]:
    """What Minari's EpisodeBuffer holds; `observation(rows)` makes the observations."""
    flags = np.arange(length) == length - 1
    return {
        "observations": observation(length + 1),
        "actions": rng.uniform(-2, 2, (length, 1)).astype(np.float32),
        "rewards": rng.normal(size=length),
        "terminations": flags & terminated,
        "truncations": flags & (not terminated),
    }


MAZE = gymnasium.spaces.Dict({
    "observation": Box(-np.inf, np.inf, (3,), np.float64),
    "desired_goal": gymnasium.spaces.Tuple((Box(-9, 9, (2,), np.float64), Box(-9, 9, (1, 2), np.float32))),
    "achieved_goal": Box(-9, 9, (2,), np.float64),
})  # fmt: skip


@pytest.mark.parametrize("storage", ["hdf5", "arrow", "parquet"])
def test_dict_observations_written_by_minari_are_flattened_as_gymnasium_does(storage: str, datasets: Path) -> None:
    package = pytest.importorskip("minari")
    from minari.data_collector.episode_buffer import EpisodeBuffer

    rng = np.random.default_rng(0)

    def observation(rows: int) -> dict[str, Any]:
        goal = (rng.normal(size=(rows, 2)), rng.normal(size=(rows, 1, 2)).astype(np.float32))
        return {"observation": rng.normal(size=(rows, 3)), "desired_goal": goal, "achieved_goal": rng.normal(size=(rows, 2))}

    episodes = [episode(rng, length, observation, terminated=length % 2 == 0) for length in (3, 1, 4, 2, 2, 5, 1, 1, 2, 3, 4, 1)]
    package.create_dataset_from_buffers(
        "maze/test-v0", [EpisodeBuffer(**e, infos={}) for e in episodes], data_format=storage,
        observation_space=MAZE, action_space=Box(-2.0, 2.0, (1,), np.float32),
    )  # fmt: skip
    log = minari.read("maze/test-v0")
    rows = [flatten(MAZE, row) for e in package.load_dataset("maze/test-v0") for row in _rows(e.observations)]
    np.testing.assert_array_equal(log.observations, np.asarray(rows, np.float32))
    for field, key in (("actions", "actions"), ("rewards", "rewards"), ("terminated", "terminations"), ("truncated", "truncations")):
        np.testing.assert_array_equal(getattr(log, field), np.concatenate([e[key] for e in episodes]).astype(getattr(log, field).dtype))
    np.testing.assert_array_equal(log.lengths, [len(e["rewards"]) for e in episodes])
    np.testing.assert_allclose(log.episode_returns, [e["rewards"].sum() for e in episodes])
    assert (log.action_low, log.action_high, log.observation_keys, log.notes) == (-2, 2, (), ())

    chosen = minari.read("maze/test-v0", observation_keys=("observation", "achieved_goal"))
    parts = [e["observations"][key] for e in episodes for key in ("observation", "achieved_goal")]
    pairs = [np.concatenate(pair, axis=1) for pair in zip(parts[::2], parts[1::2], strict=True)]
    np.testing.assert_array_equal(chosen.observations, np.concatenate(pairs).astype(np.float32))
    assert chosen.observation_keys == ("observation", "achieved_goal")
    with pytest.raises(SparError, match="no key 'goal'; they have: achieved_goal, desired_goal, observation"):
        minari.read("maze/test-v0", observation_keys=("goal",))


def _rows(observations: Any) -> list[Any]:
    """Rows of a composite observation whose leaves are arrays over time."""
    goals = zip(*observations["desired_goal"], strict=True)
    together = zip(observations["observation"], goals, observations["achieved_goal"], strict=True)
    return [{"observation": o, "desired_goal": g, "achieved_goal": a} for o, g, a in together]


def test_the_environment_of_a_real_minari_dataset_is_recovered(datasets: Path) -> None:
    package = pytest.importorskip("minari")
    env = package.DataCollector(gymnasium.make("Pendulum-v1", g=9.0))
    for seed in range(2):
        env.reset(seed=seed)
        env.action_space.seed(seed)
        while not env.step(env.action_space.sample())[3]:
            pass
    written = env.create_dataset("pendulum/random-v0")
    log = minari.read("pendulum/random-v0")
    assert (log.env_id, json.loads(log.env_kwargs), log.notes) == ("Pendulum-v1", {"g": 9.0, "max_episode_steps": 200}, ())
    assert minari.read("pendulum/random-v0", env_id="Pendulum-v0").env_kwargs == ""
    assert (log.action_low, log.action_high, log.name) == (-2, 2, "pendulum/random-v0")
    first = next(iter(written))
    np.testing.assert_array_equal(log.observations[: len(first.observations)], first.observations.astype(np.float32))
    np.testing.assert_array_equal(log.lengths, [200, 200])
    for path in (datasets / "pendulum/random-v0", datasets / "pendulum/random-v0/data"):
        assert minari.read(path).fingerprint == log.fingerprint


def test_evaluation_in_a_minari_datasets_environment_follows_d4rls_rules() -> None:
    """Minari's own copies of D4RL's sets were recorded, and say to be evaluated, by other rules; scores are D4RL's."""
    spec = {"id": "AntMaze_UMaze-v4", "kwargs": {"continuing_task": True, "reset_target": False}, "max_episode_steps": 700}
    notes: list[str] = []
    env_id, kwargs = minari._environment({"eval_env_spec": json.dumps(spec)}, notes)
    assert (env_id, json.loads(kwargs)) == ("AntMaze_UMaze-v4", {"continuing_task": False, "reset_target": False, "max_episode_steps": 700})
    assert notes == ["recorded with continuing_task True; evaluation takes False, as D4RL's does"]
    pen = {"id": "AdroitHandPen-v1", "max_episode_steps": 200}
    assert json.loads(minari._environment({"env_spec": json.dumps(pen)}, notes)[1]) == {"max_episode_steps": 100}


@pytest.mark.parametrize("arguments", [{"continuing_task": True}, {}], ids=["said", "by default"])
def test_minaris_antmaze_stops_the_bootstrap_at_the_goal_as_evaluation_does(arguments: dict[str, Any], tmp_path: Path) -> None:
    """Recorded with continuing_task the ant stays at the goal unterminated, a reward a step; the return is D4RL's success."""
    reward = np.array([0, 0, 1, 1, 0, 0, 0, 0], float)
    ends = np.array([0, 0, 0, 0, 1, 0, 0, 1], bool)
    log = from_rows("ant", np.arange(16.0).reshape(8, 2), np.zeros((8, 1)), reward, np.zeros(8, bool), ends)
    minari.write_log(tmp_path / "ant", log)
    path = tmp_path / "ant" / "data" / "metadata.json"
    metadata = {key: value for key, value in json.loads(path.read_text()).items() if key not in ("env_id", "env_kwargs")}
    spec = {"id": "AntMaze_UMaze-v4", "kwargs": arguments, "max_episode_steps": 700}
    path.write_text(json.dumps({**metadata, "env_spec": json.dumps(spec)}))
    found = minari.read(tmp_path / "ant")
    assert found.terminated.tolist() == (found.rewards == 1).tolist() and found.terminated.sum() == 2
    assert found.lengths.tolist() == log.lengths.tolist()
    assert found.returns.tolist() == [1.0, 0.0]
    assert any("read as terminated" in note for note in found.notes)


def test_minari_itself_opens_and_extends_what_we_write(datasets: Path) -> None:
    package = pytest.importorskip("minari")
    log = dataclasses.replace(plant_log(), env_id="Pendulum-v1", env_kwargs='{"g": 9.0, "max_episode_steps": 7}')
    log.truncated[-1], log.episode_returns[-1] = False, np.nan  # it stops mid-way
    minari.write_log(datasets / "plant/walk-v0", log)
    dataset = package.load_dataset("plant/walk-v0")
    assert (dataset.total_episodes, dataset.total_steps, dataset.env_spec.id) == (len(log.lengths), len(log), "Pendulum-v1")
    assert (dataset.env_spec.kwargs, dataset.env_spec.max_episode_steps) == ({"g": 9.0}, 7)
    assert package.list_local_datasets().keys() == {"plant/walk-v0"}
    episodes = list(dataset.iterate_episodes())
    np.testing.assert_array_equal(np.concatenate([e.observations for e in episodes]), log.observations)
    np.testing.assert_array_equal(np.concatenate([e.actions for e in episodes]), log.actions)
    np.testing.assert_array_equal(np.concatenate([e.terminations for e in episodes]), log.terminated)
    stated = [m["episode_return"] for m in dataset.storage.get_episode_metadata(dataset.episode_indices)]
    np.testing.assert_array_equal(stated, log.episode_returns)
    assert not (episodes[-1].terminations | episodes[-1].truncations).any()
    with pytest.raises(SparError, match="exists already"):
        minari.write_log(datasets / "plant/walk-v0", log)

    from minari.data_collector.episode_buffer import EpisodeBuffer

    columns = ("observations", "actions", "rewards", "terminations", "truncations")
    dataset.update_dataset_from_buffer([EpisodeBuffer(**{key: getattr(episodes[0], key) for key in columns}, infos={})])
    longer = minari.read("plant/walk-v0")
    np.testing.assert_array_equal(longer.lengths, [*log.lengths, log.lengths[0]])
    assert longer.episode_returns[-1] == pytest.approx(log.episode_returns[0])


def by_hand(folder: Path, episodes: list[dict[str, Any]], **metadata: Any) -> Path:
    """A dataset folder in Minari's layout with `episodes` as they are."""
    (folder / "data").mkdir(parents=True)
    with h5py.File(folder / "data" / "main_data.hdf5", "w") as file:
        for number, columns in enumerate(episodes):
            for key, column in columns.items():
                file.create_dataset(f"episode_{number}/{key}", data=column, compression="gzip")
    box = {"type": "Box", "dtype": "float32", "shape": [1], "low": [-2.0], "high": [2.0]}
    document = {"total_episodes": len(episodes), "total_steps": sum(len(e["rewards"]) for e in episodes), "data_format": "hdf5"}
    (folder / "data" / "metadata.json").write_text(json.dumps({**document, "action_space": json.dumps(box), **metadata}))
    return folder


def plain(count: int = 3) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    return [episode(rng, 2 + number % 3, lambda rows: rng.normal(size=(rows, 2))) for number in range(count)]


def test_layout_variants_and_the_order_of_episodes(tmp_path: Path) -> None:
    """Ten episodes and more are in numerical order; flags and rewards may be whole numbers; an unmarked end in the middle is a cut."""
    episodes = plain(12)
    for e in episodes:
        e["rewards"] = np.round(e["rewards"]) + 0.0  # no -0.0: an integer has none
    log = minari.read(by_hand(tmp_path / "usual", episodes))
    np.testing.assert_array_equal(log.lengths, [len(e["rewards"]) for e in episodes])
    for e in episodes:
        e["rewards"], e["truncations"] = e["rewards"].astype(np.int64), e["truncations"].astype(np.uint8)
    assert minari.read(by_hand(tmp_path / "odd", episodes)).fingerprint == log.fingerprint

    episodes[1]["truncations"] = 0 * episodes[1]["truncations"]
    episodes[-1]["truncations"] = 0 * episodes[-1]["truncations"]
    cut = minari.read(by_hand(tmp_path / "unmarked", episodes))
    assert "1 episodes end without a mark, first at row 4" in cut.notes[0]
    assert cut.truncated[4]
    assert not cut.truncated[-1]
    assert np.isnan(cut.episode_returns).tolist() == [False] * 11 + [True]


def test_bounds_that_the_metadata_lacks_are_noted(tmp_path: Path) -> None:
    endless = json.dumps({"type": "Box", "low": [-np.inf], "high": [3.0]})
    episodes = plain()
    for e in episodes:
        e["actions"] /= 2
    log = minari.read(by_hand(tmp_path / "endless", episodes, action_space=endless))
    assert (log.action_low, log.action_high) == (-1, 1)
    assert "action dimensions [0] have no bounds" in log.notes[0]
    with pytest.raises(SparError, match=r"'actions' row \d+, column 0 is"):
        minari.read(by_hand(tmp_path / "outside", plain(), action_space=None))


def _change(key: str, change: Callable[[np.ndarray], Any]) -> Callable[[list[dict[str, Any]]], None]:
    def apply(episodes: list[dict[str, Any]]) -> None:
        episodes[1][key] = change(episodes[1][key])

    return apply


@pytest.mark.parametrize(
    ("break_it", "metadata", "message"),
    [
        (_change("observations", lambda x: x[:-1]), {}, r"episode_1: 'observations' has shape \(3, 2\), expected \(4, 2\)"),
        (_change("observations", lambda x: x[:, :1]), {}, r"episode_1: 'observations' has shape \(4, 1\), expected \(4, 2\)"),
        (_change("observations", np.transpose), {}, "episode_1: 'observations' has shape"),
        (_change("observations", lambda x: x.astype(np.uint8)), {}, "has type uint8: it must be floating point"),
        (_change("actions", lambda x: x.astype(np.int64)), {}, "discrete actions are not supported"),
        (_change("truncations", lambda x: x[:-1]), {}, r"episode_1: 'truncations' has shape \(2,\), expected \(3,\)"),
        (_change("truncations", lambda x: 2 * x), {}, "flags are 0 or 1"),
        (_change("rewards", lambda x: x * np.nan), {}, "'rewards' row 2 is nan"),
        (lambda episodes: episodes[1].pop("terminations"), {}, "episode_1: 'terminations' is missing"),
        (lambda episodes: None, {"total_steps": 8}, "episode_2 has more steps than metadata.json leaves"),
        (lambda episodes: None, {"total_steps": 10}, "the episodes have 9 steps, metadata.json has 10"),
        (lambda episodes: None, {"total_steps": 10**15}, "more than a file of this size can hold"),
        (lambda episodes: None, {"total_episodes": 4}, "3 episodes, metadata.json has 4"),
        (lambda episodes: None, {"total_episodes": None}, "'total_episodes' must be a positive integer"),
        (lambda episodes: None, {"action_space": '{"type": "Discrete"}'}, "actions are of type Discrete"),
        (lambda episodes: None, {"action_space": '{"type": "Box", "low": [0], "high": [[1, 2]]}'}, "no readable low and high"),
        (lambda episodes: None, {"action_space": "{"}, "not the JSON text that Minari writes"),
        (lambda episodes: None, {"data_format": "zarr"}, "data_format 'zarr' is not supported"),
        (lambda episodes: None, {"data_format": "arrow"}, "not readable"),
    ],
)  # fmt: skip
def test_a_broken_dataset_names_the_place(break_it: Callable[[Any], Any], metadata: dict[str, Any], message: str, tmp_path: Path) -> None:
    episodes = plain()
    break_it(episodes)
    with pytest.raises(SparError, match=message) as error:
        minari.read(by_hand(tmp_path / "broken", episodes, **metadata))
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_dataset_holds_its_own_data(tmp_path: Path) -> None:
    for name, link in (("soft", h5py.SoftLink("/episode_0/rewards")), ("external", h5py.ExternalLink("other.hdf5", "/rewards"))):
        folder = by_hand(tmp_path / name, plain())
        with h5py.File(folder / "data" / "main_data.hdf5", "a") as file:
            del file["episode_1/rewards"]
            file["episode_1/rewards"] = link
        with pytest.raises(SparError, match="episode_1: 'rewards' lies in another place"):
            minari.read(folder)


def test_rows_may_go_to_memory_mapped_files_and_bad_values_may_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPAR_CACHE", str(tmp_path / "cache"))
    folder, broken = by_hand(tmp_path / "fine", plain()), plain()
    log = minari.read(folder, allocate=mapped)
    assert log.is_mapped
    assert log.fingerprint == minari.read(folder).fingerprint
    broken[0]["observations"][1, 1] = np.nan
    lenient = minari.read(by_hand(tmp_path / "broken", broken), strict=False)
    np.testing.assert_array_equal(np.argwhere(np.isnan(lenient.observations)), [[1, 1]])


@pytest.mark.parametrize("file", ["metadata.json", "main_data.hdf5"])
def test_missing_and_truncated_files(file: str, tmp_path: Path) -> None:
    folder = by_hand(tmp_path / "x", plain())
    path = folder / "data" / file
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(SparError, match=r"not a readable Minari dataset|not readable"):
        minari.read(folder)
    path.unlink()
    with pytest.raises(SparError, match=r"no Minari dataset|no such file"):
        minari.read(folder)


@pytest.mark.parametrize("format", ["minari", "npz"])
def test_flipped_bytes_never_surface_as_another_error(format: str, tmp_path: Path) -> None:
    rng, source = np.random.default_rng(0), {"minari": minari, "npz": npz}[format]
    log = tmp_path / "log-v0.npz"
    source.write_log(log, plant_log(120))
    path = log / "data" / "main_data.hdf5" if format == "minari" else log
    content, refused = path.read_bytes(), 0
    for attempt in range(80):
        damaged = np.frombuffer(content, np.uint8).copy()
        reach = len(damaged) if attempt % 2 else min(3000, len(damaged))  # headers come first
        damaged[rng.integers(0, reach, 4)] = rng.integers(0, 256, 4)
        path.write_bytes(damaged.tobytes())
        try:
            source.read(log)
        except SparError as error:
            assert "\n" not in str(error)
            refused += 1
    assert refused > 20


def test_download_fails_at_once_and_says_what_to_do(datasets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "minari", None)
    with pytest.raises(SparError, match=r"pip install '\.\[minari\]'"):
        minari.download("D4RL/hopper/medium-v2")
    monkeypatch.undo()
    monkeypatch.setenv(minari.ROOT_VARIABLE, str(datasets))
    with pytest.raises(SparError, match="no Minari id"):
        minari.download("hopper medium")
    pytest.importorskip("minari")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # the discard port: nobody listens
    with pytest.raises(SparError, match=r"127.0.0.1 does not answer; .* run 'minari download D4RL/hopper/medium-v2'"):
        minari.download("D4RL/hopper/medium-v2")
    by_hand(datasets / "D4RL/hopper/medium-v2", plain())
    assert minari.download("D4RL/hopper/medium-v2") == datasets / "D4RL/hopper/medium-v2/data"
