"""OverFeat (Sermanet et al. 2014, arXiv:1312.6229): a classifier and a box regressor of windows, as convolutions.

Applied to an image that is larger than its window, the network says at every position what it would say of the window
there, at a fraction of the price; several scales of the image make windows of several sizes. Boxes that windows agree
on are merged, and their scores added up.

The last pooling and the layers behind it see every offset of the pooling (section 3.3, figure 3): a max pooling of
stride 1, and behind it kernels whose taps are a pooling apart, are the same numbers in their places.

What differs from the paper, or is not told there:

- Detection is learned densely from whole images, on all windows of all scales: a window learns the object that its
  core (a centred square) overlaps most, and the background is one more class. The paper trains a classifier of single
  windows first, and then the regressor on windows that hold at least half of an object.
- Of an image, the windows that hold nothing and are most wrongly judged are learned, some for each window with an
  object ("the most offending ones", section 5).
- The regressor says one box for all classes (the better form of figure 9), its edges in units of the window, learned
  by smooth L1, which near the truth is the paper's squared error.
- The match score of two boxes is the distance of their centres over the mean of their diagonals plus one minus their
  IoU, so that it has no unit; only boxes of one class are merged. Merged boxes are means by score, unless `plain`.
- Summed scores s become s / (1 + s), to lie in 0..1.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxvision import layers, losses
from jaxvision.detection.assigners import MaxIoUAssigner, trained
from jaxvision.detection.dense import best_pairs
from jaxvision.detection.keys import with_backbone
from jaxvision.detection.rpn import images_and_size
from jaxvision.detection.samplers import hardest
from jaxvision.ops import box_iou, clip_boxes, grid_points, pool, top_k
from jaxvision.ops.interpolate import interpolate
from jaxvision.pretrained.keymaps import Rules
from jaxvision.structures import Detections, Instances

Outputs = Mapping[str, Array]
Features = Float[Array, "b h w c"]
ASSIGNER = MaxIoUAssigner(positive=0.5, negative=0.4, low_quality="truth")


class OverFeatFeatures(nn.Module):
    """The paper's convolutions up to the last pooling (tables 1 and 3), as the level "features".

    A cell covers 53 pixels, or 55 (`fast`); the zeros around layers 3 and later make that a little more.

    Attributes:
      width: channels of the first layer.
      fast: the smaller model, of stride 16; else the accurate one, of stride 12.
    """

    width: int = 96
    fast: bool = False

    @property
    def strides(self) -> dict[str, int]:
        """Input pixels per cell."""
        return {"features": 16 if self.fast else 12}

    @nn.compact
    def __call__(self, images: Features, *, train: bool) -> dict[str, Features]:
        w = self.width
        first, second, first_pool = ((11, 4), 5, 2) if self.fast else ((7, 2), 7, 3)
        deep = (512, 1024, 1024) if self.fast else (512, 512, 1024, 1024)
        x = nn.relu(layers.Conv(w, *first, padding=0, name="conv1")(images))
        x = pool.max_pool(x, first_pool)
        x = nn.relu(layers.Conv(w * 8 // 3, second, padding=0, name="conv2")(x))
        x = pool.max_pool(x, 2)
        for i, channels in enumerate(deep):
            x = nn.relu(layers.Conv(channels * w // 96, 3, name=f"conv{3 + i}")(x))
        return {"features": x}


class WindowHead(nn.Module):
    """Three linear layers over every window of a pooled map, as convolutions: `fc_0`, `fc_1` with ReLU, and `last`.

    Attributes:
      features: of the last layer.
      hidden: units of the first two.
      window: side of a window, in cells.
      dilation: distance of the cells of a window.
      dropout: in front of the last two layers while training.
    """

    features: int
    hidden: tuple[int, int]
    window: int
    dilation: int
    dropout: float

    @nn.compact
    def __call__(self, x: Features, *, train: bool) -> Features:
        taps = self.window, 1
        for i, units in enumerate(self.hidden):
            x = nn.relu(layers.Conv(units, taps[i], padding=0, dilation=(self.dilation, 1)[i], name=f"fc_{i}")(x))
            x = nn.Dropout(self.dropout)(x, deterministic=not train)

        init, zeros = nn.initializers.normal(0.01), nn.initializers.zeros
        return layers.Conv(self.features, 1, kernel_init=init, bias_init=zeros, name="last")(x)


class OverFeat(nn.Module):
    """Variables lie under "backbone", "classifier" and "regressor". Defaults are those of the accurate model.

    Attributes:
      backbone: called as `backbone(images, train=...)`, has `strides`; its last level is used.
      num_classes: without the background.
      pool: side of the last max pooling.
      window: side of the first linear layers, in pooled cells.
      cell: pixels that a cell of the level covers; None: as many as its stride. Windows are placed by it.
      fine: every offset of the pooling, not the first alone.
      scales: of the image.
      hidden, box_hidden: units of the linear layers of both heads.
      dropout: see `WindowHead`; 0.5 in the paper.
      core: side of the centred square of a window that is to overlap an object, as a share of the window's.
      assigner: of objects to the cores of windows.
      negatives: windows without an object for each with one, or in an image without any.
      box_weight: of the loss of boxes.
      score_threshold: pairs of window and class that score no more are left out.
      candidates: the best pairs of an image, which are merged.
      merge_threshold: boxes of a higher match score are not merged.
      plain: merged boxes are plain means, as in the paper.
      max_detections: of an image.
    """

    backbone: nn.Module
    num_classes: int
    pool: int = 3
    window: int = 5
    cell: int | None = 53
    fine: bool = True
    scales: tuple[float, ...] = (1.0, 1.25, 1.5, 2.0)
    hidden: tuple[int, int] = (4096, 4096)
    box_hidden: tuple[int, int] = (4096, 1024)
    dropout: float = 0.0
    core: float = 0.75
    assigner: MaxIoUAssigner = ASSIGNER
    negatives: float = 3.0
    box_weight: float = 10.0
    score_threshold: float = 0.3
    candidates: int = 200
    merge_threshold: float = 0.75
    plain: bool = False
    max_detections: int = 100

    def __post_init__(self) -> None:
        if not self.scales or min(self.scales) <= 0 or not 0 < self.core <= 1:
            raise ValueError(
                f"OverFeat got scales={self.scales}, core={self.core}: expected positive scales, and a share in (0, 1]"
            )
        if min(self.pool, self.window, self.candidates, self.max_detections) < 1:
            raise ValueError(
                f"OverFeat got pool={self.pool}, window={self.window}, candidates={self.candidates}, "
                f"max_detections={self.max_detections}: expected at least 1"
            )
        super().__post_init__()

    def setup(self) -> None:
        dilation = self.pool if self.fine else 1
        self.classifier = WindowHead(self.num_classes + 1, self.hidden, self.window, dilation, self.dropout)
        self.regressor = WindowHead(4, self.box_hidden, self.window, dilation, self.dropout)

    @property
    def stride(self) -> int:
        """Input pixels per cell of the level."""
        return list(self.backbone.strides.values())[-1]

    @property
    def field(self) -> int:
        """Side of a window in pixels of a scaled image."""
        return self.stride * (self.pool * self.window - 1) + (self.cell or self.stride)

    def __call__(
        self, inputs: Array | Mapping[str, Array], *, train: bool = False, targets: Instances | None = None
    ) -> dict[str, Array]:
        """What both heads say of every window.

        Args:
          inputs: float images [B, H, W, C], or `{"image": images, "size": [B, 2]}`.
          targets: not used.

        Returns:
          Scale by scale, row by row: `logits` [B, N, num_classes + 1], background last; `edges` [B, N, 4], left, top,
          right and bottom in sides of the window, from its upper left corner; `windows` [N, 4] xyxy in pixels of the
          canvas; and `usable` [B, N], those whose centre lies in the picture.

        Raises:
          ValueError: a scale that leaves less of the canvas than a window.
        """
        images, size = images_and_size(inputs)
        height, width = images.shape[1:3]
        low, high = 0.5 - 0.5 * self.core, 0.5 + 0.5 * self.core
        logits: list[Array] = []
        edges: list[Array] = []
        windows: list[Array] = []
        for scale in self.scales:
            shown = round(height * scale), round(width * scale)
            x = images if scale == 1.0 else interpolate(images, shown, antialias=scale < 1.0)
            features = list(self.backbone(x, train=train).values())[-1]
            if min(features.shape[1:3]) < self.pool * self.window:
                raise ValueError(
                    f"OverFeat: images of {(height, width)} pixels scaled by {scale} are smaller than its window of "
                    f"{self.field} pixels: take larger ones, or change scales"
                )
            x = pool.max_pool(features, self.pool, 1 if self.fine else self.pool)
            for found, head in ((logits, self.classifier), (edges, self.regressor)):
                said = head(x, train=train)
                found.append(said.reshape(said.shape[0], -1, said.shape[-1]))
            grid = (said.shape[1], said.shape[2])
            windows.append(self.windows_of(grid, (shown[0] / height, shown[1] / width)))
        every = jnp.concatenate(windows)
        centres = 0.5 * (every[:, :2] + every[:, 2:])
        return {
            "logits": jnp.concatenate(logits, axis=1),
            # A network that says nothing says the core of the window.
            "edges": jnp.concatenate(edges, axis=1) + jnp.asarray([low, low, high, high], images.dtype)[None, None],
            "windows": every,
            "usable": jnp.all(centres[None] < size[:, None, ::-1], axis=-1),
        }

    @nn.nowrap
    def windows_of(self, grid: tuple[int, int], factor: tuple[float, float]) -> Float[Array, "n 4"]:
        """Windows xyxy in pixels of the canvas, row by row, of a grid of positions in an image scaled by `factor`."""
        step = self.stride * (1 if self.fine else self.pool)
        corners = grid_points(grid, step, offset=0.0)
        windows = jnp.concatenate([corners, corners + float(self.field)], axis=1)
        return windows / jnp.asarray([factor[1], factor[0]] * 2, jnp.float32)[None]

    @nn.nowrap
    def loss(self, outputs: Outputs, batch: Mapping[str, Any]) -> dict[str, tuple[Array, Array]]:
        """(sum, count) of `classification`, counting the windows that are learned, and `box`, counting those with an
        object.

        Args:
          outputs: of a call.
          batch: `targets` and `valid`.
        """
        targets, windows, valid = batch["targets"], outputs["windows"], batch["valid"][:, None]
        found = jax.vmap(self.assigner, in_axes=(None, 0, 0, 0))(
            cores(windows, self.core), targets.boxes, trained(targets), outputs["usable"]
        )
        labels = jnp.take_along_axis(targets.labels, found.truth, axis=1).astype(jnp.int32)
        boxes = jnp.take_along_axis(targets.boxes, found.truth[..., None], axis=1)
        surprise = losses.cross_entropy(outputs["logits"], jnp.where(found.positive, labels, self.num_classes))
        positives = jnp.sum(found.positive, axis=1, dtype=jnp.float32)
        mined = hardest(surprise, found.negative, self.negatives * jnp.maximum(positives, 1.0))
        classification = losses.weighted_sum(surprise, (found.positive | mined) & valid)

        corner, side = windows[None, :, :2], windows[None, :, 2:] - windows[None, :, :2]
        aims = jnp.concatenate([(boxes[..., :2] - corner) / side, (boxes[..., 2:] - corner) / side], axis=-1)
        distance = jnp.sum(losses.smooth_l1(outputs["edges"], aims, beta=1.0), axis=-1)
        far, count = losses.weighted_sum(distance, found.positive & valid)
        return {"classification": classification, "box": (self.box_weight * far, count)}

    @nn.nowrap
    def predict(self, outputs: Outputs, size: Float[Array, "b 2"]) -> Detections:
        """Detections in pixels of the canvas, clipped to pictures of these heights and widths."""
        windows = outputs["windows"]
        corner, side = windows[:, :2], windows[:, 2:] - windows[:, :2]

        def one(logits: Array, edges: Array, usable: Array, size: Float[Array, " 2"]) -> Detections:
            scores = jax.nn.softmax(logits.astype(jnp.float32), axis=-1)[:, :-1]
            values, rows, labels = best_pairs(jnp.where(usable[:, None], scores, 0.0), self.candidates)
            own, corners, sides = edges.astype(jnp.float32)[rows], corner[rows], side[rows]
            boxes = jnp.concatenate([corners + own[:, :2] * sides, corners + own[:, 2:] * sides], axis=1)
            boxes = clip_boxes(boxes, size)
            valid = (values > self.score_threshold) & jnp.all(boxes[:, 2:] > boxes[:, :2], axis=1)
            boxes, sums, valid = merge_boxes(boxes, values, labels, valid, self.merge_threshold, plain=self.plain)
            sums, rows, valid = top_k(sums, self.max_detections, valid)
            kept = jnp.where(valid[:, None], boxes[rows], 0.0)
            return Detections(kept, sums / (1.0 + sums), jnp.where(valid, labels[rows], 0).astype(jnp.int32), valid)

        return jax.vmap(one)(outputs["logits"], outputs["edges"], outputs["usable"], size)


def cores(windows: Float[Array, "n 4"], share: float) -> Float[Array, "n 4"]:
    """The centred parts of windows whose sides are this share of theirs."""
    inset = 0.5 * (1.0 - share) * (windows[:, 2:] - windows[:, :2])
    return jnp.concatenate([windows[:, :2] + inset, windows[:, 2:] - inset], axis=1)


def match_scores(box: Float[Array, "4"], others: Float[Array, "k 4"]) -> Float[Array, " k"]:
    """How badly a box matches others, from 0 for itself: the distance of the centres over the mean of the diagonals,
    plus one minus the IoU."""

    def length(x: Float[Array, "*n 2"]) -> Float[Array, "*n"]:
        return jnp.sqrt(jnp.sum(jnp.square(x), axis=-1))

    apart = length(0.5 * (box[None, :2] + box[None, 2:]) - 0.5 * (others[:, :2] + others[:, 2:]))
    diagonal = 0.5 * (length(box[None, 2:] - box[None, :2]) + length(others[:, 2:] - others[:, :2]))
    return apart / jnp.where(diagonal > 0, diagonal, 1.0) + 1.0 - box_iou(box[None], others)[0]


def merge_boxes(
    boxes: Float[Array, "k 4"],
    scores: Float[Array, " k"],
    labels: Int[Array, " k"],
    valid: Bool[Array, " k"],
    threshold: float,
    *,
    plain: bool = False,
) -> tuple[Float[Array, "k 4"], Float[Array, " k"], Bool[Array, " k"]]:
    """Greedy merging (section 4.3): again and again the best matching pair becomes one box, until none matches.

    The merged box takes the first one's row, with the sum of both scores. Of equal pairs the first one is merged. Costs
    k^2 match scores, and one pass over them for each of at most k - 1 merges; no gradient passes.

    Args:
      boxes: xyxy, float32.
      labels: only boxes of one label are merged.
      valid: which rows take part.
      threshold: the largest match score of boxes that are merged.
      plain: the merged box is the mean of both, not the mean by their scores.

    Returns:
      Boxes, sums of scores, and which rows are left.
    """
    boxes, scores = jax.lax.stop_gradient((boxes, scores))
    rows = jnp.arange(len(labels))

    def scores_of(row: Array, boxes: Array, alive: Array) -> Float[Array, " k"]:
        apart = (labels != labels[row]) | ~alive | ~alive[row] | (rows == row)
        return jnp.where(apart, jnp.inf, match_scores(boxes[row], boxes))

    def unfinished(state: tuple[Array, Array, Array, Array]) -> Bool[Array, ""]:
        return jnp.min(state[-1]) <= threshold

    def merge(state: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        boxes, sums, alive, table = state
        pair = jnp.divmod(jnp.argmin(table), len(labels))
        first, second = jnp.minimum(*pair), jnp.maximum(*pair)  # both orders may differ in their last bit
        weights = (0.5, 0.5) if plain else (sums[first], sums[second])
        mean = (weights[0] * boxes[first] + weights[1] * boxes[second]) / (weights[0] + weights[1])
        boxes, alive = boxes.at[first].set(mean), alive.at[second].set(False)
        sums = sums.at[first].add(sums[second])
        own = scores_of(first, boxes, alive)
        table = table.at[first].set(own).at[:, first].set(own).at[second].set(jnp.inf).at[:, second].set(jnp.inf)
        return boxes, sums, alive, table

    table = jax.vmap(scores_of, in_axes=(0, None, None))(rows, boxes, valid)
    boxes, scores, valid, _ = jax.lax.while_loop(unfinished, merge, (boxes, scores, valid, table))
    return boxes, scores, valid


HEAD = r"^classifier/last/"
"""The layer that depends on the number of classes."""


def keys(model: OverFeat | OverFeatFeatures) -> dict[str, Rules]:
    """Those of the backbone, see `pretrained/keymaps.py`: no published file has other parts."""
    return {} if isinstance(model, OverFeatFeatures) else with_backbone(model.backbone, {})
