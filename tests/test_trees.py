"""Trees by path: names, splitting and joining, what differs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision import trees
from jaxvision.trees import compare_trees, flatten, map_with_path, nest

PARAMS = {"conv1": {"kernel": np.ones((3, 3, 1, 4), np.float32)}, "head": {"kernel": np.ones((4, 2)), "bias": None}}


def test_names_nest_and_flatten():
    flat = {"a/b": 1, "a/c/d": 2, "e": 3}
    assert flatten(nest(flat)) == flat
    assert nest(flatten({"x": [1, (2, 3)]})) == {"x": {"0": 1, "1": {"0": 2, "1": 3}}}
    assert flatten(5) == {"": 5} and nest({"": 5}) == 5
    with pytest.raises(ValueError, match="both a leaf and a part"):
        nest({"a": 1, "a/b": 2})
    with pytest.raises(ValueError, match="both a leaf and a part"):
        nest({"a/b": 2, "a": 1})
    with pytest.raises(ValueError, match="two leaves of the tree have the name 'a/b'"):
        flatten({"a": {"b": 1}, "a/b": 2})


def test_holes_are_not_leaves():
    assert list(flatten(PARAMS)) == ["conv1/kernel", "head/kernel"]
    assert map_with_path(lambda path, x: path, {"a": None, "b": [1, {"c": 2}]}) == {
        "a": None,
        "b": ["b/0", {"c": "b/1/c"}],
    }


def test_parts_of_a_tree_are_merged_into_the_whole():
    mask = trees.mask_by_pattern(PARAMS, "head/.*")
    assert mask == {"conv1": {"kernel": False}, "head": {"kernel": True, "bias": None}}
    assert trees.mask_by_pattern(PARAMS, "head")["head"]["kernel"] is False, "patterns match the whole path"
    head, rest = trees.partition(PARAMS, mask)
    assert list(flatten(head)) == ["head/kernel"] and list(flatten(rest)) == ["conv1/kernel"]
    whole = trees.merge(head, rest)
    assert jax.tree.structure(whole) == jax.tree.structure(PARAMS)
    assert flatten(whole)["conv1/kernel"] is PARAMS["conv1"]["kernel"]
    first = trees.merge({"a": 1, "b": None, "c": None}, {"a": 2, "b": 3, "c": None}, {"a": 4, "b": 5, "c": 6})
    assert first == {"a": 1, "b": 3, "c": 6}


def test_bytes_are_counted_of_arrays_and_of_their_shapes():
    assert trees.byte_size(PARAMS) == 36 * 4 + 8 * 8
    assert trees.byte_size({"a": jax.ShapeDtypeStruct((5,), jnp.bfloat16), "b": None}) == 10


def test_equal_trees_differ_in_nothing():
    assert compare_trees(PARAMS, jax.eval_shape(lambda: jax.tree.map(lambda x: x, PARAMS)), dtypes=False) == []


def test_every_difference_is_a_line():
    other = {"conv1": {"kernel_": PARAMS["conv1"]["kernel"]}, "head": {"kernel": np.ones((4, 2), np.float32)}}
    assert compare_trees(other, PARAMS) == [
        "missing     conv1/kernel float32[3, 3, 1, 4]; the file has conv1/kernel_ instead?",
        "unexpected  conv1/kernel_ float32[3, 3, 1, 4]",
        "dtype       head/kernel: float32[4, 2] in the file, float64[4, 2] in the model",
    ]
    assert len(compare_trees(other, PARAMS, dtypes=False)) == 2
