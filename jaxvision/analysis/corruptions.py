"""Common corruptions of images at five severities, to see what a trained model keeps of its accuracy.

D. Hendrycks, T. Dietterich: "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations", ICLR
2019, arXiv:1903.12261, section 4.1 and appendix B; the parameters are those of the published ImageNet-C
(github.com/hendrycks/robustness, ImageNet-C/create_c/make_imagenet_c.py). Fourteen of its fifteen kinds are here:
`frost` lays photographs of frost over an image, which are no part of this library.

Lengths are given there for images of 224 pixels; here they grow with the shorter side, so that a corruption looks alike
at every size. Where it differs else: `glass_blur` draws every pixel from its surroundings at once, in place of swapping
pixels one after the other; `elastic_transform` draws wide fields on a coarser grid; results are rounded, not cut, to 8
bit. The severities of `elastic_transform` are of two kinds (1 and 2 bend the whole, 3 to 5 crumple): not ordered.
"""

import io
import zlib
from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image as Pillow

Image = Float[np.ndarray, "h w c"]
Rng = np.random.Generator
SIDE = 224
"""Shorter side of the images that lengths are given for."""
SEVERITIES = (1, 2, 3, 4, 5)
GROUPS: Mapping[str, tuple[str, ...]] = {
    "noise": ("gaussian_noise", "shot_noise", "impulse_noise"),
    "blur": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    "weather": ("snow", "fog", "brightness"),
    "digital": ("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
}


def corrupt(
    image: UInt8[np.ndarray, "h w c"], name: str, severity: int, seed: int = 0, row: int = 0
) -> UInt8[np.ndarray, "h w c"]:
    """A corrupted image; the same for the same arguments, whatever was drawn before.

    Args:
      image: grey or RGB.
      name: one of `CORRUPTIONS`.
      severity: 1..5.
      seed, row: images of different rows are corrupted differently.

    Raises:
      ValueError: an unknown corruption or severity.
    """
    if name not in CORRUPTIONS or severity not in SEVERITIES:
        raise ValueError(f"corruption {name!r} of severity {severity}: expected 1..5 of {', '.join(CORRUPTIONS)}")
    rng = np.random.default_rng([seed, zlib.crc32(name.encode()), severity, row])
    found = CORRUPTIONS[name](image.astype(np.float32) / 255, severity - 1, rng)
    return np.round(np.clip(found, 0, 1) * 255).astype(np.uint8).reshape(image.shape)


def gaussian_noise(x: Image, level: int, rng: Rng) -> Image:
    return x + rng.normal(scale=(0.08, 0.12, 0.18, 0.26, 0.38)[level], size=x.shape)


def shot_noise(x: Image, level: int, rng: Rng) -> Image:
    photons = (60, 25, 12, 5, 3)[level]
    return rng.poisson(x * photons) / photons


def impulse_noise(x: Image, level: int, rng: Rng) -> Image:
    chance = rng.random(x.shape)
    share = (0.03, 0.06, 0.09, 0.17, 0.27)[level]
    return np.where(chance < share / 2, 0.0, np.where(chance < share, 1.0, x))


def defocus_blur(x: Image, level: int, rng: Rng) -> Image:
    import cv2

    radius, smooth = ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5))[level]
    reach = max(0.5, radius * _scale(x))
    along = np.arange(-int(np.ceil(reach)) - 1, int(np.ceil(reach)) + 2)
    disc = (along[:, None] ** 2 + along[None] ** 2 <= reach**2).astype(np.float32)
    blurred = cv2.GaussianBlur(disc, (0, 0), max(smooth * _scale(x), 0.1))
    return _channels(cv2.filter2D(x, -1, blurred / blurred.sum()))


def glass_blur(x: Image, level: int, rng: Rng) -> Image:
    sigma, reach, times = ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2))[level]
    wide, near = sigma * _scale(x), max(1, round(reach * _scale(x)))
    x = _smoothed(x, wide)
    rows, columns = np.mgrid[: x.shape[0], : x.shape[1]]
    for _ in range(times):
        down, right = rng.integers(-near, near, (2, *x.shape[:2]))
        x = x[np.clip(rows + down, 0, x.shape[0] - 1), np.clip(columns + right, 0, x.shape[1] - 1)]
    return _smoothed(x, wide)


def motion_blur(x: Image, level: int, rng: Rng) -> Image:
    radius, sigma = ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))[level]
    return _moved(x, radius * _scale(x), sigma * _scale(x), rng.uniform(-45, 45))


def zoom_blur(x: Image, level: int, rng: Rng) -> Image:
    end, step = ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03))[level]
    zooms = np.arange(1, end, step)
    return (x + sum(_zoomed(x, zoom) for zoom in zooms)) / (len(zooms) + 1)


def snow(x: Image, level: int, rng: Rng) -> Image:
    import cv2

    mean, spread, zoom, least, radius, sigma, keep = (
        (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
        (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
        (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
        (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    )[level]
    layer = rng.normal(mean, spread, _reference_size(x)).astype(np.float32)
    layer = _zoomed(layer[..., None], zoom)
    layer = np.clip(np.where(layer < least, 0, layer), 0, 1)
    layer = _resized(_moved(layer, radius, sigma, rng.uniform(-135, -45)), x.shape[:2])
    grey = x if x.shape[2] == 1 else _channels(cv2.cvtColor(x, cv2.COLOR_RGB2GRAY))
    x = keep * x + (1 - keep) * np.maximum(x, grey * 1.5 + 0.5)
    return x + layer + layer[::-1, ::-1]


def fog(x: Image, level: int, rng: Rng) -> Image:
    strength, decay = ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4))[level]
    side = 1 << int(np.ceil(np.log2(max(2, *x.shape[:2]))))
    clouds = cloud(side, decay, rng)[: x.shape[0], : x.shape[1], None]
    brightest = x.max()
    return (x + strength * clouds) * brightest / (brightest + strength)


def brightness(x: Image, level: int, rng: Rng) -> Image:
    """Raises the value of HSV: of a colour all channels in proportion, of black all to the same grey."""
    value = x.max(axis=2, keepdims=True)
    raised = np.minimum(value + (0.1, 0.2, 0.3, 0.4, 0.5)[level], 1)
    return np.where(value > 0, x * raised / np.maximum(value, 1e-6), raised)


def contrast(x: Image, level: int, rng: Rng) -> Image:
    mean = x.mean(axis=(0, 1), keepdims=True)
    return (x - mean) * (0.4, 0.3, 0.2, 0.1, 0.05)[level] + mean


def elastic_transform(x: Image, level: int, rng: Rng) -> Image:
    import cv2
    from scipy.ndimage import gaussian_filter

    shares = ((2, 0.7, 0.1), (2, 0.08, 0.2), (0.05, 0.01, 0.02), (0.07, 0.01, 0.02), (0.12, 0.01, 0.02))[level]
    strength, sigma, corner = (244 * share for share in shares)
    height, width = x.shape[:2]
    middle, third = np.array([width, height], np.float32) // 2, min(height, width) // 3
    corners = (middle + third * np.array([[1, 1], [1, -1], [-1, -1]])).astype(np.float32)
    moved = corners + rng.uniform(-corner, corner, corners.shape).astype(np.float32) * np.float32(_scale(x))
    border = cv2.BORDER_REFLECT_101
    if third:  # an image of less than 3 pixels has no three corners
        matrix = cv2.getAffineTransform(corners, moved)
        x = _channels(cv2.warpAffine(x, matrix, (width, height), borderMode=border))
    fields = []
    coarser = max(1, int(sigma // 8))  # a wide blur of the means of blocks, whose spread is as much smaller
    grid = tuple(-(-side // coarser) for side in _reference_size(x))
    for _ in range(2):
        noise = rng.uniform(-1, 1, grid) / coarser
        field = gaussian_filter(noise, sigma / coarser, mode="reflect", truncate=3) * strength * _scale(x)
        fields.append(_resized(field.astype(np.float32)[..., None], (height, width))[..., 0])
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    return _channels(cv2.remap(x, columns + fields[0], rows + fields[1], cv2.INTER_LINEAR, borderMode=border))


def pixelate(x: Image, level: int, rng: Rng) -> Image:
    share = (0.6, 0.5, 0.4, 0.3, 0.25)[level]
    size = max(1, int(x.shape[1] * share)), max(1, int(x.shape[0] * share))
    picture = _pillow(x).resize(size, Pillow.Resampling.BOX)
    return _array(picture.resize((x.shape[1], x.shape[0]), Pillow.Resampling.BOX))


def jpeg_compression(x: Image, level: int, rng: Rng) -> Image:
    buffer = io.BytesIO()
    _pillow(x).save(buffer, "JPEG", quality=(25, 18, 15, 10, 7)[level])
    with Pillow.open(buffer) as picture:
        return _array(picture)


CORRUPTIONS: Mapping[str, Callable[[Image, int, Rng], Image]] = {
    "gaussian_noise": gaussian_noise,
    "shot_noise": shot_noise,
    "impulse_noise": impulse_noise,
    "defocus_blur": defocus_blur,
    "glass_blur": glass_blur,
    "motion_blur": motion_blur,
    "zoom_blur": zoom_blur,
    "snow": snow,
    "fog": fog,
    "brightness": brightness,
    "contrast": contrast,
    "elastic_transform": elastic_transform,
    "pixelate": pixelate,
    "jpeg_compression": jpeg_compression,
}
"""Name -> (image 0..1, severity - 1, random numbers) -> image, which may leave 0..1."""


def cloud(side: int, decay: float, rng: Rng) -> Float[np.ndarray, "s s"]:
    """Clouds from 0 to 1 that repeat at their edges, by midpoint displacement (the diamond-square algorithm).

    Args:
      side: a power of two.
      decay: by which the square root of the roughness falls with every halving of the distance.
    """
    heights = np.zeros((side, side))
    step, rough = side, 100.0
    while step > 1:
        half, amplitude = step // 2, rough * rough
        corners = heights[::step, ::step]
        beside = corners + np.roll(corners, -1, axis=1)
        middle = (beside + np.roll(beside, -1, axis=0)) / 4 + rng.uniform(-amplitude, amplitude, corners.shape)
        heights[half::step, half::step] = middle
        for axis in (0, 1):
            others = middle + np.roll(middle, 1, axis=1 - axis)
            own = (others + corners + np.roll(corners, -1, axis=axis)) / 4
            place = (slice(half, None, step), slice(None, None, step))[:: 1 if axis == 0 else -1]
            heights[place] = own + rng.uniform(-amplitude, amplitude, own.shape)
        step, rough = half, rough / decay
    heights -= heights.min()
    return heights / max(float(heights.max()), 1e-12)


def _scale(x: Image) -> float:
    return min(x.shape[:2]) / SIDE


def _reference_size(x: Image) -> tuple[int, int]:
    """That of the image with a shorter side of `SIDE`."""
    height, width = (max(1, round(side / _scale(x))) for side in x.shape[:2])
    return height, width


def _channels(x: np.ndarray) -> Image:
    """OpenCV drops a last axis of 1."""
    return x[..., None] if x.ndim == 2 else x


def _smoothed(x: Image, sigma: float) -> Image:
    import cv2

    return _channels(cv2.GaussianBlur(x, (0, 0), max(sigma, 0.05), borderType=cv2.BORDER_REPLICATE))


def _moved(x: Image, radius: float, sigma: float, angle: float) -> Image:
    """Blurred to one side by half a Gaussian, as ImageMagick's motion blur does.

    Args:
      radius: half the length in pixels.
      sigma: of the Gaussian.
      angle: in degrees.
    """
    import cv2

    length = 2 * int(np.ceil(radius)) + 1
    steps = np.arange(length)
    weights = np.exp(-(steps**2) / (2 * max(sigma, 1e-3) ** 2))
    turn = np.deg2rad(angle)
    columns = np.ceil(steps * np.cos(turn) - 0.5).astype(int)
    rows = np.ceil(steps * np.sin(turn) - 0.5).astype(int)
    kernel = np.zeros((2 * length + 1, 2 * length + 1), np.float32)
    np.add.at(kernel, (rows + length, columns + length), weights / weights.sum())
    return _channels(cv2.filter2D(x, -1, kernel, borderType=cv2.BORDER_REPLICATE))


def _zoomed(x: Image, zoom: float) -> Image:
    """Enlarged about its middle, and cut to its size."""
    import cv2

    height, width = x.shape[:2]
    middle = (width - 1) / 2, (height - 1) / 2
    matrix = np.array([[zoom, 0, (1 - zoom) * middle[0]], [0, zoom, (1 - zoom) * middle[1]]])
    return _channels(cv2.warpAffine(x, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE))


def _resized(x: Image, size: tuple[int, int]) -> Image:
    import cv2

    shrinks = size[0] < x.shape[0]
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return _channels(cv2.resize(x, (size[1], size[0]), interpolation=how))


def _pillow(x: Image) -> Pillow.Image:
    pixels = np.round(np.clip(x, 0, 1) * 255).astype(np.uint8)
    return Pillow.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)


def _array(picture: Pillow.Image) -> Image:
    return _channels(np.asarray(picture, np.float32) / 255)
