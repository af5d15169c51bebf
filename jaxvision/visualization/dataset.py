"""Pictures of a whole data set: how often each class occurs, how large images and boxes are.

Colours are those of `palette` and the map `cividis` (Nunez et al. 2018), both made for every kind of colour vision;
parts of the data differ by position or marker too.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from jaxvision.visualization import palette
from jaxvision.visualization.canvas import new_figure

SHOWN_CLASSES = 60
"""Classes in a histogram; of more, the most and the least frequent ones."""
ROW = 18
_MARKS = (("o", palette.TRAIN), ("D", palette.BEST))


def class_histogram(class_names: Sequence[str], counts: Mapping[str, Int[np.ndarray, " c"]], what: str) -> Figure:
    """Bars of how many `what` each class has; one bar per part of the data, the first part's on top.

    Args:
      class_names: one per class.
      counts: part of the data -> number per class.
      what: "images", "objects" or "pixels".
    """
    first = next(iter(counts.values()))
    order = np.arange(len(class_names))
    if len(order) > SHOWN_CLASSES:
        order = np.argsort(-first, kind="stable")
        half = SHOWN_CLASSES // 2
        order = np.concatenate([order[:half], order[-half:]])
    figure = new_figure(760, 110 + ROW * len(order) * len(counts))
    figure.set_layout_engine("constrained")
    axes = figure.add_subplot()
    thick = 0.8 / len(counts)
    for number, ((part, values), (_, color)) in enumerate(zip(counts.items(), _MARKS, strict=False)):
        places = np.arange(len(order)) + (number - (len(counts) - 1) / 2) * thick
        bars = axes.barh(places, values[order], thick * 0.92, color=color, label=part)
        axes.bar_label(bars, [_short(v) for v in values[order]], padding=3, fontsize=7, color=palette.FAINT)
    names = [" ".join(str(class_names[int(i)]).split())[:40] for i in order]
    axes.set_yticks(np.arange(len(order)), names, fontsize=8, parse_math=False)
    axes.set_ylim(len(order) - 0.5, -0.5)
    largest = max(int(values[order].max(initial=0)) for values in counts.values())
    uneven = largest > 50 * max(1, int(np.median(first)))
    if uneven:
        axes.set_xscale("symlog", linthresh=1)
        axes.set_xlim(0, 3 * largest)
        axes.set_xlabel(f"{what} (logarithmic)", fontsize=9, color=palette.FAINT)
    else:
        axes.set_xlim(0, 1.12 * max(1, largest))
        axes.set_xlabel(what, fontsize=9, color=palette.FAINT)
    shown = f"{len(order)} of {len(class_names)} classes: the most and the least frequent"
    title = f"{what} per class" + (f"\n{shown}" if len(order) < len(class_names) else "")
    _finish(axes, title)
    if len(counts) > 1:
        figure.legend(fontsize=8, frameon=False, loc="outside upper right", ncols=len(counts))
    return figure


def image_sizes(sizes: Mapping[str, Int[np.ndarray, "n 2"]]) -> Figure:
    """Width against height of the images, the area of a mark growing with the number of images of that size.

    Args:
      sizes: part of the data -> height and width of each image; rows of zeros are unknown.
    """
    figure = new_figure(640, 560)
    figure.set_layout_engine("constrained")
    axes = figure.add_subplot()
    largest = 1
    for (part, values), (mark, color) in zip(sizes.items(), _MARKS, strict=False):
        known = values[(values > 0).all(axis=1)]
        if not len(known):
            continue
        distinct, number = np.unique(known, axis=0, return_counts=True)
        largest = max(largest, int(known.max()))
        area = 14 + 260 * np.sqrt(number / number.max())
        label = f"{part}: {len(known):,} images, {len(distinct):,} sizes"
        axes.scatter(
            distinct[:, 1],
            distinct[:, 0],
            area,
            marker=mark,
            linewidths=1.4,
            label=label,
            facecolors="none",
            edgecolors=color,
        )
    limit = 1.12 * largest
    for ratio in (0.5, 1.0, 2.0):
        axes.plot([0, limit], [0, limit * ratio], color=palette.GRID, linewidth=1, zorder=0)
        end = (limit, limit * ratio) if ratio <= 1 else (limit / ratio, limit)
        text = {0.5: "2:1", 1.0: "1:1", 2.0: "1:2"}[ratio]
        axes.annotate(text, end, (-4, -4), textcoords="offset points", fontsize=8, ha="right", va="top",
                      color=palette.FAINT)  # fmt: skip
    axes.set_xlim(0, limit)
    axes.set_ylim(0, limit)
    axes.set_aspect("equal")
    axes.set_xlabel("width in pixels", fontsize=9, color=palette.FAINT)
    axes.set_ylabel("height in pixels", fontsize=9, color=palette.FAINT)
    _finish(axes, "sizes of the images")
    if axes.get_legend_handles_labels()[0]:
        legend = axes.legend(fontsize=8, frameon=True, edgecolor=palette.GRID, loc="lower left")
        for handle in legend.legend_handles:
            if handle is not None and hasattr(handle, "set_sizes"):
                handle.set_sizes([40])
    return figure


def box_sizes(boxes: Float[np.ndarray, "m 2"]) -> Figure:
    """How many boxes have which width and height, in pixels of the original images, both logarithmic.

    Dashed lines are the borders of the COCO sizes: areas of 32 x 32 and of 96 x 96 pixels.
    """
    figure = new_figure(660, 560)
    figure.set_layout_engine("constrained")
    axes = figure.add_subplot()
    kept = np.maximum(boxes[(boxes > 0).all(axis=1)], 1)
    limit = 2.0 ** np.ceil(np.log2(max(64.0, float(kept.max(initial=1)))))
    edges = 2.0 ** np.arange(0, np.log2(limit) + 0.25, 0.25)
    counts, _, _ = np.histogram2d(kept[:, 0], kept[:, 1], (edges, edges))
    shown = np.ma.masked_equal(counts.T, 0)
    mesh = axes.pcolormesh(edges, edges, shown, cmap="cividis_r", norm=LogNorm(1, max(2, counts.max())))
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    line = np.array([1, limit])
    for side, name in ((32, "small | medium"), (96, "medium | large")):
        axes.plot(line, side * side / line, "--", color=palette.FAINT, linewidth=1)
        if side < limit:
            place = (limit / 1.15, side * side / limit * 1.15)
            axes.text(*place, name, fontsize=7, color=palette.FAINT, ha="right", va="bottom", rotation=-45)
    axes.set_xlim(1, limit)
    axes.set_ylim(1, limit)
    axes.set_aspect("equal")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(base=2, numticks=14))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel("width in pixels", fontsize=9, color=palette.FAINT)
    axes.set_ylabel("height in pixels", fontsize=9, color=palette.FAINT)
    bar = figure.colorbar(mesh, ax=axes, shrink=0.8, format=FuncFormatter(lambda value, _: f"{value:g}"))
    bar.set_label("boxes", fontsize=9, color=palette.FAINT)
    bar.ax.tick_params(labelsize=8, colors=palette.FAINT)
    bar.outline.set_visible(False)
    _finish(axes, f"sizes of {len(boxes):,} boxes")
    return figure


def _finish(axes: Axes, title: str) -> None:
    axes.set_title(title, color=palette.TEXT, fontsize=11, fontweight="bold", loc="left", parse_math=False)
    axes.tick_params(colors=palette.TEXT, labelsize=8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(palette.GRID)


def _short(count: float) -> str:
    if count < 10_000:
        return f"{int(count):,}"
    return f"{count / 1000:.0f}k" if count < 1_000_000 else f"{count / 1e6:.1f}M"
