"""SegFormer (Xie et al. 2021, arXiv:2105.15203): an encoder of attention (`backbones/mit.py`) and a light decoder.

The decoder brings all levels to one width and to the size of the finest, and fuses them by one layer (section 3.2).
OpenMMLab's published files (the default) have convolutions with a norm and ReLU where the authors and transformers have
linear layers alone (`linear`), and join the levels finest first, transformers coarsest first. transformers drops single
values in front of the classifier, OpenMMLab channels, as is done here.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxvision import layers
from jaxvision.ops.interpolate import interpolate
from jaxvision.pretrained.keymaps import Rules
from jaxvision.segmentation.keys import with_backbone
from jaxvision.segmentation.segmentor import HEAD, Levels, Segmentor, classify, levels_of

__all__ = ["HEAD", "SegFormer", "SegFormerHead", "keys"]


class SegFormerHead(nn.Module):
    """A layer for each level (`convs_<i>`), `fusion_conv` over all of them and a classifier.

    Attributes:
      num_classes: channels of the logits.
      width: channels of each layer.
      linear: see `SegFormer`.
      dropout: before the classifier.
      norm: of each convolution.
      align_corners: of every enlargement.
    """

    num_classes: int
    width: int = 256
    linear: bool = False
    dropout: float = 0.1
    norm: layers.Norm = layers.Norm()
    align_corners: bool = False

    @nn.compact
    def __call__(self, levels: Sequence[Float[Array, "b _ _ _"]], train: bool) -> Float[Array, "b h w classes"]:
        """`levels`: finest first; the logits have the stride of the first one."""

        def unit(x: Array, name: str) -> Array:
            return layers.ConvNorm(self.width, norm=self.norm, activation=nn.relu, name=name)(x, train)

        size = (levels[0].shape[1], levels[0].shape[2])
        parts = []
        for i, x in enumerate(levels):
            y = layers.Dense(self.width, name=f"convs_{i}")(x) if self.linear else unit(x, f"convs_{i}")
            parts.append(interpolate(y, size, align_corners=self.align_corners))
        x = unit(jnp.concatenate(parts, axis=-1), "fusion_conv")
        return classify(x, self.num_classes, self.dropout, train)


class SegFormer(Segmentor):
    """Variables lie under "backbone" and "decode_head".

    Attributes:
      levels: of the backbone that the head sees, finest first.
      width: channels of each layer of the head; 256 of B0 and B1, in the authors' code and transformers 768 of the
        larger ones.
      linear: levels are brought to this width by linear layers without norm and ReLU.
    """

    levels: tuple[str, ...] = ("c2", "c3", "c4", "c5")
    width: int = 256
    linear: bool = False

    def setup(self) -> None:
        super().setup()
        self.decode_head = SegFormerHead(
            self.num_classes, self.width, self.linear, self.dropout, self.norm, self.align_corners
        )

    def decode(self, levels: Levels, *, train: bool) -> Float[Array, "b h w classes"]:
        return self.decode_head(levels_of(levels, self.levels, "levels"), train)


def keys(model: SegFormer) -> dict[str, Rules]:
    """See `pretrained/keymaps.py`. transformers calls its modules otherwise than it publishes them since version 5."""
    count = len(model.levels)

    def other_order(kernel: np.ndarray) -> np.ndarray:
        """Inputs of the fusing layer from coarsest first to finest first, or back."""
        *space, inputs, outputs = kernel.shape
        parts = kernel.reshape(*space, count, inputs // count, outputs)
        return parts[..., ::-1, :, :].reshape(kernel.shape)

    head: Rules = (
        (r"^decode_head\.fusion_conv\.conv\.", "decode_head.linear_fuse."),
        (r"^decode_head\.fusion_conv\.bn\.", "decode_head.batch_norm."),
        (r"^decode_head\.conv_seg\.", "decode_head.classifier."),
        (r"/fusion_conv/conv/kernel$", other_order, other_order),
    )
    published: Rules = ((r"^decode_head\.convs\.(\d)\.", r"decode_head.linear_c.\1.proj."), *head)
    modules: Rules = ((r"^decode_head\.convs\.(\d)\.", r"decode_head.linear_projections.\1.proj."), *head)
    tables = with_backbone(model.backbone, {"openmmlab": (), "huggingface": published})
    if "huggingface/5" in tables:
        tables["huggingface/5"] = (*tables["huggingface/5"][: -len(published)], *modules)
    return tables
