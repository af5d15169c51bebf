"""The neck that changes nothing."""

import jax.numpy as jnp
import pytest

from jaxvision.necks.identity import Identity


def test_levels_pass_under_their_own_names_and_a_missing_one_is_told():
    neck, levels = Identity(("c4",)), {"c3": jnp.ones((1, 4, 4, 2)), "c4": jnp.ones((1, 2, 2, 4))}
    assert neck.strides({"c3": 8, "c4": 16}) == {"c4": 16}
    said = neck.apply({}, levels)
    assert list(said) == ["c4"] and said["c4"] is levels["c4"]
    with pytest.raises(ValueError, match="need the levels c5 of the backbone, which returns c3, c4"):
        Identity(("c5",)).apply({}, levels)
