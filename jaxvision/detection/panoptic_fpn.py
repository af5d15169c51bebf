"""Panoptic FPN (Kirillov et al. 2019, arXiv:1901.02446): Mask R-CNN with a branch that says the stuff of each pixel.

The branch brings each level of the pyramid, by convolutions and bilinear enlargement, to the size of the finest one,
and adds them up (section 3, figure 3). All things are one class of the branch. `PanopticFusion` makes one map of the
drawn things and of the branch.

Classes are numbered as in COCO's panoptic categories: things first, then stuff. Defaults are those of OpenMMLab's
`panoptic-fpn_r50_fpn_1x_coco`, also where they differ from the paper: things are suppressed whatever their class, and
have to score more than 0.6 (the paper suppresses masks, not boxes, and searches the threshold).
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxvision import layers, losses
from jaxvision.detection import mask_rcnn
from jaxvision.detection.dense import Suppression
from jaxvision.detection.faster_rcnn import Levels
from jaxvision.detection.mask_rcnn import MaskRCNN
from jaxvision.detection.panoptic_truth import UNLABELLED
from jaxvision.detection.rpn import Outputs
from jaxvision.ops import paste_masks
from jaxvision.ops.interpolate import interpolate
from jaxvision.pretrained.keymaps import Rules
from jaxvision.structures import Detections, Instances, PanopticSegments


@dataclasses.dataclass(frozen=True, kw_only=True)
class PanopticFusion:
    """How things and stuff share the pixels (section 3, "Panoptic Inference"; Kirillov et al. 2018, arXiv:1801.00868).

    Things are laid out best first, each on the pixels that the ones before it left. What remains is stuff.

    Attributes:
      most_hidden: share of a thing that others may hide; above it the thing is left out.
      least_stuff: pixels of the original image that a class of stuff must cover; below it its pixels have no segment.
      mask_threshold: probability from which on a pixel belongs to a thing.
    """

    most_hidden: float = 0.5
    least_stuff: float = 4096.0
    mask_threshold: float = 0.5

    def __call__(
        self,
        found: Detections,
        logits: Float[Array, "h w classes"],
        size: Float[Array, " 2"],
        pixel_area: Float[Array, ""],
        stride: int,
    ) -> tuple[Int[Array, "h2 w2"], Bool[Array, " s"]]:
        """The number of each pixel's segment and which segments have a pixel, of one image.

        Args:
          found: N things with masks, best first: segments 1..N.
          logits: of each class of stuff, segments N + 1, ...; then of all things together.
          size: height and width of the picture; beyond it nothing is a segment.
          pixel_area: pixels of the original image in one of the canvas.
          stride: side of a cell of `logits` in pixels.
        """
        canvas = (logits.shape[0] * stride, logits.shape[1] * stride)
        y, x = (jnp.arange(side, dtype=jnp.float32) + 0.5 for side in canvas)
        inside = (y < size[0])[:, None] & (x < size[1])[None]
        things = self._things(found, inside)
        count, stuff = found.labels.shape[0], logits.shape[-1] - 1
        enlarged = interpolate(logits[None].astype(jnp.float32), canvas)[0]
        classes = jnp.where(inside & (things == 0), jnp.argmax(enlarged, axis=-1).astype(jnp.int32), stuff)
        pixels = jnp.zeros(stuff, jnp.int32).at[classes].add(1, mode="drop").astype(jnp.float32)
        shown = (pixels > 0) & (pixels * pixel_area >= self.least_stuff)
        numbers = jnp.where(shown, count + 1 + jnp.arange(stuff, dtype=jnp.int32), 0)
        panoptic = jnp.where(things > 0, things, jnp.append(numbers, 0)[classes])
        drawn = jnp.zeros(count + 1, bool).at[things].set(True)[1:]
        return panoptic, jnp.concatenate([drawn, shown])

    def _things(self, found: Detections, inside: Bool[Array, "h w"]) -> Int[Array, "h w"]:
        """The number of the thing at each pixel, from 1; 0: none."""
        assert found.masks is not None
        height, width = inside.shape

        def lay(numbers: Array, row: tuple[Array, ...]) -> tuple[Array, None]:
            mask, box, valid, number = row
            (drawn,) = paste_masks(mask[None], box[None], (height, width), threshold=self.mask_threshold)
            drawn &= inside & valid
            pixels = jnp.sum(drawn, dtype=jnp.int32).astype(jnp.float32)
            hidden = jnp.sum(drawn & (numbers > 0), dtype=jnp.int32).astype(jnp.float32)
            kept = hidden <= self.most_hidden * pixels
            return jnp.where(kept & drawn & (numbers == 0), number, numbers), None

        numbers = jnp.arange(1, found.labels.shape[0] + 1, dtype=jnp.int32)
        nothing = jnp.zeros_like(inside, jnp.int32)
        return jax.lax.scan(lay, nothing, (found.masks, found.boxes, found.valid, numbers))[0]


class ToFinest(nn.Module):
    """3x3 convolutions with a norm and ReLU, and after each but that of the finest level a bilinear enlargement.

    Attributes:
      width: channels.
      norm: of each convolution.
    """

    width: int
    norm: layers.Norm

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], sizes: tuple[tuple[int, int], ...], train: bool
    ) -> Float[Array, "b h2 w2 width"]:
        """`sizes`: heights and widths to enlarge to, one after the other; none for the finest level."""
        for i in range(max(len(sizes), 1)):
            x = layers.ConvNorm(self.width, 3, norm=self.norm, activation=nn.relu, name=f"conv_{i}")(x, train)
            x = interpolate(x, sizes[i]) if sizes else x
        return x


class SemanticHead(nn.Module):
    """Logits of the classes of stuff, and last of all things together, at the finest level (figure 3).

    Attributes:
      num_classes: the things' one included.
      levels: of the pyramid, finest first.
      width: channels.
      norm: of each convolution.
    """

    num_classes: int
    levels: tuple[str, ...]
    width: int
    norm: layers.Norm

    @nn.compact
    def __call__(self, pyramid: Levels, *, train: bool) -> Float[Array, "b h w classes"]:
        missing = [name for name in self.levels if name not in pyramid]
        if missing:
            raise ValueError(
                f"stuff is told from the levels {', '.join(self.levels)}, but the neck returns {', '.join(pyramid)}: "
                "set semantic_levels, or in_levels of the neck"
            )
        sizes = [(pyramid[name].shape[1], pyramid[name].shape[2]) for name in self.levels]
        parts = []
        for i, name in enumerate(self.levels):
            branch = ToFinest(self.width, self.norm, name=f"conv_upsample_layers_{i}")
            parts.append(branch(pyramid[name], tuple(reversed(sizes[:i])), train))
        init, zeros = nn.initializers.normal(0.01), nn.initializers.zeros
        predict = layers.Conv(self.num_classes, 1, kernel_init=init, bias_init=zeros, name="conv_logits")
        return predict(sum(parts[1:], parts[0]))


class PanopticFPN(MaskRCNN):
    """Variables lie under those of `MaskRCNN` and "semantic_head".

    Attributes:
      num_classes: of things and stuff together.
      num_stuff: the last so many of them are stuff.
      semantic_levels: of the pyramid, finest first, that the branch reads.
      semantic_width, semantic_norm: of its convolutions.
      semantic_weight: of its loss (table 1b of the paper).
      fusion: how things and stuff share the pixels.
    """

    suppression: Suppression = Suppression(candidates=5000, score_threshold=0.6, class_agnostic=True)
    num_stuff: int = 53
    semantic_levels: tuple[str, ...] = ("p2", "p3", "p4", "p5")
    semantic_width: int = 128
    semantic_norm: layers.Norm = layers.Norm("gn")
    semantic_weight: float = 0.5
    fusion: PanopticFusion = PanopticFusion()

    def __post_init__(self) -> None:
        if not 0 < self.num_stuff < self.num_classes:
            raise ValueError(
                f"PanopticFPN got num_stuff={self.num_stuff} of num_classes={self.num_classes}: expected at least one "
                "class of stuff and one of things"
            )
        super().__post_init__()

    def setup(self) -> None:
        super().setup()
        self.semantic_head = SemanticHead(
            self.num_stuff + 1, self.semantic_levels, self.semantic_width, self.semantic_norm
        )

    @property
    def object_classes(self) -> int:
        return self.num_classes - self.num_stuff

    def __call__(
        self, inputs: Array | Mapping[str, Array], *, train: bool = False, targets: Instances | None = None
    ) -> dict[str, Any]:
        """The outputs of `MaskRCNN`, and `semantic` [B, h, w, num_stuff + 1]: logits of stuff, last of all things.

        Args:
          inputs, targets: see `FasterRCNN`; labels of `targets` are those of things.
        """
        outputs, levels = self.with_masks(inputs, train, targets)
        return {**outputs, "semantic": self.semantic_head(levels, train=train)}

    @nn.nowrap
    def loss(self, outputs: Outputs, batch: Mapping[str, Any]) -> dict[str, tuple[Array, Array]]:
        """(sum, count) of the terms of `MaskRCNN` and of `semantic`.

        That one counts all cells of pictures, also those without a class, as OpenMMLab does.

        Args:
          outputs: of a call with `targets`.
          batch: `targets`, `valid`, `size` and `semantic` [B, H, W], the class of each pixel, 255 for none.
        """
        logits, stride = outputs["semantic"], self._stride
        wanted = batch["semantic"][:, ::stride, ::stride].astype(jnp.int32)
        stuff = jnp.where(wanted >= self.object_classes, wanted - self.object_classes, self.num_stuff)
        each = losses.cross_entropy(logits, jnp.where(wanted == UNLABELLED, UNLABELLED, stuff), ignore_index=UNLABELLED)
        y, x = (jnp.arange(side, dtype=jnp.float32) * stride for side in wanted.shape[1:])
        size = batch["size"].astype(jnp.float32)
        inside = (y[None] < size[:, :1])[:, :, None] & (x[None] < size[:, 1:])[:, None]
        total, count = losses.weighted_sum(each, inside & batch["valid"][:, None, None])
        return {**super().loss(outputs, batch), "semantic": (self.semantic_weight * total, count)}

    @nn.nowrap
    def predict(  # type: ignore[override]
        self, outputs: Outputs, size: Float[Array, "b 2"], pixel_area: Float[Array, " b"] | None = None
    ) -> PanopticSegments:
        """Things, and the map of things and stuff, whose sides are multiples of the finest level's stride.

        One image after the other: the logits of an image are enlarged to the size of the canvas.

        Args:
          outputs: of a call without `targets`.
          size: height and width of each picture.
          pixel_area: pixels of the original image in one of the canvas; None: one.
        """
        found: Detections = super().predict(outputs, size)
        area = jnp.ones(size.shape[:1], jnp.float32) if pixel_area is None else pixel_area

        def one(image: tuple[Detections, Array, Array, Array]) -> tuple[Array, Array]:
            return self.fusion(*image, self._stride)

        rows = (found, outputs["semantic"], size.astype(jnp.float32), area)
        panoptic, valid = jax.lax.map(one, rows)
        stuff = jnp.arange(self.object_classes, self.num_classes, dtype=found.labels.dtype)
        of_stuff = jnp.broadcast_to(stuff[None], (size.shape[0], self.num_stuff))
        return PanopticSegments(found, panoptic, jnp.concatenate([found.labels, of_stuff], axis=1), valid)

    @property
    def _stride(self) -> int:
        return self.strides[self.semantic_levels[0]]


HEAD = r"/(box_predictor|mask_predictor/mask_fcn_logits|semantic_head/conv_logits)/"
"""The layers that depend on the number of classes."""


def keys(model: PanopticFPN) -> dict[str, Rules]:
    """See `pretrained/keymaps.py`."""
    tables = mask_rcnn.keys(model)
    backbones = {source: rules for source, rules in tables.items() if "/backbone" in source}
    return {"openmmlab": (*tables["openmmlab"], (r"^(semantic_head\..+)\.bn\.", r"\1.gn.")), **backbones}
