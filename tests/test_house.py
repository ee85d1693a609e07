"""The shape of the house: imports run one way, files stay readable, and the linters agree."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "spar"
ROOMS = [
    "types", "files", "nets", "ops", "data", "method", "baselines", "registry", "presets", "trainer",
    "deploy", "evaluate", "diagnose", "online", "runs", "report", "api", "studies", "cli",
]  # fmt: skip


def room_of(module: str) -> str:
    return module.split(".")[1]


def imports(path: Path) -> set[str]:
    """The rooms that a file imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {room_of(alias.name) for alias in node.names if alias.name.startswith("spar.")}
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "spar":
            found |= {alias.name for alias in node.names} if node.module == "spar" else {room_of(node.module)}
    return found


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_run_one_way(path: Path) -> None:
    own = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    if own in ("__init__", "__main__"):
        return
    assert own in ROOMS, f"a new room '{own}': give it a place in ROOMS"
    for other in imports(path) - {own}:
        assert ROOMS.index(other) < ROOMS.index(own), f"{path.name} imports '{other}', which lies below it"


def test_the_trainer_and_the_method_name_no_algorithm() -> None:
    names = re.compile(r"spar-(mlp|cvae|plas|proj)")
    for room in ("trainer.py", "evaluate", "deploy", "runs/tables.py", "runs/checkpoint.py"):
        for path in [SOURCE / room] if room.endswith(".py") else (SOURCE / room).rglob("*.py"):
            assert not names.search(path.read_text()), path


def test_files_stay_readable() -> None:
    for path in [*SOURCE.rglob("*.py"), *(ROOT / "tests").rglob("*.py")]:
        assert len(path.read_text().splitlines()) <= 400, path


def test_no_pickle_no_absolute_path_no_address() -> None:
    tracked = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-co", "--exclude-standard"], capture_output=True, text=True, check=False
    ).stdout.split()
    for name in tracked:
        path = ROOT / name
        if (
            path.suffix not in (".py", ".md", ".toml", ".txt", ".cff", ".html", ".json", ".csv", "")
            or not path.is_file()
            or path == Path(__file__)
        ):
            continue
        text = path.read_text(errors="ignore")
        assert not re.search(r"(^|[\s\"'(])/(home|root|work|tmp|usr)/", text), name
        if path.suffix == ".py":
            assert not re.search(r"\bimport pickle|allow_pickle=True|\bpickle\.", text), name


@pytest.mark.parametrize("command", [["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"]], ids=" ".join)
def test_linters(command: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
