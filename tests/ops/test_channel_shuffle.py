"""Channel shuffle against an index list."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.ops.channel_shuffle import channel_shuffle
from tests.conftest import strict


@pytest.mark.parametrize("groups", [1, 2, 3, 6])
def test_channels_of_the_groups_come_in_turns(groups):
    x = np.random.default_rng(0).standard_normal((2, 3, 6), np.float32)
    order = [g * (6 // groups) + i for i in range(6 // groups) for g in range(groups)]
    with strict():
        y = channel_shuffle(jnp.asarray(x), groups)
    np.testing.assert_array_equal(y, x[..., order])
    np.testing.assert_array_equal(channel_shuffle(y, 6 // groups), x)


def test_groups_must_divide_the_channels():
    with pytest.raises(ValueError, match="groups=4 for 6 channels; choose a divisor"):
        channel_shuffle(jnp.zeros((1, 6)), 4)
