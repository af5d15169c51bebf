"""The classifier of DeiT (Touvron et al. 2021, arXiv:2012.12877, section 4): one head for each of two tokens."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
from jaxtyping import Array, Float

from jaxvision import layers


class DistilledClassifier(nn.Module):
    """Logits from the class token, and from a distillation token that learns from a teacher's predictions.

    Variables lie under "backbone", "head" and "head_dist" (`kernel` [features, num_classes], `bias`).

    Attributes:
      backbone: its "tokens" [B, N, C] begin with the class token and the distillation token.
      num_classes: number of logits.
      dropout: share of features dropped while training (rng collection "dropout").
    """

    backbone: nn.Module
    num_classes: int
    dropout: float = 0.0

    def setup(self) -> None:
        self.head = layers.Dense(self.num_classes)
        self.head_dist = layers.Dense(self.num_classes)
        self.drop = nn.Dropout(self.dropout)

    def __call__(
        self, inputs: Array | Mapping[str, Array], *, train: bool = False, targets: Any = None
    ) -> Float[Array, "b num_classes"]:
        """The mean of both heads' logits; `inputs`: float images [B, H, W, C] or `{"image": images}`."""
        logits, distillation_logits = self.both(inputs, train=train)
        return (logits + distillation_logits) / 2

    def both(
        self, inputs: Array | Mapping[str, Array], *, train: bool = False
    ) -> tuple[Float[Array, "b num_classes"], Float[Array, "b num_classes"]]:
        """Logits of the label and of the teacher's decision, for the distillation loss: `method="both"`."""
        pair = self.drop(self.pair(inputs, train=train), deterministic=not train)
        return self.head(pair[:, 0]), self.head_dist(pair[:, 1])

    def features(self, inputs: Array | Mapping[str, Array], *, train: bool = False) -> Float[Array, "b c"]:
        """The mean of both tokens; `model.apply(variables, images, method="features")`."""
        return self.pair(inputs, train=train).mean(axis=1)

    def pair(self, inputs: Array | Mapping[str, Array], *, train: bool = False) -> Float[Array, "b 2 c"]:
        """Class token and distillation token."""
        images = inputs["image"] if isinstance(inputs, Mapping) else inputs
        levels = self.backbone(images, train=train)
        if "tokens" not in levels:
            raise ValueError(
                f"DistilledClassifier takes out_levels=('tokens',), but its backbone has {', '.join(levels)}"
            )
        return levels["tokens"][:, :2]
