"""A finished run, opened to be measured."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from spar import registry
from spar.data.episodes import Log
from spar.deploy import exports
from spar.deploy import policy as deploy
from spar.runs.config import RunConfig
from spar.runs.experiment import read_config, read_summary
from spar.runs.outcome import describe_log
from spar.types import SparError

Document = dict[str, Any]  # JSON-able
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Finished:
    """What measurements read of a run."""

    run: Path
    log: Log
    cfg: RunConfig
    summary: dict[str, Any]
    policies: dict[int, deploy.Policy]  # by seed, as they are deployed

    @property
    def first(self) -> tuple[int, deploy.Policy]:
        """The seed, and its policy, that pictures show."""
        return next(iter(self.policies.items()))

    @property
    def training(self) -> Log:
        """The episodes that trained."""
        return self.log.split(self.cfg.data.holdout)[0]

    def document(self, **content: Any) -> Document:
        """`content` under the words that say which run was measured."""
        env = self.cfg.env.id if self.cfg.env else None
        return {"algo": self.cfg.algo, "dataset": describe_log(self.log), "env": env, **content}

    def states(self, count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """At most `count` logged states drawn at random, with their actions, in the user's units: (n, obs_dim), (n, A)."""
        index = np.sort(np.random.default_rng(seed).permutation(len(self.log))[:count])
        return self.log.observations[self.log.obs_index[index]], self.log.actions[index]


def opened(run: Path, log: Log, *, gated: bool = True) -> Finished:
    """Raises SparError when the run has not finished, began with another log, or has no gate where `gated` asks for one."""
    summary, cfg = read_summary(run), read_config(run)
    if gated and not registry.get(cfg.algo).gated:
        raise SparError(f"{run}: '{cfg.algo}' has no anchor and no gate; this is measured on runs of SPAR's variants only")
    if summary["dataset"]["fingerprint"] != log.fingerprint:
        raise SparError(f"{run}: was trained on a log of fingerprint {summary['dataset']['fingerprint']}, this one has {log.fingerprint}")
    return Finished(run, log, cfg, summary, {seed: exports.load(run, seed) for seed in cfg.seeds})
