"""The picture of a panoptic prediction: the image with its segments, and beside it with the true ones."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8

from jaxvision.visualization.samples import draw_sample, panels

Segments = Mapping[str, np.ndarray]


def draw_segments(
    sample: Mapping[str, Any], found: Segments, class_names: Sequence[str] = ()
) -> UInt8[np.ndarray, "h w 3"]:
    """Draws segments, each in a colour of its own; one that was found has the colour of the true one that it matches.

    Args:
      sample: `image` [H, W, C] and, where the truth is known, `panoptic` [H, W], `segment_labels` [s] and perhaps
        `segment_crowd` [s].
      found: `panoptic` [H, W] in pixels of the image and `segment_labels` [t].
      class_names: names by label; without them classes are numbered.
    """
    image = sample["image"]
    if "panoptic" not in sample:
        return draw_sample({"image": image, **_renumbered(found, None)}, class_names)
    truth = {key: np.asarray(sample[key]) for key in ("panoptic", "segment_labels", "segment_crowd") if key in sample}
    pictures = [draw_sample({"image": image, **own}, class_names) for own in (_renumbered(found, truth), truth)]
    counts = [len(np.unique(own["panoptic"][own["panoptic"] > 0])) for own in (found, truth)]
    return panels(pictures, [f"{name}: {count}" for name, count in zip(("found", "truth"), counts, strict=True)])


def _renumbered(found: Segments, truth: Segments | None) -> dict[str, Int[np.ndarray, "..."]]:
    """Segments with the number of the true one of their class that they share most pixels with, others behind them."""
    panoptic, labels = np.asarray(found["panoptic"]), np.asarray(found["segment_labels"])
    true_labels = np.zeros(0, labels.dtype) if truth is None else np.asarray(truth["segment_labels"])
    new, own = np.zeros_like(panoptic), list(true_labels)
    free = np.ones(len(own), bool)
    for number in np.unique(panoptic[panoptic > 0]):
        region, label = panoptic == number, labels[number - 1]
        shared = np.zeros(0, np.int64)
        if truth is not None:
            shared = np.bincount(truth["panoptic"][region], minlength=len(true_labels) + 1)[1 : len(true_labels) + 1]
            shared = np.where(free & (true_labels == label), shared, 0)
        if shared.any():
            new[region] = shared.argmax() + 1
            free[shared.argmax()] = False
        else:
            own.append(label)
            new[region] = len(own)
    return {"panoptic": new, "segment_labels": np.asarray(own, labels.dtype)}
