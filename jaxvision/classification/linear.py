"""The linear softmax classifier y = softmax(Wx + b) on raw pixels: `Classifier(backbone=Flatten(), ...)`."""

import flax.linen as nn
from jaxtyping import Array, Float


class Flatten(nn.Module):
    """A backbone without parameters: the pixels of each image as one vector, rows first, channels last.

    It has no `channels` and `strides`: both follow from the size of the image, not from a hyperparameter.
    """

    def __call__(self, images: Float[Array, "b h w c"], *, train: bool = False) -> dict[str, Float[Array, "b d"]]:
        return {"pooled": images.reshape(images.shape[0], -1)}
