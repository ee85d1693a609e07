"""The training curves behind a study's table, drawn from its result document: have they flattened?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import matplotlib.pyplot as plt

ENDING = "-curves.png"
MANY = 10  # more curves than this take the larger palette


def _drawn(document: dict[str, Any]) -> list[dict[str, Any]]:
    """The cells of trained policies that were evaluated on the way, one for each run."""
    found = {cell["run"]: cell for cell in document["cells"] if cell["run"] and cell["shows"] == "policy" and cell["curve"]}
    return list(found.values())


def has(document: dict[str, Any]) -> bool:
    return bool(_drawn(document))


def draw(document: dict[str, Any], path: Path) -> None:
    """A panel a task, a line a run: means of the evaluations during training, and the final one as a diamond."""
    from spar.studies import figures

    cells = _drawn(document)
    names = {cell["run"]: " ".join(filter(None, (cell["row"], cell["column"]))) for cell in cells}
    labels, tasks = list(dict.fromkeys(names.values())), list(dict.fromkeys(cell["task"] for cell in cells))
    colours = dict(zip(labels, _palette(len(labels)), strict=True))
    figure, drawn = figures.panels(len(tasks), 3.6, 2.9)
    for axes, task in zip(drawn, tasks, strict=True):
        own = [cell for cell in cells if cell["task"] == task]
        for cell in own:
            colour, label = colours[names[cell["run"]]], names[cell["run"]]
            points = np.asarray([[step, mean] for step, acted, mean, *_ in cell["curve"] if acted == "policy"]).reshape(-1, 2)
            axes.plot(*points.T, color=colour, linewidth=1.0, label=label)
            axes.plot(sum(document["steps"].values()), cell["value"]["mean"], color=colour, marker="D", markersize=4, linestyle="none")
        axes.set_title(task, fontsize=9)
        axes.set_xlabel("updates", fontsize=8)
        axes.set_ylabel("normalised return" if own[0]["reference"] else "return", fontsize=8)
        axes.plot([], [], color="black", marker="D", markersize=4, linestyle="none", label="final evaluation")
        axes.xaxis.set_major_formatter(figures.thousands)
        axes.tick_params(labelsize=8)
        figures.clean(axes)
    figures.legend_below(figure, drawn)
    save(figure, path)


def save(figure: plt.Figure, path: Path) -> None:
    """Whole or not at all, and the same bytes for the same picture."""
    import matplotlib.pyplot as plt

    temporary = path.with_name(f".{path.name}.tmp.png")
    figure.savefig(temporary, dpi=110, bbox_inches="tight", metadata={"Software": None})
    plt.close(figure)
    temporary.replace(path)


def _palette(count: int) -> list[Any]:
    import matplotlib.pyplot as plt

    return [plt.get_cmap("tab20" if count > MANY else "tab10")(i % 20) for i in range(count)]
