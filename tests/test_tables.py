"""CSV and Parquet tables with a mapping: what they mean, what they survive, and that nothing is lost on the way through them."""

from __future__ import annotations

import dataclasses
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spar import cli
from spar.data.episodes import Log
from spar.data.rows import Rows, from_rows
from spar.data.sources import d4rl, mapping, tables
from spar.data.sources.mapping import Mapping
from spar.types import SparError
from tests.conftest import TINY_FLAGS, plant_log
from tests.corpus_tables import PLANT, csv, parquet, plant_columns, write_mapping

ROOT = Path(__file__).resolve().parents[1]


def assert_equal(one: Log, other: Log) -> None:
    """Equal in all that a file must carry; names, sources and notes aside."""
    assert one.fingerprint == other.fingerprint
    for field in ("episode_returns", "action_low", "action_high"):
        np.testing.assert_array_equal(getattr(one, field), getattr(other, field))
    assert (one.env_id, one.env_kwargs, one.observation_keys) == (other.env_id, other.env_kwargs, other.observation_keys)


@st.composite
def logs(draw: st.DrawFn) -> Log:
    """Episodes of both ends, with terminations inside, an unfinished tail, own bounds, and values of any finite size."""
    lengths = draw(st.lists(st.integers(1, 4), min_size=1, max_size=5))
    steps, width, act = sum(lengths), draw(st.integers(1, 3)), draw(st.integers(1, 2))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scale = 10.0 ** draw(st.integers(-30, 30))
    ends = np.cumsum(lengths) - 1
    terminated, truncated = np.zeros((2, steps), bool)
    terminated[ends] = rng.random(len(ends)) < 0.5
    truncated[ends] = ~terminated[ends]
    going_on = draw(st.booleans())
    if going_on:
        terminated |= rng.random(steps) < 0.3
        truncated[ends] = True
    if draw(st.booleans()):
        terminated[-1] = truncated[-1] = False
    low = (rng.normal(size=act) * scale).astype(np.float32)
    high = (low + abs(low) + np.float32(scale)).astype(np.float32)
    action = low + (high - low) * rng.random((steps, act), np.float32)
    rows = Rows(
        "x", scale * rng.normal(size=(steps, width)), action, scale * rng.normal(size=steps), terminated, truncated,
        next_obs=scale * rng.normal(size=(steps, width)), ends=ends, action_low=low, action_high=high,
        env_id=draw(st.sampled_from([None, "Hopper-v5", 'a "quoted" \\ name'])), observation_keys=draw(st.sampled_from([(), ("b", "a")])),
        env_kwargs=draw(st.sampled_from(["", '{"maze": [[1, 0]]}'])), terminal_ends=not going_on,
    )  # fmt: skip
    # the successor inside an episode is the next row
    following = np.append(rows.obs[1:], rows.obs[:1], 0)
    following[ends] = np.asarray(rows.next_obs)[ends]
    rows.next_obs = following
    return rows.log("x")


@given(logs())
@settings(max_examples=50, deadline=None)
def test_nothing_is_lost_from_d4rl_to_tables_and_back(log: Log) -> None:
    with tempfile.TemporaryDirectory() as folder:
        first, table, text, last = (Path(folder) / name for name in ("a.hdf5", "b.parquet", "c.csv", "d.hdf5"))
        d4rl.write_log(first, log)
        from_file = d4rl.read(first)
        assert_equal(from_file, log)
        tables.write_log(table, from_file)
        assert_equal(tables.read(table), log)
        tables.write_log(text, tables.read(table))
        assert_equal(tables.read(text), log)
        d4rl.write_log(last, tables.read(text))
        assert_equal(d4rl.read(last), log)


names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=5)
floats = st.floats(width=32, min_value=-(2.0**100), max_value=2.0**100)


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_a_mapping_survives_its_file(data: st.DataObject) -> None:
    columns = data.draw(st.lists(names, min_size=6, max_size=6, unique=True))
    low = data.draw(floats)
    found = Mapping(
        observation=(columns[0],),
        next_observation=(columns[1],),
        action=(columns[2],),
        action_low=(low,),
        action_high=(float(np.float32(low) + abs(np.float32(low)) + np.float32(1)),),
        reward=columns[3],
        **{data.draw(st.sampled_from(["episode", "terminated", "truncated", "time"])): columns[4]},
        units={columns[0]: data.draw(names)},
        env_id=data.draw(st.none() | names),
        env_kwargs=data.draw(st.just("") | names),
        episode_returns=data.draw(st.none() | st.lists(st.floats(allow_nan=False), max_size=3).map(tuple)),
        terminals_end_episodes=data.draw(st.booleans()),
    )
    assert dataclasses.replace(mapping.parse(mapping.dump(found), "x"), source="mapping") == found


def test_rows_become_episodes(tmp_path: Path) -> None:
    """By hand: Monday terminated and keeps all its rows; Tuesday was cut, so its last row only gives the final observation."""
    path = tmp_path / "plant.csv"
    csv(settings='units = { room = "degC", valve = "%" }')(path)
    log = tables.read(path)
    assert log.lengths.tolist() == [3, 2]
    assert log.terminated.tolist() == [False, False, True, False, False]
    assert log.truncated.tolist() == [False, False, False, False, True]
    np.testing.assert_array_equal(log.actions[:, 0], np.float32([40, 35, 30, 10, 15]))
    np.testing.assert_allclose(log.episode_returns, [-0.7, -1.75])
    np.testing.assert_array_equal(log.observations[-1], np.float32([21.25, 7.0]))
    assert "units: room [degC], valve [%]" in log.notes
    columns = plant_columns()
    obs = np.stack([columns["room"], columns["outside"]], 1)
    action = np.asarray(columns["valve"])[:, None]
    ends = np.array([False] * 5 + [True])
    same = from_rows("x", obs, action, columns["reward"], np.asarray(columns["fault"]) > 0, ends, None, np.zeros(1), np.full(1, 100.0))
    assert_equal(log, same)


def test_actions_scale_to_the_unit_box_and_back(tmp_path: Path) -> None:
    csv()(tmp_path / "plant.csv")
    log = tables.read(tmp_path / "plant.csv")
    scaler = log.scaler()
    scaled = scaler.action_in(log.actions)
    np.testing.assert_allclose(scaled[:, 0], [-0.2, -0.3, -0.4, -0.8, -0.7], atol=1e-6)
    np.testing.assert_allclose(scaler.action_out(scaled), log.actions, rtol=1e-6)


DIALECTS: dict[str, Callable[[str], str]] = {
    "byte order mark": lambda text: "\ufeff" + text,
    "CRLF": lambda text: text.replace("\n", "\r\n"),
    "CR": lambda text: text.replace("\n", "\r"),
    "blank lines at the end": lambda text: text + "\n\n\r\n",
    "no last line end": lambda text: text.rstrip("\n"),
    "quotes": lambda text: re.sub(r"[^,\n]+", r'"\g<0>"', text),
    "spaces": lambda text: text.replace(",", " , "),
    "plus signs and exponents": lambda text: text.replace(",21.5,", ",+2.15e1,"),
    "words for flags": lambda text: re.sub(r",1$", ",Yes", re.sub(r",0$", ",false", text, flags=re.M), flags=re.M),
    "another column": lambda text: re.sub(r"$", ',"a, b"', text, flags=re.M),
    "other episode ids": lambda text: text.replace("mon", "7").replace("tue", "-1"),
    "dates": lambda text: re.sub(r"^(\d)", r"2026-01-31T08:0\1:00+01:00", text, flags=re.M),
}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_csv_dialects_read_alike(dialect: str, tmp_path: Path) -> None:
    path = tmp_path / "plant.csv"
    csv()(path)
    expected = tables.read(path).fingerprint
    path.write_text(DIALECTS[dialect](PLANT), encoding="utf-8", newline="")
    assert tables.read(path).fingerprint == expected


PARQUET_TYPES: dict[str, dict[str, pa.DataType]] = {
    "float32 and small integers": {"room": pa.float32(), "minute": pa.int8(), "fault": pa.uint8()},
    "decimals": {"valve": pa.decimal128(10, 2), "fault": pa.bool_()},
    "timestamps and categories": {"minute": pa.timestamp("ns"), "day": pa.dictionary(pa.int32(), pa.string())},
    "dates": {"minute": pa.date32(), "day": pa.large_string()},
}


@pytest.mark.parametrize("kinds", PARQUET_TYPES.values(), ids=PARQUET_TYPES)
def test_parquet_types_read_alike(kinds: dict[str, pa.DataType], tmp_path: Path) -> None:
    def typed(columns: dict[str, Any]) -> None:
        for name, kind in kinds.items():
            whole = pa.array(columns[name]).cast(pa.int64() if name == "minute" else pa.array(columns[name]).type)
            columns[name] = whole.cast(pa.int32()).cast(kind) if pa.types.is_date(kind) else whole.cast(kind)

    csv()(tmp_path / "plant.csv")
    parquet(typed)(tmp_path / "plant.parquet")
    assert_equal(tables.read(tmp_path / "plant.parquet"), tables.read(tmp_path / "plant.csv"))


def long_table(path: Path, rows: int = 150_000) -> list[str]:
    """More than one batch of either format, an episode every 1000 rows."""
    rng = np.random.default_rng(0)
    values = np.round(rng.uniform(0, 1, (rows, 3)), 4)
    lines = ["a,b,valve,reward,run", *(f"{a},{b},{v},{a},{i // 1000}" for i, (a, b, v) in enumerate(values.tolist()))]
    path.write_text("\n".join(lines))
    settings = 'observation = ["a", "b"]\nepisode = "run"\n-terminated\n-time'
    write_mapping(path, settings)
    columns = {"a": values[:, 0], "b": values[:, 1], "valve": values[:, 2], "reward": values[:, 0], "run": np.arange(rows) // 1000}
    pq.write_table(pa.table(columns), path.with_suffix(".parquet"))
    return lines


def test_long_tables_are_read_in_pieces_and_rows_are_counted_through(tmp_path: Path) -> None:
    path = tmp_path / "long.csv"
    lines = long_table(path)
    log = tables.read(path)
    assert (log.lengths == 999).all() and len(log.lengths) == 150
    assert_equal(log, tables.read(path.with_suffix(".parquet")))
    for row, wrong, message in (
        (123_456, "0.5,,0.5,0.5,123", "'b' row 123456 (line 123458) is empty"),
        (149_999, "0.5,0.5,0.5,0.5", "row 149999 (line 150001) has 4 cells"),
        (70_001, "0.5,0.5,0.5,0.5,3", "'run' row 70001 (line 70003) is '3' again"),
    ):
        path.write_text("\n".join([*lines[: row + 1], wrong, *lines[row + 2 :]]))
        with pytest.raises(SparError, match=re.escape(message)):
            tables.read(path)


def test_where_episodes_end(tmp_path: Path) -> None:
    path = tmp_path / "plant.csv"
    csv(settings="-episode\n-time")(path)  # the flags decide: one termination, the rest unfinished
    log = tables.read(path)
    assert log.lengths.tolist() == [3, 2] and np.isnan(log.episode_returns[1])
    csv(settings="-episode\n-time\n-terminated")(path)  # nothing decides
    log = tables.read(path)
    assert log.lengths.tolist() == [5] and "the whole file is one episode" in log.notes[0]
    csv(settings='-terminated\ntruncated = "fault"')(path)  # a column of truncations that leaves one end unmarked
    log = tables.read(path)
    assert log.truncated.tolist() == [False, True, False, False] and np.isnan(log.episode_returns[1])
    csv(lambda lines: lines.__setitem__(2, "1,mon,21.0,5.0,35,0.0,1"), "terminals_end_episodes = false")(path)
    assert tables.read(path).terminated.tolist() == [False, True, True, False, False]


def test_a_successor_that_is_not_the_next_row_ends_the_episode(tmp_path: Path) -> None:
    """A row was dropped inside Tuesday: nothing is read across the gap."""

    def with_next(columns: dict[str, Any]) -> None:
        columns["next_room"] = [21.0, 20.8, 20.5, 21.5, 99.0, 21.0]

    path = tmp_path / "plant.parquet"
    parquet(with_next, 'observation = ["room"]\nnext_observation = ["next_room"]')(path)
    log = tables.read(path)
    assert log.lengths.tolist() == [3, 2, 1]
    assert any("the successor is not the next row" in note and "row 4" in note for note in log.notes)
    np.testing.assert_array_equal(log.successors[:, 0], np.float32([21.0, 20.8, 20.5, 21.5, 99.0, 21.0]))


def test_a_log_to_look_at_keeps_its_holes(tmp_path: Path) -> None:
    path = tmp_path / "plant.csv"
    csv(lambda lines: lines.__setitem__(2, "9,mon,,5.0,135,0.0,0"))(path)
    log = tables.read(path, strict=False)
    assert np.isnan(log.observations[1, 0]) and log.actions[1, 0] == 135.0


def test_the_mapping_may_be_anywhere(tmp_path: Path) -> None:
    log = plant_log()
    path = tmp_path / "log.parquet"
    tables.write_log(path, log)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["log.parquet"]
    inside = mapping.parse(pq.read_schema(path).metadata[b"spar.mapping"].decode(), "x")
    one_observation = dataclasses.replace(inside, observation=inside.observation[:1], next_observation=inside.next_observation[:1])
    assert tables.read(path, one_observation).spec.obs_dim == 1
    (tmp_path / "other.toml").write_text(mapping.dump(one_observation))
    assert tables.read(path, tmp_path / "other.toml", name="n", env_id="Hopper-v5").spec.obs_dim == 1
    (tmp_path / "other.toml").rename(tmp_path / "log.toml")
    assert tables.read(path).spec.obs_dim == 1


@pytest.mark.parametrize("taken", ["log.csv", "log.toml"])
def test_nothing_is_written_over(taken: str, tmp_path: Path) -> None:
    (tmp_path / taken).write_text("mine")
    with pytest.raises(SparError, match="exists already"):
        tables.write_log(tmp_path / "log.csv", plant_log(60))
    assert (tmp_path / taken).read_text() == "mine" and len(list(tmp_path.iterdir())) == 1


def test_a_guess_is_a_mapping_to_start_from(tmp_path: Path) -> None:
    path = tmp_path / "plant.csv"
    path.write_text(PLANT.replace("minute,day", "time,episode_id").replace("valve", "valve_cmd").replace("fault", "terminated"))
    path.with_suffix(".toml").write_text(tables.guess_mapping(path))
    found = mapping.load(path.with_suffix(".toml"))
    assert (found.observation, found.action, found.reward, found.time) == (("room", "outside"), ("valve_cmd",), "reward", "time")
    assert (found.episode, found.terminated, found.action_low, found.action_high) == ("episode_id", "terminated", (10.0,), (40.0,))
    assert tables.read(path).lengths.tolist() == [3, 2] and "at time limits too" not in path.with_suffix(".toml").read_text()
    path.write_text(PLANT.replace("fault", "done"))
    assert "a 'done' that is 1 at time limits too must not be used" in tables.guess_mapping(path)

    written = tmp_path / "own" / "log.parquet"
    written.parent.mkdir()
    tables.write_log(written, plant_log())
    guessed = mapping.parse(tables.guess_mapping(written), "x")
    inside = mapping.parse(pq.read_schema(written).metadata[b"spar.mapping"].decode(), "x")
    assert guessed.roles() == inside.roles()


def test_a_guess_says_what_it_could_not_find(tmp_path: Path) -> None:
    path = tmp_path / "plant.csv"
    path.write_text("x,y,word\n1,2,a\n3,4,b\n")
    text = tables.guess_mapping(path)
    assert 'observation = ["x", "y"]' in text and '# not used: "word"' in text
    with pytest.raises(SparError, match="'reward' must be one name in quotes"):
        mapping.parse(text, "x")
    with pytest.raises(SparError, match="'action' names no column"):
        mapping.parse(text.replace('reward = ""', 'reward = "word"'), "x")
    path.write_text("x,action,reward\n1,2,0\n3,2,0\n")
    with pytest.raises(SparError, match=re.escape("action 'action' has bounds [2, 2]")):
        mapping.parse(tables.guess_mapping(path), "x")


def test_the_page_about_your_own_data_is_true(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / "your-data.md").read_text()
    blocks: list[tuple[str, str]] = re.findall(r"```(\w*)\n(.*?)```", text, re.S)
    assert [kind for kind, _ in blocks] == ["", "python", "toml", "", "python"]
    (sample, make, settings, commands, use) = (body for _, body in blocks)
    exec(compile(make, "your-data.md", "exec"), {})
    Path("plant.toml").write_text(settings)
    log = tables.read(Path("plant.csv"))
    assert log.lengths.tolist() == [47] * 30 and log.action_high.tolist() == [100.0]
    assert "units: room [degC], outside [degC], valve [%]" in log.notes
    seen = log.observations[log.obs_index]
    causes = np.column_stack([seen, log.actions, np.ones(len(log))])  # a row's action is the one that was chosen on seeing it
    effects = np.linalg.lstsq(causes, log.successors[:, 0], rcond=None)[0]
    np.testing.assert_allclose(effects, [0.95, 0.05, -0.01, 0.3], atol=1e-3)
    Path("sample.csv").write_text(sample)
    assert len(tables.read(Path("sample.csv"), Path("plant.toml"))) == 1
    scope: dict[str, Any] = {}
    exec(compile(use, "your-data.md", "exec"), scope)
    assert_equal(scope["log"], log)
    listed = set(re.findall(r"^\| `\[?(\w+)", text, re.M))
    known = {f.name for f in dataclasses.fields(Mapping)} - {"source", "action_low", "action_high", "observation_keys", "episode_returns"}
    assert listed == known
    for line in commands.strip().splitlines():
        words = line.split("#")[0].split()[1:]
        more = ["--steps-anchor", "20", "--steps-residual", "20", *TINY_FLAGS] if words[0] == "train" else []
        assert cli.main([*words, *more]) == 0
