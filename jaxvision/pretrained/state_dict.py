"""Finds the weights in what a checkpoint holds: wrappers, prefixes that training loops add, whole pickled modules.

Wrappers are those of the common training programs: `state_dict` (mmengine, Lightning, timm), `model` (DeiT, MAE, Swin,
Detectron), `params` (BasicSR) and their averaged kin; prefixes are those of torch's DistributedDataParallel
(`module.`) and `torch.compile` (`_orig_mod.`).
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxvision.pretrained.pickle_objects import ArrayRef, DtypeRef, StorageRef, TensorRef
from jaxvision.pretrained.pickle_reader import CheckpointError, Global, Opaque

AVERAGED = ("state_dict_ema", "model_ema", "params_ema", "ema", "ema_model", "teacher")
"""mmengine's `ema_state_dict` is not among them: it holds the weights of before averaging, swapped when it saves."""
PLAIN = ("state_dict", "model_state_dict", "model_state", "model", "module", "params", "network", "net", "weights")
_NEVER = ("optimizer", "optimizers", "optimizer_states", "lr_scheduler", "lr_schedulers", "scaler", "amp", "loops")
MAX_DEPTH, MAX_NAMES = 100, 200_000


class Rest(NamedTuple):
    """A checkpoint, and the part of it that the weights were taken from."""

    tree: Any
    chosen: Any


class Found(NamedTuple):
    """Weights by name, apart for tensors (to be read) and numpy arrays; the line that says where; and the rest."""

    tensors: dict[str, TensorRef]
    arrays: dict[str, np.ndarray]
    where: str
    other: Rest


def find_state_dict(tree: Any, *, prefer_ema: bool = True) -> Found:
    """The weights of a checkpoint.

    Args:
      tree: as the interpreter returns it.
      prefer_ema: whether averaged weights come before the last ones.

    Raises:
      CheckpointError: several candidates and no known name among them.
    """
    order = (*AVERAGED, *PLAIN) if prefer_ema else (*PLAIN, *AVERAGED)
    chosen, where = _unwrap(tree, order, (), {})
    flat, stripped = _strip({name: _value(value) for name, value in _names(chosen) if _is_array(value)})
    notes = [".".join(where), *(f"without {prefix!r}" for prefix in stripped)]
    tensors = {name: value for name, value in flat.items() if isinstance(value, TensorRef)}
    arrays = {name: value for name, value in flat.items() if isinstance(value, np.ndarray)}
    return Found(tensors, arrays, ", ".join(note for note in notes if note), Rest(tree, chosen))


def _unwrap(
    tree: Any, order: tuple[str, ...], where: tuple[str, ...], seen: dict[int, bool]
) -> tuple[Any, tuple[str, ...]]:
    if len(where) > 4 or not isinstance(tree, dict):
        return tree, where
    for key in order:
        if key in tree and _holds_weights(tree[key], seen):
            return _unwrap(tree[key], order, (*where, key), seen)
    if any(map(_is_array, tree.values())):
        return tree, where
    inside = [key for key, value in tree.items() if key not in _NEVER and _holds_weights(value, seen)]
    if len(inside) > 1:
        raise CheckpointError(
            f"several sets of weights, and none under a known name: {', '.join(map(_key, inside[:20]))}"
        )
    return _unwrap(tree[inside[0]], order, (*where, _key(inside[0])), seen) if inside else (tree, where)


def _holds_weights(value: Any, seen: dict[int, bool], depth: int = 0) -> bool:
    """`seen` keeps answers by identity: containers may be shared, and shared again."""
    if isinstance(value, Opaque):
        return _module(value) is not None
    if not isinstance(value, dict) or depth > 3:
        return False
    if id(value) not in seen:
        seen[id(value)] = False
        seen[id(value)] = any(map(_is_array, value.values())) or any(
            _holds_weights(value[key], seen, depth + 1) for key in (*AVERAGED, *PLAIN) if key in value
        )
    return seen[id(value)]


def _is_array(value: Any) -> bool:
    return isinstance(_value(value), (TensorRef, np.ndarray))


def _value(value: Any) -> Any:
    """A numpy array that an `ArrayRef` holds; anything else as it is."""
    return value.value if isinstance(value, ArrayRef) else value


def _module(value: Opaque) -> Mapping[Any, Any] | None:
    """The attributes of a pickled `torch.nn.Module`."""
    state = value.state
    if (
        isinstance(state, dict)
        and isinstance(state.get("_modules"), dict)
        and isinstance(state.get("_parameters"), dict)
    ):
        return state
    return None


def _names(chosen: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(chosen, dict):
        for key, value in chosen.items():
            if isinstance(key, str):
                yield key, value
    elif isinstance(chosen, Opaque):
        for count, item in enumerate(_module_names(chosen, "", 0)):
            if count > MAX_NAMES:
                raise CheckpointError(f"a module with over {MAX_NAMES:,} parameters")
            yield item


def _module_names(module: Opaque, prefix: str, depth: int) -> Iterator[tuple[str, Any]]:
    """What `module.state_dict()` would list; every part is yielded, so that the caller's bound holds."""
    state = _module(module)
    if state is None:
        return
    if depth > MAX_DEPTH or len(prefix) > 500:
        raise CheckpointError(f"a module that is nested over {MAX_DEPTH} deep")
    passing = state.get("_non_persistent_buffers_set")
    passing = passing if isinstance(passing, list) and len(passing) < 100 else ()
    for kind in ("_parameters", "_buffers"):
        for key, value in (state[kind] if isinstance(state.get(kind), dict) else {}).items():
            yield f"{prefix}{_key(key)}", None if key in passing else value
    for key, child in state["_modules"].items():
        yield prefix, None
        if isinstance(child, Opaque):
            yield from _module_names(child, f"{prefix}{_key(key)}.", depth + 1)


def _strip(flat: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Names without what wrappers around the module add, and what that was."""
    stripped = []
    if any("_orig_mod." in name for name in flat):
        flat = {name.replace("_orig_mod.", ""): value for name, value in flat.items()}
        stripped.append("_orig_mod.")
    # torch's AveragedModel adds a counter beside its `module.`.
    while len(flat) > 0 and all(name.startswith("module.") or name == "n_averaged" for name in flat):
        flat = {name.removeprefix("module."): value for name, value in flat.items() if name != "n_averaged"}
        if "module." in stripped:
            break
        stripped.append("module.")
    return flat, stripped


def plain(rest: Rest) -> Any:
    """What surrounds the weights as dicts, lists, tuples and scalars; numpy arrays stay, tensors become descriptions.

    A container that two places share is shared again, one that holds itself is "<itself>" there.

    Raises:
      CheckpointError: nested over `MAX_DEPTH` deep.
    """
    tree, chosen = rest
    done: dict[int, Any] = {}
    busy: set[int] = set()

    def convert(value: Any, depth: int) -> Any:
        if isinstance(value, (TensorRef, Global)):
            return str(value)
        if isinstance(value, ArrayRef):
            return value.value
        if isinstance(value, DtypeRef):
            return f"numpy.{value.code}"
        if isinstance(value, StorageRef):
            return f"storage of {value.size} {value.dtype}"
        if not isinstance(value, (dict, list, tuple, Opaque)):
            return value
        if id(value) in done:
            return done[id(value)]
        if id(value) in busy:
            return "<itself>"
        if depth > MAX_DEPTH:
            raise CheckpointError(f"objects are nested over {MAX_DEPTH} deep")
        busy.add(id(value))
        result = container(value, depth + 1)
        busy.discard(id(value))
        done[id(value)] = result
        return result

    def container(value: Any, depth: int) -> Any:
        if isinstance(value, dict):
            kept = value if value is not chosen else {k: v for k, v in value.items() if not _is_array(v)}
            return {key: convert(item, depth) for key, item in kept.items()}
        if isinstance(value, Opaque):
            if value is chosen:
                return Opaque(value.name)
            copy = Opaque(value.name, convert(value.args, depth), convert(value.kwargs, depth))
            copy.state = convert(value.state, depth)
            copy.items = [convert(item, depth) for item in value.items]
            return copy
        converted = [convert(item, depth) for item in value]
        return tuple(converted) if isinstance(value, tuple) else converted

    return convert(tree, 0)


def _key(key: Any) -> str:
    return key if isinstance(key, str) and len(key) < 200 else f"<{type(key).__name__}>"
