"""Deformable DETR (Zhu et al. 2021, arXiv:2010.04159): DETR on several levels, each query looking at a few places.

Defaults are those of OpenMMLab's `deformable-detr_r50_16xb2-50e_coco`: single stage, without refinement (`refine`:
section 4.2, "iterative bounding box refinement"). The row `huggingface/deformable_detr` has what transformers'
`DeformableDetrForObjectDetection` does otherwise:

- Convolutions of the neck have a bias, although a norm follows.
- The loss of classes and its part of the matching cost count once; twice in OpenMMLab and in the authors' code, whose
  weights the published ones are.
- The logarithms of the matching cost are of probabilities plus 1e-8 (1e-12 in OpenMMLab); here they are exact.

Neither has the numbers of rows and columns start at 1 in the position embedding, as in DETR: half is taken off.
Where the whole batch has no object, losses are divided by one, as in `detr.py`.
"""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxvision import layers, losses
from jaxvision.detection.dense import best_pairs
from jaxvision.detection.detr import HUGGINGFACE, OPENMMLAB, check, detections, of_backbones, spoken, weights_of
from jaxvision.detection.query_layers import Add, BoxBranch, FeedForward, flatten, in_picture, prior_logit
from jaxvision.detection.rpn import images_and_size
from jaxvision.detection.set_matching import SetMatcher, set_losses
from jaxvision.layers.cross_attention import xavier_uniform
from jaxvision.ops import grid_points
from jaxvision.pretrained.keymaps import Rules
from jaxvision.structures import Detections, Instances

Outputs = Mapping[str, Array]
Shapes = tuple[tuple[int, int], ...]
EPS = 1e-5
"""Least distance from 0 and 1 of a share whose logit is taken (both references)."""


class EncoderLayer(nn.Module):
    """Every cell looks at a few places around its own on each level.

    Attributes:
      heads, points: of the attention.
      hidden: size of the feed-forward network.
      dropout: of what each step says.
    """

    heads: int
    points: int
    hidden: int
    dropout: float

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b s c"],
        position: Float[Array, "b s c"],
        places: Float[Array, "b s levels 2"],
        shapes: Shapes,
        real: Bool[Array, "b s"],
        *,
        train: bool,
    ) -> Float[Array, "b s c"]:
        attention = layers.DeformableAttention(self.heads, self.points, name="self_attn")
        x = Add(self.dropout, name="add_0")(x, attention(x + position, places, x, shapes, real), train=train)
        y = FeedForward(self.hidden, self.dropout, name="ffn")(x, train=train)
        return Add(self.dropout, name="add_1")(x, y, train=train)


class DecoderLayer(nn.Module):
    """Queries look at each other, then at a few places each. Attributes as in `EncoderLayer`; `attention_dropout`: of
    the weights of the attention among queries."""

    heads: int
    points: int
    hidden: int
    dropout: float
    attention_dropout: float

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b q c"],
        query: Float[Array, "b q c"],
        places: Float[Array, "b q levels d"],
        memory: Float[Array, "b s c"],
        shapes: Shapes,
        real: Bool[Array, "b s"],
        *,
        train: bool,
    ) -> Float[Array, "b q c"]:
        attention = layers.MultiHeadAttention(self.heads, self.attention_dropout, name="self_attn")
        placed = x + query
        x = Add(self.dropout, name="add_0")(x, attention(placed, placed, x, train=train), train=train)
        y = layers.DeformableAttention(self.heads, self.points, name="cross_attn")(
            x + query, places, memory, shapes, real
        )
        x = Add(self.dropout, name="add_1")(x, y, train=train)
        y = FeedForward(self.hidden, self.dropout, name="ffn")(x, train=train)
        return Add(self.dropout, name="add_2")(x, y, train=train)


class Encoder(nn.Module):
    """`layers_<i>`. Attributes as in `EncoderLayer`."""

    depth: int
    heads: int
    points: int
    hidden: int
    dropout: float

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b s c"],
        position: Float[Array, "b s c"],
        shares: Float[Array, "b levels 2"],
        shapes: Shapes,
        real: Bool[Array, "b s"],
        *,
        train: bool,
    ) -> Float[Array, "b s c"]:
        places = own_places(shapes, shares)
        for i in range(self.depth):
            layer = EncoderLayer(self.heads, self.points, self.hidden, self.dropout, name=f"layers_{i}")
            x = layer(x, position, places, shapes, real, train=train)
        return x


Say = Callable[[int, Array, Array], tuple[Array, Array]]


class Decoder(nn.Module):
    """`layers_<i>`. Attributes as in `DecoderLayer`; `refine`: each layer looks around the boxes of the one before."""

    depth: int
    heads: int
    points: int
    hidden: int
    dropout: float
    attention_dropout: float
    refine: bool

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b q c"],
        query: Float[Array, "b q c"],
        around: Float[Array, "b q 2"],
        say: Say,
        memory: Float[Array, "b s c"],
        shares: Float[Array, "b levels 2"],
        shapes: Shapes,
        real: Bool[Array, "b s"],
        *,
        train: bool,
    ) -> tuple[Float[Array, "depth b q k"], Float[Array, "depth b q 4"]]:
        """What the head says of each layer.

        Args:
          around: places of the queries, as shares of the picture.
          say: the head: number of the layer, its output, places -> logits, boxes.
        """
        said = []
        for i in range(self.depth):
            places = around[:, :, None] * jnp.tile(shares, (1, 1, around.shape[-1] // 2))[:, None]
            options = self.heads, self.points, self.hidden, self.dropout, self.attention_dropout
            x = DecoderLayer(*options, name=f"layers_{i}")(x, query, places, memory, shapes, real, train=train)
            logits, boxes = say(i, x, around)
            said.append((logits, boxes))
            around = jax.lax.stop_gradient(boxes) if self.refine else around
        logits, boxes = (jnp.stack(values) for values in zip(*said, strict=True))
        return logits, boxes


class DeformableHead(nn.Module):
    """`cls_branches_<i>`, a linear layer, and `reg_branches_<i>`: one of each, or one for each layer of the decoder.

    Attributes:
      num_classes: without a background.
      branches: how many of each.
      prior: probability of every class that the network starts with.
    """

    num_classes: int
    branches: int
    prior: float = 0.01

    def setup(self) -> None:
        start = nn.initializers.constant(prior_logit(self.prior))
        zeros = nn.initializers.zeros
        self.cls_branches = [layers.Dense(self.num_classes, bias_init=start) for _ in range(self.branches)]
        # A box starts at the place of its query; without refinement, with an eighth of the picture's sides.
        sides = [-2.0 if i == 0 else 0.0 for i in range(self.branches)]
        self.reg_branches = [BoxBranch(zeros, box_bias(side)) for side in sides]

    def __call__(
        self, i: int, x: Float[Array, "b q c"], places: Float[Array, "b q d"]
    ) -> tuple[Float[Array, "b q k"], Float[Array, "b q 4"]]:
        """Logits and boxes that layer `i` says, relative to points or boxes."""
        i = min(i, self.branches - 1)
        moved = self.reg_branches[i](x).astype(jnp.float32)
        rest = [(0, 0)] * (places.ndim - 1) + [(0, 4 - places.shape[-1])]
        return self.cls_branches[i](x), jax.nn.sigmoid(moved + jnp.pad(logit(places), rest))


def box_bias(side: float) -> Any:
    """An initializer: zeros, and this for width and height."""
    return lambda key, shape, dtype=None, out_sharding=None: jnp.asarray([0.0, 0.0, side, side], jnp.float32)


def logit(shares: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """The inverse of the sigmoid, of shares that are kept away from 0 and 1."""
    return jnp.log(jnp.maximum(shares, EPS)) - jnp.log(jnp.maximum(1 - shares, EPS))


class DeformableDETR(nn.Module):
    """Variables lie under "backbone", "neck", "encoder", "decoder", "level_embed", "query_embedding",
    "reference_points_fc" and "head".

    Attributes:
      backbone: called as `backbone(images, train=...)`.
      neck: called as `neck(levels, train=...)`; its levels are what the transformer sees, and have its width.
      num_classes: without a background.
      queries: objects that can be found at most.
      encoder_layers, decoder_layers: of the transformer.
      heads, points: of each attention; places are of each level.
      hidden: size of the feed-forward networks.
      dropout, attention_dropout: of what each step says, and of attention weights among queries.
      refine: each layer of the decoder has a head of its own, and looks around the boxes of the one before.
      matcher: of objects and queries.
      alpha, gamma: of the focal loss.
      class_weight, box_weight, giou_weight: of the losses.
      prior: see `DeformableHead`.
      auxiliary: whether each layer of the decoder learns from the truth, or only the last one.
      max_detections: pairs of query and class of an image.
    """

    backbone: nn.Module
    neck: nn.Module
    num_classes: int
    queries: int = 300
    encoder_layers: int = 6
    decoder_layers: int = 6
    heads: int = 8
    points: int = 4
    hidden: int = 1024
    dropout: float = 0.1
    attention_dropout: float = 0.1
    refine: bool = False
    matcher: SetMatcher = SetMatcher(score="focal", class_weight=2.0)
    alpha: float = 0.25
    gamma: float = 2.0
    class_weight: float = 2.0
    box_weight: float = 5.0
    giou_weight: float = 2.0
    prior: float = 0.01
    auxiliary: bool = True
    max_detections: int = 100

    def __post_init__(self) -> None:
        check(self)
        super().__post_init__()

    def setup(self) -> None:
        width = self.neck.channels
        normal, zeros = nn.initializers.normal(1.0), nn.initializers.zeros
        step = self.heads, self.points, self.hidden, self.dropout
        self.encoder = Encoder(self.encoder_layers, *step)
        self.decoder = Decoder(self.decoder_layers, *step, self.attention_dropout, self.refine)
        self.level_embed = self.param("level_embed", normal, (len(self.neck.out_levels), width), jnp.float32)
        self.query_embedding = self.param("query_embedding", normal, (self.queries, 2 * width), jnp.float32)
        self.reference_points_fc = layers.Dense(2, kernel_init=xavier_uniform, bias_init=zeros)
        self.head = DeformableHead(self.num_classes, self.decoder_layers if self.refine else 1, self.prior)

    def __call__(
        self, inputs: Array | Mapping[str, Array], *, train: bool = False, targets: Instances | None = None
    ) -> dict[str, Array]:
        """What the queries say.

        Args:
          inputs: float images [B, H, W, C], or `{"image": images, "size": [B, 2]}`: beyond its size an image is padding
            that nothing looks at.
          targets: not used.

        Returns:
          Of each layer of the decoder: `logits` [L, B, Q, num_classes] and `boxes` [L, B, Q, 4]: centre x, centre y,
          width, height, as shares of the picture's sides, float32.
        """
        images, size = images_and_size(inputs)
        levels = self.neck(self.backbone(images, train=train), train=train)
        shapes = tuple((x.shape[1], x.shape[2]) for x in levels.values())
        canvas = images.shape[1], images.shape[2]
        real = {name: in_picture(size, canvas, shape) for name, shape in zip(levels, shapes, strict=True)}
        position = {
            name: layers.sine_position_embedding(real[name], x.shape[-1], offset=-0.5) + embedding[None, None, None]
            for (name, x), embedding in zip(levels.items(), self.level_embed, strict=True)
        }
        seen, cells, shares = flatten(real), flatten(levels), shares_of_pictures(real)
        memory = self.encoder(cells, flatten(position).astype(cells.dtype), shares, shapes, seen, train=train)

        embedding = self.query_embedding.astype(memory.dtype)[None]
        query, x = jnp.split(jnp.broadcast_to(embedding, (memory.shape[0], *embedding.shape[1:])), 2, axis=-1)
        around = jax.nn.sigmoid(self.reference_points_fc(query).astype(jnp.float32))
        logits, boxes = self.decoder(x, query, around, self.head, memory, shares, shapes, seen, train=train)
        return {"logits": logits, "boxes": boxes}

    @nn.nowrap
    def loss(self, outputs: Outputs, batch: Mapping[str, Any]) -> dict[str, tuple[Array, Array]]:
        """See `set_matching.set_losses`.

        Args:
          outputs: of a call.
          batch: `targets`, `size` and `valid`.
        """
        classes = jnp.arange(self.num_classes, dtype=jnp.int32)[None, None]

        def classify(logits: Array, labels: Int[Array, "b q"], found: Bool[Array, "b q"]) -> tuple[Array, None]:
            wanted = (labels[..., None] == classes) & found[..., None]
            each = losses.focal(logits, wanted.astype(jnp.float32), alpha=self.alpha, gamma=self.gamma)
            return self.class_weight * each, None

        return set_losses(*spoken(self, outputs), batch, self.matcher, classify, weights=weights_of(self))

    @nn.nowrap
    def predict(self, outputs: Outputs, size: Float[Array, "b 2"]) -> Detections:
        """The best pairs of query and class, in pixels of the canvas, clipped to pictures of these sizes."""
        logits = outputs["logits"][-1].astype(jnp.float32)
        values, rows, labels = jax.vmap(lambda x: best_pairs(x, self.max_detections))(logits)
        every = jnp.ones_like(rows, bool)
        return detections(outputs["boxes"][-1], rows, jax.nn.sigmoid(values), labels, every, size)


def shares_of_pictures(real: Mapping[str, Bool[Array, "b _ _"]]) -> Float[Array, "b levels 2"]:
    """Which share of the width and of the height of each level belongs to the picture."""
    rows = [jnp.mean(mask[:, :, 0].astype(jnp.float32), axis=1) for mask in real.values()]
    columns = [jnp.mean(mask[:, 0].astype(jnp.float32), axis=1) for mask in real.values()]
    return jnp.stack([jnp.stack(columns, axis=1), jnp.stack(rows, axis=1)], axis=-1)


def own_places(shapes: Shapes, shares: Float[Array, "b levels 2"]) -> Float[Array, "b s levels 2"]:
    """Where each cell lies on each level, as shares of its map.

    A place is the same share of the picture on all levels, although their pictures end at different shares of the maps.
    """
    least = 1 / np.array(shapes, np.float32)[:, ::-1]
    within = []
    for i, (height, width) in enumerate(shapes):
        centres = grid_points((height, width), 1) * jnp.asarray(least[i])[None]
        within.append(centres[None] / jnp.maximum(shares[:, i], jnp.asarray(least[i])[None])[:, None])
    return jnp.concatenate(within, axis=1)[:, :, None] * shares[:, None]


HEAD = r"/head/cls_branches_\d+/"
"""The layers that depend on the number of classes."""
IGNORED = (r"^(bbox_head\.(cls|reg)_branches|(class|bbox)_embed)\.[1-9]", r"^model\.decoder\.(class|bbox)_embed\.")
"""Without refinement, published files hold the only head once for each layer."""


def keys(model: DeformableDETR) -> dict[str, Rules]:
    """See `pretrained/keymaps.py`."""
    openmmlab: Rules = (
        *OPENMMLAB,
        (r"^(neck\.(extra_)?convs\.\d+)\.norm\.", r"\1.gn."),
        *((rf"^head\.reg_branches\.(\d)\.layers\.{i}\.", rf"bbox_head.reg_branches.\1.{2 * i}.") for i in range(3)),
        (r"^head\.cls_branches\.", "bbox_head.cls_branches."),
        (r"^query_embedding$", "query_embedding.weight"),
    )
    levels = len(model.neck.in_levels)
    huggingface: Rules = (
        *HUGGINGFACE,
        *((rf"^neck\.extra_convs\.{i}\.", f"neck.convs.{levels + i}.") for i in range(model.neck.extra_levels)),
        (r"^neck\.convs\.(\d)\.conv\.", r"model.input_proj.\1.0."),
        (r"^neck\.convs\.(\d)\.norm\.", r"model.input_proj.\1.1."),
        (r"^head\.cls_branches\.", "class_embed."),
        (r"^head\.reg_branches\.", "bbox_embed."),
        (r"^query_embedding$", "model.query_position_embeddings.weight"),
        (r"^reference_points_fc\.", "model.reference_points."),
        (r"^level_embed$", "model.level_embed"),
        (r"(^| )(encoder|decoder)\.", r"\1model.\2."),
    )
    return of_backbones(model.backbone, openmmlab, huggingface)
