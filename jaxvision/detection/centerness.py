"""Centerness and the head that says it, which FCOS and ATSS share (arXiv:1904.01355, section 3; arXiv:1912.02424).

Two towers of normalised convolutions on every level: of one, the logits of the classes, of the other, the box; and one
number more from either of them, which learns how near the middle of its object a point is.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxvision import layers
from jaxvision.detection.anchors import prior_bias
from jaxvision.detection.convolutions import conv
from jaxvision.detection.keys import fpn_keys
from jaxvision.pretrained.keymaps import Rules

Levels = tuple[Array, ...]


def centerness(distances: Float[Array, "*b 4"]) -> Float[Array, "*b"]:
    """1 in the middle of a box, 0 at its border (FCOS, equation 3), from positive distances to its four sides."""
    near, far = (f(distances[..., :2], distances[..., 2:]) for f in (jnp.minimum, jnp.maximum))
    return jnp.sqrt(jnp.prod(near / far, axis=-1))


class Tower(nn.Module):
    """`depth` 3x3 convolutions (`conv_0`, ...), each with its norm (`norm_0`, ...) and ReLU, as wide as their input.

    Attributes:
      depth: number of convolutions.
      norm: makes the normalisation.
      conv_bias: whether convolutions have one in front of the norm.
    """

    depth: int
    norm: layers.Norm
    conv_bias: bool

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b h w c"]:
        for i in range(self.depth):
            x = conv(x.shape[-1], use_bias=self.conv_bias, name=f"conv_{i}")(x)
            x = nn.relu(self.norm(name=f"norm_{i}")(x, train=train))
        return x


class Factor(nn.Module):
    """A learned factor that starts at 1."""

    @nn.compact
    def __call__(self, x: Float[Array, "*b"]) -> Float[Array, "*b"]:
        return x * self.param("scale", nn.initializers.ones, (), jnp.float32).astype(x.dtype)


class CenternessHead(nn.Module):
    """The towers are called `classification_head` and `regression_head`.

    Attributes:
      num_classes: without a background.
      depth, norm, conv_bias: see `Tower`.
      factors: whether each level has a learned factor of what is said of its boxes (`scales_0`, ...).
      centerness_with_boxes: centerness comes from the tower of the boxes, not from that of the classes.
      prior: probability of each class that the network starts with.
    """

    num_classes: int
    depth: int = 4
    norm: layers.Norm = layers.Norm("gn")
    conv_bias: bool = False
    factors: bool = True
    centerness_with_boxes: bool = False
    prior: float = 0.01

    @nn.compact
    def __call__(
        self, levels: Mapping[str, Float[Array, "b _ _ c"]], *, train: bool = False
    ) -> tuple[Levels, Levels, Levels]:
        """Of each level and its cells row by row: logits [B, N, num_classes], four numbers [B, N, 4], one [B, N]."""
        towers = [
            Tower(self.depth, self.norm, self.conv_bias, name=f"{name}_head")
            for name in ("classification", "regression")
        ]
        cls_logits = conv(self.num_classes, bias=prior_bias(self.prior), name="cls_logits")
        bbox_reg, bbox_ctrness = conv(4, name="bbox_reg"), conv(1, name="bbox_ctrness")
        logits, codes, quality = [], [], []
        for i, x in enumerate(levels.values()):
            of_class, of_box = (tower(x, train=train) for tower in towers)
            code = bbox_reg(of_box)
            code = Factor(name=f"scales_{i}")(code) if self.factors else code
            middle = bbox_ctrness(of_box if self.centerness_with_boxes else of_class)
            logits.append(cls_logits(of_class).reshape(x.shape[0], -1, self.num_classes))
            codes.append(code.reshape(x.shape[0], -1, 4))
            quality.append(middle.reshape(x.shape[0], -1))
        return tuple(logits), tuple(codes), tuple(quality)


def centerness_head(detector: Any) -> CenternessHead:
    """The head of a detector that has all of its fields."""
    names = [field.name for field in dataclasses.fields(CenternessHead) if field.name not in ("parent", "name")]
    return CenternessHead(**{name: getattr(detector, name) for name in names})


def openmmlab_keys(model: Any, predictors: str) -> Rules:
    """OpenMMLab's names of the neck and the head of a detector; those of the last layers begin with `predictors`."""
    norm = "gn" if model.norm.kind == "gn" else "bn"
    last = (("cls_logits", "cls"), ("bbox_reg", "reg"), ("bbox_ctrness", "centerness"))
    return (
        *fpn_keys(model.neck)["openmmlab"],
        (r"^head\.scales\.(\d)\.weight", r"bbox_head.scales.\1.scale"),
        (r"^head\.classification_head\.(conv|norm)\.(\d)\.", r"bbox_head.cls_convs.\2.\1."),
        (r"^head\.regression_head\.(conv|norm)\.(\d)\.", r"bbox_head.reg_convs.\2.\1."),
        (r"^(bbox_head\..*)\.norm\.", rf"\1.{norm}."),
        *((rf"^head\.{ours}\.", f"bbox_head.{predictors}_{theirs}.") for ours, theirs in last),
    )
