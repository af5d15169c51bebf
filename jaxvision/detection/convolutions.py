"""How the convolutions of heads start.

Ren et al. 2015 (arXiv:1506.01497), section 3.1.3; Lin et al. 2017 (arXiv:1708.02002), section 4.1.
"""

import flax.linen as nn

from jaxvision import layers

normal_init = nn.initializers.normal(0.01)


def conv(features: int, kernel: int = 3, *, bias: float = 0.0, use_bias: bool = True, name: str) -> layers.Conv:
    """A convolution with small normal weights, whose biases are `bias`."""
    zeros = nn.initializers.constant(bias)
    return layers.Conv(features, kernel, use_bias=use_bias, kernel_init=normal_init, bias_init=zeros, name=name)
