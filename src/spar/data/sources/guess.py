"""A first mapping file for a table, from the names of its columns and what they hold: for a person to check and complete."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from spar.data.sources import cells
from spar.data.sources.mapping import key, quote, quotes
from spar.data.sources.table_files import Table, open_table
from spar.types import SparError

ROLE_NAMES = {
    "reward": r"rewards?|r",
    "episode": r"(episode|traj|trajectory|run|batch)([ _]?(id|no|number))?",
    "terminated": r"terminated|terminals?|dones?",
    "truncated": r"truncated|time_?outs?",
    "time": r"time(_?stamp)?|date(_?time)?|step|t",
}
ACTION_WORD = r"(a|u|act|action|actions|cmd|command|control|ctrl|sp|set[ _]?point)"
ACTION = rf"{ACTION_WORD}([ _.-]?\d+|[ _.-].+)?|.+[ _.-]{ACTION_WORD}"
SAYS = {
    "reward": "what the policy is to maximise, summed over an episode",
    "episode": "another value is another episode; without it the flags below decide",
    "terminated": "1 where the process itself ended: a fault, a goal",
    "truncated": "1 where only the recording stopped",
    "time": "must increase inside an episode",
}
DONE_SAYS = "a 'done' that is 1 at time limits too must not be used: make a column of the terminations alone"


def guess_mapping(path: Path) -> str:
    """A commented mapping (TOML) for the CSV or Parquet file `path`; bounds are the smallest and largest logged action.

    What cannot be guessed is left for the reader, who is told so by `mapping.parse`. Raises SparError for an unreadable table.
    """
    table = open_table(Path(path))
    ranges = _ranges(table)
    single: dict[str, str] = {}
    for role, pattern in ROLE_NAMES.items():
        named = [name for name in table.names if re.fullmatch(pattern, name.lower())]
        single |= {role: named[0]} if named else {}
    free = [name for name in ranges if name not in single.values()]
    actions = [name for name in free if re.fullmatch(ACTION, name.lower())]
    following = {f"next_{name}" for name in table.names} | {f"{name}_next" for name in table.names}
    observations = [name for name in free if name not in actions and name not in following]
    after = [next((n for n in (f"next_{name}", f"{name}_next") if n in free), None) for name in observations]
    used = {*observations, *actions, *single.values(), *filter(None, after)}
    left = [name for name in table.names if name not in used]

    lines = [f"# Which column of {table.path.name} is what: a guess from its names and values. Check every line.", ""]
    lines += ["# what the policy sees", f"observation = {quotes(observations)}"]
    if observations and None not in after:
        lines += ["# the same one step later", f"next_observation = {quotes(filter(None, after))}"]
    for role, meaning in SAYS.items():
        known = single.get(role, "")
        off = "" if known or role == "reward" else "# "
        caution = f"; {DONE_SAYS}" if role == "terminated" and re.match("dones?$", known.lower()) else ""
        lines.append(f"{off}{role} = {quote(known)}  # {meaning}{caution}{'' if known else '; no column has such a name'}")
    lines += ["", "# what the policy sets. The bounds are the smallest and largest logged value: put the limits of the actuator."]
    for name in actions:
        low, high = ranges[name]
        lines += [f"[action.{key(name)}]", f"low = {low!r}", f"high = {high!r}{'' if low < high else '  # it never moves in this log'}", ""]
    if not actions:
        lines += ["# No column is named like an action: take them out of 'observation' and give each a table like this one.", "[action]"]
        lines += ["# [action.valve]", "# low = 0.0", "# high = 100.0", ""]
    lines += ["# the units of columns, for reports", "[units]"]
    lines += [f'# {key(name)} = ""' for name in (*observations, *actions)]
    lines += ["", "# not used: " + ", ".join(map(quote, left))] if left else []
    return "\n".join(lines) + "\n"


def _ranges(table: Table) -> dict[str, tuple[float, float]]:
    """(smallest, largest) finite value of every column that holds nothing but numbers and empty cells."""
    ranges = dict.fromkeys(table.names, (np.inf, -np.inf))
    row = 0
    for batch in table.batches(table.names):
        spot = cells.Spot(str(table.path), table.place, row, table.text, strict=False)
        for name in list(ranges):
            try:
                values = cells.numbers(batch.column(name), name, spot)
            except SparError:
                del ranges[name]
                continue
            values = values[np.isfinite(values)]
            if len(values):
                low, high = ranges[name]
                ranges[name] = min(low, float(values.min())), max(high, float(values.max()))
        row += len(batch)
    return {name: span for name, span in ranges.items() if span[0] <= span[1]}
