"""A deployable policy: anchor, residual, critics and gate, or a policy without a gate, acting with NumPy alone.

`act` never returns a non-finite or out-of-box action: whatever goes wrong, the answer is the anchor's action and the reason.
This is no safety guarantee for a plant: the gate compares learned predictions, and the anchor is as good as the log was.
"""

from __future__ import annotations

import copy
import math
from typing import Any, NamedTuple

import numpy as np

from spar.data.scalers import Scaler
from spar.deploy.actors import ANCHORS, KINDS, TANH, integrate, mlp
from spar.method import gate
from spar.types import SparError

ACCEPTED = "residual accepted: predicted robust gain above both thresholds"
BELOW = "anchor: predicted gain below the thresholds"
NOT_COMPUTED = "a network's output is not finite"
BAD_SCORE = f"anchor: {NOT_COMPUTED}"
OUT_OF_RANGE = "anchor: observation outside the logged range"
NOT_FINITE = "anchor: observation not finite"
WRONG_SHAPE = "anchor: observation has the wrong shape"
NO_ANCHOR = "anchor: anchor_action is not finite, the clone's stands in"
REASONS = (ACCEPTED, BELOW, BAD_SCORE, OUT_OF_RANGE, NOT_FINITE, WRONG_SHAPE, NO_ANCHOR)

NO_GATE = "policy: no gate"
FALLBACK = "fallback: "  # instead of "anchor: ": your controller's action, or this policy's for the repaired observation
NO_GATE_REASONS = (NO_GATE, *(reason.replace("anchor: ", FALLBACK) for reason in REASONS[1:]))


MANY = 100_000  # candidates, integration steps: more would be a mistake


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
        fault = fault or _fault(description, self.gate)
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
        other = Policy(self.description, self.arrays, self.scaler, gate.Config(**settings))
        other._rng = copy.deepcopy(self._rng)
        return other

    def act(self, obs: Any, anchor_action: Any = None) -> Decision:
        """Algorithm 5. `obs`: (obs_dim,) or (B, obs_dim) in the user's units, an array or lists; what is None or masked is missing.
        `anchor_action`: same leading shape, or (act_dim,) beside one row; the action that your own controller would take. It then replaces
        the cloned anchor, as the fallback and as what the residual corrects. Where it is not finite, the clone's action is taken and
        nothing is corrected. Raises SparError when it has another shape, or is no array of numbers."""
        with np.errstate(all="ignore"):
            found = _numbers(obs)
            return self._act(np.full((), np.nan) if found is None else found, None if anchor_action is None else self._given(anchor_action))

    def _act(self, obs: np.ndarray, anchor_action: np.ndarray | None) -> Decision:
        fits = obs.ndim in (1, 2) and obs.shape[-1] == self.obs_dim
        # Observations of a wrong shape do not say how many actions are wanted; your controller's actions do.
        single = (obs.ndim != 2 and (fits or anchor_action is None)) or (anchor_action is not None and anchor_action.ndim == 1)
        count = 1 if single else len(obs if fits or anchor_action is None else anchor_action)
        rows = np.atleast_2d(obs).astype(np.float32) if fits else np.full((count, self.obs_dim), np.nan, np.float32)
        whole = np.isfinite(rows) & np.isfinite(self.scaler.obs_in(rows))  # so large that it cannot be standardised is as good as missing
        finite, in_range = whole.all(-1), ~self.scaler.out_of_range(rows, self.gate.obs_margin)
        # A fallback action must exist even for a broken sensor: missing values become the log's mean, far ones the edge of its range.
        repaired = np.clip(np.where(whole, rows, self.scaler.obs_typical), self.scaler.obs_low, self.scaler.obs_high)
        s = self.scaler.obs_in(np.where((finite & in_range)[:, None], rows, repaired))
        own, sound = self._own(s)
        a_base, yours = self._fallback(own, anchor_action)
        steady = yours | (anchor_action is None) | (not self.gated)  # without a gate, anchor_action is a fallback alone

        best, verdict = self._rectify(s, a_base) if self.gated else (own, self._no_gate(own))
        scored = np.isfinite(verdict.gain) & (sound | (yours & self.gated))
        accepted = verdict.accepted & finite & in_range & steady & scored & np.isfinite(best).all(-1)
        support = np.linalg.norm(best - a_base, axis=-1) / self.description["delta_rho"] if self.gated else np.zeros(len(s))

        reason = np.select([~np.full(len(s), fits), ~finite, ~in_range, ~steady, ~scored, ~accepted], [5, 4, 3, 6, 2, 1], 0)
        action = self.scaler.action_out(np.where(accepted[:, None], best, a_base))
        if anchor_action is not None:  # as you gave it, not through [-1, 1] and back
            action = np.where((yours & ~accepted)[:, None], self._clipped(anchor_action), action)
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
        return self.scaler.action_out(self._own(self.scaler.obs_in(obs))[0])

    def q_rob(self, s: np.ndarray, action: np.ndarray) -> np.ndarray:
        """Mean minus lambda_u std over the rectifying critics: standardised (B, obs_dim), (..., B, A) in [-1, 1] -> (..., B)."""
        inputs = np.concatenate([np.broadcast_to(s, (*action.shape[:-1], s.shape[-1])), action], -1).astype(np.float32)
        q = mlp(self.arrays, "critics/members/mlp", inputs.reshape(-1, inputs.shape[-1])).squeeze(-1)
        return (q.mean(0) - self.description["lambda_u"] * q.std(0)).reshape(action.shape[:-1])

    def _own(self, s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The action without help, (B, A) in [-1, 1]: the cloned anchor's, or the policy's where there is no gate; and (B,) where that is
        what the network says, and not the middle of the box in place of what is not finite."""
        if self.gated:
            anchor = self.description.get("anchor", TANH)
            raw = ANCHORS[anchor["kind"]](anchor, self.arrays, s)
        else:
            settings = self.description["actor"]
            raw = KINDS[settings["kind"]](settings, self.arrays, s, self._rng)
        sound = np.asarray(np.isfinite(raw).all(-1))
        return np.where(sound[:, None], np.clip(raw, -1.0, 1.0), np.float32(0.0)), sound

    def _given(self, action: Any) -> np.ndarray:
        """Your controller's action, (act_dim,) or (B, act_dim), as float64. Raises SparError for anything else."""
        found = _numbers(action)
        if found is None:
            raise SparError(f"anchor_action is not an array of numbers of shape ({self.act_dim},) or (B, {self.act_dim})")
        if found.ndim not in (1, 2) or found.shape[-1] != self.act_dim:
            raise SparError(f"anchor_action has shape {found.shape}, expected ({self.act_dim},) or (B, {self.act_dim})")
        return found

    def _fallback(self, own: np.ndarray, given: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """`given`, your controller's action, scaled to [-1, 1], wherever it is usable, else `own`; and (B,) where it is."""
        if given is None:
            return own, np.zeros(len(own), bool)
        given = np.atleast_2d(given)
        if given.shape != own.shape:
            raise SparError(f"anchor_action has shape {given.shape}, expected {own.shape}")
        usable = np.isfinite(given).all(-1)
        return np.where(usable[:, None], np.clip(self.scaler.action_in(self._clipped(given)), -1.0, 1.0), own), usable

    def _clipped(self, given: np.ndarray) -> np.ndarray:
        """Inside your bounds, (B, act_dim) float32."""
        return np.clip(np.atleast_2d(given), self.scaler.action_low, self.scaler.action_high).astype(np.float32)

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


def _fault(description: dict[str, Any], cfg: gate.Config) -> str | None:
    """What makes settings unusable, if anything."""
    asked = {
        "gate.obs_margin": (cfg.obs_margin, cfg.obs_margin >= 0, "a number of at least 0"),
        "gate.eta_abs": (cfg.eta_abs, not math.isnan(cfg.eta_abs), "a number"),
        "gate.eta_rel": (cfg.eta_rel, not math.isnan(cfg.eta_rel), "a number"),
        "gate.eps": (cfg.eps, 0 <= cfg.eps < math.inf, "a finite number of at least 0"),
        "gate.candidates": (
            cfg.candidates,
            _countable(cfg.candidates),
            f"from 1 to {MANY}",
        ),
    }
    if description.get("kind") != "actor":
        radius, penalty = description.get("delta_rho", 1.0), description.get("lambda_u", 0.0)
        asked["delta_rho"] = (radius, 0 < radius < math.inf, "a finite number above 0")
        asked["lambda_u"] = (penalty, math.isfinite(penalty), "a finite number")
    counts = {**description, **description.get("actor", {}), **description.get("anchor", {})}
    for name in ("flow_steps", "latent_dim", "candidates"):
        count = counts.get(name, 1)
        asked[name] = (count, _countable(count), f"from 1 to {MANY}")
    return next((f"{name} is {value}, not {what}" for name, (value, fine, what) in asked.items() if not fine), None)


def _countable(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and bool(1 <= value <= MANY)


def _finite(value: Any) -> bool:
    return bool(np.isfinite(value).all())


def _numbers(value: Any) -> np.ndarray | None:
    """As an array of real numbers; what is None or masked is NaN. None for what is no such array, whatever it raises when asked."""
    try:
        found = np.asarray(value)
        if found.dtype.kind == "O":  # an array of anything: None among numbers is a reading that is missing, text is no number
            if any(isinstance(one, (str, bytes)) for one in found.flat):
                return None
            found = np.reshape([math.nan if one is None else float(one) for one in found.flat], found.shape)
        if found.dtype.kind not in "fiub":
            return None
        return np.where(np.ma.getmaskarray(value), np.nan, found) if isinstance(value, np.ma.MaskedArray) else found.astype(np.float64)
    except Exception:  # noqa: BLE001 (a stranger's array may raise anything, which is a reading of no shape)
        return None
