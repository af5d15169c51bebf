"""DETR (Carion et al. 2020, arXiv:2005.12872): a transformer turns queries into a set of objects, without suppression.

Defaults are those of OpenMMLab's `detr_r50_8xb2-150e_coco`; those of transformers' `DetrForObjectDetection` are the
same, but for what follows.

- transformers drops no attention weights (`attention_dropout=0`; OpenMMLab and the authors as many as of the rest),
  but also what enters the encoder.
- With `auxiliary_loss=True`, transformers hands the output of each decoder layer through the last layer norm before the
  next layer sees it, and its last layer through two; the authors, OpenMMLab and this module norm only what the head
  sees. Published weights were trained that way, and transformers' default agrees.
- The class "no object" is the last one in both. Weights with the numbers of COCO's categories have 91 classes.
- Where the whole batch has no object, terms of boxes are divided by one; both references do so on the average of the
  devices, which is more than the number of all objects where there are fewer objects than devices.
- transformers returns for each query its best class that scores more than a threshold, unsorted and unclipped.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxvision import layers, losses
from jaxvision.detection.keys import with_backbone
from jaxvision.detection.query_layers import Add, BoxBranch, FeedForward, flatten, in_picture
from jaxvision.detection.rpn import images_and_size
from jaxvision.detection.set_matching import SetMatcher, set_losses, to_pixels
from jaxvision.ops import top_k
from jaxvision.pretrained.keymaps import Rules
from jaxvision.structures import Detections, Instances

Outputs = Mapping[str, Array]


class EncoderLayer(nn.Module):
    """Every cell looks at every cell of the picture.

    Attributes:
      heads: of the attention.
      hidden: size of the feed-forward network.
      dropout, attention_dropout: of what each step says, and of attention weights.
    """

    heads: int
    hidden: int
    dropout: float
    attention_dropout: float

    @nn.compact
    def __call__(
        self, x: Float[Array, "b s c"], position: Float[Array, "b s c"], real: Bool[Array, "b s"], *, train: bool
    ) -> Float[Array, "b s c"]:
        attention = layers.MultiHeadAttention(self.heads, self.attention_dropout, name="self_attn")
        placed = x + position
        x = Add(self.dropout, name="add_0")(x, attention(placed, placed, x, real, train=train), train=train)
        y = FeedForward(self.hidden, self.dropout, name="ffn")(x, train=train)
        return Add(self.dropout, name="add_1")(x, y, train=train)


class DecoderLayer(nn.Module):
    """Queries look at each other, then at the cells of the picture. Attributes as in `EncoderLayer`."""

    heads: int
    hidden: int
    dropout: float
    attention_dropout: float

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b q c"],
        query: Float[Array, "b q c"],
        memory: Float[Array, "b s c"],
        position: Float[Array, "b s c"],
        real: Bool[Array, "b s"],
        *,
        train: bool,
    ) -> Float[Array, "b q c"]:
        attention = layers.MultiHeadAttention(self.heads, self.attention_dropout, name="self_attn")
        placed = x + query
        x = Add(self.dropout, name="add_0")(x, attention(placed, placed, x, train=train), train=train)
        attention = layers.MultiHeadAttention(self.heads, self.attention_dropout, name="cross_attn")
        y = attention(x + query, memory + position, memory, real, train=train)
        x = Add(self.dropout, name="add_1")(x, y, train=train)
        y = FeedForward(self.hidden, self.dropout, name="ffn")(x, train=train)
        return Add(self.dropout, name="add_2")(x, y, train=train)


class Encoder(nn.Module):
    """`layers_<i>`."""

    depth: int
    heads: int
    hidden: int
    dropout: float
    attention_dropout: float

    @nn.compact
    def __call__(
        self, x: Float[Array, "b s c"], position: Float[Array, "b s c"], real: Bool[Array, "b s"], *, train: bool
    ) -> Float[Array, "b s c"]:
        for i in range(self.depth):
            layer = EncoderLayer(self.heads, self.hidden, self.dropout, self.attention_dropout, name=f"layers_{i}")
            x = layer(x, position, real, train=train)
        return x


class Decoder(nn.Module):
    """`layers_<i>`, and `post_norm`, through which the head sees each of them."""

    depth: int
    heads: int
    hidden: int
    dropout: float
    attention_dropout: float

    @nn.compact
    def __call__(
        self,
        query: Float[Array, "b q c"],
        memory: Float[Array, "b s c"],
        position: Float[Array, "b s c"],
        real: Bool[Array, "b s"],
        *,
        train: bool,
    ) -> Float[Array, "depth b q c"]:
        norm = layers.LayerNorm(name="post_norm")
        x, outputs = jnp.zeros_like(query), []
        for i in range(self.depth):
            layer = DecoderLayer(self.heads, self.hidden, self.dropout, self.attention_dropout, name=f"layers_{i}")
            x = layer(x, query, memory, position, real, train=train)
            outputs.append(norm(x))
        return jnp.stack(outputs)


class DETRHead(nn.Module):
    """`fc_cls`: logits of each class and of no object; `reg_branch`: boxes."""

    num_classes: int

    @nn.compact
    def __call__(
        self, x: Float[Array, "depth b q c"]
    ) -> tuple[Float[Array, "depth b q k"], Float[Array, "depth b q 4"]]:
        logits = layers.Dense(self.num_classes + 1, name="fc_cls")(x)
        return logits, jax.nn.sigmoid(BoxBranch(name="reg_branch")(x).astype(jnp.float32))


class DETR(nn.Module):
    """Variables lie under "backbone", "neck", "encoder", "decoder", "query_embedding" and "head".

    Attributes:
      backbone: called as `backbone(images, train=...)`.
      neck: called as `neck(levels, train=...)`; its only level is what the transformer sees, and has its width.
      num_classes: without "no object".
      queries: objects that can be found at most.
      encoder_layers, decoder_layers: of the transformer.
      heads: of each attention.
      hidden: size of the feed-forward networks.
      dropout, attention_dropout: of what each step says, and of attention weights.
      matcher: of objects and queries.
      no_object_weight: of the class "no object" in the loss.
      box_weight, giou_weight: of the losses of boxes.
      auxiliary: whether each layer of the decoder learns from the truth, or only the last one.
      max_detections: of an image.
    """

    backbone: nn.Module
    neck: nn.Module
    num_classes: int
    queries: int = 100
    encoder_layers: int = 6
    decoder_layers: int = 6
    heads: int = 8
    hidden: int = 2048
    dropout: float = 0.1
    attention_dropout: float = 0.1
    matcher: SetMatcher = SetMatcher()
    no_object_weight: float = 0.1
    box_weight: float = 5.0
    giou_weight: float = 2.0
    auxiliary: bool = True
    max_detections: int = 100

    def __post_init__(self) -> None:
        check(self)
        super().__post_init__()

    def setup(self) -> None:
        options = self.heads, self.hidden, self.dropout, self.attention_dropout
        self.encoder = Encoder(self.encoder_layers, *options)
        self.decoder = Decoder(self.decoder_layers, *options)
        self.head = DETRHead(self.num_classes)
        normal = nn.initializers.normal(1.0)
        self.query_embedding = self.param("query_embedding", normal, (self.queries, self.neck.channels), jnp.float32)

    def __call__(
        self, inputs: Array | Mapping[str, Array], *, train: bool = False, targets: Instances | None = None
    ) -> dict[str, Array]:
        """What the queries say.

        Args:
          inputs: float images [B, H, W, C], or `{"image": images, "size": [B, 2]}`: beyond its size an image is padding
            that nothing looks at.
          targets: not used.

        Returns:
          Of each layer of the decoder: `logits` [L, B, Q, num_classes + 1], "no object" last, and `boxes` [L, B, Q, 4]:
          centre x, centre y, width, height, as shares of the picture's sides, float32.

        Raises:
          ValueError: a neck of several levels.
        """
        images, size = images_and_size(inputs)
        levels = self.neck(self.backbone(images, train=train), train=train)
        if len(levels) != 1:
            raise ValueError(f"DETR got the levels {', '.join(levels)} from its neck: expected one")
        (x,) = levels.values()
        real = in_picture(size, (images.shape[1], images.shape[2]), (x.shape[1], x.shape[2]))
        position = layers.sine_position_embedding(real, x.shape[-1]).astype(x.dtype)
        cells, position, seen = (flatten({"": value}) for value in (x, position, real))
        memory = self.encoder(cells, position, seen, train=train)
        query = self.query_embedding.astype(x.dtype)[None]
        query = jnp.broadcast_to(query, (images.shape[0], *query.shape[1:]))
        logits, boxes = self.head(self.decoder(query, memory, position, seen, train=train))
        return {"logits": logits, "boxes": boxes}

    @nn.nowrap
    def loss(self, outputs: Outputs, batch: Mapping[str, Any]) -> dict[str, tuple[Array, Array]]:
        """See `set_matching.set_losses`; that of classes is divided by the weights of what the queries are to say.

        Args:
          outputs: of a call.
          batch: `targets`, `size` and `valid`.
        """

        def classify(logits: Array, labels: Int[Array, "b q"], found: Bool[Array, "b q"]) -> tuple[Array, Array]:
            aims = jnp.where(found, labels, self.num_classes)
            weights = jnp.where(found, 1.0, self.no_object_weight)
            return losses.cross_entropy(logits, aims) * weights, weights

        return set_losses(*spoken(self, outputs), batch, self.matcher, classify, weights=weights_of(self))

    @nn.nowrap
    def predict(self, outputs: Outputs, size: Float[Array, "b 2"]) -> Detections:
        """The best queries, in pixels of the canvas, clipped to pictures of these heights and widths."""
        chances = jax.nn.softmax(outputs["logits"][-1].astype(jnp.float32))[..., :-1]
        scores, rows, valid = top_k(jnp.max(chances, axis=-1), self.max_detections)
        labels = jnp.take_along_axis(jnp.argmax(chances, axis=-1).astype(jnp.int32), rows, axis=1)
        return detections(outputs["boxes"][-1], rows, scores, labels, valid, size)


def check(model: Any) -> None:
    """Raises ValueError for numbers that a detector with queries cannot have."""
    counts = ("queries", "encoder_layers", "decoder_layers", "heads", "hidden", "max_detections")
    wrong = {name: getattr(model, name) for name in counts if getattr(model, name) < (name != "encoder_layers")}
    if wrong:
        raise ValueError(f"{type(model).__name__} got {wrong}: expected positive numbers")


def spoken(model: Any, outputs: Outputs) -> tuple[Array, Array]:
    """Logits and boxes of the layers that learn."""
    first = 0 if model.auxiliary else -1
    return outputs["logits"][first:], outputs["boxes"][first:]


def weights_of(model: Any) -> tuple[float, float]:
    """Of the losses of boxes."""
    return model.box_weight, model.giou_weight


def detections(
    boxes: Float[Array, "b q 4"],
    rows: Int[Array, "b k"],
    scores: Float[Array, "b k"],
    labels: Int[Array, "b k"],
    valid: Bool[Array, "b k"],
    size: Float[Array, "b 2"],
) -> Detections:
    """Detections in pixels, of the queries `rows`."""
    chosen = to_pixels(jnp.take_along_axis(boxes, rows[..., None], axis=1), size)
    return Detections(
        jnp.where(valid[..., None], chosen, 0.0),
        jnp.where(valid, scores, 0.0),
        jnp.where(valid, labels, 0),
        valid,
    )


HEAD = r"/head/fc_cls/"
"""The layer that depends on the number of classes."""


def keys(model: DETR) -> dict[str, Rules]:
    """See `pretrained/keymaps.py`. Files of transformers have a backbone of timm's names or of its own."""
    openmmlab: Rules = (
        *OPENMMLAB,
        (r"^(neck\.(extra_)?convs\.\d+)\.norm\.", r"\1.gn."),
        (r"^head\.fc_cls\.", "bbox_head.fc_cls."),
        (r"^head\.reg_branch\.layers\.0\.", "bbox_head.reg_ffn.layers.0.0."),
        (r"^head\.reg_branch\.layers\.1\.", "bbox_head.reg_ffn.layers.1."),
        (r"^head\.reg_branch\.layers\.2\.", "bbox_head.fc_reg."),
        (r"^query_embedding$", "query_embedding.weight"),
    )
    own: Rules = (
        *HUGGINGFACE,
        (r"^neck\.convs\.0\.conv\.", "model.input_projection."),
        (r"^head\.fc_cls\.", "class_labels_classifier."),
        (r"^head\.reg_branch\.", "bbox_predictor."),
        (r"^decoder\.post_norm\.", "model.decoder.layernorm."),
        (r"^query_embedding$", "model.query_position_embeddings.weight"),
        (r"(^| )(encoder|decoder)\.", r"\1model.\2."),
    )
    return of_backbones(model.backbone, openmmlab, own)


OPENMMLAB: Rules = (
    (r"\.add\.(\d)\.norm\.", r".norms.\1."),
    (r"\.in_proj\.", ".attn.in_proj_"),
    (r"\.out_proj\.", ".attn.out_proj."),
    (r"\.ffn\.fc1\.", ".ffn.layers.0.0."),
    (r"\.ffn\.fc2\.", ".ffn.layers.1."),
)
"""Names of layers of the transformer."""
_SPLIT = " + ".join(rf"\1.{name}_proj.\2" for name in "qkv")
HUGGINGFACE: Rules = (
    (r"^(encoder\..*|decoder\..*self_attn)\.in_proj\.(weight|bias)$", _SPLIT),
    (r"^(decoder\..*cross_attn)\.in_proj\.(weight|bias)$", _SPLIT),
    (r"\.cross_attn\.", ".encoder_attn."),
    (r"\.add\.0\.norm\.", ".self_attn_layer_norm."),
    (r"^(encoder\..*)\.add\.1\.norm\.", r"\1.final_layer_norm."),
    (r"\.add\.1\.norm\.", ".encoder_attn_layer_norm."),
    (r"\.add\.2\.norm\.", ".final_layer_norm."),
    (r"\.ffn\.fc", ".fc"),
)
"""Likewise; the names in files, which differ from those of modules since version 5."""


def of_backbones(backbone: Any, openmmlab: Rules, huggingface: Rules) -> dict[str, Rules]:
    """Tables of a detector, with those of transformers for backbones of timm and of its own."""
    inside = "model.backbone.conv_encoder.model."
    tables = with_backbone(backbone, {"openmmlab": openmmlab})
    own = tables.get("huggingface/backbone", ())
    return {
        **tables,
        "huggingface": (*huggingface, (r"^backbone\.", inside)),
        "huggingface/transformers": (*huggingface, *own, (r"^resnet\.", inside)),
    }
