"""Training curves: one panel per metric, training and evaluation together, the best point marked.

The input are the records that a run writes to `metrics.jsonl`:
`{"step": 400, "epoch": 10.0, "kind": "train" or "eval", "time": seconds, "values": {name: number}}`.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from jaxvision.visualization import palette
from jaxvision.visualization.canvas import Path, new_figure, save_figure

PANEL_WIDTH, PANEL_HEIGHT = 440, 320
COLUMNS = 3
MARGINS = {"left": 62, "right": 14, "top": 62, "bottom": 46}
"""Pixels around each panel, for its labels; a layout that measures them takes 1.6 times as long to draw."""
START_MAGNIFIES = 2.0
"""The first tenth of a run is left out where it makes the range of values larger than this many times."""

Series = tuple[np.ndarray, np.ndarray]
"""Steps and values, sorted by step."""

_STYLES = {"train": ("training", palette.TRAIN, "-"), "eval": ("evaluation", palette.EVALUATION, "-")}
_LOWER_IS_BETTER = re.compile(r"loss|error|perplexity|(^|_)(mae|mse|rmse|fid|epe)($|_)", re.IGNORECASE)
_HIGHER_IS_BETTER = re.compile(
    r"^top\d+$|accuracy|precision|recall|"
    r"(^|_)(f1|m?ap\d*|(fw|m)?iou|m?dice|m?fscore|[am]acc|psnr|ssim|auc|pck|oks)($|_)",
    re.IGNORECASE,
)
_FIRST = ("loss", "top1", "accuracy", "map", "top5", "f1", "precision", "recall")


def plot_curves(records: Iterable[Mapping[str, Any]], out: Path) -> None:
    """Draws the curves of a run into the file `out`.

    Steps run along the bottom of a panel and epochs along its top; the height may leave out values of the first tenth
    of the run (`START_MAGNIFIES`). Steps with a value that is not finite are marked by a dotted line. The best
    evaluation (without evaluations: the best training value) is marked where the name says which direction is better.

    Args:
      records: what `engine.writers.read_records` reads; of several records of one step and kind the last one counts.
      out: `.png`, `.pdf` or `.svg`.
    """
    save_figure(curves_figure(records), out)


def curves_figure(records: Iterable[Mapping[str, Any]]) -> Figure:
    """The figure that `plot_curves` writes."""
    records = list(records)
    panels = series_of(records)
    epochs_per_step = epochs_per_step_of(records)
    columns = max(1, min(COLUMNS, len(panels)))
    rows = max(1, math.ceil(len(panels) / columns))
    figure = new_figure(columns * PANEL_WIDTH, rows * PANEL_HEIGHT)
    _place(figure, rows, columns)
    if not panels:
        figure.text(0.5, 0.5, "no metrics were recorded yet", ha="center", va="center", color=palette.FAINT)
        return figure
    last = max(steps[-1] for kinds in panels.values() for steps, _ in kinds.values())
    for place, (name, kinds) in enumerate(panels.items()):
        axes = figure.add_subplot(rows, columns, place + 1)
        _panel(axes, name, kinds, epochs_per_step)
        axes.set_xlim(-0.03 * max(1, last), 1.03 * max(1, last))
    return figure


def _place(figure: Figure, rows: int, columns: int) -> None:
    """Leaves `MARGINS` around each of the panels."""
    width, height = columns * PANEL_WIDTH, rows * PANEL_HEIGHT
    sides, ends = MARGINS["left"] + MARGINS["right"], MARGINS["top"] + MARGINS["bottom"]
    figure.subplots_adjust(
        left=MARGINS["left"] / width,
        right=1 - MARGINS["right"] / width,
        top=1 - MARGINS["top"] / height,
        bottom=MARGINS["bottom"] / height,
        wspace=sides / (PANEL_WIDTH - sides),
        hspace=ends / (PANEL_HEIGHT - ends),
    )


def best_point(name: str, series: Series) -> int | None:
    """Place of the best finite value, the earliest of equals; None where the name does not say what is better."""
    values = series[1]
    finite = np.isfinite(values)
    if not finite.any():
        return None
    if _LOWER_IS_BETTER.search(name):
        return int(np.argmin(np.where(finite, values, np.inf)))
    if _HIGHER_IS_BETTER.search(name):
        return int(np.argmax(np.where(finite, values, -np.inf)))
    return None


def series_of(records: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Series]]:
    """Records -> {metric: {"train" or "eval": (steps, values)}}, the telling metrics first."""
    points: dict[str, dict[str, dict[int, float]]] = {}
    for record in records:
        for name, value in record["values"].items():
            number = math.nan if value is None else value
            if isinstance(number, (int, float)):
                points.setdefault(name, {}).setdefault(record["kind"], {})[int(record["step"])] = float(number)
    ordered = sorted(points, key=lambda n: (_FIRST.index(n) if n in _FIRST else len(_FIRST), n))
    return {
        name: {
            kind: (np.array(sorted(steps)), np.array([steps[s] for s in sorted(steps)]))
            for kind, steps in sorted(points[name].items(), reverse=True)
        }
        for name in ordered
    }


def epochs_per_step_of(records: Sequence[Mapping[str, Any]]) -> float | None:
    """None where the records do not say."""
    for record in reversed(records):
        if record.get("epoch") and record["step"] > 0:
            return record["epoch"] / record["step"]
    return None


def _panel(axes: Axes, name: str, kinds: dict[str, Series], epochs_per_step: float | None) -> None:
    drawn = False
    for kind, (steps, values) in kinds.items():
        label, color, line = _STYLES.get(kind, (kind, palette.FAINT, "--"))
        for step in steps[~np.isfinite(values)]:
            axes.axvline(step, color=palette.WRONG, linestyle=":", linewidth=1)
        if np.isfinite(values).any():
            drawn = True
            few = len(steps) <= 40 and kind != "train"
            marker = "o" if few or len(steps) == 1 else None
            axes.plot(steps, values, line, color=color, label=label, linewidth=1.6, marker=marker, markersize=3.5)
    if not drawn:
        axes.text(0.5, 0.5, "no finite value", transform=axes.transAxes, ha="center", va="center", color=palette.FAINT)
        axes.set_yticks([])
    axes.grid(color=palette.GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(palette.FAINT)
    axes.tick_params(colors=palette.FAINT, labelsize=8)
    axes.margins(y=0.1)
    _leave_out_the_start(axes, kinds)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.set_xlabel("step", color=palette.FAINT, fontsize=8)
    axes.set_title(name.replace("_", " "), color=palette.TEXT, fontsize=11, fontweight="bold", parse_math=False)
    best = _mark_best(axes, name, kinds)
    if drawn and (best or len(kinds) > 1):
        axes.legend(fontsize=8, frameon=True, framealpha=0.85, edgecolor=palette.GRID)
    if epochs_per_step:
        epochs = axes.secondary_xaxis(
            "top", functions=(partial(np.multiply, epochs_per_step), partial(np.multiply, 1 / epochs_per_step))
        )
        epochs.xaxis.set_major_locator(MaxNLocator(nbins=6))
        epochs.set_xlabel("epoch", color=palette.FAINT, fontsize=8)
        epochs.tick_params(colors=palette.FAINT, labelsize=8)
        epochs.spines["top"].set_color(palette.GRID)


def _leave_out_the_start(axes: Axes, kinds: dict[str, Series]) -> None:
    """Where the first tenth of a run takes most of the height, the axis shows the rest, and the lines come into it."""
    last = max(steps[-1] for steps, _ in kinds.values())
    everything = np.concatenate([values for _, values in kinds.values()])
    later = np.concatenate([values[steps >= 0.1 * last] for steps, values in kinds.values()])
    everything, later = everything[np.isfinite(everything)], later[np.isfinite(later)]
    if len(later) >= 10 and np.ptp(everything) > START_MAGNIFIES * np.ptp(later) > 0:
        low, high, room = later.min(), later.max(), 0.1 * np.ptp(later)
        axes.set_ylim(low - room, high + room)


def _mark_best(axes: Axes, name: str, kinds: dict[str, Series]) -> bool:
    kind = "eval" if "eval" in kinds else next(iter(kinds))
    steps, values = kinds[kind]
    place = best_point(name, (steps, values))
    if place is None:
        return False
    label = f"best {values[place]:.4g} at step {steps[place]}"
    axes.plot(
        steps[place], values[place], "*", color=palette.BEST, markersize=13, markeredgecolor=palette.TEXT,
        markeredgewidth=0.7, label=label, zorder=5,
    )  # fmt: skip
    return True
