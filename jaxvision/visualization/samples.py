"""Pictures of samples with everything that is annotated about them: what `data.samples` describes, any part of it.

Objects (boxes, rotated boxes, masks, keypoints, texts), the semantic and the panoptic map get a panel each, so that
none hides another. Tiny images are enlarged with visible pixels, large ones shrunk; marks and letters keep their size.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from jaxvision.visualization import palette
from jaxvision.visualization.canvas import blank, enlarge, font, shorten, to_rgb
from jaxvision.visualization.classification import true_labels
from jaxvision.visualization.marks import Color, Marks, color_of, colors_of, legend, middle_of

SMALLEST, LARGEST, LARGEST_OF_SEVERAL = 384, 1024, 720
"""Longer side of a panel in pixels: at least; at most, if it is the only one or one of several."""
SMALLEST_FRAME, LARGEST_FRAME = 256, 288
"""That of a frame of a clip."""
FRAMES = 6
"""Frames that are shown of a clip, at even distances from the first to the last."""
_MARGIN = 160  # shorter side of a panel, at least: names need room beside thin images
_GAP = 8
_TITLE = 26
_IGNORED = 255
_OBJECTS = ("boxes", "masks", "keypoints", "rotated_boxes")
_BACKGROUND = "background"


def draw_sample(
    sample: Mapping[str, Any],
    class_names: Sequence[str] = (),
    keypoint_names: Sequence[str] = (),
    *,
    by_class: bool = False,
) -> UInt8[np.ndarray, "h w 3"]:
    """Draws an image or a clip and its annotations.

    A crowd is dashed; hidden keypoints are rings, visible ones discs; the upper side of a rotated box has a notch. A
    region of class "background" is not tinted, an ignored one is hatched. Names for which there is no place are left
    out and counted below the picture. Values that cannot be drawn (not finite) are left out.

    Args:
      sample: in the schema of `data.samples`; arrays may be padded with neither more nor fewer rows than `labels`. With
        `scores` (of detections) they stand behind the names.
      class_names: names by label; without them classes are numbered.
      keypoint_names: of its keypoints, for the legend.
      by_class: objects have the colour of their class, not one of their own.
    """
    if by_class:
        sample = {**sample, "color_ids": sample["labels"]}
    title = _title(sample, class_names)
    if "video" in sample:
        return _under_title(title, _strip(sample, class_names, keypoint_names))
    drawers = []
    if any(key in sample for key in _OBJECTS) or not {"semantic", "panoptic"} & set(sample):
        drawers.append(("objects", _objects))
    drawers += [(key, drawer) for key, drawer in (("semantic", _semantic), ("panoptic", _panoptic)) if key in sample]
    largest = LARGEST if len(drawers) == 1 else LARGEST_OF_SEVERAL
    picture = _Picture(sample["image"], SMALLEST, largest)
    drawn = [drawer(picture, sample, class_names, keypoint_names) for _, drawer in drawers]
    names = [name for name, _ in drawers] if len(drawers) > 1 else []
    return _under_title(title, panels(drawn, names))


class _Picture:
    """An image at the size at which it is shown, on paper where it is too thin for marks.

    Attributes:
      pixels: uint8 [h, w, 3].
      scale, offset: from the image's coordinates (x, y) to those of `pixels`.
    """

    def __init__(self, image: np.ndarray, smallest: int, largest: int):
        rgb = to_rgb(image)
        shown = enlarge(rgb, smallest, largest)
        self.source, self.inner = rgb.shape[:2], shown.shape[:2]
        height, width = (max(_MARGIN, side) for side in self.inner)
        top, left = (height - self.inner[0]) // 2, (width - self.inner[1]) // 2
        self.pixels = np.full((height, width, 3), palette.rgb(palette.GRID), np.uint8)
        self.window = slice(top, top + self.inner[0]), slice(left, left + self.inner[1])
        self.pixels[self.window] = shown
        self.scale = np.array([self.inner[1] / self.source[1], self.inner[0] / self.source[0]])
        self.offset = np.array([left, top], np.float64)

    def points(self, xy: np.ndarray) -> np.ndarray:
        """Coordinates (..., 2) of the image -> of `pixels`."""
        return np.asarray(xy, np.float64) * self.scale + self.offset

    def map(self, values: np.ndarray, outside: Any) -> np.ndarray:
        """A map [h, w] of the image -> of `pixels`, nearest values."""
        rows, columns = (
            np.minimum(((np.arange(new) + 0.5) * old / new).astype(int), old - 1)
            for new, old in zip(self.inner, self.source, strict=True)
        )
        full = np.full(self.pixels.shape[:2], outside, np.asarray(values).dtype)
        full[self.window] = np.asarray(values)[rows[:, None], columns]
        return full


def _objects(
    picture: _Picture, sample: Mapping[str, Any], class_names: Sequence[str], keypoint_names: Sequence[str]
) -> np.ndarray:
    marks = Marks(picture.pixels)
    count = max((len(sample[key]) for key in _OBJECTS if key in sample), default=0)
    extents = [_extent(picture, sample, i) for i in range(count)]
    sizes = [0.0 if box is None else (box[2] - box[0]) * (box[3] - box[1]) for box in extents]
    order = sorted(range(count), key=lambda i: -sizes[i])
    colors = {i: color_of(_color_number(sample, i)) for i in range(count)}
    if "masks" in sample:
        for i in order:
            marks.fill(picture.map(np.asarray(sample["masks"][i], bool), False), colors[i])
    for i in order:
        _outlines(marks, picture, sample, i, colors[i])
    if "keypoints" in sample:
        for i in order:
            _dots(marks, picture, np.asarray(sample["keypoints"][i], np.float64), extents[i])
    nameless = 0
    for i in order:
        text, box = _name(sample, i, class_names), extents[i]
        if text and box is not None:
            nameless += not marks.tag(text, box, colors[i], size=12 if count <= 30 else 10)
    below = []
    if "keypoints" in sample and len(keypoint_names) and count:
        entries = [(color_of(k), name) for k, name in enumerate(keypoint_names)]
        below.append(legend(entries, picture.pixels.shape[1], lines=3, round_swatches=True))
    return _stack(marks.finish(), below, nameless)


def _outlines(marks: Marks, picture: _Picture, sample: Mapping[str, Any], i: int, color: Color) -> None:
    crowd = "crowd" in sample and bool(sample["crowd"][i])
    rotated = "rotated_boxes" in sample and np.isfinite(sample["rotated_boxes"][i]).all()
    if "boxes" in sample and np.isfinite(sample["boxes"][i]).all():
        box = picture.points(np.reshape(sample["boxes"][i], (2, 2))).ravel()
        marks.box(tuple(box), color, dashed=crowd, thin=bool(rotated) or "masks" in sample)
    if rotated:
        corners = _corners(np.asarray(sample["rotated_boxes"][i], np.float64))
        points = picture.points(corners)
        marks.polygon(points, color, dashed=crowd)
        middle, inward = (points[0] + points[1]) / 2, points[3] - points[0]
        length = float(np.hypot(*inward))
        if length > 12:
            marks.polygon(np.stack([middle, middle + inward / length * min(8.0, length / 3)]), color)


def _dots(marks: Marks, picture: _Picture, rows: np.ndarray, extent: Sequence[float] | None) -> None:
    side = 40.0 if extent is None else max(extent[2] - extent[0], extent[3] - extent[1])
    radius = min(2.0 * marks.stroke, max(1.6, side / 16))
    for k, (x, y, visibility) in enumerate(rows):
        if visibility > 0 and np.isfinite((x, y)).all():
            column, row = picture.points(np.array([x, y]))
            marks.dot(float(column), float(row), color_of(k), radius, hollow=visibility < 2)


def _semantic(
    picture: _Picture, sample: Mapping[str, Any], class_names: Sequence[str], keypoint_names: Sequence[str]
) -> np.ndarray:
    marks = Marks(picture.pixels)
    semantic = np.asarray(sample["semantic"]).astype(np.int64)
    classes, found = picture.map(semantic, -1), np.unique(semantic).tolist()
    named = {label: class_name(label, class_names) for label in found if label != _IGNORED}
    colors = colors_of([label for label, name in named.items() if name.lower() != _BACKGROUND])
    for label, color in colors.items():
        marks.fill(classes == label, color, 0.55)
    entries: list[tuple[Color | None, str]] = [(colors.get(label), name) for label, name in named.items()]
    if _IGNORED in found:
        marks.hatch(classes == _IGNORED)
        entries.append(((200, 200, 200), "ignored"))
    return _stack(marks.finish(), [legend(entries, picture.pixels.shape[1])])


def _panoptic(
    picture: _Picture, sample: Mapping[str, Any], class_names: Sequence[str], keypoint_names: Sequence[str]
) -> np.ndarray:
    marks = Marks(picture.pixels)
    segments = picture.map(np.asarray(sample["panoptic"], np.int64), -1)
    marks.hatch(segments == 0)
    nameless = 0
    labels = np.asarray(sample["segment_labels"])
    found = [(int((segments == number).sum()), number) for number in range(1, len(labels) + 1)]
    for size, number in sorted(found, reverse=True):
        region = segments == number
        name = class_name(int(labels[number - 1]), class_names)
        if not size or name.lower() == _BACKGROUND:
            continue
        color = color_of(number - 1)
        marks.fill(region, color, 0.55)
        if "segment_crowd" in sample and sample["segment_crowd"][number - 1]:
            name += " (crowd)"
        rows, columns = np.nonzero(region)
        box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        nameless += not marks.tag(name, box, color, 12 if len(labels) <= 30 else 10, middle_of(region, room=14))
    return _stack(marks.finish(), [], nameless)


def _strip(sample: Mapping[str, Any], class_names: Sequence[str], keypoint_names: Sequence[str]) -> np.ndarray:
    video = sample["video"]
    times = sorted({round(float(time)) for time in np.linspace(0, len(video) - 1, min(FRAMES, len(video)))})
    frames = []
    for time in times:
        present = np.asarray(sample["present"][time], bool) if "present" in sample else slice(None)
        frame: dict[str, Any] = {"image": video[time]}
        for key in ("labels", "track_ids"):
            if key in sample:
                frame[key] = np.asarray(sample[key])[present]
        for key in _OBJECTS:
            if key in sample:
                frame[key] = np.asarray(sample[key][time])[present]
        picture = _Picture(video[time], SMALLEST_FRAME, LARGEST_FRAME)
        frames.append(_objects(picture, frame, class_names, ()))
    strip = panels(frames, [f"frame {time}" for time in times])
    if "keypoints" not in sample or not len(keypoint_names):
        return strip
    entries = [(color_of(k), name) for k, name in enumerate(keypoint_names)]
    return np.concatenate([strip, legend(entries, strip.shape[1], lines=2, round_swatches=True)])


def class_name(label: int, class_names: Sequence[str]) -> str:
    """Its name, or "class 7" where there is none."""
    return str(class_names[label]) if 0 <= label < len(class_names) else f"class {label}"


def _color_number(sample: Mapping[str, Any], i: int) -> int:
    if "color_ids" in sample:
        return int(sample["color_ids"][i])
    return int(sample["track_ids"][i]) - 1 if "track_ids" in sample else i


def _name(sample: Mapping[str, Any], i: int, class_names: Sequence[str]) -> str:
    name = class_name(int(sample["labels"][i]), class_names) if "labels" in sample else ""
    if "texts" in sample and sample["texts"][i] not in ("", name):
        name = f"{name} “{sample['texts'][i]}”".strip()
    if "track_ids" in sample:
        name = f"{name} #{int(sample['track_ids'][i])}".strip()
    if "scores" in sample:
        name = f"{name} {float(sample['scores'][i]):.2f}".strip()
    return f"{name} (crowd)".strip() if "crowd" in sample and sample["crowd"][i] else name


def _title(sample: Mapping[str, Any], class_names: Sequence[str]) -> str | None:
    if "label" not in sample:
        return None
    labels = true_labels(sample["label"])
    return ", ".join(class_name(label, class_names) for label in labels) or "none of the classes"


def _extent(picture: _Picture, sample: Mapping[str, Any], i: int) -> tuple[float, float, float, float] | None:
    """What a name stands beside: the box of an object, else that of what else is known of it."""
    if "boxes" in sample:
        points: np.ndarray = np.reshape(np.asarray(sample["boxes"][i], np.float64), (2, 2))
    elif "rotated_boxes" in sample:
        points = _corners(np.asarray(sample["rotated_boxes"][i], np.float64))
    elif "masks" in sample:
        rows, columns = np.nonzero(sample["masks"][i])
        points = np.stack([columns, rows], axis=1) + 0.5
    else:
        rows_of_points = np.asarray(sample["keypoints"][i], np.float64)
        points = rows_of_points[rows_of_points[:, 2] > 0, :2]
    if not len(points) or not np.isfinite(points).all():
        return None
    low, high = picture.points(points.min(axis=0)), picture.points(points.max(axis=0))
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])


def _corners(row: np.ndarray) -> np.ndarray:
    """Corners of a rotated box, clockwise from its own top left one."""
    x, y, width, height, angle = row
    cosine, sine = np.cos(angle), np.sin(angle)
    own = np.array([[-width, -height], [width, -height], [width, height], [-width, height]]) / 2
    return own @ np.array([[cosine, sine], [-sine, cosine]]) + (x, y)


def _stack(picture: np.ndarray, below: Sequence[np.ndarray], nameless: int = 0) -> np.ndarray:
    """A panel: the picture, legends, and how many names are left out."""
    parts = [picture, *below]
    if nameless:
        paper, pen = blank(picture.shape[1], 20)
        text = f"{nameless} {'name is' if nameless == 1 else 'names are'} left out"
        face = font(12)
        pen.text((1, 10), text, palette.FAINT, face, anchor="lm")
        parts.append(np.asarray(paper))
    return np.concatenate(parts)


def panels(pictures: Sequence[np.ndarray], names: Sequence[str]) -> np.ndarray:
    """Panels side by side, each under its name, which thin ones leave room for."""
    head, face = 20 if names else 0, font(12)
    needed = [math.ceil(face.getlength(name)) + 2 for name in names] or [0] * len(pictures)
    widths = [max(panel.shape[1], least) for panel, least in zip(pictures, needed, strict=True)]
    width = sum(widths) + _GAP * (len(pictures) - 1)
    paper, pen = blank(width, head + max(panel.shape[0] for panel in pictures))
    left = 0
    for i, panel in enumerate(pictures):
        if names:
            pen.text((left + 1, head / 2), names[i], palette.FAINT, face, anchor="lm")
        paper.paste(Image.fromarray(panel), (left, head))
        left += widths[i] + _GAP
    return np.asarray(paper).copy()


def _under_title(title: str | None, picture: np.ndarray) -> np.ndarray:
    if title is None:
        return picture
    face = font(16, bold=True)
    paper, pen = blank(picture.shape[1], _TITLE)
    pen.text((1, _TITLE / 2), shorten(title, picture.shape[1] - 2, face), palette.TEXT, face, anchor="lm")
    return np.concatenate([np.asarray(paper), picture])
