"""Label maps of evaluation at the original size of their images, on canvases that hold them: no pixel is resampled."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Int, UInt8

from jaxvision.data.samples import IGNORED
from jaxvision.data.transforms.view import Size, View
from jaxvision.errors import SetupError


def original_canvases(
    sizes: Sequence[Size], canvases: Sequence[Size], name_of: Callable[[int], str]
) -> Int[np.ndarray, " n"]:
    """For images of these sizes the numbers of the smallest canvases that hold them.

    Args:
      sizes: height and width of each image.
      canvases: the same of each canvas.
      name_of: what messages call an image, by its place in `sizes`.

    Raises:
      SetupError: images that no canvas holds; the message names the first, and the canvas that would hold all.
    """
    order = sorted(range(len(canvases)), key=lambda i: canvases[i][0] * canvases[i][1])
    smallest = {
        size: next((i for i in order if size[0] <= canvases[i][0] and size[1] <= canvases[i][1]), -1)
        for size in set(sizes)
    }
    found = np.array([smallest[size] for size in sizes], np.int64)
    if (found < 0).any():
        outside = np.flatnonzero(found < 0).tolist()
        needed = tuple(int(side) for side in np.max([sizes[i] for i in outside], axis=0))
        first = _too_large(name_of(outside[0]), sizes[outside[0]], canvases)
        raise SetupError(
            f"{first}; such are {len(outside)} of {len(sizes)} images: add {needed}, which holds all of them"
        )
    return found


def original_map(labels: UInt8[np.ndarray, "h w"], view: View, canvas: Size, name: str) -> UInt8[np.ndarray, "h2 w2"]:
    """The label map of a whole image in the upper left corner of a canvas, `IGNORED` beside it.

    Args:
      labels: in pixels of the image.
      view: what the network sees of the image.
      canvas: height and width of the result.
      name: of the image, for messages.

    Raises:
      SetupError: the canvas is too small, or the network sees a part of the image, or a frame around it.
    """
    height, width = view.original
    if height > canvas[0] or width > canvas[1]:
        raise SetupError(f"{_too_large(name, view.original, (canvas,))}: set data.original_buckets")
    if view.window != (0.0, 0.0, float(width), float(height)):
        raise SetupError(
            f"data.original_buckets: logits of whole images are brought to their original size, but of image {name!r} "
            f"({height} x {width}) the network sees the window {view.window} (left, top, right, bottom): leave crops "
            "and frames out of data.eval_host_transforms; 'resize_side' and 'resize' keep images whole"
        )
    drawn = np.full(canvas, IGNORED, np.uint8)
    drawn[:height, :width] = labels
    return drawn


def _too_large(name: str, size: Size, canvases: Sequence[Size]) -> str:
    held = ", ".join(f"{height} x {width}" for height, width in canvases)
    return (
        f"image {name!r} is {size[0]} x {size[1]} pixels (height x width) and fits on none of the canvases of "
        f"data.original_buckets ({held})"
    )
