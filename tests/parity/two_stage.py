"""What the parity tests of two-stage detectors share: weights, truth, regions, and torchvision's losses."""

import sys

import jax.numpy as jnp
import numpy as np

from tests.parity.torch_weights import load as load
from tests.parity.torch_weights import load_tool

SIZE = (128, 160)
CLASSES = 7
EVERY = 1_000_000


def load_torchvision():
    """torchvision, whose own Python form of `roi_align` is run as it is written, not compiled."""
    torchvision = load_tool("torchvision_cpu").torchvision
    module = sys.modules["torchvision.ops.roi_align"]
    module._roi_align = getattr(module._roi_align, "__wrapped__", module._roi_align)
    return torchvision


def all_candidates(name):
    """Fields of a model whose samplers take all candidates."""
    fields = {"proposals": {"sampler": {"count": EVERY}}}
    return fields if name == "rpn" else {**fields, "stage": {"sampler": {"count": EVERY}}}


def by_image(rois):
    """Rows (image, x1, y1, x2, y2) -> boxes [B, R, 4], and where each row stands in them."""
    image = rois[:, 0].astype(int)
    slot = np.array([np.sum(image[:i] == image[i]) for i in range(len(image))])
    boxes = np.zeros((image.max() + 1, slot.max() + 1, 4), np.float32)
    boxes[image, slot] = rois[:, 1:]
    return jnp.asarray(boxes), (image, slot)


def truth(count, seed=0):
    """Random boxes xyxy and labels of an image."""
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 1, (count, 2, 2)) * SIZE[::-1]
    low, high = corners.min(1), corners.max(1)
    boxes = np.concatenate([low, np.minimum(np.maximum(high, low + 8), SIZE[::-1])], axis=1)
    return boxes.astype(np.float32), rng.integers(0, CLASSES, count)


def randomize(theirs):
    """Heads of a torchvision model whose scores spread and whose boxes move a little."""
    import torch

    gains = {"cls_score": 30.0, "bbox_pred": 0.1, "cls_logits": 2.0, "mask_fcn_logits": 8.0}
    with torch.no_grad():
        for part in (theirs.rpn, theirs.roi_heads):
            for name, parameter in part.named_parameters():
                if name.endswith("bias"):
                    parameter.normal_(0, 0.1)
                    continue
                gain = next((gain for key, gain in gains.items() if key in name), 2.0)
                parameter.normal_(0, (gain / parameter[0].numel()) ** 0.5)
                parameter -= parameter.mean(dim=tuple(range(1, parameter.ndim)), keepdim=True)


def torch_losses(theirs, images, per_image, masks=None):
    """Loss terms of a torchvision model with samplers that take all candidates and norms in evaluation form.

    Args:
      per_image: (boxes, labels) of each image, labels 0-based without the background.
      masks: [n, h, w] of each image.
    """
    import torch

    targets = [
        {"boxes": torch.tensor(boxes).reshape(-1, 4), "labels": torch.tensor(labels, dtype=torch.int64) + 1}
        for boxes, labels in per_image
    ]
    for target, own in zip(targets, masks or (), strict=bool(masks)):
        target["masks"] = torch.tensor(own, dtype=torch.uint8)
    samplers = theirs.rpn.fg_bg_sampler, theirs.roi_heads.fg_bg_sampler
    before = [sampler.batch_size_per_image for sampler in samplers]
    theirs.eval()
    with torch.no_grad():
        batch, targets = theirs.transform(list(images), targets)
        features = theirs.backbone(batch.tensors)
        theirs.rpn.train(), theirs.roi_heads.train()
        for sampler in samplers:
            sampler.batch_size_per_image = 4 * EVERY
        proposals, first = theirs.rpn(batch, features, targets)
        _, second = theirs.roi_heads(features, proposals, batch.image_sizes, targets)
    theirs.eval()
    for sampler, count in zip(samplers, before, strict=True):
        sampler.batch_size_per_image = count
    return {name: float(value) for name, value in {**first, **second}.items()}
