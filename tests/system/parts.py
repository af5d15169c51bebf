"""A model of a user's own, registered by `config.imports`: small, with everything that a state may keep."""

import flax.linen as nn
from jaxtyping import Array, Float

from jaxvision import layers
from jaxvision.ops import pool
from jaxvision.registry import register


class Tiny(nn.Module):
    """One convolution with batch statistics."""

    width: int = 8
    norm: layers.Norm = layers.Norm()

    @nn.compact
    def __call__(self, images: Float[Array, "b h w c"], *, train: bool) -> dict[str, Float[Array, "b _ _ _"]]:
        x = layers.Conv(self.width, use_bias=False, name="conv1")(images)
        x = nn.relu(self.norm(name="bn1")(x, train=train))
        return {"c2": pool.avg_pool(x, 2)}


register("backbone", "tiny", "tests.system.parts:Tiny")
register("model", "tiny", "jaxvision.classification.classifier:Classifier", backbone={"name": "tiny"}, dropout=0.2)
