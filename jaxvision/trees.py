"""Trees of arrays by path ("layer1_0/conv1/kernel"): names, splitting and joining, what differs between two.

At the lowest level of the library: no flax, and nothing of ours but the errors is imported.
"""

import difflib
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxvision.errors import UserError

PyTree = Any


class TreeMismatch(UserError, ValueError):
    """Two trees of variables differ in names, shapes or dtypes; the message lists every difference."""


def path_name(path: tuple[Any, ...]) -> str:
    """A jax key path as "layer1_0/conv1/kernel"; the path of a bare leaf is ""."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def flatten(tree: PyTree) -> dict[str, Any]:
    """Names "a/b/c" -> leaves, in the tree's order. A tree that is a single leaf has the name "".

    Raises:
      ValueError: two leaves get the same name (a key that contains "/").
    """
    flat: dict[str, Any] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = path_name(path)
        if name in flat:
            raise ValueError(f"two leaves of the tree have the name {name!r}: keys must not contain '/'")
        flat[name] = leaf
    return flat


def nest(flat: Mapping[str, Any]) -> Any:
    """Inverse of `flatten` for nested dicts; positions of sequences come back as keys "0", "1", ..."""
    if set(flat) == {""}:
        return flat[""]
    tree: dict[str, Any] = {}
    for name, leaf in flat.items():
        *parents, last = name.split("/")
        node = tree
        for key in parents:
            node = node.setdefault(key, {})
            if not isinstance(node, dict):
                break
        if not isinstance(node, dict) or last in node:
            raise ValueError(f"the name {name!r} is both a leaf and a part of another name")
        node[last] = leaf
    return tree


def map_with_path(function: Callable[..., Any], tree: PyTree, *rest: PyTree) -> PyTree:
    """`function(path, leaf, *leaves)` on every leaf; None is a hole in the tree, not a leaf."""
    return jax.tree_util.tree_map_with_path(lambda path, *leaves: function(path_name(path), *leaves), tree, *rest)


def mask_by_name(tree: PyTree, selected: Callable[[str], bool]) -> PyTree:
    """The tree with each leaf replaced by whether `selected(path)` holds."""
    return map_with_path(lambda name, _: bool(selected(name)), tree)


def mask_by_pattern(tree: PyTree, pattern: str) -> PyTree:
    """The tree with each leaf replaced by whether its whole path matches the regular expression."""
    compiled = re.compile(pattern)
    return mask_by_name(tree, lambda name: compiled.fullmatch(name) is not None)


def partition(tree: PyTree, mask: PyTree) -> tuple[PyTree, PyTree]:
    """Splits by a mask of the same structure; either part holds None (an empty tree) where the other has the leaf."""
    leaves, structure = jax.tree.flatten(tree)
    flags = jax.tree.leaves(mask)
    chosen = [leaf if flag else None for leaf, flag in zip(leaves, flags, strict=True)]
    rest = [None if flag else leaf for leaf, flag in zip(leaves, flags, strict=True)]
    return jax.tree.unflatten(structure, chosen), jax.tree.unflatten(structure, rest)


def merge(*trees: PyTree) -> PyTree:
    """Undoes `partition`: at each place the first of the trees that has something there."""
    first = trees[0]
    for other in trees[1:]:
        first = jax.tree.map(lambda a, b: b if a is None else a, first, other, is_leaf=lambda x: x is None)
    return first


def byte_size(tree: PyTree) -> int:
    """Bytes of all arrays (or abstract arrays) of a tree."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def compare_trees(found: PyTree, wanted: PyTree, *, dtypes: bool = True) -> list[str]:
    """Lines that say how `found` differs from `wanted`: missing, unexpected, misshaped and mistyped names.

    Args:
      found: tree (or `flatten`ed dict) of anything with `shape` and `dtype`: what a file holds.
      wanted: the same of what the model has.
      dtypes: False compares only the kind of a dtype (floating point, integer, boolean), for weights that are cast.

    Returns:
      One line per differing name, empty if the trees agree.
    """
    have, want = flatten(found), flatten(wanted)
    unexpected = [name for name in have if name not in want]
    lines = []
    for name, leaf in want.items():
        if name not in have:
            near = difflib.get_close_matches(name, unexpected, n=1, cutoff=0.8)
            hint = f"; the file has {near[0]} instead?" if near else ""
            lines.append(f"missing     {name} {_describe(leaf)}{hint}")
    lines += [f"unexpected  {name} {_describe(have[name])}" for name in unexpected]
    for name, leaf in want.items():
        if name not in have:
            continue
        if tuple(have[name].shape) != tuple(leaf.shape):
            lines.append(f"shape       {name}: {_describe(have[name])} in the file, {_describe(leaf)} in the model")
        elif not _same_dtype(have[name].dtype, leaf.dtype, exact=dtypes):
            lines.append(f"dtype       {name}: {_describe(have[name])} in the file, {_describe(leaf)} in the model")
    return lines


def _same_dtype(a: Any, b: Any, *, exact: bool) -> bool:
    if exact:
        return a == b
    kinds = (jnp.floating, jnp.integer, jnp.bool_, jnp.complexfloating)
    return any(jnp.issubdtype(a, kind) and jnp.issubdtype(b, kind) for kind in kinds)


def _describe(leaf: Any) -> str:
    return f"{leaf.dtype}[{', '.join(map(str, leaf.shape))}]"
