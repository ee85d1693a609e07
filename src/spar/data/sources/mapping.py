"""The mapping file of a table (TOML): which column is what, and between which bounds the actions move. docs/your-data.md shows one."""

from __future__ import annotations

import difflib
import json
import math
import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from spar.types import SparError

MAX_BYTES = 64 << 20  # a mapping with the returns of a million episodes is smaller
LARGEST = float(np.finfo(np.float32).max)
ROLES = ("reward", "episode", "terminated", "truncated", "time")  # one column each; only the reward must be there


@dataclass(frozen=True)
class Mapping:
    """Column names by role. `action_low` and `action_high` (act_dim,) are in the table's own units."""

    observation: tuple[str, ...]
    action: tuple[str, ...]
    action_low: tuple[float, ...]
    action_high: tuple[float, ...]
    reward: str
    episode: str | None = None  # another value is another episode; without it the flags decide where episodes end
    terminated: str | None = None  # where the process itself ended
    truncated: str | None = None  # where only the recording stopped; without it, every episode that did not terminate
    time: str | None = None  # must increase inside an episode
    next_observation: tuple[str, ...] = ()  # one for each of `observation`, in that order
    units: dict[str, str] = field(default_factory=dict)  # of any column, for people
    env_id: str | None = None
    env_kwargs: str = ""  # JSON
    observation_keys: tuple[str, ...] = ()
    episode_returns: tuple[float, ...] | None = None  # as a written log states them; else rewards are summed
    terminals_end_episodes: bool = True  # False: a terminated step stops the bootstrap, the episode goes on (AntMaze)
    source: str = "mapping"  # for messages: the file

    def __post_init__(self) -> None:
        """Raises SparError for what no table could satisfy."""
        if not self.observation or not self.action:
            raise SparError(f"{self.source}: '{'action' if self.observation else 'observation'}' names no column; name at least one")
        if self.next_observation and len(self.next_observation) != len(self.observation):
            raise SparError(
                f"{self.source}: 'next_observation' names {len(self.next_observation)} columns, 'observation' {len(self.observation)}; "
                "name one for each, in the same order"
            )
        for name, low, high in zip(self.action, self.action_low, self.action_high, strict=True):
            if not (max(abs(low), abs(high)) <= LARGEST and np.float32(low) < np.float32(high)):
                raise SparError(f"{self.source}: action '{name}' has bounds [{low:g}, {high:g}]; they must be finite with low < high")
        used: dict[str, str] = {}
        for role, name in self.roles():
            if name in used and {role, used[name]} != {"time", "observation"}:
                raise SparError(f"{self.source}: column '{name}' is '{used[name]}' and '{role}'; a column has one role")
            used[name] = role
        for name in self.units:
            if name not in used:
                raise SparError(f"{self.source}: 'units' names '{name}', which has no role here{_meant(name, used)}")

    def roles(self) -> list[tuple[str, str]]:
        """(role, column name) of every column that is read."""
        lists = [("observation", self.observation), ("action", self.action), ("next_observation", self.next_observation)]
        single = [(role, getattr(self, role)) for role in ROLES]
        return [(role, name) for role, names in lists for name in names] + [(role, name) for role, name in single if name is not None]

    def check_columns(self, table: str, names: tuple[str, ...]) -> None:
        """Raises SparError for a column that the file `table`, whose columns are `names`, does not have."""
        for role, name in self.roles():
            if name not in names:
                raise SparError(f"{table}: no column '{name}', which {self.source} names as '{role}'{_meant(name, names)}; {has(names)}")


def has(names: Iterable[str]) -> str:
    names = list(names)
    return "the file has: " + ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")


def _meant(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), 1)
    return f" (did you mean '{close[0]}'?)" if close else ""


def load(path: Path) -> Mapping:
    """The mapping in the TOML file `path`. Raises SparError."""
    if not path.is_file():
        raise SparError(f"{path}: no such mapping file; it says which column is what; `spar data import TABLE --guess-mapping` begins one")
    if path.stat().st_size > MAX_BYTES:
        raise SparError(f"{path}: a mapping file of {path.stat().st_size} bytes; at most {MAX_BYTES} are read")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise SparError(f"{path}: cannot be read as UTF-8 text ({error})") from None
    return parse(text, str(path))


def parse(text: str, source: str) -> Mapping:
    """The mapping in `text`, TOML. Raises SparError naming `source` and the key."""
    try:
        found = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise SparError(f"{source}: not valid TOML ({' '.join(str(error).split())})") from None
    known = [f.name for f in fields(Mapping) if f.name not in ("source", "action_low", "action_high")]
    for key in found:
        if key not in known:
            raise SparError(f"{source}: unknown key '{key}'{_meant(key, known)}; keys are: {', '.join(known)}")
    for key in ("observation", "action", "reward"):
        if key not in found:
            raise SparError(f"{source}: '{key}' is missing; say which column{'' if key == 'reward' else 's'} it is")
    settings: dict[str, Any] = {key: _names(source, key, found[key]) for key in ("observation", "next_observation") if key in found}
    settings |= {key: _text(source, key, found[key]) for key in (*ROLES, "env_id", "env_kwargs") if key in found}
    if "observation_keys" in found:
        settings["observation_keys"] = _names(source, "observation_keys", found["observation_keys"])
    if "units" in found:
        settings["units"] = {name: _text(source, f"units.{name}", unit) for name, unit in _table(source, "units", found["units"]).items()}
    if "episode_returns" in found:
        returns = found["episode_returns"]
        if not isinstance(returns, list):
            raise SparError(f"{source}: 'episode_returns' must be a list of numbers")
        settings["episode_returns"] = tuple(_number(source, "episode_returns", value) for value in returns)
    if "terminals_end_episodes" in found:
        settings["terminals_end_episodes"] = found["terminals_end_episodes"]
        if not isinstance(found["terminals_end_episodes"], bool):
            raise SparError(f"{source}: 'terminals_end_episodes' must be true or false")
    return Mapping(source=source, **settings, **_actions(source, found["action"]))


def _actions(source: str, found: Any) -> dict[str, Any]:
    """`[action.NAME]` tables, each with `low` and `high`."""
    if not isinstance(found, dict):
        raise SparError(f"{source}: 'action' must be tables with bounds, one a column: [action.valve] with low = 0.0 and high = 100.0")
    for name, bounds in found.items():
        for key in _table(source, f"action.{name}", bounds):
            if key not in ("low", "high"):
                raise SparError(f"{source}: unknown key 'action.{name}.{key}'{_meant(key, ['low', 'high'])}; keys are: low, high")
        for key in ("low", "high"):
            if key not in bounds:
                raise SparError(f"{source}: action '{name}' has no bound '{key}'; give the limit of the actuator, in the column's unit")
    limits = {key: tuple(_number(source, f"action.{name}.{key}", found[name][key]) for name in found) for key in ("low", "high")}
    return {"action": tuple(found), "action_low": limits["low"], "action_high": limits["high"]}


def _table(source: str, key: str, found: Any) -> dict[str, Any]:
    if not isinstance(found, dict):
        raise SparError(f"{source}: '{key}' must be a table, not {_shown(found)}")
    return found


def _text(source: str, key: str, found: Any) -> str:
    if not isinstance(found, str) or not found:
        raise SparError(f"{source}: '{key}' must be one name in quotes, not {_shown(found)}")
    return found


def _names(source: str, key: str, found: Any) -> tuple[str, ...]:
    if not isinstance(found, list):
        raise SparError(f"{source}: '{key}' must be a list of names, not {_shown(found)}")
    return tuple(_text(source, key, name) for name in found)


def _number(source: str, key: str, found: Any) -> float:
    if isinstance(found, bool) or not isinstance(found, int | float):
        raise SparError(f"{source}: '{key}' must be a number, not {_shown(found)}")
    return float(found) if isinstance(found, float) or abs(found) <= LARGEST else math.inf


def _shown(found: Any) -> str:
    text = repr(found)
    return text if len(text) <= 40 else text[:40] + "..."


def quote(text: str) -> str:
    """A TOML string."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def key(text: str) -> str:
    """A TOML key, bare where it can be."""
    return text if re.fullmatch(r"[A-Za-z0-9_-]+", text) else quote(text)


def quotes(names: Iterable[str]) -> str:
    return "[" + ", ".join(map(quote, names)) + "]"


def dump(mapping: Mapping) -> str:
    """TOML from which `parse` makes an equal mapping."""
    lines = [f"observation = {quotes(mapping.observation)}"]
    lines += [f"next_observation = {quotes(mapping.next_observation)}"] if mapping.next_observation else []
    lines += [f"{role} = {quote(getattr(mapping, role))}" for role in (*ROLES, "env_id", "env_kwargs") if getattr(mapping, role)]
    lines += [f"observation_keys = {quotes(mapping.observation_keys)}"] if mapping.observation_keys else []
    lines += [] if mapping.terminals_end_episodes else ["terminals_end_episodes = false"]
    if mapping.episode_returns is not None:
        lines.append(f"episode_returns = [{', '.join(map(repr, mapping.episode_returns))}]")
    for name, low, high in zip(mapping.action, mapping.action_low, mapping.action_high, strict=True):
        lines += ["", f"[action.{key(name)}]", f"low = {low!r}", f"high = {high!r}"]
    if mapping.units:
        lines += ["", "[units]", *(f"{key(name)} = {quote(unit)}" for name, unit in mapping.units.items())]
    return "\n".join(lines) + "\n"
