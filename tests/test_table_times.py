"""The time column of a table: what may stand in it, and what is said of gaps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from spar.data.sources import tables
from spar.types import SparError
from tests.corpus_tables import csv, parquet

ISO = [f"2026-01-31T08:0{minute}:00+01:00" for minute in (0, 1, 2, 0, 1, 2)]


def test_text_in_a_parquet_file_may_be_times_too(tmp_path: Path) -> None:
    csv()(tmp_path / "plant.csv")
    expected = tables.read(tmp_path / "plant.csv").fingerprint
    for times in (ISO, [text.replace("T", " ") for text in ISO], ["0", "1", "2", " 0", "1", "2"]):
        parquet(lambda columns, times=times: columns.update(minute=times))(tmp_path / "plant.parquet")
        assert tables.read(tmp_path / "plant.parquet").fingerprint == expected
    parquet(lambda columns: columns.update(minute=[*ISO[:2], ISO[0], *ISO[3:]]))(tmp_path / "plant.parquet")
    with pytest.raises(SparError, match="'minute' row 2 is not later than row 1"):
        tables.read(tmp_path / "plant.parquet")
    parquet(lambda columns: columns.update(minute=[*ISO[:2], "noon", *ISO[3:]]))(tmp_path / "plant.parquet")
    with pytest.raises(SparError, match="'minute' row 2 is 'noon', neither a number nor a time such as"):
        tables.read(tmp_path / "plant.parquet")


def test_the_suffix_may_be_in_capitals(tmp_path: Path) -> None:
    csv()(tmp_path / "plant.csv")
    (tmp_path / "PLANT.CSV").write_bytes((tmp_path / "plant.csv").read_bytes())
    (tmp_path / "PLANT.toml").write_bytes((tmp_path / "plant.toml").read_bytes())
    np.testing.assert_array_equal(tables.read(tmp_path / "PLANT.CSV").observations, tables.read(tmp_path / "plant.csv").observations)


def plant(path: Path, times: list[object], mapping: str = "", flags: str = "") -> Path:
    """A walk with a row for each of `times`; `flags` marks the last rows of episodes with 1."""
    rows = [f"{time},{i % 7},0.5,{i % 3},{(flags or '0' * len(times))[i]}" for i, time in enumerate(times)]
    path.write_text("\n".join(["time,x,valve,reward,cut", *rows]))
    settings = 'observation = ["x"]\nreward = "reward"\ntime = "time"\n'
    path.with_suffix(".toml").write_text(f"{settings}{mapping}\n[action.valve]\nlow = 0.0\nhigh = 1.0\n")
    return path


def test_gaps_in_time_are_said_with_their_place(tmp_path: Path) -> None:
    """Two hours off in a log of a row a minute: a gap that nothing marks."""
    minutes = [*range(10), *range(130, 140), *range(400, 410)]
    iso = [f"2026-01-31T{m // 60:02}:{m % 60:02}:00" for m in minutes]
    for times in (minutes, [m / 60 for m in minutes], iso):
        for strict in (True, False):
            (note,) = (n for n in tables.read(plant(tmp_path / "plant.csv", list(times)), strict=strict).notes if "gaps" in n)
            said = (
                "2 gaps in time inside episodes, the first before 'time' row 10 (line 12), 121 times the median step: the row after trains"
            )
            assert note.startswith(said) and note.endswith("name an 'episode' column or a 'truncated' flag")
    marked = "".join("1" if m in (9, 139, 409) else "0" for m in minutes)
    assert not any("gaps" in n for n in tables.read(plant(tmp_path / "plant.csv", minutes, 'truncated = "cut"', marked)).notes)
    ids = marked.replace("1", "0")[:20] + "1" * 10
    (note,) = (n for n in tables.read(plant(tmp_path / "plant.csv", minutes, 'episode = "cut"', ids)).notes if "gaps" in n)
    assert note.startswith("1 gaps") and note.endswith("give the rows after it another 'cut'")


def test_steps_of_different_length_are_no_gaps(tmp_path: Path) -> None:
    minutes = np.cumsum(np.random.default_rng(0).uniform(0.5, 2.4, 200)).tolist()
    assert not any("gaps" in n for n in tables.read(plant(tmp_path / "plant.csv", minutes)).notes)


def test_a_log_to_look_at_may_have_bad_times(tmp_path: Path) -> None:
    for times in ([0, 1, "noon", 3], [0, 5, 4, 6], [0, 1, "nan", 3], [0, 1, "", 3]):
        path = plant(tmp_path / "plant.csv", list(times))
        assert len(tables.read(path, strict=False)) == 3
        with pytest.raises(SparError, match="'time' row 2"):
            tables.read(path)
