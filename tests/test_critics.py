"""Stage I against exact solutions."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spar import trainer
from spar.data.episodes import Log
from spar.data.rows import from_rows
from spar.method import anchor, critics
from spar.registry import get
from tests.conftest import plant_log, tiny

STATES, GAMMA = 4, 0.9


def tabular_log() -> Log:
    """A chain 0 -> 1 -> 2 -> 3 with a terminal exit and a truncated loop. Actions -0.5 and 0.5, chosen with unequal frequency.

    From state s, action 0.5 moves right (reward s), action -0.5 stays (reward -1). Leaving state 3 to the right terminates with reward 10.
    """
    rng = np.random.default_rng(0)
    obs, action, reward, following, terminated, truncated = [], [], [], [], [], []
    eye = np.eye(STATES, dtype=np.float32)
    for _ in range(500):
        state, age, over = int(rng.integers(STATES)), 0, False
        while not over:
            right = rng.random() < 0.7
            done = right and state == STATES - 1
            after = state if not right or done else state + 1
            age += 1
            over = done or age == 6
            obs.append(eye[state])
            action.append([0.5 if right else -0.5])
            reward.append(10.0 if done else float(state) if right else -1.0)
            following.append(eye[after])
            terminated.append(done)
            truncated.append(over and not done)
            state = after
    columns = (np.asarray(c) for c in (obs, action, reward, terminated, truncated, following))
    return from_rows("chain", *columns)


def exact(log: Log, expectile: float) -> tuple[np.ndarray, np.ndarray]:
    """V (STATES,) and Q (STATES, 2) of IQL's fixed point on the logged rows themselves, by iteration to convergence."""
    state = log.observations[log.obs_index].argmax(1)
    after = log.observations[log.obs_index + 1].argmax(1)
    right = (log.actions[:, 0] > 0).astype(int)
    q, v = np.zeros((STATES, 2)), np.zeros(STATES)
    frequency = np.array([[((state == s) & (right == a)).sum() for a in (0, 1)] for s in range(STATES)], float)
    for _ in range(2000):
        target = log.rewards + GAMMA * (1 - log.terminated) * v[after]
        q = np.array([[target[(state == s) & (right == a)].mean() for a in (0, 1)] for s in range(STATES)])
        for _ in range(50):  # the expectile over actions as a weighted mean
            weight = np.where(q < v[:, None], 1 - expectile, expectile) * frequency
            v = (weight * q).sum(1) / weight.sum(1)
    return v, q


@pytest.mark.parametrize("expectile", [0.5, 0.9])
def test_iql_reaches_the_exact_solution_of_a_chain(expectile: float) -> None:
    log = tabular_log()
    critic = {"hidden": (64, 64), "size": 2, "subset": 1, "expectile": expectile, "discount": GAMMA, "learning_rate": 1e-3, "polyak": 0.02}
    cfg = tiny("spar-mlp", critic={**critic, "clip_norm": 100.0})
    rows = log.transitions(log.scaler(standardise=False))
    settings = trainer.Settings(batch_size=256, log_every=2000)
    algo = get("spar-mlp")
    snapshot = trainer.run(algo, cfg, rows, [0], [6000, 0], settings, trainer.start(algo, cfg, log.spec, [0]), lambda chunk: None)
    state = jax.tree.map(lambda x: x[0], snapshot.state).critics
    eye = jnp.eye(STATES)
    v, q = exact(log, expectile)
    learned_v = critics.nets.Value(cfg.critic.hidden).apply(state.value, eye)
    np.testing.assert_allclose(learned_v, v, atol=0.35)
    for a, action in ((0, -0.5), (1, 0.5)):
        learned_q = critics.q_values(cfg.critic, state.critic, eye, jnp.full((STATES, 1), action)).mean(0)
        np.testing.assert_allclose(learned_q, q[:, a], atol=0.5)


def test_truncation_bootstraps_and_termination_does_not() -> None:
    """The target of a truncated row uses V of its true successor; a terminated row's is its reward. Read off by linearity in V."""
    log = tabular_log()
    rows = log.transitions(log.scaler(standardise=False))
    value = jnp.asarray(np.random.default_rng(0).normal(size=len(log)), jnp.float32)
    y = critics.ops.td_target(rows.reward, rows.terminated, value, GAMMA)
    assert log.truncated.any() and log.terminated.any()
    np.testing.assert_allclose(np.asarray(y)[log.terminated], log.rewards[log.terminated])
    np.testing.assert_allclose(np.asarray(y)[log.truncated], (log.rewards + GAMMA * np.asarray(value))[log.truncated], rtol=1e-5)


@pytest.mark.parametrize("target", ["in-sample", "anchor"])
def test_one_update_equals_a_naive_computation_of_its_losses(target: str) -> None:
    """Both critic targets, member by member in NumPy."""
    log = plant_log()
    cfg = tiny("spar-mlp", critic={"target": target, "expectile": 0.7}).critic
    acfg = tiny("spar-mlp").anchor
    rows = jax.tree.map(lambda x: x[:32], log.transitions(log.scaler()))
    state = critics.init(cfg, log.spec, jax.random.key(1))
    state = state._replace(target=jax.tree.map(lambda p: p * 1.1, state.target))
    pi = anchor.init(acfg, log.spec, jax.random.key(2))
    next_anchor = anchor.point(acfg, pi.params, rows.next_obs)
    new, metrics = critics.update(cfg, state, rows, next_anchor)

    def member(params, i, obs, action):
        net = critics.nets.Critic(cfg.hidden)
        return np.asarray(net.apply({"params": jax.tree.map(lambda p: p[i], params["params"]["members"])}, obs, action))

    def v(params, obs):
        return np.asarray(critics.nets.Value(cfg.hidden).apply(params, obs))

    if target == "in-sample":
        goal = np.mean([member(state.target, i, rows.obs, rows.action) for i in range(cfg.size)], 0)
        error = goal - v(state.value, rows.obs)
        assert metrics["value_loss"] == pytest.approx(np.mean(np.where(error < 0, 0.3, 0.7) * error**2), rel=1e-4)
        bootstrap = v(new.value, rows.next_obs)  # V first, then the critics against the new V
    else:
        bootstrap = np.mean([member(state.target, i, rows.next_obs, next_anchor) for i in range(cfg.size)], 0)
    y = np.asarray(rows.reward) + cfg.discount * (1 - np.asarray(rows.terminated)) * bootstrap
    losses = []
    for i in range(cfg.size):
        error = y - member(state.critic, i, rows.obs, rows.action)
        losses.append(np.mean(error**2 if target == "in-sample" else np.where(error < 0, 0.3, 0.7) * error**2))
    assert metrics["critic_loss"] == pytest.approx(np.sum(losses), rel=1e-4)
    for old, online, after in zip(*(jax.tree.leaves(t) for t in (state.target, new.critic, new.target)), strict=True):
        np.testing.assert_allclose(after, 0.995 * old + 0.005 * online, rtol=1e-4, atol=1e-6)


def test_subsets_are_as_disjoint_as_the_ensemble_allows() -> None:
    sets = np.asarray(critics.subsets(jax.random.key(0), 10, 4))
    assert sets.shape == (3, 4)
    assert all(len(set(row)) == 4 for row in sets)
    assert len(set(sets.ravel())) == 10  # every critic is used
    assert max(np.bincount(sets.ravel())) == 2
    assert len(set(np.asarray(critics.subsets(jax.random.key(0), 12, 4)).ravel())) == 12


def test_gaussian_anchor_learns_mean_and_scale() -> None:
    log = plant_log(3000)
    algo, cfg = get("spar-mlp"), tiny("spar-mlp", anchor={"kind": "gaussian", "hidden": (32, 32), "learning_rate": 3e-3})
    rows = log.transitions(log.scaler())
    snapshot = trainer.run(
        algo, cfg, rows, [0], [1500, 0], trainer.Settings(log_every=500), trainer.start(algo, cfg, log.spec, [0]), lambda chunk: None
    )
    params = jax.tree.map(lambda x: x[0], snapshot.state).anchor.params
    truth = np.clip(-0.5 * log.observations[log.obs_index][:, :2], -1, 1)
    error = np.asarray(anchor.point(cfg.anchor, params, rows.obs)) - truth
    assert np.sqrt((error**2).mean()) < 0.15
    assert np.exp(np.asarray(params["params"]["log_std"])) == pytest.approx(0.45, abs=0.1)
