"""Several algorithms on one log, with equal data, steps and seeds: one folder with a run directory each, and what their returns say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from spar import files
from spar.data.episodes import Log
from spar.evaluate import stats
from spar.runs import environment, experiment
from spar.runs.config import RunConfig, to_dict
from spar.runs.listener import Listener, Silent
from spar.types import SparError

CACHE = "shared"  # beside the run directories: what algorithms with an equal first stage train once
NAME = "comparison.json"


class Named:
    """A listener's view of one run among several."""

    def __init__(self, listener: Listener, name: str) -> None:
        self.listener, self.name = listener, name

    def stage(self, name: str, done: int, total: int) -> None:
        self.listener.stage(f"{self.name}: {name}", done, total)

    def progress(self, done: int, note: str) -> None:
        self.listener.progress(done, note)

    def say(self, text: str) -> None:
        self.listener.say(f"{self.name}: {text}")


def execute(
    folder: Path,
    cfgs: Sequence[RunConfig] | Mapping[str, RunConfig],
    log: Log,
    listener: Listener | None = None,
    elsewhere: str = "--out",
) -> Iterator[tuple[str, str]]:
    """Train what is not finished yet in `folder`, in order: a run that was cut off goes on, a finished one is kept. Yields, after each
    run, its name and why it failed, empty where it did not: one that diverges does not stop the others.

    A mapping says how the run directories are called; in a sequence they are called after their algorithms. Raises SparError, before
    anything is trained, where a run there began with other settings or another log; `elsewhere` is the flag that would name another place.
    """
    named = dict(cfgs) if isinstance(cfgs, Mapping) else {cfg.algo: cfg for cfg in cfgs}
    for name, cfg in named.items():
        _check(folder / name, cfg, log, elsewhere)
    for number, (name, cfg) in enumerate(named.items(), 1):
        run, why = folder / name, ""
        if not run.exists():
            experiment.create(run, cfg, log)
        if not (run / "summary.json").is_file():
            try:
                experiment.execute(run, log, Named(listener or Silent(), f"{number}/{len(named)} {name}"), folder / CACHE)
            except files.Busy:
                raise
            except SparError as error:
                why = str(error)
            jax.clear_caches()  # compiled programs hold memory, and memory maps, whose number the kernel limits for each process
        yield name, why


def together(folder: Path, algos: Sequence[str]) -> list[str]:
    """`algos` after those of an earlier comparison in `folder` whose runs are still there."""
    path = folder / NAME
    rows = read(folder)["rows"] if path.is_file() else []
    before = [row["run"] for row in rows if "run" in row and (folder / row["run"] / "summary.json").is_file()]
    return [*before, *(algo for algo in algos if algo not in before)]


def read(folder: Path) -> dict[str, Any]:
    """The content of comparison.json. Raises SparError where it cannot be read."""
    path, advice = folder / NAME, "delete the file and repeat `spar compare`, which keeps the runs that are there"
    document = dict(files.read_json(path, advice))
    if "rows" not in document:
        raise SparError(f"{path}: has no 'rows'; {advice}")
    return document


def _check(run: Path, cfg: RunConfig, log: Log, elsewhere: str) -> None:
    """Raises SparError where the run directory `run` exists and is not the run of `cfg` on `log`; the log goes by its content."""
    if not run.exists():
        return
    before, now = (flat(to_dict(c)) for c in (experiment.asked(run), cfg))
    before["dataset"] = environment.began_with(run)
    now["dataset"] = log.fingerprint
    changed = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
    if changed:
        key, advice = changed[0], f"repeat the command that it began with, or choose another {elsewhere}"
        raise SparError(f"{run}: began with {key} {before.get(key)}, now it is {now.get(key)}; {advice}")


def flat(document: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested fields under dotted names."""
    found: dict[str, Any] = {}
    for key, value in document.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found


def summarise(folder: Path, failed: dict[str, str], command: str, algos: Sequence[str], sizes: str) -> dict[str, Any]:
    """What the finished runs of `algos` in `folder` say together; also written as comparison.json. `sizes` says how networks compare.

    `rows` holds the log's behaviour, the anchor, and every algorithm, in that order: mean return and 95 % interval, interquartile mean,
    probability of improvement over `base` (the anchor of the first run that has one, else bc; its start states are those of all), all
    over the episodes of all seeds. Raises SparError when nothing finished.
    """
    summaries = {algo: experiment.read_summary(folder / algo) for algo in algos if algo not in failed}
    if not summaries:
        raise SparError(f"{folder}: every algorithm failed; {next(iter(failed.values()))}")
    first = next(iter(summaries.values()))
    base, base_label = _base(summaries)
    surroundings = [where for algo in summaries for where in environment.read(folder / algo)]
    document = {
        "command": command,
        "network_sizes": sizes,
        **{key: first[key] for key in ("dataset", "env", "seeds", "steps")},
        "episodes": None if first["returns"]["policy"] is None else len(first["returns"]["policy"][0]),
        "measured_on": first["offline"]["measured_on"],
        "commits": sorted({where["commit"] or "unknown" for where in surroundings}),
        **environment.combined(surroundings),
        "base": base_label,
        "rows": _reference_rows(summaries, base_label) + [_row(algo, summary, base, base_label) for algo, summary in summaries.items()],
        "failed": failed,
    }
    files.write_json(folder / NAME, document)
    return document


def _base(summaries: dict[str, dict[str, Any]]) -> tuple[np.ndarray | None, str | None]:
    """The returns (S, E) that the others are held against, and whose they are."""
    anchored = next((s for s in summaries.values() if s["returns"]["anchor"] is not None), None)
    if anchored:
        return np.asarray(anchored["returns"]["anchor"]), f"anchor of {anchored['algo']}"
    if "bc" in summaries and summaries["bc"]["returns"]["policy"] is not None:
        return np.asarray(summaries["bc"]["returns"]["policy"]), "bc"
    return None, None


def _reference_rows(summaries: dict[str, dict[str, Any]], base_label: str | None) -> list[dict[str, Any]]:
    """The log's own episodes, and the anchor where a run has one."""
    first = next(iter(summaries.values()))
    rows = []
    if first["intervals"] and "behaviour" in first["intervals"]:
        rows.append(_measured("logged behaviour", first, "behaviour"))
    anchored = next((s for s in summaries.values() if s["intervals"] and "anchor" in s["intervals"]), None)
    return [*rows, _measured(str(base_label), anchored, "anchor")] if anchored else rows


def _row(algo: str, summary: dict[str, Any], base: np.ndarray | None, base_label: str | None) -> dict[str, Any]:
    row: dict[str, Any] = _measured(algo, summary, "policy") if summary["intervals"] else {"label": algo}
    if base is not None and algo != base_label:
        row["improvement"] = stats.probability_of_improvement(np.asarray(summary["returns"]["policy"]), base)._asdict()
    offline = list(summary["offline"]["seeds"].values())
    return {
        **row,
        "run": algo,
        "action_rmse": float(np.mean([seed["action_rmse"] for seed in offline])),
        "acceptance": float(np.mean(summary["gate"]["acceptance"])) if summary["gate"] else None,
        "seconds": summary["seconds"],
    }


def _measured(label: str, summary: dict[str, Any], variant: str) -> dict[str, Any]:
    values = np.concatenate([np.ravel(episodes) for episodes in summary["returns"][variant]])
    normalised = summary["normalised"][variant] if summary["normalised"] else None
    return {"label": label, **summary["intervals"][variant], "iqm": float(stats.iqm(values)), "normalised": normalised}
