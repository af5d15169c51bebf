"""Pixels of a scene: a textured ground, shapes on it, the objects from the lowest to the uppermost, noise."""

import dataclasses

import numpy as np
from jaxtyping import Int, UInt8

from jaxvision.data.sources.digit_scenes import shapes
from jaxvision.data.sources.digit_scenes.draws import Draws
from jaxvision.data.sources.digit_scenes.glyphs import Tile
from jaxvision.data.sources.digit_scenes.presets import Preset

_LUMINANCE = np.array([0.299, 0.587, 0.114])
_OCTAVES = ((0.5, 0.55), (0.19, 0.3), (0.07, 0.15))
"""Grain of the ground as a share of the shorter side, and its weight."""


@dataclasses.dataclass(frozen=True, eq=False)
class Ground:
    """A ground with its shapes, and the luminance from which objects keep their contrast."""

    pixels: Int[np.ndarray, "h w 3"]
    luminance: float


def make_ground(preset: Preset, size: tuple[int, int], draws: Draws) -> Ground:
    """A ground of two colours mixed by a texture."""
    luminance = draws.uniform(55, 200)
    first = _color(luminance - preset.texture, 34, draws)
    second = _color(luminance + preset.texture, 34, draws)
    mix = _texture(size, draws)[..., None]
    pixels = first + ((second - first) * mix >> 8)
    for _ in range(draws.integer(0, preset.clutter)):
        tile = shapes.shape(size, draws)
        shift = draws.uniform(0.35, 0.8) * preset.contrast[0] * (1 if draws.uniform() < 0.5 else -1)
        paint(pixels, tile, _color(luminance + shift, 45, draws))
    return Ground(pixels, luminance)


def object_colors(preset: Preset, ground: Ground, count: int, draws: Draws) -> list[Int[np.ndarray, "3"]]:
    """A colour for each object, lighter or darker than the ground by the preset's contrast."""
    return [
        _color(_apart(ground.luminance, draws.uniform(*preset.contrast), draws.uniform()), 60, draws)
        for _ in range(count)
    ]


def paint(pixels: Int[np.ndarray, "h w 3"], tile: Tile, color: Int[np.ndarray, "3"]) -> None:
    """Lays a tile that is inside the picture over it, in place."""
    part = pixels[tile.window]
    part += (color - part) * tile.alpha[..., None] >> 8


def finish(
    pixels: Int[np.ndarray, "h w 3"], noise: int, channels: int, draws: Draws
) -> UInt8[np.ndarray, "h w channels"]:
    """Adds noise (the sum of two uniform numbers, at most `noise`) and makes an image; grey is its luminance."""
    if noise:
        height, width, _ = pixels.shape
        words = draws.bytes(2, height, width, 1).astype(np.int32)
        pixels = pixels + ((words[0] + words[1] - 255) * noise >> 8)
    image = np.minimum(np.maximum(pixels, 0), 255).astype(np.uint8)
    if channels == 3:
        return image
    weights = np.array([19595, 38470, 7471], np.int64)  # ITU-R 601 in fixed point, as in data.images
    return ((image.astype(np.int64) * weights).sum(axis=-1, keepdims=True) + 0x8000 >> 16).astype(np.uint8)


def _texture(size: tuple[int, int], draws: Draws) -> Int[np.ndarray, "h w"]:
    """0..256: soft clouds, wavy stripes, or clouds in steps."""
    kind = draws.integer(0, 3)
    octaves = [_clouds(size, grain, draws) * round(weight * 256) for grain, weight in _OCTAVES]
    clouds = (octaves[0] + octaves[1] + octaves[2]) >> 8
    if kind == 2:
        height, width = size
        period = min(size) * draws.uniform(0.06, 0.2)
        turn = draws.uniforms(2) * 2 - 1
        by_x, by_y = (round(512 * 256 / period * float(part)) for part in turn)
        phase = np.arange(width, dtype=np.int64) * by_x + np.arange(height, dtype=np.int64)[:, None] * by_y
        wave = ((phase >> 8) + 3 * clouds) & 511
        return np.where(wave > 255, 511 - wave, wave).astype(np.int32)
    if kind == 3:
        steps = draws.integer(2, 4)
        return (clouds * (steps + 1) >> 8) * (256 // steps)
    return clouds


def _clouds(size: tuple[int, int], grain: float, draws: Draws) -> Int[np.ndarray, "h w"]:
    """Random bytes on a grid of `grain` times the shorter side, between them interpolated: 0..255."""
    step = max(1.0, grain * min(size))
    grids = [int(length / step) + 2 for length in size]
    grid = draws.bytes(*grids).astype(np.int32)
    (rows, down), (columns, along) = (_places(length, step) for length in size)
    # Columns first: the small grid is widened, then the long rows are mixed in place.
    wide = (grid[:, columns] << 8) + (grid[:, columns + 1] - grid[:, columns]) * along
    wide >>= 8
    upper = wide[rows]
    return upper + ((wide[rows + 1] - upper) * down[:, None] >> 8)


def _places(length: int, step: float) -> tuple[np.ndarray, np.ndarray]:
    """The grid line before each pixel, and how far the pixel is beyond it, smoothed, 0..256."""
    places = (np.arange(length) * 4096 / step).astype(np.int64)
    beyond = (places & 4095) >> 4
    return places >> 12, (beyond * beyond * (768 - 2 * beyond) >> 16).astype(np.int32)


def _apart(luminance: float, contrast: float, side: float) -> float:
    """A luminance `contrast` from another one; on a random side if both are in range."""
    room = [luminance - contrast >= 12, luminance + contrast <= 243]
    if all(room):
        return luminance + (contrast if side < 0.5 else -contrast)
    return luminance - contrast if luminance > 127 else luminance + contrast


def _color(luminance: float, chroma: float, draws: Draws) -> Int[np.ndarray, "3"]:
    """A random colour of about this luminance."""
    tint = (draws.uniforms(3) * 2 - 1) * chroma
    tint -= tint @ _LUMINANCE
    return np.minimum(np.maximum(np.round(luminance + tint), 0), 255).astype(np.int32)
