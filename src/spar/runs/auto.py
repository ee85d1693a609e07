"""`--algo auto`: Stage I first, then the algorithm whose residual fits the shape of the logged ones (SPAR C.2.6).

    RUN/choice.json   asked, chosen, reasons, and under `seeds` the geometry that each seed's anchor leaves
    RUN/shared        the end of Stage I, with which the chosen algorithm begins; a comparison keeps it beside its runs
    RUN/stage-one     checkpoints of Stage I, gone once the choice is made

The outcome is that of the chosen algorithm asked for by its name, to the bit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from spar import files
from spar.data.episodes import Log
from spar.deploy.policy import Policy
from spar.diagnose import geometry
from spar.evaluate import offline
from spar.runs.config import AUTO, CHOICES, AutoConfig, RunConfig, algorithm
from spar.types import SparError

DOCUMENT, SHARED, STAGE_ONE = "choice.json", "shared", "stage-one"
CHOOSE_ANEW = "delete the file to choose anew"
ROBUST = "spar-proj"  # "a robust default because its generative residual model can represent both" (C.2.6)


def union(config_of: Callable[[str], Any]) -> AutoConfig:
    """The settings of all that `auto` may choose, from a function that gives those of one; what two have in common is the last one's."""
    return AutoConfig(**{f.name: getattr(own, f.name) for own in map(config_of, CHOICES) for f in dataclasses.fields(own)})


def resolve(cfg: RunConfig, chosen: str) -> RunConfig:
    """The run of the algorithm `chosen` that the run `cfg` of `auto` becomes."""
    kind = algorithm(chosen).config
    own = kind(**{f.name: getattr(cfg.config, f.name) for f in dataclasses.fields(kind)})
    return dataclasses.replace(cfg, algo=chosen, config=own)


def read(run: Path) -> dict[str, Any] | None:
    """What was chosen in the run directory `run`; None where nothing is yet. Raises SparError for a choice that there is not."""
    path = run / DOCUMENT
    if not path.is_file():
        return None
    choice = dict(files.read_json(path, CHOOSE_ANEW))
    if choice.get("chosen") not in CHOICES:
        raise SparError(f"{path}: 'chosen' is {choice.get('chosen')}; there are: {', '.join(CHOICES)}; {CHOOSE_ANEW}")
    return choice


def judge(policy: Policy, training: Log) -> tuple[dict[str, Any], geometry.Shape]:
    """The geometry of the logged residuals from the policy's anchor, JSON-able, with what it asks for and why; and the sample of it."""
    found, shape = geometry.measure(offline.residuals(policy, training), policy.scaler.action_in(training.actions))
    algo, reasons = geometry.recommend(found)
    return {**found._asdict(), "recommended": algo, "reasons": reasons}, shape


def agree(recommended: Sequence[str]) -> str:
    """What all seeds say, or the paper's robust default."""
    return recommended[0] if len(set(recommended)) == 1 else ROBUST


def conclude(seeds: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The content of choice.json, from what `judge` found for every seed: one algorithm for all of them."""
    recommended = [found["recommended"] for found in seeds.values()]
    chosen, (first, *others) = agree(recommended), seeds
    if len(set(recommended)) > 1:
        reasons = [f"seed {seed} asks for {found['recommended']}: {', '.join(found['reasons'])}" for seed, found in seeds.items()]
        reasons.append(f"the seeds differ, and {chosen} represents both shapes")
    else:
        reasons = list(seeds[first]["reasons"])
        if others:
            reasons.append(f"these are numbers of seed {first}, and {', '.join(others)} asked for the same")
    return {"asked": AUTO, "chosen": chosen, "reasons": reasons, "seeds": seeds}


def sentence(choice: dict[str, Any]) -> str:
    """What was chosen and why, as a reader of the terminal or of the report sees it."""
    return f"{choice['asked']} chose {choice['chosen']}: {'; '.join(choice['reasons'])}"
