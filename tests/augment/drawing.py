"""Samples whose annotations are drawn: filled turned rectangles with their masks, boxes, marks and label maps."""

import numpy as np

from jaxvision.structures import Instances

CANVAS = (96, 96)
SIZE = (80, 90)
"""Of the picture in the canvas."""
PADDING = 7
"""Value of the canvas beyond the picture."""
ROWS = 5
MARK = 255
"""Value in the last channel around keypoints."""


def rectangle_mask(centre, sides, angle, canvas=CANVAS):
    """Pixels whose centre lies in the rectangle."""
    y, x = np.mgrid[: canvas[0], : canvas[1]] + 0.5
    c, s = np.cos(angle), np.sin(angle)
    u, v = c * (x - centre[0]) + s * (y - centre[1]), -s * (x - centre[0]) + c * (y - centre[1])
    return (np.abs(u) <= sides[0] / 2) & (np.abs(v) <= sides[1] / 2)


def tight_box(mask):
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return np.zeros(4)
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], float)


def unpack(masks, width):
    return np.unpackbits(np.asarray(masks), axis=-1)[..., :width].astype(bool)


def scene(objects=((30, 30, 30, 16, 0.5), (62, 50, 18, 26, -0.3)), canvas=CANVAS, size=SIZE, rows=ROWS, dtype=np.uint8):
    """One sample without a batch axis; object i is (centre x, centre y, width, height, angle).

    The first channel holds 100 + 50 i inside of object i, 20 elsewhere; the last one MARK in the 5 x 5 pixels around
    its only keypoint, which lies a quarter of the width to the right of the centre. Row 0 of the objects stays empty.
    """
    image = np.full((*canvas, 3), PADDING, np.uint8)
    image[: size[0], : size[1]] = (20, 60, 0)
    semantic, panoptic = np.full(canvas, 255, np.uint8), np.zeros(canvas, np.int32)
    semantic[: size[0], : size[1]] = 0
    masks = np.zeros((rows, *canvas), bool)
    boxes, rotated, keypoints = (np.zeros(shape, np.float32) for shape in ((rows, 4), (rows, 5), (rows, 1, 3)))
    for i, (x, y, width, height, angle) in enumerate(objects):
        mask = rectangle_mask((x, y), (width, height), angle, canvas)
        mask[size[0] :] = mask[:, size[1] :] = False
        masks[: i + 1] &= ~mask
        masks[i + 1] = mask
        image[mask, 0], semantic[mask], panoptic[mask] = 100 + 50 * i, i + 1, i + 1
        point = x + width / 4 * np.cos(angle), y + width / 4 * np.sin(angle)
        keypoints[i + 1, 0] = (*point, 2)
        rotated[i + 1] = x, y, width, height, angle
        column, row = (int(v) for v in point)
        image[max(row - 2, 0) : row + 3, max(column - 2, 0) : column + 3, 2] = MARK
    boxes[:] = [tight_box(mask) for mask in masks]
    valid = np.zeros(rows, bool)
    valid[1 : len(objects) + 1] = True
    area = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).astype(np.float32)
    return {
        "image": image if dtype == np.uint8 else (image / 255).astype(dtype),
        "size": np.asarray(size, np.float32),
        "original_size": np.asarray([2 * side for side in size], np.int32),
        "to_original": np.diag([2, 2, 1]).astype(np.float32),
        "semantic": semantic,
        "panoptic": panoptic,
        "targets": Instances(
            boxes=boxes,
            labels=np.where(valid, np.arange(rows), 0).astype(np.int32),
            valid=valid,
            crowd=np.zeros(rows, bool),
            area=area,
            masks=np.packbits(masks, axis=-1),
            keypoints=keypoints,
            rotated_boxes=rotated,
        ),
    }


def assert_consistent(sample, *, before=None, box_tolerance=1.0):
    """Annotations of a moved sample still describe its pixels."""
    image, targets = np.asarray(sample["image"]).astype(np.float32), sample["targets"]
    if image.max() <= 1.0:
        image = image * 255
    width = image.shape[1]
    size = np.asarray(sample["size"]).astype(int)
    masks = unpack(targets.masks, width)
    assert not masks[:, size[0] :].any() and not masks[:, :, size[1] :].any()
    for i, valid in enumerate(np.asarray(targets.valid)):
        box, mask = np.asarray(targets.boxes[i]), masks[i]
        if not valid:
            for leaf in (targets.boxes, targets.labels, targets.area, targets.masks, targets.keypoints):
                assert not np.asarray(leaf[i]).any()
            continue
        np.testing.assert_allclose(tight_box(mask), box, atol=box_tolerance)
        inner = eroded(mask, 3)  # interpolation blends over the edge, as far as a scale of 2 stretches it
        assert (np.abs(image[inner, 0] - (50 + 50 * int(targets.labels[i]))) <= 1).all()
        assert (np.asarray(sample["semantic"])[mask] == targets.labels[i]).all()
        assert (np.asarray(sample["panoptic"])[mask] == targets.labels[i]).all()
        x, y, seen = np.asarray(targets.keypoints[i, 0])
        assert seen in (0, 1, 2)
        if seen:
            assert 0 <= x < size[1] and 0 <= y < size[0]
            assert seen == 1 or image[int(y), int(x), -1] > 0.9 * MARK
            if before is not None:  # the place in the original image is that of the keypoint before
                label = int(targets.labels[i])
                origin = np.asarray(sample["to_original"]) @ [x, y, 1]
                expected = before["to_original"] @ [*before["targets"].keypoints[label, 0, :2], 1]
                np.testing.assert_allclose(origin[:2] / origin[2], expected[:2], atol=0.05)


def eroded(mask, times=1):
    """Pixels all of whose neighbours belong to the mask, so many times."""
    height, width = mask.shape
    for _ in range(times):
        padded = np.pad(mask, 1)
        mask = np.logical_and.reduce([padded[i : i + height, j : j + width] for i in range(3) for j in range(3)])
    return mask
