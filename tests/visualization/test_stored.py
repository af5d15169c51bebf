"""Pictures against stored ones, of every kind, and pictures of images of all sizes.

Letters are drawn a little differently by each version of the font engine, so pictures are compared by the means of
blocks. After a wanted change write them anew, look at each, and commit them:

    python -m tests.visualization.test_stored
"""

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxvision.visualization.bars import bars_figure, dots_figure
from jaxvision.visualization.canvas import render
from jaxvision.visualization.classification import draw_classification
from jaxvision.visualization.confusion import confusion_figure
from jaxvision.visualization.curves import curves_figure
from jaxvision.visualization.detection import draw_detections
from jaxvision.visualization.heatmap import draw_heatmap
from jaxvision.visualization.panoptic import draw_segments
from jaxvision.visualization.precision import precision_recall_figure
from jaxvision.visualization.runs import runs_figure, severities_figure
from jaxvision.visualization.semantic import draw_semantic
from jaxvision.visualization.sheets import contact_sheet

STORED = Path(__file__).parent / "stored"
BLOCK = 12
MEAN, BLOCKS, WORST = 2.0, 0.02, 24.0
"""Largest mean difference (of 255), and the largest share of blocks that may differ by more than `WORST`."""
NAMES = ("background", "person", "traffic light", "dog", "bicycle")


def scene(height=120, width=160):
    """An image of three things on a ground, with its boxes, masks, semantic and panoptic maps."""
    rows, columns = np.mgrid[:height, :width]
    image = np.stack([60 + 90 * columns / width, 90 + 60 * rows / height, 130 - 50 * rows / height], axis=-1)
    masks = np.stack(
        [
            ((rows / height - 0.5) / 0.32) ** 2 + ((columns / width - 0.25) / 0.12) ** 2 < 1,
            (rows > 0.2 * height) & (rows < 0.5 * height) & (columns > 0.5 * width) & (columns < 0.62 * width),
            ((rows / height - 0.72) / 0.2) ** 2 + ((columns / width - 0.72) / 0.2) ** 2 < 1,
        ]
    )
    labels = np.array([1, 2, 3])
    semantic, panoptic = np.zeros((height, width), np.uint8), np.ones((height, width), np.int32)
    boxes = []
    for number, (mask, label) in enumerate(zip(masks, labels, strict=True)):
        image[mask] = ((200, 150, 120), (230, 210, 60), (120, 90, 70))[number]
        semantic[mask], panoptic[mask] = label, number + 2
        where = np.nonzero(mask)
        boxes.append((where[1].min(), where[0].min(), where[1].max() + 1, where[0].max() + 1))
    semantic[-max(1, height // 12) :] = 255
    panoptic[-max(1, height // 12) :] = 0
    return {
        "image": image.astype(np.uint8),
        "boxes": np.array(boxes, np.float32),
        "labels": labels,
        "crowd": np.zeros(3, bool),
        "masks": masks,
        "semantic": semantic,
        "panoptic": panoptic,
        "segment_labels": np.array([0, 1, 2, 3]),
    }


def detections(sample, masks=False):
    """Two right ones, a shifted one, one of a wrong class."""
    height, width = sample["image"].shape[:2]
    boxes = np.concatenate([sample["boxes"], sample["boxes"][:1]])
    boxes[2] += np.float32([0.03 * width, 0.03 * height, 0.05 * width, 0.02 * height])
    found = {"boxes": boxes, "labels": np.array([1, 2, 3, 4]), "scores": np.array([0.97, 0.88, 0.61, 0.35])}
    shifted = np.roll(sample["masks"], max(1, width // 40), axis=2)
    return {**found, "masks": np.concatenate([shifted, sample["masks"][:1]])} if masks else found


def boxes(sample):
    return draw_detections({"image": sample["image"]}, detections(sample), NAMES)


def boxes_beside_truth(sample):
    return draw_detections(sample, detections(sample), NAMES)


def masks_beside_truth(sample):
    return draw_detections(sample, detections(sample, masks=True), NAMES)


def panoptic_beside_truth(sample):
    found = np.roll(sample["panoptic"], max(1, sample["panoptic"].shape[1] // 20), axis=1)
    return draw_segments(sample, {"panoptic": found, "segment_labels": np.array([0, 1, 4, 3])}, NAMES)


def semantic_beside_truth(sample):
    found = np.roll(sample["semantic"], max(1, sample["semantic"].shape[1] // 20), axis=1)
    return draw_semantic(sample, np.where(found == 255, 0, found), NAMES)


def class_bars(sample):
    return draw_classification(sample["image"], np.array([0.02, 0.21, 0.05, 0.62, 0.1]), NAMES, 1)


def cam(sample):
    heat = np.exp(-((np.mgrid[:7, :7] - 2.0) ** 2).sum(axis=0) / 4)
    return draw_heatmap(sample["image"], heat / heat.max(), title="dog 0.62, gradcam of c5")


OF_IMAGES = (
    boxes,
    boxes_beside_truth,
    masks_beside_truth,
    panoptic_beside_truth,
    semantic_beside_truth,
    class_bars,
    cam,
)


def curves():
    steps = np.arange(1, 41) * 25
    falls = [
        {"step": int(s), "epoch": s / 250, "kind": "train", "values": {"loss": float(2 / np.sqrt(s / 25))}}
        for s in steps
    ]
    rises = [
        {"step": int(s), "epoch": s / 250, "kind": "eval", "values": {"loss": 0.4 + 50 / s, "top1": float(1 - 20 / s)}}
        for s in steps[3::4]
    ]
    return render(curves_figure([*falls, *rises]))


def runs():
    steps = np.arange(1, 13) * 100
    panels = {
        "top1": {f"runs/lr{i}": (steps, 1 - (0.2 + 0.05 * i) / np.sqrt(steps / 100)) for i in range(8)},
        "loss": {f"runs/lr{i}": (steps, (1 + 0.2 * i) / np.sqrt(steps / 100)) for i in range(0, 8, 2)},
    }
    return render(runs_figure([f"runs/lr{i}" for i in range(8)], panels))


def confusion():
    matrix = np.array([[40, 2, 0, 3], [5, 31, 1, 2], [0, 0, 9, 8], [6, 1, 2, 0]])
    names = ["person", "traffic light", "dog", "background"]
    return render(
        confusion_figure(matrix, names, "Boxes at IoU 0.5 and scores above 0.3\n80 right, 8 of a wrong class")
    )


def error_bars():
    names = ["classification", "localisation", "both", "duplicate", "background", "missed"]
    values = np.array([3.1, 6.42, 0.4, 0.05, 2.2, 5.0])
    return render(bars_figure(names, values, "What errors of boxes cost\nAP 71.20 at IoU 0.5", "points of AP"))


def class_dots():
    rng = np.random.default_rng(0)
    columns = {name: np.clip(0.4 + 0.5 * rng.random(5), 0, 1) for name in ("AP50", "AP", "mask AP")}
    columns["AP"][2] = np.nan
    return render(dots_figure(NAMES, columns, "Scores of each class"))


def precision_recall():
    recall = np.linspace(0, 1, 101)
    precision = np.stack([np.where(recall < 0.5 + 0.1 * i, 1 - 0.3 * recall**2, 0) for i in range(5)])
    return render(precision_recall_figure(precision, NAMES, "Boxes of IoU 0.5"))


def severities():
    falls = np.linspace(0.75, 0.3, 5)
    groups = {"noise": {"gaussian_noise": falls, "shot_noise": falls - 0.05}, "blur": {"defocus_blur": falls**1.2}}
    return render(severities_figure("top1 0.8 on clean images", groups, 0.8, "top1"))


def sheet():
    sample = scene()
    return contact_sheet(
        [boxes(sample)[:300], cam(sample)], ["street.jpg: score 0.310", "a name that is too long for it"]
    )


OTHERS = (curves, runs, confusion, error_bars, class_dots, precision_recall, severities, sheet)


def drawn(draw):
    return draw(scene()) if draw in OF_IMAGES else draw()


def blocks(picture, height, width):
    """Means of blocks, of the part that two pictures have in common."""
    height, width = height // BLOCK * BLOCK, width // BLOCK * BLOCK
    part = picture[:height, :width].astype(np.float64)
    return part.reshape(height // BLOCK, BLOCK, width // BLOCK, BLOCK, 3).mean(axis=(1, 3))


def differ(one, other):
    """Says how two pictures differ; empty where they do not."""
    if max(abs(a - b) for a, b in zip(one.shape, other.shape, strict=True)) > 4:
        return f"sizes {one.shape} and {other.shape}"
    size = min(one.shape[0], other.shape[0]), min(one.shape[1], other.shape[1])
    difference = np.abs(blocks(one, *size) - blocks(other, *size)).max(axis=-1)
    share = float((difference > WORST).mean())
    if difference.mean() > MEAN or share > BLOCKS:
        return f"mean difference {difference.mean():.2f}, {share:.1%} of the blocks differ by more than {WORST:g}"
    return ""


@pytest.mark.parametrize("draw", (*OF_IMAGES, *OTHERS), ids=lambda draw: draw.__name__)
def test_pictures_are_those_that_are_stored(draw):
    with Image.open(STORED / f"{draw.__name__}.png") as picture:
        stored = np.asarray(picture.convert("RGB"))
    assert not differ(drawn(draw), stored), "look at the new picture; if it is right: see the top of this file"


def test_a_box_that_moved_and_a_colour_that_changed_are_differences():
    sample = scene()
    picture = boxes(sample)
    moved = {**sample, "boxes": sample["boxes"] + np.float32(25)}
    assert differ(boxes(moved), picture)
    other = np.where(sample["semantic"] == 1, 4, sample["semantic"])
    assert differ(semantic_beside_truth({**sample, "semantic": other}), semantic_beside_truth(sample))
    assert not differ(picture, picture) and differ(picture[:-9], picture).startswith("sizes")


@pytest.mark.parametrize("draw", OF_IMAGES, ids=lambda draw: draw.__name__)
@pytest.mark.parametrize("size", [(16, 16), (16, 400), (900, 16)], ids=lambda size: f"{size[0]}x{size[1]}")
def test_pictures_of_images_of_all_sizes_fit_a_screen(draw, size):
    picture = draw(scene(*size))
    assert picture.dtype == np.uint8 and picture.shape[2] == 3
    assert 240 <= max(picture.shape[:2]) <= 2300 and min(picture.shape[:2]) >= 56


@pytest.mark.slow
def test_a_photograph_is_shown_on_a_screen_with_letters_as_large_as_ever():
    small = scene()
    large = {"image": small["image"].repeat(25, axis=0).repeat(25, axis=1), "boxes": small["boxes"] * 25}
    assert large["image"].shape == (3000, 4000, 3)
    shown = boxes_beside_truth({**small, **large})
    assert shown.shape == (768 + 20, 2 * 1024 + 8, 3)
    semantic = small["semantic"].repeat(25, axis=0).repeat(25, axis=1)
    assert draw_semantic({**large, "semantic": semantic}, semantic, NAMES).shape[1] == 4 * 480 + 3 * 8


if __name__ == "__main__":
    STORED.mkdir(exist_ok=True)
    for draw in (*OF_IMAGES, *OTHERS):
        file = STORED / f"{draw.__name__}.png"
        Image.fromarray(drawn(draw)).save(file, optimize=True)
        print(f"{file} {file.stat().st_size:,} bytes", file=sys.stderr)
