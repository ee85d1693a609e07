"""The schema: no successor is ever read across an episode's end."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spar.data import catalog
from spar.data.episodes import Log
from spar.data.rows import from_rows
from spar.data.scalers import STD_FLOOR
from spar.data.sources import d4rl
from spar.types import SparError
from tests.conftest import plant_rows


@st.composite
def rows(draw: st.DrawFn) -> dict[str, np.ndarray]:
    """Random logs: lengths from 1, ends of both kinds, sometimes an unfinished tail. Observations name (episode, time)."""
    lengths = draw(st.lists(st.integers(1, 5), min_size=1, max_size=6))
    kinds = draw(st.lists(st.sampled_from(["terminated", "truncated"]), min_size=len(lengths), max_size=len(lengths)))
    unfinished = draw(st.booleans()) and len(lengths) > 1
    out: dict[str, list] = {"obs": [], "next_obs": [], "terminated": [], "truncated": [], "reward": []}
    for e, (length, kind) in enumerate(zip(lengths, kinds, strict=True)):
        for t in range(length):
            last = t == length - 1 and not (unfinished and e == len(lengths) - 1)
            out["obs"].append([100.0 * e + t])
            out["next_obs"].append([100.0 * e + t + 1])
            out["terminated"].append(last and kind == "terminated")
            out["truncated"].append(last and kind == "truncated")
            out["reward"].append(float(draw(st.integers(-3, 3))))
    columns = {key: np.asarray(column) for key, column in out.items()}
    return {**columns, "action": np.zeros((len(columns["obs"]), 1), np.float32)}


@given(rows(), st.booleans())
@settings(max_examples=200, deadline=None)
def test_transitions_equal_a_naive_loop(columns: dict[str, np.ndarray], has_next: bool) -> None:
    columns = dict(columns)
    following = columns.pop("next_obs")
    ends = columns["terminated"] | columns["truncated"]
    pairs, returns, total = [], [], 0.0
    for i in range(len(ends)):
        total += columns["reward"][i]
        if has_next:
            pairs.append((columns["obs"][i, 0], following[i, 0]))
        elif columns["terminated"][i]:
            pairs.append((columns["obs"][i, 0], None))
        elif not ends[i] and i + 1 < len(ends):
            pairs.append((columns["obs"][i, 0], columns["obs"][i + 1, 0]))
        if ends[i]:
            if has_next or columns["terminated"][i] or (i > 0 and not ends[i - 1]):
                returns.append(total)
            total = 0.0
    if not ends.any() or not pairs:
        with pytest.raises(SparError):
            from_rows("x", **columns, next_obs=following if has_next else None)
        return
    log = from_rows("x", **columns, next_obs=following if has_next else None)
    obs, successor = log.observations[log.obs_index, 0], log.observations[log.obs_index + 1, 0]
    assert len(obs) == len(pairs)
    for got, got_next, terminated, (want, want_next) in zip(obs, successor, log.terminated, pairs, strict=True):
        assert got == want
        assert terminated if want_next is None else got_next == want_next
    np.testing.assert_allclose(log.returns, returns)


def test_planted_jump_never_enters_a_target() -> None:
    """Each episode lives near its own huge offset: a successor from another episode would be 1000 away."""
    columns = plant_rows()
    episode = np.cumsum(np.append(0, (columns["terminals"] | columns["timeouts"])[:-1]))
    for has_next in (True, False):
        jumped = columns["observations"] + 1000.0 * episode[:, None]
        following = columns["next_observations"] + 1000.0 * episode[:, None] if has_next else None
        log = from_rows("x", jumped, columns["actions"], columns["rewards"], columns["terminals"], columns["timeouts"], following)
        scaler = log.scaler(standardise=False)
        data = log.transitions(scaler)
        moved = np.abs(np.asarray(data.next_obs - data.obs)) * scaler.obs_std
        assert moved.max() < 10


def test_an_unmarked_boundary_is_split_and_reported() -> None:
    columns = plant_rows()
    end = int(np.flatnonzero(columns["timeouts"])[0])
    columns["timeouts"][end] = False
    names = ("observations", "actions", "rewards", "terminals", "timeouts", "next_observations")
    log = from_rows("x", *(columns[k] for k in names))
    assert any("unmarked" in note and f"row {end}" in note for note in log.notes)
    np.testing.assert_allclose(log.observations[log.obs_index + 1], columns["next_observations"], rtol=1e-6)


def test_file_and_arrays_give_equal_logs(plant_file) -> None:
    columns = plant_rows()
    names = ("observations", "actions", "rewards", "terminals", "timeouts", "next_observations")
    assert d4rl.read(plant_file).fingerprint == from_rows("other name", *(columns[k] for k in names)).fingerprint


def test_fingerprint_sees_one_changed_bit(log: Log) -> None:
    columns = plant_rows()
    columns["rewards"][17] = np.nextafter(columns["rewards"][17], np.float32(np.inf))
    names = ("observations", "actions", "rewards", "terminals", "timeouts", "next_observations")
    assert from_rows("plant", *(columns[k] for k in names)).fingerprint != log.fingerprint


def test_fingerprint_sees_the_action_box(log: Log) -> None:
    """Other bounds are another scaling, so another training."""
    rows = plant_rows().values()
    assert from_rows("plant", *rows, action_low=-1, action_high=1).fingerprint == log.fingerprint
    wider = [
        from_rows("plant", *rows, action_low=low, action_high=high).fingerprint for low, high in ((-1, 2), (-2, 1), ([-1, -1], [1, 2]))
    ]
    assert len({log.fingerprint, *wider}) == 4
    assert catalog.load("hopper-replay").fingerprint == "4cfa5d04090c8b90"  # as published results name it


def test_split_keeps_whole_episodes(log: Log) -> None:
    training, heldout = log.split(0.25, seed=3)
    assert heldout is not None
    assert len(training) + len(heldout) == len(log)
    assert sorted([*training.episode_returns, *heldout.episode_returns]) == sorted(log.episode_returns)
    assert log.split(0.0) == (log, None)
    with pytest.raises(SparError, match=r"plant: holdout 0\.6 of 1 episodes leaves none to train on; hold out less"):
        log.pick(np.arange(len(log.lengths)) == 0).split(0.6)


def test_scaler_round_trips(log: Log) -> None:
    scaler = log.scaler()
    data = log.transitions(scaler, reward_shift=-1.0)
    np.testing.assert_allclose(np.asarray(data.obs).mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(np.asarray(data.obs) * scaler.obs_std + scaler.obs_mean, log.observations[log.obs_index], atol=1e-5)
    np.testing.assert_allclose(data.reward, log.rewards - 1, rtol=1e-6)
    assert (scaler.obs_std >= STD_FLOOR).all()


def test_actions_scale_to_the_box_and_back() -> None:
    columns = plant_rows(100)
    low, high = np.array([-2.0, 0.0]), np.array([2.0, 10.0])
    physical = low + (columns["actions"] + 1) / 2 * (high - low)
    names = ("rewards", "terminals", "timeouts", "next_observations")
    log = from_rows("x", columns["observations"], physical, *(columns[k] for k in names), action_low=low, action_high=high)
    scaler = log.scaler()
    np.testing.assert_allclose(log.transitions(scaler).action, columns["actions"], atol=1e-6)
    np.testing.assert_allclose(scaler.action_out(columns["actions"]), physical, atol=1e-5)
    with pytest.raises(SparError, match="'actions' row"):
        from_rows("x", columns["observations"], physical, *(columns[k] for k in names))


def test_a_constant_observation_does_not_blow_up() -> None:
    columns = plant_rows(100)
    columns["observations"][:, 1] = columns["next_observations"][:, 1] = 7.0
    names = ("observations", "actions", "rewards", "terminals", "timeouts", "next_observations")
    log = from_rows("x", *(columns[k] for k in names))
    assert np.abs(np.asarray(log.transitions(log.scaler()).obs)[:, 1]).max() < 1e-2
