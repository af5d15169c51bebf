"""The picture of one classification: the image, and beside it the scores of the best classes as bars."""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw

from jaxvision.visualization import palette
from jaxvision.visualization.canvas import blank, enlarge, font, shorten, to_rgb

MARGIN = 16
PANEL_WIDTH = 392
NAME_WIDTH = 160
SCORE_WIDTH = 66
ROW_HEIGHT = 34
HEADER_HEIGHT = 34
TRUTH_HEIGHT = 24


def draw_classification(
    image: np.ndarray,
    scores: Float[np.ndarray, " c"],
    class_names: Sequence[str] = (),
    truth: int | np.ndarray | None = None,
    count: int = 5,
) -> UInt8[np.ndarray, "h w 3"]:
    """Draws the image and the `count` best classes; a true class that is not among them gets a row of its own.

    Args:
      image: `[H, W]` or `[H, W, C]`; uint8, or float (see `canvas.to_rgb`). Tiny images are enlarged.
      scores: of all classes, 0..1.
      class_names: names by label; without them classes are numbered.
      truth: true label; for several labels an array `[C]` of 0 and 1; None where it is unknown.
    """
    scores = np.asarray(scores, np.float32)
    names = [str(n) for n in class_names] or [str(i) for i in range(len(scores))]
    true = true_labels(truth)
    order = [int(i) for i in np.argsort(-scores, kind="stable")]
    shown = order[:count]
    extra = [i for i in order[count:] if i in true][: max(1, count // 2)]
    picture = enlarge(to_rgb(image), smallest=256, largest=448)
    lines = len(shown) + len(extra) + bool(extra)
    header_height = HEADER_HEIGHT + (TRUTH_HEIGHT if true else 0)
    panel_height = header_height + lines * ROW_HEIGHT
    height = max(panel_height, picture.shape[0]) + 2 * MARGIN
    paper, pen = blank(picture.shape[1] + PANEL_WIDTH + 3 * MARGIN, height)
    paper.paste(Image.fromarray(picture), (MARGIN, (height - picture.shape[0]) // 2))
    left = picture.shape[1] + 2 * MARGIN
    pen.rectangle((MARGIN - 1, (height - picture.shape[0]) // 2 - 1,
                   MARGIN + picture.shape[1], (height + picture.shape[0]) // 2), outline=palette.GRID)  # fmt: skip
    top = max(MARGIN, (height - panel_height) // 2)
    _header(pen, left, top, shown[0], true, names)
    top += header_height
    name_width = min(NAME_WIDTH, max(math.ceil(font(14, True).getlength(names[i])) for i in (*shown, *extra)))
    for label in shown:
        color = _color(label, shown[0], true)
        _row(pen, left, top, names[label], name_width, float(scores[label]), color, label in true)
        top += ROW_HEIGHT
    if extra:
        pen.text((left, top + ROW_HEIGHT / 2), f"true class, place {order.index(extra[0]) + 1} of {len(scores)}:",
                 palette.FAINT, font(13), anchor="lm")  # fmt: skip
        top += ROW_HEIGHT
    for label in extra:
        _row(pen, left, top, names[label], name_width, float(scores[label]), palette.RIGHT, True)
        top += ROW_HEIGHT
    return np.asarray(paper).copy()


def true_labels(truth: int | np.ndarray | None) -> tuple[int, ...]:
    """The labels that a truth names: one, those set in `[C]`, or none."""
    if truth is None:
        return ()
    truth = np.asarray(truth)
    return (int(truth),) if truth.ndim == 0 else tuple(int(i) for i in np.flatnonzero(truth > 0.5))


def _color(label: int, best: int, true: tuple[int, ...]) -> str:
    if label in true:
        return palette.RIGHT
    if label != best:
        return palette.NEUTRAL
    return palette.WRONG if true else palette.BLUE


def _header(pen: ImageDraw.ImageDraw, left: int, top: int, best: int, true: tuple[int, ...], names: list[str]) -> None:
    face = font(19, bold=True)
    mark = "" if not true else "✓ " if best in true else "✗ "
    color = palette.TEXT if not true else palette.RIGHT if best in true else palette.WRONG
    pen.text((left, top + 12), shorten(mark + names[best], PANEL_WIDTH, face), color, face, anchor="lm")
    if true:
        line = "truth: " + ", ".join(names[i] if i < len(names) else str(i) for i in true)
        pen.text((left, top + 37), shorten(line, PANEL_WIDTH, font(14)), palette.TEXT, font(14), anchor="lm")


def _row(
    pen: ImageDraw.ImageDraw, left: int, top: int, name: str, name_width: int, score: float, color: str, bold: bool
) -> None:
    face = font(14, bold)
    middle = top + ROW_HEIGHT // 2
    pen.text((left, middle), shorten(name, name_width, face), palette.TEXT, face, anchor="lm")
    start = left + name_width + 12
    full = PANEL_WIDTH - name_width - 12 - SCORE_WIDTH
    pen.rectangle((start, middle - 9, start + full - 1, middle + 9), fill="#F0F3F5")
    filled = round(full * min(1.0, max(0.0, score if np.isfinite(score) else 0.0)))
    if filled:
        pen.rectangle((start, middle - 9, start + filled - 1, middle + 9), fill=color)
    pen.text((left + PANEL_WIDTH, middle), percent(score), palette.TEXT, face, anchor="rm")


def percent(score: float) -> str:
    """A score 0..1 as text that never rounds a doubt away: 100% and 0% are exact."""
    if not np.isfinite(score):
        return "nan"
    value = 100 * score
    if 0 < value < 0.1:
        return "<0.1%"
    if 99.9 < value < 100:
        return ">99.9%"
    return f"{value:.1f}%"
