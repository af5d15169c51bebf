"""Detection by a sliding window: a classifier looks at every window of a few sizes, and the best ones stay.

What detectors did before they shared features between windows (Rowley et al. 1998; Viola and Jones 2001; Dalal and
Triggs 2005), with a network as the classifier and a class for the background. For teaching and comparison: each window
is cut out, resized and classified for itself, so an image costs as many runs of the network as it has windows, and a
box can be no better than the nearest window.
"""

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxvision import layers, losses
from jaxvision.detection.assigners import MaxIoUAssigner, trained
from jaxvision.detection.dense import Suppression, best_pairs, suppress
from jaxvision.detection.keys import with_backbone
from jaxvision.detection.rpn import drawn, images_and_size
from jaxvision.detection.samplers import RandomSampler, Samples
from jaxvision.ops import pool, roi_align
from jaxvision.pretrained.keymaps import Rules
from jaxvision.structures import Detections, Instances

ASSIGNER = MaxIoUAssigner(positive=0.6, negative=0.5, low_quality="truth")
"""Boxes are windows as they are: one that overlaps an object less than a hit must is to score low."""
SAMPLER = RandomSampler(count=64, positive_fraction=0.5)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Windows:
    """Which windows of an image are looked at: those that lie in its canvas.

    Attributes:
      sizes: height and width of the windows, in pixels.
      step: distance of neighbours as a share of their height and width; at least a pixel.
    """

    sizes: tuple[tuple[int, int], ...] = (
        (96, 96),
        (192, 192),
        (288, 288),
        (96, 192),
        (192, 96),
        (144, 288),
        (288, 144),
    )
    step: float = 0.25

    def __post_init__(self) -> None:
        if not self.sizes or min(itertools.chain(*self.sizes)) < 1 or not 0 < self.step <= 1:
            raise ValueError(
                f"sliding windows got sizes={self.sizes}, step={self.step}: expected heights and widths of at least a "
                "pixel, and a share in (0, 1]"
            )

    def __call__(self, canvas: tuple[int, int]) -> Float[np.ndarray, "n 4"]:
        """Windows xyxy in pixels, size by size, row by row.

        Raises:
          ValueError: a canvas that is smaller than all of them.
        """
        found = []
        for height, width in self.sizes:
            down, across = (max(round(self.step * side), 1) for side in (height, width))
            top, left = np.meshgrid(
                np.arange(0, canvas[0] - height + 1, down), np.arange(0, canvas[1] - width + 1, across), indexing="ij"
            )
            found.append(np.stack([left, top, left + width, top + height], axis=-1).reshape(-1, 4))
        windows = np.concatenate(found).astype(np.float32)
        if not len(windows):
            raise ValueError(f"no window of {self.sizes} (height, width) lies in a canvas of {canvas} pixels")
        return windows


class SlidingWindow(nn.Module):
    """Variables lie under "backbone" and "cls_logits".

    Attributes:
      backbone: the classifier without its last layer, called as `backbone(crops, train=...)`; its last level is used,
        averaged if it is a map.
      num_classes: without the background.
      windows: what is looked at.
      crop: side in pixels to which every window is resized.
      assigner: of objects to windows.
      sampler: of the windows that an image is trained on.
      chunk: windows of an image that are classified at once in evaluation: bounds the memory.
      suppression: how detections are chosen.
    """

    backbone: nn.Module
    num_classes: int
    windows: Windows = Windows()
    crop: int = 64
    assigner: MaxIoUAssigner = ASSIGNER
    sampler: RandomSampler = SAMPLER
    chunk: int = 64
    suppression: Suppression = Suppression(iou_threshold=0.3)

    def __post_init__(self) -> None:
        if self.crop < 1 or self.chunk < 1:
            raise ValueError(f"a sliding window got crop={self.crop}, chunk={self.chunk}: expected at least 1")
        super().__post_init__()

    def setup(self) -> None:
        self.cls_logits = layers.Dense(self.num_classes + 1, kernel_init=nn.initializers.normal(0.01))

    def __call__(
        self, inputs: Array | Mapping[str, Array], *, train: bool = False, targets: Instances | None = None
    ) -> dict[str, Any]:
        """What the classifier says of windows.

        Args:
          inputs: float images [B, H, W, C], or `{"image": images, "size": [B, 2]}`.
          targets: the truth to learn from; windows are sampled by the rng "sampling".

        Returns:
          `windows` [N, 4] xyxy in pixels; `usable` [B, N]: those whose centre lies in the picture; `logits`
          [B, N, num_classes + 1], background last. With `targets` the logits are those of the windows that were drawn
          for each image, and `samples` says which.
        """
        images, size = images_and_size(inputs)
        windows = jnp.asarray(self.windows((images.shape[1], images.shape[2])))
        outputs: dict[str, Any] = {"windows": windows, "usable": _centred(windows, size)}
        if targets is not None:
            samples = self._sample(windows, outputs["usable"], targets)
            logits = self._classify(images, windows[samples.rows], train)
            return {**outputs, "logits": logits, "samples": samples}
        return {**outputs, "logits": self._classify_all(images, windows, train)}

    def _sample(self, windows: Float[Array, "n 4"], usable: Bool[Array, "b n"], targets: Instances) -> Samples:
        found = jax.vmap(self.assigner, in_axes=(None, 0, 0, 0))(windows, targets.boxes, trained(targets), usable)
        return jax.vmap(self.sampler)(jax.random.split(self.make_rng("sampling"), usable.shape[0]), found)

    def _classify_all(self, images: Array, windows: Float[Array, "n 4"], train: bool) -> Float[Array, "b n c"]:
        """Chunk by chunk."""
        batch, count = images.shape[0], len(windows)
        chunk = min(self.chunk, count)
        chunks = jnp.pad(windows, ((0, -count % chunk), (0, 0))).reshape(-1, chunk, 4)

        def one(model: SlidingWindow, carry: None, own: Float[Array, "k 4"]) -> tuple[None, Float[Array, "b k c"]]:
            return carry, model._classify(images, jnp.broadcast_to(own[None], (batch, *own.shape)), train)

        _, logits = nn.scan(one, variable_broadcast=True, split_rngs={"params": False})(self, None, chunks)
        return jnp.moveaxis(logits, 0, 1).reshape(batch, -1, self.num_classes + 1)[:, :count]

    def _classify(self, images: Array, boxes: Float[Array, "b k 4"], train: bool) -> Float[Array, "b k c"]:
        batch, count = boxes.shape[:2]
        crops = roi_align(
            images,
            boxes.reshape(-1, 4),
            jnp.repeat(jnp.arange(batch, dtype=jnp.int32), count),
            output_size=self.crop,
            spatial_scale=1.0,
            sampling_ratio=2,
        )
        x = list(self.backbone(crops, train=train).values())[-1]
        x = pool.global_avg_pool(x) if x.ndim == 4 else x
        return self.cls_logits(x).reshape(batch, count, -1)

    @nn.nowrap
    def loss(self, outputs: Mapping[str, Any], batch: Mapping[str, Any]) -> dict[str, tuple[Array, Array]]:
        """(sum, count) of `classification`, counting the sampled windows.

        Args:
          outputs: of a call with `targets`.
          batch: `targets` and `valid`.

        Raises:
          ValueError: outputs without samples.
        """
        samples = drawn(outputs)
        labels = jnp.take_along_axis(batch["targets"].labels, samples.truth, axis=1).astype(jnp.int32)
        wanted = jnp.where(samples.positive, labels, self.num_classes)
        surprise = losses.cross_entropy(outputs["logits"], wanted)
        return {"classification": losses.weighted_sum(surprise, samples.valid & batch["valid"][:, None])}

    @nn.nowrap
    def predict(self, outputs: Mapping[str, Any], size: Float[Array, "b 2"]) -> Detections:
        """Detections in pixels of the canvas, clipped to pictures of these heights and widths."""
        windows = outputs["windows"]

        def one(logits: Array, usable: Array, size: Float[Array, " 2"]) -> Detections:
            scores = jax.nn.softmax(logits.astype(jnp.float32), axis=-1)[:, :-1]
            values, rows, labels = best_pairs(jnp.where(usable[:, None], scores, 0.0), self.suppression.candidates)
            limits = jnp.concatenate([size[::-1], size[::-1]])[None]
            boxes = jnp.minimum(windows[rows], limits)
            return suppress(boxes, values, labels.astype(jnp.int32), usable[rows], self.suppression)

        return jax.vmap(one)(outputs["logits"], outputs["usable"], size)


def _centred(windows: Float[Array, "n 4"], size: Float[Array, "b 2"]) -> Bool[Array, "b n"]:
    centres = 0.5 * (windows[:, :2] + windows[:, 2:])
    return jnp.all(centres[None] < size[:, None, ::-1], axis=-1)


HEAD = r"^cls_logits/"
"""The layer that depends on the number of classes."""


def keys(model: SlidingWindow) -> dict[str, Rules]:
    """Those of the backbone, see `pretrained/keymaps.py`: no published file has the rest."""
    return with_backbone(model.backbone, {})
