"""The rows that train an algorithm."""

from __future__ import annotations

import numpy as np

from spar.data.episodes import HostRows, Log
from spar.runs.config import DataConfig
from spar.types import DataNeeds


def training_rows(log: Log, needs: DataNeeds, cfg: DataConfig) -> HostRows:
    """The rows that train, as the algorithm needs them and the configuration says; statistics are those of these rows alone."""
    log = log if needs.top_episodes >= 1 else log.best(needs.top_episodes)
    unit = 1.0
    if needs.reward == "return-range":
        unit = float(np.ptp(log.returns)) / 1000 if len(log.returns) else 0.0
    elif needs.reward == "max":
        unit = float(np.abs(log.rewards).max())
    scaler = log.scaler(cfg.standardise and needs.standardise)
    scale = needs.reward_scale / unit if unit > 0 else needs.reward_scale  # all returns equal: nothing to divide by
    return HostRows(log, scaler, scale, needs.reward_shift + cfg.reward_shift, needs.next_action)
