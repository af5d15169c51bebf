"""Mirrors. The picture is mirrored inside its own `size`, so that it stays in the top left corner of the canvas."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, PRNGKeyArray

from jaxvision.augment import warp
from jaxvision.augment.geometry import as_float, instances_of, matrix_of, moved_origin, picture_size
from jaxvision.augment.instances import Matrix, blank, move_keypoints, move_proposals, move_rotated, swap_keypoints
from jaxvision.augment.pipeline import Sample
from jaxvision.structures import Instances

DIRECTIONS = ("horizontal", "vertical")


@dataclasses.dataclass(frozen=True)
class RandomFlip:
    """Mirrors the picture, left to right or upside down, with the given probability; no object is lost.

    Attributes:
      probability: of each sample.
      flip_pairs: keypoints that change roles in a mirror, such as (left eye, right eye), numbered from 0. A mirror
        in any direction turns left hands into right ones.
      direction: "horizontal" (left to right) or "vertical".
    """

    probability: float = 0.5
    flip_pairs: tuple[tuple[int, int], ...] = ()
    direction: str = "horizontal"

    def __post_init__(self):
        if not 0 <= self.probability <= 1:
            raise ValueError(f"random_flip: probability is {self.probability}, expected 0..1")
        if self.direction not in DIRECTIONS:
            raise ValueError(f"random_flip: direction is {self.direction!r}, expected one of {', '.join(DIRECTIONS)}")
        places = [place for pair in self.flip_pairs for place in pair]
        if any(len(pair) != 2 for pair in self.flip_pairs) or len(set(places)) != len(places):
            raise ValueError(f"random_flip: flip_pairs is {self.flip_pairs}, expected pairs without a common keypoint")

    def __call__(self, sample: Sample, key: PRNGKeyArray) -> dict[str, Any]:
        flip = jax.random.bernoulli(key, self.probability)
        axis = 1 if self.direction == "horizontal" else 0
        size = picture_size(sample)
        length = size[axis].astype(jnp.float32)
        across = matrix_of((-1.0, 0.0, length), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
        down = matrix_of((1.0, 0.0, 0.0), (0.0, -1.0, length), (0.0, 0.0, 1.0))
        matrix = across if axis else down
        mirrored: dict[str, Any] = {}
        for name in ("image", "semantic", "panoptic"):
            if name in sample:
                full = "size" not in sample
                mirrored[name] = jnp.flip(sample[name], axis) if full else warp.mirror(sample[name], axis, size[axis])
        targets = instances_of(sample)
        if targets is not None:
            mirrored["targets"] = self._instances(targets, matrix, size)
        if "proposals" in sample:
            mirrored["proposals"] = move_proposals(sample["proposals"], matrix, as_float(size))
        mirrored |= moved_origin(sample, matrix)  # a mirror is its own inverse
        return {**sample, **{name: _where(flip, value, sample[name]) for name, value in mirrored.items()}}

    def _instances(self, targets: Instances, matrix: Matrix, size: warp.Size) -> Instances:
        left, top, right, bottom = (targets.boxes[:, i] for i in range(4))
        if self.direction == "horizontal":
            length = size[1].astype(jnp.float32)
            boxes = (length - right, top, length - left, bottom)
        else:
            length = size[0].astype(jnp.float32)
            boxes = (left, length - bottom, right, length - top)
        moved = dataclasses.replace(targets, boxes=jnp.stack(boxes, axis=-1))
        if targets.masks is not None:
            horizontal = self.direction == "horizontal"
            masks = warp.mirror(targets.masks, 2 if horizontal else 1, size[1 if horizontal else 0], bits=horizontal)
            moved = dataclasses.replace(moved, masks=masks)
        if targets.keypoints is not None:
            keypoints = move_keypoints(targets.keypoints, matrix, as_float(size))
            moved = dataclasses.replace(moved, keypoints=swap_keypoints(keypoints, self.flip_pairs))
        if targets.rotated_boxes is not None:
            moved = dataclasses.replace(moved, rotated_boxes=move_rotated(targets.rotated_boxes, matrix))
        return blank(moved)


def _where(condition: Bool[Array, ""], one: Any, other: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), one, other)
