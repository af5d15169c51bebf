"""OCRNet (Yuan et al. 2020, arXiv:1909.11065): every pixel is described by the classes that it is alike.

A coarse head says where each class lies; the mean of the features there describes the class (section 3.2, "object
region representations"), and attention of the pixels over the classes describes the pixels. Defaults are those of
OpenMMLab's `ocrnet_hr18` and `ocrnet_hr48`: all branches of an HRNet, which are brought to the size of the finest; the
coarse head weighs 0.4; no dropout.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxvision import layers
from jaxvision.ops.interpolate import interpolate
from jaxvision.pretrained.keymaps import Rules
from jaxvision.segmentation.keys import with_backbone
from jaxvision.segmentation.segmentor import HEAD, FCNHead, Levels, Segmentor, classify, levels_of

__all__ = ["HEAD", "OCRHead", "OCRNet", "keys"]


class ObjectAttention(nn.Module):
    """Attention of pixels over classes: `query_project`, `key_project`, `value_project`, `out_project`, `bottleneck`.

    Attributes:
      key_width: channels of queries, keys and values.
      norm: of each convolution.
    """

    key_width: int
    norm: layers.Norm

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], regions: Float[Array, "b k c"], train: bool
    ) -> Float[Array, "b h w c"]:
        """`regions`: the description of each class."""

        def project(y: Array, name: str, features: int = self.key_width) -> Array:
            return layers.ConvNorm(features, norm=self.norm, activation=nn.relu, name=name)(y, train)

        b, h, w, c = x.shape
        classes = regions[:, None]
        query = project(project(x, "query_project_0"), "query_project_1").reshape(b, h * w, -1)
        key = project(project(classes, "key_project_0"), "key_project_1")[:, 0]
        value = project(classes, "value_project")[:, 0]
        alike = jnp.einsum("bnd,bkd->bnk", query, key).astype(jnp.float32) * self.key_width**-0.5
        context = jax.nn.softmax(alike, axis=-1).astype(x.dtype) @ value
        context = project(context.reshape(b, h, w, -1), "out_project", c)
        return project(jnp.concatenate([context, x], axis=-1), "bottleneck", c)


class OCRHead(nn.Module):
    """A convolution `bottleneck`, the classes' descriptions, `object_context_block` and a classifier.

    Attributes:
      num_classes: channels of the logits.
      width: channels of the features.
      key_width: of the attention.
      dropout: before the classifier.
      norm: of each convolution.
    """

    num_classes: int
    width: int = 512
    key_width: int = 256
    dropout: float = 0.0
    norm: layers.Norm = layers.Norm()

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], coarse: Float[Array, "b h w classes"], train: bool
    ) -> Float[Array, "b h w classes"]:
        """`coarse`: logits, whose softmax over the pixels weighs the features of each class."""
        x = layers.ConvNorm(self.width, 3, norm=self.norm, activation=nn.relu, name="bottleneck")(x, train)
        b, h, w, c = x.shape
        share = jax.nn.softmax(coarse.astype(jnp.float32).reshape(b, h * w, -1), axis=1).astype(x.dtype)
        regions = jnp.einsum("bnk,bnc->bkc", share, x.reshape(b, h * w, c))
        x = ObjectAttention(self.key_width, self.norm, name="object_context_block")(x, regions, train)
        return classify(x, self.num_classes, self.dropout, train)


class OCRNet(Segmentor):
    """Variables lie under "backbone", "coarse_head", "decode_head" and "auxiliary_head".

    Attributes:
      levels: of the backbone that the heads see, joined at the size of the first one.
      width: channels of the features.
      key_width: channels of the attention.
      coarse_weight: of the loss of the coarse logits, the first of the outputs' `auxiliary`.
    """

    dropout: float = 0.0
    norm: layers.Norm = layers.Norm("sync_bn")
    levels: tuple[str, ...] = ("c2", "c3", "c4", "c5")
    width: int = 512
    key_width: int = 256
    coarse_weight: float = 0.4

    def setup(self) -> None:
        super().setup()
        joined = sum(self.backbone.channels[name] for name in self.levels)
        self.coarse_head = FCNHead(
            self.num_classes,
            joined,
            depth=1,
            kernel=1,
            concat_input=False,
            dropout=self.dropout,
            norm=self.norm,
        )
        self.decode_head = OCRHead(self.num_classes, self.width, self.key_width, self.dropout, self.norm)

    @property
    def auxiliary_weights(self) -> tuple[float, ...]:
        return (self.coarse_weight, *super().auxiliary_weights)

    def decode(self, levels: Levels, *, train: bool) -> Float[Array, "b h w classes"]:
        return self.stages(levels, train=train)[1]

    def heads(
        self, images: Float[Array, "b h w c"], levels: Levels, *, train: bool
    ) -> tuple[Float[Array, "b _ _ classes"], tuple[Float[Array, "b _ _ classes"], ...]]:
        """As `Segmentor`; the first of those that help are the coarse logits, on which the others are built."""
        coarse, logits = self.stages(levels, train=train)
        return logits, (coarse, *self.assist(levels, train=train)) if self.helped(train) else ()

    def stages(
        self, levels: Levels, *, train: bool
    ) -> tuple[Float[Array, "b h w classes"], Float[Array, "b h w classes"]]:
        """The coarse logits and the final ones."""
        first, *others = levels_of(levels, self.levels, "levels")
        size = (first.shape[1], first.shape[2])
        enlarged = [interpolate(x, size, align_corners=self.align_corners) for x in others]
        x = jnp.concatenate([first, *enlarged], axis=-1)
        coarse = self.coarse_head(x, train)
        return coarse, self.decode_head(x, coarse, train)


def keys(model: OCRNet) -> dict[str, Rules]:
    """See `pretrained/keymaps.py`. OpenMMLab numbers the two heads."""
    own = (
        (r"^decode_head\.", "decode_head.1."),
        (r"^coarse_head\.", "decode_head.0."),
    )
    return with_backbone(model.backbone, {"openmmlab": own})
