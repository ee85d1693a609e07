"""Whatever is wrong with a file, the message is one line that names the file, the field and, where there is one, the row."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from spar import cli
from spar.data import catalog
from spar.data.rows import from_rows
from spar.data.sources import d4rl
from spar.types import SparError
from tests.conftest import plant_rows

Columns = dict[str, np.ndarray]


def without(key: str) -> Callable[[Columns], None]:
    return lambda columns: columns.pop(key)


def put(key: str, where: tuple, value: float) -> Callable[[Columns], None]:
    def change(columns: Columns) -> None:
        columns[key] = columns[key].astype(np.float32)
        columns[key][where] = value

    return change


def cast(key: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Columns], None]:
    return lambda columns: columns.update({key: change(columns[key])})


def no_ends(columns: Columns) -> None:
    columns["terminals"][:] = False
    columns.pop("timeouts")
    columns.pop("next_observations")


CASES: dict[str, tuple[Callable[[Columns], None], str]] = {
    "missing observations": (without("observations"), "'observations' is missing"),
    "missing actions": (without("actions"), "'actions' is missing"),
    "missing rewards": (without("rewards"), "'rewards' is missing"),
    "missing terminals": (without("terminals"), "'terminals' is missing"),
    "NaN observation": (put("observations", (41, 2), np.nan), "'observations' row 41, column 2 is nan"),
    "infinite action": (put("actions", (7, 1), np.inf), "'actions' row 7, column 1 is inf"),
    "NaN reward": (put("rewards", (13,), np.nan), "'rewards' row 13 is nan"),
    "NaN successor": (put("next_observations", (5, 0), np.nan), "'next_observations' row 5, column 0"),
    "action outside the box": (put("actions", (99, 0), 1.5), "'actions' row 99, column 0 is 1.5, outside"),
    "integer actions": (cast("actions", lambda a: a.astype(np.int64)), "'actions' has type int64"),
    "text rewards": (cast("rewards", lambda a: a.astype("S8")), "'rewards' has type"),
    "flat observations": (cast("observations", np.ravel), "'observations' has shape"),
    "square rewards": (cast("rewards", lambda a: np.stack([a, a], 1)), "'rewards' has shape (600, 2)"),
    "short rewards": (cast("rewards", lambda a: a[:-1]), "'rewards' has 599 rows but 'observations' has 600"),
    "short terminals": (cast("terminals", lambda a: a[:-9]), "'terminals' has 591 rows"),
    "odd flag": (put("timeouts", (3,), 0.5), "'timeouts' row 3 is 0.5"),
    "successors of another width": (cast("next_observations", lambda a: a[:, :2]), "'next_observations' has shape (600, 2)"),
    "no episode end": (no_ends, "no episode end"),
    "no rows": (lambda c: c.update({k: v[:0] for k, v in c.items()}), "empty"),
    "float64 too large for float32": (cast("rewards", lambda a: a.astype(np.float64) * 1e300), "'rewards' row 0 is -inf"),
}


@pytest.mark.parametrize("name", CASES)
def test_malformed_columns(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spoil, message = CASES[name]
    columns = plant_rows()
    spoil(columns)
    path = tmp_path / "log.hdf5"
    d4rl.write(path, columns, {})
    with pytest.raises(SparError) as error:
        d4rl.read(path)
    assert message in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    assert cli.main(["train", str(path), "--out", str(tmp_path / "run")]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert message in err
    assert not (tmp_path / "run").exists()


def write_bytes(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


def truncated_file(path: Path) -> None:
    d4rl.write(path, plant_rows(), {})
    path.write_bytes(path.read_bytes()[:4000])


def group_instead(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_group("observations")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (write_bytes(b""), "the file is empty (0 bytes)"),
        (write_bytes(b"observation,action\n1,2\n"), "not a readable HDF5 file"),
        (truncated_file, "not a readable HDF5 file"),
        (group_instead, "'observations' is missing"),
        (lambda path: path.mkdir(), "no such file"),
    ],
    ids=["zero bytes", "not HDF5", "truncated", "a group", "a folder"],
)
def test_malformed_files(make: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    path = tmp_path / "log.hdf5"
    make(path)
    with pytest.raises(SparError) as error:
        d4rl.read(path)
    assert message in str(error.value)
    assert str(path) in str(error.value)


def test_a_damaged_column_is_named(tmp_path: Path) -> None:
    """Bytes flipped inside the compressed data: the file opens, one column does not."""
    path = tmp_path / "log.hdf5"
    d4rl.write(path, plant_rows(), {})
    with h5py.File(path, "r") as file:
        chunk = file["rewards"].id.get_chunk_info(0)
    content = bytearray(path.read_bytes())
    middle = chunk.byte_offset + chunk.size // 2
    content[middle : middle + 16] = b"\xff" * 16
    path.write_bytes(bytes(content))
    with pytest.raises(SparError, match="'rewards'"):
        d4rl.read(path)


def test_unknown_names_say_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SparError, match="hopper-replay"):
        catalog.load("hoper")
    assert cli.main(["train", "--algo", "sparr"]) == 1
    assert "spar-mlp" in capsys.readouterr().err


def test_layout_variants_are_read_alike(tmp_path: Path) -> None:
    """(N, 1) columns, float64, and flags as numbers are D4RL's own variety, not mistakes."""
    plain, odd = plant_rows(), plant_rows()
    odd["rewards"], odd["terminals"] = odd["rewards"][:, None].astype(np.float64), odd["terminals"][:, None].astype(np.uint8)
    odd["timeouts"], odd["observations"] = odd["timeouts"].astype(np.float32), odd["observations"].astype(np.float64)
    for name, columns in (("plain", plain), ("odd", odd)):
        d4rl.write(tmp_path / f"{name}.hdf5", columns, {})
    assert d4rl.read(tmp_path / "plain.hdf5").fingerprint == d4rl.read(tmp_path / "odd.hdf5").fingerprint


ARGUMENTS = ("obs", "action", "reward", "terminated", "truncated", "next_obs")
ARRAYS: dict[str, tuple[str, Callable[[np.ndarray], object], str]] = {
    "words for flags": ("terminated", lambda a: ["no"] * len(a), "'terminated' has type <U2; it must be flags (True or False, 1 or 0)"),
    "a negative flag": ("truncated", lambda a: np.where(np.arange(len(a)) == 3, -1, 0), "'truncated' row 3 is -1; flags are 0 or 1"),
    "half a flag": ("terminated", lambda a: np.where(np.arange(len(a)) == 3, 0.5, 0), "'terminated' row 3 is 0.5"),
    "no number as a flag": ("truncated", lambda a: np.where(np.arange(len(a)) == 3, np.nan, 0), "'truncated' row 3 is nan"),
    "no flags": ("terminated", lambda a: None, "'terminated' is None; it must be flags"),
    "one flag": ("terminated", lambda a: False, "'terminated' has shape (), expected (rows,) or (rows, 1)"),
    "square flags": ("truncated", lambda a: np.stack([a, a], 1), "'truncated' has shape (600, 2)"),
    "text rewards": ("reward", lambda a: a.astype(str), "'rewards' has type <U"),
    "complex observations": ("obs", lambda a: a * 1j, "'observations' has type complex"),
    "ragged observations": ("obs", lambda a: [[1.0], [1.0, 2.0]], "'observations' is no array; give numbers in rows of equal length"),
    "flat actions": ("action", np.ravel, "'actions' has shape (1200,), expected (rows, dimensions)"),
    "observations of nothing": ("obs", lambda a: a[:, :0], "'observations' has shape (600, 0): no dimensions"),
    "successors of another width": ("next_obs", lambda a: a[:, :2], "'next_observations' has 2 columns, 'observations' 3"),
    "short rewards": ("reward", lambda a: a[:-1], "'rewards' has 599 rows but 'observations' has 600"),
    "bounds of another width": ("action_low", lambda a: [-1.0, -1.0, -1.0], "'action_low' has 3 numbers, 'actions' 2 dimensions"),
    "text for a bound": ("action_high", lambda a: "1", "'action_high' has type <U1; it must be numbers"),
    "ragged bounds": ("action_high", lambda a: [[1.0], 1.0], "'action_high' is no array"),
}


@pytest.mark.parametrize("case", ARRAYS)
def test_arrays_are_refused_in_one_line(case: str) -> None:
    argument, change, message = ARRAYS[case]
    given = dict(zip(ARGUMENTS, plant_rows().values(), strict=True))
    with pytest.raises(SparError) as error:
        from_rows("mine", **{**given, argument: change(given.get(argument, np.zeros(0)))})
    assert str(error.value).startswith("mine: ") and message in str(error.value) and "\n" not in str(error.value)


def test_arrays_may_be_lists_columns_and_whole_numbers() -> None:
    rows = plant_rows()
    plain = from_rows("mine", *rows.values(), action_low=[-2.0, -2.0], action_high=[2.0, 2.0])
    columns = {key: column[:, None].astype(int) if column.dtype == bool else column.tolist() for key, column in rows.items()}
    log = from_rows("mine", *columns.values(), action_low=-2, action_high=2.0)
    assert log.fingerprint == plain.fingerprint and log.action_low.tolist() == [-2, -2]
    whole = from_rows("mine", rows["observations"].round().astype(int), *(rows[key] for key in list(rows)[1:5]))
    assert whole.observations.dtype == np.float32


@pytest.mark.parametrize("suffix", [".npz", ".hdf5"])
def test_one_bound_holds_for_every_action(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"box{suffix}"
    attributes = {"action_low": np.float64(-2), "action_high": 3.0}
    if suffix == ".npz":
        np.savez(path, **plant_rows(), **attributes)
    else:
        d4rl.write(path, plant_rows(), attributes)
    log = catalog.load(path)
    assert (log.action_low.tolist(), log.action_high.tolist()) == ([-2, -2], [3, 3])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("plant.csv.gz", "a packed file; unpack it, and give a D4RL-layout .hdf5, an .npz, a .csv or .parquet table"),
        ("plant.pkl", "pickles are never loaded, since they can run anything; save the arrays as a D4RL-layout .hdf5"),
        ("plant.tsv", "not a format that is read here; give a D4RL-layout .hdf5"),
        ("plant.jsonl", "not a format that is read here; give"),
    ],
)
def test_other_formats_are_told_what_is_read(name: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(b"room\tvalve\n1\t2\n")
    with pytest.raises(SparError) as error:
        catalog.load(path)
    assert str(error.value).startswith(f"{path}: {message}") and "\n" not in str(error.value)


def test_a_path_is_no_name_of_the_suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("SPAR_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "hopper_medium-v2.hdf5"
    d4rl.write(path, plant_rows(), {})
    path.with_suffix(".hdf5.json").write_text('{"what": "of others"}')
    assert cli.main(["data", "show", str(path)]) == 0
    assert "600 transitions" in capsys.readouterr().out
    (tmp_path / "hopper_medium-v2").mkdir()
    with pytest.raises(SparError, match="a directory without a Minari dataset"):
        catalog.load(tmp_path / "hopper_medium-v2")
