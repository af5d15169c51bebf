"""What two-stage detectors do with their proposals: features of each, a class and a better box, and what is kept.

RoIs (regions of interest) are padded per image, [B, R, 4] with `valid` [B, R]; their features are computed as one batch
of B * R.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from jaxvision import layers, losses
from jaxvision.detection.assigners import Assignment, MaxIoUAssigner, trained
from jaxvision.detection.dense import Suppression, best_pairs, suppress
from jaxvision.detection.samplers import RandomSampler, Samples
from jaxvision.ops import assign_levels, clip_boxes, decode_deltas, encode_deltas, multilevel_roi_align
from jaxvision.structures import Detections, Instances

ASSIGNER = MaxIoUAssigner(positive=0.5, negative=0.5, low_quality="none")
SAMPLER = RandomSampler(count=512, positive_fraction=0.25)
xavier_uniform = nn.initializers.xavier_uniform()


@dataclasses.dataclass(frozen=True, kw_only=True)
class RoIPooling:
    """RoI align on the level of a pyramid that suits a region's size, or on the only level. Defaults are OpenMMLab's.

    Attributes:
      size: bins along each side.
      levels: of the pyramid, finest first.
      sampling_ratio, aligned: see `ops.roi_align`; 0 is adaptive. torchvision: 2, False.
      finest_scale: regions below twice this side belong to the first level; None: torchvision's rule, which differs
        by rounding only (`ops.assign_levels`).
    """

    size: int = 7
    levels: tuple[str, ...] = ("p2", "p3", "p4", "p5")
    sampling_ratio: int = 0
    aligned: bool = True
    finest_scale: float | None = 56.0

    def __call__(
        self, levels: Mapping[str, Float[Array, "b _ _ c"]], strides: Mapping[str, int], rois: Float[Array, "b r 4"]
    ) -> Float[Array, "b*r s s c"]:
        """Features of every region.

        Raises:
          ValueError: a level that the pyramid does not have.
        """
        missing = [name for name in self.levels if name not in levels]
        if missing:
            raise ValueError(
                f"RoIs are pooled from the levels {', '.join(self.levels)}, but the neck returns "
                f"{', '.join(levels)}: set pooling.levels, or in_levels of the neck"
            )
        batch, count = rois.shape[:2]
        boxes = rois.reshape(-1, 4)
        own = [strides[name] for name in self.levels]
        of_level = assign_levels(boxes, len(own), first_level=round(math.log2(own[0])), finest_scale=self.finest_scale)
        return multilevel_roi_align(
            [levels[name] for name in self.levels],
            boxes,
            jnp.repeat(jnp.arange(batch, dtype=jnp.int32), count),
            spatial_scales=tuple(1 / stride for stride in own),
            output_size=self.size,
            sampling_ratio=self.sampling_ratio,
            aligned=self.aligned,
            levels=of_level,
        )


class TwoFCHead(nn.Module):
    """Two linear layers with ReLU over a region's features (Lin et al. 2017, arXiv:1612.03144, section 4.2).

    Attributes:
      width: of both.
    """

    width: int = 1024

    @nn.compact
    def __call__(self, x: Float[Array, "r h w c"]) -> Float[Array, "r width"]:
        zeros = nn.initializers.zeros
        # Their fan is that of the flat map.
        flat_init = _as_matrix(xavier_uniform)
        x = nn.relu(layers.FlatDense(self.width, kernel_init=flat_init, bias_init=zeros, name="fc6")(x))
        return nn.relu(layers.Dense(self.width, kernel_init=xavier_uniform, bias_init=zeros, name="fc7")(x))


class BoxPredictor(nn.Module):
    """Logits of the classes, background last, and the deltas of each class, or of all of them together.

    Attributes:
      num_classes: without the background.
      boxes: per region: `num_classes`, or 1.
    """

    num_classes: int
    boxes: int

    @nn.compact
    def __call__(self, x: Float[Array, "r d"]) -> tuple[Float[Array, "r classes"], Float[Array, "r boxes 4"]]:
        def dense(features: int, deviation: float, name: str) -> layers.Dense:
            init, zeros = nn.initializers.normal(deviation), nn.initializers.zeros
            return layers.Dense(features, kernel_init=init, bias_init=zeros, name=name)

        logits = dense(self.num_classes + 1, 0.01, "cls_score")(x)
        return logits, dense(4 * self.boxes, 0.001, "bbox_pred")(x).reshape(x.shape[0], self.boxes, 4)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BoxStage:
    """What the regions of an image are to say, and how that is learned. Defaults are OpenMMLab's for Faster R-CNN.

    Attributes:
      assigner: of objects to proposals.
      sampler: of the proposals that an image is trained on; the objects themselves are among them.
      box_stds: deltas are divided by them.
      class_agnostic: one box per region, not one for each class.
      beta: of the smooth L1 loss of deltas; 0: L1.
      box_weight: of that loss.
    """

    assigner: MaxIoUAssigner = ASSIGNER
    sampler: RandomSampler = SAMPLER
    box_stds: tuple[float, float, float, float] = (0.1, 0.1, 0.2, 0.2)
    class_agnostic: bool = False
    beta: float = 0.0
    box_weight: float = 1.0

    def sample(
        self, key: PRNGKeyArray, boxes: Float[Array, "b n 4"], valid: Bool[Array, "b n"], targets: Instances
    ) -> tuple[Float[Array, "b k 4"], Samples]:
        """Regions of each image to learn from: some of its proposals and objects."""

        def one(key: PRNGKeyArray, boxes: Array, valid: Array, truth: Array, real: Array) -> tuple[Array, Samples]:
            found = self.assigner(boxes, truth, real, valid)
            own = jnp.arange(truth.shape[0], dtype=jnp.int32)
            joined = Assignment(
                jnp.concatenate([own, found.truth]),
                jnp.concatenate([real, found.positive]),
                jnp.concatenate([jnp.zeros_like(real), found.negative]),
            )
            samples = self.sampler(key, joined)
            return jnp.concatenate([truth, boxes])[samples.rows], samples

        keys = jax.random.split(key, boxes.shape[0])
        return jax.vmap(one)(keys, boxes, valid, targets.boxes, trained(targets))

    def loss(
        self,
        logits: Float[Array, "b k classes"],
        deltas: Float[Array, "b k boxes 4"],
        rois: Float[Array, "b k 4"],
        samples: Samples,
        batch: Mapping[str, Any],
    ) -> dict[str, tuple[Array, Array]]:
        """(sum, count) of `classification` and `box`, both counting the sampled regions.

        Args:
          batch: `targets` and `valid`.
        """
        targets, background = batch["targets"], logits.shape[-1] - 1
        labels = jnp.take_along_axis(targets.labels, samples.truth, axis=1).astype(jnp.int32)
        wanted = jnp.where(samples.positive, labels, background)
        counted = samples.valid & batch["valid"][:, None]
        classification, count = losses.weighted_sum(losses.cross_entropy(logits, wanted), counted)
        own = jnp.zeros_like(labels) if deltas.shape[2] == 1 else jnp.where(samples.positive, labels, 0)
        said = jnp.take_along_axis(deltas, own[..., None, None], axis=2)[:, :, 0]
        boxes = jnp.take_along_axis(targets.boxes, samples.truth[..., None], axis=1)
        distance = losses.smooth_l1(said, encode_deltas(boxes, rois, (0.0,) * 4, self.box_stds), beta=self.beta)
        box, _ = losses.weighted_sum(distance, samples.positive & counted)
        return {"classification": (classification, count), "box": (self.box_weight * box, count)}

    def decode(self, deltas: Float[Array, "*n 4"], rois: Float[Array, "*n 4"]) -> Float[Array, "*n 4"]:
        """Boxes xyxy, float32."""
        return decode_deltas(deltas.astype(jnp.float32), rois, (0.0,) * 4, self.box_stds)


def detect_regions(
    logits: Float[Array, "b r classes"],
    deltas: Float[Array, "b r boxes 4"],
    rois: Float[Array, "b r 4"],
    valid: Bool[Array, "b r"],
    stage: BoxStage,
    size: Float[Array, "b 2"],
    settings: Suppression,
) -> Detections:
    """Detections of a batch in pixels of the canvas: the best pairs of region and class, decoded and suppressed.

    Args:
      logits: background last; their softmax is the score.
      size: height and width of each picture, to which boxes are clipped.
      settings: `candidates` of all pairs of an image.
    """

    def one(logits: Array, deltas: Array, rois: Array, valid: Array, size: Array) -> Detections:
        scores = jax.nn.softmax(logits.astype(jnp.float32), axis=-1)[:, :-1]
        values, rows, labels = best_pairs(jnp.where(valid[:, None], scores, 0.0), settings.candidates)
        codes = deltas[rows, jnp.zeros_like(labels) if deltas.shape[1] == 1 else labels]
        boxes = clip_boxes(stage.decode(codes, rois[rows]), size)
        return suppress(boxes, values, labels.astype(jnp.int32), valid[rows], settings)

    return jax.vmap(one)(logits, deltas, rois, valid, size)


def _as_matrix(init: Any) -> Any:
    """An initialiser that sees a kernel [h, w, c, out] as the matrix [h * w * c, out]."""

    def of_map(key: PRNGKeyArray, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
        return init(key, (math.prod(shape[:-1]), shape[-1]), dtype).reshape(shape)

    return of_map
