"""LeNet-5 (LeCun et al. 1998, "Gradient-based learning applied to document recognition", fig. 2).

The variant of OpenMMLab's mmpretrain: full connection between the feature maps, tanh, plain average pooling without
trainable coefficients, and a softmax head in place of the radial basis functions. Submodules carry its names.
"""

import flax.linen as nn
from jaxtyping import Array, Float

from jaxvision import layers
from jaxvision.ops import pool


class LeNet5(nn.Module):
    """Feature vectors of 32 x 32 images with any number of channels; 60,856 parameters for one (without a head)."""

    @property
    def channels(self) -> dict[str, int]:
        return {"pooled": 84}

    @property
    def strides(self) -> dict[str, int]:
        """The vector stands for the whole canvas."""
        return {"pooled": 32}

    @nn.compact
    def __call__(self, images: Float[Array, "b 32 32 c"], *, train: bool = False) -> dict[str, Float[Array, "b 84"]]:
        """Raises ValueError for images that are not 32 x 32. `train` changes nothing."""
        if images.ndim != 4 or images.shape[1:3] != (32, 32):
            raise ValueError(f"LeNet5 got images of shape {images.shape}; it takes [B, 32, 32, C]: pad or resize to 32")
        x = nn.tanh(layers.Conv(6, 5, padding=0, name="features_0")(images))
        x = pool.avg_pool(x, 2)
        x = nn.tanh(layers.Conv(16, 5, padding=0, name="features_3")(x))
        x = pool.avg_pool(x, 2)
        x = nn.tanh(layers.Conv(120, 5, padding=0, name="features_6")(x))
        x = nn.tanh(layers.Dense(84, name="classifier_0")(x.reshape(x.shape[0], -1)))
        return {"pooled": x}


# Names of published weights, see `jaxvision/pretrained/keymaps.py`. The reference's classifier ends in the head.
KEYS = {"openmmlab": ((r"^head\.", "backbone.classifier.2."),)}
INPUT = (32, 32, 1)
