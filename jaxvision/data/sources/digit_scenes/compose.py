"""What lies where in a scene: objects placed one after the other, each on top of the former ones.

A candidate place is accepted where at least `1 - overlap` of the pixels of every object, the new one included, stay
visible; an object that finds none in `TRIES` places is left out. What hides is known exactly, from masks, at any time.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from jaxvision.data.sources.digit_scenes import shapes
from jaxvision.data.sources.digit_scenes.draws import Draws
from jaxvision.data.sources.digit_scenes.glyphs import CELLS, Glyphs, Placement, Tile, frame_corners, rasterise
from jaxvision.data.sources.digit_scenes.presets import Preset

TRIES = 10
_STEPS = 64  # places lie on a grid of 1/64 pixel, where fixed-point rasterisation is exact


@dataclasses.dataclass(frozen=True, eq=False)
class Item:
    """One annotated object.

    Attributes:
      tile: its opacity; may reach outside the picture.
      label: its class.
      text: its digits in reading order; nothing for a group.
      angle: in radians, clockwise as seen.
      points: the corners of its frame, clockwise from top left, and its centre.
      crowd: whether it is a group.
      placements: of its digits.
    """

    tile: Tile
    label: int
    text: str
    angle: float
    points: Float[np.ndarray, "5 2"]
    crowd: bool = False
    placements: tuple[Placement, ...] = ()

    def moved(self, x: int, y: int) -> "Item":
        """The same object elsewhere."""
        shifted = tuple(dataclasses.replace(p, center=(p.center[0] + x, p.center[1] + y)) for p in self.placements)
        return dataclasses.replace(
            self, tile=self.tile.moved(x, y), points=self.points + np.array([x, y]), placements=shifted
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Layout:
    """The objects of a scene from the lowest to the uppermost, and what hides them.

    Attributes:
      items: object i has the number i + 1 in `top`.
      occluders: tiles above all objects, numbered on.
      top: what is uppermost at each pixel; 0 is ground.
    """

    items: tuple[Item, ...]
    occluders: tuple[Tile, ...]
    top: Int[np.ndarray, "h w"]


def make_item(
    glyphs: Glyphs, placements: Sequence[Placement], angle: float, *, line: bool, crowd: bool = False
) -> Item:
    """One digit, a line of them, or a group."""
    digits = glyphs.labels[[placement.digit for placement in placements]]
    frames = glyphs.frames[[placement.digit for placement in placements]]
    tile = rasterise(glyphs, placements)
    corners = [placement.corners(frame) for placement, frame in zip(placements, frames, strict=True)]
    if len(corners) == 1:
        box = corners[0]
    else:
        # The frame of several is the tight box of their frames, in their common axes.
        cosine, sine = math.cos(angle), math.sin(angle)
        axes = np.array([[cosine, -sine], [sine, cosine]])
        own = np.concatenate(corners) @ axes
        low, high = own.min(axis=0), own.max(axis=0)
        box = frame_corners(axes @ ((low + high) / 2), high - low, angle)
    points = np.concatenate([box, box.mean(axis=0, keepdims=True)])
    label = 0 if line else int(digits[0])
    text = "" if crowd else "".join(map(str, digits))
    return Item(tile, label, text, angle, points, crowd, tuple(placements))


def compose(glyphs: Glyphs, preset: Preset, size: tuple[int, int], draws: Draws) -> Layout:
    """A layout of a picture of `size` (height, width)."""
    wanted = draws.integer(*preset.objects)
    crowds = draws.integer(0, preset.crowds)
    table = _Table(size, 1.0 - preset.overlap)
    for number in range(crowds + wanted):
        if number < crowds:
            item = _group(glyphs, preset, size, draws)
        elif preset.lines:
            item = _line(glyphs, preset, size, draws)
        else:
            item = _digit(glyphs, preset, size, draws)
        table.place(item, draws.uniforms(TRIES, 2))
    items = tuple(table.items)
    occluders: list[Tile] = []
    for _ in range(draws.integer(0, preset.occluders)):
        tile = shapes.bar(size, draws)
        if table.cover(tile, len(items) + len(occluders) + 1):
            occluders.append(tile.cut(*size))
    return Layout(items, tuple(occluders), table.top)


class _Table:
    """The picture while it is composed; counts of visible pixels are kept exact."""

    def __init__(self, size: tuple[int, int], share: float):
        self.size, self.share = size, share
        self.top = np.zeros(size, np.int32)
        self.items: list[Item] = []
        self._whole, self._visible = [0], [0]

    def place(self, item: Item, places: Float[np.ndarray, "tries 2"]) -> None:
        """Puts the object at the first of the places (shares of the room) that is free enough."""
        height, width = self.size
        whole = int(np.count_nonzero(item.tile.mask))
        if not whole:
            return
        rows, columns = item.tile.alpha.shape
        room = np.array([width - columns, height - rows])
        beyond = np.array([columns, rows]) * (1 - self.share)  # as far outside as it may be hidden
        for x, y in np.floor(-beyond / 2 + places * (room + beyond + 1)).astype(int):
            tile = Tile(int(x), int(y), item.tile.alpha)
            if self._fits(tile, whole):
                self.items.append(item.moved(tile.left - item.tile.left, tile.top - item.tile.top))
                return

    def _fits(self, tile: Tile, whole: int) -> bool:
        inside = tile.cut(*self.size)
        mask = inside.mask
        seen = int(np.count_nonzero(mask))
        if seen < max(1.0, self.share * whole) or not self.cover(inside, len(self.items) + 1):
            return False
        self._whole.append(whole)
        self._visible.append(seen)
        return True

    def cover(self, tile: Tile, number: int) -> bool:
        """Lays a tile on top unless it hides too much of an object."""
        inside = tile.cut(*self.size)
        part, mask = self.top[inside.window], inside.mask
        below = part[mask]
        if below.any():
            lost = np.bincount(below, minlength=len(self._whole))[: len(self._whole)]
            for i in np.flatnonzero(lost[1:]) + 1:
                if self._visible[i] - lost[i] < max(1.0, self.share * self._whole[i]):
                    return False
            for i in np.flatnonzero(lost[1:]) + 1:
                self._visible[i] -= int(lost[i])
        part[mask] = number
        return True


def draw_digit(glyphs: Glyphs, preset: Preset, side: int, draws: Draws) -> Placement:
    """Any digit, its height and angle as the preset says, its centre within the first pixel."""
    digit = draws.integer(0, len(glyphs.labels) - 1)
    height = side * draws.geometric(*preset.scale)
    stretch = draws.geometric(0.87, 1.15)
    angle = math.radians(preset.rotation) * draws.uniform(-1.0, 1.0)
    center = (draws.integer(0, _STEPS - 1) / _STEPS, draws.integer(0, _STEPS - 1) / _STEPS)
    return Placement(digit, center, (height / CELLS * stretch, height / CELLS), angle)


def _digit(glyphs: Glyphs, preset: Preset, size: tuple[int, int], draws: Draws) -> Item:
    placement = draw_digit(glyphs, preset, min(size), draws)
    return make_item(glyphs, [placement], placement.angle, line=False)


def _line(glyphs: Glyphs, preset: Preset, size: tuple[int, int], draws: Draws) -> Item:
    """Digits of one height and angle side by side, small enough for the picture."""
    first = draw_digit(glyphs, preset, min(size), draws)
    count = draws.integer(*preset.line)
    digits = draws.integers(len(glyphs.labels), count)
    gaps = draws.uniforms(count) * 0.8 + 0.6  # cells
    widths = glyphs.frames[digits, 2] - glyphs.frames[digits, 0]
    ends = np.cumsum(widths + gaps) - gaps
    middles = (ends - widths / 2) - ends[-1] / 2
    cosine, sine = math.cos(first.angle), math.sin(first.angle)
    extent = first.cell[0] * ends[-1] * np.array([abs(sine), abs(cosine)])
    extent += first.cell[1] * CELLS * np.array([abs(cosine), abs(sine)])
    shrink = min(1.0, 0.9 * float((np.array(size) / extent).min()))
    cell = (first.cell[0] * shrink, first.cell[1] * shrink)
    placements = [
        dataclasses.replace(
            first, digit=int(digit), cell=cell, center=on_grid(middle * cell[0] * cosine, middle * cell[0] * sine)
        )
        for digit, middle in zip(digits, middles, strict=True)
    ]
    return make_item(glyphs, placements, first.angle, line=True)


def _group(glyphs: Glyphs, preset: Preset, size: tuple[int, int], draws: Draws) -> Item:
    """Six to fifteen small digits of one class, in a grid that is not quite straight."""
    columns, rows = draws.integer(3, 5), draws.integer(2, 3)
    cell = 0.75 * preset.scale[0] * min(size) / CELLS
    same = np.flatnonzero(glyphs.labels == draws.integer(0, 9))
    digits = same[draws.integers(len(same), rows * columns)]
    turns = (draws.uniforms(rows * columns) * 2 - 1) * math.radians(min(preset.rotation, 20))
    shifts = (draws.uniforms(rows * columns, 2) - 0.5) * 0.3
    placements = []
    for i, (digit, turn, shift) in enumerate(zip(digits, turns, shifts, strict=True)):
        row, column = divmod(i, columns)
        center = on_grid(CELLS * cell * (column + shift[0]), 1.15 * CELLS * cell * (row + shift[1]))
        placements.append(Placement(int(digit), center, (cell, cell), float(turn)))
    return make_item(glyphs, placements, 0.0, line=False, crowd=True)


def on_grid(x: float, y: float) -> tuple[float, float]:
    """A place on the grid of 1 / 64 pixel."""
    return round(float(x) * _STEPS) / _STEPS, round(float(y) * _STEPS) / _STEPS
