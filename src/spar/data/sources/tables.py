"""CSV and Parquet tables, one row a step, with a mapping file that says which column is what (`mapping.py`).

Rows are counted from 0, without the header. For CSV, messages add the line of the file, counted from 1 with the header; a quoted cell that
spans lines shifts it. Tables are read a batch at a time; only float32 matrices are kept.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from spar.data.blocks import Allocate, as_float32, heap
from spar.data.episodes import Log
from spar.data.rounding import Rounding
from spar.data.rounding import note as rounded
from spar.data.rows import Rows
from spar.data.sources import cells
from spar.data.sources import mapping as mappings
from spar.data.sources.guess import guess_mapping
from spar.data.sources.mapping import Mapping
from spar.data.sources.table_files import Table, open_table, write_table
from spar.types import SparError

__all__ = ["Mapping", "guess_mapping", "read", "write_log"]
FIELDS = {"observation": "observations", "action": "actions", "next_observation": "next_observations", "reward": "rewards"}
GAP = 5.0  # times the median step in time


def read(
    path: Path,
    mapping: Path | Mapping | None = None,
    name: str | None = None,
    env_id: str | None = None,
    strict: bool = True,
    allocate: Allocate = heap,
) -> Log:
    """The log in the CSV or Parquet file `path`.

    `mapping` is a mapping, its file, or by default the TOML file beside `path` (plant.csv: plant.toml); a Parquet file may carry its own.
    With an episode column, an episode is a run of rows with one id, and ends truncated where nothing else is said. Without one, the flags
    decide; without any, the whole file is one episode. Units become a note.

    Raises SparError with file, column and row for anything that cannot be trusted. With `strict` off, empty cells become NaN, and values,
    bounds and the order of time are not looked at.
    """
    path = Path(path)
    table = open_table(path)
    found = find_mapping(table, mapping)
    found.check_columns(str(path), table.names)
    notes: list[str] = []
    columns = _read_columns(table, found, strict, notes)
    if strict:
        _check_time(table, found, columns)
    return _rows(table, found, columns, env_id, notes).log(name or path.stem, strict, allocate)


def find_mapping(table: Table, given: Path | Mapping | None) -> Mapping:
    """The mapping given, or the one beside the table, or the one inside it. Raises SparError where there is none."""
    if isinstance(given, Mapping):
        return given
    beside = table.path.with_suffix(".toml")
    if given is None and table.mapping is not None and not beside.exists():
        return mappings.parse(table.mapping, f"{table.path} (the mapping inside)")
    return mappings.load(Path(given) if given else beside)


def _read_columns(table: Table, found: Mapping, strict: bool, notes: list[str]) -> dict[str, Any]:
    """(T, width) float32 matrices and (T,) vectors by role; `episode` becomes (T,) bool, where an episode starts. Columns that float32
    rounds too much become a note."""
    parts: dict[str, list[np.ndarray]] = {}
    ids = cells.Ids()
    lists = {"observation": found.observation, "action": found.action, "next_observation": found.next_observation}
    row, read = 0, [*found.observation, *found.action, *found.next_observation]
    rounding = Rounding()
    for batch in table.batches(list(dict.fromkeys(name for _, name in found.roles()))):
        spot = cells.Spot(str(table.path), table.place, row, table.text, strict)
        columns = {column: batch.column(column) for column in batch.schema.names}
        numbers = {column: cells.numbers(columns[column], column, spot) for names in lists.values() for column in names}
        rounding.add(np.stack([numbers[column] for column in read], 1))
        new: dict[str, np.ndarray] = {
            role: as_float32(np.stack([numbers[column] for column in names], 1)) for role, names in lists.items() if names
        }
        new["reward"] = cells.numbers(columns[found.reward], found.reward, spot)
        for role, column in (("terminated", found.terminated), ("truncated", found.truncated)):
            new[role] = cells.flags(columns[column], column, spot) if column else np.zeros(len(batch), bool)
        if found.episode:
            new["episode"] = ids.starts(columns[found.episode], found.episode, spot)
        if found.time:
            with contextlib.nullcontext() if strict else contextlib.suppress(SparError):
                new["time"] = cells.times(columns[found.time], found.time, spot)
        for role, array in new.items():
            parts.setdefault(role, []).append(array)
        row += len(batch)
    if row == 0:
        raise SparError(f"{table.path}: no rows below the header; give a table with one row a step")
    coarse = rounding.coarse()
    notes += [rounded([f"'{read[one.column]}'" for one in coarse], coarse[0])] if coarse else []
    joined = {role: np.concatenate(arrays) for role, arrays in parts.items()}
    return {role: array for role, array in joined.items() if len(array) == row}  # without times, where some could not be read


def _rows(table: Table, found: Mapping, columns: dict[str, Any], env_id: str | None, notes: list[str]) -> Rows:
    terminated, truncated, ends = columns["terminated"], columns["truncated"], None
    if found.episode:
        ends = np.append(np.flatnonzero(columns["episode"])[1:], len(terminated)) - 1
        inside = np.ones(len(terminated), bool)
        inside[ends] = False
        _check_inside(table, found.truncated, inside & truncated, found.episode)
        if found.terminals_end_episodes:
            _check_inside(table, found.terminated, inside & terminated, found.episode)
        if found.truncated is None:
            truncated[ends] = ~terminated[ends]
        unmarked = int((~(terminated | truncated)[ends[:-1]]).sum())
        if unmarked:
            notes.append(f"{unmarked} episodes end neither terminated nor truncated: their rows train, their returns are not counted")
    elif not (terminated | truncated).any() and not found.next_observation:
        truncated[-1] = True
        notes.append("no episode column and no flag set: the whole file is one episode, cut at its end")
    notes += _gaps(table, found, columns)
    notes += ["units: " + ", ".join(f"{name} [{unit}]" for name, unit in found.units.items())] if found.units else []
    names = {FIELDS[role]: [n for r, n in found.roles() if r == role] for role in FIELDS}
    return Rows(
        source=str(table.path),
        obs=columns["observation"],
        action=columns["action"],
        reward=columns["reward"],
        terminated=terminated,
        truncated=truncated,
        next_obs=columns.get("next_observation"),
        ends=ends,
        action_low=np.asarray(found.action_low, np.float32),
        action_high=np.asarray(found.action_high, np.float32),
        env_id=env_id or found.env_id,
        env_kwargs=found.env_kwargs,
        observation_keys=found.observation_keys,
        episode_returns=None if found.episode_returns is None else np.asarray(found.episode_returns),
        terminal_ends=found.terminals_end_episodes,
        notes=notes,
        place=lambda field, row, column: table.place(names[field][column or 0], row),
    )


def _check_time(table: Table, found: Mapping, columns: dict[str, np.ndarray]) -> None:
    """Raises SparError at the first row whose time is not later than that of the row before, in the same episode."""
    if found.time is None:
        return
    time = columns["time"]
    late = np.flatnonzero(~(time[1:] > time[:-1]) & _goes_on(found, columns))
    if len(late):
        row = int(late[0]) + 1
        raise SparError(
            f"{table.path}: {table.place(found.time, row)} is not later than row {row - 1} of the same episode ({len(late)} such rows); "
            "sort the rows, or mark where episodes end"
        )


def _gaps(table: Table, found: Mapping, columns: dict[str, np.ndarray]) -> list[str]:
    """A note where time jumps inside an episode, though one row is taken for the successor of the other."""
    if found.time is None or "time" not in columns or found.next_observation:
        return []
    time = columns["time"]
    steps = np.diff(time if time.dtype.kind == "f" else time.astype(np.int64)).astype(float)
    steps = np.where(_goes_on(found, columns) & (steps > 0), steps, 0.0)
    typical = np.median(steps[steps > 0]) if steps.any() else np.inf
    gaps = np.flatnonzero(steps > GAP * typical)
    if len(gaps) == 0:
        return []
    first = f"{table.place(found.time, int(gaps[0]) + 1)}, {steps[gaps[0]] / typical:.3g} times the median step"
    mark = f"give the rows after it another '{found.episode}'" if found.episode else "name an 'episode' column or a 'truncated' flag"
    return [
        f"{len(gaps)} gaps in time inside episodes, the first before {first}: the row after trains as successor of the row before; {mark}"
    ]


def _goes_on(found: Mapping, columns: dict[str, np.ndarray]) -> np.ndarray:
    """(T - 1,) bool: the next row belongs to the same episode."""
    return ~(columns["episode"][1:] if found.episode else (columns["terminated"] | columns["truncated"])[:-1])


def _check_inside(table: Table, column: str | None, inside: np.ndarray, episode: str) -> None:
    """Raises SparError at the first row where the flag `column` is set though the episode goes on."""
    if column and inside.any():
        raise SparError(
            f"{table.path}: {table.place(column, int(np.flatnonzero(inside)[0]))} is set but the next row has the same '{episode}'; "
            "start a new id after a flag"
        )


def write_log(path: Path, log: Log) -> None:
    """`log` as a new Parquet file that carries its mapping, or a CSV file with the mapping beside it; `read` makes an equal log of either.

    Raises SparError if a file of that name exists.
    """
    path = Path(path)
    observation = tuple(f"observation_{i}" for i in range(log.spec.obs_dim))
    action = tuple(f"action_{i}" for i in range(log.spec.act_dim))
    following = tuple(f"next_{name}" for name in observation)
    inside = log.terminated.copy()
    inside[np.cumsum(log.lengths) - 1] = False
    found = Mapping(
        observation=observation,
        next_observation=following,
        action=action,
        action_low=tuple(map(float, log.action_low)),
        action_high=tuple(map(float, log.action_high)),
        reward="reward",
        episode="episode",
        terminated="terminated",
        truncated="truncated",
        env_id=log.env_id,
        env_kwargs=log.env_kwargs,
        observation_keys=log.observation_keys,
        episode_returns=tuple(map(float, log.episode_returns)),
        terminals_end_episodes=not inside.any(),
    )
    columns = {"episode": np.repeat(np.arange(len(log.lengths)), log.lengths)}
    columns |= dict(zip(observation, log.observations[log.obs_index].T, strict=True))
    columns |= dict(zip(action, log.actions.T, strict=True))
    columns |= {"reward": log.rewards, "terminated": log.terminated, "truncated": log.truncated}
    columns |= dict(zip(following, log.successors.T, strict=True))
    write_table(path, pa.table(columns), mappings.dump(found))
