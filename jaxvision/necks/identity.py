"""No neck: heads see levels of the backbone as they are, as in the C4 and DC5 forms of two-stage detectors."""

from collections.abc import Mapping

import flax.linen as nn
from jaxtyping import Array, Float


class Identity(nn.Module):
    """Called as other necks are; has no variables.

    Attributes:
      in_levels: levels of the backbone that heads see, under their own names.
    """

    in_levels: tuple[str, ...] = ("c4",)

    @nn.nowrap
    def strides(self, of_backbone: Mapping[str, int]) -> dict[str, int]:
        """Those of the backbone."""
        return {level: of_backbone[level] for level in self._check(of_backbone)}

    def __call__(
        self, levels: Mapping[str, Float[Array, "b _ _ _"]], *, train: bool = False
    ) -> dict[str, Float[Array, "b _ _ _"]]:
        """Raises ValueError where a level of `in_levels` is missing. `train` changes nothing."""
        return {level: levels[level] for level in self._check(levels)}

    @nn.nowrap
    def _check(self, levels: Mapping[str, object]) -> tuple[str, ...]:
        missing = [level for level in self.in_levels if level not in levels]
        if missing:
            raise ValueError(
                f"the heads need the levels {', '.join(self.in_levels)} of the backbone, which returns "
                f"{', '.join(levels)}: set out_levels of the backbone, or in_levels of the neck"
            )
        return self.in_levels
