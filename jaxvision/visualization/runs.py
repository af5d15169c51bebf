"""Curves of several runs over each other, and lines over the severity of what is done to images."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from jaxvision.visualization import palette
from jaxvision.visualization.canvas import font, new_figure, shorten
from jaxvision.visualization.curves import Series, best_point

PANEL_WIDTH, PANEL_HEIGHT, COLUMNS = 440, 300, 3
LEFT, RIGHT, TOP, BOTTOM = 62, 16, 34, 46
"""Pixels around each panel."""
LEGEND_ROW = 22
NAME_PIXELS = 420
"""Longest name of a run."""
DASHES = ("-", "--", ":", "-.")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_HUES = tuple(color for color in palette.CYCLE if color not in (palette.BLACK, palette.YELLOW))


def look_of(number: int) -> dict[str, Any]:
    """Colour, dashes and marker of a line: six hues, then the same ones dashed, dotted, ..."""
    turn, hue = divmod(number, len(_HUES))
    return {"color": _HUES[hue], "linestyle": DASHES[turn % len(DASHES)], "marker": MARKERS[number % len(MARKERS)]}


def runs_figure(runs: Sequence[str], panels: Mapping[str, Mapping[str, Series]], along: str = "step") -> Figure:
    """A panel for each metric with a line for each run, and one legend above them.

    The best value of a run is a large marker, where the name of the metric says which direction is better.

    Args:
      runs: names, in the order of their colours.
      panels: metric -> {run: (places along the bottom, values)}; a run may lack a metric.
      along: what the bottom counts.
    """
    columns = max(1, min(COLUMNS, len(panels)))
    rows = max(1, math.ceil(len(panels) / columns))
    width = columns * PANEL_WIDTH
    face = font(13)
    labels = [shorten(run, min(NAME_PIXELS, width - 80), face) for run in runs]
    placed, height = _legend_places([face.getlength(label) for label in labels], width)
    figure = new_figure(width, height + rows * PANEL_HEIGHT)
    total = height + rows * PANEL_HEIGHT
    for number, (label, (x, y)) in enumerate(zip(labels, placed, strict=True)):
        look, middle = look_of(number), 1 - y / total
        figure.add_artist(
            Line2D((x / width, (x + 30) / width), (middle, middle), linewidth=2, markersize=6, markevery=(0, 2), **look)
        )
        figure.text(
            (x + 38) / width, middle, label, fontsize=9.4, va="center_baseline", color=palette.TEXT, parse_math=False
        )
    figure.text(
        (width - 14) / width, 1 - (height - 2) / total, "a large mark is the best of a run", fontsize=8,
        ha="right", va="center_baseline", color=palette.FAINT,
    )  # fmt: skip
    if not panels:
        figure.text(0.5, 0.5, "the runs have no metrics yet", ha="center", va="center", color=palette.FAINT)
    for place, (name, lines) in enumerate(panels.items()):
        row, column = divmod(place, columns)
        axes = _axes(figure, column * PANEL_WIDTH, height + row * PANEL_HEIGHT, name.replace("_", " "))
        axes.set_xlabel(along, color=palette.FAINT, fontsize=8)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=along == "step"))
        for number, run in enumerate(runs):
            if run in lines:
                _line(axes, name, lines[run], number)
    return figure


def severities_figure(
    title: str, groups: Mapping[str, Mapping[str, Float[np.ndarray, " s"]]], clean: float, metric: str
) -> Figure:
    """A panel for each group of corruptions, a line for each of them over its severity, from the clean images on.

    Args:
      title: above all.
      groups: of corruptions -> {name: values at the severities 1, 2, ...}.
      clean: the value of clean images.
      metric: what the values are.
    """
    columns = max(1, min(2, len(groups)))
    rows = max(1, math.ceil(len(groups) / columns))
    width, head = columns * PANEL_WIDTH, 40
    figure = new_figure(width, head + rows * PANEL_HEIGHT)
    figure.text(
        16 / width, 1 - 10 / (head + rows * PANEL_HEIGHT), title, fontsize=12, fontweight="bold", va="top",
        color=palette.TEXT, parse_math=False,
    )  # fmt: skip
    every = [clean, *(value for lines in groups.values() for values in lines.values() for value in values)]
    finite = [value for value in every if np.isfinite(value)] or [0.0]
    room = 0.06 * (max(finite) - min(finite) or 1)
    for place, (group, lines) in enumerate(groups.items()):
        row, column = divmod(place, columns)
        axes = _axes(figure, column * PANEL_WIDTH, head + row * PANEL_HEIGHT, group)
        axes.axhline(clean, color=palette.FAINT, linewidth=1, linestyle=":")
        most = 1
        for number, (name, values) in enumerate(lines.items()):
            most = max(most, len(values))
            label = name.replace("_", " ")
            axes.plot(
                range(len(values) + 1), [clean, *values], label=label, linewidth=1.8, markersize=5, **look_of(number)
            )
        axes.set_ylim(min(finite) - room, max(finite) + room)
        axes.set_xticks(range(most + 1), ["clean", *map(str, range(1, most + 1))])
        axes.set_xlabel("severity", color=palette.FAINT, fontsize=8)
        axes.set_ylabel(metric, color=palette.FAINT, fontsize=8, parse_math=False)
        axes.legend(fontsize=8, frameon=True, framealpha=0.85, edgecolor=palette.GRID)
    return figure


def _legend_places(lengths: Sequence[float], width: int) -> tuple[list[tuple[float, float]], int]:
    """Left end and middle of each entry, in rows that are as wide as the figure; and the height of all."""
    places: list[tuple[float, float]] = []
    x, row = 16.0, 0
    for length in lengths:
        needed = 38 + length + 26
        if x > 16 and x + needed > width:
            x, row = 16.0, row + 1
        places.append((x, 10 + LEGEND_ROW * (row + 0.5)))
        x += needed
    return places, 28 + LEGEND_ROW * (row + 1)


def _axes(figure: Figure, left: int, top: int, title: str) -> Axes:
    width, height = figure.get_size_inches() * figure.dpi
    axes = figure.add_axes(
        (
            (left + LEFT) / width,
            1 - (top + PANEL_HEIGHT - BOTTOM) / height,
            (PANEL_WIDTH - LEFT - RIGHT) / width,
            (PANEL_HEIGHT - TOP - BOTTOM) / height,
        )
    )
    axes.set_title(title, color=palette.TEXT, fontsize=11, fontweight="bold", parse_math=False)
    axes.grid(color=palette.GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(palette.FAINT)
    axes.tick_params(colors=palette.FAINT, labelsize=8)
    axes.margins(y=0.1)
    return axes


def _line(axes: Axes, name: str, series: Series, number: int) -> None:
    places, values = series
    look = look_of(number)
    every = max(1, len(places) // 6)
    first = number * every // 7 % every  # so that markers of runs that agree do not lie on each other
    axes.plot(places, values, linewidth=1.7, markersize=4.5, markevery=(first, every), **look)
    best = best_point(name, series)
    if best is not None:
        axes.plot(
            places[best], values[best], look["marker"], color=look["color"], markersize=9, zorder=5,
            markeredgecolor=palette.TEXT, markeredgewidth=1,
        )  # fmt: skip
