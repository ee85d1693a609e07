"""Every algorithm by its name. To add one: its file, and a line here."""

from __future__ import annotations

from spar.method import spar
from spar.types import Algo, SparError

ALGOS: dict[str, Algo] = {
    "spar-mlp": spar.MLP,
    "spar-cvae": spar.CVAE,
    "spar-plas": spar.PLAS,
    "spar-proj": spar.PROJ,
}


def get(name: str) -> Algo:
    """Raises SparError for an unknown name."""
    if name not in ALGOS:
        raise SparError(f"no algorithm named '{name}'; there are: {', '.join(ALGOS)}")
    return ALGOS[name]
