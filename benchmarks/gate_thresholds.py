"""What the gate's relative threshold does to finished runs: python benchmarks/gate_thresholds.py RUN [RUN ...] [--docs]

Every seed's policy behind gates of other eta_rel, on the start states of the run's final evaluation; nothing is trained. *Critics
moved*: by which share of their mean value over the last fifth of Stage I, that of the seed where they moved most. `--docs` writes the
table into docs/failures.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import page

from spar.deploy import exports
from spar.evaluate import stats
from spar.evaluate.rollout import Evaluator
from spar.method import gate
from spar.runs import experiment, outcome
from spar.types import Spec

HEADER = (
    "dataset",
    "updates of Stage I",
    "target rate",
    "critics moved",
    "seeds",
    "eta_rel",
    "return",
    "95 % interval",
    "by seed",
    "accepts",
)
RELATIVE = (0.03, 0.01, 0.007, 0.005, 0.003, 0.001, 0.0)


def rows(run: Path, runs: Sequence[Path]) -> list[list[str]]:
    cfg = experiment.read_config(run)
    assert cfg.env is not None, f"{run}: names no environment"
    policies = [exports.load(run / "policy", seed) for seed in cfg.seeds]
    evaluator = Evaluator(cfg.env, Spec(policies[0].obs_dim, policies[0].act_dim))
    settings = [(f"{eta}", {"eta_rel": eta}) for eta in RELATIVE] + [("ungated", gate.UNGATED)]
    found = []
    drift = max(abs(share) for share in experiment.read_summary(run)["critics"]["drift"].values())
    trained = [cfg.dataset, f"{cfg.steps_anchor:,}", f"{cfg.config.critic.polyak:g}", f"{100 * drift:.1f} %"]
    for label, changes in settings:
        rolled = [outcome.roll(evaluator, policy.with_gate(**changes), cfg.episodes, outcome.FINAL_SEED) for policy in policies]
        mean, low, high = stats.bootstrap(np.stack([one.returns for one in rolled]))
        accepts = np.mean([one.acceptance for one in rolled])
        own = ", ".join(f"{one.returns.mean():.0f}" for one in rolled)
        seeds = ", ".join(map(str, cfg.seeds))
        found.append([*trained, seeds, label, f"{mean:.0f}", f"[{low:.0f}, {high:.0f}]", own, f"{100 * accepts:.0f} %"])
    evaluator.close()
    return found


if __name__ == "__main__":
    page.of_runs(__doc__, HEADER, rows, "failures.md", "gate")
