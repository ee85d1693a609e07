"""Settings that make no sense are refused before anything is written, with the flag and what it may be."""

from __future__ import annotations

from pathlib import Path

import pytest

from spar import api, cli, registry
from spar.runs import limits
from spar.runs.config import AUTO, BUDGETS
from spar.types import SparError
from tests.conftest import TINY_FLAGS

WRONG = [
    (["--seeds", "-1"], "seeds is -1; it must be at least 0 and below 2^32"),
    (["--seeds", "4294967296", "0"], "seeds is 4294967296; it must be at least 0 and below"),
    (["--seeds", "0", "0"], "give one or more different numbers"),
    (["--steps-anchor", "0"], "steps-anchor is 0; it must be at least 1"),
    (["--critic.hidden", "0"], "critic.hidden is 0; it must be at least 1"),
    (["--critic.learning-rate", "nan"], "critic.learning-rate is nan; it must be a finite number"),
    (["--critic.learning-rate", "0"], "critic.learning-rate is 0.0; it must be above 0"),
    (["--critic.discount", "1.5"], "critic.discount is 1.5; it must be at least 0 and below 1"),
    (["--critic.expectile", "2"], "critic.expectile is 2.0; it must be above 0 and below 1"),
    (["--critic.polyak", "3"], "critic.polyak is 3.0; it must be above 0 and at most 1"),
    (["--weighting.temperature", "0"], "weighting.temperature is 0.0; it must be above 0"),
    (["--gate.candidates", "0"], "gate.candidates is 0; it must be at least 1"),
    (["--needs.top-episodes", "-1"], "needs.top-episodes is -1.0; it must be above 0 and at most 1"),
    (["--data.holdout", "1"], "data.holdout is 1.0; it must be at least 0 and below 1"),
    (["--data.reward-shift", "inf"], "data.reward-shift is inf; it must be a finite number"),
    (["--eval.every", "-200"], "eval.every is -200; it must be at least 0"),
    (["--critic.subset", "20"], "20"),
]


@pytest.mark.parametrize(("flags", "said"), WRONG, ids=[" ".join(flags) for flags, _ in WRONG])
def test_a_setting_without_sense_is_named_and_leaves_no_folder(
    flags: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert cli.main(["train", "--algo", "spar-mlp", *TINY_FLAGS, "--out", str(out), *flags]) == 1
    found = capsys.readouterr().err
    assert said in found and found.count("\n") == 1 and not out.exists()


@pytest.mark.parametrize("algo", [*registry.ALGOS, AUTO])
def test_every_default_has_sense(algo: str) -> None:
    for dataset in ("my-plant", "hopper-replay", "pen-cloned", "antmaze-large-diverse"):
        for budget in BUDGETS:
            limits.check(api.configure(dataset, algo, budget=budget))


def test_every_name_is_a_settings() -> None:
    """A limit for a setting that there is no more would guard nothing."""
    names = {path.split(".")[-1] for algo in registry.ALGOS for path, _ in limits.numbers(api.configure("x", algo))}
    groups = (limits.AT_LEAST_ONE, limits.POSITIVE, limits.NOT_NEGATIVE, limits.WITHIN, limits.INSIDE, limits.SHARES, limits.UNBOUNDED)
    assert {name for group in groups for name in group} <= names


def test_a_gate_may_be_shut_or_open() -> None:
    cfg = api.configure("x", "spar-mlp")
    for eta in (float("inf"), float("-inf"), -1e9):
        limits.check(api.configure("x", "spar-mlp", config=cfg.config.__class__(gate=cfg.config.gate.__class__(eta_rel=eta))))
    with pytest.raises(SparError, match=r"gate\.eta-rel is nan"):
        limits.check(api.configure("x", "spar-mlp", config=cfg.config.__class__(gate=cfg.config.gate.__class__(eta_rel=float("nan")))))
