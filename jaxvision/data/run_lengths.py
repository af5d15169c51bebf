"""Masks as COCO's files hold them, by the official tool; `data.maps.instance_masks` reads them back."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool


def encode_masks(masks: Bool[np.ndarray, "n h w"] | Sequence[Bool[np.ndarray, "h w"]]) -> list[dict[str, Any]]:
    """Compressed run lengths, ready for JSON: `{"size": [h, w], "counts": text}` for each mask.

    Raises:
      ValueError: masks that are not boolean pictures.
    """
    from pycocotools import mask as coco

    encoded = []
    for mask in masks:
        if mask.ndim != 2 or mask.dtype != bool:
            raise ValueError(f"encode_masks got a mask {mask.dtype}{mask.shape}; it takes bool [H, W]")
        runs = coco.encode(np.asfortranarray(mask, np.uint8))
        encoded.append({"size": [int(side) for side in runs["size"]], "counts": runs["counts"].decode("ascii")})
    return encoded


def mask_polygons(mask: Bool[np.ndarray, "h w"]) -> list[list[float]]:
    """The outlines of a mask along the edges of its pixels, one polygon `[x, y, x, y, ...]` for each connected part.

    Drawn again (`data.maps.instance_masks`) they are the same mask, with its holes filled, which COCO's polygons cannot
    express: use `encode_masks` where they matter. Pixels that touch at a corner only are parts of their own.
    """
    padded = np.pad(mask, 1)
    following = _edges(padded)
    polygons = []
    while following:
        start = min(following)  # the first corner of an outline, row by row: its outer edge, never a hole's
        (y, x), before = start, (0, 0)
        corners = []
        while True:
            ahead = following[y, x]
            # Where two outlines touch, the turn that stays with the own pixel: clockwise.
            step = ahead[0] if len(ahead) == 1 else max(ahead, key=lambda s: before[1] * s[0] - before[0] * s[1])
            ahead.remove(step)
            if not ahead:
                del following[y, x]
            if step != before:
                corners.append((x, y))
            y, x, before = y + step[0], x + step[1], step
            if (y, x) == start:
                break
        area = sum(a[0] * b[1] - b[0] * a[1] for a, b in zip(corners, corners[1:] + corners[:1], strict=True))
        if area > 0:  # holes run the other way
            polygons.append([float(v) for corner in corners for v in corner])
    return polygons


def _edges(padded: Bool[np.ndarray, "h2 w2"]) -> dict[tuple[int, int], list[tuple[int, int]]]:
    """Steps (down, right) along pixel edges from each corner (y, x), the mask on the right hand."""
    steps: dict[tuple[int, int], list[tuple[int, int]]] = {}
    inner = padded[1:-1, 1:-1]
    for beside, corner, step in (
        (padded[:-2, 1:-1], (0, 0), (0, 1)),
        (padded[1:-1, 2:], (0, 1), (1, 0)),
        (padded[2:, 1:-1], (1, 1), (0, -1)),
        (padded[1:-1, :-2], (1, 0), (-1, 0)),
    ):
        for y, x in np.argwhere(inner & ~beside).tolist():
            steps.setdefault((y + corner[0], x + corner[1]), []).append(step)
    return steps
