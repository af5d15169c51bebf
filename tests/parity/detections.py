"""Detections of two programs as sets."""

import numpy as np


def overlaps(a, b):
    """IoU of every box with every box, in float64."""
    a, b = np.asarray(a, np.float64)[:, None], np.asarray(b, np.float64)[None]
    sides = np.maximum(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0)
    common = sides.prod(-1)
    union = np.prod(a[..., 2:] - a[..., :2], -1) + np.prod(b[..., 2:] - b[..., :2], -1) - common
    return common / np.maximum(union, 1e-12)


def unmatched(ours, theirs, iou=0.99, score=1e-3):
    """How many of `theirs` (boxes, scores, labels) have no counterpart of their own in `ours`.

    Boxes agree by their overlap or, where they have no area, by their corners (to 0.01 pixels).
    """
    boxes, scores, labels = (np.asarray(values) for values in ours)
    free = np.ones(len(boxes), bool)
    missed = 0
    for box, own, label in zip(*(np.asarray(values) for values in theirs), strict=True):
        fits = free & (labels == label) & (np.abs(scores - own) < score)
        same = np.abs(boxes[fits] - box).max(axis=1) < 1e-2
        fits[fits] = same | (overlaps(boxes[fits], box[None])[:, 0] > iou)
        missed += not fits.any()
        free[np.argmax(fits)] &= not fits.any()
    return missed


def rows(detections, image):
    """(boxes, scores, labels) of the valid rows of one image."""
    valid = np.asarray(detections.valid[image])
    return tuple(np.asarray(getattr(detections, name)[image])[valid] for name in ("boxes", "scores", "labels"))


def instances(per_image, rows=8):
    """`structures.Instances` of a batch from (boxes, labels) of each image."""
    import jax.numpy as jnp

    from jaxvision.structures import Instances

    boxes, labels = np.zeros((len(per_image), rows, 4), np.float32), np.zeros((len(per_image), rows), np.int32)
    valid = np.zeros(labels.shape, bool)
    for i, (own_boxes, own_labels) in enumerate(per_image):
        boxes[i, : len(own_boxes)], labels[i, : len(own_boxes)] = own_boxes, own_labels
        valid[i, : len(own_boxes)] = True
    sides = boxes[..., 2:] - boxes[..., :2]
    return Instances(*map(jnp.asarray, (boxes, labels, valid, np.zeros_like(valid), sides.prod(-1))))
