"""Views of images at test time: a mirror, a quarter turn, another size, other pixel values, a crop; and the way back.

A `View` is static: which pixels it takes follows from the size of the images alone. It transforms the whole canvas.
What a prediction for the view says about the image is left to three inverses: of maps, of points, and of boxes.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from jaxvision.ops.interpolate import interpolate

Size = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class View:
    """One way to look at images of a known size; the steps are taken in the order of the fields.

    Attributes:
      size: height and width of the images.
      horizontal, vertical: mirrored left to right, upside down.
      turns: quarter turns, counter-clockwise.
      scale: factor of height and width, rounded down to whole pixels.
      factor, offset: pixels (as the network gets them, normalised) are multiplied by `factor`, then `offset` is added.
      crop: top, left, height and width, in pixels of what the steps before leave.
      method, align_corners: of resizing, see `ops.interpolate`.
    """

    size: Size
    horizontal: bool = False
    vertical: bool = False
    turns: int = 0
    scale: float = 1.0
    factor: float = 1.0
    offset: float = 0.0
    crop: tuple[int, int, int, int] | None = None
    method: str = "bilinear"
    align_corners: bool = False

    @property
    def turned(self) -> Size:
        """Height and width after the turns."""
        return self.size if self.turns % 2 == 0 else (self.size[1], self.size[0])

    @property
    def scaled(self) -> Size:
        """Height and width after scaling."""
        height, width = self.turned
        return int(height * self.scale), int(width * self.scale)

    @property
    def shown(self) -> Size:
        """Height and width of the view."""
        return self.scaled if self.crop is None else self.crop[2:]

    def __call__(self, images: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
        """The view of a batch of images of `size`; the dtype stays."""
        if images.shape[1:3] != self.size:
            raise ValueError(f"a view of images of {self.size} pixels (height, width) got {images.shape[1:3]}")
        flipped = [axis for axis, flip in ((2, self.horizontal), (1, self.vertical)) if flip]
        x = jnp.rot90(jnp.flip(images, flipped) if flipped else images, self.turns, axes=(1, 2))
        if self.scaled != self.turned:
            x = interpolate(x, self.scaled, method=self.method, align_corners=self.align_corners)
        if self.factor != 1.0:
            x = x * jnp.asarray(self.factor, x.dtype)
        if self.offset != 0.0:
            x = x + jnp.asarray(self.offset, x.dtype)
        if self.crop is not None:
            top, left, height, width = self.crop
            x = x[:, top : top + height, left : left + width]
        return x

    def invert_maps(self, maps: Shaped[Array, "b h2 w2 *c"]) -> Shaped[Array, "b h w *c"]:
        """Maps of the view, of its size or a fraction of it, as maps of the image.

        Floating-point maps (scores) are resized by `method`, label maps take the nearest pixel.

        Raises:
          ValueError: for a crop, which does not show the whole image.
        """
        if self.crop is not None:
            raise ValueError("a crop shows a part of the image: maps of the whole image cannot be made from it")
        before, after = self.turned, self.scaled
        size = tuple(round(n * b / a) for n, b, a in zip(maps.shape[1:3], before, after, strict=True))
        if size != maps.shape[1:3]:
            maps = self._resize(maps, (size[0], size[1]))
        maps = jnp.rot90(maps, -self.turns, axes=(1, 2))
        flipped = [axis for axis, flip in ((2, self.horizontal), (1, self.vertical)) if flip]
        return jnp.flip(maps, flipped) if flipped else maps

    def invert_points(self, points: Float[Array, "*n 2"]) -> Float[Array, "*n 2"]:
        """Points (x, y) in pixels of the view (the left edge of the first column is 0) as points of the image."""
        matrix = self.matrix
        x, y = points[..., 0], points[..., 1]
        rows = [matrix[i, 0].item() * x + matrix[i, 1].item() * y + matrix[i, 2].item() for i in range(2)]
        return jnp.stack(rows, axis=-1)

    def invert_boxes(self, boxes: Float[Array, "*n 4"]) -> Float[Array, "*n 4"]:
        """Boxes xyxy in pixels of the view as boxes of the image."""
        corners = self.invert_points(jnp.reshape(boxes, (*boxes.shape[:-1], 2, 2)))
        return jnp.concatenate([jnp.min(corners, axis=-2), jnp.max(corners, axis=-2)], axis=-1)

    @property
    def matrix(self) -> Float[np.ndarray, "3 3"]:
        """From (x, y, 1) of the view to (x, y, 1) of the image, in pixels."""
        top, left = (0, 0) if self.crop is None else self.crop[:2]
        matrix = np.array([[1.0, 0, left], [0, 1.0, top], [0, 0, 1]])
        (height, width), (tall, wide) = self.turned, self.scaled
        matrix = np.diag([width / wide, height / tall, 1.0]) @ matrix
        for turn in reversed(range(self.turns % 4)):
            across = self.size[1] if turn % 2 == 0 else self.size[0]  # the width in front of this turn
            matrix = np.array([[0, -1.0, across], [1.0, 0, 0], [0, 0, 1]]) @ matrix
        if self.vertical:
            matrix = np.array([[1.0, 0, 0], [0, -1.0, self.size[0]], [0, 0, 1]]) @ matrix
        if self.horizontal:
            matrix = np.array([[-1.0, 0, self.size[1]], [0, 1.0, 0], [0, 0, 1]]) @ matrix
        return matrix

    def invert_crops(self, crops: Shaped[Array, "*n h w"]) -> Shaped[Array, "*n h2 w2"]:
        """Small maps of parts of the view (masks of RoI size) as maps of the same parts of the image: turned back."""
        crops = jnp.rot90(crops, -self.turns, axes=(-2, -1))
        flipped = [axis for axis, flip in ((-1, self.horizontal), (-2, self.vertical)) if flip]
        return jnp.flip(crops, flipped) if flipped else crops

    def shown_size(self, size: Float[Array, "b 2"]) -> Float[Array, "b 2"]:
        """Height and width of each picture in the view, float32, of pictures at the upper left of their canvas.

        Where the view moves them elsewhere (mirrors, turns, crops) its whole canvas counts as the picture.
        """
        if self.horizontal or self.vertical or self.turns % 4 or self.crop is not None:
            return jnp.broadcast_to(jnp.asarray(self.shown, jnp.float32)[None], size.shape)
        ratio = [after / before for after, before in zip(self.scaled, self.turned, strict=True)]
        return size.astype(jnp.float32) * jnp.asarray(ratio, jnp.float32)[None]

    def _resize(self, maps: Shaped[Array, "b h2 w2 *c"], size: Size) -> Shaped[Array, "b h w *c"]:
        whole = not jnp.issubdtype(maps.dtype, jnp.floating)
        method = "nearest" if whole else self.method
        flat = jnp.reshape(maps, (*maps.shape[:3], -1))
        resized = interpolate(flat, size, method=method, align_corners=self.align_corners and not whole)
        return jnp.reshape(resized, (maps.shape[0], *size, *maps.shape[3:]))
