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
