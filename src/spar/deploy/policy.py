"""A deployable policy: anchor, residual, critics and gate in one folder, or a policy without a gate, acting with NumPy alone.

    policy/policy.json          schema version, sizes, thresholds, provenance; readable by a person
    policy/arrays.safetensors   networks and scalers of every seed, keys `seed-<n>/...`

`act` never returns a non-finite or out-of-box action: whatever goes wrong, the answer is the anchor's action and the reason.
This is no safety guarantee for a plant: the gate compares learned predictions, and the anchor is as good as the log was.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from spar import files
from spar.data.scalers import Scaler
from spar.deploy.actors import ANCHORS, KINDS, TANH, integrate, mlp
from spar.method import gate
from spar.types import SparError

SCHEMA = 1
JSON_NAME, ARRAYS_NAME = "policy.json", "arrays.safetensors"

ACCEPTED = "residual accepted: predicted robust gain above both thresholds"
BELOW = "anchor: predicted gain below the thresholds"
BAD_SCORE = "anchor: a critic's score is not finite"
OUT_OF_RANGE = "anchor: observation outside the logged range"
NOT_FINITE = "anchor: observation not finite"
WRONG_SHAPE = "anchor: observation has the wrong shape"
NO_ANCHOR = "anchor: anchor_action is not finite, the clone's stands in"
REASONS = (ACCEPTED, BELOW, BAD_SCORE, OUT_OF_RANGE, NOT_FINITE, WRONG_SHAPE, NO_ANCHOR)

NO_GATE = "policy: no gate"
FALLBACK = "fallback: "  # instead of "anchor: ": your controller's action, or this policy's for the repaired observation
NO_GATE_REASONS = (NO_GATE, *(reason.replace("anchor: ", FALLBACK) for reason in REASONS[1:]))


class Decision(NamedTuple):
    """What `act` decided; for a batch of B every field has the leading axis B, for a single observation none.

    action: (act_dim,) in the user's units, finite, inside the box. accepted: True where the residual was applied.
    gain: predicted Q_rob(s, a) - Q_rob(s, a_base) of the best candidate, in units of return; -inf where nothing could be scored.
    support: |best candidate - a_base| in units of delta_0.05, the radius holding 95 % of the logged residuals (eq. 3); above 1 the
    correction is larger than nearly all that were logged. reason: one of REASONS.
    A policy without a gate is accepted, with gain and support 0, wherever the observation is usable; its reason is one of NO_GATE_REASONS.
    """

    action: np.ndarray
    accepted: Any
    gain: Any
    support: Any
    reason: Any


class Policy:
    """A loaded policy of one seed. `reset(seed)` reseeds the latents of generative residuals; until then they start from seed 0."""

    def __init__(
        self, description: dict[str, Any], arrays: dict[str, np.ndarray], scaler: Scaler, gate_cfg: gate.Config | None = None
    ) -> None:
        self.description, self.arrays, self.scaler = description, arrays, scaler
        self.gated = description.get("kind") != "actor"
        self.gate = gate_cfg or gate.Config(**description.get("gate", gate.UNGATED))
        fault = scaler.fault() or next((f"'{key}' holds non-finite numbers" for key, array in arrays.items() if not _finite(array)), None)
        if math.isnan(self.gate.obs_margin) or self.gate.obs_margin < 0:
            fault = f"gate.obs_margin is {self.gate.obs_margin}, not a number of at least 0"
        if self.gated and not _finite(description.get("delta_rho", 1.0)):
            fault = "'delta_rho' is not finite"
        if fault:
            raise SparError(f"policy: {fault}; this policy cannot be used")
        self.obs_dim, self.act_dim = len(scaler.obs_mean), len(scaler.action_low)
        self.reset(0)

    def reset(self, seed: int) -> None:
        """Restart the random latents of a generative residual from `seed`."""
        self._rng = np.random.default_rng(seed)

    def with_gate(self, **changes: float) -> Policy:
        """The same policy with other gate settings, for instance `**gate.ALWAYS_RESIDUAL`. One without a gate has only `obs_margin`, by
        default infinite: with 1, an observation far outside the logged range is moved to its edge before the network sees it."""
        if not self.gated:
            changes = {name: value for name, value in changes.items() if name == "obs_margin"}
            if not changes:
                return self
        settings = {**self.gate.__dict__, **changes}
        return Policy(self.description, self.arrays, self.scaler, gate.Config(**settings))

    def act(self, obs: np.ndarray, anchor_action: np.ndarray | None = None) -> Decision:
        """Algorithm 5. `obs`: (obs_dim,) or (B, obs_dim) in the user's units. `anchor_action`: same leading shape, or (act_dim,) beside one
        row; the action that your own controller would take. It then replaces the cloned anchor, as the fallback and as what the residual
        corrects. Where it is not finite, the clone's action is taken and nothing is corrected. Raises SparError when it has another
        shape."""
        with np.errstate(all="ignore"):
            return self._act(_array(obs), None if anchor_action is None else self._given(anchor_action))

    def _act(self, obs: np.ndarray, anchor_action: np.ndarray | None) -> Decision:
        fits = obs.ndim in (1, 2) and obs.shape[-1] == self.obs_dim and obs.dtype.kind in "fiub"
        # Observations of a wrong shape do not say how many actions are wanted; your controller's actions do.
        single = (obs.ndim != 2 and (fits or anchor_action is None)) or (anchor_action is not None and anchor_action.ndim == 1)
        count = 1 if single else len(obs if fits or anchor_action is None else anchor_action)
        rows = np.atleast_2d(obs).astype(np.float32) if fits else np.full((count, self.obs_dim), np.nan, np.float32)
        whole = np.isfinite(rows) & np.isfinite(self.scaler.obs_in(rows))  # so large that it cannot be standardised is as good as missing
        finite, in_range = whole.all(-1), ~self.scaler.out_of_range(rows, self.gate.obs_margin)
        # A fallback action must exist even for a broken sensor: missing values become the log's mean, far ones the edge of its range.
        repaired = np.clip(np.where(whole, rows, self.scaler.obs_typical), self.scaler.obs_low, self.scaler.obs_high)
        s = self.scaler.obs_in(np.where((finite & in_range)[:, None], rows, repaired))
        own = self._own(s)
        a_base, given = self._fallback(own, anchor_action)
        steady = given | (not self.gated)  # without a gate, anchor_action is a fallback alone

        best, verdict = self._rectify(s, a_base) if self.gated else (own, self._no_gate(own))
        accepted = verdict.accepted & finite & in_range & steady & np.isfinite(best).all(-1)
        support = np.linalg.norm(best - a_base, axis=-1) / self.description["delta_rho"] if self.gated else np.zeros(len(s))

        scored = np.isfinite(verdict.gain)
        reason = np.select([~np.full(len(s), fits), ~finite, ~in_range, ~steady, ~scored, ~accepted], [5, 4, 3, 6, 2, 1], 0)
        action = self.scaler.action_out(np.where(accepted[:, None], best, a_base))
        gain = np.where(finite & in_range & scored, verdict.gain, -np.inf)
        reasons = REASONS if self.gated else NO_GATE_REASONS
        decision = Decision(action, accepted, gain, support, np.array(reasons)[reason])
        if not single:
            return decision
        return Decision(action[0], bool(accepted[0]), float(gain[0]), float(support[0]), reasons[int(reason[0])])

    def _rectify(self, s: np.ndarray, a_base: np.ndarray) -> tuple[np.ndarray, gate.Verdict]:
        """The best candidate (B, A), and whether to take it."""
        candidates = np.clip(a_base + self._residuals(s, a_base), -1.0, 1.0)  # (K, B, A)
        q_anchor = self.q_rob(s, a_base)
        verdict = gate.rectify(self.gate, q_anchor, self.q_rob(s, candidates))
        scored = np.isfinite(q_anchor) & np.isfinite(verdict.gain)
        return candidates[verdict.best, np.arange(len(s))], verdict._replace(gain=np.where(scored, verdict.gain, -np.inf))

    @staticmethod
    def _no_gate(own: np.ndarray) -> gate.Verdict:
        return gate.Verdict(np.zeros(len(own), int), np.ones(len(own), bool), np.zeros(len(own)))

    def anchor_action(self, obs: np.ndarray) -> np.ndarray:
        """The cloned anchor's action alone, in the user's units: (B, obs_dim) -> (B, act_dim); without a gate, the policy's own."""
        return self.scaler.action_out(self._own(self.scaler.obs_in(obs)))

    def q_rob(self, s: np.ndarray, action: np.ndarray) -> np.ndarray:
        """Mean minus lambda_u std over the rectifying critics: standardised (B, obs_dim), (..., B, A) in [-1, 1] -> (..., B)."""
        inputs = np.concatenate([np.broadcast_to(s, (*action.shape[:-1], s.shape[-1])), action], -1).astype(np.float32)
        q = mlp(self.arrays, "critics/members/mlp", inputs.reshape(-1, inputs.shape[-1])).squeeze(-1)
        return (q.mean(0) - self.description["lambda_u"] * q.std(0)).reshape(action.shape[:-1])

    def _own(self, s: np.ndarray) -> np.ndarray:
        """The action without help, (B, A) in [-1, 1]: the cloned anchor's, or the policy's where there is no gate."""
        if self.gated:
            anchor = self.description.get("anchor", TANH)
            raw = ANCHORS[anchor["kind"]](anchor, self.arrays, s)
        else:
            settings = self.description["actor"]
            raw = KINDS[settings["kind"]](settings, self.arrays, s, self._rng)
        return np.clip(np.nan_to_num(raw), -1.0, 1.0)

    def _given(self, action: Any) -> np.ndarray:
        """Your controller's action, (act_dim,) or (B, act_dim). Raises SparError for anything else."""
        try:
            found = np.asarray(action, np.float32)
        except (TypeError, ValueError):
            raise SparError(f"anchor_action is not an array of numbers of shape ({self.act_dim},) or (B, {self.act_dim})") from None
        if found.ndim not in (1, 2) or found.shape[-1] != self.act_dim:
            raise SparError(f"anchor_action has shape {found.shape}, expected ({self.act_dim},) or (B, {self.act_dim})")
        return found

    def _fallback(self, own: np.ndarray, given: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """`given`, your controller's action, wherever it is usable, else `own`; and (B,) where what was given is usable."""
        if given is None:
            return own, np.ones(len(own), bool)
        given = np.atleast_2d(given)
        if given.shape != own.shape:
            raise SparError(f"anchor_action has shape {given.shape}, expected {own.shape}")
        usable = np.isfinite(given).all(-1)
        return np.where(usable[:, None], np.clip(self.scaler.action_in(given), -1.0, 1.0), own), usable

    def _residuals(self, s: np.ndarray, a_base: np.ndarray) -> np.ndarray:
        """(K, B, A) candidate residuals."""
        inputs, kind = np.concatenate([s, a_base], -1), self.description["residual"]
        if kind == "mlp":
            return mlp(self.arrays, "residual", inputs)[None]
        if kind == "flow":
            prior = self._rng.standard_normal((self.gate.candidates, *a_base.shape), dtype=np.float32)
            return integrate(self.arrays, "residual", inputs, prior, self.description["flow_steps"])
        if kind == "plas":
            z = (self.description["latent_bound"] * np.tanh(mlp(self.arrays, "actor", inputs)))[None]
        else:
            z = self._rng.standard_normal((self.gate.candidates, len(s), self.description["latent_dim"]), dtype=np.float32)
        wide = np.broadcast_to(inputs, (*z.shape[:-1], inputs.shape[-1]))
        return mlp(self.arrays, "decoder", np.concatenate([wide, z], -1))


def _finite(value: Any) -> bool:
    return bool(np.isfinite(value).all())


def _array(obs: Any) -> np.ndarray:
    """What was given as observation; rows of unequal length are no array, which is a wrong shape and not an exception."""
    try:
        return np.asarray(obs)
    except ValueError:
        return np.full((), np.nan)


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
        save_file(arrays, temporary / ARRAYS_NAME)
        files.write_json(temporary / JSON_NAME, document)


def load(path: Path | str, seed: int | None = None) -> Policy:
    """The policy in `path` (a policy folder, or a run directory that has one), of `seed`, or of the first seed.

    Raises SparError when something is missing, of another schema version, of the wrong shape, or not finite.
    """
    folder = Path(path)
    folder = folder / "policy" if (folder / "policy" / JSON_NAME).is_file() else folder
    if not (folder / JSON_NAME).is_file():
        raise SparError(f"{path}: no {JSON_NAME} here; give a policy folder or a finished run directory")
    try:
        document = json.loads((folder / JSON_NAME).read_text())
    except json.JSONDecodeError as error:
        raise SparError(f"{folder / JSON_NAME}: not valid JSON ({error})") from None
    schema = document.get("schema") if isinstance(document, dict) else None
    if schema != SCHEMA:
        raise SparError(f"{folder / JSON_NAME}: schema {schema}, this version reads {SCHEMA}")
    try:
        return _read(folder, document, seed)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise SparError(f"{folder / JSON_NAME}: not as `save` writes it ({type(error).__name__}: {error})") from None


def _read(folder: Path, document: dict[str, Any], seed: int | None) -> Policy:
    seeds: Sequence[str] = list(document["seeds"])
    chosen = seeds[0] if seed is None else str(seed)
    if chosen not in seeds:
        raise SparError(f"{folder}: no seed {seed}; there are {', '.join(seeds)}")
    prefix = f"seed-{chosen}/"
    try:
        with safe_open(str(folder / ARRAYS_NAME), framework="numpy") as file:
            arrays = {key.removeprefix(prefix): file.get_tensor(key) for key in file.keys() if key.startswith(prefix)}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise SparError(f"{folder / ARRAYS_NAME}: cannot be read ({error})") from None
    arrays.setdefault(f"scaler/{Scaler._fields[-1]}", arrays.get("scaler/obs_mean"))  # policies of the first versions lack it
    missing = [f"scaler/{name}" for name in Scaler._fields if arrays.get(f"scaler/{name}") is None]
    if missing:
        raise SparError(f"{folder / ARRAYS_NAME}: '{missing[0]}' of seed {chosen} is missing")
    scaler = Scaler(*(arrays.pop(f"scaler/{name}") for name in Scaler._fields))
    kept = ("kind", "actor", "anchor", "residual", "lambda_u", "latent_dim", "latent_bound", "flow_steps", "provenance")
    description = {key: document[key] for key in kept if key in document}
    description |= {"gate": {key: _from_json(value) for key, value in document["gate"].items()}, **document["seeds"][chosen]}
    policy = Policy(description, arrays, scaler)
    _check_shapes(folder, policy)
    if (policy.obs_dim, policy.act_dim) != (document["obs_dim"], document["act_dim"]):
        raise SparError(f"{folder}: sizes in {JSON_NAME} and {ARRAYS_NAME} disagree")
    return policy


def _check_shapes(folder: Path, policy: Policy) -> None:
    """One warm-up call: a missing or misshapen network fails here, not on the plant."""
    try:
        decision = policy.act(policy.scaler.obs_typical)
    except (KeyError, ValueError) as error:
        raise SparError(f"{folder / ARRAYS_NAME}: networks do not fit together ({error})") from None
    if decision.action.shape != (policy.act_dim,):
        raise SparError(f"{folder / ARRAYS_NAME}: the anchor has {decision.action.shape} outputs, need ({policy.act_dim},)")
    policy.reset(0)


def _to_json(value: float) -> float | str:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _from_json(value: float | str) -> float:
    return float(value) if isinstance(value, str) else value
