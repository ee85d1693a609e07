"""Columns whose values float32 cannot tell apart: seconds since 1970, map coordinates, counters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SHARE = 0.1  # of a column's standard deviation that neighbouring float32 numbers may be apart


@dataclass
class Coarse:
    """A column and how coarse float32 is there."""

    column: int
    value: float  # the largest magnitude
    step: float  # between float32 numbers there
    std: float


class Rounding:
    """Looks at blocks (n, D) of columns before they become float32; cells that are not finite are left out."""

    def __init__(self) -> None:
        self.first: np.ndarray | None = None  # what is subtracted from each column, so that squares keep their digits
        self.count = 0

    def add(self, block: np.ndarray) -> None:
        if len(block) == 0:
            return
        block = np.asarray(block, np.float64)
        if self.first is None:
            self.first = np.where(np.isfinite(block[0]), block[0], 0.0)
            self.largest, self.total, self.squares = np.zeros((3, block.shape[1]))
        finite = np.isfinite(block)
        with np.errstate(over="ignore", invalid="ignore"):
            moved = np.where(finite, block - self.first, 0.0)
            self.largest = np.maximum(self.largest, np.where(finite, np.abs(block), 0.0).max(0))
            self.total += moved.sum(0)
            self.squares += (moved**2).sum(0)
        self.count += len(block)

    def coarse(self) -> list[Coarse]:
        """The columns whose neighbouring float32 numbers are farther apart than SHARE of the standard deviation; not constant ones."""
        if self.first is None:
            return []
        with np.errstate(over="ignore", invalid="ignore"):
            std = np.sqrt(np.maximum(self.squares / self.count - (self.total / self.count) ** 2, 0.0))
            step = np.spacing(self.largest.astype(np.float32)).astype(np.float64)
            found = np.flatnonzero((std > 0) & (step > SHARE * std))
        return [Coarse(int(i), float(self.largest[i]), float(step[i]), float(std[i])) for i in found]


def note(names: Sequence[str], coarse: Coarse) -> str:
    """What to say of the columns `names`, of which `coarse` describes the first."""
    one = f"float32 numbers near {coarse.value:.6g} are {coarse.step:.3g} apart, its standard deviation is {coarse.std:.3g}"
    which = f"{names[0]} loses its last digits" if len(names) == 1 else f"{', '.join(names)} lose their last digits"
    return f"{which} ({one}{'' if len(names) == 1 else ' for the first'}): subtract a constant"
