"""Scores, intervals and roll-outs against independent computations."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from scipy import stats as scipy_stats

from spar.evaluate import rollout, scores, stats
from spar.evaluate.environments import EnvConfig
from spar.studies import claims
from spar.types import SparError, Spec


def test_normalised_scores() -> None:
    assert scores.normalise("Hopper-v5", np.array(3234.3)) == pytest.approx(100)
    assert scores.normalise("Hopper-v4", np.array(-20.272305)) == pytest.approx(0)
    np.testing.assert_allclose(scores.normalise("HalfCheetah-v5", np.array([12135.0, -280.178953])), [100, 0])
    assert scores.normalise("AntMaze_UMaze-v4", np.array(0.76)) == pytest.approx(76)
    assert scores.normalise("AntMaze_Large_Diverse_GR-v4", np.array(1.0)) == pytest.approx(100)
    assert scores.normalise("AdroitHandPen-v1", np.array(3076.8331017826877)) == pytest.approx(100)
    assert scores.normalise("Pendulum-v1", np.array(1.0)) is None
    assert scores.normalise(None, np.array(1.0)) is None


def test_one_level_bootstrap_agrees_with_scipy() -> None:
    values = np.random.default_rng(0).exponential(size=50)
    ours = stats.bootstrap(values)
    theirs = scipy_stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=10_000, rng=np.random.default_rng(1)
    ).confidence_interval
    assert ours.mean == pytest.approx(values.mean())
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.03)


def test_two_level_bootstrap_sees_the_spread_between_seeds() -> None:
    seeds = np.array([0.0, 10.0, 20.0])[:, None] + np.random.default_rng(0).normal(size=(3, 100))
    wide, narrow = stats.bootstrap(seeds), stats.bootstrap(seeds.ravel())
    assert wide.high - wide.low > 3 * (narrow.high - narrow.low)


def test_start_states_that_all_seeds_share_count_once() -> None:
    """Where returns depend on the start state alone, three seeds say no more than one: the standard error is that of E start states."""
    start = np.random.default_rng(0).normal(size=60)
    table = np.tile(start, (3, 1))
    expected = 1.96 * start.std() / np.sqrt(60)
    for found in (stats.bootstrap(table), stats.bootstrap(table[:1]), claims.joint([table, np.zeros_like(table)], claims.difference)[0]):
        assert (found.high - found.low) / 2 == pytest.approx(expected, rel=0.1)
    better = stats.probability_of_improvement(table + 1e-3, table)  # each episode against all: close to even, whatever the start states are
    assert better.low > 0.5


def test_paired_gain_removes_what_start_states_share() -> None:
    rng = np.random.default_rng(0)
    hard = rng.normal(scale=100, size=(1, 30))
    gain = stats.paired_gain(hard + 5 + rng.normal(size=(1, 30)), hard)
    assert gain.low > 4 and gain.high < 6


def test_a_gain_of_few_seeds_has_the_wider_of_two_intervals() -> None:
    """Three gains above 0, so every resample is, and yet Student's t leaves the sign open; of one seed its start states speak."""
    episodes = np.random.default_rng(0).normal(size=(3, 200))
    policy = episodes + np.array([[525.0], [1227.0], [1635.0]])
    gain = stats.paired_gain(policy, np.zeros_like(policy))
    half, _ = stats.student(policy.mean(1), float(policy.mean()))
    assert (gain.low, gain.high) == pytest.approx((gain.mean - half, gain.mean + half)) and gain.low < 0 < stats.bootstrap(policy).low
    one, few = stats.paired_gain(policy[:1], np.zeros((1, 200))), stats.paired_gain(policy[:1, :10], np.zeros((1, 10)))
    bounds = scipy_stats.t.interval(0.95, 9, policy[0, :10].mean(), scipy_stats.sem(policy[0, :10]))
    assert (few.low, few.high) == pytest.approx(bounds) and one.high - one.low < few.high - few.low


SHAPES = [(3, 10), (6, 10), (10, 3)]


@pytest.mark.parametrize(
    ("seeds", "starts", "scatters"),
    [(1, 10, "starts"), *((*shape, scatters) for shape in SHAPES for scatters in ("seeds", "starts", "both"))],
)
def test_an_interval_covers_what_it_should_whatever_scatters(seeds: int, starts: int, scatters: str) -> None:
    """0 is the truth; 95 in a hundred is what is promised, 92 what four hundred trials must show."""
    rng, hits, trials = np.random.default_rng(0), 0, 400
    for _ in range(trials):
        table = 0.3 * rng.normal(size=(seeds, starts))
        table += rng.normal(size=(seeds, 1)) if scatters != "starts" else 0.0
        table += rng.normal(size=(1, starts)) if scatters != "seeds" else 0.0
        half, _ = stats.student(table.mean(1), float(table.mean()), starts=table.mean(0))
        hits += abs(table.mean()) < half
    assert hits > 0.92 * trials


def test_lockstep_roll_outs_equal_one_environment_at_a_time() -> None:
    """A linear controller in Hopper: lengths and returns of a plain gymnasium loop, to the last bit."""
    weights = np.random.default_rng(0).normal(scale=0.3, size=(11, 3))

    def act(obs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        action = np.stack([np.tanh(row @ weights) for row in obs])
        return action, action[:, 0] > 0

    evaluator = rollout.Evaluator(EnvConfig("Hopper-v5"), Spec(11, 3))
    result = evaluator.run(act, 4, seed=100)
    again = evaluator.run(act, 4, seed=100)
    np.testing.assert_array_equal(result.returns, again.returns)
    evaluator.close()
    env, taken = gymnasium.make("Hopper-v5"), 0
    for i in range(4):
        obs, total, length, over = env.reset(seed=100 + i)[0], 0.0, 0, False
        while not over:
            action, accepted = act(obs[None])
            obs, reward, terminated, truncated, _ = env.step(action[0])
            total, length, over = total + float(reward), length + 1, terminated or truncated
            taken += int(accepted[0])
        assert (result.returns[i], result.lengths[i]) == (total, length)
    assert result.acceptance == pytest.approx(taken / result.lengths.sum())
    assert len(set(result.lengths)) > 1  # episodes did end at different times


def test_dict_observations_are_joined_in_the_order_of_the_log() -> None:
    """PointMaze: all parts alphabetically by default, as gymnasium's FlattenObservation joins them; or those that the log names."""
    env, plain = EnvConfig("PointMaze_UMaze-v3").make(), gymnasium.make("PointMaze_UMaze-v3")
    flat, parts = env.reset(seed=3)[0], plain.reset(seed=3)[0]
    np.testing.assert_array_equal(flat, gymnasium.wrappers.FlattenObservation(plain).reset(seed=3)[0])
    np.testing.assert_array_equal(flat, np.concatenate([parts["achieved_goal"], parts["desired_goal"], parts["observation"]]))
    chosen = EnvConfig("PointMaze_UMaze-v3", observation_keys=("observation", "achieved_goal")).make().reset(seed=3)[0]
    np.testing.assert_array_equal(chosen, np.concatenate([parts["observation"], parts["achieved_goal"]]))
    with pytest.raises(SparError, match="no part 'velocity'"):
        EnvConfig("PointMaze_UMaze-v3", observation_keys=("velocity",)).make()


def test_a_score_of_another_task_is_none() -> None:
    """PointMaze's reference is of one goal; gymnasium's own environment draws another in every episode."""
    fixed = EnvConfig("PointMaze_UMaze-v3", '{"maze_map": [[1, "g", 1]]}')
    assert scores.reference(fixed.task) is not None
    assert scores.reference(EnvConfig("PointMaze_UMaze-v3").task) is None
    assert EnvConfig("Hopper-v5").task == "Hopper-v5"


def test_environments_are_evaluated_as_d4rl_does() -> None:
    """Reaching the goal ends an AntMaze episode, so that its return is its success; a pen episode has 100 steps."""
    assert EnvConfig("AntMaze_UMaze-v4").make().unwrapped.continuing_task is False
    pen = EnvConfig("AdroitHandPen-v1").make()
    pen.reset(seed=0)
    cuts = [pen.step(pen.action_space.sample())[3] for _ in range(100)]
    assert cuts == [False] * 99 + [True]
    given = EnvConfig("Hopper-v5", kwargs='{"max_episode_steps": 7, "reset_noise_scale": 0.0}').make()
    assert given.spec.max_episode_steps == 7
    with pytest.raises(SparError, match="not JSON"):
        EnvConfig("Hopper-v5", kwargs="{7").make()


def test_scores_of_tasks_without_a_reference_use_what_was_measured_here() -> None:
    random, expert = scores.reference("PointMaze_UMaze-v3")
    assert expert > random
    assert scores.normalise("PointMaze_UMaze-v3", np.array(expert)) == pytest.approx(100)


def test_unfit_environments_are_refused() -> None:
    with pytest.raises(SparError, match=r"observations \(17,\)"):
        rollout.Evaluator(EnvConfig("HalfCheetah-v5"), Spec(11, 3))
    with pytest.raises(SparError, match="is not known to gymnasium"):
        rollout.Evaluator(EnvConfig("NoSuchTask-v0"), Spec(11, 3))
