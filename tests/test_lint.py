"""The lint report counts what a naive count finds, and says what each mistake would do."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from spar import cli
from spar.data import catalog, lint, sheets
from spar.data.rows import from_rows
from spar.data.sources import d4rl
from spar.report.lint import show_lint
from tests.conftest import plant_log, plant_rows

Columns = dict[str, np.ndarray]


def report_of(columns: Columns, tmp_path: Path, **attributes: Any) -> lint.Report:
    path = tmp_path / "log.hdf5"
    d4rl.write(path, columns, attributes)
    return lint.inspect(d4rl.read(path, strict=False))


def codes(report: lint.Report) -> set[str]:
    return {finding.code for finding in report.findings}


def test_numbers_equal_an_independent_count(tmp_path: Path) -> None:
    """Without successors in the file: a cut episode's last row is left out, which the report says."""
    columns = plant_rows(900, seed=4)
    columns.pop("next_observations")
    n = report_of(columns, tmp_path).numbers
    lengths, returns, kept, age, total = [], [], 0, 0, 0.0
    for i in range(900):
        age, total = age + 1, total + float(columns["rewards"][i])
        end = columns["terminals"][i] or columns["timeouts"][i]
        cut = i == 899 and not end
        if end or cut:
            known = age if columns["terminals"][i] else age - 1
            kept += known
            if known:
                lengths.append(known)
                returns += [] if cut else [total]
            age, total = 0, 0.0
    assert (n["transitions"], n["episodes"], n["rows_left_out"]) == (kept, len(lengths), 900 - kept)
    assert n["lengths"] == {"min": min(lengths), "median": np.median(lengths), "max": max(lengths)}
    assert n["returns"]["mean"] == pytest.approx(np.mean(returns), rel=1e-6)
    assert sum(n["returns"]["histogram"]["counts"]) == len(returns)
    assert n["terminated"] == columns["terminals"].sum()
    assert n["unfinished_episodes"] == len(lengths) - len(returns)


def test_a_done_of_either_end_beside_truncations_is_said() -> None:
    rows = plant_rows()
    assert "both-ends" not in codes(lint.inspect(from_rows("apart", *rows.values())))
    rows["terminals"] |= rows["timeouts"]
    report = lint.inspect(from_rows("both", *rows.values()))
    cut = int(rows["timeouts"].sum())
    assert f"{cut} of {cut} truncated steps are terminated too" in next(f.text for f in report.findings if f.code == "both-ends")


def test_what_float32_cannot_tell_apart_is_said(tmp_path: Path) -> None:
    """Seconds since 1970 are 128 apart in float32: of a log of ten minutes little is left."""
    rows = plant_rows()
    rows["observations"] = rows["observations"].astype(np.float64)
    rows["observations"][:, 1] = 1.77e9 + np.arange(600)
    rows["observations"][:, 2] = 1.77e9  # a constant loses nothing
    rows["next_observations"] = rows["observations"] + np.array([0, 1, 0])
    log = from_rows("seconds", *rows.values())
    said = "'observations' column 1 loses its last digits (float32 numbers near 1.77e+09 are 128 apart, its standard deviation is 173)"
    assert [note for note in log.notes if "digits" in note] == [f"{said}: subtract a constant"]
    np.savez(tmp_path / "seconds.npz", **rows)
    assert f"{said}: subtract a constant" in catalog.load(tmp_path / "seconds.npz").notes
    rows["observations"][:, 1] -= 1.77e9
    assert not any("digits" in note for note in from_rows("moved", *rows.values()).notes)
    names, lines = ("utm", "counter", "valve", "reward"), ["utm,counter,valve,reward"]
    lines += [f"{4.5e6 + 0.1 * (i % 9)},{2**31 + i % 7},0.5,1.0" for i in range(70)]
    (tmp_path / "plant.csv").write_text("\n".join(lines))
    mapping = f'observation = ["{names[0]}", "{names[1]}"]\nreward = "reward"\n[action.valve]\nlow = 0.0\nhigh = 1.0\n'
    (tmp_path / "plant.toml").write_text(mapping)
    (note,) = (note for note in catalog.load(tmp_path / "plant.csv").notes if "digits" in note)
    assert note.startswith("'utm', 'counter' lose their last digits (float32 numbers near 4.5e+06 are 0.5 apart")


def test_a_sensor_in_a_tiny_unit_is_said() -> None:
    rows = plant_rows()
    for column, unit in ((0, 1e-6), (1, 0.0)):
        for key in ("observations", "next_observations"):
            rows[key][:, column] *= unit
    report = lint.inspect(from_rows("metres", *rows.values()))
    (finding,) = (finding for finding in report.findings if finding.code == "tiny-observations")
    assert finding.text.startswith("observation dimensions [0] vary by less than 0.01")
    assert "tiny-observations" not in codes(lint.inspect(plant_log()))


def test_a_log_cut_at_every_row_or_of_few_rows_is_said() -> None:
    rng = np.random.default_rng(0)

    def cut(rows: int, every: int) -> set[str]:
        ends = np.arange(rows) % every == every - 1
        return codes(
            lint.inspect(from_rows("cut", rng.normal(size=(rows, 2)), rng.uniform(-1, 1, (rows, 1)), np.ones(rows), ends, ~ends & False))
        )

    assert "single-steps" in cut(2000, 1) and "few-transitions" not in cut(2000, 1)
    assert {"single-steps", "few-transitions"} & cut(999, 20) == {"few-transitions"}


def test_a_clean_log_has_no_findings(tmp_path: Path) -> None:
    report = report_of(plant_rows(2000), tmp_path)
    assert not report.findings, report.findings
    json.dumps(report.to_json(), allow_nan=False)


def nan_cell(columns: Columns) -> None:
    columns["observations"][41, 2] = np.nan
    columns["observations"][77, 0] = np.inf


def outside(columns: Columns) -> None:
    columns["actions"][99, 1] = 1.5


def no_reward(columns: Columns) -> None:
    columns["rewards"][:] = 0


def missed_ends(columns: Columns) -> None:
    """Episodes far apart whose ends are not marked."""
    episode = np.cumsum(np.append(0, (columns["terminals"] | columns["timeouts"])[:-1]))
    columns["observations"] += 100.0 * (episode % 2)[:, None]
    columns.pop("next_observations")
    columns["timeouts"][:500] = False
    columns["terminals"][:500] = False


def limit_as_end(columns: Columns) -> None:
    columns["terminals"] = np.arange(len(columns["rewards"])) % 50 == 49
    columns["timeouts"][:] = False
    columns.pop("next_observations")


def constants(columns: Columns) -> None:
    columns["observations"][:, 1] = columns["next_observations"][:, 1] = 3.0
    columns["actions"][:, 0] = 0.25


def copies(columns: Columns) -> None:
    for key in ("observations", "next_observations"):
        columns[key] = columns[key][:, [0, 1, 2, 0]]


def saturated(columns: Columns) -> None:
    columns["actions"][:, 1] = np.sign(columns["actions"][:, 1])


def repeated(columns: Columns) -> None:
    for key, column in columns.items():
        columns[key] = np.concatenate([column, column[: len(column) // 2]])


CASES: dict[str, tuple[Any, str, dict[str, Any]]] = {
    "not finite": (nan_cell, "not-finite", {"field": "observations", "first_row": 41, "first_column": 2, "cells": 2}),
    "outside the box": (outside, "outside-the-box", {"field": "actions", "first_row": 99, "first_column": 1, "cells": 1}),
    "no reward": (no_reward, "no-reward", {}),
    "missed ends": (missed_ends, "jumps", {}),
    "limit as end": (limit_as_end, "limit-as-end", {}),
    "constant action": (constants, "constant-actions", {}),
    "constant observation": (constants, "constant-observations", {}),
    "copied observation": (copies, "duplicate-observations", {}),
    "saturated": (saturated, "saturated-actions", {}),
    "repeated": (repeated, "duplicates", {}),
}


@pytest.mark.parametrize("name", CASES)
def test_findings(name: str, tmp_path: Path) -> None:
    spoil, code, numbers = CASES[name]
    columns = plant_rows(2000)
    spoil(columns)
    report = report_of(columns, tmp_path)
    assert code in codes(report)
    if numbers:
        found = report.numbers[code.replace("-", "_").replace("not_finite", "non_finite")][0]
        assert {key: found[key] for key in numbers} == numbers
    assert bool(report.errors) == (code in ("not-finite", "outside-the-box", "no-reward"))


def test_jumps_are_counted_where_they_are(tmp_path: Path) -> None:
    columns = plant_rows(2000)
    ends = np.flatnonzero(columns["terminals"] | columns["timeouts"])
    missed_ends(columns)
    n = report_of(columns, tmp_path).numbers
    assert n["jumps"]["count"] == (ends < 500).sum()
    assert n["jumps"]["first_step"] == ends[0]


def test_the_command_prints_writes_and_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = plant_rows(), plant_rows()
    nan_cell(bad)
    for name, columns in (("good", good), ("bad", bad)):
        d4rl.write(tmp_path / f"{name}.hdf5", columns, {})
    assert cli.main(["data", "check", str(tmp_path / "good.hdf5"), "--json", str(tmp_path / "good.json")]) == 0
    assert "can train" in capsys.readouterr().out
    assert json.loads((tmp_path / "good.json").read_text())["transitions"] == 600
    with pytest.raises(SystemExit) as stop:
        cli.main(["data", "check", str(tmp_path / "bad.hdf5")])
    assert stop.value.code == 1
    out = capsys.readouterr().out
    assert "cannot train" in out
    assert "'observations' row 41, column 2" in out


def test_what_training_would_refuse_cannot_train(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The order of time is read by the strict reader alone."""
    rows = [f"{t},{t % 7},{0.1 * (t % 5)},{t % 3}" for t in range(60)]
    rows[1], rows[2] = rows[2], rows[1]
    (tmp_path / "plant.csv").write_text("\n".join(["time,x,u,r", *rows]) + "\n")
    (tmp_path / "plant.toml").write_text(
        'observation = ["x"]\nreward = "r"\ntime = "time"\n[action.u]\nlow = 0.0\nhigh = 1.0\n', encoding="utf-8"
    )
    with pytest.raises(SystemExit):
        cli.main(["data", "check", str(tmp_path / "plant.csv")])
    out = " ".join(capsys.readouterr().out.split())
    assert "cannot train" in out and "is not later than" in out


def test_import_keeps_the_log_in_every_format(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "log.hdf5"
    d4rl.write(source, plant_rows(), {})
    want = d4rl.read(source).fingerprint
    for out in ("copy.npz", "copy.parquet", "copy.hdf5", "minari-copy"):
        assert cli.main(["data", "import", str(source), "--out", str(tmp_path / out)]) == 0
        assert catalog.load(tmp_path / out).fingerprint == want
    assert cli.main(["data", "import", str(source), "--out", str(tmp_path / "copy.npz")]) == 1
    assert "exists already" in capsys.readouterr().err


UNKNOWN = {"pen-human": "spar data make pen-human", "hopper-medum": "did you mean hopper-medium", "gone.csv": "no such file"}


@pytest.mark.parametrize("name", UNKNOWN)
def test_unknown_and_unmade_names_say_what_to_do(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SPAR_CACHE", str(tmp_path))
    assert cli.main(["data", "check", name]) == 1
    assert UNKNOWN[name] in capsys.readouterr().err


def test_another_mujoco_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    assert sheets.physics_note("my-own-log") is None
    monkeypatch.setattr(sheets, "version", lambda package: "0.0.1")
    assert "0.0.1" in str(sheets.physics_note("hopper-replay"))


def test_the_list_has_what_can_be_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["data", "list"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in ("hopper-replay", "pen-human", "pointmaze-large", "kitchen-mixed-v0"))


def test_a_log_of_two_rows_is_looked_at_without_a_crash(capsys: pytest.CaptureFixture[str]) -> None:
    log = from_rows("two", np.zeros((2, 1)), np.zeros((2, 1)), np.array([3.2, 2.9]), np.array([True, False]), np.zeros(2, bool))
    report = lint.inspect(log)
    show_lint(Console(width=120), report)
    assert report.numbers["coverage"] is None and "coverage" not in capsys.readouterr().out


def test_what_a_log_says_in_brackets_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    log = dataclasses.replace(plant_log(), notes=("units: room [degC], valve [%]",))
    show_lint(Console(width=120), lint.inspect(log))
    assert "room [degC], valve [%]" in capsys.readouterr().out
