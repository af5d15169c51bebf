"""Weights in `.safetensors` files, under the names that `jaxvision.trees` gives ("params/conv1/kernel").

The file format is Hugging Face's (https://github.com/huggingface/safetensors); reading and writing is left to its
package. Ours is what surrounds it: a file appears complete or not at all, and weights that do not fit a model are one
message that lists everything.
"""

import os
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from jaxvision.trees import TreeMismatch, compare_trees, flatten, nest

PyTree = Any


def assign(variables: PyTree, loaded: PyTree) -> PyTree:
    """The tree `variables` with the values of `loaded`, cast to the dtype that each variable has.

    Args:
      variables: nested dict of arrays (or of `jax.ShapeDtypeStruct`s).
      loaded: nested dict of the same names, as `load_safetensors` returns it.

    Returns:
      A tree with the structure of `variables`, of arrays on the default device.

    Raises:
      TreeMismatch: lists every missing, unexpected and misshaped name at once.
    """
    lines = compare_trees(loaded, variables, dtypes=False)
    if lines:
        raise TreeMismatch("the weights do not fit the model:\n  " + "\n  ".join(lines))
    flat = flatten(loaded)
    leaves = [jnp.asarray(flat[name], leaf.dtype) for name, leaf in flatten(variables).items()]
    return jax.tree.unflatten(jax.tree.structure(variables), leaves)


def save_safetensors(path: epath.PathLike, tree: PyTree, metadata: Mapping[str, str] | None = None) -> None:
    """Writes a nested dict of arrays as names "a/b/c"; the file appears complete or not at all.

    Args:
      path: local or `gs://` file; its folder is created.
      tree: nested dict of arrays, bfloat16 included.
      metadata: strings to carry along (what `load_safetensors_metadata` returns).

    Raises:
      ValueError: metadata that is not a string, a leaf without a numeric dtype (a typed random key), empty tree.
    """
    import safetensors.numpy

    wrong = {k: v for k, v in (metadata or {}).items() if not (isinstance(k, str) and isinstance(v, str))}
    if wrong:
        raise ValueError(f"safetensors metadata are strings; got {wrong}: json.dumps the values")
    # The writer takes the address of the first element, so that a transposed view would be written in wrong order.
    arrays = {name: np.asarray(jax.device_get(leaf), order="C") for name, leaf in flatten(_numeric(tree)).items()}
    if not arrays:
        raise ValueError(f"nothing to write to {path}: the tree has no arrays")
    target = epath.Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.parent / f".{target.name}.{os.getpid()}.tmp"
    try:
        partial.write_bytes(safetensors.numpy.save(arrays, metadata=dict(metadata or {})))
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def load_safetensors(path: epath.PathLike) -> Any:
    """Reads a file into a nested dict of numpy arrays (bfloat16 as `ml_dtypes.bfloat16`).

    Raises:
      FileNotFoundError: no such file.
      ValueError: not a complete safetensors file.
    """
    return nest(dict(sorted(read_safetensors(path).items())))


def read_safetensors(path: epath.PathLike) -> dict[str, np.ndarray]:
    """Names of the file -> numpy arrays; raises as `load_safetensors`."""
    import safetensors

    try:
        tensors = safetensors.deserialize(_read(path))
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is not a complete safetensors file ({error})") from None
    return {name: _to_numpy(name, tensor) for name, tensor in tensors}


def load_safetensors_metadata(path: epath.PathLike) -> dict[str, str]:
    """The strings that were saved beside the arrays."""
    import json

    with epath.Path(path).open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if not 0 < size <= 100_000_000:  # the format's own limit of a header
            raise ValueError(f"{path} is not a safetensors file: its header claims {size} bytes")
        try:
            return json.loads(file.read(size)).get("__metadata__", {})
        except ValueError:
            raise ValueError(f"{path} is not a safetensors file: its header is not JSON") from None


def _read(path: epath.PathLike) -> bytes:
    file = epath.Path(path)
    if not file.exists():
        raise FileNotFoundError(f"no weights at {path}: give the path of a .safetensors file")
    return file.read_bytes()


_DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2", "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U64": "uint64",
    "U32": "uint32", "U16": "uint16", "U8": "uint8", "BOOL": "bool", "C64": "complex64",
}  # fmt: skip


def _to_numpy(name: str, tensor: Mapping[str, Any]) -> np.ndarray:
    if tensor["dtype"] not in _DTYPES:
        raise ValueError(f"{name} has the dtype {tensor['dtype']}; known are {', '.join(_DTYPES)}")
    # jnp.dtype knows bfloat16 by name; the package's own table of dtypes depends on its version.
    dtype = jnp.dtype(_DTYPES[tensor["dtype"]])
    return np.frombuffer(tensor["data"], dtype).reshape(tensor["shape"])


def _numeric(tree: PyTree) -> PyTree:
    for name, leaf in flatten(tree).items():
        if not hasattr(leaf, "dtype") or jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            raise ValueError(f"{name} is a {type(leaf).__name__} {getattr(leaf, 'dtype', '')}: weights are arrays")
    return tree
