"""On a recorded log, before anything is armed: how often would the policy step in, by how much, and how fast does it answer?

python examples/shadow.py POLICY LOG
"""

from __future__ import annotations

import argparse
import time
from collections import Counter

import numpy as np

import spar


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("policy", help="a policy folder or a finished run")
    parser.add_argument("log", help="a log as `spar train` takes it: a table with its mapping, an HDF5 or NPZ file, or a dataset's name")
    parser.add_argument("--rows", type=int, default=500, help="logged states to replay")
    arguments = parser.parse_args()
    try:
        policy, log = spar.load_policy(arguments.policy), spar.load_log(arguments.log)
        policy.act(log.observations[0], anchor_action=log.actions[0])  # is it a log of the same plant?
    except spar.SparError as error:
        raise SystemExit(f"shadow.py: {error}") from None
    states, logged = log.observations[log.obs_index][: arguments.rows], log.actions[: arguments.rows]
    reasons: Counter[str] = Counter()
    seconds, changes = [], []
    for state, action in zip(states, logged, strict=True):
        began = time.perf_counter()
        decision = policy.act(state, anchor_action=action)  # the logged action stands for what your controller does now
        seconds.append(time.perf_counter() - began)
        reasons[decision.reason] += 1
        changes.append(np.abs(decision.action - action).max())
    for reason, count in reasons.most_common():
        print(f"{100 * count / len(states):5.1f} %  {reason}")
    print(f"largest change of an action: median {np.median(changes):.3f}, 95 % {np.quantile(changes, 0.95):.3f}")
    print(f"time to answer: median {1e6 * np.median(seconds):.0f} us, 99 % {1e6 * np.quantile(seconds, 0.99):.0f} us")


if __name__ == "__main__":
    main()
