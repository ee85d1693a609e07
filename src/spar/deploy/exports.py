"""A policy's folder, and what is asked of it before it may act.

policy/policy.json          schema version, sizes, thresholds, provenance, and the SHA-256 of the other file; readable by a person
policy/arrays.safetensors   networks and scalers of every seed, keys `seed-<n>/...`
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from spar import files
from spar.data.scalers import Scaler
from spar.deploy.actors import misfit, networks
from spar.deploy.policy import NOT_COMPUTED, Policy
from spar.types import SparError

SCHEMA = 1
JSON_NAME, ARRAYS_NAME, HASH = "policy.json", "arrays.safetensors", "arrays_sha256"
KEPT = ("kind", "actor", "anchor", "residual", "lambda_u", "latent_dim", "latent_bound", "flow_steps", "provenance")


def save(folder: Path, policies: dict[int, Policy], provenance: dict[str, Any]) -> None:
    """Write the policies of all seeds into the new folder `folder`, complete or not at all.

    Raises SparError when the folder exists, or when a policy holds a non-finite number.
    """
    arrays: dict[str, np.ndarray] = {}
    first = next(iter(policies.values()))
    for seed, policy in policies.items():
        every = {**policy.arrays, **{f"scaler/{name}": value for name, value in policy.scaler._asdict().items()}}
        arrays |= {f"seed-{seed}/{key}": np.ascontiguousarray(array, np.float32) for key, array in every.items()}
    per_seed = {str(seed): {"delta_rho": policy.description["delta_rho"]} for seed, policy in policies.items()}
    shared = {key: value for key, value in first.description.items() if key not in ("delta_rho", "gate")}
    document = {
        "schema": SCHEMA,
        "obs_dim": first.obs_dim,
        "act_dim": first.act_dim,
        "action_low": first.scaler.action_low.tolist(),
        "action_high": first.scaler.action_high.tolist(),
        "gate": {key: _to_json(value) for key, value in first.gate.__dict__.items()},
        **shared,
        "seeds": per_seed,
        "provenance": provenance,
    }
    with files.new_folder(folder) as temporary:
        files.write_arrays(temporary / ARRAYS_NAME, arrays)
        digest = hashlib.sha256((temporary / ARRAYS_NAME).read_bytes()).hexdigest()
        files.write_json(temporary / JSON_NAME, document | {HASH: digest})


def load(path: Path | str, seed: int | None = None) -> Policy:
    """The policy in `path` (a policy folder, or a run directory that has one), of `seed`, or of the first seed.

    Raises SparError when something is missing, of another schema version, of the wrong shape, or not finite.
    """
    folder = Path(path)
    folder = folder / "policy" if (folder / "policy" / JSON_NAME).is_file() else folder
    if not (folder / JSON_NAME).is_file():
        raise SparError(f"{path}: no {JSON_NAME} here; give a policy folder or a finished run directory")
    try:
        document = json.loads((folder / JSON_NAME).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise SparError(f"{folder / JSON_NAME}: not valid JSON ({error})") from None
    except OSError as error:
        raise SparError(f"{folder / JSON_NAME}: cannot be read ({error.strerror})") from None
    schema = document.get("schema") if isinstance(document, dict) else None
    if schema != SCHEMA or isinstance(schema, bool):
        raise SparError(f"{folder / JSON_NAME}: schema {schema}, this version reads {SCHEMA}")
    try:
        return _read(folder, document, seed)
    except (AttributeError, LookupError, TypeError, ValueError, ArithmeticError) as error:
        raise SparError(f"{folder / JSON_NAME}: not as `save` writes it ({type(error).__name__}: {error})") from None


def _read(folder: Path, document: dict[str, Any], seed: int | None) -> Policy:
    seeds: Sequence[str] = list(document["seeds"])
    chosen = (seeds[0] if seeds else "none") if seed is None else str(seed)
    if chosen not in seeds:
        raise SparError(f"{folder}: no seed {chosen}; there are {', '.join(seeds) or 'none'}")
    arrays = _arrays(folder, document, f"seed-{chosen}/")
    arrays.setdefault(f"scaler/{Scaler._fields[-1]}", arrays.get("scaler/obs_mean"))  # policies of the first versions lack it
    missing = [f"scaler/{name}" for name in Scaler._fields if arrays.get(f"scaler/{name}") is None]
    if missing:
        raise SparError(f"{folder / ARRAYS_NAME}: '{missing[0]}' of seed {chosen} is missing")
    scaler = Scaler(*(arrays.pop(f"scaler/{name}") for name in Scaler._fields))
    description = {key: document[key] for key in KEPT if key in document}
    description |= {"gate": {key: _from_json(value) for key, value in document["gate"].items()}, **document["seeds"][chosen]}
    policy = Policy(description, arrays, scaler)
    same = (policy.obs_dim, policy.act_dim) == (document["obs_dim"], document["act_dim"])
    for name in ("action_low", "action_high"):
        same = same and np.array_equal(getattr(scaler, name), np.asarray(document[name], np.float32))
    if not same:
        raise SparError(f"{folder}: sizes or bounds in {JSON_NAME} and {ARRAYS_NAME} disagree")
    _try(folder, policy)
    return policy


def _arrays(folder: Path, document: dict[str, Any], prefix: str) -> dict[str, Any]:
    """Those of one seed. Raises SparError where they cannot be read, or are not those that `document` was written with."""
    path = folder / ARRAYS_NAME
    try:
        content = path.read_bytes()
        arrays = safetensors.numpy.load(content)
    except OSError as error:
        raise SparError(f"{path}: cannot be read ({error.strerror})") from None
    except SafetensorError as error:
        raise SparError(f"{path}: cannot be read ({error})") from None
    if document.get(HASH, digest := hashlib.sha256(content).hexdigest()) != digest:
        raise SparError(f"{path}: is not the file that {JSON_NAME} was written with; both must come from one export")
    return {key.removeprefix(prefix): array for key, array in arrays.items() if key.startswith(prefix)}


def _try(folder: Path, policy: Policy) -> None:
    """Shapes of networks, then one call: what is missing, misshapen or not finite fails here, not on the plant."""
    place = folder / ARRAYS_NAME
    try:
        wanted = networks(policy.description, policy.arrays, policy.obs_dim, policy.act_dim).items()
        fault = next((fault for prefix, shape in wanted if (fault := misfit(policy.arrays, prefix, shape))), None)
        decision = None if fault else policy.act(policy.scaler.obs_typical)
    except (LookupError, ValueError) as error:
        raise SparError(f"{place}: networks do not fit together ({error})") from None
    if decision is None:
        raise SparError(f"{place}: networks do not fit together ({fault})")
    if decision.reason.endswith(NOT_COMPUTED):
        raise SparError(f"{place}: a network's output is not finite even at the log's mean observation; this policy cannot be used")
    policy.reset(0)


def _to_json(value: float) -> float | str:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _from_json(value: float | str) -> float:
    return float(value) if isinstance(value, str) else value
