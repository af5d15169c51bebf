"""Shapes that are no digits: bars, discs and rings, on the ground or across the objects."""

import math

import numpy as np

from jaxvision.data.sources.digit_scenes.draws import Draws
from jaxvision.data.sources.digit_scenes.glyphs import Tile


def bar(size: tuple[int, int], draws: Draws) -> Tile:
    """A straight bar, a third to all of the shorter side long, 2.5 to 5 % of it wide."""
    side = min(size)
    return _bar(size, side * draws.uniform(0.35, 1.0), side * draws.uniform(0.025, 0.05), draws)


def shape(size: tuple[int, int], draws: Draws) -> Tile:
    """A short bar, a disc or a ring, cut at the border of the picture."""
    side, kind = min(size), draws.integer(0, 2)
    if kind == 0:
        return _bar(size, side * draws.uniform(0.08, 0.4), side * draws.uniform(0.01, 0.05), draws).cut(*size)
    x, y = _anywhere(size, draws)
    radius = side * draws.uniform(0.02, 0.11)
    left, top, dx, dy = _around(x, y, radius + 1, radius + 1, size)
    distance = np.sqrt(dx[None] ** 2 + dy[:, None] ** 2) - radius
    if kind == 2:
        distance = np.abs(distance + radius * 0.3) - max(0.6, radius * draws.uniform(0.12, 0.3))
    return Tile(left, top, _opacity(distance))


def _bar(size: tuple[int, int], length: float, width: float, draws: Draws) -> Tile:
    x, y = _anywhere(size, draws)
    angle = draws.uniform(0, math.pi)
    cosine, sine = math.cos(angle), math.sin(angle)
    along, across = length / 2, max(width, 1.0) / 2
    reach_x = abs(cosine) * along + abs(sine) * across + 1
    reach_y = abs(sine) * along + abs(cosine) * across + 1
    left, top, dx, dy = _around(x, y, reach_x, reach_y, size)
    u = np.abs(dx[None] * cosine + dy[:, None] * sine) - along
    v = np.abs(dy[:, None] * cosine - dx[None] * sine) - across
    return Tile(left, top, _opacity(np.maximum(u, v)))


def _anywhere(size: tuple[int, int], draws: Draws) -> tuple[float, float]:
    return draws.uniform(0, size[1]), draws.uniform(0, size[0])


def _around(
    x: float, y: float, reach_x: float, reach_y: float, size: tuple[int, int]
) -> tuple[int, int, np.ndarray, np.ndarray]:
    """First column and row of a window in the picture, and distances of its pixels' centres from (x, y)."""
    left, right = max(0, math.floor(x - reach_x)), min(size[1], math.ceil(x + reach_x))
    top, bottom = max(0, math.floor(y - reach_y)), min(size[0], math.ceil(y + reach_y))
    return left, top, np.arange(left, right) + (0.5 - x), np.arange(top, bottom) + (0.5 - y)


def _opacity(distance: np.ndarray) -> np.ndarray:
    return np.clip((0.5 - distance) * 256, 0, 256).astype(np.int32)
