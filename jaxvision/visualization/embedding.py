"""Feature spaces as pictures: points in the plane, coloured and marked by class."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Float, Int
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from jaxvision.visualization import palette
from jaxvision.visualization.canvas import font, new_figure, shorten

PANEL, LEGEND = 560, 170
LEGEND_UP_TO = 30
"""Classes that the legend names; of more, the most frequent ones, and the others are grey."""
MARKERS = "os^Dv<>Pp*Xh"


def embedding_figure(
    planes: Mapping[str, Float[np.ndarray, "n 2"]],
    labels: Int[np.ndarray, " n"],
    class_names: Sequence[str] = (),
    title: str = "",
) -> Figure:
    """A panel for each projection.

    Args:
      planes: title of the projection -> its points.
      labels: class of each point.
      class_names: by label; without them classes are numbered.
    """
    labels = np.asarray(labels)
    present, counts = np.unique(labels, return_counts=True)
    named = np.sort(present[np.argsort(-counts, kind="stable")][:LEGEND_UP_TO])
    figure = new_figure(len(planes) * PANEL + LEGEND, PANEL + 30)
    styles = {label: _style(i) for i, label in enumerate(named)}
    size = float(np.clip(8000 / max(len(labels), 1), 8, 36))
    right = len(planes) * PANEL / (len(planes) * PANEL + LEGEND)
    for i, (name, points) in enumerate(planes.items()):
        axes = figure.add_axes((right * (i + 0.03) / len(planes), 0.03, right * 0.94 / len(planes), 0.86))
        others = ~np.isin(labels, named)
        axes.scatter(points[others, 0], points[others, 1], s=size / 2, color=palette.GRID, linewidths=0)
        for label, (color, marker) in styles.items():
            own = points[labels == label]
            axes.scatter(own[:, 0], own[:, 1], s=size, color=color, marker=marker, alpha=0.8, linewidths=0)
        axes.set_xticks([])
        axes.set_yticks([])
        for spine in axes.spines.values():
            spine.set_color(palette.GRID)
        axes.set_title(name, fontsize=10, color=palette.TEXT, parse_math=False)
    handles = [
        Line2D([], [], linestyle="", marker=marker, color=color, markersize=6, label=_name(label, class_names))
        for label, (color, marker) in styles.items()
    ]
    if len(present) > len(named):
        handles.append(Line2D([], [], linestyle="", marker="o", color=palette.GRID, label="other classes"))
    legend = figure.legend(handles=handles, loc="center left", bbox_to_anchor=(right, 0.46), frameon=False, fontsize=9)
    for text in legend.get_texts():
        text.set_parse_math(False)
    figure.text(0.012, 0.975, title, fontsize=12, fontweight="bold", color=palette.TEXT, va="top", parse_math=False)
    return figure


def _style(place: int) -> tuple[Any, str]:
    """Colour and marker: neither alone tells all classes apart."""
    colors = matplotlib.colormaps["tab10"]
    return colors(place % 10), MARKERS[(place // 10 + place) % len(MARKERS)]


def _name(label: int, class_names: Sequence[str]) -> str:
    name = str(class_names[label]) if class_names else str(label)
    return shorten(name, LEGEND - 50, font(12))
