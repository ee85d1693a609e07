"""The loop: one dispatch equals many, many seeds equal single ones, a cut run equals an uncut one, and bad steps are skipped."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spar import registry, trainer
from spar.data import blocks
from spar.data.episodes import HostRows
from spar.runs.checkpoint import Checkpoints
from spar.types import Stage, Transitions
from tests.conftest import GATED, plant_log, tiny

ROOT = Path(__file__).resolve().parents[1]
LOG = plant_log()
ROWS = LOG.transitions(LOG.scaler())
SETTINGS = trainer.Settings(batch_size=16, log_every=7)


def equal(a: Any, b: Any, exactly: bool = True) -> None:
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        if exactly:
            np.testing.assert_array_equal(x, y)
        else:
            np.testing.assert_allclose(x, y, rtol=2e-4, atol=2e-6)


def fit(
    algo: str,
    seeds: list[int],
    steps: list[int],
    settings: trainer.Settings = SETTINGS,
    start: trainer.Snapshot | None = None,
    **parts: Any,
):
    record, cfg = registry.get(algo), tiny(algo, **parts)
    chunks: list[trainer.Chunk] = []
    start = start or trainer.start(record, cfg, LOG.spec, seeds)
    return trainer.run(record, cfg, ROWS, seeds, steps, settings, start, chunks.append), chunks


STEPS = {"spar-mlp": [20, 15], "spar-cvae": [20, 15], "spar-plas": [20, 8, 8], "spar-proj": [20, 15], "spar-flow": [20, 15]}


def python_step(stage: Stage, cfg: Any, data: trainer.Data) -> Any:
    """(state, step) -> (state, metrics), one compiled update of one seed."""
    work = trainer.Work(stage, cfg, SETTINGS)
    return jax.jit(lambda state, step: trainer.one_step(work, state, data, step))


@pytest.mark.parametrize("algo", GATED)
def test_chunks_equal_a_python_loop(algo: str) -> None:
    """One dispatch of many steps against the same updates called one by one with the same keys."""
    record, cfg = registry.get(algo), tiny(algo)
    snapshot, _ = fit(algo, [3], STEPS[algo])
    state = jax.tree.map(lambda x: x[0], trainer.start(record, cfg, LOG.spec, [3]).state)
    step = 0
    for stage, count in zip(record.stages, STEPS[algo], strict=True):
        batched = jax.tree.map(lambda x: x[None], state)
        columns = jax.tree.map(lambda x: jnp.asarray(x[0]), trainer.prepare(stage, cfg, batched, ROWS)) if stage.prepare else {}
        one = python_step(stage, cfg, trainer.Data(ROWS, columns, jax.random.key(3)))
        for _ in range(count):
            state, _ = one(state, jnp.int32(step))
            step += 1
    equal(state, jax.tree.map(lambda x: x[0], snapshot.state), exactly=False)


@pytest.mark.parametrize(("algo", "how", "where"), [("spar-mlp", "map", "mapped"), ("spar-plas", "vmap", "host")])
def test_rows_on_the_host_give_the_same_run(algo: str, how: str, where: str, tmp_path: Path) -> None:
    """To the bit, as the product compiles it."""
    environment = {**os.environ, "XLA_FLAGS": "", blocks.CACHE_VARIABLE: str(tmp_path)}
    command = [sys.executable, "-m", "tests.host_rows", algo, how, where]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == "equal\n", done.stderr


def test_the_last_stage_takes_the_remaining_steps() -> None:
    for steps in (1, 2, 3, 5, 101):
        assert sum(trainer.stage_steps(registry.get("spar-plas"), 7, steps)[1:]) == steps


@pytest.mark.parametrize("how", ["map", "vmap"])
def test_many_seeds_equal_single_runs(how: str) -> None:
    settings = dataclasses.replace(SETTINGS, seeds=how)
    together, _ = fit("spar-mlp", [0, 42, 123], STEPS["spar-mlp"], settings)
    for i, seed in enumerate([0, 42, 123]):
        alone, _ = fit("spar-mlp", [seed], STEPS["spar-mlp"], settings)
        equal(jax.tree.map(lambda x, i=i: x[i], together.state), jax.tree.map(lambda x: x[0], alone.state), exactly=how == "map")
    first, second = (jax.tree.leaves(jax.tree.map(lambda x, i=i: x[i], together.state.anchor.params)) for i in (0, 1))
    assert any(np.abs(np.asarray(a - b)).max() > 1e-3 for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("algo", ["spar-mlp", "spar-plas"])
@pytest.mark.parametrize("cut", [1, 3, 4, 5])
def test_resumed_equals_uninterrupted_to_the_bit(algo: str, cut: int) -> None:
    """Cut after any dispatch, at stage ends too, and continued from the snapshot alone."""
    whole, chunks = fit(algo, [0], STEPS[algo])
    resumed, _ = fit(algo, [0], STEPS[algo], start=chunks[cut].snapshot)
    equal(whole.state, resumed.state)


@pytest.mark.parametrize("algo", [name for name, kind in registry.ALGOS.items() if not kind.gated])
def test_a_competitor_resumes_to_the_bit(algo: str, tmp_path: Path) -> None:
    """Cut in the middle, wherever its stages and the statistics that it took at the start then are, and read back from a checkpoint."""
    record, cfg = registry.get(algo), tiny(algo)
    rows = HostRows(LOG, LOG.scaler(), next_action=record.data.next_action).on_device()
    steps, chunks = trainer.stage_steps(record, 20, 15), list[trainer.Chunk]()

    def go_on(start: trainer.Snapshot) -> trainer.Snapshot:
        return trainer.run(record, cfg, rows, [0], steps, SETTINGS, start, chunks.append)

    start = trainer.start(record, cfg, LOG.spec, [0])
    whole, cut = go_on(start), chunks[len(chunks) // 2].snapshot
    for _ in range(2):  # as one process writes it and the next one finds it
        kept = Checkpoints(tmp_path / "checkpoints", steps)
        if kept.manager.latest_step() is None:
            kept.save(cut)
        found = kept.latest(start)
        kept.close()
    assert found is not None and found.position == cut.position
    equal(whole.state, go_on(found).state)
    assert all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves(whole.state) if jnp.issubdtype(leaf.dtype, jnp.floating))


def test_the_first_stage_does_not_read_what_is_said_to_be_for_later() -> None:
    """To the bit, so runs that differ in it may share that stage."""
    record = registry.get("spar-mlp")
    assert record.later == (("critic", "lambda_u"),) and all(registry.get(algo).later == record.later for algo in GATED)
    one, two = (fit("spar-mlp", [0], [9, 0], critic={"lambda_u": value})[0] for value in (0.0, 2.0))
    for field, _ in record.shares:
        equal(getattr(one.state, field), getattr(two.state, field))


def test_metrics_are_means_over_the_chunk() -> None:
    _, by_one = fit("spar-mlp", [0], [6, 0], dataclasses.replace(SETTINGS, log_every=1))
    _, by_six = fit("spar-mlp", [0], [6, 0], dataclasses.replace(SETTINGS, log_every=6))
    for name, value in by_six[0].metrics.items():
        assert float(value[0]) == pytest.approx(np.mean([float(c.metrics[name][0]) for c in by_one]), rel=1e-3), name


def test_frozen_columns_are_computed_once_for_both_phases_of_plas(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    original = trainer.prepare
    monkeypatch.setattr(trainer, "prepare", lambda *args: calls.append(1) or original(*args))
    fit("spar-plas", [0], STEPS["spar-plas"])
    assert len(calls) == 1


def spoiled(bad_rows: np.ndarray) -> Transitions:
    reward = np.array(ROWS.reward)
    reward[bad_rows] = np.nan
    return ROWS._replace(reward=jnp.asarray(reward))


def test_a_non_finite_step_is_skipped_counted_and_nothing_else() -> None:
    """One poisoned row in 600 at batch 16: a few steps are hit. Against a Python loop that skips the same steps."""
    record, cfg = registry.get("spar-mlp"), tiny("spar-mlp")
    rows = spoiled(np.array([5]))
    snapshot = trainer.run(record, cfg, rows, [1], [120, 0], SETTINGS, trainer.start(record, cfg, LOG.spec, [1]), lambda c: None)
    state = jax.tree.map(lambda x: x[0], trainer.start(record, cfg, LOG.spec, [1]).state)
    one = python_step(record.stages[0], cfg, trainer.Data(rows, {}, jax.random.key(1)))
    skipped = 0
    for t in range(120):
        new, metrics = one(state, jnp.int32(t))
        if all(np.isfinite(v) for v in metrics.values()):
            state = new
        else:
            skipped += 1
    assert skipped > 0
    assert int(snapshot.guard.skipped[0]) == skipped
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(snapshot.state))
    equal(state, jax.tree.map(lambda x: x[0], snapshot.state), exactly=False)


def test_ten_bad_steps_in_a_row_stop_the_run_with_a_message() -> None:
    record, cfg = registry.get("spar-mlp"), tiny("spar-mlp")
    kept: list[trainer.Chunk] = []
    with pytest.raises(trainer.Halted) as error:
        trainer.run(record, cfg, spoiled(np.arange(600)), [7], [50, 0], SETTINGS, trainer.start(record, cfg, LOG.spec, [7]), kept.append)
    text = str(error.value)
    assert "\n" not in text
    for part in ("anchor and critics", "seed 7", "10 steps in a row", "from step 0", "critic_loss", "reward in [nan"):
        assert part in text
    assert all(np.isfinite(leaf).all() for chunk in kept for leaf in jax.tree.leaves(chunk.snapshot.state))


def test_nine_in_a_row_do_not_stop_it() -> None:
    """The count starts anew after a finite step, across chunk boundaries."""

    def update(cfg: Any, state: jax.Array, batch: Any, key: jax.Array, step: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        return state + 1, {"loss": jnp.where(step % 10 == 9, 1.0, jnp.nan)}

    stage = Stage("made up", "anchor", update)
    record = dataclasses.replace(registry.get("spar-mlp"), stages=(stage,), init=lambda cfg, spec, key: jnp.zeros(()))
    snapshot = trainer.run(record, None, ROWS, [0], [40], SETTINGS, trainer.start(record, None, LOG.spec, [0]), lambda c: None)
    assert (float(snapshot.state[0]), int(snapshot.guard.skipped[0])) == (4.0, 36)


@pytest.mark.parametrize("algo", GATED)
def test_the_fitting_loss_falls(algo: str) -> None:
    _, chunks = fit(algo, [0], [300, 300] if len(STEPS[algo]) == 2 else [300, 300, 20], dataclasses.replace(SETTINGS, log_every=100))
    name = {"spar-mlp": "fit_loss", "spar-flow": "residual_loss"}.get(algo, "reconstruction_loss")
    values = [float(c.metrics[name][0]) for c in chunks if name in c.metrics]
    assert values[-1] < 0.9 * values[0]
