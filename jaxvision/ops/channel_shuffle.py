"""Channel shuffle (Zhang et al. 2018, arXiv:1707.01083, section 3.1)."""

from jaxtyping import Array, Float


def channel_shuffle(x: Float[Array, "*batch c"], groups: int) -> Float[Array, "*batch c"]:
    """Deals the channels of `groups` consecutive groups out in turns: output i * groups + g is channel i of group g.

    Raises:
      ValueError: `groups` does not divide the channels.
    """
    channels = x.shape[-1]
    if groups < 1 or channels % groups:
        raise ValueError(f"channel_shuffle got groups={groups} for {channels} channels; choose a divisor of them")
    return x.reshape(*x.shape[:-1], groups, channels // groups).swapaxes(-1, -2).reshape(x.shape)
