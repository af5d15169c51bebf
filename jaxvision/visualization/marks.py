"""Marks on pictures: outlines, dots and filled regions with smooth edges, name tags that keep out of each other's way.

Every line is cased in black or white, so that it shows on any ground; colours are those of `palette`, and neither a
class nor an object is told by its colour alone.
"""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageDraw

from jaxvision.visualization import palette
from jaxvision.visualization.canvas import blank, font, shorten

Color = tuple[int, int, int]
Box = tuple[float, float, float, float]

_FINER = 2  # lines are drawn at twice the size and averaged
_HUES = tuple(color for color in palette.CYCLE if color != palette.BLACK)
_DARK_CASING, _LIGHT_CASING = (0, 0, 0, 150), (255, 255, 255, 170)


def color_of(number: int) -> Color:
    """A colour for each number: seven hues, then the same ones darker, then pale, and again."""
    turn, hue = divmod(number, len(_HUES))
    color = np.array(palette.rgb(_HUES[hue]), np.float64)
    if turn % 3 == 1:
        color = color * 0.5
    elif turn % 3 == 2:
        color = color * 0.4 + 153.0
    red, green, blue = (round(float(channel)) for channel in color)
    return red, green, blue


def colors_of(labels: Sequence[int]) -> dict[int, Color]:
    """A colour for each of a picture's classes, no two alike as far as there are colours.

    A class has the same colour in all pictures, unless a lower class in the picture has it.
    """
    count, taken = 3 * len(_HUES), set[int]()
    colors: dict[int, Color] = {}
    for label in sorted(labels):
        number = label % count
        if len(taken) < count:
            while number in taken:
                number = (number + 1) % count
        taken.add(number)
        colors[label] = color_of(number)
    return colors


def middle_of(region: Bool[np.ndarray, "h w"], room: float) -> tuple[float, float] | None:
    """The place (x, y) in a region that is farthest from its edge, where that is at least `room` pixels away."""
    from scipy import ndimage

    step = max(1, round(max(region.shape) / 160))
    coarse = np.pad(region[::step, ::step], 1)
    depth = ndimage.distance_transform_edt(coarse)
    row, column = np.unravel_index(int(depth.argmax()), depth.shape)
    if depth[row, column] * step < room:
        return None
    return (float(column) - 0.5) * step, (float(row) - 0.5) * step


def ink_on(color: Color) -> str:
    """Black or white, whichever is read more easily on a colour."""
    red, green, blue = (channel / 255 for channel in color)
    return palette.BLACK if palette.luminance((red, green, blue)) > 0.22 else palette.PAPER


def _casing(color: Color) -> tuple[int, int, int, int]:
    return _DARK_CASING if ink_on(color) == palette.BLACK or max(color) > 140 else _LIGHT_CASING


class Marks:
    """A picture that is drawn on. Regions come first, then outlines and dots, then tags; `finish` gives the result."""

    def __init__(self, picture: UInt8[np.ndarray, "h w 3"]):
        height, width = picture.shape[:2]
        self.width, self.height = width, height
        self.stroke = 2.0 if max(width, height) <= 800 else 3.0
        self._pixels = picture.astype(np.float32)
        self._lines = Image.new("RGBA", (width * _FINER, height * _FINER), (0, 0, 0, 0))
        self._pen = ImageDraw.Draw(self._lines)
        self._tags: list[tuple[Box, str, Color, int]] = []

    def fill(self, region: Bool[np.ndarray, "h w"], color: Color, opacity: float = 0.5, edge: bool = True) -> None:
        """Tints a region, and draws its edge."""
        rows, columns = np.flatnonzero(region.any(axis=1)), np.flatnonzero(region.any(axis=0))
        if not len(rows):
            return
        window = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        part, inside = self._pixels[window], region[window]
        part[inside] += (np.array(color, np.float32) - part[inside]) * opacity
        if edge:
            around = np.pad(inside, 1)
            deep = around[:-2, 1:-1] & around[2:, 1:-1] & around[1:-1, :-2] & around[1:-1, 2:]
            part[inside & ~deep] = color

    def hatch(self, region: Bool[np.ndarray, "h w"]) -> None:
        """Grey stripes on a region: it counts for nothing."""
        rows, columns = np.nonzero(region)
        self._pixels[rows, columns] = self._pixels[rows, columns] * 0.6 + 50
        stripes = (rows + columns) % 10 < 2
        self._pixels[rows[stripes], columns[stripes]] = 215

    def box(self, box: Box, color: Color, *, dashed: bool = False, thin: bool = False) -> None:
        """The outline of left, top, right, bottom, inside of it where it has room."""
        inset = min(self.stroke / 2, (box[2] - box[0]) / 2, (box[3] - box[1]) / 2)
        left, top, right, bottom = box[0] + inset, box[1] + inset, box[2] - inset, box[3] - inset
        corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
        self.polygon(np.array(corners), color, dashed=dashed, thin=thin)

    def polygon(
        self, corners: Float[np.ndarray, "n 2"], color: Color, *, dashed: bool = False, thin: bool = False
    ) -> None:
        """The outline of a polygon."""
        width = self.stroke * (0.6 if thin else 1.0)
        lines: list[tuple[np.ndarray, np.ndarray]] = []
        for start, end in zip(corners, np.roll(corners, -1, axis=0), strict=True):
            lines += _dashes(start, end, 4 * self.stroke) if dashed else [(start, end)]
        for extra, ink in ((1.5, _casing(color)), (0.0, (*color, 255))):
            thickness = round((width + extra) * _FINER)
            for start, end in lines:
                self._line(start, end, thickness, ink)

    def dot(self, x: float, y: float, color: Color, radius: float, *, hollow: bool = False) -> None:
        """A disc, or a ring."""
        for reach, ink in ((radius + 1.2, _casing(color)), (radius, (*color, 255))):
            self._disc(x, y, reach, ink)
        if hollow:
            self._disc(x, y, radius * 0.5, (255, 255, 255, 255))

    def tag(self, text: str, box: Box, color: Color, size: int = 12, middle: tuple[float, float] | None = None) -> bool:
        """Writes a name beside or in a box, or if it can around a place (x, y); returns whether one was free."""
        face = font(size, bold=True)
        text = shorten(text, max(40, self.width - 8), face)
        width, height = math.ceil(face.getlength(text)) + 6, size + 4
        if width > self.width or height > self.height:
            return False
        left, top, right, bottom = box
        roomy = right - left >= 1.5 * width and bottom - top >= 2.5 * height
        places = [(left, top - height), (right - width, top - height), (left, bottom), (right - width, bottom)]
        beside = [(right, top), (left - width, top)]
        inside = [(left, top), (left, bottom - height)]
        choice = [*places, *inside, *beside] if roomy else [*places, *beside]
        if middle is not None:
            choice = [(middle[0] - width / 2, middle[1] - height / 2), *choice]
        for x, y in choice:
            place = _moved_inside(x, y, width, height, self.width, self.height)
            strayed = max(abs(place[0] - x), abs(place[1] - y))
            near = strayed <= height or roomy
            if near and not any(_overlap(place, other) for other, *_ in self._tags):
                self._tags.append((place, text, color, size))
                return True
        return False

    def finish(self) -> UInt8[np.ndarray, "h w 3"]:
        """The picture with everything on it."""
        pixels = np.minimum(np.maximum(np.round(self._pixels), 0), 255).astype(np.uint8)
        paper = Image.fromarray(pixels)
        lines = self._lines.resize((self.width, self.height), Image.Resampling.BOX)
        paper.paste(lines, (0, 0), lines)
        pen = ImageDraw.Draw(paper, "RGBA")
        for (left, top, right, bottom), text, color, size in self._tags:
            pen.rectangle((left, top, right - 1, bottom - 1), fill=(*color, 235))
            middle = (top + bottom) / 2
            pen.text((left + 3, middle), text, ink_on(color), font(size, bold=True), anchor="lm")
        return np.asarray(paper).copy()

    def _line(self, start: np.ndarray, end: np.ndarray, thickness: int, ink: tuple[int, int, int, int]) -> None:
        (x0, y0), (x1, y1) = ((float(v) * _FINER for v in point) for point in (start, end))
        if max(map(abs, (x0, y0, x1, y1))) > 1e6:
            return  # Pillow draws nothing sensible so far away, and takes its time
        self._pen.line((x0, y0, x1, y1), fill=ink, width=thickness)
        reach = thickness / 2
        if thickness > 2:
            for x, y in ((x0, y0), (x1, y1)):
                self._pen.ellipse((x - reach, y - reach, x + reach, y + reach), fill=ink)

    def _disc(self, x: float, y: float, radius: float, ink: tuple[int, int, int, int]) -> None:
        x, y, radius = x * _FINER, y * _FINER, radius * _FINER
        self._pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=ink)


def legend(
    entries: Sequence[tuple[Color | None, str]], width: int, lines: int = 4, round_swatches: bool = False
) -> UInt8[np.ndarray, "h width 3"]:
    """Swatches with their names, on as many lines as they need, but no more than `lines`; None is an empty swatch."""
    face, row, swatch = font(12), 20, 11
    rows: list[list[tuple[int, Color | None, str]]] = [[]]
    x, left_out = 0, 0
    for number, (color, name) in enumerate(entries):
        name = shorten(name, max(24, min(180, width - 24)), face)
        needed = swatch + 5 + math.ceil(face.getlength(name)) + 12
        if x and x + needed > width:
            if len(rows) == lines:
                left_out = len(entries) - number
                break
            rows.append([])
            x = 0
        rows[-1].append((x, color, name))
        x += needed
    paper, pen = blank(width, row * (len(rows) + bool(left_out)) + 4)
    for line, items in enumerate(rows):
        middle = 4 + line * row + row // 2
        for x, color, name in items:
            place = (x + 1, middle - swatch // 2, x + swatch, middle + swatch // 2)
            draw = pen.ellipse if round_swatches else pen.rectangle
            draw(place, fill=color or palette.PAPER, outline=palette.FAINT)
            pen.text((x + swatch + 5, middle), name, palette.TEXT, face, anchor="lm")
    if left_out:
        pen.text((1, 4 + len(rows) * row + row // 2), f"and {left_out} more", palette.FAINT, face, anchor="lm")
    return np.asarray(paper).copy()


def _dashes(start: np.ndarray, end: np.ndarray, length: float) -> list[tuple[np.ndarray, np.ndarray]]:
    whole = float(np.hypot(*(end - start)))
    if not 0 < whole < 1e6:
        return [(start, end)]
    count = min(2000, max(1, round(whole / length)))
    return [(start + (end - start) * (i / count), start + (end - start) * ((i + 0.5) / count)) for i in range(count)]


def _moved_inside(x: float, y: float, width: int, height: int, right: int, bottom: int) -> Box:
    x, y = round(min(max(x, 0), right - width)), round(min(max(y, 0), bottom - height))
    return x, y, x + width, y + height


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
