"""Receptive fields: where a layer's central unit looks, beside what it could see."""

from collections.abc import Sequence

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from jaxvision.visualization import palette
from jaxvision.visualization.canvas import new_figure

PANEL, HEADER = 320, 56
COLUMNS = 4


def receptive_field_figure(
    heats: Sequence[Float[np.ndarray, "h w"]],
    titles: Sequence[str],
    boxes: Sequence[tuple[float, float, float, float] | None],
    threshold: float,
    name: str = "",
) -> Figure:
    """A panel for each layer: the effective field as a heat map, a square of its area, and the theoretical field.

    Args:
      heats: 0..1, of one size or several.
      titles: of the panels, a line or two.
      boxes: left, top, right, bottom of the theoretical field in pixels; None where it is the whole image.
      threshold: of the pixels that the square is as large as.
      name: of the network.
    """
    columns = min(COLUMNS, len(heats))
    rows = -(-len(heats) // columns)
    figure = new_figure(columns * PANEL, rows * (PANEL + 40) + HEADER)
    figure.set_layout_engine("constrained", rect=(0, 0, 1, 1 - HEADER / (rows * (PANEL + 40) + HEADER)))
    colors = matplotlib.colormaps["inferno"]
    for i, (heat, title, box) in enumerate(zip(heats, titles, boxes, strict=True)):
        axes = figure.add_subplot(rows, columns, i + 1)
        height, width = heat.shape
        axes.imshow(heat, cmap=colors, norm=PowerNorm(0.5, 0, 1), extent=(0, width, height, 0), interpolation="nearest")
        seen = heat > threshold
        side, (rows_seen, columns_seen) = float(np.sqrt(seen.sum())), np.nonzero(seen)
        corner = (columns_seen.mean() + 0.5 - side / 2, rows_seen.mean() + 0.5 - side / 2)
        axes.add_patch(Rectangle(corner, side, side, fill=False, edgecolor=palette.SKY_BLUE, linewidth=1.8))
        left, top, right, bottom = box or (0, 0, width, height)
        beyond = box is None or min(left, top, width - right, height - bottom) < 0
        left, top, right, bottom = max(left, 0), max(top, 0), min(right, width), min(bottom, height)
        frame = Rectangle(
            (left, top), right - left, bottom - top, fill=False, edgecolor=palette.ORANGE,
            linewidth=2.5 if beyond else 1.8, linestyle="--" if beyond else "-",
        )  # fmt: skip
        axes.add_patch(frame)
        axes.set_xlim(0, width)
        axes.set_ylim(height, 0)
        axes.set_title(title, fontsize=9, color=palette.TEXT, parse_math=False)
        axes.tick_params(labelsize=7, colors=palette.FAINT)
    legend = "orange frame: theoretical (dashed: beyond the image)   blue square: effective"
    figure.text(0.015, 0.985, f"Receptive fields: {name}", fontsize=12, fontweight="bold", color=palette.TEXT, va="top")
    total = rows * (PANEL + 40) + HEADER
    figure.text(0.015, 1 - 34 / total, legend, fontsize=9, color=palette.FAINT, va="top")
    return figure
