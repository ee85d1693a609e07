"""One experiment from a log to a run directory: split, train, evaluate, export, summarise. Killed anywhere, it can be resumed."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from spar import files, trainer
from spar.data import memory
from spar.data.episodes import Log
from spar.deploy import exports
from spar.deploy import policy as deploy
from spar.evaluate import offline, rollout
from spar.method import topology
from spar.runs import auto, environment, health, tables
from spar.runs.cache import Cache, surroundings
from spar.runs.checkpoint import Checkpoints
from spar.runs.config import AUTO, CHOICES, RunConfig, algorithm, run_config_from_dict, to_dict
from spar.runs.listener import Listener, Silent
from spar.runs.outcome import TRAINING_SEED, VARIANTS, describe_log, roll, summarise
from spar.runs.rows import training_rows
from spar.types import Algo, SparError, Stage, State


def create(folder: Path, cfg: RunConfig, log: Log) -> None:
    """A new run directory with its configuration. Raises SparError when `folder` exists."""
    with files.new_folder(folder) as new:
        files.write_json(new / "config.json", to_dict(cfg))
        files.write_json(new / environment.NAME, {**surroundings(), "dataset": describe_log(log)})


def rehearse(cfg: RunConfig, log: Log) -> None:
    """Raises SparError, before anything is written, for settings that do not fit each other or the log."""
    first = auto.resolve(cfg, CHOICES[0]) if cfg.algo == AUTO else cfg
    jax.eval_shape(lambda key: algorithm(cfg.algo).init(first.config, log.spec, key), jax.random.key(0))


def asked(folder: Path) -> RunConfig:
    """The run as it was asked for, its algorithm perhaps `auto`. Raises SparError when `folder` is not a run directory."""
    path = folder / "config.json"
    if not path.is_file():
        raise SparError(f"{folder}: not a run directory (no config.json)")
    document = files.read_json(path, "put the file back, or begin a new run")
    if "finetune" in document:
        raise SparError(f"{folder}: holds a fine-tuning; this takes offline runs, such as its own, {document['finetune']['run']}")
    try:
        return run_config_from_dict(document)
    except (SparError, KeyError, TypeError) as error:
        raise SparError(f"{path}: not a configuration that this version reads ({error})") from None


def read_config(folder: Path) -> RunConfig:
    """The run with the algorithm that it trains. Raises SparError when `folder` is not a run directory, or `auto` has not chosen yet."""
    cfg, choice = asked(folder), auto.read(folder)
    if cfg.algo != AUTO:
        return cfg
    if choice is None:
        raise SparError(f"{folder}: no {auto.DOCUMENT}; auto chooses after Stage I, continue the run with `spar train --resume {folder}`")
    return auto.resolve(cfg, choice["chosen"])


def read_summary(folder: Path) -> dict[str, Any]:
    """Raises SparError when the run has not finished."""
    path = folder / "summary.json"
    if not (folder / "config.json").is_file():
        raise SparError(f"{folder}: not a run directory (no config.json)")
    if not path.is_file():
        raise SparError(f"{folder}: no summary.json; the run has not finished, continue it with `spar train --resume {folder}`")
    return dict(files.read_json(path, f"delete the file, and `spar train --resume {folder}` makes it again"))


def execute(folder: Path, log: Log, listener: Listener | None = None, cache: Path | None = None) -> dict[str, Any]:
    """Run, or continue, the experiment in `folder`, whose config.json is the truth. Returns the summary, which is also written.
    `cache` is a folder where algorithms leave for each other what their first stages share.

    Raises SparError when the log is not the one the run began with, or when training halts.
    """
    listener = listener or Silent()
    asked(folder)
    with files.held(folder, "training"):
        files.sweep(folder)
        if moved := environment.go_on(folder, surroundings()):
            listener.say(f"warning: {folder}: {moved}")
        if asked(folder).algo == AUTO:
            cache = cache or folder / auto.SHARED
            _choose(folder, log, listener, cache)
        cfg = read_config(folder)
        run = _Experiment(folder, log, listener, cache, cfg, algorithm(cfg.algo), folder / "checkpoints")
        try:
            return run.execute()
        finally:
            run.close()


def _choose(folder: Path, log: Log, listener: Listener, cache: Path) -> None:
    """What a run of `auto` does first: Stage I, whose end stays in `cache` for the chosen algorithm to begin with, and the choice."""
    if auto.read(folder) is None:
        cfg = auto.resolve(asked(folder), CHOICES[0])
        run = _Experiment(folder, log, listener, cache, cfg, algorithm(AUTO), folder / auto.STAGE_ONE)
        try:
            run.choose()
        finally:
            run.close()
    shutil.rmtree(folder / auto.STAGE_ONE, ignore_errors=True)


class _Experiment:
    """The run `cfg` of `algo` in `folder`, with checkpoints in the folder of that name."""

    def __init__(
        self, folder: Path, log: Log, listener: Listener, cache: Path | None, cfg: RunConfig, algo: Algo, checkpoints: Path
    ) -> None:
        self.folder, self.log, self.listener, self.cfg, self.algo = folder, log, listener, cfg, algo
        began_with = environment.began_with(folder)
        if began_with != log.fingerprint:
            raise SparError(f"{folder}: began with a log of fingerprint {began_with}, this one has {log.fingerprint}")
        self.training, self.heldout = log.split(self.cfg.data.holdout)
        self.rows = training_rows(self.training, self.cfg.needs, self.cfg.data)
        self.scaler = self.rows.scaler
        self.steps = trainer.stage_steps(self.algo, self.cfg.steps_anchor, self.cfg.steps_residual)
        self.metrics = tables.Table(folder / "metrics.csv", tables.METRICS_HEADER)
        self.returns = tables.Table(folder / "returns.csv", tables.RETURNS_HEADER)
        self.evaluator = rollout.Evaluator(self.cfg.env, log.spec) if self.cfg.env else None
        self.checkpoints = Checkpoints(checkpoints, self.steps)
        self.cache = Cache(cache, self.algo, self.cfg, log.fingerprint) if cache and self.algo.shares else None
        self.seconds = self._seconds_before()
        self.began = self.mark = self.saved = time.monotonic()

    def close(self) -> None:
        self.checkpoints.close()
        if self.evaluator:
            self.evaluator.close()

    def execute(self) -> dict[str, Any]:
        return self._finish(self._train())

    def choose(self) -> None:
        """Train, and write which algorithm the shape of the residuals asks for."""
        snapshot = self._train()
        if self.cache:
            self.cache.keep(snapshot, (self.metrics, self.returns), self.seconds["anchor"])
        began = time.monotonic()
        choice = auto.conclude({str(seed): auto.judge(policy, self.training)[0] for seed, policy in self._policies(snapshot.state).items()})
        self.seconds["choice"] = time.monotonic() - began
        files.write_json(self.folder / "seconds.json", self._seconds())
        files.write_json(self.folder / auto.DOCUMENT, choice)
        self.listener.say(auto.sentence(choice))

    def _train(self) -> trainer.Snapshot:
        start = trainer.start(self.algo, self.cfg.config, self.log.spec, self.cfg.seeds)
        snapshot = self.checkpoints.latest(start) or start
        for table in (self.metrics, self.returns):
            table.recall(*snapshot.position)
        if self.cache and snapshot.position < self.cache.end:
            snapshot = self._begin_further(self.cache, snapshot)
        plan = memory.plan(self.rows.log, self.cfg.data.tier)
        self.listener.say(plan.text)
        rows = self.rows.on_device() if plan.tier == "device" else self.rows
        self.stage_shown = -1
        self.mark = time.monotonic()
        try:
            snapshot = trainer.run(self.algo, self.cfg.config, rows, self.cfg.seeds, self.steps, self.cfg.loop, snapshot, self._on_chunk)
        except trainer.Halted as error:
            for table in (self.metrics, self.returns):  # a resumed run drops what lies beyond its checkpoint
                table.write()
            raise trainer.Halted(f"{error}; {self._left()}") from None
        self._save(snapshot)
        return snapshot

    def _left(self) -> str:
        """What a run that halts leaves to go on from."""
        counts = [int(path.name) for path in self.checkpoints.folder.iterdir() if path.name.isdecimal()]
        return (
            f"its last checkpoint, of update {max(counts)}, is intact" if counts else "it has no checkpoint yet, so begin in a new folder"
        )

    def _begin_further(self, cache: Cache, snapshot: trainer.Snapshot) -> trainer.Snapshot:
        """The end of the first stage where `cache` has it, else `snapshot`."""
        entry = cache.recall(snapshot)
        if entry is None:
            return snapshot
        self.metrics.rows, self.returns.rows = entry.metrics, entry.returns
        self.seconds["anchor" if entry.algo == asked(self.folder).algo else "shared"] = entry.seconds
        self.listener.say(f"{self.algo.stages[0].name}: those that {entry.algo} trained")
        return entry.snapshot

    def _on_chunk(self, chunk: trainer.Chunk) -> None:
        self.seconds[chunk.stage.budget] = self.seconds.get(chunk.stage.budget, 0.0) + time.monotonic() - self.mark
        index, step = chunk.snapshot.position
        if index != self.stage_shown:
            self.stage_shown = index
            self.listener.stage(chunk.stage.name, step, chunk.total)
        for name, values in chunk.metrics.items():
            for seed, value in zip(self.cfg.seeds, values, strict=True):
                self.metrics.add(index, chunk.stage.name, step, seed, name, float(value))
        for seed, skipped in zip(self.cfg.seeds, np.asarray(chunk.snapshot.guard.skipped), strict=True):
            self.metrics.add(index, chunk.stage.name, step, seed, "skipped_steps", int(skipped))
        losses = [f"{name.removesuffix('_loss')} {values.mean():.3g}" for name, values in chunk.metrics.items() if name.endswith("_loss")]
        self.listener.progress(step, "loss: " + ", ".join(losses[:3]))
        every = self.cfg.eval.every
        if every and step % every == 0:
            self._evaluate_now(chunk.stage, index, step, chunk.snapshot.state)
        if self.cache and chunk.snapshot.position == self.cache.end:
            self.cache.keep(chunk.snapshot, (self.metrics, self.returns), self.seconds["anchor"])
        if time.monotonic() - self.saved > self.cfg.loop.checkpoint_seconds or step == chunk.total:
            self._save(chunk.snapshot)
        self.mark = time.monotonic()

    def _save(self, snapshot: trainer.Snapshot) -> None:
        """Tables first: on resume, rows beyond the checkpoint are dropped, missing ones could not be made again."""
        self.metrics.write()
        self.returns.write()
        files.write_json(self.folder / "seconds.json", self._seconds())
        self.checkpoints.save(snapshot)
        self.saved = time.monotonic()

    def _seconds_before(self) -> dict[str, float]:
        """What earlier processes spent on this run, up to its last checkpoint."""
        path = self.folder / "seconds.json"
        spent = files.read_json(path, "delete the file: the time spent until now is then not counted") if path.is_file() else {}
        return {"anchor": 0.0, "residual": 0.0, "evaluation": 0.0, "total": 0.0, **spent}

    def _seconds(self) -> dict[str, float]:
        spent = {**self.seconds, "total": self.seconds["total"] + time.monotonic() - self.began}
        return {key: round(value, 2) for key, value in spent.items()}

    def _policies(self, state: State) -> dict[int, deploy.Policy]:
        """The deployable policy of each seed."""
        policies = {}
        for i, seed in enumerate(self.cfg.seeds):
            one = jax.tree.map(lambda leaf, i=i: leaf[i], state)
            description, arrays = self.algo.export(self.cfg.config, one)
            arrays = {key: np.asarray(array) for key, array in arrays.items()}
            policies[seed] = deploy.Policy({**description, "delta_rho": 1.0}, arrays, self.scaler)
            if self.algo.gated:  # the unit of a correction's size; a policy without an anchor has none, and BCQ's would take minutes
                radius = topology.delta_rho(offline.residuals(policies[seed], self.training))
                policies[seed] = deploy.Policy({**description, "delta_rho": max(radius, 1e-6)}, arrays, self.scaler)
        return policies

    def _evaluate_now(self, stage: Stage, index: int, step: int, state: State) -> None:
        """Evaluation during training: the anchor in Stage I, the gated policy after it, on few episodes."""
        variant = "anchor" if stage.budget == "anchor" and self.algo.gated else "policy"
        began, means = time.monotonic(), []
        for seed, policy in self._policies(state).items():
            measured = offline.measure(policy, self.heldout or self.training)
            if variant == "anchor":  # the gate and the residual are not trained yet
                measured = {"action_rmse": measured["action_rmse"]}
            for name, value in measured.items():
                self.metrics.add(index, stage.name, step, seed, f"{'heldout' if self.heldout else 'logged'}_{name}", value)
            if self.evaluator:
                result = roll(self.evaluator, policy.with_gate(**VARIANTS[variant]), self.cfg.eval.episodes, TRAINING_SEED)
                means.append(result.returns.mean())
                for episode, value in enumerate(result.returns):
                    self.returns.add(index, stage.name, step, seed, variant, episode, float(value))
        if means:
            self.listener.say(f"step {step}: {variant} return {np.mean(means):.1f} over {self.cfg.eval.episodes} episodes a seed")
        self.seconds["evaluation"] += time.monotonic() - began

    def _finish(self, snapshot: trainer.Snapshot) -> dict[str, Any]:
        policies = self._policies(snapshot.state)
        if not (self.folder / "policy").exists():
            provenance = {
                "algo": self.cfg.algo,
                "dataset": describe_log(self.log),
                "steps": self._steps(),
                "env": self.cfg.env.id if self.cfg.env else None,
            }
            exports.save(self.folder / "policy", policies, provenance)
        began = time.monotonic()
        summary = summarise(self.cfg, self.log, self.heldout, policies, self.evaluator, self.listener)
        self.seconds["evaluation"] += time.monotonic() - began
        skipped = dict(zip(map(str, self.cfg.seeds), np.asarray(snapshot.guard.skipped).tolist(), strict=True))
        summary |= {
            "steps": self._steps(),
            "choice": auto.read(self.folder),
            "best": self._best(),
            "seconds": self._seconds(),
            "latent": health.latent(self.metrics.rows),
            "critics": health.critics(self.metrics.rows, self.cfg.steps_anchor) if self.algo.gated else None,
            "skipped_steps": skipped,
            "peak_memory_mib": round(environment.peak_memory_mib(), 1),
        }
        for warning in health.warnings(summary):
            self.listener.say(f"warning: {warning}")
        files.write_json(self.folder / "summary.json", summary)
        return summary

    def _steps(self) -> dict[str, int]:
        return {"anchor": self.cfg.steps_anchor, "residual": self.cfg.steps_residual}

    def _best(self) -> dict[str, Any] | None:
        """The best evaluation during training, by its mean over seeds and episodes: the numbers above are the last checkpoint's."""
        found: dict[tuple[int, int], list[float]] = {}
        for stage, _, step, _, variant, _, value in self.returns.rows:
            if variant == "policy":
                found.setdefault((int(stage), int(step)), []).append(float(value))
        if not found:
            return None
        (stage, step), values = max(found.items(), key=lambda item: float(np.mean(item[1])))
        return {"stage": self.algo.stages[stage].name, "step": step, "return": float(np.mean(values)), "episodes": len(values)}
