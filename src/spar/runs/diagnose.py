"""The diagnosis of a finished run, kept in it as `diagnosis/diagnosis.json` and, for the pictures, `diagnosis/points.npz`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from spar import files, registry, trainer
from spar.data.episodes import Log
from spar.deploy import exports
from spar.diagnose import calibration, conflict, deferral, support, traces
from spar.evaluate.environments import EnvConfig, chosen
from spar.method import gate
from spar.runs import auto
from spar.runs.checkpoint import last_state
from spar.runs.config import RunConfig
from spar.runs.experiment import read_config, read_summary
from spar.runs.listener import Listener, Silent
from spar.runs.outcome import LATER_SEED, describe_log
from spar.runs.rows import training_rows
from spar.types import SparError, Spec

FOLDER, DOCUMENT, POINTS = "diagnosis", "diagnosis.json", "points.npz"
STATES = 4000  # logged states that policies are asked on
PARTS = 5
Points = dict[str, np.ndarray]


@dataclass(frozen=True)
class Settings:
    seeds: tuple[int, ...] | None = None  # of the run's; None: all
    env: str | None = None  # gymnasium's id; None: the run's own
    episodes: int = 10  # with every decision kept; 0: no roll-outs
    branches: int = 32  # accepted corrections whose real gain is measured; 0: none


def execute(run: Path, log: Log, settings: Settings, listener: Listener | None = None) -> dict[str, Any]:
    """Diagnose the run; returns the document, which is also written (an earlier one is replaced). The run itself is only read.

    Raises SparError when the run has not finished or has no gate, the log is not the one it was trained on, its checkpoint is gone, or
    the environment does not fit.
    """
    listener = listener or Silent()
    subject = _Subject(run, log, settings)
    seeds: dict[str, dict[str, Any]] = {}
    points, count = Points(), 0
    listener.stage("diagnosis", 0, PARTS * len(subject.seeds))
    for seed in subject.seeds:
        seeds[str(seed)], own = {}, Points()
        for name, part in (
            ("geometry", subject.geometry), ("support", subject.support), ("conflict", subject.conflict),
            ("calibration", subject.calibration), ("gate", subject.gate),
        ):  # fmt: skip
            seeds[str(seed)][name] = part(seed, own)
            count += 1
            listener.progress(count, name)
        points = points or own
    document = {
        "algo": subject.cfg.algo,
        "dataset": describe_log(log),
        "env": subject.env.task if subject.env else None,
        "measured_on": "held-out episodes" if subject.has_heldout else "training episodes",
        "episodes": settings.episodes if subject.env else 0,
        "recommended": auto.agree([one["geometry"]["recommended"] for one in seeds.values()]),
        "seeds": seeds,
    }
    _write(run / FOLDER, document, points)
    return document


def read(run: Path) -> tuple[dict[str, Any], Points]:
    """What `execute` wrote: the document, and the points of its first seed. Raises SparError when there is no diagnosis."""
    folder = run / FOLDER
    if not (folder / DOCUMENT).is_file() or not (folder / POINTS).is_file():
        raise SparError(f"{run}: no {FOLDER}/{DOCUMENT}; make it with `spar diagnose {run}`")
    with np.load(folder / POINTS, allow_pickle=False) as stored:
        return files.read_json(folder / DOCUMENT, f"make it again with `spar diagnose {run}`"), dict(stored)


class _Subject:
    """A run, its log, and what of both is measured; `points` collects what the pictures need."""

    def __init__(self, run: Path, log: Log, settings: Settings) -> None:
        summary, self.cfg, self.settings = read_summary(run), read_config(run), settings
        self.algo = registry.get(self.cfg.algo)
        if not self.algo.gated:
            raise SparError(f"{run}: '{self.cfg.algo}' has no anchor and no gate; a diagnosis is of a run of one of SPAR's variants")
        if summary["dataset"]["fingerprint"] != log.fingerprint:
            raise SparError(
                f"{run}: was trained on a log of fingerprint {summary['dataset']['fingerprint']}, this one has {log.fingerprint}"
            )
        if settings.episodes < 0 or settings.branches < 0:
            raise SparError(f"episodes are {settings.episodes} and branches {settings.branches}; give numbers of at least 0")
        self.seeds = _chosen(run, self.cfg, settings.seeds)
        self.training, heldout = log.split(self.cfg.data.holdout)
        self.has_heldout, self.other = heldout is not None, heldout or self.training
        self.rows = training_rows(self.training, self.cfg.needs, self.cfg.data)
        self.policies = {seed: exports.load(run, seed) for seed in self.seeds}
        self.state = last_state(run, self.cfg, log.spec, self.seeds)
        stage = self.algo.stages[-1]
        self.columns = trainer.prepare(stage, self.cfg.config, self.state, self.rows)
        self.env = self._environment(log.spec) if settings.episodes else None
        index = np.random.default_rng(0).permutation(len(self.other))[:STATES]
        self.obs = self.other.observations[self.other.obs_index[np.sort(index)]]

    def geometry(self, seed: int, points: Points) -> dict[str, Any]:
        found, shape = auto.judge(self.policies[seed], self.training)
        points |= {f"geometry_{name}": value.astype(np.float32) for name, value in shape._asdict().items()}
        return found

    def support(self, seed: int, points: Points) -> dict[str, Any]:
        policy = self.policies[seed]
        actions = {"anchor": policy.anchor_action(self.obs)}
        for name, settings in (("ungated", gate.UNGATED), ("policy", {})):
            variant = policy.with_gate(**settings)
            actions[name] = variant.act(self.obs).action
        points |= {f"support_{name}": taken for name, taken in actions.items()}
        logged = self.training.actions
        points["support_logged"] = logged[np.random.default_rng(0).permutation(len(logged))[:STATES]]
        return support.measure(logged, actions)._asdict()

    def conflict(self, seed: int, points: Points) -> dict[str, Any] | None:
        i = self.seeds.index(seed)
        state = jax.tree.map(lambda leaf: leaf[i], self.state)
        columns = {name: column[i] for name, column in self.columns.items()}
        return conflict.measure(self.cfg.config, state, self.rows, columns, self.cfg.loop.batch_size)

    def calibration(self, seed: int, points: Points) -> dict[str, Any]:
        discount, policy = self.cfg.config.critic.discount, self.policies[seed]
        pairs = {"returns": calibration.logged(policy, self.other, self.rows, discount)}
        self.traces = []
        if self.env:
            envs = [self.env.make() for _ in range(min(traces.AT_ONCE, max(self.settings.episodes, 2 * self.settings.branches)))]
            self.traces = traces.record(envs, policy, self.settings.episodes, LATER_SEED)
            pairs["gains"] = calibration.branched(envs, policy, self.traces, self.rows, discount, self.settings.branches)
            for env in envs:
                env.close()
        points |= {f"{name}_{side}": values for name, pair in pairs.items() for side, values in pair._asdict().items()}
        return {name: pair.summary() for name, pair in pairs.items()}

    def gate(self, seed: int, points: Points) -> dict[str, Any]:
        """After `calibration`, whose episodes it reads."""
        policy = self.policies[seed]
        policy.reset(0)
        found = {"states": deferral.on_states(policy.act(self.obs))}
        return {**found, "episodes": deferral.over_episodes(self.traces)} if self.traces else found

    def _environment(self, spec: Spec) -> EnvConfig | None:
        env = chosen(self.cfg.env, self.settings.env)
        if env:
            env.check(spec)
        return env


def _chosen(run: Path, cfg: RunConfig, seeds: Sequence[int] | None) -> tuple[int, ...]:
    chosen = tuple(cfg.seeds if seeds is None else seeds)
    if not chosen or set(chosen) - set(cfg.seeds):
        raise SparError(f"{run}: seeds are {list(chosen)}; choose among {', '.join(map(str, cfg.seeds))}")
    return chosen


def _write(folder: Path, document: dict[str, Any], points: Points) -> None:
    folder.mkdir(exist_ok=True)
    temporary = folder / f".{POINTS}.tmp.npz"
    np.savez_compressed(temporary, allow_pickle=False, **points)
    temporary.replace(folder / POINTS)
    files.write_json(folder / DOCUMENT, document)
