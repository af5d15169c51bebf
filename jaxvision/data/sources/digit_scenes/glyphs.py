"""The scanned digits as smooth ink, and pictures of it under a rotation and a scale.

A scan has 8x8 cells. Its ink is interpolated (cubic convolution, in integers) to `FINE` samples per cell over the scan
and a margin of one cell, once for all digits of a split: 9.2 and 2.3 MB. A pixel belongs to a digit where the ink at
its centre reaches `LEVEL`; around that level opacity falls off over about a pixel, whatever the size of the digit. Ink
is read bilinearly at fixed-point coordinates, so that pictures and masks are the same on every machine.

The *frame* of a digit is the tight box of its ink in the scan's own axes; its four corners and its centre are the
keypoints.
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from jaxvision.data.sources.digits import _load

CELLS = 8
FINE = 8
SAMPLES = (CELLS + 2) * FINE
LEVEL = 112
"""Ink, 0..255, from which on a pixel is the digit's."""
KEYPOINTS = ("top_left", "top_right", "bottom_right", "bottom_left", "centre")
_BITS = 8
_SOFTNESS = 1.6  # cells over which the ink of a stroke's edge rises from 0 to 255


@dataclasses.dataclass(frozen=True, eq=False)
class Glyphs:
    """The digits of one split.

    Attributes:
      ink: 0..255; sample j lies at (j + 0.5) / FINE - 1 cells.
      labels: what they are.
      frames: left, top, right, bottom of the ink, in cells of the scan.
    """

    ink: UInt8[np.ndarray, "n samples samples"]
    labels: Int[np.ndarray, " n"]
    frames: Float[np.ndarray, "n 4"]


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where a digit lies: the centre of its frame (x, y) in pixels, pixels per cell along its own x and y axes, and
    the angle in radians, clockwise as seen."""

    digit: int
    center: tuple[float, float]
    cell: tuple[float, float]
    angle: float

    def corners(self, frame: Float[np.ndarray, "4"]) -> Float[np.ndarray, "4 2"]:
        """The corners of a frame in pixels, clockwise from the top left one of the upright digit."""
        return frame_corners(self.center, (frame[2:] - frame[:2]) * self.cell, self.angle)


@dataclasses.dataclass(frozen=True, eq=False)
class Tile:
    """Opacity 0..256 of a part of the plane whose first pixel is (left, top); at least 128 is mask."""

    left: int
    top: int
    alpha: Int[np.ndarray, "h w"]

    def moved(self, x: int, y: int) -> "Tile":
        return dataclasses.replace(self, left=self.left + x, top=self.top + y)

    def cut(self, height: int, width: int) -> "Tile":
        """The part inside a picture."""
        left, top = max(0, self.left), max(0, self.top)
        inside = self.alpha[top - self.top : max(0, height - self.top), left - self.left : max(0, width - self.left)]
        return Tile(left, top, inside)

    @property
    def mask(self) -> Bool[np.ndarray, "h w"]:
        return self.alpha >= 128

    @property
    def window(self) -> tuple[slice, slice]:
        """Where it lies in a picture that holds it."""
        height, width = self.alpha.shape
        return slice(self.top, self.top + height), slice(self.left, self.left + width)


@functools.cache
def load_glyphs(split: str) -> Glyphs:
    """The training or the validation digits; no digit is in both."""
    images, labels, validation = _load()
    rows = np.flatnonzero(validation == (split == "validation"))
    ink = _smooth(images[rows])
    solid = np.greater_equal(ink, LEVEL)
    sides: list[np.ndarray] = [np.any(solid, axis=1), np.any(solid, axis=2)]
    first = [side.argmax(axis=1) for side in sides]
    last = [SAMPLES - side[:, ::-1].argmax(axis=1) for side in sides]
    return Glyphs(ink, labels[rows], np.stack([*first, *last], axis=1) / FINE - 1)


def frame_corners(center: Sequence[float], sides: Sequence[float], angle: float) -> Float[np.ndarray, "4 2"]:
    """Corners of a rotated box, clockwise from the one that is top left at angle 0."""
    half = np.array([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]]) * np.asarray(sides)
    cosine, sine = np.cos(angle), np.sin(angle)
    return half @ np.array([[cosine, sine], [-sine, cosine]]) + np.asarray(center)


def rasterise(glyphs: Glyphs, placements: Sequence[Placement]) -> Tile:
    """The opacity of one digit, or of several that are one object."""
    tiles = [_rasterise(glyphs, placement) for placement in placements]
    if len(tiles) == 1:
        return tiles[0]
    left, top = min(tile.left for tile in tiles), min(tile.top for tile in tiles)
    right = max(tile.left + tile.alpha.shape[1] for tile in tiles)
    bottom = max(tile.top + tile.alpha.shape[0] for tile in tiles)
    union = Tile(left, top, np.zeros((bottom - top, right - left), np.int32))
    for tile in tiles:
        part = union.alpha[tile.moved(-left, -top).window]
        np.maximum(part, tile.alpha, out=part)
    return union


def _rasterise(glyphs: Glyphs, placement: Placement) -> Tile:
    frame = glyphs.frames[placement.digit]
    # The level lies half a pixel inside the outermost pixels whose opacity is not 0.
    sides = (frame[2:] - frame[:2]) * placement.cell + 3.0
    corners = frame_corners(placement.center, sides, placement.angle)
    left, top = (int(value) for value in np.floor(corners.min(axis=0)))
    right, bottom = (int(value) for value in np.ceil(corners.max(axis=0)))
    cosine, sine = np.cos(placement.angle), np.sin(placement.angle)
    # Fixed point, in samples: what rounding of cosines differs by between machines is rounded away.
    one = 1 << 16
    across, along = (round(FINE * one / side) for side in placement.cell)
    matrix = ((round(cosine * across), round(sine * across)), (round(-sine * along), round(cosine * along)))
    x = np.arange(left, right, dtype=np.int64) * 2 + 1 - round(2 * placement.center[0] * 64) / 64
    y = np.arange(top, bottom, dtype=np.int64) * 2 + 1 - round(2 * placement.center[1] * 64) / 64
    places = []
    for axis, (by_x, by_y) in enumerate(matrix):
        middle = round(((frame[axis] + frame[axis + 2]) / 2 + 1) * FINE * one) - one // 2
        place = (x * (by_x / 2))[None].astype(np.int32) + (y * (by_y / 2) + middle)[:, None].astype(np.int32)
        place >>= 16 - _BITS
        places.append(_between(place, ((SAMPLES - 1) << _BITS) - 1))
    ink = _bilinear(glyphs.ink[placement.digit].reshape(-1), *places)
    gain = round(256 * _SOFTNESS * (placement.cell[0] + placement.cell[1]) / 2)
    alpha = (((ink - (LEVEL << _BITS)) >> _BITS) * gain >> 8) + 128
    return Tile(left, top, _between(alpha, 256))


def _bilinear(
    ink: UInt8[np.ndarray, " samples"], x: Int[np.ndarray, "h w"], y: Int[np.ndarray, "h w"]
) -> Int[np.ndarray, "h w"]:
    """Ink times 2 ** _BITS at fixed-point places."""
    place = (y >> _BITS) * SAMPLES + (x >> _BITS)
    mask = (1 << _BITS) - 1
    x, y = x & mask, y & mask
    a, b, c, d = (ink.take(place + step).astype(np.int32) for step in (0, 1, SAMPLES, SAMPLES + 1))
    above = (a << _BITS) + (b - a) * x
    below = (c << _BITS) + (d - c) * x
    return above + ((below - above) * y >> _BITS)


def _between(values: Int[np.ndarray, "..."], high: int) -> Int[np.ndarray, "..."]:
    """Brings them to 0..high in place; on small arrays several times faster than `np.clip`."""
    return np.minimum(np.maximum(values, 0, out=values), high, out=values)


def _smooth(images: UInt8[np.ndarray, "n 8 8"]) -> UInt8[np.ndarray, "n samples samples"]:
    places = (np.arange(SAMPLES) + 0.5) / FINE - 1.5  # in centres of cells
    weights = np.round(4096 * _kernel(places[:, None] - np.arange(CELLS)[None])).astype(np.int64)
    rows = np.einsum("ij,njk->nik", weights, images.astype(np.int64))
    ink = np.einsum("kl,nik->nil", weights.T, rows)
    return np.clip((ink + (1 << 23)) >> 24, 0, 255).astype(np.uint8)


def _kernel(x: np.ndarray) -> np.ndarray:
    """Cubic convolution (Keys 1981) with a = -0.75, at which most digits are one piece with the holes they should have
    (of -0.5, -0.75, -1 and the softer cubic of Mitchell and Netravali; the steepest rings)."""
    a, x = -0.75, np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x**2 + 1
    far = ((x - 5) * x + 8) * a * x - 4 * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))
