"""A sample moved by a map of the plane: its image, label maps, objects and `to_original`, by one set of rules.

The picture lies in the top left `size` of its canvas (without `size` it fills it). A map moves what is in the picture
and shows it in a frame there; what comes from outside the old picture is `fill` in the image, `UNKNOWN` in the semantic
map, segment 0 in the panoptic one and no object. The canvas beyond the frame stays as it was, so that padding stays
padding; where a frame of another size leaves some of the old picture over, that is filled likewise. Images are
interpolated bilinearly, label maps and masks take the nearest pixel; objects follow the rules of `augment.instances`.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from jaxvision.augment import warp
from jaxvision.augment.instances import Keep, Matrix, move_instances, move_proposals
from jaxvision.structures import Instances

Sample = Mapping[str, Any]
UNKNOWN = 255
"""Value of a semantic map where no class is given."""
MAP_FILLS = {"semantic": UNKNOWN, "panoptic": 0}


def picture_size(sample: Sample) -> warp.Size:
    """Height and width of the picture, int32, rounded up and at most those of the canvas."""
    height, width = sample["image"].shape[:2]
    if "size" not in sample:
        return jnp.int32(height), jnp.int32(width)
    size = jnp.ceil(sample["size"]).astype(jnp.int32)
    return jnp.clip(size[0], 0, height), jnp.clip(size[1], 0, width)


def as_float(size: warp.Size) -> Float[Array, " 2"]:
    """As a sample holds it."""
    return jnp.stack(size).astype(jnp.float32)


def instances_of(sample: Sample) -> Instances | None:
    """The objects of a sample, which must be `structures.Instances`."""
    targets = sample.get("targets")
    if targets is not None and not isinstance(targets, Instances):
        raise TypeError(
            f"targets are a {type(targets).__name__}: transforms of geometry move structures.Instances only"
        )
    return targets


def move_sample(
    sample: Sample,
    matrix: Matrix,
    keep: Keep,
    *,
    fill: float = 0,
    image: Shaped[Array, "h w c"] | None = None,
    size: warp.Size | None = None,
    upright: bool = False,
) -> dict[str, Any]:
    """The sample after `matrix`, from canvas places (x, y, 1) to canvas places.

    Args:
      fill: value of pixels from outside the picture, in the units of the image.
      image: the moved image, where a transform has a better way than bilinear interpolation.
      size: of the frame, by default that of the picture; becomes `size`, which the sample then must have.
      upright: see `move_instances`.
    """
    height, width = sample["image"].shape[:2]
    old_size = picture_size(sample)
    resized, size = size is not None, old_size if size is None else size
    inverse = invert(matrix)
    at = _transformed(inverse, warp.pixel_centres(height, width))
    frame = warp.inside(size, height, width)
    if image is None:
        image = from_float(warp.bilinear(sample["image"], at, old_size, fill), sample["image"].dtype)

    def framed(values: Array, old: Array, empty: float) -> Array:
        """`values` in the frame, beyond it the old canvas without its picture."""
        if resized:
            picture = _spread(warp.inside(old_size, height, width), old)
            old = jnp.where(picture, np.asarray(empty).astype(old.dtype), old)
        return jnp.where(_spread(frame, old), values, old)

    moved = {**sample, "image": framed(image, sample["image"], fill)}
    for key, unknown in MAP_FILLS.items():
        if key in sample:
            moved[key] = framed(warp.nearest(sample[key], at, old_size, unknown), sample[key], unknown)
    targets = instances_of(sample)
    if targets is not None:
        masks = None
        if targets.masks is not None:
            masks = warp.moved_masks(
                targets.masks,
                lambda word: jnp.where(frame, warp.nearest(word, at, old_size, 0), np.uint32(0)),
                width,
            )
        moved["targets"] = move_instances(targets, matrix, as_float(size), keep, masks, upright=upright)
    if "proposals" in sample:
        moved["proposals"] = move_proposals(sample["proposals"], matrix, as_float(size))
    if resized:
        moved["size"] = as_float(size)
    return {**moved, **moved_origin(sample, inverse)}


def moved_origin(sample: Sample, inverse: Matrix) -> dict[str, Matrix]:
    """`to_original` after a map with this inverse, where the sample has one."""
    return {"to_original": compose(sample["to_original"], inverse)} if "to_original" in sample else {}


def from_float(image: Float[Array, "h w c"], dtype: Any) -> Shaped[Array, "h w c"]:
    """Back to the dtype of the image, which keeps its units."""
    return jnp.clip(jnp.round(image), 0.0, 255.0).astype(dtype) if dtype == jnp.uint8 else image.astype(dtype)


def choose(condition: Array, matrix: Matrix) -> Matrix:
    """The matrix, or the identity."""
    return jnp.where(condition, matrix, jnp.eye(3, dtype=jnp.float32))


def matrix_of(*rows: tuple[Any, Any, Any]) -> Matrix:
    """From nine numbers, traced or not."""
    return jnp.stack([jnp.stack([jnp.asarray(value, jnp.float32) for value in row]) for row in rows])


def shift_matrix(x: Any, y: Any) -> Matrix:
    """Moves by (x, y)."""
    return matrix_of((1.0, 0.0, x), (0.0, 1.0, y), (0.0, 0.0, 1.0))


def scale_matrix(x: Any, y: Any) -> Matrix:
    """Stretches by (x, y), away from the origin."""
    return matrix_of((x, 0.0, 0.0), (0.0, y, 0.0), (0.0, 0.0, 1.0))


def affine_matrix(
    angle: Any, translate: tuple[Any, Any], scale: Any, shear: tuple[Any, Any], center: tuple[Any, Any]
) -> Matrix:
    """The map of torchvision's `affine` function.

    Shears about `center` (x, y), scales, turns clockwise as seen, then shifts by `translate` (x, y) pixels.

    Args:
      angle: degrees.
      shear: degrees, along x and y.
    """
    turn, shear_x, shear_y = (jnp.deg2rad(jnp.asarray(v, jnp.float32)) for v in (angle, *shear))
    a = jnp.cos(turn - shear_y) / jnp.cos(shear_y)
    c = jnp.sin(turn - shear_y) / jnp.cos(shear_y)
    b = -a * jnp.tan(shear_x) - jnp.sin(turn)
    d = -c * jnp.tan(shear_x) + jnp.cos(turn)
    a, b, c, d = (scale * value for value in (a, b, c, d))
    x, y = center
    return matrix_of(
        (a, b, translate[0] + x - (a * x + b * y)),
        (c, d, translate[1] + y - (c * x + d * y)),
        (0.0, 0.0, 1.0),
    )


def quad_matrix(corners: Float[Array, "4 2"], size: warp.Size) -> Matrix:
    """Moves the corners of a picture (top left, top right, bottom right, bottom left) to these places.

    In closed form (Heckbert 1989, "Fundamentals of texture mapping and image warping", sec. 2.2.3).
    """
    (x0, y0), (x1, y1), (x2, y2), (x3, y3) = (tuple(corner) for corner in corners)
    sx, sy = x0 - x1 + x2 - x3, y0 - y1 + y2 - y3
    dx1, dx2, dy1, dy2 = x1 - x2, x3 - x2, y1 - y2, y3 - y2
    determinant = dx1 * dy2 - dx2 * dy1
    g = (sx * dy2 - dx2 * sy) / determinant
    h = (dx1 * sy - sx * dy1) / determinant
    square = matrix_of(
        (x1 - x0 + g * x1, x3 - x0 + h * x3, x0),
        (y1 - y0 + g * y1, y3 - y0 + h * y3, y0),
        (g, h, 1.0),
    )
    height, width = (side.astype(jnp.float32) for side in size)
    return compose(square, scale_matrix(1.0 / width, 1.0 / height))


def compose(second: Matrix, first: Matrix) -> Matrix:
    """`first`, then `second`."""
    # Written out: matrix units round to a few bits, which is pixels.
    return jnp.sum(second[:, :, None] * first[None], axis=1)


def invert(matrix: Matrix) -> Matrix:
    """The inverse map, scaled so that an affine matrix has an affine inverse."""
    (a, b, c), (d, e, f), (g, h, i) = (tuple(row) for row in matrix)
    adjugate = matrix_of(
        (e * i - f * h, c * h - b * i, b * f - c * e),
        (f * g - d * i, a * i - c * g, c * d - a * f),
        (d * h - e * g, b * g - a * h, a * e - b * d),
    )
    return adjugate / (a * adjugate[0, 0] + b * adjugate[1, 0] + c * adjugate[2, 0])


def _spread(flags: Array, values: Array) -> Array:
    return flags.reshape(*flags.shape, *[1] * (values.ndim - 2))


def _transformed(matrix: Matrix, at: warp.Coordinates) -> warp.Coordinates:
    x, y = at
    u, v, w = (matrix[i, 0] * x + matrix[i, 1] * y + matrix[i, 2] for i in range(3))
    # Behind the horizon there is nothing: far outside of every picture.
    ahead = w > 1e-6
    w = jnp.where(ahead, w, 1.0)
    return jnp.where(ahead, u / w, -warp.FAR), jnp.where(ahead, v / w, -warp.FAR)
