"""What all networks for semantic segmentation have in common: a backbone, a head, heads that help in training, losses.

An algorithm is a subclass with `decode`, see `fcn.py` for the smallest one; its file also holds `keys(model)` and
`HEAD` (`pretrained/keymaps.py`). Defaults are those of OpenMMLab's segmenters where nothing else is said.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt8

from jaxvision import layers
from jaxvision.losses.pixels import CrossEntropy, PixelLoss
from jaxvision.ops.interpolate import interpolate

Levels = Mapping[str, Float[Array, "b _ _ _"]]
Outputs = Mapping[str, Any]
HEAD = r"/conv_seg/"
"""Layers that depend on the number of classes."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Auxiliary:
    """A small FCN head on an inner level that helps in training (Zhao et al. 2017, arXiv:1612.01105, section 4.2).

    Attributes:
      level: of the backbone.
      width: channels of its convolutions.
      depth: their number.
      kernel: their size.
      concat_input: see `FCNHead`.
      weight: of its losses.
      dropout: before its classifier.
    """

    level: str = "c4"
    width: int = 256
    depth: int = 1
    kernel: int = 3
    concat_input: bool = False
    weight: float = 0.4
    dropout: float = 0.1


def classify(
    x: Float[Array, "b h w c"], num_classes: int, dropout: float, train: bool
) -> Float[Array, "b h w classes"]:
    """Dropout of whole channels and a 1x1 convolution `conv_seg` whose weights start small; for compact heads."""
    x = nn.Dropout(dropout, broadcast_dims=(1, 2), name="dropout")(x, deterministic=not train)
    init, zeros = nn.initializers.normal(0.01), nn.initializers.zeros
    return layers.Conv(num_classes, 1, kernel_init=init, bias_init=zeros, name="conv_seg")(x)


class FCNHead(nn.Module):
    """Convolutions with a norm and ReLU (`convs_0`, ...) and a classifier `conv_seg`, at the stride of the level.

    Attributes:
      num_classes: channels of the logits.
      width: channels of the convolutions.
      depth: their number, 0 for none.
      kernel, dilation: of the convolutions.
      concat_input: the input is joined to what they give, and one more convolution (`conv_cat`) sees both.
      dropout: before the classifier.
      norm: of each convolution.
    """

    num_classes: int
    width: int
    depth: int = 2
    kernel: int = 3
    dilation: int = 1
    concat_input: bool = True
    dropout: float = 0.1
    norm: layers.Norm = layers.Norm()

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w classes"]:
        def unit(name: str, dilation: int = 1) -> layers.ConvNorm:
            return layers.ConvNorm(
                self.width, self.kernel, dilation=dilation, norm=self.norm, activation=nn.relu, name=name
            )

        y = x
        for i in range(self.depth):
            y = unit(f"convs_{i}", self.dilation)(y, train)
        if self.concat_input:
            y = unit("conv_cat")(jnp.concatenate([x, y], axis=-1), train)
        return classify(y, self.num_classes, self.dropout, train)


class Segmentor(nn.Module):
    """Variables lie under "backbone", "auxiliary_head" and what the algorithm adds, usually "decode_head".

    An algorithm defines `decode`, and in its `setup`, after `super().setup()`, the modules that `decode` calls.

    Attributes:
      backbone: called as `backbone(images, train=...)`; returns levels by name and has `strides`.
      num_classes: of the logits.
      auxiliary: a head beside the main one, in training only; None: there is none.
      dropout: before the classifier.
      norm: of the heads' convolutions.
      align_corners: of every enlargement, inside the head and of the logits.
      losses: of each of which the `weight`ed values add up; of the auxiliary logits as well.
    """

    backbone: nn.Module
    num_classes: int
    auxiliary: Auxiliary | None = None
    dropout: float = 0.1
    norm: layers.Norm = layers.Norm()
    align_corners: bool = False
    losses: tuple[PixelLoss, ...] = (CrossEntropy(),)

    def __post_init__(self) -> None:
        family = type(self).__name__
        if self.num_classes < 2 or self.num_classes > 255:
            raise ValueError(
                f"{family} got num_classes={self.num_classes}; label maps of 8 bits have 2 to 255 classes "
                "(foreground alone is two: background and foreground)"
            )
        terms = [loss.term for loss in self.losses]
        if not terms or len(set(terms)) < len(terms):
            raise ValueError(f"{family} got losses {terms}: expected at least one, each once")
        super().__post_init__()

    def setup(self) -> None:
        if self.auxiliary is not None:
            own = self.auxiliary
            self.auxiliary_head = FCNHead(
                self.num_classes,
                own.width,
                own.depth,
                own.kernel,
                concat_input=own.concat_input,
                dropout=own.dropout,
                norm=self.norm,
            )

    def decode(self, levels: Levels, *, train: bool) -> Float[Array, "b h w classes"]:
        """Logits at the stride of the head, from the levels of the backbone."""
        raise NotImplementedError(f"{type(self).__name__} defines no decode(levels, *, train)")

    def assist(self, levels: Levels, *, train: bool) -> tuple[Float[Array, "b _ _ classes"], ...]:
        """Logits that help in training, each with its own weight in `auxiliary_weights`."""
        if self.auxiliary is None:
            return ()
        return (self.auxiliary_head(level_of(levels, self.auxiliary.level, "auxiliary.level"), train),)

    @property
    def auxiliary_weights(self) -> tuple[float, ...]:
        """Of the losses of each of the logits that `assist` returns."""
        return () if self.auxiliary is None else (self.auxiliary.weight,)

    def __call__(
        self, inputs: Array | Mapping[str, Array], *, train: bool = False, targets: Any = None
    ) -> dict[str, Any]:
        """What the heads say.

        Args:
          inputs: float images [B, H, W, C] or `{"image": images}`.
          targets: not used.

        Returns:
          `logits` [B, h, w, num_classes] at the stride of the head, and `auxiliary`, in training a tuple of such.
        """
        images = inputs["image"] if isinstance(inputs, Mapping) else inputs
        logits, auxiliary = self.heads(images, self.backbone(images, train=train), train=train)
        return {"logits": logits, "auxiliary": auxiliary if self.helped(train) else ()}

    def heads(
        self, images: Float[Array, "b h w c"], levels: Levels, *, train: bool
    ) -> tuple[Float[Array, "b _ _ classes"], tuple[Float[Array, "b _ _ classes"], ...]]:
        """The logits, and those that help in training; an algorithm overrides it where these two have steps in common,
        or where logits depend on more of the images than the levels."""
        auxiliary = self.assist(levels, train=train) if self.helped(train) else ()
        return self.decode(levels, train=train), auxiliary

    @nn.nowrap
    def helped(self, train: bool) -> bool:
        """Whether heads that evaluation does without are called: when variables are made, too."""
        return train or self.is_initializing()

    @nn.nowrap
    def loss(self, outputs: Outputs, batch: Mapping[str, Any]) -> dict[str, tuple[Array, Array]]:
        """(sum, count) of each loss, and as `auxiliary_...` of the logits that help; the loss is the sum of quotients.

        Args:
          outputs: of a call with `train=True`.
          batch: `semantic` uint8 [B, H, W], the class of each pixel of the canvas, 255 for none, and `valid` [B].
        """
        labels = batch["semantic"].astype(jnp.int32)
        size = (labels.shape[1], labels.shape[2])
        heads = [("", 1.0, outputs["logits"])]
        for i, (weight, logits) in enumerate(zip(self.auxiliary_weights, outputs["auxiliary"], strict=True)):
            heads.append((f"auxiliary_{i}_" if i else "auxiliary_", weight, logits))
        terms = {}
        for prefix, weight, logits in heads:
            enlarged = self.enlarge(logits, size)
            for loss in self.losses:
                total, count = loss(enlarged, labels, batch["valid"])
                terms[prefix + loss.term] = (weight * loss.weight * total, count)
        return terms

    @nn.nowrap
    def enlarge(self, logits: Float[Array, "b h w classes"], size: tuple[int, int]) -> Float[Array, "b h2 w2 classes"]:
        """Logits at the size of the canvas, float32."""
        return interpolate(logits.astype(jnp.float32), size, align_corners=self.align_corners)

    @nn.nowrap
    def logits(self, outputs: Outputs, size: tuple[int, int]) -> Float[Array, "b h w classes"]:
        """Logits of every pixel of a canvas of this height and width, float32."""
        return self.enlarge(outputs["logits"], size)

    @nn.nowrap
    def predict(self, outputs: Outputs, size: tuple[int, int]) -> UInt8[Array, "b h w"]:
        """The class of every pixel of a canvas of this height and width; of equal logits the first.

        The task decides from `logits` itself, which windows, views and the CRF change before: override those.
        """
        return labels_of(self.logits(outputs, size))


def labels_of(scores: Float[Array, "b h w classes"]) -> UInt8[Array, "b h w"]:
    """The best class of every pixel, the first one of equal ones."""
    best: Int[Array, "b h w"] = jnp.argmax(scores, axis=-1)
    return best.astype(jnp.uint8)


def level_of(levels: Levels, name: str, field: str) -> Float[Array, "b _ _ _"]:
    """A level of the backbone; raises ValueError, which names the field that asks for it, where it is not returned."""
    if name not in levels:
        raise ValueError(
            f"{field} is {name!r}, but the backbone returns {', '.join(levels)}: set {field}, or out_levels of the "
            "backbone"
        )
    return levels[name]


def levels_of(levels: Levels, names: Iterable[str], field: str) -> tuple[Float[Array, "b _ _ _"], ...]:
    """Several levels, see `level_of`."""
    return tuple(level_of(levels, name, field) for name in names)
