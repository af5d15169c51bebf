"""Path aggregation network (Liu et al. 2018, arXiv:1803.01534): an FPN with a second path, from fine to coarse.

In the form of OpenMMLab's `PAFPN`: the finest level stays as the FPN made it; to every other one the level before it,
halved by a 3x3 convolution, is added, and the sum goes through a 3x3 convolution of its own. The sum itself is passed
on; in the paper (section 3.1) it is the convolved one, and each convolution has a ReLU. Submodules of the second path
carry OpenMMLab's names.
"""

import flax.linen as nn
from jaxtyping import Array, Float

from jaxvision.necks.fpn import FPN


class PAFPN(FPN):
    """See `FPN` for levels, strides and attributes; coarser levels of `extra="output"` start behind the second path."""

    @nn.nowrap
    def _bottom_up(self, levels: list[Float[Array, "b _ _ channels"]]) -> list[Float[Array, "b _ _ channels"]]:
        sums = levels[:1]
        for i, x in enumerate(levels[1:]):
            sums.append(x + self._conv(3, 2, name=f"downsample_convs_{i}")(sums[-1]))
        return [sums[0], *(self._conv(3, name=f"pafpn_convs_{i}")(x) for i, x in enumerate(sums[1:]))]
