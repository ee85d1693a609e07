"""Fine-tuning of a finished run, from its checkpoint to a new folder: score, live and learn, score again, export. It is not resumed."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from spar import files, registry
from spar.data import memory
from spar.data.episodes import HostRows, Log
from spar.deploy import policy as deploy
from spar.evaluate import rollout, scores, stats
from spar.evaluate.environments import EnvConfig, chosen
from spar.online import loop as online
from spar.runs import environment, tables
from spar.runs.checkpoint import last_state
from spar.runs.config import RunConfig, to_dict
from spar.runs.experiment import read_config, read_summary
from spar.runs.listener import Listener, Silent
from spar.runs.outcome import FINAL_SEED, describe_log, roll
from spar.runs.rows import training_rows
from spar.types import SparError

CURVE_HEADER = ("step", "seed", "return_mean", "return_std", "normalised", "acceptance")
EPISODES_HEADER = ("seed", "step", "return", "length", "terminated")
RECORD_EVERY = 1000  # updates whose mean is one row of metrics.csv


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
    return Config(str(run), where, kept, found, cfg.config if config is None else config, eval_every, episodes or cfg.episodes)


def execute(cfg: Config, out: Path, log: Log, listener: Listener | None = None) -> dict[str, Any]:
    """Fine-tune into the new folder `out`; returns the summary, which is also written. The offline run is only read.

    Raises SparError when `out` exists, the log is not the run's, the environment does not fit, the algorithm has nothing to learn online,
    or too many updates in a row were not finite.
    """
    began = time.monotonic()
    run, listener = Path(cfg.run), listener or Silent()
    offline, algo = read_config(run), registry.get(read_config(run).algo)
    stage = online.online_stage(algo, cfg.config, offline.needs)
    rows = _rows(run, offline, log, len(cfg.seeds) * cfg.settings.steps)
    evaluator = rollout.Evaluator(cfg.env, log.spec)
    state = last_state(run, offline, log.spec, cfg.seeds)
    policies = [deploy.load(run, seed) for seed in cfg.seeds]
    learner = online.Loop(algo, stage, cfg.config, cfg.settings, offline.loop, rows, cfg.env, cfg.seeds, state, policies)
    with files.new_folder(out) as new:
        files.write_json(new / "config.json", {"finetune": to_dict(cfg), "offline": to_dict(offline)})
        files.write_json(new / "environment.json", {**environment.describe(), "dataset": describe_log(log)})
    record = _Record(cfg, out, learner, evaluator, listener)
    try:
        record.go()
    finally:  # what was learned until it was cut off is kept too
        record.write()
        learner.close()
        evaluator.close()
        provenance = {
            "algo": algo.name,
            "dataset": describe_log(log),
            "steps": {"anchor": offline.steps_anchor, "residual": offline.steps_residual, "online": record.step},
            "env": cfg.env.id,
        }
        deploy.save(out / "policy", dict(zip(cfg.seeds, learner.policies(), strict=True)), provenance)
    summary = {"run": cfg.run, "algo": algo.name, "dataset": describe_log(log), **record.summary()}
    summary["seconds"] = {**{key: round(value, 2) for key, value in record.seconds.items()}, "total": round(time.monotonic() - began, 2)}
    summary["peak_memory_mib"] = round(environment.peak_memory_mib(), 1)
    files.write_json(out / "summary.json", summary)
    return summary


def _rows(run: Path, offline: RunConfig, log: Log, lived: int) -> HostRows:
    """Every row of the log, those once held out included, scaled by the statistics of the rows that trained; there must be room for as many
    `lived` ones."""
    began_with = json.loads((run / "environment.json").read_text())["dataset"]["fingerprint"]
    if began_with != log.fingerprint:
        raise SparError(f"{run}: was trained on a log of fingerprint {began_with}, this one has {log.fingerprint}")
    plan = memory.plan(log, more=lived)
    if plan.tier != "device":
        raise SparError(f"{log.source or log.name}: the replay buffer must fit on the device ({plan.text}); fewer steps, or a smaller log")
    trained = training_rows(log.split(offline.data.holdout)[0], offline.needs, offline.data)
    return HostRows(log, trained.scaler, float(trained.reward_scale), float(trained.reward_shift))


class _Record:
    """What is measured on the way, and the tables it goes to."""

    def __init__(self, cfg: Config, out: Path, learner: online.Loop, evaluator: rollout.Evaluator, listener: Listener) -> None:
        self.cfg, self.out, self.learner, self.evaluator, self.listener = cfg, out, learner, evaluator, listener
        self.metrics = tables.Table(out / "metrics.csv", tables.METRICS_HEADER)
        self.returns = tables.Table(out / "returns.csv", tables.RETURNS_HEADER)
        self.curve = tables.Table(out / "curve.csv", CURVE_HEADER)
        self.scored: dict[int, list[rollout.Episodes]] = {}  # by step, one entry a seed
        self.pending: list[dict[str, np.ndarray]] = []
        self.seconds = {"online": 0.0, "evaluation": 0.0}
        self.step = 0  # lived by each seed

    def go(self) -> None:
        steps, every = self.cfg.settings.steps, self.cfg.eval_every
        self.score(0)
        self.listener.stage("online", 0, steps)
        mark = time.monotonic()
        for moment in self.learner.run():
            self.step = moment.step
            self.pending.append(moment.metrics)
            if moment.step % RECORD_EVERY < self.cfg.settings.block or moment.step == steps:
                self.note(moment)
            self.listener.progress(moment.step, f"{sum(len(one.episodes) for one in self.learner.explorers)} episodes lived")
            self.seconds["online"] += time.monotonic() - mark
            if moment.step == steps or (every and moment.step % every == 0):
                self.score(moment.step)
            mark = time.monotonic()

    def score(self, step: int) -> None:
        """Episodes of the deployed policy, without exploration, in environments of their own; at step 0 the offline run's, as it was."""
        began, env = time.monotonic(), self.cfg.env.task
        policies = self.learner.policies() if step else self.learner.offline
        self.scored[step] = [roll(self.evaluator, policy, self.cfg.episodes, FINAL_SEED) for policy in policies]
        for seed, policy, result in zip(self.cfg.seeds, policies, self.scored[step], strict=True):
            normalised, acceptance = scores.normalise(env, result.returns.mean()), result.acceptance if policy.gated else None
            self.curve.add(step, seed, float(result.returns.mean()), float(result.returns.std()), _cell(normalised), _cell(acceptance))
            for episode, value in enumerate(result.returns):
                self.returns.add(0, "online", step, seed, "policy", episode, float(value))
        self.write()
        mean = np.mean([result.returns.mean() for result in self.scored[step]])
        self.listener.say(f"step {step}: return {mean:.1f} over {self.cfg.episodes} episodes a seed")
        self.seconds["evaluation"] += time.monotonic() - began

    def note(self, moment: online.Moment) -> None:
        """The means of the updates since the last note."""
        for name in moment.metrics:
            for i, seed in enumerate(self.cfg.seeds):
                taken = [part[name][i] for part in self.pending if not np.isnan(part[name][i])]  # NaN: every update of a block was skipped
                if taken:
                    self.metrics.add(0, "online", moment.step, seed, name, float(np.mean(taken)))
        for seed, skipped in zip(self.cfg.seeds, np.asarray(moment.guard.skipped), strict=True):
            self.metrics.add(0, "online", moment.step, seed, "skipped_steps", int(skipped))
        self.pending = []

    def write(self) -> None:
        episodes = tables.Table(self.out / "episodes.csv", EPISODES_HEADER)
        for seed, explorer in zip(self.cfg.seeds, self.learner.explorers, strict=True):
            for one in explorer.episodes:
                episodes.add(seed, one.step, one.value, one.length, int(one.terminated))
        for table in (self.metrics, self.returns, self.curve, episodes):
            table.write()

    def summary(self) -> dict[str, Any]:
        ends = {"offline": self.scored[0], "online": self.scored[self.cfg.settings.steps]}
        returns = {name: np.stack([result.returns for result in results]) for name, results in ends.items()}
        means = {name: scores.normalise(self.cfg.env.task, value.mean()) for name, value in returns.items()}
        return {
            "env": self.cfg.env.task,
            "seeds": list(self.cfg.seeds),
            "steps": self.cfg.settings.steps,
            "episodes": self.cfg.episodes,
            "returns": {name: value.tolist() for name, value in returns.items()},
            "intervals": {name: stats.bootstrap(value)._asdict() for name, value in returns.items()},
            "gain": stats.paired_gain(returns["online"], returns["offline"])._asdict(),
            "normalised": {name: float(value) for name, value in means.items() if value is not None} or None,
            "acceptance": {name: [one.acceptance for one in results] for name, results in ends.items()} if self._gated() else None,
            "lived_episodes": {str(s): len(one.episodes) for s, one in zip(self.cfg.seeds, self.learner.explorers, strict=True)},
            "skipped_steps": dict(zip(map(str, self.cfg.seeds), np.asarray(self.learner.guard.skipped).tolist(), strict=True)),
        }

    def _gated(self) -> bool:
        return all(policy.gated for policy in self.learner.offline)


def _cell(value: Any) -> float | str:
    return "" if value is None else float(value)
