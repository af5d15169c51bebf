"""One step of a checkpoint on disk: reading, checksums, and plain words for what went wrong.

Under `checkpoints.py`, which decides which steps are written, kept and read. Orbax (its v0 API) is imported here, at
the first use, and silenced.
"""

import contextlib
import errno
import functools
import gc
import json
import logging
import shutil
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from jaxvision.errors import UserError
from jaxvision.trees import TreeMismatch, flatten, nest

PyTree = Any


class CheckpointError(UserError, RuntimeError):
    """A checkpoint could not be written or read; the message says which, why, and what to do."""


class CheckpointMismatch(CheckpointError, TreeMismatch):
    """A checkpoint belongs to another model: the message lists every differing name, shape and dtype."""


class Damaged(Exception):
    """A step cannot be read or differs from what was saved; caught inside `checkpoints.py`."""


@functools.cache
def orbax() -> Any:
    """Orbax, imported at the first use (about a second) and silenced: what matters we raise or say ourselves."""
    import orbax.checkpoint as ocp

    logging.getLogger("absl").addFilter(_NoOrbax())
    return ocp


def handlers() -> dict[str, Any]:
    """Of the two items of a step. Arrays are written from one device each: orbax would cut those that are equal on
    several devices into a part for each, and compile a slice per shape for it at the first save.
    """
    ocp = orbax()
    types = ocp.type_handlers.create_type_handler_registry(
        (np.ndarray, ocp.type_handlers.NumpyHandler()),
        (jax.Array, ocp.type_handlers.ArrayHandler(use_replica_parallel=False)),
    )
    return {"state": ocp.PyTreeCheckpointHandler(type_handler_registry=types), "about": ocp.JsonCheckpointHandler()}


class _NoOrbax(logging.Filter):
    """Orbax reports each phase of a save, and each failure with several tracebacks, through absl's logger."""

    def filter(self, record: logging.LogRecord) -> bool:
        return "/orbax/" not in record.pathname.replace("\\", "/")


def raw(leaf: Any) -> Any:
    """The array itself, or the integers of a typed random key."""
    if not isinstance(leaf, jax.Array):
        return np.asarray(leaf)
    return jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf


def abstract(leaf: Any) -> jax.ShapeDtypeStruct:
    """Shape, dtype and placement of `raw(leaf)`; the leaf may be abstract itself."""
    array = jax.eval_shape(raw, leaf) if hasattr(leaf, "dtype") else np.asarray(leaf)
    return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=getattr(leaf, "sharding", None))


def typed(array: Any, wanted: Any) -> Any:
    """Inverse of `raw`: an array, or the random key of the kind of `wanted`."""
    if not (hasattr(wanted, "dtype") and jnp.issubdtype(wanted.dtype, jax.dtypes.prng_key)):
        return array
    found: list[Any] = []
    jax.eval_shape(lambda key: found.append(jax.random.key_impl(key)), wanted)  # it takes no ShapeDtypeStruct
    return jax.random.wrap_key_data(array, impl=found[0])


def zeros(leaf: jax.ShapeDtypeStruct) -> Any:
    """Zeros with the placement of `leaf`; orbax refuses arrays without elements, so that these are made anew."""
    if leaf.sharding is None:
        return np.zeros(leaf.shape, leaf.dtype)
    return jax.jit(functools.partial(jnp.zeros, leaf.shape, leaf.dtype), out_shardings=leaf.sharding)()


def checksums(flat: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Shape, dtype and CRC-32 of the bytes of each array, by name; the same on every process of a run.

    Raises:
      ValueError: an array that is split over processes.
    """
    result = {}
    for name, leaf in flat.items():
        array = raw(leaf)
        result[name] = {"shape": list(array.shape), "dtype": str(array.dtype), "crc32": _crc32(name, array)}
    return result


def verify(arrays: Mapping[str, Any], about: Mapping[str, Any]) -> None:
    """Raises `Damaged` naming the arrays whose bytes are not those that were saved."""
    wrong = [name for name, leaf in arrays.items() if not _is_as_saved(name, leaf, about["leaves"][name])]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise Damaged(f"the checksum differs from what was saved for {', '.join(wrong[:3])}{more}")


def _is_as_saved(name: str, array: Any, saved: Mapping[str, Any]) -> bool:
    # Type first: where metadata are damaged, orbax may return a description of the array in its place.
    alike = isinstance(array, np.ndarray | jax.Array)
    alike = alike and str(array.dtype) == saved["dtype"] and list(array.shape) == saved["shape"]
    return alike and _crc32(name, array) == saved["crc32"]


def _crc32(name: str, array: Any) -> int:
    if isinstance(array, jax.Array):
        if not (array.is_fully_replicated or array.is_fully_addressable):
            raise ValueError(f"{name} is split over processes; the state of a run is equal on all devices")
        # A temporary view: a numpy value cached on the state's own array would make its donation a copy.
        array = np.asarray(array.addressable_data(0)) if array.is_fully_replicated else np.array(array)
    contiguous = np.asarray(array, order="C")
    return zlib.crc32(contiguous.reshape(-1).view(np.uint8).data) if contiguous.size else 0


def seal(about: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON item of a step: a description with a checksum of its own."""
    text = json.dumps(about)
    return {"about": text, "crc32": zlib.crc32(text.encode())}


def read_about(manager: Any, step: int) -> dict[str, Any]:
    """The description of a step: leaves, extra, metrics. Raises `Damaged`."""
    ocp = orbax()
    with _damage():
        sealed = manager.restore(step, args=ocp.args.Composite(about=ocp.args.JsonRestore())).about
        if zlib.crc32(sealed["about"].encode()) != sealed["crc32"]:
            raise Damaged("its description (about/metadata) has changed since it was saved")
        return json.loads(sealed["about"])


def described(about: Mapping[str, Any]) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and dtypes of a step's arrays by name."""
    leaves = about["leaves"].items()
    return {name: jax.ShapeDtypeStruct(tuple(leaf["shape"]), jnp.dtype(leaf["dtype"])) for name, leaf in leaves}


def read_arrays(
    manager: Any, step: int, wanted: Mapping[str, jax.ShapeDtypeStruct], about: Mapping[str, Any]
) -> dict[str, Any]:
    """Verified arrays by name; read to the host where `wanted` has no sharding. Raises `Damaged`."""
    ocp = orbax()
    tree = nest({name: leaf for name, leaf in wanted.items() if leaf.size})
    how = jax.tree.map(
        lambda leaf: (
            ocp.RestoreArgs(restore_type=np.ndarray)
            if leaf.sharding is None
            else ocp.ArrayRestoreArgs(sharding=leaf.sharding, global_shape=leaf.shape, dtype=leaf.dtype)
        ),
        tree,
    )
    arrays = {name: zeros(leaf) for name, leaf in wanted.items() if not leaf.size}
    with _damage():
        if tree:
            args = ocp.args.PyTreeRestore(tree, restore_args=how, partial_restore=True)
            arrays |= flatten(manager.restore(step, args=ocp.args.Composite(state=args)).state)
    verify(arrays, about)
    return arrays


@contextlib.contextmanager
def _damage() -> Iterator[None]:
    with _quiet_loops() as settle:
        try:
            yield
        except Damaged:
            raise
        except Exception as error:  # orbax and tensorstore raise a dozen types for truncated and missing files
            settle()
            raise Damaged(f"it cannot be read ({first_line(error)})") from error


@contextlib.contextmanager
def _quiet_loops() -> Iterator[Callable[[], None]]:
    """Orbax ends its event loop at the first array that fails; tensorstore then reports each other one as an
    unraisable "Event loop is closed", and asyncio their tasks. Yields a wait for these stragglers.
    """
    hook, level = sys.unraisablehook, logging.getLogger("asyncio").level

    def drop(unraisable: Any) -> None:
        if "Event loop is closed" not in str(unraisable.exc_value):
            hook(unraisable)

    def settle() -> None:
        time.sleep(0.3)
        gc.collect()

    sys.unraisablehook = drop
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    try:
        yield settle
    finally:
        sys.unraisablehook = hook
        logging.getLogger("asyncio").setLevel(level)


def failure_text(what: str, directory: epath.Path, error: Exception, size: int, good: Sequence[int]) -> str:
    """What failed and why in plain words, which checkpoint is left, what to do. `size`: bytes of the state."""
    kept = f"the checkpoint of step {max(good)} is intact" if good else "there is no earlier checkpoint"
    number = _disk_trouble(error)
    if number is None:
        return f"cannot {what} in {directory}: {first_line(error)}; {kept}"
    reason, advice = _DISK[number]
    free = ""
    with contextlib.suppress(OSError):
        free = f" ({shutil.disk_usage(directory).free / 1e6:,.1f} MB are free, a checkpoint needs {size / 1e6:,.1f} MB)"
    return f"cannot {what} in {directory}: {reason}{free}; {kept}. {advice}, and run the same command again to resume"


_MAKE_ROOM = "Free space there or lower checkpoint.max_to_keep"
_DISK = {
    errno.ENOSPC: ("the disk is full", _MAKE_ROOM),
    errno.EDQUOT: ("the disk quota is used up", _MAKE_ROOM),
    errno.EFBIG: ("a file exceeds the size limit of this process (ulimit -f) or file system", "Raise the limit"),
    errno.EROFS: ("the file system is read-only", "Make it writable"),
}
_TEXTS = {
    "No space left on device": errno.ENOSPC,
    "Disk quota exceeded": errno.EDQUOT,
    "File too large": errno.EFBIG,
    "Read-only file system": errno.EROFS,
}


def _disk_trouble(error: BaseException | None) -> int | None:
    """The system's error number in the chain of causes; tensorstore passes on its text only."""
    while error is not None:
        text = str(error)
        number = getattr(error, "errno", None) or next((code for key, code in _TEXTS.items() if key in text), None)
        if number in _DISK:
            return number
        error = error.__cause__ or error.__context__
    return None


def first_line(error: BaseException) -> str:
    """Type and first line of an exception whose text fills a screen."""
    line = next((line for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {' '.join(line.split())[:300]}"
