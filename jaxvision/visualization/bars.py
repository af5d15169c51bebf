"""Bars and dots for tables: what each error costs, and how every class fares."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from jaxvision.visualization import palette
from jaxvision.visualization.canvas import font, new_figure, shorten

ROW, BAR_WIDTH, MARGIN = 26, 460, 16
HEAD, FOOT = 56, 46
TEXT_WIDTH = 150
"""Pixels to the right of the bars, for their texts."""
NAME_PIXELS = 260
"""Longest name of a row."""
MOST_ROWS = 40
"""Classes with a row of their own; of more, the weakest."""
MARKERS = ("o", "s", "^", "D", "v")


def bars_figure(
    names: Sequence[str], values: Float[np.ndarray, " n"], title: str, unit: str, texts: Sequence[str] = ()
) -> Figure:
    """Horizontal bars from top to bottom, each with its name on the left and its value on the right.

    Args:
      names: of the bars.
      values: their lengths; not finite: no bar. At least one.
      title: above, in one line or several.
      unit: of the values, below the axis.
      texts: what stands behind each bar; without them its value.
    """
    values = np.asarray(values, np.float64)
    figure, axes = _rows(names, title, unit)
    known = np.isfinite(values)
    axes.barh(np.flatnonzero(known), values[known], height=0.66, color=palette.BLUE)
    low, high = min(0.0, values[known].min(initial=0.0)), max(0.0, values[known].max(initial=0.0))
    axes.set_xlim(low, high if high > low else low + 1)
    if (values[known] == np.round(values[known])).all():
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    for row, value in enumerate(values):
        text = texts[row] if texts else f"{value:.4g}" if known[row] else "-"
        place = max(0.0, value) if known[row] else 0.0
        _text(axes, text, place, row)
    return figure


def dots_figure(
    names: Sequence[str], columns: Mapping[str, Float[np.ndarray, " n"]], title: str, unit: str = ""
) -> Figure:
    """A row for each class with a mark for each score, up to 1; the first column orders them, the best above.

    Of more than `MOST_ROWS` classes the weakest are shown. A class without a first score comes last.

    Args:
      names: of the classes.
      columns: name of a score -> its values, 0..1; at most five. nan: no mark.
      title: above.
      unit: below the axis.
    """
    first = np.asarray(next(iter(columns.values())), np.float64)
    order = np.argsort(-np.nan_to_num(first, nan=-1.0), kind="stable")
    known = order[np.isfinite(first[order])]
    shown = order if len(order) <= MOST_ROWS else known[-MOST_ROWS:]
    if len(shown) < len(order):
        title += f" (the weakest {len(shown)} of {len(order)})"
    figure, axes = _rows([names[i] for i in shown], title, unit, room=0)
    rows = np.arange(len(shown))
    values = np.stack([np.asarray(column, np.float64)[shown] for column in columns.values()])
    axes.hlines(rows, 0, 1, color=palette.GRID, linewidth=0.6, zorder=0)
    for number, name in enumerate(columns):
        beside = (number - (len(columns) - 1) / 2) * 0.2  # equal scores do not hide each other
        axes.plot(
            values[number], rows + beside, MARKERS[number], color=palette.CYCLE[number], markersize=7, label=name,
            zorder=3, markeredgecolor=palette.PAPER, markeredgewidth=0.6, clip_on=False,
        )  # fmt: skip
    least = min((float(value) for value in values[np.isfinite(values)]), default=0.0)
    axes.set_xlim(max(0.0, np.floor(10 * (least - 0.02)) / 10), 1)
    width, height = figure.get_size_inches() * figure.dpi
    figure.legend(
        loc="upper left", bbox_to_anchor=(MARGIN / width, 1 - 26 / height), frameon=False,
        ncols=len(columns), fontsize=9, handletextpad=0.2, columnspacing=1.4, borderpad=0.2,
    )  # fmt: skip
    return figure


def _rows(names: Sequence[str], title: str, unit: str, room: int = TEXT_WIDTH) -> tuple[Figure, Axes]:
    """An empty figure with a row for each name."""
    face = font(13)
    labels = [shorten(str(name), NAME_PIXELS, face) for name in names]
    left = MARGIN + round(max((face.getlength(label) for label in labels), default=0)) + 10
    head = HEAD + 16 * title.count("\n")
    height = head + ROW * max(1, len(labels)) + FOOT
    title_width = max(font(15, bold=True).getlength(line) for line in title.split("\n"))
    width = max(left + BAR_WIDTH + max(room, 24), round(title_width) + 2 * MARGIN)
    figure = new_figure(width, height)
    axes = figure.add_axes((left / width, FOOT / height, BAR_WIDTH / width, 1 - (head + FOOT) / height))
    axes.set_ylim(max(1, len(labels)) - 0.5, -0.5)
    axes.set_yticks(range(len(labels)), labels, fontsize=9.4, color=palette.TEXT, parse_math=False)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", colors=palette.FAINT, labelsize=8)
    axes.grid(axis="x", color=palette.GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(palette.FAINT)
    axes.set_xlabel(unit, color=palette.FAINT, fontsize=9)
    figure.text(
        MARGIN / width, 1 - 8 / height, title, fontsize=11, fontweight="bold", color=palette.TEXT, va="top",
        parse_math=False,
    )  # fmt: skip
    return figure, axes


def _text(axes: Axes, text: str, value: float, row: int) -> None:
    axes.annotate(
        text, (value, row), xytext=(5, 0), textcoords="offset points", va="center", fontsize=9, color=palette.TEXT,
        annotation_clip=False, parse_math=False,
    )  # fmt: skip
