"""One rule for turning image files into arrays, shared by training and prediction.

`read_image` gives uint8 RGB as a viewer shows the file:

- the EXIF orientation is applied;
- grey is repeated into three channels; palettes are expanded; CMYK, YCbCr and other colour spaces become RGB through
  Pillow's conversion (embedded ICC profiles are ignored);
- transparency is composited on white;
- of 16-bit samples the high byte is kept, as PNG readers do when they reduce the depth;
- of animations and multi-page files the first frame is taken;
- floating-point pixels, which have no stated range, and pictures over `MAX_PIXELS` are refused.

`fit_image` brings such an array to the network's size and number of channels.
"""

import contextlib
import dataclasses
import functools
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import UInt8
from PIL import Image

from jaxvision.errors import UserError

MAX_PIXELS = 2**26
"""Largest picture that is decoded, in pixels (64 Mi, 192 MiB as RGB): a small file can hold gigabytes."""

_MANY_PIXELS = 2**16

# Pillow's other readers cover rare formats, and one of them (EPS) starts an external program.
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "MPO", "JPEG2000", "AVIF", "ICO", "TGA")
_ORIENTATION_TAG = 0x0112
_ORIENTATIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class ImageError(UserError, ValueError):
    """A file that cannot be used as an image; the message names it and says why."""


def read_image(image: str | os.PathLike | bytes, *, max_pixels: int = MAX_PIXELS) -> UInt8[np.ndarray, "h w 3"]:
    """Decodes an image file by the rule at the top of this file.

    Args:
      image: a path (local, or a URL that `etils.epath` opens, such as `gs://`), or the encoded bytes.
      max_pixels: larger pictures are refused before they are decoded.

    Raises:
      ImageError: a missing or empty file, a directory, no image, a damaged or cut file, too many pixels.
    """
    with open_image(image, max_pixels=max_pixels) as opened:
        label = _label(image)
        try:
            return np.ascontiguousarray(_to_rgb(_upright(opened), label))
        except ImageError:
            raise
        except Exception as error:  # see `open_image`
            raise ImageError(f"cannot decode {label}: {error}; the file is damaged or cut short") from error


@dataclasses.dataclass(frozen=True, slots=True)
class ImageHeader:
    """What a file says about its image before anything is decoded.

    Attributes:
      size: height and width of the upright picture, in pixels.
      format: of the content, whatever the suffix: "JPEG", "PNG", ...
      mode: Pillow's: "RGB", "L" (grey), "P" (palette), "CMYK", "I;16", ...
      orientation: EXIF orientation; 1 where there is none.
      transparent: whether pixels can be transparent.
      animated: whether there are more frames than the first.
    """

    size: tuple[int, int]
    format: str
    mode: str
    orientation: int
    transparent: bool
    animated: bool


def read_header(image: str | os.PathLike | bytes, *, max_pixels: int = MAX_PIXELS) -> ImageHeader:
    """Reads the first kilobytes of an image file; arguments and errors are those of `read_image`.

    Damage behind the header stays unseen, and so does the EXIF orientation of a PNG that stores it behind its pixels.
    """
    label = _label(image)
    with contextlib.ExitStack() as stack:
        if isinstance(image, bytes):
            stream: Any = io.BytesIO(image)
        else:
            remote = "://" in os.fspath(image)  # epath takes as long to open a local file as Pillow to read its header
            opener: Any = epath.Path(image).open if remote else Path(image).open
            with _telling_why(label):
                stream = stack.enter_context(opener("rb"))
        opened = stack.enter_context(_open(stream, label, max_pixels))
        late_exif = opened.format == "PNG" and not {"exif", "Raw profile type exif"} & opened.info.keys()
        orientation = 1 if late_exif else _orientation(opened)
        width, height = opened.size
        turned = orientation in (5, 6, 7, 8) and opened.format != "TIFF"  # whose size Pillow gives upright
        return ImageHeader(
            (width, height) if turned else (height, width),
            opened.format or "",
            opened.mode,
            orientation,
            opened.has_transparency_data,
            opened.format in ("GIF", "PNG", "WEBP", "TIFF") and getattr(opened, "is_animated", False),
        )


@contextlib.contextmanager
def open_image(image: str | os.PathLike | bytes, *, max_pixels: int = MAX_PIXELS) -> Iterator[Image.Image]:
    """The first frame of an image file, decoded but otherwise as it is stored: mode, palette, orientation.

    For files whose values are not colours, such as label maps; arguments and errors are those of `read_image`.
    """
    label = _label(image)
    with _open(io.BytesIO(read_bytes(image)), label, max_pixels) as opened:
        try:
            opened.load()
        except Exception as error:
            raise ImageError(f"cannot decode {label}: {error}; the file is damaged or cut short") from error
        yield opened


@contextlib.contextmanager
def _open(stream: Any, label: str, max_pixels: int) -> Iterator[Image.Image]:
    """An image that is not decoded yet."""
    if not stream.read(1):
        raise ImageError(f"cannot read {label}: it is empty")
    stream.seek(0)
    try:
        opened = Image.open(stream, formats=_formats())
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"cannot read {label}: {error}") from error
    except Exception as error:  # a hostile header makes Pillow's readers raise nearly anything
        known = "JPEG, PNG, WebP, GIF, BMP, TIFF, PPM, JPEG 2000, AVIF, ICO or TGA"
        raise ImageError(f"cannot read {label}: not an image that is recognised ({known})") from error
    with opened:
        width, height = opened.size
        if width * height > max_pixels:
            raise ImageError(
                f"cannot read {label}: it has {width} x {height} = {width * height} pixels, "
                f"more than the limit of {max_pixels}; make it smaller first"
            )
        yield opened


@functools.cache
def _formats() -> list[str]:
    """Those that this build of Pillow has."""
    Image.init()
    return [name for name in _FORMATS if name in Image.OPEN]


def fit_image(
    image: UInt8[np.ndarray, "h w #c"] | UInt8[np.ndarray, "h w"], size: tuple[int, int], channels: int
) -> UInt8[np.ndarray, "new_h new_w channels"]:
    """Stretches an image to `size` (height, width) and converts it to 1 or 3 channels.

    Three channels become one as luminance (0.299 R + 0.587 G + 0.114 B), one becomes three by repetition. Resizing is
    Pillow's bilinear filter, which averages when it shrinks (antialiasing); an image of the right size is not touched.

    Raises:
      ImageError: not uint8, not `[H, W]`, `[H, W, 1]` or `[H, W, 3]`, or without pixels.
    """
    return fit_images(image[None], size, channels)[0]


def fit_images(
    images: UInt8[np.ndarray, "n h w #c"] | UInt8[np.ndarray, "n h w"], size: tuple[int, int], channels: int
) -> UInt8[np.ndarray, "n new_h new_w channels"]:
    """`fit_image` of a stack of images; the input itself where nothing has to change."""
    if channels not in (1, 3):
        raise ValueError(f"channels is {channels}: images have 1 channel (grey) or 3 (RGB)")
    height, width = size
    if height < 1 or width < 1:
        raise ValueError(f"image_size is {tuple(size)}: expected a height and a width of at least 1 pixel")
    if images.ndim == 3:
        images = images[..., None]
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3) or 0 in images.shape[1:3]:
        raise ImageError(
            f"image is {images.dtype} {list(images.shape[1:])}: expected uint8 [H, W], [H, W, 1] or [H, W, 3]"
        )
    if images.shape[-1] == 3 and channels == 1:
        images = _luminance(images)
    if images.shape[1:3] != (height, width):
        resized = np.empty((len(images), height, width, images.shape[-1]), np.uint8)
        for image, target in zip(images, resized, strict=True):
            stretch(image, target)
        images = resized
    return images if images.shape[-1] == channels else np.repeat(images, channels, axis=-1)


def stretch(image: UInt8[np.ndarray, "h w c"], target: UInt8[np.ndarray, "new_h new_w c"]) -> None:
    """Resizes a whole image of 1 or 3 channels into `target`: Pillow's bilinear filter, antialiased where it shrinks.

    Where it enlarges to many pixels OpenCV does the same within one level, five times as fast.
    """
    if image.shape[-1] == 1:
        image, target = image[..., 0], target[..., 0]
    height, width = target.shape[:2]
    if height >= image.shape[0] and width >= image.shape[1] and height * width >= _MANY_PIXELS:
        cv2 = _opencv()
        cv2.resize(image, (width, height), dst=target, interpolation=cv2.INTER_LINEAR)
    else:
        target[...] = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)


@functools.cache
def _opencv() -> Any:
    """The module, which takes a while to import, on the caller's thread: loaders have threads of their own."""
    import cv2

    cv2.setNumThreads(0)
    return cv2


def _label(image: str | os.PathLike | bytes) -> str:
    """What messages call it."""
    return f"the given image ({len(image)} bytes)" if isinstance(image, bytes) else f"image {os.fspath(image)!r}"


def read_bytes(image: str | os.PathLike | bytes) -> bytes:
    if isinstance(image, bytes):
        return image
    with _telling_why(_label(image)):
        return epath.Path(image).read_bytes()


@contextlib.contextmanager
def _telling_why(label: str) -> Iterator[None]:
    """Turns errors of the file system into `ImageError`."""
    try:
        yield
    except FileNotFoundError as error:
        raise ImageError(f"cannot read {label}: there is no such file") from error
    except IsADirectoryError as error:
        raise ImageError(f"cannot read {label}: it is a directory, expected one image file") from error
    except OSError as error:
        raise ImageError(f"cannot read {label}: {error.strerror or error}") from error


def _upright(image: Image.Image) -> Image.Image:
    method = _ORIENTATIONS.get(_orientation(image))
    return image if method is None else image.transpose(method)


def _orientation(image: Image.Image) -> int:
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # damaged metadata must not make the pixels unreadable
        return 1
    return orientation if orientation in _ORIENTATIONS else 1


def _to_rgb(image: Image.Image, label: str) -> UInt8[np.ndarray, "h w 3"]:
    if image.mode == "F":
        raise ImageError(f"cannot read {label}: its pixels are floating-point and have no stated range; save 8 bits")
    if image.mode == "I" or image.mode.startswith("I;16"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 0xFFFF:
            raise ImageError(
                f"cannot read {label}: its pixels lie in {values.min()}..{values.max()}; expected 16 bits, 0..65535"
            )
        return np.repeat((values >> 8).astype(np.uint8)[..., None], 3, axis=-1)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.asarray(image.convert("RGB"))


def _luminance(images: UInt8[np.ndarray, "n h w 3"]) -> UInt8[np.ndarray, "n h w 1"]:
    """ITU-R 601 in the fixed-point form of Pillow's mode "L"; grey stays as it is."""
    grey = np.empty((*images.shape[:-1], 1), np.uint8)
    weights = np.array([19595, 38470, 7471], np.uint32)  # sum to 2**16
    for i, image in enumerate(images):
        grey[i, ..., 0] = (image @ weights + 0x8000) >> 16
    return grey
