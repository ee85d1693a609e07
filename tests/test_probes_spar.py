"""The probe problems of the competitors, put to SPAR: with its defaults, small networks, and the gate open as well as shut."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spar import registry, trainer
from spar.method import critics, gate
from spar.types import Spec
from tests.conftest import tiny
from tests.learning import act
from tests.test_probes import EYE, GAMMA, STATES, transitions

GATED = [name for name, kind in registry.ALGOS.items() if kind.gated]
NET = {"hidden": (32, 32), "learning_rate": 3e-3}
FAST = {
    "anchor": NET,
    "critic": {**NET, "discount": GAMMA, "polyak": 0.05},
    "residual": NET,
    "cvae": {**NET, "latent_dim": 2, "kl_weight": 0.05},  # a small weight keeps both modes
    "plas": {**NET, "learning_rate": 5e-4},  # a latent policy that is faster settles where the decoder is flat
    "imitation": {"candidates": 16, "period": 5},
}
STEPS = 1500  # of each stage
SETTINGS = trainer.Settings(batch_size=64, log_every=500)


def fresh(algo: str) -> trainer.Snapshot:
    return trainer.start(registry.get(algo), tiny(algo, **FAST), Spec(len(STATES), 1), [0])


def go_on(algo: str, start: trainer.Snapshot, residual: int) -> trainer.Snapshot:
    record = registry.get(algo)
    steps = trainer.stage_steps(record, STEPS, residual)
    return trainer.run(record, tiny(algo, **FAST), transitions(), [0], steps, SETTINGS, start, lambda chunk: None)


@functools.cache
def first_stage() -> trainer.Snapshot:
    """The same for all variants."""
    return go_on("spar-mlp", fresh("spar-mlp"), 0)


@functools.cache
def settled(algo: str) -> dict[str, np.ndarray]:
    """Of every state (7,): the anchor's action, the gated and the ungated one, and whether the gate lets the residual pass."""
    shared, cfg = first_stage(), tiny(algo, **FAST)
    own = fresh(algo).state._replace(anchor=shared.state.anchor, critics=shared.state.critics)
    state = jax.tree.map(lambda x: x[0], go_on(algo, shared._replace(position=trainer.Position(0, STEPS), state=own), STEPS).state)
    always = dataclasses.replace(cfg, gate=dataclasses.replace(cfg.gate, **gate.UNGATED))
    found = {name: np.asarray(value) for name, value in act(algo, cfg, state, jnp.asarray(EYE)).items()}
    ungated = act(algo, always, state, jnp.asarray(EYE))["action"]
    return {
        "anchor": found["anchor"][:, 0],
        "gated": found["action"][:, 0],
        "ungated": np.asarray(ungated)[:, 0],
        "open": found["accepted"],
    }


def q(state: str, action: float) -> float:
    """The mean of the trained critics that judge the data."""
    cfg, trained = tiny("spar-mlp", **FAST), jax.tree.map(lambda x: x[0], first_stage().state)
    obs, raw = jnp.asarray(EYE[STATES.index(state)][None]), jnp.full((1, 1), action)
    return float(critics.q_values(cfg.critic, critics.members(trained.critics, "data"), obs, raw).mean())


def at(algo: str, what: str, state: str) -> float:
    return float(settled(algo)[what][STATES.index(state)])


def test_the_critics_value_what_the_log_did() -> None:
    """Modes apart, the later reward credited, time's end bootstrapped and the true one not."""
    assert q("bandit", 0.8) - q("bandit", -0.8) == pytest.approx(1.0, abs=0.15)
    assert (q("first", 0.7), q("first", -0.7)) == (pytest.approx(GAMMA, abs=0.1), pytest.approx(0.1, abs=0.1))
    assert (q("loop", 0.0), q("exit", 0.0)) == (pytest.approx(1 / (1 - GAMMA), rel=0.05), pytest.approx(1.0, abs=0.1))


@pytest.mark.parametrize("algo", GATED)
@pytest.mark.parametrize("what", ["gated", "ungated"])
def test_bandit_and_steps_the_anchor_averages_and_the_residual_chooses(algo: str, what: str) -> None:
    for state, better in (("bandit", 0.8), ("first", 0.7)):
        assert abs(at(algo, "anchor", state)) < 0.15
        assert at(algo, what, state) == pytest.approx(better, abs=0.2) and at(algo, "open", state)


@pytest.mark.parametrize("algo", GATED)
@pytest.mark.parametrize("what", ["gated", "ungated"])
def test_trap_the_residual_stays_where_the_data_is(algo: str, what: str) -> None:
    """Without the gate's help too, although the critics invite it."""
    assert q("trap", 1.0) > q("trap", 0.0) + 0.2
    assert -0.65 < at(algo, what, "trap") < 0.3


@pytest.mark.parametrize("algo", GATED)
def test_where_there_is_nothing_to_gain_the_anchor_acts(algo: str) -> None:
    for state in ("rich", "poor", "loop", "exit"):
        assert not at(algo, "open", state) and at(algo, "gated", state) == at(algo, "anchor", state)
