"""Precision of made detections over the processes that the environment names: `python -m tests.system.precision FILE`.

Process 0 writes the results to the file, as JSON.
"""

import dataclasses
import json
import sys
from pathlib import Path

import jax
import numpy as np

from jaxvision.data.loader import Loader
from jaxvision.detection.task import DetectionTask
from jaxvision.engine import distributed
from jaxvision.engine.evaluation import Evaluator
from jaxvision.engine.parallel import make_parallel
from jaxvision.ops import pack_masks
from jaxvision.structures import Detections, Instances
from tests.detection.made import tiny

IMAGES, BATCH, CLASSES = 11, 4, 3
CANVAS, TRUTHS, SLOTS = (32, 48), 4, 6
PROTOCOLS = ("coco", "coco_masks", "voc", "voc07")


class Scenes:
    """Objects, and detections beside them: none in some images, all slots in others, and some that are wrong."""

    name, class_names, num_classes, multi_label, image_shape = "scenes", (), CLASSES, False, (*CANVAS, 3)

    def __init__(self):
        rng = np.random.default_rng(0)
        corner = rng.uniform(0, 1, (IMAGES, TRUTHS, 2)) * (28, 14)
        boxes = np.concatenate([corner, corner + rng.uniform(10, 18, corner.shape)], axis=-1).round()
        labels = rng.integers(0, CLASSES, (IMAGES, TRUTHS))
        real = np.arange(TRUTHS) < rng.permutation(IMAGES)[:, None] % (TRUTHS + 1)
        left, top, right, bottom = np.moveaxis(boxes, -1, 0)[..., None, None]
        x, y = np.arange(CANVAS[1]) + 0.5, np.arange(CANVAS[0])[:, None] + 0.5
        masks = (x > left) & (x < right) & (y > top) & (y < bottom) & real[..., None, None]
        sides = boxes[..., 2:] - boxes[..., :2]
        boxes, area = (boxes * real[..., None]).astype(np.float32), (sides.prod(-1) * real).astype(np.float32)
        crowd = real & (rng.uniform(size=real.shape) < 0.1)
        self.truth = Instances(boxes, (labels * real).astype(np.int32), real, crowd, area, masks=pack_masks(masks))

        near = np.concatenate([boxes, boxes[:, : SLOTS - TRUTHS]], axis=1) + rng.normal(0, 1.5, (IMAGES, SLOTS, 4))
        said = np.concatenate([labels, labels[:, : SLOTS - TRUTHS]], axis=1)
        wrong = rng.uniform(size=said.shape) < 0.2
        shown = np.arange(SLOTS) < rng.permutation(IMAGES)[:, None] % (SLOTS + 1)
        scores = rng.uniform(0.1, 1, said.shape).round(1)  # with ties
        self.said = Detections(
            near.astype(np.float32),
            (scores * shown).astype(np.float32),
            np.where(wrong, (said + 1) % CLASSES, said).astype(np.int32),
            shown,
            rng.uniform(0.3, 1, (IMAGES, SLOTS, 4, 4)).astype(np.float32),
        )

    def __len__(self):
        return IMAGES

    def gather(self, indices):
        rows = len(indices)
        return {
            "image": np.zeros((rows, *CANVAS, 3), np.float32),
            "size": np.tile(np.asarray(CANVAS, np.float32), (rows, 1)),
            "original_size": np.tile(np.asarray(CANVAS, np.int32), (rows, 1)),
            "to_original": np.tile(np.eye(3, dtype=np.float32), (rows, 1, 1)),
            "targets": jax.tree.map(lambda x: x[indices], self.truth),
            "said": jax.tree.map(lambda x: x[indices], self.said),
        }


@dataclasses.dataclass(frozen=True)
class Said(DetectionTask):
    """Says the detections of the batch."""

    def predict(self, variables, batch, ctx, carry=None):
        return batch["said"], carry


def evaluate(devices=None):
    """All numbers of all protocols, as lists."""
    loader = Loader(Scenes(), BATCH, 0, jax.process_index(), jax.process_count())
    parallel = make_parallel("auto", devices)
    evaluator = Evaluator(Said(tiny(), protocols=PROTOCOLS), parallel)
    results = evaluator({"params": {}}, (parallel.place(batch) for batch in loader.evaluate()))
    return {name: np.asarray(value).tolist() for name, value in results.items()}


if __name__ == "__main__":
    distributed.initialize()
    assert jax.process_count() == 2
    found = evaluate()
    if jax.process_index() == 0:
        Path(sys.argv[1]).write_text(json.dumps(found))
