"""A log larger than the memory that is allowed trains from memory-mapped files; where rows live is decided before anything is loaded."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from spar.data import blocks, catalog, memory
from spar.data.sources import d4rl
from spar.types import SparError
from tests.conftest import plant_log, plant_rows

ROOT = Path(__file__).resolve().parents[1]
ROWS, WIDTH = 1_200_000, 64
ALLOWANCE = 200 << 20  # bytes; the log's observations alone are one and a half times as much


@pytest.fixture(scope="module")
def large_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("large") / "large.hdf5"
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        obs = file.create_dataset("observations", (ROWS, WIDTH), np.float32, chunks=(10_000, WIDTH))
        for start in range(0, ROWS, 50_000):
            obs[start : start + 50_000] = rng.standard_normal((50_000, WIDTH), dtype=np.float32)
        file["actions"] = rng.uniform(-1, 1, (ROWS, 2)).astype(np.float32)
        file["rewards"] = rng.standard_normal(ROWS, dtype=np.float32)
        file["terminals"], file["timeouts"] = np.zeros(ROWS, bool), np.arange(ROWS) % 1000 == 999
    return path


def limited(path: Path, tier: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.larger_than_memory", str(path), str(ALLOWANCE), tier]
    environment = {**os.environ, blocks.CACHE_VARIABLE: str(path.parent)}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_a_log_larger_than_memory_trains(large_file: Path) -> None:
    done = limited(large_file, "auto")
    assert done.returncode == 0, done.stderr[-2000:]
    assert "the log stays in memory-mapped files" in done.stdout
    assert (large_file.parent / "limited-auto" / "summary.json").is_file()
    assert not list((large_file.parent / "mapped").iterdir())


def test_the_same_log_in_memory_does_not(large_file: Path) -> None:
    """So the limit above is one."""
    done = limited(large_file, "device")
    assert done.returncode != 0
    assert not (large_file.parent / "limited-device" / "summary.json").exists()


def test_a_mapped_log_equals_the_one_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(blocks.CACHE_VARIABLE, str(tmp_path))
    path = tmp_path / "plant.hdf5"
    for columns in (plant_rows(), {k: v for k, v in plant_rows(seed=3).items() if k != "next_observations"}):
        d4rl.write(path, columns, {})
        in_memory, in_files = catalog.load(path, tier="device"), catalog.load(path, tier="mapped")
        assert in_files.is_mapped and not in_memory.is_mapped
        assert in_files.fingerprint == in_memory.fingerprint
        ours, theirs = (log.split(0.25)[0] for log in (in_files, in_memory))
        assert ours.is_mapped and ours.fingerprint == theirs.fingerprint
        for a, b in zip(ours.scaler(), theirs.scaler(), strict=True):
            np.testing.assert_array_equal(a, b)
        path.unlink()


def test_a_full_disk_is_told_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sparse file that the disk cannot fill would end the process with a bus error."""
    monkeypatch.setenv(blocks.CACHE_VARIABLE, str(tmp_path))

    def full(descriptor: int, offset: int, size: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    whole = blocks.mapped((1000, 3))
    assert whole.shape == (1000, 3) and whole.dtype == np.float32
    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(SparError, match=f"{tmp_path}.*: 12000 bytes cannot be written there .No space left on device.*set SPAR_CACHE"):
        blocks.mapped((1000, 3))
    assert not list((tmp_path / "mapped").iterdir())
    (tmp_path / "file").touch()
    monkeypatch.setenv(blocks.CACHE_VARIABLE, str(tmp_path / "file"))
    with pytest.raises(SparError, match="cannot be written there"):
        blocks.mapped((1000, 3))


def test_the_plan_says_what_it_chose_and_why(monkeypatch: pytest.MonkeyPatch) -> None:
    log = plant_log()
    assert memory.plan(log).tier == "device"
    assert memory.plan(log, "host").tier == "host"
    monkeypatch.setattr(memory, "available", lambda: 2 * memory.device_bytes(len(log), *log.spec) - 1)
    plan = memory.plan(log)
    assert plan.tier == "host"
    assert "KiB" in plan.text and "\n" not in plan.text


GIB = 1 << 30
GROUPS: dict[str, tuple[dict[str, str], int]] = {
    "v2, the process's own group": (
        {"proc/self/cgroup": "0::/user/job\n", "sys/fs/cgroup/user/job/memory.max": f"{4 * GIB}\n",
         "sys/fs/cgroup/user/job/memory.current": f"{3 * GIB}", "sys/fs/cgroup/user/memory.max": "max\n"}, GIB,
    ),
    "v2, the group around it is tighter": (
        {"proc/self/cgroup": "0::/user/job\n", "sys/fs/cgroup/user/job/memory.max": f"{8 * GIB}",
         "sys/fs/cgroup/user/memory.max": f"{5 * GIB}", "sys/fs/cgroup/user/memory.current": f"{3 * GIB}"}, 2 * GIB,
    ),
    "v2, file cache can go": (
        {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": f"{4 * GIB}", "sys/fs/cgroup/memory.current": f"{4 * GIB}",
         "sys/fs/cgroup/memory.stat": f"anon {GIB}\nactive_file {GIB}\ninactive_file {2 * GIB}\n"}, 3 * GIB,
    ),
    "v1 beside v2": (
        {"proc/self/cgroup": "4:memory:/job\n3:cpu:/\n0::/\n", "sys/fs/cgroup/memory/job/memory.limit_in_bytes": f"{6 * GIB}",
         "sys/fs/cgroup/memory/job/memory.usage_in_bytes": f"{3 * GIB}",
         "sys/fs/cgroup/memory/job/memory.stat": f"active_file 0\ntotal_active_file {GIB}\n"}, 4 * GIB,
    ),
    "v1 in a container, which sees its group as the root": (
        {"proc/self/cgroup": "4:memory:/docker/0123\n", "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{2 * GIB}"}, 2 * GIB,
    ),
    "more used than allowed": (
        {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": f"{GIB}", "sys/fs/cgroup/memory.current": f"{2 * GIB}"}, 0,
    ),
    "no groups": ({}, 9 * GIB),
}  # fmt: skip


@pytest.mark.parametrize("case", GROUPS)
def test_what_is_left_in_control_groups_counts(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files, left = GROUPS[case]
    for name, text in ({"proc/meminfo": f"MemTotal: 1 kB\nMemAvailable: {9 * GIB // 1024} kB\n"} | files).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(memory, "SYSTEM", tmp_path)
    assert memory.available() == left


def test_what_reading_takes_counts_the_files_own_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """float64 arrays are held beside their float32 copies: three times what the log will take."""
    for kind, each in ((np.float32, 8), (np.float64, 12)):
        rows = {key: column.astype(kind) if column.ndim == 2 else column for key, column in plant_rows().items()}
        path = tmp_path / f"{kind.__name__}.hdf5"
        d4rl.write(path, rows, {})
        assert d4rl.reading_bytes(path) == each * 600 * (3 + 2 + 3)
        monkeypatch.setattr(memory, "available", lambda bytes_=each * 600 * 8 / memory.SHARE: bytes_ - 1)
        monkeypatch.setenv(blocks.CACHE_VARIABLE, str(tmp_path))
        assert catalog.load(path).is_mapped


def test_statistics_do_not_depend_on_the_block_size(monkeypatch: pytest.MonkeyPatch) -> None:
    log = plant_log(2000)
    whole = log.scaler()
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 1000)
    for a, b in zip(whole, log.scaler(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
    obs = log.observations[log.obs_index].astype(np.float64)
    np.testing.assert_allclose(whole.obs_mean, obs.mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(whole.obs_std, obs.std(0) + 1e-3, rtol=1e-5)
