"""Learning-rate schedules: the rate of every group of parameters over a run."""

from collections.abc import Sequence
from functools import partial

import matplotlib
import numpy as np
from jaxtyping import Float, Int
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from jaxvision.visualization import palette
from jaxvision.visualization.canvas import new_figure

WIDTH, HEIGHT, LEGEND = 720, 420, 310
LINES = ("-", "--", "-.", ":")


def learning_rate_figure(
    steps: Int[np.ndarray, " n"],
    groups: Sequence[tuple[str, Float[np.ndarray, " n"]]],
    steps_per_epoch: int,
    warmup_steps: int = 0,
    title: str = "",
) -> Figure:
    """The rates of (name, values) groups; steps along the bottom, epochs along the top, the warm-up shaded.

    Values of 0 (frozen parameters) are drawn like any other.
    """
    legend = min(len(groups), 14) * 32 + 40
    figure = new_figure(WIDTH + LEGEND, max(HEIGHT, legend))
    axes = figure.add_axes((0.075, 0.12, (WIDTH - 90) / (WIDTH + LEGEND), 0.68))
    colors = matplotlib.colormaps["viridis"](np.linspace(0, 0.92, len(groups))) if len(groups) > 8 else palette.CYCLE
    if warmup_steps > 0:
        axes.axvspan(0, min(warmup_steps, steps[-1]), color=palette.GRID, alpha=0.6, linewidth=0, label="warm-up")
    for i, (name, values) in enumerate(groups):
        line = LINES[i % len(LINES)] if len(groups) <= 8 else "-"
        axes.plot(steps, values, line, color=colors[i], linewidth=1.8, label=name)
    axes.set_xlim(0, steps[-1] if steps[-1] > 0 else 1)
    axes.set_ylim(bottom=0)
    axes.margins(y=0.05)
    axes.grid(color=palette.GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(colors=palette.FAINT, labelsize=8)
    axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True))
    axes.set_xlabel("step", color=palette.FAINT, fontsize=9)
    axes.set_ylabel("learning rate", color=palette.FAINT, fontsize=9)
    epochs = axes.secondary_xaxis(
        "top", functions=(partial(np.multiply, 1 / steps_per_epoch), partial(np.multiply, steps_per_epoch))
    )
    epochs.xaxis.set_major_locator(MaxNLocator(nbins=7))
    epochs.set_xlabel("epoch", color=palette.FAINT, fontsize=9)
    epochs.tick_params(colors=palette.FAINT, labelsize=8)
    epochs.spines["top"].set_color(palette.GRID)
    handles, names = axes.get_legend_handles_labels()
    if len(names) > 14:  # the ends of a long decay say what lies between
        names = [*names[:7], f"... {len(names) - 14} more groups", *names[-7:]]
        handles = [*handles[:7], matplotlib.lines.Line2D([], [], linestyle=""), *handles[-7:]]
    place = ((WIDTH - 10) / (WIDTH + LEGEND), 0.5)
    figure.legend(handles, names, loc="center left", bbox_to_anchor=place, frameon=False, fontsize=8)
    figure.text(0.02, 0.97, title, fontsize=12, fontweight="bold", color=palette.TEXT, va="top", parse_math=False)
    return figure
