"""SPAR: improve a policy from logged data alone, by correcting a frozen anchor inside the data's support.

Importing the package is cheap: each name below loads what it needs when it is first used, and `load_policy` needs neither JAX nor a
simulator.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spar.api import Run, compare, configure, finetune, resume, resume_finetune, train
    from spar.data.catalog import load as load_log
    from spar.data.episodes import Log
    from spar.data.rows import from_rows
    from spar.deploy.exports import load as load_policy
    from spar.deploy.policy import Decision, Policy
    from spar.types import SparError

_HOME = {
    "Run": ("spar.api", "Run"),
    "compare": ("spar.api", "compare"),
    "configure": ("spar.api", "configure"),
    "finetune": ("spar.api", "finetune"),
    "resume_finetune": ("spar.api", "resume_finetune"),
    "resume": ("spar.api", "resume"),
    "train": ("spar.api", "train"),
    "load_log": ("spar.data.catalog", "load"),
    "Log": ("spar.data.episodes", "Log"),
    "from_rows": ("spar.data.rows", "from_rows"),
    "Decision": ("spar.deploy.policy", "Decision"),
    "Policy": ("spar.deploy.policy", "Policy"),
    "load_policy": ("spar.deploy.exports", "load"),
    "SparError": ("spar.types", "SparError"),
}
__all__ = [
    "Decision", "Log", "Policy", "Run", "SparError", "compare", "configure", "finetune", "from_rows", "load_log", "load_policy",
    "resume", "resume_finetune", "train",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'spar' has no attribute '{name}'")
    module, attribute = _HOME[name]
    return getattr(importlib.import_module(module), attribute)
