"""Masks and label maps of a canvas at the size of the original image, on the host."""

import numpy as np
from jaxtyping import Float, Shaped


def to_size(
    maps: Shaped[np.ndarray, "*n h w"],
    to_original: Float[np.ndarray, "3 3"],
    size: tuple[int, int],
    *,
    edge: bool = False,
) -> Shaped[np.ndarray, "*n h2 w2"]:
    """Masks or maps of a canvas at the size of the original image: each pixel has the value at its centre.

    Args:
      to_original: from pixels of the canvas to those of the original, without a turn.
      size: height and width of the original.
      edge: pixels beyond the canvas have the value of its nearest pixel; else 0.
    """
    back = np.linalg.inv(np.asarray(to_original, np.float64))
    found = []
    for axis, other, length in ((1, 0, size[0]), (0, 1, size[1])):
        if abs(back[axis, other]) > 1e-6:
            raise ValueError("an image that was turned has no mask at its original size: leave turns out of evaluation")
        place = np.floor((np.arange(length) + 0.5) * back[axis, axis] + back[axis, 2])
        last = maps.shape[-1 - axis] - 1
        inside = ((place >= 0) & (place <= last)) | edge
        found.append((np.where(inside, np.clip(place, 0, last), 0).astype(int), inside))
    (rows, real_rows), (columns, real_columns) = found
    return maps[..., rows[:, None], columns] * (real_rows[:, None] & real_columns)
