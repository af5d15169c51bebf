"""Names and layouts of published weights <-> our variables, driven by the variables that the model has.

One generic rule gives the reference's name of each of our variables, e.g. of `params/backbone/layer1_0/conv1/kernel`:
the collection goes, a number leaves the name that it joined, the leaf gets torch's name:
`backbone.layer1.0.conv1.weight`. Then the rules of the family's table for the source are applied in order (`re.sub`):
`layer1.0.conv1.weight`. Both directions, reading and writing, use this one map.

The convention for a family, at the end of its file under `jaxvision/backbones/` (or beside the model's class):

    KEYS = {"torchvision": ((r"^backbone\\.", ""), (r"^head\\.", "fc.")), ...}   # source -> (pattern, replacement), ...
                                         # "timm/legacy": another table of the same source; files tell which one fits
    def keys(backbone): ...              # in place of KEYS, where names depend on the size: the same mapping
    IGNORED = (r"^aux_head\\.",)          # optional: names of the reference that the family does without
    def ignored(model): ...              # optional: further ones, where they depend on the model's size
    FRESH = (r"/norm[0-2]/",)            # optional: our variables that published classifiers have not: where a file
                                         # without them fills a backbone, they start fresh, and a line says so
    HEAD = r"/cls_logits/"               # optional: our variables that depend on the number of classes, where they are
                                         # fewer than all of the model's `head`
    INPUT = (32, 32, 1)                  # optional: smallest usual image [h, w, c]; default (224, 224, 3)
    def resize(name, value, shape): ...  # optional: a value of another image size -> `shape`, or None; also as a
                                         # method of the model, which then wins

A name that becomes "a + b + c" is three variables of the reference, joined along our last axis (query, key, value);
in "a + 2 * b", b has two thirds of that axis. A name that becomes "a[..., 1, 1]" or "a[1, ...]" has these axes in the
reference beyond ours: a 1x1 convolution that is a linear layer here. They are for writing: files may have or lack axes
of length 1 anywhere. A kernel [h, w, c, out] whose name becomes "a[flat]" is the reference's linear layer
[out, c * h * w] of flattened maps.

A rule of three, (pattern, read, write), is of values: `read` turns those of the reference whose name on our side (e.g.
"params/backbone/conv1/kernel") the pattern finds, in our layout, into ours, and `write` the other way round.

Layouts follow from our side: a `kernel` [*space, in, out] is the reference's [out, in, *space], for linear layers too,
grouped and depthwise convolutions included. A transposed convolution keeps the kernel of the convolution that it
transposes, [*space, out / groups, in] (what `lax.conv_transpose(transpose_kernel=True)` takes): the same permutation of
torch's [in, out / groups, *space]. Everything else is as it is.
"""

import dataclasses
import difflib
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from jaxvision.trees import TreeMismatch

SOURCES = ("torchvision", "timm", "openmmlab", "huggingface", "smp", "jaxvision")
"""Who published the weights; "jaxvision" are our own names."""

Convert = Callable[[np.ndarray], np.ndarray]
Rules = tuple[tuple[str, str] | tuple[str, Convert, Convert], ...]
OWN: Rules = (("", ""),)
"""Stands for our own names and layouts."""
Resize = Callable[[str, np.ndarray, tuple[int, ...]], np.ndarray | None]

_PART = re.compile(r"(?:(\d+) \* )?([^\[]+)(?:\[(?:(flat)|((?:1, )*)\.\.\.((?:, 1)*))\])?")
_COUNTERS = r"(^|\.)num_batches_tracked$"
_LEAVES = {"kernel": "weight", "scale": "weight", "embedding": "weight"}
_STATISTICS = {"mean": "running_mean", "var": "running_var"}
_HINTS = 20


@dataclasses.dataclass(frozen=True)
class Part:
    """A variable of the reference.

    Attributes:
      name: the reference's.
      share: of our last axis, relative to the other parts of our variable.
      flat: it is a linear layer of flattened maps, and our kernel keeps their axes.
      before, after: axes of length 1 that it has in front of and behind ours.
    """

    name: str
    share: int = 1
    flat: bool = False
    before: int = 0
    after: int = 0


@dataclasses.dataclass(frozen=True, eq=False)
class Family:
    """What a family's file says about published weights: see the top of this file.

    Classifiers are called `head`, or `head_...` where a model has several.
    """

    name: str
    keys: Mapping[str, Rules]
    ignored: tuple[str, ...]
    input: tuple[int, int, int]
    resize: Resize | None
    fresh: tuple[str, ...] = ()
    head: str = r"^[a-z_]+/head(_\w+)?/"


def family_of(model: Any) -> Family:
    """What the file of the model's class says, else that of its backbone's; `keys` is empty if neither has a table.

    `IGNORED` and `FRESH` are those of both: a detector has the variables of its backbone, too.
    """
    parts = [part for part in (model, getattr(model, "backbone", None)) if part is not None]
    modules = [sys.modules[type(part).__module__] for part in parts]
    tables = [hasattr(module, "KEYS") or hasattr(module, "keys") for module in modules]
    part, module = list(zip(parts, modules, strict=True))[tables.index(True) if any(tables) else -1]
    return Family(
        module.__name__,
        module.keys(part) if hasattr(module, "keys") else getattr(module, "KEYS", {}),
        (
            *(name for own in modules for name in getattr(own, "IGNORED", ())),
            *(module.ignored(part) if hasattr(module, "ignored") else ()),
        ),
        getattr(module, "INPUT", (224, 224, 3)),
        getattr(parts[-1], "resize", getattr(module, "resize", None)),
        tuple(name for own in modules for name in getattr(own, "FRESH", ())),
        **({"head": module.HEAD} if hasattr(module, "HEAD") else {}),
    )


def rules_for(family: Family, source: str) -> Rules:
    """The family's rules for a source; raises ValueError where there are none."""
    if source == "jaxvision":
        return OWN
    if source not in family.keys and (variants := tables_of(family, source)):
        return next(iter(variants.values()))
    if source not in family.keys:
        known = ", ".join([*family.keys, "jaxvision (our own)"])
        raise ValueError(f"no names of {source!r} are known for this model: {family.name} has those of {known}")
    return family.keys[source]


def tables_of(family: Family, source: str) -> dict[str, Rules]:
    """The tables of a source, among them its variants ("timm", "timm/legacy"); `source` may name one variant."""
    return {name: rules for name, rules in family.keys.items() if name == source or name.startswith(f"{source}/")}


def reference_names(name: str, rules: Rules) -> tuple[str, ...]:
    """The reference's name of our variable `name` ("params/backbone/conv1/kernel"); several where it splits it."""
    return tuple(part.name for part in reference_parts(name, rules))


def reference_parts(name: str, rules: Rules) -> tuple[Part, ...]:
    """What our variable `name` is in the reference."""
    if rules is OWN:
        return (Part(name),)
    collection, _, path = name.partition("/")
    *modules, leaf = path.split("/")
    leaf = (_STATISTICS if collection == "batch_stats" else _LEAVES).get(leaf, leaf)
    dotted = ".".join([*(re.sub(r"_(\d+)(?=_|$)", r".\1", module) for module in modules), leaf])
    for rule in rules:
        if len(rule) == 2:
            dotted = re.sub(rule[0], rule[1], dotted)
    parts = []
    for text in dotted.split(" + "):
        match = _PART.fullmatch(text)
        if match is None:
            raise ValueError(f"{name} becomes {text!r}, which is no name: see the top of {__name__}")
        share, plain, flat, before, after = match.groups(default="")
        parts.append(Part(plain, int(share or 1), bool(flat), before.count("1"), after.count("1")))
    return tuple(parts)


def to_our_layout(name: str, value: np.ndarray) -> np.ndarray:
    """A view of a reference's array in our layout: [out, in, *space] -> [*space, in, out] for kernels."""
    return value.transpose(*range(2, value.ndim), 1, 0) if _is_kernel(name) and value.ndim > 1 else value


def to_our_form(name: str, value: np.ndarray, rules: Rules) -> np.ndarray:
    """A reference's array in our layout, after the rules of values."""
    return _read(name, value if rules is OWN else to_our_layout(name, value), rules)


def to_reference_layout(name: str, value: np.ndarray) -> np.ndarray:
    """The inverse of `to_our_layout`."""
    last = value.ndim - 1
    return value.transpose(last, last - 1, *range(last - 1)) if _is_kernel(name) and last > 0 else value


def _is_kernel(name: str) -> bool:
    return name.rpartition("/")[2] == "kernel"


@dataclasses.dataclass(frozen=True, eq=False)
class Fit:
    """How the names of a file meet the variables of a model.

    Attributes:
      values: our name -> array in our layout.
      missing: our names without a value.
      unexpected: the file's names that nothing takes and that the family does not ignore.
      lines: everything that is wrong, one line each.
    """

    values: dict[str, np.ndarray]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    lines: tuple[str, ...]

    def check(self, what: str) -> dict[str, np.ndarray]:
        """The values; raises TreeMismatch, which lists every difference, if there is one."""
        if self.lines:
            raise TreeMismatch(
                f"{what} does not fit the model ({len(self.lines)} differences; shapes are [*space, in, out]):\n  "
                + "\n  ".join(self.lines)
            )
        return self.values


def fit(
    state_dict: Mapping[str, np.ndarray],
    wanted: Mapping[str, Any],
    rules: Rules,
    *,
    ignored: Iterable[str] = (),
    resize: Resize | None = None,
) -> Fit:
    """Assigns the arrays of a file to the variables of a model.

    Args:
      state_dict: the reference's names -> arrays in its layout.
      wanted: our names ("params/...") -> anything with `shape` and `dtype`.
      rules: of the family for the source.
      ignored: patterns of names that the file may hold beyond the model's.
      resize: of the family, for values of another shape.
    """
    values: dict[str, np.ndarray] = {}
    absent: dict[str, str] = {}
    shapes: list[str] = []
    used: set[str] = set()
    for name, want in wanted.items():
        parts = reference_parts(name, rules)
        names = tuple(part.name for part in parts)
        used.update(names)
        lacking = [reference for reference in names if reference not in state_dict]
        if lacking:
            absent[name] = lacking[0]
            continue
        pieces = [_unflatten(state_dict[p.name], want.shape) if p.flat else state_dict[p.name] for p in parts]
        value = _read(name, _joined(name, pieces, rules), rules)
        if _without_ones(value.shape) == _without_ones(want.shape):
            value = value.reshape(want.shape)
        if value.shape != tuple(want.shape) and resize is not None:
            resized = resize(name, value, tuple(want.shape))
            value = value if resized is None else resized
        if value.shape != tuple(want.shape):
            shapes.append(
                f"shape       {' + '.join(names)}: {list(value.shape)} in the file, {list(want.shape)} wanted"
            )
        elif _kind(value.dtype) != _kind(want.dtype):
            shapes.append(f"dtype       {' + '.join(names)}: {value.dtype} in the file, {want.dtype} wanted")
        else:
            values[name] = value
    skip = re.compile("|".join([_COUNTERS, *ignored]))
    unexpected = [name for name in state_dict if name not in used and not skip.search(name)]
    lines = [f"missing     {reference}{_hint(reference, unexpected, absent)}" for reference in absent.values()]
    lines += [f"unexpected  {name} {state_dict[name].dtype}{list(state_dict[name].shape)}" for name in unexpected]
    return Fit(values, tuple(absent), tuple(unexpected), tuple(lines + shapes))


def to_state_dict(variables: Mapping[str, Any], rules: Rules) -> dict[str, np.ndarray]:
    """Our flat variables ("params/...") under the reference's names and in its layout."""
    state_dict: dict[str, np.ndarray] = {}
    for name, value in variables.items():
        parts = reference_parts(name, rules)
        value = _written(name, np.asarray(value), rules)
        for part, piece in zip(parts, _split(value, [part.share for part in parts]), strict=True):
            if part.name in state_dict:
                raise ValueError(f"two variables get the name {part.name!r}: a rule of the family's table is too wide")
            piece = piece if rules is OWN else to_reference_layout(name, piece)
            piece = piece.reshape(piece.shape[0], -1) if part.flat else piece
            state_dict[part.name] = piece.reshape((1,) * part.before + piece.shape + (1,) * part.after)
    return state_dict


def _joined(name: str, parts: list[np.ndarray], rules: Rules) -> np.ndarray:
    own = [part if rules is OWN else to_our_layout(name, part) for part in parts]
    if len(own) == 1:
        return own[0]
    if any(part.ndim != own[0].ndim or part.shape[:-1] != own[0].shape[:-1] or not part.ndim for part in own):
        return np.empty((0,), own[0].dtype)
    return np.concatenate(own, axis=-1)


def _read(name: str, value: np.ndarray, rules: Rules) -> np.ndarray:
    """A reference's value in our layout after the rules of values; what they cannot take stays and is reported."""
    try:
        for rule in rules:
            if len(rule) == 3 and re.search(rule[0], name):
                value = rule[1](value)
    except ValueError:
        pass
    return value


def _written(name: str, value: np.ndarray, rules: Rules) -> np.ndarray:
    for rule in rules[::-1]:
        if len(rule) == 3 and re.search(rule[0], name):
            value = rule[2](value)
    return value


def _split(value: np.ndarray, shares: list[int]) -> list[np.ndarray]:
    if len(shares) == 1:
        return [value]
    unit = value.shape[-1] // sum(shares)
    return np.split(value, np.cumsum(shares)[:-1] * unit, axis=-1)


def _unflatten(value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The reference's [out, c * h * w] -> [out, c, h, w], where our `shape` [h, w, c, out] allows it."""
    h, w, c, _ = shape
    fits = value.ndim == 2 and value.shape[1] == h * w * c
    return value.reshape(value.shape[0], c, h, w) if fits else value


def _without_ones(shape: Iterable[int]) -> tuple[int, ...]:
    return tuple(size for size in shape if size != 1)


def _kind(dtype: Any) -> str:
    import jax.numpy as jnp

    kinds = {"float": jnp.floating, "int": jnp.integer, "complex": jnp.complexfloating}
    return next((name for name, kind in kinds.items() if jnp.issubdtype(dtype, kind)), str(dtype))


def _hint(name: str, unexpected: list[str], absent: Mapping[str, str]) -> str:
    if len(absent) > _HINTS:
        return ""
    near = difflib.get_close_matches(name, unexpected, n=1, cutoff=0.8)
    return f"; the file has {near[0]} instead?" if near else ""
