"""The Python door: the same powers as the command line.

>>> import spar
>>> run = spar.train("hopper-replay", out="runs/first")                     # doctest: +SKIP
>>> decision = run.policy().act(obs)                                         # doctest: +SKIP
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from spar import files, presets
from spar.baselines import presets as baselines
from spar.data import catalog, sheets
from spar.data.episodes import Log
from spar.deploy import exports
from spar.deploy.policy import Policy
from spar.evaluate.environments import EnvConfig, chosen, of_log
from spar.evaluate.rollout import Evaluator
from spar.report import compare as compared
from spar.report import finetune as tuned
from spar.report import page
from spar.runs import auto, experiment, finetune_plan, limits, outcome
from spar.runs import compare as comparison
from spar.runs import finetune as online
from spar.runs.config import AUTO, BUDGETS, PAPER_SEEDS, DataConfig, EvalConfig, RunConfig, algorithm
from spar.runs.listener import Listener, Silent
from spar.trainer import Settings
from spar.types import SparError, Spec


@dataclass(frozen=True)
class Run:
    """A finished run on disk."""

    folder: Path

    @property
    def summary(self) -> dict[str, Any]:
        """The content of summary.json."""
        return experiment.read_summary(self.folder)

    @property
    def config(self) -> RunConfig:
        return experiment.read_config(self.folder)

    def policy(self, seed: int | None = None) -> Policy:
        """The trained policy of `seed`, or of the first seed."""
        return exports.load(self.folder / "policy", seed)

    def evaluate(self, episodes: int = 10, env: str | None = None, seed: int = 0, listener: Listener | None = None) -> dict[str, Any]:
        """Roll out the policies anew: anchor, ungated and gated, `episodes` each from the start states of `seed`.

        Returns what summary.json holds under the same keys (returns, intervals, gain, normalised, gate), and keeps it in the run
        directory as `evaluations/<number>.json`. Raises SparError where neither the run nor the call names an environment, or for less
        than one episode.
        """
        summary, cfg = self.summary, self.config
        if episodes < 1 or seed < 0:
            raise SparError(f"episodes is {episodes}, seed is {seed}; they must be at least 1 and at least 0")
        where = chosen(cfg.env, env)
        if where is None:
            raise SparError(f"{self.folder}: this run names no environment; give one with --env")
        policies = {s: self.policy(s) for s in cfg.seeds}
        first = policies[cfg.seeds[0]]
        evaluator = Evaluator(where, Spec(first.obs_dim, first.act_dim))
        with files.numbered(self.folder / "evaluations") as path:
            start = outcome.LATER_SEED + outcome.SEED_SPACING * seed
            returns, acceptance = outcome.evaluate_policies(policies, evaluator, episodes, start, listener or Silent())
            evaluator.close()
            result = {
                **{key: summary[key] for key in ("dataset", "algo", "seeds")},
                "env": where.task,
                "episodes": episodes,
                "evaluation_seed": seed,
                "returns": {"behaviour": summary["returns"]["behaviour"], **returns},
                "gate": {"acceptance": acceptance, "acceptance_on": "steps of the evaluation episodes"} if acceptance else None,
                **outcome.measures(where.task, summary["returns"]["behaviour"], returns),
            }
            files.write_json(path, result)
        return result

    def report(self) -> Path:
        """(Re)make plots and report.html from the files in the run directory; returns the page's path."""
        return page.write(self.folder)


def preset_for(dataset: str) -> presets.Preset | None:
    """The paper's settings for a dataset, by the name of its task; None where the paper has none."""
    task = catalog.EMBEDDED.get(dataset)
    return presets.PRESETS[task] if task else presets.match(dataset)


def configure(
    dataset: str,
    algo: str | None = None,
    config: Any = None,
    *,
    budget: str = "quick",
    env: str | EnvConfig | None = None,
    episodes: int | None = None,
    seeds: Sequence[int] | None = None,
    steps_anchor: int | None = None,
    steps_residual: int | None = None,
    equal_sizes: bool = False,
    batch_size: int | None = None,
    log_every: int | None = None,
    **settings: Any,
) -> RunConfig:
    """The configuration of a run: what is not given comes from the dataset's preset, then from the budget, then from Table 7.

    With `equal_sizes` a competitor's networks and batches are as large as SPAR's, whatever was published. `settings` are the other fields
    of RunConfig (`loop`, instead of `batch_size` and `log_every`; `data`, `needs`, `eval`). Raises SparError for an unknown algorithm or
    budget, repeated seeds, or numbers that make no sense.
    """
    if budget not in BUDGETS:
        raise SparError(f"no budget named '{budget}'; there are: {', '.join(BUDGETS)}")
    preset, means = preset_for(dataset), BUDGETS[budget]
    steps = (
        means.steps_anchor if steps_anchor is None else steps_anchor,
        means.steps_residual if steps_residual is None else steps_residual,
    )
    algo = algo or (preset.algo if preset else "spar-mlp")
    kind = algorithm(algo)
    published = baselines.preset_for(algo, preset.task if preset else presets.task_name(dataset))
    if config is None:
        config = published.config if published else kind.default
        if preset and published is None and kind.gated:
            config = auto.union(preset.config) if algo == AUTO else preset.config(algo)
        if hasattr(config, "critic"):
            rate = means.target_rate(kind, config.critic.polyak, *steps)
            config = dataclasses.replace(config, critic=dataclasses.replace(config.critic, polyak=rate))
        if getattr(config, "decay_steps", 0):  # over the whole run, however long that is
            config = dataclasses.replace(config, decay_steps=sum(steps))
    if equal_sizes and algo in baselines.PRESETS:
        config = baselines.equal_sizes(config)
    if batch_size is None:
        batch_size = Settings.batch_size if equal_sizes else baselines.BATCH.get(algo, Settings.batch_size)
    cfg = RunConfig(
        dataset=dataset,
        algo=kind.name,
        env=EnvConfig(env) if isinstance(env, str) else env,
        episodes=episodes if episodes is not None else preset.episodes if preset else 10,
        seeds=tuple(seeds) if seeds is not None else means.seeds,
        steps_anchor=steps[0],
        steps_residual=steps[1],
        config=config,
        **{
            "data": DataConfig(reward_shift=preset.reward_shift if preset and published is None else 0.0, holdout=means.holdout),
            "needs": published.data if published else kind.data,
            "eval": EvalConfig(every=means.eval_every),
            "loop": Settings(batch_size, means.log_every if log_every is None else log_every),
            **settings,
        },
    )
    if not cfg.seeds or len(set(cfg.seeds)) != len(cfg.seeds):
        raise SparError(f"seeds are {list(cfg.seeds)}; give one or more different numbers")
    limits.check(cfg)
    if kind.data.next_action and not cfg.needs.next_action:
        raise SparError(f"needs.next-action is off; {algo} learns from the logged next action")
    if cfg.eval.every % cfg.loop.log_every:
        raise SparError(f"eval.every is {cfg.eval.every}; it must be a multiple of loop.log-every, {cfg.loop.log_every}")
    return cfg


def train(
    dataset: str | Path | Log,
    algo: str | None = None,
    config: Any = None,
    *,
    out: str | Path | None = None,
    listener: Listener | None = None,
    **settings: Any,
) -> Run:
    """Train on a dataset (embedded name, path, or a Log built by `spar.from_rows`) and return the finished run.

    `out` is the new run directory, by default a dated one under `runs/`. `settings` are those of `configure`: budget, env, episodes,
    seeds, steps_anchor, steps_residual, and the further fields of RunConfig. Raises SparError when the directory exists, when the data
    cannot be trusted, when the environment does not fit, or when training meets too many non-finite steps.
    """
    cfg = configure(dataset.name if isinstance(dataset, Log) else str(dataset), algo, config, **settings)
    log = dataset if isinstance(dataset, Log) else catalog.load(dataset, tier=cfg.data.tier)
    cfg = dataclasses.replace(cfg, env=environment_for(cfg, log))
    experiment.rehearse(cfg, log)
    folder = Path(out) if out else default_folder(log.name, cfg.algo)
    experiment.create(folder, cfg, log)
    if listener:
        listener.say(f"{folder}: cut off, it goes on with `spar train --resume {shlex.quote(str(folder))}`")
    note = sheets.physics_note(log.name) if cfg.env else None
    if note and listener:
        listener.say(f"warning: {note}")
    _say_notes(log, listener or Silent())
    return finish(folder, log, listener)


def resume(folder: str | Path, log: Log | None = None, listener: Listener | None = None) -> Run:
    """Continue a run that was cut off, from its last checkpoint, to the bit as if it had not been. A finished run is returned as it is.

    `log` is needed only where the run was trained on arrays in memory.
    """
    folder = Path(folder)
    cfg = experiment.asked(folder)
    if (folder / "summary.json").is_file():
        if not (folder / "report.html").is_file():  # cut off just before
            page.write(folder)
        return Run(folder)
    return finish(folder, log or catalog.load(cfg.dataset, tier=cfg.data.tier), listener)


def finish(folder: Path, log: Log, listener: Listener | None) -> Run:
    """Execute what is left of the run in `folder`, and write its report."""
    experiment.execute(folder, log, listener)
    run = Run(folder)
    run.report()
    return run


def compare(
    dataset: str | Path | Log,
    algos: Sequence[str],
    *,
    out: str | Path | None = None,
    seeds: Sequence[int] = PAPER_SEEDS,
    equal_sizes: bool = True,
    command: str = "spar.compare",
    listener: Listener | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Train several algorithms on one dataset with equal data, steps and seeds; returns the content of `out`/comparison.json.

    What is finished in `out` is kept, what was cut off goes on. Finished algorithms of an earlier comparison there stay in it, so `algos`
    may be the further ones alone; `{algos}` in `command`, which is written into the tables, becomes all of them. `settings` are those of
    `configure` and hold for all. Raises SparError for repeated or unknown algorithms, for runs in `out` that began with other settings, and
    when every algorithm failed; one that diverges does not stop the others.
    """
    if not algos or len(set(algos)) != len(algos):
        raise SparError(f"algos are {' '.join(algos) or 'none'}; give one or more different names")
    name, listener = dataset.name if isinstance(dataset, Log) else str(dataset), listener or Silent()
    algos = comparison.together(Path(out), algos) if out else algos
    cfgs = [configure(name, algo, seeds=seeds, equal_sizes=equal_sizes, **settings) for algo in algos]
    log = dataset if isinstance(dataset, Log) else catalog.load(dataset, tier=cfgs[0].data.tier)
    env = environment_for(cfgs[0], log)
    cfgs = [dataclasses.replace(cfg, env=env) for cfg in cfgs]
    folder = Path(out) if out else default_folder(log.name, "compare")
    listener.say(f"{folder}: what is finished there is kept; if it is cut off, the same comparison with --out {folder} goes on from here")
    _say_notes(log, listener)
    failed: dict[str, str] = {}
    for algo, why in comparison.execute(folder, cfgs, log, listener):
        if why:
            failed[algo] = why
        elif not (folder / algo / "report.html").is_file() and (folder / algo / "metrics.csv").is_file():  # a kept result need not
            page.write(folder / algo)
    command = command.replace("{algos}", " ".join(algos))
    document = comparison.summarise(folder, failed, command, algos, "equal" if equal_sizes else "as published")
    compared.write(folder)
    return {**document, "folder": str(folder)}


def finetune(
    run: str | Path,
    steps: int,
    *,
    out: str | Path | None = None,
    log: Log | None = None,
    listener: Listener | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Go on training the finished run in the directory `run` for so many environment steps a seed; returns the content of
    `out`/summary.json, with the folder's path.

    `out` is a new folder, by default a dated one beside the run; `log` is needed only where the run was trained on arrays in memory.
    `settings` are those of `spar.runs.finetune_plan.configure`: env, seeds, config, eval_every, episodes, noise, new_share, block. Raises
    SparError when the run has not finished, the log is not the run's, the environment does not fit, or the algorithm has nothing to
    learn online.
    """
    run = Path(run)
    cfg, offline = finetune_plan.configure(run, steps, **settings), experiment.read_config(run)
    folder = Path(out) if out else Path(f"{run}-online-{datetime.now():%Y%m%d-%H%M%S}")
    summary = online.execute(cfg, folder, log or catalog.load(offline.dataset, tier=offline.data.tier), listener)
    tuned.draw(folder, summary)
    return {**summary, "folder": str(folder)}


def resume_finetune(
    folder: str | Path, *, log: Log | None = None, listener: Listener | None = None, new_episode: bool = False
) -> dict[str, Any]:
    """Go on with the fine-tuning in `folder` where it was cut off, to the bit as if it had not been; returns what `finetune` returns. A
    finished one is returned as it is.

    For that the environments are led through all that was lived, so they must come out as they did; with `new_episode` each begins a
    new episode instead. `log` is needed only where the offline run was trained on arrays in memory. Raises SparError as `finetune` does,
    and when an environment does not come out as it did: then before it is given any action that followed.
    """
    folder = Path(folder)
    summary = finetune_plan.finished(folder)
    if summary is None:
        offline = finetune_plan.offline_run(folder)
        summary = online.resume(folder, log or catalog.load(offline.dataset, tier=offline.data.tier), listener, new_episode=new_episode)
    if not (folder / "plots").is_dir():
        tuned.draw(folder, summary)
    return {**summary, "folder": str(folder)}


def _say_notes(log: Log, listener: Listener) -> None:
    """What the reader had to decide: some of it follows from the file's name alone."""
    for note in log.notes:
        listener.say(f"{log.name}: {note}")


def environment_for(cfg: RunConfig, log: Log) -> EnvConfig | None:
    """Where the run is evaluated: where its configuration says, else where the log came from, else its preset's task if that fits.

    Raises SparError when the environment that was named cannot be made or does not fit the log: cheaper to learn of now.
    """
    own = of_log(log)
    if cfg.env or own:
        env = own if own and (cfg.env is None or cfg.env == EnvConfig(own.id)) else cfg.env
        assert env is not None
        env.check(log.spec)
        return env
    preset = preset_for(cfg.dataset)
    if preset is None:
        return None
    env = EnvConfig(preset.env)
    return env if env.shapes() == ((log.spec.obs_dim,), (log.spec.act_dim,)) else None


def default_folder(name: str, algo: str) -> Path:
    return Path("runs") / f"{name}-{algo}-{datetime.now():%Y%m%d-%H%M%S}"
