"""Who chooses the gate's candidate: python benchmarks/selection.py RUN [RUN ...] [--docs]

Finished runs with a generative residual, nothing retrained. One row for each number of candidates and each subset of critics that
chooses the best of them: `rectify`, which then also judges it, as the gate does, or one of the other two, which training used. Returns on
the start states of the run's final evaluation, their gain over the anchor with its 95 % interval, and how often the gate accepts.
`--docs` writes the table into docs/failures.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np
import page

import spar
from spar import ops
from spar.deploy import exports
from spar.deploy.policy import Policy
from spar.evaluate import stats
from spar.evaluate.rollout import Evaluator
from spar.method import critics, gate
from spar.runs import experiment, outcome
from spar.runs.checkpoint import last_state

HEADER = ("dataset", "candidates", "chosen by", "return", "by seed", "over the anchor, 95 % interval", "accepts")
TRIED: tuple[tuple[int, critics.Role], ...] = (
    (1, "rectify"),
    (3, "rectify"),
    (10, "rectify"),
    (10, "data"),
    (10, "guide"),
    (100, "rectify"),
)


def chooser(policy: Policy, choosing: Policy) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Algorithm 5 with the best candidate taken by the critics of `choosing`, and judged by those of `policy`."""

    def act(obs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        s = policy.scaler.obs_in(obs)
        base = policy.scaler.action_in(policy.anchor_action(obs))
        candidates = np.clip(base + policy._residuals(s, base), -1.0, 1.0)
        best = candidates[choosing.q_rob(s, candidates).argmax(0), np.arange(len(s))]
        accepted = gate.rectify(policy.gate, policy.q_rob(s, base), policy.q_rob(s, best)[None]).accepted
        return policy.scaler.action_out(np.where(accepted[:, None], best, base)), accepted

    return act


def rows(run: Path, runs: Sequence[Path]) -> list[list[str]]:
    cfg, summary = experiment.read_config(run), experiment.read_summary(run)
    assert cfg.env is not None, f"{run}: names no environment"
    log = spar.load_log(cfg.dataset)
    policies = [exports.load(run / "policy", seed) for seed in cfg.seeds]
    state, evaluator = last_state(run, cfg, log.spec, cfg.seeds), Evaluator(cfg.env, log.spec)
    found = []
    for count, role in TRIED:
        rolled = []
        for i, policy in enumerate(policies):
            own = critics.members(jax.tree.map(lambda leaf, i=i: leaf[i], state.critics), role)
            arrays = policy.arrays | {key: np.asarray(array) for key, array in ops.flatten({"critics": own}).items()}
            behind = policy.with_gate(candidates=count)
            behind.reset(outcome.FINAL_SEED)
            rolled.append(
                evaluator.run(chooser(behind, Policy(policy.description, arrays, policy.scaler)), cfg.episodes, outcome.FINAL_SEED)
            )
        returns = np.stack([one.returns for one in rolled])
        gain = stats.paired_gain(returns, np.asarray(summary["returns"]["anchor"]))
        by_seed = ", ".join(f"{mean:.0f}" for mean in returns.mean(1))
        accepts = f"{100 * np.mean([one.acceptance for one in rolled]):.0f} %"
        shown = f"{gain.mean:+.0f} [{gain.low:+.0f}, {gain.high:+.0f}]"
        found.append([cfg.dataset, str(count), role, f"{returns.mean():.0f}", by_seed, shown, accepts])
    evaluator.close()
    return found


if __name__ == "__main__":
    page.of_runs(__doc__, HEADER, rows, "failures.md", "selection")
