"""What the documents tell a reader to do works when it is done."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from spar import cli
from tests.conftest import TINY_FLAGS

ROOT = Path(__file__).resolve().parents[1]


def test_readme_python_blocks_run_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert len(blocks) == 2
    scope: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), scope)
    decision = scope["decision"]
    assert 0.0 <= decision.action[0] <= 100.0  # type: ignore[attr-defined]


def titles(page: Path) -> set[str]:
    """The anchors that a page's titles have on the sites that render it."""
    found = re.findall(r"^#+ (.+)$", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in found}


def test_readme_names_every_command_and_algorithm() -> None:
    from spar.registry import ALGOS

    text = (ROOT / "README.md").read_text()
    assert all(f"`spar {name}" in text for name in cli.COMMANDS)
    assert all(f"`{name}`" in text for name in ALGOS)
    pages = {ROOT / "README.md", *(ROOT / "docs").glob("*.md")}
    for page in pages:
        for link in re.findall(r"\]\(([^)]+)\)", page.read_text()):
            path, _, anchor = link.partition("#")
            place = page.parent / path if path else page
            assert place.exists(), f"{page}: {link}"
            assert not anchor or anchor in titles(place), f"{page}: {link}"


def test_the_examples_run(tmp_path: Path) -> None:
    assert (
        cli.main(
            ["train", "--out", str(tmp_path / "run"), "--steps-anchor", "20", "--steps-residual", "20", "--episodes", "1", *TINY_FLAGS]
        )
        == 0
    )
    calls = {"own_arrays.py": ["--steps", "40"], "shadow.py": [str(tmp_path / "run"), "hopper-replay", "--rows", "50"]}
    assert {path.name for path in (ROOT / "examples").glob("*.py")} == set(calls)
    for name, arguments in calls.items():
        done = subprocess.run(
            [sys.executable, ROOT / "examples" / name, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip()


def test_the_benchmark_runs(tmp_path: Path) -> None:
    command = [
        sys.executable,
        ROOT / "benchmarks" / "train_speed.py",
        "--steps",
        "2",
        "--rounds",
        "1",
        "--seeds",
        "1",
        "--algos",
        "spar-mlp",
    ]
    done = subprocess.run([*command, "--json", tmp_path / "speed.json"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Matmul ceiling" in done.stdout and (tmp_path / "speed.json").exists()


def test_the_data_sheet_describes_the_embedded_log() -> None:
    import json

    from spar.data import catalog
    from spar.data.recipes.replay import RECIPES, data_sheet

    folder = ROOT / "src" / "spar" / "data" / "embedded"
    path = folder / "hopper-replay.hdf5"
    assert path.stat().st_size <= 6_000_000
    sheet = json.loads((folder / "hopper-replay.json").read_text())
    curve = [(point["step"], point["return_mean"], point["return_std"]) for point in sheet["learning_curve"]]
    again = json.loads(json.dumps(data_sheet("hopper-replay", RECIPES["hopper-replay"], curve, path)))
    assert {**sheet, "versions": None} == {**again, "versions": None}
    log = catalog.load("hopper-replay")
    assert len(log) >= 100_000 and log.fingerprint == sheet["fingerprint"]


def test_a_recipe_regenerates_its_log_byte_for_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A miniature of the real recipe: the same seed gives the same file, another one does not."""
    from spar.data.recipes import collect, replay

    monkeypatch.setattr(collect.Collector, "__init__", _small(collect.Collector.__init__))
    for name, seed in (("one", 1), ("two", 1), ("other", 2)):
        monkeypatch.setitem(replay.RECIPES, name, replay.Recipe("Hopper-v5", seed, 1e9, "never"))
        replay.make(name, tmp_path / f"{name}.hdf5", say=lambda text: None)
    one, two, other = ((tmp_path / f"{name}.hdf5").read_bytes() for name in ("one", "two", "other"))
    assert one == two != other
    shutil.rmtree(tmp_path)


def _small(init):
    def small(self, env_id: str, seed: int = 0, **rest: object) -> None:
        init(self, env_id, seed, max_steps=400, random_steps=200, eval_every=200, eval_episodes=1, **rest)

    return small
