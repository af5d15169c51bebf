"""Confusion matrices from 2 to 1000 classes: colour is the share of the true class, numbers are counts."""

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Num
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from jaxvision.visualization import palette
from jaxvision.visualization.canvas import Path, font, new_figure, save_figure, shorten

NUMBERS_UP_TO = 25
"""Classes up to which a cell has room for its count."""
NAMES_UP_TO = 60
"""Classes up to which every row and column carries its name; beyond, the axes count."""
LABEL_PIXELS = 180
"""Longest label of a class."""


def plot_confusion(matrix: Num[np.ndarray, "c c"], class_names: Sequence[str], out: Path) -> None:
    """Writes the picture of a confusion matrix (rows: truth, columns: prediction, entries: counts) to `out`.

    Rows without a sample are grey. `class_names` may be empty: classes are then numbered.
    """
    save_figure(confusion_figure(matrix, class_names), out)


def confusion_figure(matrix: Num[np.ndarray, "c c"], class_names: Sequence[str], title: str | None = None) -> Figure:
    """The figure that `plot_confusion` writes; without a `title` it says the share that is right."""
    matrix = np.asarray(matrix)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or matrix.shape[0] == 0:
        raise ValueError(f"expected a square confusion matrix [C, C], not shape {matrix.shape}")
    classes = len(matrix)
    if class_names and len(class_names) != classes:
        raise ValueError(f"{len(class_names)} class names for a confusion matrix of {classes} classes")
    names = [str(n) for n in class_names] or [str(i) for i in range(classes)]
    named = classes <= NAMES_UP_TO
    # Every cell is a whole number of pixels, so that no column of a large matrix is lost to resampling.
    cell = max(1, 900 // classes) if classes > NUMBERS_UP_TO else max(40, min(150, 560 // classes))
    side = cell * classes
    label_size = max(7, min(11, cell * 0.55))
    face = font(round(label_size * 1.4))
    labels = [shorten(n, LABEL_PIXELS, face) for n in names] if named else []
    widest = max((face.getlength(n) for n in labels), default=34.0)
    tilted = bool(labels) and widest > cell * 0.9
    left = round(widest) + 52
    bottom = (round(widest) if tilted else 22) + 44
    right, top = 112, 62
    figure = new_figure(left + side + right, top + side + bottom)
    width, height = figure.get_size_inches() * figure.dpi
    axes = figure.add_axes((left / width, bottom / height, side / width, side / height))
    image = _cells(axes, matrix, classes)
    _labels(axes, labels, classes, label_size, tilted)
    bar = figure.add_axes(((left + side + 24) / width, bottom / height, 16 / width, side / height))
    ticks = (0, 0.2, 0.4, 0.6, 0.8, 1) if image.norm.gamma == 1 else (0, 0.01, 0.05, 0.2, 0.5, 1)
    figure.colorbar(image, cax=bar, ticks=ticks)
    bar.set_yticks(ticks, [f"{tick:.0%}" for tick in ticks])
    bar.set_ylabel("share of the true class", fontsize=9, color=palette.FAINT)
    bar.tick_params(labelsize=8, colors=palette.FAINT)
    bar.spines["outline"].set_visible(False)
    figure.text(
        left / width, 1 - 18 / height, _title(matrix) if title is None else title, fontsize=11, fontweight="bold",
        color=palette.TEXT, va="top", parse_math=False,
    )  # fmt: skip
    return figure


def _title(matrix: np.ndarray) -> str:
    total = matrix.sum()
    share = f"{100 * np.trace(matrix) / total:.2f}% of {int(total):,} right" if total else "no sample"
    return f"Confusion matrix\n{share}"


def _cells(axes: Axes, matrix: np.ndarray, classes: int) -> Any:
    rows = matrix.sum(axis=1, keepdims=True)
    shares = np.where(rows > 0, matrix / np.maximum(rows, 1), np.nan)
    colors = matplotlib.colormaps["Blues"].with_extremes(bad="#E4E4E4")
    # Among many classes single confusions are small shares on small areas; a root keeps them visible.
    gamma = 1.0 if classes <= NUMBERS_UP_TO else 0.5 if classes <= 100 else 0.3
    norm = PowerNorm(gamma, vmin=0.0, vmax=1.0)
    image = axes.imshow(shares, cmap=colors, norm=norm, interpolation="nearest", aspect="auto")
    if classes <= NUMBERS_UP_TO:
        axes.set_xticks(np.arange(classes - 1) + 0.5, minor=True)
        axes.set_yticks(np.arange(classes - 1) + 0.5, minor=True)
        axes.grid(which="minor", color=palette.PAPER, linewidth=1.2)
        axes.tick_params(which="minor", length=0)
        size = 11 if classes <= 12 else 8
        for row, column in zip(*np.nonzero(matrix), strict=True):
            dark = palette.luminance(colors(norm(shares[row, column]))[:3]) < 0.4
            color = palette.PAPER if dark else palette.TEXT
            axes.text(column, row, _short(matrix[row, column]), ha="center", va="center", fontsize=size, color=color)
    return image


def _labels(axes: Axes, labels: list[str], classes: int, size: float, tilted: bool) -> None:
    axes.set_xlabel("predicted class", fontsize=10, color=palette.TEXT)
    axes.set_ylabel("true class", fontsize=10, color=palette.TEXT)
    axes.tick_params(which="major", colors=palette.TEXT, labelsize=size, length=0 if labels else 3)
    for spine in axes.spines.values():
        spine.set_color(palette.GRID)
        spine.set_position(("outward", 1.5))  # beside the outermost cells, which may be one pixel wide
    if labels:
        ticks = np.arange(classes)
        axes.set_xticks(ticks, labels, rotation=90 if tilted else 0, parse_math=False)
        axes.set_yticks(ticks, labels, parse_math=False)


def _short(count: float) -> str:
    if count < 10_000:
        return f"{int(count)}"
    return f"{count / 1000:.0f}k" if count < 1_000_000 else f"{count / 1e6:.1f}M"
