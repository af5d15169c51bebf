"""The picture of a semantic prediction: the image, the truth, the prediction, and where the two differ."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int, UInt8

from jaxvision.visualization import palette
from jaxvision.visualization.canvas import enlarge, to_rgb
from jaxvision.visualization.marks import Color, Marks, colors_of, legend, middle_of
from jaxvision.visualization.samples import class_name, panels

SMALLEST, LARGEST = 240, 480
"""Longer side of a panel in pixels."""
IGNORED = 255
BACKGROUND = "background"
ERROR = palette.rgb(palette.BLACK)
TAG_ROOM = 14.0
"""Pixels from the edge of a region within which its name is not written."""


def draw_semantic(
    sample: Mapping[str, Any], found: Int[np.ndarray, "h w"], class_names: Sequence[str] = ()
) -> UInt8[np.ndarray, "h2 w2 3"]:
    """Panels of one image, whose classes have the same colours in all of them, and a legend.

    A region of class "background" is not tinted, an ignored one is hatched. Where the truth is known, errors are drawn
    on a grey picture, and the share of right pixels is told among those that have a class.

    Args:
      sample: `image` [h, w, C] and, where the truth is known, `semantic` [h, w] with 255 for no class.
      found: class of each pixel.
      class_names: names by label; without them classes are numbered.

    Raises:
      ValueError: maps of another size than the image.
    """
    image = to_rgb(sample["image"])
    truth = np.asarray(sample["semantic"]).astype(np.int64) if "semantic" in sample else None
    for name, labels in (("prediction", found), ("truth", truth)):
        if labels is not None and labels.shape != image.shape[:2]:
            raise ValueError(f"a {name} of {labels.shape} pixels for an image of {image.shape[:2]}")
    shown = enlarge(image, SMALLEST, LARGEST)
    maps = [
        resized(np.asarray(labels).astype(np.int64), shown.shape[:2]) for labels in (truth, found) if labels is not None
    ]
    present = sorted({int(label) for labels in maps for label in np.unique(labels)} - {IGNORED})
    names = {label: class_name(label, class_names) for label in present}
    colors = colors_of([label for label, name in names.items() if name.lower() != BACKGROUND])
    drawn = [tinted(shown, labels, colors, names) for labels in maps]
    entries: list[tuple[Color | None, str]] = [(colors.get(label), name) for label, name in names.items()]
    if truth is None:
        picture = panels([shown, *drawn], ["image", "prediction"])
    else:
        known = truth != IGNORED
        right = float(np.mean(found[known] == truth[known])) if known.any() else float("nan")
        told = f"errors: {1 - right:.1%}" if known.any() else "errors: no truth"
        wrong = errors(shown, maps[1] != maps[0], maps[0] == IGNORED)
        picture = panels([shown, *drawn, wrong], ["image", "truth", "prediction", told])
        entries.append((ERROR, "wrong"))
        if not known.all():
            entries.append(((200, 200, 200), "ignored"))
    return np.concatenate([picture, legend(entries, picture.shape[1])])


def tinted(
    picture: UInt8[np.ndarray, "h w 3"],
    labels: Int[np.ndarray, "h w"],
    colors: Mapping[int, Color],
    names: Mapping[int, str],
) -> UInt8[np.ndarray, "h w 3"]:
    """The picture with its classes, the names of those that have room for it."""
    marks = Marks(picture)
    for label, color in colors.items():
        marks.fill(labels == label, color, 0.7)
    marks.hatch(labels == IGNORED)
    for label, color in colors.items():
        middle = middle_of(labels == label, TAG_ROOM)
        if middle is not None:
            marks.tag(names[label], (*middle, *middle), color, size=11, middle=middle)
    return marks.finish()


def errors(
    picture: UInt8[np.ndarray, "h w 3"], wrong: Bool[np.ndarray, "h w"], ignored: Bool[np.ndarray, "h w"]
) -> UInt8[np.ndarray, "h w 3"]:
    """The pale grey picture with its wrong pixels in black, which no class has."""
    grey = picture.astype(np.float32).mean(axis=2, keepdims=True) * 0.35 + 160
    marks = Marks(np.broadcast_to(grey, picture.shape).astype(np.uint8))
    marks.fill(wrong & ~ignored, ERROR, 0.8, edge=False)
    marks.hatch(ignored)
    return marks.finish()


def resized(labels: Int[np.ndarray, "h w"], size: tuple[int, ...]) -> Int[np.ndarray, "h2 w2"]:
    """A map at another size: the value at the centre of each pixel."""
    rows, columns = (
        np.minimum(((np.arange(new) + 0.5) * old / new).astype(int), old - 1)
        for new, old in zip(size, labels.shape, strict=True)
    )
    return labels[rows[:, None], columns]
