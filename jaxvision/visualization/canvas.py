"""What every picture is drawn on: matplotlib figures without global state or a display, text on pixels, and files.

`matplotlib.pyplot` is never imported: figures are objects of the Agg renderer, so that pictures can be written from
any thread of a training run. Text on pixel pictures uses DejaVu Sans, the font that matplotlib ships.
"""

import functools
import io
import os
import warnings

import matplotlib
import numpy as np
from etils import epath
from jaxtyping import UInt8
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from jaxvision.visualization import palette

DPI = 100
"""Pixels per inch of every figure, so that sizes can be given in pixels."""

Path = str | os.PathLike[str]


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of `width` x `height` pixels."""
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor=palette.PAPER)
    FigureCanvasAgg(figure)
    return figure


def render(figure: Figure) -> UInt8[np.ndarray, "h w 3"]:
    """The pixels of a figure."""
    canvas = FigureCanvasAgg(figure)
    with _quiet_glyphs():
        canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def save_figure(figure: Figure, path: Path) -> None:
    """Writes a figure in the format of the suffix (`.png`, `.pdf`, `.svg`); folders are made, `gs://` works."""
    target = epath.Path(path)
    buffer = io.BytesIO()
    with _quiet_glyphs():
        figure.savefig(buffer, format=target.suffix.lstrip(".") or "png", dpi=DPI)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(buffer.getvalue())


def save_picture(picture: UInt8[np.ndarray, "h w 3"], path: Path) -> None:
    """Writes a picture in the format of the suffix (PNG without one); folders are made, `gs://` works."""
    target = epath.Path(path)
    buffer = io.BytesIO()
    image_format = Image.registered_extensions().get(target.suffix.lower() or ".png")
    if image_format is None:
        raise ValueError(f"cannot write pictures of type '{target.suffix}' ({path}): use .png, .jpg or .webp")
    Image.fromarray(picture).save(buffer, format=image_format)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(buffer.getvalue())


def to_rgb(image: np.ndarray) -> UInt8[np.ndarray, "h w 3"]:
    """An image `[H, W]` or `[H, W, C]` as a picture for the eye.

    uint8 and bool stand as they are (bool as black and white); floats in [0, 1] are scaled, other numbers (normalised
    images) are stretched between their extremes. One channel becomes grey; of more than three the first three show.
    """
    image = np.asarray(image)
    if image.ndim == 2:
        image = image[..., None]
    if image.ndim != 3 or 0 in image.shape:
        raise ValueError(f"expected an image [H, W] or [H, W, C] with pixels, not shape {image.shape}")
    if image.dtype == np.bool_:
        image = image.astype(np.uint8) * 255
    elif image.dtype != np.uint8:
        image = _stretch(image.astype(np.float32))
    if image.shape[-1] < 3:
        return np.repeat(image[..., :1], 3, axis=-1)
    return np.ascontiguousarray(image[..., :3])


def enlarge(picture: UInt8[np.ndarray, "h w 3"], smallest: int, largest: int) -> UInt8[np.ndarray, "a b 3"]:
    """Brings the longer side between `smallest` and `largest` pixels, keeping the aspect.

    Tiny pictures grow by a whole factor with visible pixels, large ones shrink smoothly.
    """
    height, width = picture.shape[:2]
    side = max(height, width)
    if side < smallest:
        factor = max(1, smallest // side)
        return np.repeat(np.repeat(picture, factor, axis=0), factor, axis=1)
    if side <= largest:
        return picture
    size = (max(1, round(width * largest / side)), max(1, round(height * largest / side)))
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS))


@functools.lru_cache(maxsize=16)
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans at `size` pixels."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(os.path.join(matplotlib.get_data_path(), "fonts", "ttf", name), size)


def shorten(text: str, width: int, face: ImageFont.FreeTypeFont) -> str:
    """`text` on one line, cut with an ellipsis where it is wider than `width` pixels."""
    text = " ".join(text.split())
    if face.getlength(text) <= width:
        return text
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        if face.getlength(text[:middle].rstrip() + "…") <= width:
            low = middle
        else:
            high = middle - 1
    return text[:low].rstrip() + "…"


def blank(width: int, height: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """White paper of `width` x `height` pixels and the pen for it."""
    paper = Image.new("RGB", (width, height), palette.PAPER)
    return paper, ImageDraw.Draw(paper)


def _stretch(image: np.ndarray) -> np.ndarray:
    finite = image[np.isfinite(image)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    if low >= 0.0 and high <= 1.0:
        low, high = 0.0, 1.0
    scaled = (image - low) / max(high - low, 1e-12)
    return np.round(np.clip(np.nan_to_num(scaled, nan=0.0, posinf=1.0, neginf=0.0), 0, 1) * 255).astype(np.uint8)


class _quiet_glyphs(warnings.catch_warnings):
    """A class name in a script that the font lacks is drawn as boxes, which is no reason to warn at every picture."""

    def __enter__(self):
        log = super().__enter__()
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from")
        return log
