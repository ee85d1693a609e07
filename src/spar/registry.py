"""Every algorithm by its name. To add one: its file, and a line here."""

from __future__ import annotations

from spar.baselines import awac, bc, bcq, cql, iql, lapo, onestep, plas, spot, td3bc
from spar.method import spar
from spar.types import Algo, SparError

ALGOS: dict[str, Algo] = {
    "spar-mlp": spar.MLP,
    "spar-cvae": spar.CVAE,
    "spar-plas": spar.PLAS,
    "spar-proj": spar.PROJ,
    "spar-flow": spar.FLOW,
    "bc": bc.BC,
    "bc10": bc.BC10,
    "awac": awac.AWAC,
    "td3bc": td3bc.TD3BC,
    "cql": cql.CQL,
    "iql": iql.IQL,
    "onestep": onestep.ONESTEP,
    "bcq": bcq.BCQ,
    "plas": plas.PLAS,
    "lapo": lapo.LAPO,
    "spot": spot.SPOT,
}


def get(name: str) -> Algo:
    """Raises SparError for an unknown name."""
    if name not in ALGOS:
        raise SparError(f"no algorithm named '{name}'; there are: {', '.join(ALGOS)}, auto")
    return ALGOS[name]
