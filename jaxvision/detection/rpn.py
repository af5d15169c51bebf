"""Region proposal network (Ren et al. 2015, arXiv:1506.01497) on a pyramid (Lin et al. 2017, arXiv:1612.03144).

With the neck `Identity` it stands on one level of the backbone, as in the first of these papers: row `rpn_c4`.

A small convolutional head says of each anchor of each level whether it is an object, and moves it. The best ones that
do not overlap are the proposals. `RegionProposals` is what two-stage detectors share; `RPN` is the network alone.

Defaults are those of OpenMMLab's `rpn_r50_fpn_1x_coco`. What differs between the references and from the paper:

- Boxes are learned by L1 (OpenMMLab) or smooth L1 with a corner at 1/9 (`beta`; paper's code, torchvision).
- torchvision's anchors are whole pixels (`Anchors.whole`); an anchor that is an object's best is positive for the
  object that it overlaps most (torchvision) or for that object (OpenMMLab): `MaxIoUAssigner.low_quality`.
- Both losses are divided by the number of sampled anchors (both); an image without any counts as none.
- Anchors whose cell lies beyond the picture, in the padding of the canvas, neither learn nor propose.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from jaxvision import losses
from jaxvision.detection.anchors import Anchors, in_picture, inside_border
from jaxvision.detection.assigners import MaxIoUAssigner, trained
from jaxvision.detection.convolutions import conv
from jaxvision.detection.dense import Suppression, suppress
from jaxvision.detection.keys import fpn_keys, with_backbone
from jaxvision.detection.samplers import RandomSampler, Samples
from jaxvision.ops import decode_deltas, encode_deltas, top_k
from jaxvision.pretrained.keymaps import Rules
from jaxvision.structures import Detections, Instances

Outputs = Mapping[str, Any]
Levels = Mapping[str, Float[Array, "b _ _ c"]]
EVERY_SCORE = -1.0
"""A threshold that no probability falls below."""

ANCHORS = Anchors(scales=(8.0,))
ASSIGNER = MaxIoUAssigner(positive=0.7, negative=0.3, least=0.3)
SAMPLER = RandomSampler(count=256, positive_fraction=0.5)
EVALUATION = Suppression(score_threshold=EVERY_SCORE, candidates=1000, iou_threshold=0.7, max_detections=1000)
TRAINING = dataclasses.replace(EVALUATION, candidates=2000)


class RPNHead(nn.Module):
    """A 3x3 convolution with ReLU and two 1x1 ones, the same on every level (section 3.1).

    Attributes:
      anchors: per cell.
    """

    anchors: int

    @nn.compact
    def __call__(self, levels: Levels) -> tuple[tuple[Float[Array, "b _"], ...], tuple[Float[Array, "b _ 4"], ...]]:
        """Logits and deltas of each level, anchors in the order of `Anchors`."""
        width = next(iter(levels.values())).shape[-1]
        hidden = conv(width, name="conv")
        objectness, deltas = conv(self.anchors, 1, name="cls_logits"), conv(4 * self.anchors, 1, name="bbox_pred")
        maps = [nn.relu(hidden(x)) for x in levels.values()]
        batch = maps[0].shape[0]
        return (
            tuple(objectness(x).reshape(batch, -1) for x in maps),
            tuple(deltas(x).reshape(batch, -1, 4) for x in maps),
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class RegionProposals:
    """How regions are proposed, and how that is learned.

    Attributes:
      anchors: of every level.
      assigner: of objects to anchors.
      sampler: of the anchors that an image is trained on.
      training, evaluation: how proposals are chosen.
      box_stds: deltas are divided by them.
      beta: of the smooth L1 loss of deltas; 0: L1.
      box_weight: of that loss.
      border: anchors that reach further than this many pixels beyond the picture are not learned from; negative: all
        are, as OpenMMLab and torchvision have it with a pyramid.
    """

    anchors: Anchors = ANCHORS
    assigner: MaxIoUAssigner = ASSIGNER
    sampler: RandomSampler = SAMPLER
    training: Suppression = TRAINING
    evaluation: Suppression = EVALUATION
    box_stds: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
    beta: float = 0.0
    box_weight: float = 1.0
    border: float = -1.0

    def outputs(
        self, head: RPNHead, levels: Levels, strides: Mapping[str, int], canvas: Sequence[int]
    ) -> dict[str, tuple[Array, ...]]:
        """By level, finest first: `logits` [B, N], `deltas` [B, N, 4], and `anchors` [N, 4] xyxy in pixels."""
        logits, deltas = head(levels)
        grids = {name: (x.shape[1], x.shape[2]) for name, x in levels.items()}
        return {
            "logits": logits,
            "deltas": deltas,
            "anchors": self.anchors(grids, strides, (canvas[0], canvas[1])),
        }

    def propose(self, outputs: Outputs, size: Float[Array, "b 2"], *, train: bool = False) -> Detections:
        """The best boxes of each image that do not overlap too much with a better one of their level.

        They have no gradient. Their label is 0.

        Args:
          size: height and width of each picture, to which boxes are clipped.
        """
        settings = self.training if train else self.evaluation

        def one(
            logits: Sequence[Float[Array, " n"]], deltas: Sequence[Float[Array, "n 4"]], size: Float[Array, " 2"]
        ) -> Detections:
            found = []
            for level, (own, codes, anchors) in enumerate(zip(logits, deltas, outputs["anchors"], strict=True)):
                inside = in_picture(anchors, size[None])[0]
                values, rows, valid = top_k(own.astype(jnp.float32), min(settings.candidates, own.shape[0]), inside)
                boxes = decode_deltas(
                    codes[rows].astype(jnp.float32), anchors[rows], (0.0,) * 4, self.box_stds, size=size
                )
                found.append((boxes, jax.nn.sigmoid(values), jnp.full_like(rows, level), valid))
            boxes, scores, of_level, valid = (jnp.concatenate(parts) for parts in zip(*found, strict=True))
            kept = suppress(boxes, scores, of_level, valid, settings)
            return dataclasses.replace(kept, labels=jnp.zeros_like(kept.labels))

        said = jax.lax.stop_gradient((outputs["logits"], outputs["deltas"]))
        return jax.vmap(one)(*said, size)

    def sample(
        self,
        key: PRNGKeyArray,
        anchors: Sequence[Float[Array, "_ 4"]],
        targets: Instances,
        size: Float[Array, "b 2"],
    ) -> Samples:
        """The anchors that each image is trained on, rows of all levels' one behind the other."""
        every = jnp.concatenate(anchors)
        usable = in_picture(every, size) & inside_border(every, size, self.border)
        found = jax.vmap(self.assigner, in_axes=(None, 0, 0, 0))(every, targets.boxes, trained(targets), usable)
        return jax.vmap(self.sampler)(jax.random.split(key, targets.boxes.shape[0]), found)

    def loss(self, outputs: Outputs, batch: Mapping[str, Any]) -> dict[str, tuple[Array, Array]]:
        """(sum, count) of `objectness` and `proposal_box`.

        Args:
          outputs: those of `outputs`, and `samples`.
          batch: `targets` and `valid`.

        Raises:
          ValueError: outputs without samples.
        """
        samples = drawn(outputs)
        anchors = jnp.concatenate(outputs["anchors"])[samples.rows]
        logits = jnp.take_along_axis(jnp.concatenate(outputs["logits"], axis=1), samples.rows, axis=1)
        deltas = jnp.take_along_axis(jnp.concatenate(outputs["deltas"], axis=1), samples.rows[..., None], axis=1)
        boxes = jnp.take_along_axis(batch["targets"].boxes, samples.truth[..., None], axis=1)
        counted = samples.valid & batch["valid"][:, None]
        surprise = losses.binary_cross_entropy(logits, samples.positive.astype(jnp.float32))
        objectness, count = losses.weighted_sum(surprise, counted)
        coded = encode_deltas(boxes, anchors, (0.0,) * 4, self.box_stds)
        distance = losses.smooth_l1(deltas, coded, beta=self.beta)
        box, _ = losses.weighted_sum(distance, samples.positive & counted)
        return {"objectness": (objectness, count), "proposal_box": (self.box_weight * box, count)}


def drawn(outputs: Outputs) -> Samples:
    """The samples of training outputs; raises ValueError where the model did not see the truth."""
    if "samples" not in outputs:
        raise ValueError(
            "the outputs hold no samples to learn from: call the model with targets=, and rngs={'sampling': key}"
        )
    return outputs["samples"]


def images_and_size(inputs: Array | Mapping[str, Array]) -> tuple[Float[Array, "b h w c"], Float[Array, "b 2"]]:
    """Images, and the height and width of their pictures: those of the canvas where `inputs` has no `size`."""
    images = inputs["image"] if isinstance(inputs, Mapping) else inputs
    if isinstance(inputs, Mapping) and "size" in inputs:
        return images, inputs["size"].astype(jnp.float32)
    batch, height, width = images.shape[:3]
    return images, jnp.broadcast_to(jnp.asarray([[height, width]], jnp.float32), (batch, 2))


class RPN(nn.Module):
    """The network alone: detections without a class, as external proposals or to be scored by their recall.

    Variables lie under "backbone", "neck" and "rpn_head".

    Attributes:
      backbone: called as `backbone(images, train=...)`; has `strides`.
      neck: called as `neck(levels, train=...)`; has `strides(of_backbone)`.
      num_classes: of the data; proposals tell none, their label is 0.
      proposals: how regions are proposed and learned.
    """

    backbone: nn.Module
    neck: nn.Module
    num_classes: int
    proposals: RegionProposals = RegionProposals(evaluation=TRAINING)

    def setup(self) -> None:
        self.rpn_head = RPNHead(self.proposals.anchors.per_cell)

    @property
    def strides(self) -> dict[str, int]:
        """Input pixels per cell of each level that the head sees."""
        return self.neck.strides(self.backbone.strides)

    def __call__(
        self, inputs: Array | Mapping[str, Array], *, train: bool = False, targets: Instances | None = None
    ) -> dict[str, Any]:
        """What the head says.

        Args:
          inputs: float images [B, H, W, C], or `{"image": images, "size": [B, 2]}`.
          targets: the truth to learn from; anchors are sampled by the rng "sampling".

        Returns:
          See `RegionProposals.outputs`; with `targets` also `samples`.
        """
        images, size = images_and_size(inputs)
        levels = self.neck(self.backbone(images, train=train), train=train)
        outputs: dict[str, Any] = self.proposals.outputs(self.rpn_head, levels, self.strides, images.shape[1:3])
        if targets is not None:
            key = self.make_rng("sampling")
            outputs["samples"] = self.proposals.sample(key, outputs["anchors"], targets, size)
        return outputs

    @nn.nowrap
    def loss(self, outputs: Outputs, batch: Mapping[str, Any]) -> dict[str, tuple[Array, Array]]:
        """(sum, count) of `objectness` and `proposal_box`; the loss is the sum of their quotients."""
        return self.proposals.loss(outputs, batch)

    @nn.nowrap
    def predict(self, outputs: Outputs, size: Float[Array, "b 2"]) -> Detections:
        """Proposals in pixels of the canvas, clipped to pictures of these heights and widths; their label is 0."""
        return self.proposals.propose(outputs, size)


def rpn_keys(head: str = "rpn_head") -> dict[str, Rules]:
    """Names of the head in the references' files; `head` is what OpenMMLab calls it."""
    torchvision: Rules = ((r"^rpn_head\.", "rpn.head."),)
    return {
        "openmmlab": (
            (r"^rpn_head\.conv\.", f"{head}.rpn_conv."),
            (r"^rpn_head\.cls_logits\.", f"{head}.rpn_cls."),
            (r"^rpn_head\.bbox_pred\.", f"{head}.rpn_reg."),
        ),
        "torchvision": torchvision,
        "torchvision/module": (*torchvision, (r"^rpn\.head\.conv\.", "rpn.head.conv.0.0.")),
    }


def keys(model: RPN) -> dict[str, Rules]:
    """See `pretrained/keymaps.py`. Older files of OpenMMLab call the head "bbox_head", newer ones "rpn_head"."""
    neck = fpn_keys(model.neck)["openmmlab"]
    own: dict[str, Rules] = {
        "openmmlab": (*neck, *rpn_keys("rpn_head")["openmmlab"]),
        "openmmlab/single_stage": (*neck, *rpn_keys("bbox_head")["openmmlab"]),
    }
    return with_backbone(model.backbone, own)


HEAD = r"(?!)"
"""No layer depends on the number of classes."""
