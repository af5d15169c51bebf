"""Fixed-shape pytrees: a variable number of things per image, padded, with a mask of what is real."""

from typing import Any

import flax.struct
from jaxtyping import Bool, Float, Int, UInt8

Array = Any
"""numpy arrays in the loader, jax arrays in a step."""


@flax.struct.dataclass
class Instances:
    """The annotated objects of an image, or of each image of a batch (a leading axis more).

    Coordinates are pixels of the canvas; the left edge of the first column is 0, its centre 0.5. Rows that are not
    `valid` are zeros. Annotations that a data set does not have are None, and no leaf of the tree.

    Attributes:
      boxes: left, top, right, bottom.
      labels: 0-based classes.
      valid: which rows are objects.
      crowd: regions of many objects (COCO `iscrowd`) or difficult ones (VOC `difficult`): neither hit nor miss.
      area: in pixels of the original image, as annotated (COCO), else that of the box.
      masks: bit-packed along the width, most significant bit first (`numpy.packbits(mask, axis=-1)`).
      keypoints: x, y, visibility (0 not labelled, 1 hidden, 2 visible).
      rotated_boxes: centre x, centre y, width, height, angle in radians, clockwise as seen (y points down).
    """

    boxes: Float[Array, "*b n 4"]
    labels: Int[Array, "*b n"]
    valid: Bool[Array, "*b n"]
    crowd: Bool[Array, "*b n"]
    area: Float[Array, "*b n"]
    masks: UInt8[Array, "*b n h packed_w"] | None = None
    keypoints: Float[Array, "*b n k 3"] | None = None
    rotated_boxes: Float[Array, "*b n 5"] | None = None


@flax.struct.dataclass
class Proposals:
    """Regions of an image, or of each image of a batch, in which objects may be; from elsewhere than the model.

    Rows that are not `valid` are zeros.

    Attributes:
      boxes: left, top, right, bottom in pixels of the canvas, best first.
      valid: which rows are regions.
    """

    boxes: Float[Array, "*b n 4"]
    valid: Bool[Array, "*b n"]


@flax.struct.dataclass
class Detections:
    """What a detector says about an image, or about each image of a batch (a leading axis more), best first.

    Rows that are not `valid` are padding: zeros, with the score 0.

    Attributes:
      boxes: left, top, right, bottom in pixels: of the canvas as a model predicts them, of the original image as a
        task does.
      scores: 0..1.
      labels: 0-based classes.
      valid: which rows are detections.
      masks: probabilities within each box, of RoI size: `ops.paste_masks` puts them on a canvas. None without a head
        for them.
    """

    boxes: Float[Array, "*b n 4"]
    scores: Float[Array, "*b n"]
    labels: Int[Array, "*b n"]
    valid: Bool[Array, "*b n"]
    masks: Float[Array, "*b n h w"] | None = None


@flax.struct.dataclass
class PanopticSegments:
    """What a panoptic model says about an image, or about each image of a batch (a leading axis more).

    Attributes:
      detections: the things that were found, best first.
      panoptic: number of the segment of each pixel of the canvas, from 1; 0: none.
      labels: 0-based class of segment 1, ..., s: of each row of `detections`, then of each class of stuff.
      valid: which segments have a pixel.
      to_original, original_size: of `data.collate`, which bring the map to the pixels of the original; None as a model
        predicts.
    """

    detections: Detections
    panoptic: Int[Array, "*b h w"]
    labels: Int[Array, "*b s"]
    valid: Bool[Array, "*b s"]
    to_original: Float[Array, "*b 3 3"] | None = None
    original_size: Int[Array, "*b 2"] | None = None
