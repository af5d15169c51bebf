"""The picture of detections: the image with what was found, and beside it with what is there."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8

from jaxvision.visualization.samples import draw_sample, panels

TRUTH = ("boxes", "labels", "crowd")


def draw_detections(
    sample: Mapping[str, Any], found: Mapping[str, np.ndarray], class_names: Sequence[str] = ()
) -> UInt8[np.ndarray, "h w 3"]:
    """Draws boxes in the colour of their class, those that were found with their scores.

    Args:
      sample: `image` [H, W, C] and, where the truth is known, `boxes` [n, 4], `labels` [n] and perhaps `crowd`.
      found: `boxes` [m, 4] xyxy in pixels of the image, `labels` [m], `scores` [m] and perhaps `masks` [m, H, W].
      class_names: names by label; without them classes are numbered.
    """
    image = sample["image"]
    left = draw_sample({"image": image, **found}, class_names, by_class=True)
    if "boxes" not in sample:
        return left
    wanted = (*TRUTH, "masks") if "masks" in found else TRUTH
    truth = {key: sample[key] for key in wanted if key in sample}
    right = draw_sample({"image": image, **truth}, class_names, by_class=True)
    return panels([left, right], [f"found: {len(found['boxes'])}", f"truth: {len(truth['boxes'])}"])
