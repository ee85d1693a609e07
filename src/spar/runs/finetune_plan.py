"""What a fine-tuning is asked to do, what it wrote down of that, and the offline run that it begins from."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spar import files, registry
from spar.deploy import exports
from spar.evaluate.environments import EnvConfig, chosen
from spar.online import loop as online
from spar.runs import limits
from spar.runs.config import RunConfig, from_dict, to_dict
from spar.runs.experiment import read_config, read_summary
from spar.types import SparError


@dataclass(frozen=True)
class Config:
    """Everything that decides the outcome of fine-tuning, beside the offline run."""

    run: str
    env: EnvConfig
    seeds: tuple[int, ...]  # of the offline run's
    settings: online.Settings
    config: Any  # the algorithm's own: the offline run's unless changed
    eval_every: int  # steps between evaluations; 0: before and after alone
    episodes: int  # of every evaluation, from the start states of the offline run's final one


def configure(
    run: Path,
    steps: int,
    *,
    env: str | None = None,
    seeds: Sequence[int] | None = None,
    config: Any = None,
    eval_every: int = 5000,
    episodes: int | None = None,
    **settings: Any,
) -> Config:
    """`env`: gymnasium's id, by default the run's own environment; `seeds`: by default all of the run's; `settings`: the other fields of
    online.Settings. Raises SparError when `run` has not finished, or for numbers that make no sense."""
    cfg, own = read_config(run), read_summary(run)
    where = chosen(cfg.env, env)
    if where is None:
        raise SparError(f"{run}: this run names no environment; give one with --env")
    kept = tuple(cfg.seeds if seeds is None else seeds)
    unknown = [seed for seed in kept if seed not in own["seeds"]]
    if unknown or not kept or len(set(kept)) != len(kept):
        raise SparError(f"{run}: seeds are {list(kept)}; choose among {', '.join(map(str, cfg.seeds))}, each once")
    found = online.Settings(steps, **settings)
    if found.steps < 1 or found.block < 1 or not found.noise >= 0 or eval_every < 0:
        raise SparError("steps and block must be at least 1, noise and eval-every at least 0")
    if episodes is not None and episodes < 1:
        raise SparError(f"episodes is {episodes}; it must be at least 1")
    lived = round((0.5 if found.new_share is None else found.new_share) * cfg.loop.batch_size)
    if not 1 <= lived < cfg.loop.batch_size:
        raise SparError(f"new-share is {found.new_share}; of a batch of {cfg.loop.batch_size} it must leave both lived and logged rows")
    if eval_every % found.block:
        raise SparError(f"eval-every is {eval_every}; it must be a multiple of block, {found.block}")
    limits.check(cfg.config if config is None else config)
    return Config(str(run), where, kept, found, cfg.config if config is None else config, eval_every, episodes or cfg.episodes)


def _document(out: Path) -> dict[str, Any]:
    """config.json of a fine-tuning. Raises SparError when the folder holds none."""
    path = out / "config.json"
    document = files.read_json(path, "put the file back, or begin a new fine-tuning") if path.is_file() else {}
    if "finetune" not in document:
        raise SparError(f"{out}: holds no fine-tuning; `spar finetune RUN --steps N` begins one")
    return dict(document)


def read(out: Path) -> Config:
    """The fine-tuning in `out`, as it was asked for. Raises SparError when the folder holds none."""
    document = _document(out)
    try:
        plain = from_dict(Config, document["finetune"])
        return dataclasses.replace(plain, config=from_dict(registry.get(document["offline"]["algo"]).config, plain.config, "config.config"))
    except (SparError, KeyError, TypeError) as error:
        raise SparError(f"{out / 'config.json'}: not a fine-tuning that this version reads ({error})") from None


def finished(out: Path) -> dict[str, Any] | None:
    """The summary of the fine-tuning in `out`; None where it has not come to its end. Raises SparError when the folder holds none."""
    _document(out)
    path = out / "summary.json"
    return dict(files.read_json(path, "put the file back, or begin a new fine-tuning")) if path.is_file() else None


def offline_run(out: Path) -> RunConfig:
    """The run from which the fine-tuning in `out` began. Raises SparError where that is gone, or another one is in its place."""
    document = _document(out)
    run = Path(document["finetune"]["run"])
    if not (run / "config.json").is_file():
        raise SparError(f"{out}: began from the run {run}, which is not here; start where it was started, or put the run back")
    cfg = read_config(run)
    if document["offline"] != to_dict(cfg) or document.get("policy") != fingerprint(run):
        raise SparError(f"{out}: began from another run than {run} now holds; put that one back, or begin a new fine-tuning")
    return cfg


def fingerprint(run: Path) -> str:
    """Of the policies in a run directory."""
    return hashlib.sha256((run / "policy" / exports.ARRAYS_NAME).read_bytes()).hexdigest()[:16]
