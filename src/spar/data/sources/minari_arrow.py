"""The Arrow and Parquet storages of a Minari dataset: a folder for each episode, with T + 1 rows of which the last has only an
observation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from pyarrow import ArrowException, dataset, types

from spar.data.blocks import Allocate, as_float32
from spar.data.sources.minari_hdf5 import Steps
from spar.types import SparError

FORMATS = ("arrow", "parquet")
FIELDS = ("observations", "actions", "rewards", "terminations", "truncations")


def read(folder: Path, metadata: dict[str, Any], keys: tuple[str, ...], allocate: Allocate) -> Steps:
    """All steps of the data folder `folder`. Raises SparError naming folder and field."""
    parts: dict[str, list[np.ndarray]] = {field: [] for field in FIELDS}
    for number in range(metadata["total_episodes"]):
        place = folder / str(number)
        try:
            source = dataset.dataset(place, format=metadata["data_format"], ignore_prefixes=["_", ".", "metadata.json"])
            table = source.to_table(columns=list(FIELDS))
        except (ArrowException, OSError, KeyError, ValueError) as error:
            raise SparError(f"{place}: not readable ({str(error).splitlines()[0]}); copy the data folder anew") from None
        for field, column in zip(FIELDS, table.columns, strict=True):
            found = _joined(place, field, column.combine_chunks(), keys if field == "observations" else ())
            parts[field].append(found if field == "observations" else found[:-1])
    lengths = np.asarray([len(actions) for actions in parts["actions"]], np.int64)
    if lengths.sum() != metadata["total_steps"] or not lengths.all():
        raise SparError(f"{folder}: the episodes have {lengths.sum()} steps, metadata.json has {metadata['total_steps']}; copy it anew")
    vectors = {field: np.concatenate(parts[field])[:, 0] for field in FIELDS[2:]}
    return Steps(
        _stacked(folder, "observations", parts, allocate), _stacked(folder, "actions", parts, allocate),
        vectors["rewards"], vectors["terminations"].astype(bool), vectors["truncations"].astype(bool), lengths, None,
    )  # fmt: skip


def _stacked(folder: Path, field: str, parts: dict[str, list[np.ndarray]], allocate: Allocate) -> np.ndarray:
    arrays = parts[field]
    for number, array in enumerate(arrays):
        if array.shape[1] != arrays[0].shape[1]:
            raise SparError(f"{folder / str(number)}: '{field}' has {array.shape[1]} numbers a row, the first episode {arrays[0].shape[1]}")
    out = allocate((sum(map(len, arrays)), arrays[0].shape[1]))
    return np.concatenate([as_float32(array) for array in arrays], out=out)


def _joined(place: Path, field: str, column: Any, keys: tuple[str, ...] = ()) -> np.ndarray:
    """(rows, width) of a column, its parts joined in `minari.py`'s order."""
    if types.is_struct(column.type):
        names = [column.type.field(i).name for i in range(column.type.num_fields)]
        unknown = [key for key in keys if key not in names]
        if unknown:
            raise SparError(f"{place}: observations have no key '{unknown[0]}'; they have: {', '.join(sorted(names))}")
        chosen = keys or sorted(names, key=lambda name: (int(name) if name.isdigit() else 0, name))
        return np.concatenate([_joined(place, f"{field}/{name}", column.field(name)) for name in chosen], axis=1)
    if keys:
        raise SparError(f"{place}: observations are plain arrays here, without keys; leave observation_keys out")
    values = column.flatten() if types.is_fixed_size_list(column.type) else column
    flags = field in ("terminations", "truncations")
    if not (types.is_floating(values.type) or (flags and types.is_boolean(values.type))) or values.null_count:
        hint = "; choose others with observation_keys" if "/" in field else ""
        raise SparError(f"{place}: '{field}' has type {column.type}; it must be {'bool' if flags else 'floating point'} without gaps{hint}")
    return values.to_numpy(zero_copy_only=False).reshape(len(column), -1)
