"""What D4RL's files do that a naive reader gets wrong, family by family, against D4RL's own reader written as a naive loop.

An observation is (10000 episode + step, ...), so a pair that crosses an episode's end is far apart.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spar.data.episodes import Log
from spar.data.sources import d4rl
from spar.data.sources.columns import family_of
from spar.types import SparError

Columns = dict[str, np.ndarray]
Pairs = list[tuple[float, float | None]]  # (observation, successor), None where a terminal masks the successor
HORIZON = 100  # of pen, the shortest
few = settings(max_examples=50, deadline=None)


class Episode(NamedTuple):
    steps: int
    terminal: bool = False
    timeout: bool = False


def columns_of(*episodes: Episode) -> Columns:
    """A file's columns: reward 1 a step."""
    steps = np.concatenate([10_000.0 * e + np.arange(episode.steps) for e, episode in enumerate(episodes)])
    lasts = np.cumsum([episode.steps for episode in episodes]) - 1
    flags = np.zeros((2, len(steps)), bool)
    flags[:, lasts] = np.array([(episode.terminal, episode.timeout) for episode in episodes]).T
    observations = np.stack([steps, -steps], 1).astype(np.float32)
    actions = np.linspace(-1, 1, len(steps), dtype=np.float32)[:, None]
    rewards = np.ones(len(steps), np.float32)
    return {"observations": observations, "actions": actions, "rewards": rewards, "terminals": flags[0], "timeouts": flags[1]}


def without(columns: Columns, *keys: str) -> Columns:
    return {key: column for key, column in columns.items() if key not in keys}


def sized(stem: str, columns: Columns) -> Columns:
    """With zeros up to the sizes of the family that `stem` names, if any."""
    sizes = dict(zip(("observations", "actions"), (*family_of(stem).sizes, (0, 0))[0], strict=True))
    sizes["next_observations"] = sizes["observations"]
    return {
        key: np.pad(column, ((0, 0), (0, max(0, sizes[key] - column.shape[1])))) if key in sizes else column
        for key, column in columns.items()
    }


def read(stem: str, columns: Columns, lazy: bool = False) -> Log:
    columns = sized(stem, columns)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{stem}.hdf5"
        d4rl.write(path, columns, {})
        return d4rl.read(path, lazy=lazy)


def pairs(log: Log) -> Pairs:
    successors = log.observations[log.obs_index + 1, 0]
    return [
        (float(s), None if terminated else float(n))
        for s, n, terminated in zip(log.observations[log.obs_index, 0], successors, log.terminated, strict=True)
    ]


def qlearning_dataset(columns: Columns, horizon: int) -> Pairs:
    """D4RL's reader, its faults included: the last row always goes, a timeout's row goes, and where there are no timeouts a counter stands
    in that begins at 1 instead of 0 after a terminal."""
    found: Pairs = []
    counter = 0
    for i in range(len(columns["rewards"]) - 1):
        last = columns["timeouts"][i] if "timeouts" in columns else counter == horizon - 1
        if last:
            counter = 0
            continue
        counter = 1 if columns["terminals"][i] else counter + 1
        successor = None if columns["terminals"][i] else float(columns["observations"][i + 1, 0])
        found.append((float(columns["observations"][i, 0]), successor))
    return found


def crossings(found: Pairs) -> int:
    return sum(successor is not None and successor != s + 1 for s, successor in found)


terminal_or_timeout = st.builds(lambda steps, terminal: Episode(steps, terminal, not terminal), st.integers(1, 9), st.booleans())


@given(st.lists(terminal_or_timeout, min_size=2, max_size=8), st.booleans(), st.booleans())
@few
def test_flags_give_d4rls_transitions_and_a_terminated_last_row_on_top(episodes: list[Episode], unfinished: bool, lazy: bool) -> None:
    columns = columns_of(*episodes[:-1], episodes[-1]._replace(terminal=False, timeout=False) if unfinished else episodes[-1])
    want = qlearning_dataset(columns, 1000)
    if columns["terminals"][-1]:  # needs no successor; D4RL drops it because it is the file's last row
        want.append((float(columns["observations"][-1, 0]), None))
    if not want or not (columns["terminals"] | columns["timeouts"]).any():
        with pytest.raises(SparError):
            read("hopper_medium", columns)
        return
    log = read("hopper_medium", columns, lazy)
    assert pairs(log) == want
    assert crossings(pairs(log)) == 0


falls_or_times_out = st.one_of(st.builds(lambda n: Episode(n, terminal=True), st.integers(1, HORIZON)), st.just(Episode(HORIZON)))


@given(st.lists(falls_or_times_out, min_size=1, max_size=6), st.integers(1, HORIZON - 1))
@few
def test_without_timeouts_the_horizon_ends_episodes_and_unlike_d4rls_counter_does_not_drift(episodes: list[Episode], tail: int) -> None:
    columns = without(columns_of(*episodes, Episode(tail)), "timeouts")
    if not columns["terminals"].any() and len(columns["rewards"]) < HORIZON:
        return
    want: Pairs = []
    age = 0
    for i, (s, terminal) in enumerate(zip(columns["observations"][:, 0].tolist(), columns["terminals"], strict=True)):
        age += 1
        if terminal:
            want.append((s, None))
        elif age < HORIZON and i + 1 < len(columns["rewards"]):
            want.append((s, float(columns["observations"][i + 1, 0])))
        age = 0 if terminal or age == HORIZON else age
    log = read("pen-demos-v0-bc-combined", columns)
    assert pairs(log) == want
    assert crossings(want) == 0
    assert np.isnan(log.episode_returns[-1]) or tail == 1
    np.testing.assert_array_equal(log.returns, [episode.steps for episode in episodes])


def test_d4rls_counter_leaks_where_ours_does_not() -> None:
    columns = without(columns_of(Episode(30, terminal=True), Episode(HORIZON), Episode(HORIZON)), "timeouts")
    assert crossings(qlearning_dataset(columns, HORIZON)) == 1
    assert crossings(pairs(read("pen-v0_expert_clipped", columns))) == 0


def test_a_timeouts_column_that_is_never_set_counts_as_missing_unlike_in_d4rl() -> None:
    columns = columns_of(Episode(1000), Episode(1000))
    assert crossings(qlearning_dataset(columns, 1000)) == 1
    log = read("halfcheetah_random-v1", columns)
    assert (len(log), crossings(pairs(log))) == (2 * 999, 0)
    columns = columns_of(Episode(7, terminal=True), Episode(5, terminal=True))  # as in hopper-random-v1
    assert pairs(read("hopper_random-v1", columns)) == [*qlearning_dataset(columns, 1000), (10_004.0, None)]


def test_an_early_timeout_ends_its_episode_as_in_d4rl() -> None:
    columns = columns_of(Episode(40, timeout=True), Episode(1000, timeout=True), Episode(3, timeout=True))
    assert pairs(read("walker2d_medium_replay-v2", columns)) == qlearning_dataset(columns, 1000)


def test_with_next_observations_every_row_trains_those_that_d4rl_drops_too() -> None:
    columns = columns_of(Episode(5, timeout=True), Episode(4, terminal=True), Episode(6, timeout=True), Episode(3))
    columns["next_observations"] = columns["observations"] + np.array([1, -1], np.float32)
    assert len(qlearning_dataset(columns, 1000)) == 18 - 1 - 2
    log = read("hopper_medium_replay-v2", columns)
    assert (len(log), crossings(pairs(log))) == (18, 0)
    np.testing.assert_array_equal(log.lengths, [5, 4, 6, 3])
    np.testing.assert_array_equal(log.episode_returns, [5, 4, 6, np.nan])


def test_stitched_medium_expert_files_split_where_only_the_successors_tell() -> None:
    columns = columns_of(Episode(5, timeout=True), Episode(4), Episode(6, timeout=True))
    columns["next_observations"] = columns["observations"] + np.array([1, -1], np.float32)
    log = read("hopper_medium_expert-v2", columns)
    np.testing.assert_array_equal(log.lengths, [5, 4, 6])
    assert "first at row 8" in " ".join(log.notes)


@pytest.mark.parametrize("tail", [1, 2, 5])
def test_a_last_row_with_neither_flag(tail: int) -> None:
    columns = columns_of(Episode(5, timeout=True), Episode(4, terminal=True), Episode(tail))
    log = read("hopper_medium", columns)
    assert pairs(log) == qlearning_dataset(columns, 1000)
    assert np.isnan(log.episode_returns[-1]) or tail == 1
    assert "unfinished" in " ".join(log.notes)
    assert not (log.terminated | log.truncated)[-1] or tail == 1


@pytest.mark.parametrize("flag", [np.uint8, np.int64, np.float32, np.float64])
def test_vectors_as_columns_double_precision_numeric_flags_and_what_else_lies_in_the_file(tmp_path: Path, flag: type) -> None:
    columns = sized("hopper", columns_of(Episode(5, timeout=True), Episode(4, terminal=True), Episode(6, timeout=True)))
    want = read("hopper_medium", columns)
    path = tmp_path / "hopper_medium.hdf5"
    with h5py.File(path, "w") as file:
        for key in ("observations", "actions"):
            file[key] = columns[key].astype(np.float64)
        file["rewards"] = columns["rewards"].astype(np.float64)[:, None]
        for key in ("terminals", "timeouts"):
            file[key] = columns[key].astype(flag)[:, None]
        file["metadata/algorithm"], file["metadata/iteration"] = "SAC", 299
        file["metadata/policy/fc0/weight"] = np.full((4, 2), np.nan)
        file["infos/qpos"] = np.full((15, 6), np.nan)
        file["infos/goal"] = np.zeros((3, 2))  # of another length than the rest
        file["infos/action_log_probs"] = np.full(15, -np.inf)
    for lazy in (False, True):
        got = d4rl.read(path, lazy=lazy)
        assert got.fingerprint == want.fingerprint
        np.testing.assert_array_equal(got.episode_returns, want.episode_returns)


def ant(columns: Columns, jump: float = 20.0) -> Columns:
    """The same walks in an ant's coordinates: 0.3 a step, `jump` between episodes."""
    episode, step = np.divmod(columns["observations"][:, 0], 10_000)
    columns["observations"] = np.stack([jump * episode + 0.3 * step, 0 * step, step], 1)
    return columns


V2, V0 = (
    "Ant_maze_u-maze_noisy_multistart_True_multigoal_True_sparse_fixed",
    "Ant_maze_big-maze_noisy_multistart_True_multigoal_True_sparse",
)


def test_an_ant_walks_on_after_its_goal_and_its_return_is_one() -> None:
    columns = columns_of(Episode(30, timeout=True), Episode(20, timeout=True), Episode(10, timeout=True))
    columns["rewards"][:] = 0
    hits = [12, 13, 14, 25, 40]  # four in the first episode, one in the second
    columns["rewards"][hits], columns["terminals"][hits] = 1, True
    log = read(V2, ant(columns))
    np.testing.assert_array_equal(log.lengths, [29, 19, 9])
    np.testing.assert_array_equal(log.episode_returns, [1, 1, 0])
    np.testing.assert_array_equal(np.flatnonzero(log.terminated), [12, 13, 14, 25, 39])
    assert pairs(log) == qlearning_dataset(columns, 700)


def test_a_goal_on_an_ants_last_row_is_kept_which_d4rl_drops() -> None:
    columns = ant(columns_of(Episode(30, terminal=True, timeout=True), Episode(20, timeout=True)))
    log = read(V2, columns)
    assert len(log) == 30 + 19 == len(qlearning_dataset(columns, 700)) + 1
    assert log.terminated[29]


def test_ants_that_jump_between_rows_without_a_timeout_are_split_which_d4rl_pairs() -> None:
    """v0: the flags are out of step with the resets."""
    columns = ant(columns_of(Episode(30), Episode(20), Episode(10)))
    columns["timeouts"][[25, 59]] = True
    log = read(V0, columns)
    moved = np.abs(log.observations[log.obs_index + 1, 0] - log.observations[log.obs_index, 0])
    assert moved.max() < 0.5
    np.testing.assert_array_equal(log.lengths, [25, 3, 19, 9])
    assert max(abs(n - s) for s, n in qlearning_dataset(columns, 1000) if n is not None) > 10
    assert "2 unmarked episode ends" in " ".join(log.notes)


@pytest.mark.parametrize(
    ("stem", "horizon"), [(V2, 700), (V0, 1000), ("Ant_maze_umaze_noisy_multistart_False_multigoal_False_sparse", 700)]
)
def test_ants_without_any_mark_are_cut_at_their_mazes_horizon(stem: str, horizon: int) -> None:
    columns = ant(without(columns_of(Episode(horizon), Episode(horizon)), "timeouts"), jump=0.1)
    assert read(stem, columns).lengths.tolist() == [horizon - 1] * 2


@pytest.mark.parametrize("stem", ["mini_kitchen_microwave_kettle_light_slider-v0", "kitchen_microwave_kettle_bottomburner_light-v0"])
def test_kitchen_terminals_cut_demonstrations_and_never_stop_the_bootstrap_as_they_do_in_d4rl(stem: str) -> None:
    columns = without(columns_of(Episode(200, terminal=True), Episode(280, terminal=True), Episode(150, terminal=True)), "timeouts")
    log = read(stem, columns)
    assert not log.terminated.any()
    assert log.truncated.sum() == 3
    np.testing.assert_array_equal(log.lengths, [199, 279, 149])
    np.testing.assert_array_equal(log.episode_returns, [200, 280, 150])
    kept = {s for s, successor in qlearning_dataset(columns, 1000) if successor is not None}
    assert {s for s, _ in pairs(log)} == kept


def test_a_kitchen_log_of_our_own_keeps_its_terminals(tmp_path: Path) -> None:
    columns = columns_of(Episode(20, terminal=True), Episode(28, timeout=True))
    columns["next_observations"] = columns["observations"] + np.array([1, -1], np.float32)
    log = read("robot", sized("kitchen", columns))
    d4rl.write_log(tmp_path / "kitchen-mine.hdf5", log)
    again = d4rl.read(tmp_path / "kitchen-mine.hdf5")
    assert again.fingerprint == log.fingerprint
    assert again.terminated[19]


OTHERS = {  # a file of somebody else's, of other sizes: what its name would do to it
    "kitchen_cooling": columns_of(Episode(20, terminal=True), Episode(28, timeout=True)),
    "antmaze_umaze_mine": columns_of(Episode(20, terminal=True), Episode(28, timeout=True)),
    "pen_plotter": {**columns_of(Episode(150, terminal=True), Episode(28, terminal=True)), "timeouts": np.zeros(178, bool)},
}


@pytest.mark.parametrize("stem", OTHERS)
def test_a_name_alone_does_not_say_how_a_file_is_read(stem: str, tmp_path: Path) -> None:
    d4rl.write(tmp_path / f"{stem}.hdf5", OTHERS[stem], {})
    log, plain = d4rl.read(tmp_path / f"{stem}.hdf5"), read("robot", OTHERS[stem])
    assert (log.fingerprint, log.notes) == (plain.fingerprint, plain.notes)
    assert log.fingerprint != read(stem, OTHERS[stem]).fingerprint
    np.testing.assert_array_equal(log.episode_returns, plain.episode_returns)


def test_maze2d_timeouts_mark_goals_reached_and_nothing_terminates() -> None:
    columns = columns_of(
        Episode(91, timeout=True), Episode(53, timeout=True), Episode(1, timeout=True), Episode(600, timeout=True), Episode(3)
    )
    log = read("maze2d-large-sparse-v1", columns)
    assert pairs(log) == qlearning_dataset(columns, 800)
    assert not log.terminated.any()
    np.testing.assert_array_equal(log.lengths, [90, 52, 599, 2])


@pytest.mark.parametrize(("stem", "horizon"), [("maze2d-umaze-dense-v1", 300), ("maze2d-open-sparse", 150), ("maze2d-large-v1", 800)])
def test_maze2d_as_its_generator_leaves_it_has_no_timeouts(stem: str, horizon: int) -> None:
    columns = without(columns_of(Episode(horizon), Episode(horizon), Episode(5)), "timeouts")
    log = read(stem, columns)
    assert pairs(log) == qlearning_dataset(columns, horizon)
    assert log.lengths.tolist() == [horizon - 1] * 2 + [4]


def test_human_demonstrations_end_at_their_timeouts_not_at_the_evaluations_horizon() -> None:
    columns = columns_of(Episode(200, timeout=True), Episode(183, timeout=True))
    log = read("pen-human-v1", columns)
    assert pairs(log) == qlearning_dataset(columns, 100)
    np.testing.assert_array_equal(log.lengths, [199, 182])
