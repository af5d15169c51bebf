"""A heat map over an image: where a network looked."""

import math

import matplotlib
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from jaxvision.visualization import palette
from jaxvision.visualization.canvas import blank, enlarge, font, shorten, to_rgb

MARGIN = 12
TITLE = 30
SMALLEST, LARGEST = 256, 512
OPACITY = 0.65


def draw_heatmap(
    image: np.ndarray, heat: Float[np.ndarray, "h w"], to_original: np.ndarray | None = None, title: str = ""
) -> UInt8[np.ndarray, "a b 3"]:
    """The image, and beside it the same under its heat map.

    Args:
      image: `[H, W]` or `[H, W, C]`, the original.
      heat: 0..1, on the canvas of the network; what the canvas does not show of the image has no heat.
      to_original: [3, 3], from pixels of the canvas (x, y, 1) to pixels of the image; None: the canvas is stretched
        over the image.
      title: one line above.
    """
    picture = to_rgb(image)
    shown = enlarge(picture, SMALLEST, LARGEST)
    own = placed(heat, picture.shape[:2], shown.shape[:2], to_original)
    under = overlay(shown, own)
    height, width = shown.shape[:2]
    face = font(15, bold=True)
    room = max(2 * width + MARGIN, min(LARGEST, math.ceil(face.getlength(title))))
    paper, pen = blank(room + 2 * MARGIN, height + TITLE + MARGIN)
    line = shorten(title, room, face)
    pen.text((MARGIN, TITLE / 2 + 1), line, palette.TEXT, face, anchor="lm")
    paper.paste(Image.fromarray(shown), (MARGIN, TITLE))
    paper.paste(Image.fromarray(under), (2 * MARGIN + width, TITLE))
    return np.asarray(paper).copy()


def placed(
    heat: Float[np.ndarray, "h w"],
    original: tuple[int, int],
    shown: tuple[int, int],
    to_original: np.ndarray | None = None,
) -> Float[np.ndarray, "a b"]:
    """The heat map on an image of `original` (height, width) that is drawn with `shown` pixels."""
    import cv2

    if to_original is None:
        to_original = np.diag([original[1] / heat.shape[1], original[0] / heat.shape[0], 1.0])
    half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1.0]])  # OpenCV counts from the centres of pixels
    scale = np.diag([shown[1] / original[1], shown[0] / original[0], 1.0])
    matrix = np.linalg.inv(half) @ scale @ np.asarray(to_original, np.float64) @ half
    size = (shown[1], shown[0])
    drawn = cv2.warpPerspective(np.asarray(heat, np.float32), matrix, size, borderMode=cv2.BORDER_REPLICATE)
    x, y = np.meshgrid(np.arange(shown[1]), np.arange(shown[0]))
    canvas = np.linalg.inv(matrix) @ np.stack([x, y, np.ones_like(x)]).reshape(3, -1)
    place = (canvas[:2] / canvas[2:]).reshape(2, *shown)
    within = ((place >= -0.5) & (place < np.array(heat.shape[::-1])[:, None, None] - 0.5)).all(axis=0)
    return np.where(within, np.clip(drawn, 0, 1), 0)


def overlay(picture: UInt8[np.ndarray, "h w 3"], heat: Float[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """The picture, darkened to grey where there is no heat and coloured where there is."""
    colors = matplotlib.colormaps["inferno"](heat)[..., :3] * 255
    grey = np.repeat(picture.mean(axis=-1, keepdims=True), 3, axis=-1)
    return np.round((1 - OPACITY) * grey + OPACITY * colors).astype(np.uint8)
