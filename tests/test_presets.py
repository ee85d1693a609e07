"""The presets against the paper's tables, cell by cell, as printed."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from spar import api, cli, presets, registry
from spar.runs.config import AUTO, BUDGETS, RunConfig, algorithm, run_config_from_dict, to_dict
from spar.studies import grid
from spar.types import DataNeeds, SparError

# Table 8: domain row, tau, architecture, lambda_u, lambda_g, filter, T, eta
TABLE_8 = """
halfcheetah-medium-replay 0.5 MLP  0.5 0.5 Hard 1.0 0.01
hopper-medium-replay      0.5 MLP  0.5 0.5 Hard 1.0 0.01
walker2d-medium-replay    0.5 MLP  0.5 2.0 Hard 1.0 0.01
halfcheetah-medium-expert 0.5 PROJ 0.5 0.5 Hard 0.3 0.01
hopper-medium-expert      0.5 PROJ 2   0.5 Hard 0.3 0.01
walker2d-medium-expert    0.5 PROJ 0.5 2.0 Hard 0.3 0.01
pen-cloned                0.5 PROJ 0.5 0.5 Soft 0.3 0.01
pen-human                 0.5 PROJ 0.5 0.5 Soft 0.3 0.01
antmaze-umaze-diverse     0.9 PROJ 0.5 2.0 Soft 0.3 0.01
antmaze-large-diverse     0.9 PROJ 0.5 0.5 Soft 0.3 0.01
"""
ROWS = {line.split()[0]: line.split()[1:] for line in TABLE_8.strip().splitlines()}


@pytest.mark.parametrize("task", ROWS)
def test_table_8_cell_by_cell(task: str) -> None:
    tau, arch, lambda_u, lambda_g, filtering, temperature, eta = ROWS[task]
    preset = presets.PRESETS[task]
    cfg = preset.config()
    assert preset.algo == f"spar-{arch.lower()}"
    assert cfg.critic.expectile == float(tau)
    assert cfg.critic.lambda_u == float(lambda_u)
    guided = cfg.residual if arch == "MLP" else cfg.imitation
    assert guided.lambda_g == float(lambda_g)
    assert cfg.weighting.filter == filtering.lower()
    assert cfg.weighting.sensitivity == "exp"
    assert cfg.weighting.temperature == float(temperature)
    assert cfg.gate.eta_rel == float(eta)
    is_locomotion = task.split("-")[0] in ("halfcheetah", "hopper", "walker2d")
    assert cfg.anchor.kind == ("deterministic" if is_locomotion else "gaussian")  # C.1.2
    assert preset.reward_shift == (-1.0 if task.startswith("antmaze") else 0.0)  # Table 7, normalization


def test_table_14_tasks_take_their_robots_medium_replay_row() -> None:
    assert len(presets.PRESETS) == len(ROWS) + 3
    for robot in ("halfcheetah", "hopper", "walker2d"):
        medium, replay = (dataclasses.asdict(presets.PRESETS[f"{robot}-{kind}"]) for kind in ("medium", "medium-replay"))
        assert "Table 14" in medium.pop("source") and replay.pop("source") == "Table 8"
        medium.pop("task"), replay.pop("task")
        assert medium == replay


@pytest.mark.parametrize("task", presets.PRESETS)
def test_table_7_cell_by_cell(task: str) -> None:
    """The global settings, in the run that `--budget paper` makes of every task."""
    run = api.configure(task, budget="paper")
    cfg = run.config
    assert run.loop.batch_size == 256
    assert cfg.critic.discount == 0.99
    assert run.loop.max_consecutive_errors == 10
    assert (run.steps_anchor, run.steps_residual) == (1_000_000, 1_000_000)
    assert (run.eval.every, run.loop.log_every) == (50_000, 1_000)
    assert run.seeds == (0, 42, 123)
    assert run.data.standardise and run.data.holdout == 0.0
    assert (cfg.critic.size, cfg.critic.subset) == (10, 4)
    assert (cfg.critic.polyak, cfg.critic.learning_rate, cfg.anchor.learning_rate) == (0.005, 3e-4, 3e-4)
    assert cfg.critic.clip_norm == cfg.anchor.clip_norm == 1.0
    assert cfg.gate.eta_abs == 1e-4 and cfg.gate.candidates == 10
    if hasattr(cfg, "residual"):
        assert cfg.residual.hidden == (256, 256)
        assert (cfg.residual.learning_rate, cfg.residual.clip_norm) == (3e-4, 1.0)
    if hasattr(cfg, "cvae"):
        assert cfg.cvae.hidden == (256, 256, 256)  # 3 layers of 256
        assert (cfg.cvae.latent_dim, cfg.cvae.kl_weight, cfg.cvae.reconstruction_weight) == (16, 0.5, 1.0)
        assert (cfg.cvae.learning_rate, cfg.cvae.clip_norm) == (3e-4, 1.0)
    if hasattr(cfg, "imitation"):
        assert (cfg.imitation.period, cfg.imitation.ema, cfg.imitation.candidates) == (10, 0.005, 64)  # C.1.3
    assert registry.get("spar-plas").default.plas.hidden == (256, 256)


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("hopper_medium_replay-v2", "hopper-medium-replay"),
        ("halfcheetah_medium_expert-v2", "halfcheetah-medium-expert"),
        ("hopper-medium-v2", "hopper-medium"),
        ("pen-human-v1", "pen-human"),
        ("hopper_mediumish", None),
        ("logs/hopper_medium_expert-v2.hdf5", "hopper-medium-expert"),
        ("mujoco/hopper/medium-v0", "hopper-medium"),
        ("D4RL/pen/human-v2", "pen-human"),
        ("D4RL/antmaze/umaze-diverse-v1", "antmaze-umaze-diverse"),
        ("antmaze-medium-play-v2", "antmaze-medium-play"),
        ("logs/medium-v0", None),
        ("D4RL/pointmaze/umaze-v2", "pointmaze-umaze"),
        ("maze2d-large-v1", "maze2d-large"),
        ("my-own-log", None),
        ("logs/hopper_mixed.hdf5", "hopper-medium-replay"),
        ("logs/pen-demos-v0-bc-combined.hdf5", "pen-cloned"),
        ("logs/Ant_maze_hardest-maze_noisy_multistart_True_multigoal_True_sparse_fixed.hdf5", "antmaze-large-diverse"),
        ("logs/maze2d-umaze-sparse-v1.hdf5", "maze2d-umaze"),
        ("logs/my_hopper_mixed.hdf5", None),
    ],
)
def test_datasets_find_their_task(name: str, task: str | None) -> None:
    found = presets.match(name)
    assert (found.task if found else None) == task


@pytest.mark.parametrize(
    ("name", "lam", "env"),
    [
        ("antmaze-umaze-v2", 0.25, "AntMaze_UMaze-v4"),
        ("logs/antmaze-medium-play-v2.hdf5", 0.05, "AntMaze_Medium-v4"),
        ("D4RL/antmaze/large-play-v1", 0.025, "AntMaze_Large-v4"),
    ],
)
def test_mazes_that_the_paper_does_not_have_are_treated_as_those_that_it_has(name: str, lam: float, env: str) -> None:
    """Spar and its competitors alike: rewards - 1, 100 episodes."""
    ours, theirs = api.configure(name), api.configure(name, "spot")
    assert (ours.algo, ours.episodes, ours.data.reward_shift) == ("spar-proj", 100, -1.0)
    assert (theirs.config.lam, theirs.episodes, theirs.needs.reward_shift) == (lam, 100, -1.0)
    found = presets.match(name)
    assert found and found.env == env and "the paper has no such task" in found.source


def test_pointmaze_takes_the_settings_of_antmaze_but_its_own_rewards() -> None:
    """Nothing terminates there, so a shift would say nothing."""
    ours = api.configure("pointmaze-large", "spar-mlp")
    assert (ours.config.critic.expectile, ours.config.weighting.filter, ours.config.anchor.kind) == (0.9, "soft", "gaussian")
    assert (ours.data.reward_shift, ours.episodes) == (0.0, 10)
    assert api.configure("pointmaze-large", "iql").needs.reward_shift == 0.0


@pytest.mark.parametrize("name", presets.NEAREST)
def test_studies_know_mazes_that_the_paper_does_not_have(name: str) -> None:
    found = grid.task(name)
    assert (found.paper, found.regime, found.algo) == (None, "sparse", "spar-proj")


@pytest.mark.parametrize("flags", [["--steps-anchor", "100000"], ["--steps_anchor=100000"]])
def test_a_decay_takes_the_steps_of_the_command_line(flags: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The command's defaults are made before its flags are read."""
    asked: dict[str, Any] = {}

    def train(**settings: Any) -> None:
        asked.update(settings)
        raise SparError("enough")

    monkeypatch.setattr(api, "train", train)
    assert cli.main(["train", "hopper-replay", "--algo", "iql", *flags]) == 1
    assert asked["config"].decay_steps == 106_000
    assert cli.main(["train", "hopper-replay", "--algo", "iql", "--decay-steps", "7", *flags]) == 1
    assert asked["config"].decay_steps == 7


def test_competitors_find_their_familys_settings_by_any_name() -> None:
    for name in ("hopper_expert-v2", "logs/hopper_expert-v2.hdf5", "mujoco/hopper/expert-v0"):
        assert api.configure(name, "lapo").needs.reward == "max" and not api.configure(name, "bcq").needs.standardise
    for file in ("door-v0_demos_clipped", "door-demos-v0-bc-combined"):
        assert api.configure(f"logs/{file}.hdf5", "spot").config.online_floor == 0.5
    ant = api.configure("logs/Ant_maze_u-maze_noisy_multistart_False_multigoal_False_sparse.hdf5", "spot")
    assert (ant.needs.reward_shift, ant.config.lam) == (-1.0, 0.25)
    unknown = api.configure("my-plant", "iql")
    assert unknown.needs == DataNeeds() and unknown.config.expectile == 0.7


def test_few_updates_take_faster_target_critics_and_many_the_published_ones() -> None:
    quick = {}
    for algo, kind in {**registry.ALGOS, AUTO: algorithm(AUTO)}.items():
        if hasattr(kind.default, "critic"):
            published = kind.default.critic.polyak
            rates = {budget: api.configure("walker2d-medium", algo, budget=budget).config.critic.polyak for budget in BUDGETS}
            assert rates["standard"] == rates["paper"] == published
            quick[algo] = rates["quick"]
    slow, spar = dict.fromkeys(("cql", "plas", "spot"), 0.02), [*(n for n, k in registry.ALGOS.items() if k.gated), AUTO]
    settled = {"bcq": 0.005, "awac": 0.03125, "iql": 0.03125, "lapo": 0.03125, "td3bc": 0.0625, "onestep": 500 / 11_200}
    assert quick == {**dict.fromkeys(spar, 0.05), **slow, **settled}


@pytest.mark.parametrize(
    ("algo", "anchor", "residual", "expected"),
    [
        ("td3bc", 10_000, 6_000, 0.0625),
        ("td3bc", 4_000, 1_000, 0.0625),  # fewer updates than the budget's: its rate
        ("td3bc", 10_000, 22_000, 0.03125),  # twice as many
        ("td3bc", 500_000, 500_000, 0.005),
        ("iql", 26_000, 38_000, 0.0078125),
        ("spar-mlp", 10_000, 1_000_000, 0.05),  # Stage II trains no critic
        ("spar-proj", 40_000, 6_000, 0.0125),
        (AUTO, 1_000_000, 6_000, 0.005),
    ],
)
def test_the_rate_falls_to_the_published_one_as_updates_are_added(algo: str, anchor: int, residual: int, expected: float) -> None:
    cfg = api.configure("walker2d-medium", algo, steps_anchor=anchor, steps_residual=residual)
    assert cfg.config.critic.polyak == pytest.approx(expected)


@pytest.mark.parametrize("budget", BUDGETS)
def test_decay_takes_the_whole_run(budget: str) -> None:
    means = BUDGETS[budget]
    assert api.configure("hopper-medium", "iql", budget=budget).config.decay_steps == means.steps_anchor + means.steps_residual
    assert api.configure("hopper-medium", "iql", budget=budget, steps_anchor=7).config.decay_steps == 7 + means.steps_residual


@pytest.mark.parametrize("algo", registry.ALGOS)
@pytest.mark.parametrize("budget", BUDGETS)
def test_run_configurations_survive_json(algo: str, budget: str) -> None:
    cfg = api.configure("hopper-medium-expert", algo, budget=budget, env="Hopper-v5", seeds=[3, 1])
    if hasattr(cfg.config, "gate"):
        gate = dataclasses.replace(cfg.config.gate, eta_abs=float("-inf"))
        cfg = dataclasses.replace(cfg, config=dataclasses.replace(cfg.config, gate=gate))
    back = run_config_from_dict(to_dict(cfg))
    assert back == cfg
    assert isinstance(back, RunConfig) and type(back.config) is registry.get(algo).config


def test_unknown_fields_and_impossible_counts_are_refused() -> None:
    document = to_dict(api.configure("hopper-replay"))
    document["config"]["critic"]["expectlie"] = 0.7
    with pytest.raises(SparError, match="expectlie"):
        run_config_from_dict(document)
    for wrong in ({"seeds": [1, 1]}, {"seeds": []}, {"steps_anchor": 0}, {"episodes": 0}, {"budget": "huge"}):
        with pytest.raises(SparError):
            api.configure("hopper-replay", **wrong)
