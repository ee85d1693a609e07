"""Fine-tuning of a finished run, from its checkpoint to a new folder: score, live and learn, score again, export. It can be resumed."""

from __future__ import annotations

import contextlib
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np

from spar import files, registry
from spar.data import memory
from spar.data.episodes import HostRows, Log
from spar.deploy import exports
from spar.evaluate import rollout, scores, stats
from spar.online import loop as online
from spar.online.explore import Episode
from spar.runs import environment, tables
from spar.runs.cache import ROOMS, code
from spar.runs.checkpoint import last_state
from spar.runs.config import RunConfig, to_dict
from spar.runs.experiment import read_config
from spar.runs.finetune_plan import Config, fingerprint, finished, offline_run, read
from spar.runs.listener import Listener, Silent
from spar.runs.lived import Lived, forget
from spar.runs.outcome import FINAL_SEED, describe_log, roll
from spar.runs.rows import training_rows
from spar.types import SparError

CURVE_HEADER = ("step", "seed", "return_mean", "return_std", "normalised", "acceptance")
EPISODES_HEADER = ("seed", "step", "return", "length", "terminated")
RECORD_EVERY = 1000  # updates whose mean is one row of metrics.csv
SECONDS = "seconds.json"  # what was spent up to the last checkpoint


def _surroundings() -> dict[str, Any]:
    """As of offline runs, the code that fine-tunes included."""
    return {**environment.describe(), "code": code(*ROOMS, "online", "deploy")}


def execute(cfg: Config, out: Path, log: Log, listener: Listener | None = None) -> dict[str, Any]:
    """Fine-tune into the new folder `out`; returns the summary, which is also written. The offline run is only read.

    Raises SparError when `out` exists, the log is not the run's, the environment does not fit, the algorithm has nothing to learn online,
    or too many updates in a row were not finite.
    """
    listener = listener or Silent()
    with contextlib.closing(_Setting(cfg, log)) as setting:
        document = {"finetune": to_dict(cfg), "offline": to_dict(setting.offline), "policy": fingerprint(Path(cfg.run))}
        with files.new_folder(out) as new:
            files.write_json(new / "config.json", document)
            files.write_json(new / environment.NAME, {**_surroundings(), "dataset": describe_log(log)})
        listener.say(f"{out}: if it is cut off, `spar finetune --resume {out}` goes on from its last checkpoint")
        with files.held(out, "fine-tuning"), contextlib.closing(Lived(out, cfg.settings.steps)) as lived:
            return _carry_out(_Record(setting, out, lived, listener))


def resume(out: Path, log: Log, listener: Listener | None = None, *, new_episode: bool = False) -> dict[str, Any]:
    """Go on in `out` where a fine-tuning was cut off, to the bit as if it had not been; returns the summary, which is also written.
    One that has finished is left as it is.

    The environments are led through all that was lived; with `new_episode` they begin a new episode instead, which is not to the bit.
    Raises SparError as `execute` does, when the offline run is not the one it began from, and when an environment does not come out as it
    did.
    """
    listener, cfg = listener or Silent(), read(out)
    with files.held(out, "fine-tuning"):  # before any environment is touched
        summary = finished(out)
        if summary is not None:
            forget(out)
            return summary
        offline_run(out)
        files.sweep(out)
        if moved := environment.go_on(out, _surroundings()):
            listener.say(f"warning: {out}: {moved}")
        with contextlib.closing(_Setting(cfg, log)) as setting, contextlib.closing(Lived(out, cfg.settings.steps)) as lived:
            record = _Record(setting, out, lived, listener)
            record.recall(new_episode)
            return _carry_out(record)


def _carry_out(record: _Record) -> dict[str, Any]:
    try:
        record.go()
    except KeyboardInterrupt:
        record.keep_what_is_settled()
        raise
    finally:  # what was learned until it was cut off is there too, in tables and as a policy
        record.write()
        record.export()
    summary = record.conclude()
    forget(record.out)
    return summary


class _Setting:
    """What learns and where, before anything is written."""

    def __init__(self, cfg: Config, log: Log) -> None:
        run = Path(cfg.run)
        self.cfg, self.log, self.offline = cfg, log, read_config(run)
        self.algo = registry.get(self.offline.algo)
        stage = online.online_stage(self.algo, cfg.config, self.offline.needs)
        rows = _rows(run, self.offline, log, len(cfg.seeds) * cfg.settings.steps)
        self.evaluator = rollout.Evaluator(cfg.env, log.spec)
        state = last_state(run, self.offline, log.spec, cfg.seeds)
        policies = [exports.load(run, seed) for seed in cfg.seeds]
        self.learner = online.Loop(self.algo, stage, cfg.config, cfg.settings, self.offline.loop, rows, cfg.env, cfg.seeds, state, policies)

    def close(self) -> None:
        self.learner.close()
        self.evaluator.close()


def _rows(run: Path, offline: RunConfig, log: Log, lived: int) -> HostRows:
    """Every row of the log, those once held out included, scaled by the statistics of the rows that trained; there must be room for as many
    `lived` ones."""
    began_with = environment.began_with(run)
    if began_with != log.fingerprint:
        raise SparError(f"{run}: was trained on a log of fingerprint {began_with}, this one has {log.fingerprint}")
    plan = memory.plan(log, more=lived)
    if plan.tier != "device":
        raise SparError(f"{log.source or log.name}: the replay buffer must fit on the device ({plan.text}); fewer steps, or a smaller log")
    trained = training_rows(log.split(offline.data.holdout)[0], offline.needs, offline.data)
    return HostRows(log, trained.scaler, float(trained.reward_scale), float(trained.reward_shift))


class _Record:
    """What is measured on the way, the tables it goes to, and what it goes on from."""

    def __init__(self, setting: _Setting, out: Path, lived: Lived, listener: Listener) -> None:
        self.setting, self.cfg, self.learner = setting, setting.cfg, setting.learner
        self.out, self.lived, self.listener = out, lived, listener
        self.began = self.saved = time.monotonic()
        self.between = setting.offline.loop.checkpoint_seconds
        self.metrics = tables.Table(out / "metrics.csv", tables.METRICS_HEADER)
        self.returns = tables.Table(out / "returns.csv", tables.RETURNS_HEADER)
        self.curve = tables.Table(out / "curve.csv", CURVE_HEADER)
        self.pending: list[dict[str, np.ndarray]] = []
        self.settled = 0  # the last step of which everything is recorded
        spent = out / SECONDS
        before = files.read_json(spent, "delete the file: the time spent until now is then not counted") if spent.is_file() else {}
        self.seconds = {"online": 0.0, "evaluation": 0.0, "total": 0.0, **before}

    def go(self) -> None:
        steps, every = self.cfg.settings.steps, self.cfg.eval_every
        if not self.learner.done:
            self.score(0)
        self.listener.stage("online", self.learner.done, steps)
        mark = time.monotonic()
        for moment in self.learner.run():
            self.pending.append(moment.metrics)
            if moment.step % RECORD_EVERY < self.cfg.settings.block or moment.step == steps:
                self.note(moment)
            self.listener.progress(moment.step, f"{sum(len(one.episodes) for one in self.learner.explorers)} episodes lived")
            self.seconds["online"] += time.monotonic() - mark
            if moment.step == steps or (every and moment.step % every == 0):
                self.score(moment.step)
            self.settled = moment.step
            if time.monotonic() - self.saved > self.between:
                self.keep()
            mark = time.monotonic()

    def recall(self, new_episode: bool) -> None:
        """Stand where an earlier process had its last checkpoint, if it came that far."""
        snapshot, learner = self.lived.recall(self.learner), self.learner
        if snapshot is None:
            self.listener.say("it was cut off before its first checkpoint: it begins again")
            return
        step = snapshot.position.step
        for table in (self.metrics, self.returns):
            table.recall(0, step)
        self.curve.rows = [row for row in tables.read(self.curve.path, CURVE_HEADER) if int(row[0]) <= step]
        self.pending = self.lived.pending()
        if new_episode:
            self.lived.begin_anew()
        since = self.lived.junctions[-1] if self.lived.junctions else 0
        self.listener.stage("led through what was lived", 0, step - since or 1)
        self.begin_anew(since)
        for part in self.lived.parts():
            learner.relive(part, again=learner.done >= since)
            self.listener.progress(max(0, learner.done - since), "")
            self.begin_anew(since)
        lived = self.episodes(step)
        for explorer, own in zip(learner.explorers, lived, strict=True):
            if explorer.episodes != own:
                raise explorer.differs()
        learner.state, learner.guard, self.settled = snapshot.state, snapshot.guard, step
        self.listener.say(f"goes on from step {step}" + (" with a new episode" if new_episode else ""))

    def begin_anew(self, since: int) -> None:
        """Where the learner stands at the step after which nothing before is lived again: a new episode."""
        if self.lived.junctions and self.learner.done == since:
            for explorer, episodes in zip(self.learner.explorers, self.episodes(since), strict=True):
                explorer.begin_anew(since, episodes, len(self.lived.junctions))

    def episodes(self, step: int) -> list[list[Episode]]:
        """Of each seed, those that an earlier process saw end up to `step`."""
        rows = tables.read(self.out / "episodes.csv", EPISODES_HEADER)
        return [
            [Episode(int(at), float(v), int(n), ended == "1") for s, at, v, n, ended in rows if int(s) == seed and int(at) <= step]
            for seed in self.cfg.seeds
        ]

    def keep(self) -> None:
        """Tables first: on going on, rows beyond the checkpoint are dropped, missing ones could not be made again."""
        self.write()
        files.write_json(self.out / SECONDS, {**self.seconds, "total": self.seconds["total"] + time.monotonic() - self.began})
        self.lived.keep(self.learner, self.pending)
        self.saved = time.monotonic()

    def keep_what_is_settled(self) -> None:
        """A last checkpoint of a fine-tuning that is interrupted, unless an evaluation or the report of a block is not complete."""
        if self.lived.until < self.settled == self.learner.done:
            self.keep()

    def export(self) -> None:
        """The policies as they now are; those of an earlier process, which did not come to the end, make way."""
        offline = self.setting.offline
        provenance = {
            "algo": self.setting.algo.name,
            "dataset": describe_log(self.setting.log),
            "steps": {"anchor": offline.steps_anchor, "residual": offline.steps_residual, "online": self.learner.done},
            "env": self.cfg.env.id,
        }
        fresh = self.out / "policy.new"
        shutil.rmtree(fresh, ignore_errors=True)
        exports.save(fresh, dict(zip(self.cfg.seeds, self.learner.policies(), strict=True)), provenance)
        shutil.rmtree(self.out / "policy", ignore_errors=True)
        fresh.replace(self.out / "policy")

    def score(self, step: int) -> None:
        """Episodes of the deployed policy, without exploration, in environments of their own; at step 0 the offline run's, as it was."""
        began, env = time.monotonic(), self.cfg.env.task
        policies = self.learner.policies() if step else self.learner.offline
        results = [roll(self.setting.evaluator, policy, self.cfg.episodes, FINAL_SEED) for policy in policies]
        for seed, policy, result in zip(self.cfg.seeds, policies, results, strict=True):
            normalised, acceptance = scores.normalise(env, result.returns.mean()), result.acceptance if policy.gated else None
            self.curve.add(step, seed, float(result.returns.mean()), float(result.returns.std()), _cell(normalised), _cell(acceptance))
            for episode, value in enumerate(result.returns):
                self.returns.add(0, "online", step, seed, "policy", episode, float(value))
        self.write()
        mean = np.mean([result.returns.mean() for result in results])
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

    def conclude(self) -> dict[str, Any]:
        """Write and return the summary, from the tables."""
        steps = {"offline": 0, "online": self.cfg.settings.steps}
        returns = {name: self._scored(step) for name, step in steps.items()}
        means = {name: scores.normalise(self.cfg.env.task, value.mean()) for name, value in returns.items()}
        accepted = {
            name: [float(row[-1]) for row in self.curve.rows if int(row[0]) == step and row[-1] != ""] for name, step in steps.items()
        }
        self.seconds["total"] += time.monotonic() - self.began
        summary = {
            "run": self.cfg.run,
            "algo": self.setting.algo.name,
            "dataset": describe_log(self.setting.log),
            "env": self.cfg.env.task,
            "seeds": list(self.cfg.seeds),
            "steps": self.cfg.settings.steps,
            "episodes": self.cfg.episodes,
            "returns": {name: value.tolist() for name, value in returns.items()},
            "intervals": {name: stats.bootstrap(value)._asdict() for name, value in returns.items()},
            "gain": stats.paired_gain(returns["online"], returns["offline"])._asdict(),
            "normalised": {name: float(value) for name, value in means.items() if value is not None} or None,
            "acceptance": accepted if all(policy.gated for policy in self.learner.offline) else None,
            "lived_episodes": {str(s): len(one.episodes) for s, one in zip(self.cfg.seeds, self.learner.explorers, strict=True)},
            "skipped_steps": dict(zip(map(str, self.cfg.seeds), np.asarray(self.learner.guard.skipped).tolist(), strict=True)),
            "new_episodes": self.lived.junctions,  # steps after which the environment was not led through what was lived before
            "seconds": {key: round(value, 2) for key, value in self.seconds.items()},
            "peak_memory_mib": round(environment.peak_memory_mib(), 1),
        }
        files.write_json(self.out / "summary.json", summary)
        (self.out / SECONDS).unlink(missing_ok=True)
        return summary

    def _scored(self, step: int) -> np.ndarray:
        """(S, episodes) returns of the evaluation at `step`."""
        found = [[float(row[-1]) for row in self.returns.rows if int(row[2]) == step and int(row[3]) == seed] for seed in self.cfg.seeds]
        return np.asarray(found)


def _cell(value: Any) -> float | str:
    return "" if value is None else float(value)
