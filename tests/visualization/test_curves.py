"""Training curves: panels, best points, damaged and empty histories, and no global state of matplotlib."""

import math
import sys

import numpy as np
import pytest
from PIL import Image

from jaxvision.engine.writers import JsonlWriter, read_records
from jaxvision.visualization import palette
from jaxvision.visualization.canvas import render
from jaxvision.visualization.curves import best_point, curves_figure, plot_curves


def record(step, kind="train", **values):
    return {"step": step, "epoch": step / 10, "kind": kind, "time": 0.0, "values": values}


def history():
    train = [record(s, loss=2.0 / s, top1=s / 60, learning_rate=0.1) for s in range(1, 51)]
    evaluation = [record(s, "eval", loss=abs(s - 30) / 30, top1=1 - abs(s - 40) / 60) for s in range(10, 51, 10)]
    return train + evaluation


def test_one_panel_per_metric_with_training_and_evaluation_in_it():
    figure = curves_figure(history())
    panels = {axes.get_title(): axes for axes in figure.axes}
    assert list(panels) == ["loss", "top1", "learning rate"]
    lines = {line.get_label(): line for line in panels["loss"].get_lines()}
    assert set(lines) == {"training", "evaluation", "best 0 at step 30"}
    np.testing.assert_allclose(lines["training"].get_ydata(), [2.0 / s for s in range(1, 51)])
    assert lines["training"].get_color() != lines["evaluation"].get_color()
    assert [line.get_label() for line in panels["learning rate"].get_lines()] == ["training"]


def test_the_best_evaluation_is_marked_at_its_place():
    lines = {axes.get_title(): axes.get_lines()[-1] for axes in curves_figure(history()).axes}
    assert (lines["loss"].get_xdata()[0], lines["loss"].get_ydata()[0]) == (30, 0.0)
    assert (lines["top1"].get_xdata()[0], lines["top1"].get_ydata()[0]) == (40, 1.0)


def test_the_epoch_axis_follows_the_records():
    axes = curves_figure(history()).axes[0]
    (epochs,) = axes.child_axes
    low, high = axes.get_xlim()
    axes.figure.canvas.draw()
    np.testing.assert_allclose(epochs.get_xlim(), (low / 10, high / 10))
    assert not curves_figure([record(0, "eval", loss=1.0)]).axes[0].child_axes


@pytest.mark.parametrize(
    "name, better",
    [("loss", min), ("top1", max), ("error_rate", min), ("map", max), ("val_miou", max), ("learning_rate", None)],
)
def test_the_name_says_what_is_better(name, better):
    values = np.array([3.0, 1.0, np.nan, 7.0, 7.0, 1.0])
    place = best_point(name, (np.arange(6), values))
    assert place == (None if better is None else {min: 1, max: 3}[better])


def test_values_that_are_not_finite_leave_gaps_and_marks():
    records = [record(1, loss=1.0), record(2, loss=math.nan), record(3, loss=None), record(4, loss=0.5)]
    axes = curves_figure(records).axes[0]
    dotted = [line for line in axes.get_lines() if line.get_linestyle() == ":"]
    assert [line.get_xdata()[0] for line in dotted] == [2, 3]
    assert axes.get_lines()[-1].get_label() == "best 0.5 at step 4"


@pytest.mark.parametrize(
    "records",
    [
        [],
        [record(3, loss=2.0)],
        [record(0, "eval", top1=0.1)],
        [record(1, loss=math.nan)],
        [record(1, loss=math.inf, top1=0.0)],
        [record(1, "test", other=1.0, text="no number", flags=[1, 2])],
    ],
)
def test_short_histories_are_drawn(records, tmp_path):
    plot_curves(records, tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.width >= 400 and len(np.unique(np.asarray(picture))) > 10


def test_a_start_that_flattens_the_rest_is_left_out():
    values = [3.0, *np.linspace(0.2, 0.1, 40)]
    axes = curves_figure([record(i + 1, loss=v) for i, v in enumerate(values)]).axes[0]
    low, high = axes.get_ylim()
    assert low < 0.1 and 0.19 < high < 0.3
    slow = curves_figure([record(i + 1, loss=v) for i, v in enumerate(np.linspace(3, 1, 41))]).axes[0]
    assert slow.get_ylim()[1] > 3


def test_the_last_record_of_a_step_counts_and_steps_are_sorted():
    records = [record(2, loss=5.0), record(1, loss=1.0), record(2, loss=3.0)]
    line = curves_figure(records).axes[0].get_lines()[0]
    np.testing.assert_array_equal(line.get_xdata(), [1, 2])
    np.testing.assert_array_equal(line.get_ydata(), [1.0, 3.0])


def test_the_picture_of_what_a_run_wrote_has_a_panel_per_metric(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with JsonlWriter(path) as writer:
        for row in history():
            writer.scalars(row["step"], row["values"], kind=row["kind"], epoch=row["epoch"])
    plot_curves(read_records(path), tmp_path / "new" / "curves.png")
    with Image.open(tmp_path / "new" / "curves.png") as picture:
        assert picture.size == (3 * 440, 320)


def test_curves_are_drawn_in_the_colours_of_the_palette():
    pixels = {tuple(p) for p in render(curves_figure(history())).reshape(-1, 3).tolist()}
    assert {palette.rgb(palette.TRAIN), palette.rgb(palette.EVALUATION), palette.rgb(palette.BEST)} <= pixels


def test_pyplot_is_never_imported():
    import subprocess

    code = (
        "import sys; from jaxvision.visualization.curves import curves_figure;"
        "from jaxvision.visualization.canvas import render; render(curves_figure([]));"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
