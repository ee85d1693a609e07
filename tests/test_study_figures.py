"""Pictures of the studies, of real runs, by the data that their artists hold."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_rgba

from spar.data.episodes import Log
from spar.studies import figures, measure
from tests.conftest import plant_log
from tests.test_finetune import pendulum_log
from tests.test_study_measures import ANCHOR_STEPS, train


@pytest.fixture(scope="module")
def pendulum(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Log]:
    log = pendulum_log()
    return train(tmp_path_factory.mktemp("runs") / "pendulum", log, "spar-mlp", (0, 3)), log


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Log]:
    log = plant_log()
    return train(tmp_path_factory.mktemp("runs") / "plant", log, "spar-cvae", (0,)), log


def drawn(figure: plt.Figure) -> list[plt.Axes]:
    """The panels in use."""
    figure.canvas.draw()
    return [axes for axes in figure.axes if axes.axison]


def offsets(axes: plt.Axes, number: int = 0) -> np.ndarray:
    return np.asarray(axes.collections[number].get_offsets())


def test_picture_of_the_residuals(plant: tuple[Path, Log]) -> None:
    document, arrays = measure.residual_distribution(*plant, samples=60)
    figure = figures.plot_residual_distribution({"Plant": document, "Other": document}, {"Plant": arrays, "Other": arrays})
    panels = [axes for axes in drawn(figure) if "Plant" in axes.get_title()]
    assert [axes.get_title() for axes in panels] == ["Plant: logged", "Plant: residual policy"]
    for axes, name in zip(panels, ("logged", "policy"), strict=True):
        order = np.argsort(arrays[f"{name}_q"], kind="stable")
        np.testing.assert_allclose(offsets(axes), arrays[name][order])
        np.testing.assert_allclose(np.asarray(axes.collections[0].get_array()), arrays[f"{name}_q"][order])
        np.testing.assert_allclose(offsets(axes, 1), arrays["anchor"])
    assert panels[0].get_xlim() == panels[1].get_xlim() and panels[0].collections[0].get_clim() == panels[1].collections[0].get_clim()
    pairs = measure.residual_distribution(*plant, samples=20, space="state-action")
    wide = figures.plot_residual_distribution({"Plant": pairs[0]}, {"Plant": pairs[1]})
    assert [axes.get_title() for axes in drawn(wide) if axes.get_title()] == ["Plant: logged", "Plant: residual policy", "Plant: anchor"]
    plt.close("all")


def test_picture_of_the_support(plant: tuple[Path, Log]) -> None:
    document, arrays = measure.action_support(*plant, states=100)
    keys = [figures.key("Plant", "one"), figures.key("Plant", "two")]
    figure = figures.plot_action_support(dict.fromkeys(keys, document), dict.fromkeys(keys, arrays))
    left, right = drawn(figure)
    lines = {line.get_label(): np.asarray(line.get_xydata()) for line in left.lines}
    wanted = {
        "logged": "logged",
        "anchor": "anchor",
        "one": "policy",
        "one, ungated": "ungated",
        "two": "policy",
        "two, ungated": "ungated",
    }
    assert set(lines) == set(wanted)
    for label, name in wanted.items():
        corners = arrays[f"{name}_boundary"]
        np.testing.assert_allclose(lines[label], np.concatenate([corners, corners[:1]]))
    np.testing.assert_allclose(offsets(left), arrays["logged"])
    ratio = document["seeds"]["0"]["ratio"]
    widths = [bar.get_width() for bar in right.patches]
    assert widths == pytest.approx([ratio["anchor"], ratio["ungated"], ratio["policy"], ratio["ungated"], ratio["policy"]])
    assert [text.get_text() for text in right.get_yticklabels()] == ["anchor", "one, ungated", "one", "two, ungated", "two"]
    plt.close("all")


def test_picture_of_the_spaces(plant: tuple[Path, Log], pendulum: tuple[Path, Log]) -> None:
    found = {"Plant": measure.action_space(*plant), "Pendulum": measure.action_space(*pendulum)}
    figure = figures.plot_action_space(*({task: pair[i] for task, pair in found.items()} for i in (0, 1)))
    panels = drawn(figure)
    assert len(panels) == 2
    for axes, (document, arrays) in zip(panels, found.values(), strict=True):
        first = document["seeds"]["0"]
        marks = [line.get_xdata()[0] for line in axes.lines]
        assert marks == [first["global_diameter"], first["residual_diameter"]]
        outlines = [patch for patch in axes.patches if patch.get_label().startswith(("global", "residual"))]
        for outline, values, colour in zip(outlines, arrays.values(), (figures.GLOBAL, figures.RESIDUAL), strict=True):
            top = max(values.max() for values in arrays.values())
            density, edges = np.histogram(values, bins=50, range=(0, top), density=True)
            heights = outline.get_xy()[1:-1:2, 1]
            np.testing.assert_allclose(heights[:50], density, rtol=1e-4, atol=1e-9)  # edges are rounded to float32
            assert outline.get_edgecolor() == to_rgba(colour) and (density * np.diff(edges)).sum() == pytest.approx(1)
        assert f"10^{first['log10_efficiency']:.1f}" in axes.get_title()
    plt.close("all")


def test_picture_of_the_training(pendulum: tuple[Path, Log]) -> None:
    document, _ = measure.training_curves(*pendulum)
    better = {**document, "points": [{**p, "mean": p["mean"] + (p["variant"] == "policy")} for p in document["points"]]}
    keys = [figures.key("Pendulum"), figures.key("Other", "one"), figures.key("Other", "two")]
    figure = figures.plot_training_curves(dict(zip(keys, (document, document, better), strict=True)), {})
    one, two = drawn(figure)
    lines = {line.get_label(): line for line in one.lines}
    for label, variant in (("anchor during Stage I", "anchor"), ("spar-mlp", "policy")):
        points = [(point["step"], point["mean"]) for point in document["points"] if point["variant"] == variant]
        np.testing.assert_allclose(lines[label].get_xydata(), points)
    assert lines["Stage I ends"].get_xdata()[0] == ANCHOR_STEPS
    assert lines["anchor, final evaluation"].get_ydata()[0] == document["anchor"]["mean"]
    last = next(line for line in one.lines if line.get_marker() == "D" and len(line.get_xdata()))
    assert last.get_xydata().tolist() == [[document["steps"], document["final"]["mean"]]]
    shifted = {line.get_label(): line for line in two.lines}
    np.testing.assert_allclose(shifted["two"].get_ydata(), np.asarray(shifted["one"].get_ydata()) + 1)
    assert shifted["one"].get_color() != shifted["two"].get_color()
    policy, anchor = (c.get_paths()[0].vertices for c in one.collections if len(c.get_facecolor()))
    for band, variant in ((policy, "policy"), (anchor, "anchor")):
        points = [point for point in document["points"] if point["variant"] == variant]
        assert band[:, 1].min() == pytest.approx(min(p["low"] for p in points))
        assert band[:, 1].max() == pytest.approx(max(p["high"] for p in points))
    assert sum(line.get_label() == "anchor during Stage I" for line in two.lines) == 1, "the same anchor twice"
    plt.close("all")
