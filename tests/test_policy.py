"""The deployable policy: parity with JAX, the gate's fallbacks, and files that cannot be trusted."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from spar import registry, trainer
from spar.deploy import policy as deploy
from spar.deploy.policy import Policy
from spar.method import gate
from spar.types import SparError
from tests.conftest import GATED, plant_log, tiny

LOG = plant_log()
SCALER = LOG.scaler()
OBS = LOG.observations[LOG.obs_index][:64]


def make(algo: str, **parts: Any) -> tuple[Policy, Any, Any]:
    """An untrained policy with its configuration and state: parity and fallbacks need no training."""
    cfg = tiny(algo, **parts)
    state = jax.tree.map(lambda x: x[0], trainer.start(registry.get(algo), cfg, LOG.spec, [3]).state)
    description, arrays = registry.get(algo).export(cfg, state)
    return Policy({**description, "delta_rho": 1.0}, {k: np.asarray(v) for k, v in arrays.items()}, SCALER), cfg, state


POLICY = make("spar-mlp", gate={"eta_abs": -np.inf, "eta_rel": 0.0})[0]
UNGUARDED = make("awac")[0]  # a linear mean without a gate, and no guard of observations


@pytest.mark.parametrize("algo", ["spar-mlp", "spar-plas"])
@pytest.mark.parametrize("kind", ["deterministic", "gaussian"])
def test_numpy_acts_as_jax_does(algo: str, kind: str) -> None:
    policy, cfg, state = make(algo, anchor={"kind": kind}, gate={"eta_abs": 0.0, "eta_rel": 0.0})
    expected = registry.get(algo).act(cfg, state, jnp.asarray(SCALER.obs_in(OBS)), jax.random.key(0))
    decision = policy.act(OBS)
    np.testing.assert_array_equal(decision.accepted, expected["accepted"])
    assert 0 < decision.accepted.mean() < 1  # both branches were compared
    np.testing.assert_allclose(decision.action, expected["action"], atol=1e-5)
    np.testing.assert_allclose(decision.gain, expected["gain"], atol=1e-5)


def test_within_the_margin_an_observation_is_used_as_it_is() -> None:
    """Farther out than any logged value, nearer than the margin: no edge of the range stands in for it."""
    policy, cfg, state = make("spar-mlp", gate={"eta_abs": 0.0, "eta_rel": 0.0})
    beyond = OBS + 0.5 * (SCALER.obs_high - SCALER.obs_low) * np.sign(OBS - SCALER.obs_mean)
    assert ((beyond < SCALER.obs_low) | (beyond > SCALER.obs_high)).any(-1).mean() > 0.5
    expected = registry.get("spar-mlp").act(cfg, state, jnp.asarray(SCALER.obs_in(beyond)), jax.random.key(0))
    np.testing.assert_allclose(policy.act(beyond).action, expected["action"], atol=1e-5)


@pytest.mark.parametrize("algo", ["spar-cvae", "spar-proj"])
def test_numpy_acts_as_jax_does_with_the_same_latents(algo: str, monkeypatch: pytest.MonkeyPatch) -> None:
    policy, cfg, state = make(algo, gate={"eta_abs": 0.0, "eta_rel": 0.0})
    key = jax.random.key(4)
    z = np.asarray(jax.random.normal(key, (cfg.gate.candidates, len(OBS), cfg.cvae.latent_dim)))

    class Given:
        def standard_normal(self, shape: tuple[int, ...], dtype: type) -> np.ndarray:
            assert shape == z.shape
            return z.astype(dtype)

    monkeypatch.setattr(policy, "_rng", Given())
    expected = registry.get(algo).act(cfg, state, jnp.asarray(SCALER.obs_in(OBS)), key)
    decision = policy.act(OBS)
    np.testing.assert_array_equal(decision.accepted, expected["accepted"])
    np.testing.assert_allclose(decision.action, expected["action"], atol=1e-5)


def test_gate_equals_algorithm_five_line_by_line() -> None:
    rng = np.random.default_rng(0)
    q_base, q = rng.normal(size=200), rng.normal(size=(7, 200)) * 0.02
    q += q_base + rng.normal(size=200) * 0.01
    cfg = gate.Config(eta_abs=1e-3, eta_rel=0.01, eps=1e-8)
    verdict = gate.rectify(cfg, q_base, q)
    for b in range(200):
        gains = [q[k, b] - q_base[b] for k in range(7)]
        best = int(np.argmax(gains))
        accept = gains[best] > 1e-3 and gains[best] / (abs(q_base[b]) + 1e-8) > 0.01
        assert (verdict.best[b], verdict.accepted[b]) == (best, accept)
    assert 0.1 < verdict.accepted.mean() < 0.9


@pytest.mark.parametrize("algo", GATED)
def test_infinite_thresholds_are_the_anchor_and_the_residual_exactly(algo: str) -> None:
    policy, _, _ = make(algo)
    anchored = policy.with_gate(**gate.ALWAYS_ANCHOR).act(OBS)
    assert not anchored.accepted.any()
    np.testing.assert_array_equal(anchored.action, policy.anchor_action(OBS))
    ungated = policy.with_gate(**gate.ALWAYS_RESIDUAL)
    decision = ungated.act(OBS)
    assert decision.accepted.all()
    ungated.reset(0)
    s = SCALER.obs_in(OBS)
    base = SCALER.action_in(policy.anchor_action(OBS))
    candidates = np.clip(base + ungated._residuals(s, base), -1, 1)
    best = (ungated.q_rob(s, candidates) - ungated.q_rob(s, base)).argmax(0)
    np.testing.assert_allclose(decision.action, candidates[best, np.arange(len(OBS))], atol=1e-5)


def test_decisions_for_one_and_for_many_agree() -> None:
    many = POLICY.act(OBS)
    for i in range(8):
        one = POLICY.act(OBS[i])
        np.testing.assert_allclose(one.action, many.action[i], atol=1e-6)
        assert (one.accepted, one.reason) == (many.accepted[i], many.reason[i])
        assert isinstance(one.accepted, bool) and isinstance(one.reason, str) and one.action.shape == (2,)


BAD = {
    "nan": (np.array([np.nan, 0, 0]), deploy.NOT_FINITE),
    "inf": (np.array([0, np.inf, 0]), deploy.NOT_FINITE),
    "far": (np.array([0, 0, 1e6]), deploy.OUT_OF_RANGE),
    "huge": (np.array([1e300, 0, 0]), deploy.NOT_FINITE),
    "too long": (np.zeros(4), deploy.WRONG_SHAPE),
    "empty": (np.zeros(0), deploy.WRONG_SHAPE),
    "three axes": (np.zeros((1, 1, 3)), deploy.WRONG_SHAPE),
    "scalar": (np.float32(1.0), deploy.WRONG_SHAPE),
    "text": (np.array(["a", "b", "c"]), deploy.WRONG_SHAPE),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_observations_get_the_anchor_and_the_reason(name: str) -> None:
    obs, reason = BAD[name]
    policy = POLICY.with_gate(**gate.ALWAYS_RESIDUAL)  # even where the gate would take anything
    decision = policy.act(obs)
    assert decision.reason == reason and decision.accepted is False and decision.gain == -np.inf
    assert np.isfinite(decision.action).all() and (np.abs(decision.action) <= 1).all()
    own = np.array([0.25, -0.5], np.float32)
    np.testing.assert_array_equal(policy.act(obs, anchor_action=own).action, own)  # the user's controller keeps the plant


def test_shapes_that_are_wrong_altogether_get_the_users_actions() -> None:
    """Rows of unequal length, and a column where a row belongs; the answer has the shape of the user's own actions."""
    for obs in ([[0.0, 0.0, 0.0], [0.0]], np.zeros((3, 1)), np.zeros((5, 7)), None, np.zeros((2, 1, 3)), "sensor"):
        for own in (np.array([[0.25, -0.5]], np.float32), np.array([[0.25, -0.5], [0.5, 0.0]], np.float32)):
            decision = POLICY.act(obs, anchor_action=own)
            np.testing.assert_array_equal(decision.action, own)
            assert np.all(np.asarray(decision.reason) == deploy.WRONG_SHAPE) and not np.any(decision.accepted)
    with pytest.raises(SparError, match="anchor_action has shape"):
        POLICY.act(OBS[:2], anchor_action=own[:1])
    for bad in (0.5, np.zeros(3), np.zeros((1, 1, 2)), [[0.1, 0.2], [0.3]], "off"):
        with pytest.raises(SparError, match="anchor_action"):
            POLICY.act(np.zeros((5, 7)), anchor_action=bad)


def test_the_papers_ungated_policy_acts_far_outside_the_log_too_but_never_on_what_is_not_finite() -> None:
    policy = POLICY.with_gate(**gate.UNGATED)
    far = policy.act(BAD["far"][0])
    assert far.accepted is True and far.reason == deploy.REASONS[0] and (np.abs(far.action) <= 1).all()
    for name in ("inf", "huge", "too long"):
        assert policy.act(BAD[name][0]).accepted is False
    edge = policy.act(np.array([3e38, 0, 0]))  # finite, but not after standardising
    assert np.isfinite(edge.action).all() and edge.accepted is False and edge.reason == deploy.NOT_FINITE


@pytest.mark.parametrize("standardise", [True, False])
def test_the_logs_mean_stands_in_for_a_broken_sensor(standardise: bool) -> None:
    scaler = LOG.scaler(standardise)
    policy = Policy({**POLICY.description}, POLICY.arrays, scaler)
    typical = LOG.observations[LOG.obs_index].mean(0)
    broken = typical.copy()
    broken[1] = np.nan
    np.testing.assert_allclose(policy.act(broken).action, policy.with_gate(**gate.ALWAYS_ANCHOR).act(typical).action, atol=1e-5)


def test_one_bad_row_does_not_spoil_a_batch() -> None:
    policy, batch = POLICY.with_gate(**gate.ALWAYS_RESIDUAL), OBS[:4].copy()
    batch[2, 1] = np.nan
    decision = policy.act(batch)
    assert decision.accepted.tolist() == [True, True, False, True]
    np.testing.assert_allclose(decision.action[[0, 1, 3]], policy.act(OBS[[0, 1, 3]]).action, atol=1e-6)


def test_non_finite_scores_are_never_accepted() -> None:
    verdict = gate.rectify(
        gate.Config(**gate.ALWAYS_RESIDUAL), np.array([0.0, np.nan, 0.0]), np.array([[np.nan, 1.0, np.inf], [np.nan, 2.0, 1.0]])
    )
    assert verdict.accepted.tolist() == [False, False, True]
    assert verdict.best[2] == 1  # an infinite score is no reason to pick a candidate


@given(
    hnp.arrays(np.float64, hnp.array_shapes(max_dims=2, max_side=5), elements=st.floats(width=64)),
    st.one_of(st.none(), hnp.arrays(np.float64, 2, elements=st.floats(width=64))),
    st.sampled_from([{}, gate.UNGATED, gate.ALWAYS_RESIDUAL, {"obs_margin": 1e30}]),
)
@settings(max_examples=300, deadline=None)
def test_no_input_whatever_yields_a_bad_action(obs: np.ndarray, own: np.ndarray | None, changes: dict[str, float]) -> None:
    if obs.ndim == 2:
        own = None
    for policy in (POLICY, UNGUARDED):
        decision = policy.with_gate(**changes).act(obs, own)
        assert np.isfinite(decision.action).all() and (np.abs(decision.action) <= 1).all()


def test_the_users_controller_replaces_the_anchor() -> None:
    own = np.tile(np.array([0.9, -0.9], np.float32), (len(OBS), 1))
    decision = POLICY.act(OBS, own)
    np.testing.assert_allclose(decision.action[~decision.accepted], own[~decision.accepted])
    never = POLICY.with_gate(**gate.ALWAYS_ANCHOR).act(OBS, own)
    np.testing.assert_allclose(never.action, own)
    own[1, 0] = np.nan  # a broken controller: the clone's action, uncorrected, and it says so
    broken = POLICY.act(OBS, own)
    np.testing.assert_array_equal(broken.action[1], POLICY.anchor_action(OBS)[1])
    assert not broken.accepted[1] and broken.reason[1] == deploy.NO_ANCHOR and deploy.NO_ANCHOR not in np.delete(broken.reason, 1)
    with pytest.raises(SparError, match="anchor_action has shape"):
        POLICY.act(OBS, own[:3])


class Stranger:
    """An array of another library that does not let itself be read."""

    def __array__(self, *arguments: object, **named: object) -> np.ndarray:
        raise RuntimeError("tensor lives elsewhere")


def test_readings_come_in_many_forms() -> None:
    policy, state = POLICY.with_gate(**gate.ALWAYS_RESIDUAL), [float(x) for x in OBS[0]]
    expected = policy.act(OBS[0]).action
    for obs in (state, np.array(state, object), np.ma.array(state), np.array(state, ">f8"), np.array(state, np.longdouble)):
        np.testing.assert_allclose(policy.act(obs).action, expected, atol=1e-6)
    broken = policy.act(np.array([np.nan, *state[1:]]))
    masked = np.ma.array(state, mask=[True, False, False])
    for obs in ([None, *state[1:]], np.array([None, *state[1:]], object), masked):
        decision = policy.act(obs)
        np.testing.assert_array_equal(decision.action, broken.action)
        assert decision.reason == deploy.NOT_FINITE
    own = np.array([0.25, -0.5], np.float32)
    for nothing in (Stranger(), [10**400, 0, 0], np.zeros(3, complex), ["1", "2", "3"], [{}, {}, {}]):
        decision = policy.act(nothing, own)
        assert decision.reason == deploy.WRONG_SHAPE and np.array_equal(decision.action, own)
    for bad in (Stranger(), [10**400, 0], np.zeros(2, complex), ["0.5", "0"], np.array([1, 2], "m8[s]")):
        with pytest.raises(SparError, match="anchor_action"):
            policy.act(OBS[0], bad)
    hidden = np.ma.array([0.5, 0.5], mask=[False, True])
    assert policy.act(OBS[0], hidden).reason == deploy.NO_ANCHOR


def test_your_controllers_action_comes_back_as_you_gave_it() -> None:
    wide = SCALER._replace(action_low=np.zeros(2, np.float32), action_high=np.array([1e5, 1e6], np.float32))
    policy = Policy(POLICY.description, POLICY.arrays, wide).with_gate(**gate.ALWAYS_ANCHOR)
    np.testing.assert_array_equal(policy.act(OBS[0], np.array([0.01, 0.02])).action, np.array([0.01, 0.02], np.float32))
    np.testing.assert_array_equal(policy.act(OBS[0], np.array([1e39, -1e39])).action, wide.action_high * [1, 0])


def test_a_network_that_overflows_hands_over_to_your_controller() -> None:
    """Finite weights and a finite observation, and still no finite action: not the middle of the box."""
    huge = {name: array * np.float32(1e25) for name, array in UNGUARDED.arrays.items()}
    policy, own = Policy(UNGUARDED.description, huge, SCALER), np.array([0.25, -0.5], np.float32)
    decision = policy.act(OBS[0], own)
    np.testing.assert_array_equal(decision.action, own)
    assert decision.accepted is False and decision.reason == deploy.NO_GATE_REASONS[2]
    flow, _, _ = make("spar-flow", anchor={"kind": "flow"})
    anchor = {name: array * np.float32(1e25) if name.startswith("anchor") else array for name, array in flow.arrays.items()}
    broken = Policy(flow.description, anchor, SCALER).with_gate(**gate.ALWAYS_RESIDUAL)
    assert broken.act(OBS[0]).accepted is False and broken.act(OBS[0]).reason == deploy.BAD_SCORE
    assert broken.act(OBS[0], own).accepted is True  # corrects yours, which needs no clone


def test_another_gate_goes_on_with_the_draws() -> None:
    policy, same = make("spar-proj")[0], make("spar-proj")[0]
    for one in (policy, same):
        one.reset(7)
    np.testing.assert_array_equal(policy.with_gate(eta_abs=0.5).act(OBS).gain, same.act(OBS).gain)


def test_the_guard_knows_small_units() -> None:
    """A channel that moves by a ten-thousandth: farther out than it is wide is far."""
    small = SCALER._replace(obs_low=np.zeros(3, np.float32), obs_high=np.full(3, 1e-4, np.float32))
    far, near = np.array([[0, 0, 2.5e-4]], np.float32), np.array([[0, 0, 1.9e-4]], np.float32)
    assert small.out_of_range(far, 1.0).all() and not small.out_of_range(near, 1.0).any()
    still = SCALER._replace(obs_low=np.ones(3, np.float32), obs_high=np.ones(3, np.float32))
    assert not still.out_of_range(np.full((1, 3), 1.0009, np.float32), 1.0).any() and still.out_of_range(np.full((1, 3), 1.01), 1.0).all()


BAD_SETTINGS: dict[str, dict[str, float]] = {
    "gate.candidates is 0": {"candidates": 0},
    "gate.candidates is 1000000000000": {"candidates": 10**12},
    "gate.eps is -1": {"eps": -1.0},
    "gate.eta_abs is nan": {"eta_abs": np.nan},
    "gate.eta_rel is nan": {"eta_rel": np.nan},
}


@pytest.mark.parametrize("message", BAD_SETTINGS)
def test_a_gate_that_cannot_work_is_refused(message: str) -> None:
    with pytest.raises(SparError, match=message):
        POLICY.with_gate(**BAD_SETTINGS[message])


def test_gate_settings_are_one_record() -> None:
    assert [f.name for f in dataclasses.fields(gate.Config)] == ["eta_abs", "eta_rel", "eps", "candidates", "obs_margin"]
    assert (gate.Config().eta_abs, gate.Config().eta_rel, gate.Config().candidates) == (1e-4, 0.01, 10)  # C.1.4
