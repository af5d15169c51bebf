"""The plain image classifier: a backbone, global average pooling and one linear layer."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
from jaxtyping import Array, Float

from jaxvision import layers
from jaxvision.ops import pool


class Classifier(nn.Module):
    """Logits of one label per image, or of one binary decision per class.

    Variables lie under "backbone" and "head" (`kernel` [features, num_classes], `bias`).

    Attributes:
      backbone: called as `backbone(images, train=...)`; its "pooled" output is taken as it is, else its last
        (coarsest) level is averaged over space.
      num_classes: number of logits.
      dropout: share of pooled features dropped while training (rng collection "dropout").
    """

    backbone: nn.Module
    num_classes: int
    dropout: float = 0.0

    def setup(self) -> None:
        self.head = layers.Dense(self.num_classes)
        self.drop = nn.Dropout(self.dropout)

    def __call__(
        self, inputs: Array | Mapping[str, Array], *, train: bool = False, targets: Any = None
    ) -> Float[Array, "b num_classes"]:
        """`inputs`: float images [B, H, W, C] or `{"image": images}`; `targets` are not used."""
        x = self.drop(self.features(inputs, train=train), deterministic=not train)
        return self.head(x)

    def features(self, inputs: Array | Mapping[str, Array], *, train: bool = False) -> Float[Array, "b c"]:
        """The vectors that the head sees; `model.apply(variables, images, method="features")`."""
        images = inputs["image"] if isinstance(inputs, Mapping) else inputs
        levels = self.backbone(images, train=train)
        return levels["pooled"] if "pooled" in levels else pool.global_avg_pool(list(levels.values())[-1])
