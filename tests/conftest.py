"""Small real data: a random walk of a linear plant with two kinds of episode end, in memory and as a D4RL-layout file."""

from __future__ import annotations

import dataclasses
import gc
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Tests compile many small programs and run each briefly: compile them fast, and once for the whole session, the processes that tests
# start included. Set before JAX is imported.
QUICK_TO_COMPILE = ("backend_optimization_level=0", "llvm_disable_expensive_passes=true", "cpu_use_fusion_emitters=false")
os.environ.setdefault("XLA_FLAGS", " ".join(f"--xla_{flag}" for flag in QUICK_TO_COMPILE))
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", tempfile.mkdtemp(prefix="spar-tests-"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")

import jax
import numpy as np
import pytest

from spar import registry
from spar.data.episodes import Log
from spar.data.rows import from_rows
from spar.data.sources import d4rl

GATED = [name for name, algo in registry.ALGOS.items() if algo.gated]  # SPAR's variants; the others: test_baselines.py


def plant_rows(steps: int = 600, seed: int = 0) -> dict[str, np.ndarray]:
    """s' = 0.9 s + B a + noise, reward -|s'|^2 - 0.1 |a|^2; an episode terminates when it leaves a ball and is truncated after 50 steps."""
    rng = np.random.default_rng(seed)
    gain = np.array([[0.3, 0.0], [0.0, 0.3], [0.1, -0.2]])
    rows: dict[str, list[Any]] = {k: [] for k in ("observations", "actions", "rewards", "terminals", "timeouts", "next_observations")}
    state, age = rng.normal(size=3), 0
    for _ in range(steps):
        action = np.clip(-0.5 * state[:2] + 0.5 * rng.normal(size=2), -1, 1)
        following = 0.9 * state + gain @ action + 0.1 * rng.normal(size=3)
        age += 1
        terminal = bool(np.linalg.norm(following) > 2.5)
        values = (state, action, -(following**2).sum() - 0.1 * (action**2).sum(), terminal, age == 50 and not terminal, following)
        for column, value in zip(rows.values(), values, strict=True):
            column.append(value)
        state, age = (rng.normal(size=3), 0) if terminal or age == 50 else (following, age)
    flags = ("terminals", "timeouts")
    return {key: np.asarray(column, bool if key in flags else np.float32) for key, column in rows.items()}


def plant_log(steps: int = 600, seed: int = 0) -> Log:
    rows = plant_rows(steps, seed)
    return from_rows("plant", *(rows[k] for k in ("observations", "actions", "rewards", "terminals", "timeouts", "next_observations")))


def tiny(algo: str, **parts: dict[str, Any]) -> Any:
    """An algorithm's configuration with small networks; `parts` override fields of its parts."""
    cfg = registry.get(algo).default
    small: dict[str, dict[str, Any]] = {
        "anchor": {"hidden": (16, 16)},
        "actor": {"hidden": (16, 16)},
        "critic": {"hidden": (16, 16), "size": 5, "subset": 2},
        "residual": {"hidden": (16, 16)},
        "cvae": {"hidden": (16, 16), "latent_dim": 3},
        "plas": {"hidden": (16, 16)},
        "imitation": {"candidates": 4, "period": 2},
    }
    for name in [f.name for f in dataclasses.fields(cfg) if dataclasses.is_dataclass(getattr(cfg, f.name))]:
        part = getattr(cfg, name)
        own = {key: value for key, value in small.get(name, {}).items() if hasattr(part, key)}
        cfg = dataclasses.replace(cfg, **{name: dataclasses.replace(part, **{**own, **parts.get(name, {})})})
    return cfg


TINY_FLAGS = [
    "--anchor.hidden", "16", "--critic.hidden", "16", "--critic.size", "5", "--critic.subset", "2", "--residual.hidden", "16",
    "--loop.log-every", "20", "--eval.every", "20", "--eval.episodes", "2", "--loop.batch-size", "32",
]  # fmt: skip

LONGEST = ["test_trainer", "test_studies", "test_docs", "test_auto", "test_runs", "test_flow", "test_finetune", "test_critics"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take long go first, so that no process ends long after the others."""
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))


@pytest.fixture(autouse=True, scope="module")
def compiled_programs_go() -> Iterator[None]:
    """With the file that compiled them: the kernel limits the memory maps of a process, and thousands of programs come near that."""
    yield
    jax.clear_caches()
    gc.collect()


@pytest.fixture
def log() -> Log:
    return plant_log()


@pytest.fixture
def plant_file(tmp_path: Path) -> Path:
    path = tmp_path / "plant.hdf5"
    d4rl.write(path, plant_rows(), {})
    return path
