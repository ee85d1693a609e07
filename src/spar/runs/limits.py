"""Which numbers a run's settings may have: what lies outside trains nonsense, or ends in an error of some library much later."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

from spar.types import SparError

SEEDS = 2**32  # jax.random.key takes no more bits, so a larger seed would be a smaller one's twin
ANY = (-math.inf, math.inf)
AT_LEAST_ONE = ("steps_anchor", "steps_residual", "episodes", "batch_size", "log_every", "candidates", "hidden", "period", "flow_steps",
                "samples", "max_consecutive_errors", "online_steps", "latent_dim", "size", "subset", "acting_candidates")  # fmt: skip
POSITIVE = ("learning_rate", "clip_norm", "temperature", "clip", "max_weight", "eps")
NOT_NEGATIVE = (
    "lambda_u",
    "lambda_g",
    "lam",
    "kl_weight",
    "reconstruction_weight",
    "noise_clip",
    "policy_noise",
    "every",
    "alpha",
    "weight",
    "checkpoint_seconds",
)
WITHIN = {"discount": (0.0, 1.0), "dropout": (0.0, 1.0), "holdout": (0.0, 1.0)}  # the upper limit excluded
INSIDE = ("expectile",)  # between 0 and 1, both excluded
SHARES = ("polyak", "ema", "top_episodes")  # above 0, at most 1
UNBOUNDED = ("eta_abs", "eta_rel", "obs_margin", "clip", "floor")  # an infinity means something there


def check(cfg: Any) -> None:
    """Raises SparError at the first setting of the dataclass `cfg` that makes no sense, with its flag and what it may be."""
    for path, value in numbers(cfg):
        name = path.split(".")[-1]
        allowed = _allowed(name, value)
        if allowed:
            raise SparError(f"{path.removeprefix('config.').replace('_', '-')} is {value}; it must be {allowed}")


def numbers(cfg: Any, prefix: str = "") -> Iterator[tuple[str, float]]:
    """Every number in a dataclass, under its dotted name."""
    for field in dataclasses.fields(cfg):
        value, path = getattr(cfg, field.name), f"{prefix}{field.name}"
        if dataclasses.is_dataclass(value):
            yield from numbers(value, f"{path}.")
        else:
            found = value if isinstance(value, tuple) else (value,)
            yield from ((path, one) for one in found if isinstance(one, (int, float)) and not isinstance(one, bool))


def _allowed(name: str, value: float) -> str:
    """What a number of that name may be, where `value` is not; else nothing."""
    if math.isnan(value) or (math.isinf(value) and name not in UNBOUNDED):
        return "a finite number"
    low, high = WITHIN.get(name, ANY)
    rules = (
        (name == "seeds", 0 <= value < SEEDS, f"at least 0 and below 2^32 = {SEEDS}"),
        (name in AT_LEAST_ONE, value >= 1, "at least 1"),
        (name in POSITIVE, value > 0, "above 0"),
        (name in NOT_NEGATIVE, value >= 0, "at least 0"),
        (name in WITHIN, low <= value < high, f"at least {low:g} and below {high:g}"),
        (name in INSIDE, 0 < value < 1, "above 0 and below 1"),
        (name in SHARES, 0 < value <= 1, "above 0 and at most 1"),
    )
    return next((words for applies, fine, words in rules if applies and not fine), "")
