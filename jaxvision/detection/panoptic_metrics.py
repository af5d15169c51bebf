"""Panoptic quality (Kirillov et al. 2018, arXiv:1801.00868) as the official tool (panopticapi) counts it."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxvision.structures import PanopticSegments


@dataclasses.dataclass(frozen=True)
class PanopticQuality:
    """`pq` = `sq` * `rq`: how well matched segments agree (mean IoU), and how many are matched (F1), of each class.

    A predicted and a true segment of one class match where their IoU is above 0.5; pixels without a truth (void) are
    no part of the union. A true segment without a match is missed, unless it is a crowd. A predicted one without a
    match is false, unless more than half of it lies on void and on crowds of its class.

    `pq`, `sq`, `rq` are means over the classes that were predicted or are there, with the endings `_things` and
    `_stuff` over those alone; `pq_per_class`, `sq_per_class`, `rq_per_class` have nan for the others. What there is no
    class for is left out. All count pixels of the original images; images are not turned.

    Sums are counted on the device, for each class: `iou` of matches, `matched`, `false` and `missed`.

    Where it differs from panopticapi: that one knows only the last of several crowds of a class.

    Attributes:
      num_classes: of things and stuff.
      num_stuff: the last so many of them are stuff.
    """

    num_classes: int
    num_stuff: int

    def update(self, predictions: PanopticSegments, batch: Mapping[str, Any]) -> dict[str, Array]:
        """Sums of the valid images.

        Args:
          predictions: the map of a batch, of the size of the canvas.
          batch: `panoptic`, `segment_labels`, `segment_crowd`, `segment_valid`, `to_original`, `original_size` and
            `valid` of `data.collate`.
        """

        def one(found: tuple[Array, ...], truth: tuple[Array, ...], geometry: tuple[Array, ...]) -> dict[str, Array]:
            panoptic, labels, valid = found
            true_map, true_labels, true_crowd, true_valid = truth
            common = common_pixels(true_map, panoptic, true_valid, valid, *geometry)
            return self._counts(common, true_labels, true_crowd, true_valid, labels, valid)

        truth = (batch["panoptic"], batch["segment_labels"], batch["segment_crowd"], batch["segment_valid"])
        per_image = jax.vmap(one)(
            (predictions.panoptic, predictions.labels, predictions.valid),
            tuple(jnp.asarray(x) for x in truth),
            (batch["to_original"], batch["original_size"]),
        )
        counted = jnp.asarray(batch["valid"])[:, None]
        return {name: jnp.sum(jnp.where(counted, x, jnp.zeros_like(x)), axis=0) for name, x in per_image.items()}

    def _counts(
        self,
        common: Int[Array, "t p"],
        true_labels: Int[Array, " _"],
        crowd: Bool[Array, " _"],
        true_valid: Bool[Array, " _"],
        labels: Int[Array, " _"],
        valid: Bool[Array, " _"],
    ) -> dict[str, Float[Array, " c"] | Int[Array, " c"]]:
        """Of one image from the common pixels of its segments, whose row and column 0 are what has no segment."""
        area, true_area, void = jnp.sum(common, axis=0)[1:], jnp.sum(common, axis=1)[1:], common[0, 1:]
        overlap = common[1:, 1:]
        same = (true_labels[:, None] == labels[None]) & true_valid[:, None] & valid[None]
        union = area[None] + true_area[:, None] - overlap - void[None]
        matches = same & ~crowd[:, None] & (2 * overlap > union)
        iou = overlap.astype(jnp.float32) / jnp.maximum(union, 1).astype(jnp.float32)
        matched, matching = jnp.any(matches, axis=1), jnp.any(matches, axis=0)
        uncounted = void + jnp.sum(jnp.where(same & crowd[:, None], overlap, 0), axis=0)
        false = valid & (area > 0) & ~matching & (2 * uncounted <= area)

        def per_class(values: Array, of: Array) -> Array:
            return jnp.zeros(self.num_classes, values.dtype).at[of].add(values, mode="drop")

        return {
            "iou": per_class(jnp.sum(jnp.where(matches, iou, 0.0), axis=1), true_labels),
            "matched": per_class(matched.astype(jnp.int32), true_labels),
            "false": per_class(false.astype(jnp.int32), labels),
            "missed": per_class((true_valid & ~crowd & ~matched).astype(jnp.int32), true_labels),
        }

    def compute(self, state: Mapping[str, np.ndarray]) -> dict[str, Any]:
        iou, matched, false, missed = (
            np.asarray(state[name], np.float64) for name in ("iou", "matched", "false", "missed")
        )
        known = matched + false + missed > 0
        rq = np.where(known, matched / np.maximum(matched + 0.5 * false + 0.5 * missed, 0.5), np.nan)
        sq = np.where(known, iou / np.maximum(matched, 1), np.nan)
        per_class = {"pq": sq * rq, "sq": sq, "rq": rq}
        thing = np.arange(self.num_classes) < self.num_classes - self.num_stuff
        results: dict[str, Any] = {}
        for ending, chosen in (("", known), ("_things", known & thing), ("_stuff", known & ~thing)):
            if chosen.any():
                results |= {f"{name}{ending}": float(values[chosen].mean()) for name, values in per_class.items()}
        results.setdefault("pq", float("nan"))
        return results | {f"{name}_per_class": values for name, values in per_class.items()}


def common_pixels(
    true_map: Int[Array, "h w"],
    found_map: Int[Array, "h w"],
    true_valid: Bool[Array, " t"],
    found_valid: Bool[Array, " p"],
    to_original: Float[Array, "3 3"],
    original_size: Int[Array, " 2"],
) -> Int[Array, "t_and_1 p_and_1"]:
    """How many pixels of the original image each pair of a true and a predicted segment shares; 0 is no segment.

    The original has at each pixel what the canvas has at its centre, so that a pixel of the canvas counts as often as
    there are centres in it.
    """
    weights = []
    for axis, along in ((1, 0), (0, 1)):
        edges = jnp.arange(true_map.shape[along] + 1, dtype=jnp.float32)
        moved = to_original[axis, axis] * edges + to_original[axis, 2] - 0.5
        reached = jnp.clip(jnp.ceil(moved).astype(jnp.int32), 0, original_size[along])
        weights.append(jnp.abs(reached[1:] - reached[:-1]))
    true, found = (
        jnp.where(jnp.append(valid, False)[jnp.clip(numbers - 1, -1, len(valid))], numbers, 0)
        for numbers, valid in ((true_map, true_valid), (found_map, found_valid))
    )
    columns = len(found_valid) + 1
    pairs = jnp.zeros((len(true_valid) + 1) * columns, jnp.int32)
    counted = (weights[0][:, None] * weights[1][None]).reshape(-1)
    return pairs.at[(true * columns + found).reshape(-1)].add(counted).reshape(-1, columns)
