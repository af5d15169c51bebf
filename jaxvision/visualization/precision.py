"""Precision over recall of each class: how many detections are right when so many of the objects are to be found."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from jaxvision.visualization import palette
from jaxvision.visualization.canvas import Path, font, new_figure, save_figure, shorten
from jaxvision.visualization.marks import colors_of

SIDE, LEGEND, MARGIN = 480, 250, 64
SHOWN = 14
"""Classes up to which each has its colour and name; of more, the weakest ones, and the others are grey."""
NAME_PIXELS = 150
"""Longest name of a class."""


def plot_precision_recall(
    precision: Float[np.ndarray, "c r"], class_names: Sequence[str], out: Path, title: str = ""
) -> None:
    """Writes the picture of `precision_recall_figure` to `out`."""
    save_figure(precision_recall_figure(precision, class_names, title), out)


def precision_recall_figure(precision: Float[np.ndarray, "c r"], class_names: Sequence[str], title: str = "") -> Figure:
    """A curve for each class, the best above, and the mean of all; the area below a curve is the average precision.

    Args:
      precision: of each class at recalls at even distances from 0 to 1; nan for a class without an object.
      class_names: may be empty: classes are then numbered.
    """
    precision = np.asarray(precision, np.float64)
    if precision.ndim != 2 or precision.shape[1] < 2 or (class_names and len(class_names) != len(precision)):
        raise ValueError(f"precision {precision.shape} of {len(class_names)} names: expected [classes, recalls]")
    names = [str(name) for name in class_names] or [str(label) for label in range(len(precision))]
    recall = np.linspace(0, 1, precision.shape[1])
    area = precision.mean(axis=1)
    known = np.flatnonzero(~np.isnan(area))
    ordered = known[np.argsort(-area[known], kind="stable")]
    named = ordered if len(ordered) <= SHOWN else ordered[-SHOWN:]
    figure = new_figure(SIDE + LEGEND + MARGIN, SIDE + 2 * MARGIN)
    width, height = SIDE + LEGEND + MARGIN, SIDE + 2 * MARGIN
    axes = figure.add_axes((MARGIN / width, MARGIN / height, SIDE / width, SIDE / height))
    for label in ordered[: len(ordered) - len(named)]:
        axes.plot(recall, precision[label], color=palette.GRID, linewidth=1)
    face, colors = font(12), colors_of([int(label) for label in named])
    for label in named:
        color = tuple(channel / 255 for channel in colors[int(label)])
        text = f"{area[label]:.3f}  {shorten(names[label], NAME_PIXELS, face)}"
        axes.plot(recall, precision[label], color=color, linewidth=1.4, label=text)
    if len(known):
        mean = precision[known].mean(axis=0)
        every = f"{mean.mean():.3f}  mean of {len(known)}"
        axes.plot(recall, mean, color=palette.TEXT, linewidth=3, alpha=0.85, label=every)
        heading = "AP       class" if len(named) == len(ordered) else f"AP       class (the weakest {SHOWN})"
        figure.legend(
            loc="upper left", bbox_to_anchor=((MARGIN + SIDE + 8) / width, 1 - MARGIN / height), frameon=False,
            fontsize=9, title=heading, title_fontsize=9, alignment="left", reverse=len(named) < len(ordered),
        )  # fmt: skip
        for entry in figure.legends[0].get_texts():
            entry.set_parse_math(False)
    else:
        axes.text(0.5, 0.5, "no object", ha="center", va="center", color=palette.FAINT)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    axes.grid(color=palette.GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(colors=palette.FAINT, labelsize=8)
    axes.set_xlabel("recall", color=palette.FAINT, fontsize=9)
    axes.set_ylabel("precision", color=palette.FAINT, fontsize=9)
    place = MARGIN / width, 1 - 20 / height
    figure.text(*place, title, fontsize=11, fontweight="bold", color=palette.TEXT, va="top", parse_math=False)
    return figure
