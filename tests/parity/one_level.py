"""Two-stage detectors on one level (C4 and DC5) in torch, from torchvision's parts, under OpenMMLab's names.

Their numbers are those of OpenMMLab's `*_r50-caffe-c4_1x_coco` and `*_r50-caffe-dc5_1x_coco`: the norms have running
statistics, samplers take every candidate.
"""

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from tests.parity import torchvision_kernels

torchvision = torchvision_kernels.load()
ops = torchvision.ops
STRIDE, SCALES, RATIOS = 16, (2, 4, 8, 16, 32), (0.5, 1.0, 2.0)
LIMIT = float(np.log(1000 / 16))


class Part(nn.Module):
    """Named submodules, and no forward of their own."""

    def __init__(self, **modules):
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)


def caffe_resnet(blocks, dilated=False):
    """torchvision's network of bottlenecks whose first 1x1 convolutions have the strides."""
    net = torchvision.models.ResNet(
        torchvision.models.resnet.Bottleneck, blocks, replace_stride_with_dilation=[False, False, dilated]
    )
    for stage in (net.layer2, net.layer3, net.layer4):
        stage[0].conv1.stride, stage[0].conv2.stride = stage[0].conv2.stride, (1, 1)
    if dilated:
        net.layer4[0].conv2.dilation = net.layer4[0].conv2.padding = (2, 2)
    del net.fc
    return net


class OneLevel(nn.Module):
    """Faster R-CNN, with `masks` Mask R-CNN, of the "c4" or "dc5" form; `of_regions=False` leaves the RPN alone.

    `linear` is the width of the linear layers of "dc5".
    """

    def __init__(self, form, classes, blocks=(1, 1, 1, 1), masks=False, of_regions=True, linear=1024):
        super().__init__()
        self.form, width = form, 1024 if form == "c4" else 2048
        self.backbone = caffe_resnet(blocks, dilated=form == "dc5")
        anchors = len(SCALES) * len(RATIOS)
        self.rpn_head = Part(
            rpn_conv=nn.Conv2d(width, width, 3, padding=1),
            rpn_cls=nn.Conv2d(width, anchors, 1),
            rpn_reg=nn.Conv2d(width, 4 * anchors, 1),
        )
        self.masks = masks
        if form == "c4":
            shared = {"shared_head": Part(layer4=self.backbone.layer4)}
            del self.backbone.layer4
        if not of_regions:
            return
        inner = 2048 if form == "c4" else linear
        box = {"fc_cls": nn.Linear(inner, classes + 1), "fc_reg": nn.Linear(inner, 4 * classes)}
        if form == "dc5":
            shared = {}
            box["shared_fcs"] = nn.ModuleList([nn.Linear(width * 49, linear), nn.Linear(linear, linear)])
        if masks:
            shared["mask_head"] = Part(
                upsample=nn.ConvTranspose2d(2048, 256, 2, 2), conv_logits=nn.Conv2d(256, classes, 1)
            )
        self.roi_head = Part(bbox_head=Part(**box), **shared)

    def forward(self, images, rois):
        """Level, logits and deltas of anchors [B, N(, 4)], and what is said of rois (image, x1, y1, x2, y2)."""
        net = self.backbone
        x = net.maxpool(net.relu(net.bn1(net.conv1(images))))
        x = net.layer3(net.layer2(net.layer1(x)))
        x = x if self.form == "c4" else net.layer4(x)
        return x, *self.anchors_say(x), *self.regions_say(x, rois)

    def anchors_say(self, x):
        hidden = F.relu(self.rpn_head.rpn_conv(x))
        flat = [head(hidden).permute(0, 2, 3, 1) for head in (self.rpn_head.rpn_cls, self.rpn_head.rpn_reg)]
        return flat[0].reshape(len(x), -1), flat[1].reshape(len(x), -1, 4)

    def regions_say(self, x, rois):
        """Logits, deltas [R, classes, 4], and masks [R, classes, 14, 14] or None."""
        head, size = self.roi_head.bbox_head, 14 if self.form == "c4" else 7
        x = ops.roi_align(x, rois, size, 1 / STRIDE, sampling_ratio=0, aligned=True)
        masks = None
        if self.form == "c4":
            x = self.roi_head.shared_head.layer4(x)
            if self.masks:
                drawn = self.roi_head.mask_head
                masks = drawn.conv_logits(F.relu(drawn.upsample(x)))
            x = x.mean((2, 3))
        else:
            x = x.flatten(1)
            for layer in head.shared_fcs:
                x = F.relu(layer(x))
        return head.fc_cls(x), head.fc_reg(x).reshape(len(x), -1, 4), masks


def anchors(height, width):
    """Anchors of a map [N, 4]: cell by cell, ratio by ratio, scale by scale."""
    ratio, scale = (a.reshape(-1) for a in np.meshgrid(RATIOS, SCALES, indexing="ij"))
    w, h = STRIDE * scale / np.sqrt(ratio), STRIDE * scale * np.sqrt(ratio)
    base = np.stack([-w / 2, -h / 2, w / 2, h / 2], axis=-1)
    y, x = (a.reshape(-1, 1) * STRIDE for a in np.mgrid[:height, :width])
    shifts = np.concatenate([x, y, x, y], axis=1)
    return torch.tensor((shifts[:, None] + base).reshape(-1, 4), dtype=torch.float32)


def decode(deltas, boxes, stds, size=None):
    """Boxes moved by deltas, clipped to a picture."""
    d = deltas * torch.tensor(stds)
    center, side = (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]
    center, side = center + d[..., :2] * side, side * d[..., 2:].clamp(-LIMIT, LIMIT).exp()
    moved = torch.cat([center - side / 2, center + side / 2], dim=-1)
    return moved if size is None else moved.clamp(min=0).minimum(torch.tensor([*size[::-1]] * 2).float())


def encode(truth, boxes, stds):
    center = (truth[:, :2] + truth[:, 2:] - boxes[:, :2] - boxes[:, 2:]) / 2
    side, own = truth[:, 2:] - truth[:, :2], boxes[:, 2:] - boxes[:, :2]
    return torch.cat([center / own, (side / own).log()], dim=1) / torch.tensor(stds)


def propose(logits, deltas, places, size, candidates, most):
    """The proposals of one image, best first."""
    values, rows = logits.sort(descending=True, stable=True)
    rows = rows[:candidates]
    boxes = decode(deltas[rows], places[rows], (1.0,) * 4, size)
    real = (boxes[:, 2:] > boxes[:, :2]).all(1)
    boxes, values = boxes[real], values[: len(rows)][real]
    return boxes[ops.nms(boxes, values, 0.7)[:most]]


def detect(logits, deltas, rois, size):
    """(boxes, scores, labels) of one image."""
    scores = logits.softmax(1)[:, :-1]
    rows, labels = (scores > 0.05).nonzero(as_tuple=True)
    boxes, scores = decode(deltas[rows, labels], rois[rows], (0.1, 0.1, 0.2, 0.2), size), scores[rows, labels]
    kept = ops.batched_nms(boxes, scores, labels, 0.5)[:100]
    return boxes[kept].numpy(), scores[kept].numpy(), labels[kept].numpy()


def assign(boxes, truth, positive, negative, least=None):
    """-1 of boxes that teach nothing, 0: background, i + 1: object i; with `least` also the best of an object."""
    if len(truth) == 0:
        return torch.zeros(len(boxes), dtype=torch.long)
    iou = ops.box_iou(truth, boxes)
    best, owner = iou.max(0)
    found = torch.where(best < negative, 0, torch.where(best >= positive, owner + 1, -1))
    if least is not None:
        for i, row in enumerate(iou):
            if row.max() >= least:
                found[row == row.max()] = i + 1
    return found


def anchor_losses(logits, deltas, places, sizes, truth, border):
    """Losses of the first stage over all images.

    Args:
      places: anchors; those that reach beyond the picture by `border` pixels teach nothing, unless it is negative.
      truth: boxes of each image.
    """
    objectness, distance, count = 0.0, 0.0, 0
    for said, codes, (height, width), boxes in zip(logits, deltas, sizes, truth, strict=True):
        inside = torch.ones(len(places), dtype=torch.bool)
        if border >= 0:
            inside = (places[:, :2] >= -border).all(1)
            inside &= (places[:, 2] < width + border) & (places[:, 3] < height + border)
        own, said, codes = places[inside], said[inside], codes[inside]
        found = assign(own, boxes, 0.7, 0.3, least=0.3)
        positive = found > 0
        loss = F.binary_cross_entropy_with_logits(said, positive.float(), reduction="none")
        objectness += float(loss[found >= 0].sum())
        count += int((found >= 0).sum())
        if positive.any():
            wanted = encode(boxes[found[positive] - 1], own[positive], (1.0,) * 4)
            distance += float((codes[positive] - wanted).abs().sum())
    return objectness / count, distance / count


def region_losses(logits, deltas, masks, rois, boxes, labels, bitmaps):
    """Losses of the second stage on these regions of one image: classes, boxes, masks (or None)."""
    found = assign(rois, boxes, 0.5, 0.5)
    positive, owner = found > 0, (found - 1).clamp(min=0)
    wanted = torch.where(positive, labels[owner], logits.shape[1] - 1)
    coded = encode(boxes[owner[positive]], rois[positive], (0.1, 0.1, 0.2, 0.2))
    distance = (deltas[positive, wanted[positive]] - coded).abs().sum() / len(rois)
    loss = [F.cross_entropy(logits, wanted), distance]
    if masks is not None:
        places = torch.cat([owner[positive, None].float(), rois[positive]], dim=1)
        cut = ops.roi_align(bitmaps[:, None].float(), places, masks.shape[2:], 1.0, 0, aligned=True)[:, 0] >= 0.5
        said = masks[positive, wanted[positive]]
        loss.append(F.binary_cross_entropy_with_logits(said, cut.float()))
    return [float(value) for value in loss]
