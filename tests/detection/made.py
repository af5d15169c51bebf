"""Tiny detectors and batches of padded truth."""

import flax.linen as nn
import jax
import numpy as np

from jaxvision import layers
from jaxvision.detection.anchors import Anchors
from jaxvision.detection.dense import Suppression
from jaxvision.detection.faster_rcnn import FasterRCNN
from jaxvision.detection.retinanet import RetinaNet
from jaxvision.detection.roi_heads import BoxStage, RoIPooling
from jaxvision.detection.rpn import RPN, RegionProposals
from jaxvision.detection.samplers import RandomSampler
from jaxvision.necks.fpn import FPN
from jaxvision.structures import Instances


class Tiny(nn.Module):
    """Three convolutions without a norm; "c3" and "c4"."""

    @property
    def strides(self):
        return {"c3": 8, "c4": 16}

    @nn.compact
    def __call__(self, images, *, train):
        x = nn.relu(layers.Conv(8, 5, 4, name="conv1")(images))
        c3 = nn.relu(layers.Conv(8, 3, 2, name="conv2")(x))
        return {"c3": c3, "c4": nn.relu(layers.Conv(8, 3, 2, name="conv3")(c3))}


def tiny(**fields):
    neck = FPN(8, ("c3", "c4"), extra_levels=1, extra="input")
    fields = {"depth": 1, "anchors": Anchors(scales=(2.0, 3.0)), "suppression": Suppression(candidates=50), **fields}
    return RetinaNet(Tiny(), neck, 3, **fields)


EVERY = RandomSampler(count=1000)
"""Takes all candidates of a small image, so that losses are no matter of chance."""
POOLING = RoIPooling(size=3, levels=("p3", "p4"), sampling_ratio=2)


def tiny_proposals(sampler=EVERY):
    few = Suppression(score_threshold=-1.0, candidates=50, iou_threshold=0.7, max_detections=12)
    return RegionProposals(anchors=Anchors(scales=(2.0, 3.0)), sampler=sampler, training=few, evaluation=few)


def tiny_rpn(sampler=EVERY):
    return RPN(Tiny(), FPN(8, ("c3", "c4"), extra_levels=1), 3, tiny_proposals(sampler))


def tiny_faster_rcnn(sampler=EVERY, cls=FasterRCNN, **fields):
    fields = {
        "proposals": tiny_proposals(sampler),
        "pooling": POOLING,
        "width": 8,
        "stage": BoxStage(sampler=sampler),
        "suppression": Suppression(candidates=50),
        **fields,
    }
    return cls(Tiny(), FPN(8, ("c3", "c4"), extra_levels=1), 3, **fields)


def judged(model, outputs, batch):
    """(loss terms, detections) of outputs, in one program: one after the other, operations are compiled one by one."""
    return jax.jit(lambda outputs, batch: (model.loss(outputs, batch), model.predict(outputs, batch["size"])))(
        outputs, batch
    )


def truth(counts, size, rows=4, crowd=False):
    """`Instances` of images with so many objects on a canvas of this size."""
    rng = np.random.default_rng(7)
    batch = len(counts)
    corners = rng.uniform(0, 1, (batch, rows, 2, 2)) * size[::-1]
    boxes = np.concatenate([corners.min(2), np.minimum(corners.max(2) + 4, size[::-1])], axis=-1)
    valid = np.arange(rows)[None] < np.asarray(counts)[:, None]
    boxes = np.where(valid[..., None], boxes, 0).astype(np.float32)
    labels = np.where(valid, rng.integers(0, 3, (batch, rows)), 0).astype(np.int32)
    sides = boxes[..., 2:] - boxes[..., :2]
    return Instances(boxes, labels, valid, valid & crowd, sides.prod(-1))


def batch_of(counts, size=(32, 48), valid=None, **options):
    rng = np.random.default_rng(3)
    rows = len(counts)
    return {
        "image": rng.normal(size=(rows, *size, 3)).astype(np.float32),
        "valid": np.ones(rows, bool) if valid is None else np.asarray(valid),
        "index": np.arange(rows, dtype=np.int32),
        "position": np.arange(rows, dtype=np.uint32),
        "size": np.tile(np.asarray(size, np.float32), (rows, 1)),
        "original_size": np.tile(np.asarray(size, np.int32) * 2, (rows, 1)),
        "to_original": np.tile(np.diag([2.0, 2.0, 1.0]).astype(np.float32), (rows, 1, 1)),
        "targets": truth(counts, size, **options),
    }
