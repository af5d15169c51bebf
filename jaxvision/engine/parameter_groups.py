"""Which learning rate and weight decay each parameter gets, and which are frozen: decided by path, printed as a table.

A path is "a/b/c", the keys of the parameter tree. A pattern is a regular expression matched in full
(`backbone/layer[12]_.*`), and one that matches no path is an error: it would otherwise be a rule that silently does
nothing. All multipliers of one parameter are multiplied, in no particular order.
"""

import dataclasses
import difflib
import functools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxvision.trees import flatten

PyTree = Any
LayerIndex = Callable[[Sequence[str]], Mapping[str, int]]
"""All paths -> the layer of each, counted from the input."""


@dataclasses.dataclass(frozen=True)
class Parameter:
    """One parameter and its multipliers of the learning rate and of the weight decay."""

    path: str
    shape: tuple[int, ...]
    dtype: np.dtype
    learning_rate: float = 1.0
    weight_decay: float = 1.0
    frozen: bool = False

    @property
    def count(self) -> int:
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        return self.count * self.dtype.itemsize

    @property
    def group(self) -> str:
        """The group in words: parameters with equal words are treated alike."""
        if self.frozen:
            return "frozen"
        return f"learning rate x{self.learning_rate:.4g}, weight decay x{self.weight_decay:.4g}"


@dataclasses.dataclass(frozen=True)
class ParameterTable:
    """Every parameter of a model in the order of its tree; `str(table)` lists them by group, with totals."""

    rows: tuple[Parameter, ...]

    @functools.cached_property
    def _by_path(self) -> dict[str, Parameter]:
        return {row.path: row for row in self.rows}

    def __getitem__(self, path: str) -> Parameter:
        if path not in self._by_path:
            near = ", ".join(difflib.get_close_matches(path, self._by_path, n=3)) or "none"
            raise KeyError(f"parameter {path!r} is not in the optimizer's table (near: {near}); was it added later?")
        return self._by_path[path]

    @property
    def groups(self) -> dict[str, tuple[Parameter, ...]]:
        """The rows of each group, in the order of first appearance."""
        groups: dict[str, list[Parameter]] = {}
        for row in self.rows:
            groups.setdefault(row.group, []).append(row)
        return {name: tuple(rows) for name, rows in groups.items()}

    def summary(self) -> str:
        """One line per group and the totals, for models with hundreds of parameters."""
        return "\n".join([*(_heading(name, rows) for name, rows in self.groups.items()), self._total()])

    def __str__(self) -> str:
        cells = {row.path: (row.path or ".", _shape(row.shape), row.dtype.name, f"{row.count:,}") for row in self.rows}
        widths = [max(map(len, column)) for column in zip(*cells.values(), strict=True)]
        lines = []
        for name, rows in self.groups.items():
            lines.append(_heading(name, rows))
            for row in rows:
                path, shape, dtype, count = cells[row.path]
                lines.append(f"  {path:<{widths[0]}}  {shape:<{widths[1]}}  {dtype:<{widths[2]}}  {count:>{widths[3]}}")
        return "\n".join([*lines, self._total()])

    def _total(self) -> str:
        frozen = sum(row.count for row in self.rows if row.frozen)
        count = sum(row.count for row in self.rows)
        return _heading("total", self.rows) + f" ({count - frozen:,} trained, {frozen:,} frozen)"


def parameter_table(
    params: PyTree,
    *,
    rules: Sequence[Mapping[str, Any]] = (),
    no_weight_decay_on_norm_and_bias: bool = False,
    layer_decay: float | None = None,
    freeze: Sequence[str] = (),
    layer_index: LayerIndex | None = None,
) -> ParameterTable:
    """Sorts parameters into groups.

    Args:
      params: a tree of arrays or of `jax.ShapeDtypeStruct`.
      rules: mappings `{pattern, learning_rate=1.0, weight_decay=1.0}` of multipliers; a parameter that several
        patterns match gets the product of their multipliers.
      no_weight_decay_on_norm_and_bias: no weight decay on parameters of at most one dimension (those of norms, biases,
        layer scale) and on those that transformers exempt by name: see `UNDECAYED`.
      layer_decay: the learning rate of a layer is this times that of the next one (Clark et al. 2020, ELECTRA; Bao
        et al. 2022, BEiT); the last layer has the full rate.
      freeze: patterns of parameters that are not trained.
      layer_index: the layer of each parameter; None: `layer_indices`.

    Raises:
      ValueError: a pattern without a match, a malformed rule, a negative multiplier, nothing left to train.
    """
    leaves = list(flatten(params).items())
    paths = [path for path, _ in leaves]
    rates, decays = dict.fromkeys(paths, 1.0), dict.fromkeys(paths, 1.0)
    if layer_decay is not None:
        if not 0.0 < layer_decay <= 1.0:
            raise ValueError(f"layer_decay is {layer_decay}; expected a number in (0, 1], or None")
        layers = (layer_index or layer_indices)(paths)
        last = max(layers.values())
        rates = {path: layer_decay ** (last - layers[path]) for path in paths}
    if no_weight_decay_on_norm_and_bias:
        decays = {path: 0.0 if len(leaf.shape) <= 1 or _undecayed(path) else 1.0 for path, leaf in leaves}
    for rule in rules:
        pattern, rate, decay = _read_rule(rule)
        for path in _matches(pattern, paths, "schedule.rules"):
            rates[path] *= rate
            decays[path] *= decay
    frozen = {path for pattern in freeze for path in _matches(pattern, paths, "schedule.freeze")}
    if len(frozen) == len(paths):
        raise ValueError(f"nothing is left to train: the patterns {tuple(freeze)} freeze all {len(paths)} parameters")
    return ParameterTable(
        tuple(
            Parameter(path, tuple(leaf.shape), np.dtype(leaf.dtype), rates[path], decays[path], path in frozen)
            for path, leaf in leaves
        )
    )


UNDECAYED = re.compile(
    r"(absolute_)?pos_embed|position_embeddings?|(cls|class|dist|reg|register)_tokens?"
    r"|relative_position_bias_table|cpb_mlp(_\d+)?|logit_scale"
)
"""Keys of parameters of several dimensions that get no weight decay where norms and biases get none: position
embeddings and added tokens (the authors' DeiT, timm's `VisionTransformer.no_weight_decay`), tables of relative position
biases (Swin), the network that computes those and the scale of cosine attention (Swin v2)."""


def _undecayed(path: str) -> bool:
    return any(UNDECAYED.fullmatch(key) for key in path.split("/"))


_AFTER_TRUNK = re.compile(r"(.*_)?(heads?|neck|decoder|classifier|fc)(_?\d+|_\w+)?")
_BLOCK = re.compile(r"(?:layers?|stages?|blocks?|features|encoder_layer)_?(\d+)(?:_(\d+))?")
_STEM = re.compile(
    r"stem\w*|conv_stem|conv1|bn1|norm_pre|ln_pre|patch_embed\w*|pos_embed\w*|position_embedding\w*|embeddings?"
    r"|(cls|class|reg|register|dist|mask)_tokens?"
)


def layer_indices(paths: Sequence[str]) -> dict[str, int]:
    """The layer of each parameter, told from the names that this library and timm use.

    The first key of a path that is known decides. Numbered blocks (`layer1_0`, `blocks_3`, `stages_2/blocks_1`) count
    1, 2, ... in the order of their numbers; what stands in a stage beside its blocks (`stages_2/downsample`) belongs to
    the stage's first block. The stem (`stem`, `conv1`, `bn1`, `patch_embed`, `pos_embed`, `cls_token`, ...) is 0.
    Everything else (heads, necks, final norms) is the last layer, one after the last block.
    """
    kinds = {path: _place(path.split("/")) for path in paths}
    blocks = sorted({kind for kind in kinds.values() if isinstance(kind, tuple)})
    if not blocks:
        raise ValueError(
            "layer_decay found no numbered blocks (layer1_0, blocks_3, stages_2/blocks_1) among the parameters "
            f"{', '.join(paths[:5])}, ...; pass make_optimizer a layer_index function for this model"
        )
    keys = [key for key in blocks if not any(other != key and other[: len(key)] == key for other in blocks)]
    position = {key: next(i for i, k in enumerate(keys, start=1) if k[: len(key)] == key) for key in blocks}
    last = len(keys) + 1
    return {path: position[kind] if isinstance(kind, tuple) else last * kind for path, kind in kinds.items()}


def _place(keys: Sequence[str]) -> tuple[int, ...] | int:
    """The numbers of a path's block, or 0 for the stem and 1 for what comes after the blocks."""
    for i, key in enumerate(keys):
        if block := _BLOCK.fullmatch(key):
            inner = _BLOCK.fullmatch(keys[i + 1]) if i + 1 < len(keys) else None
            return tuple(int(n) for match in (block, inner) if match for n in match.groups() if n is not None)
        if _STEM.fullmatch(key):
            return 0
        if _AFTER_TRUNK.fullmatch(key):
            return 1
    return 1


def _read_rule(rule: Mapping[str, Any]) -> tuple[str, float, float]:
    fields = dict(rule)
    known = ("pattern", "learning_rate", "weight_decay")
    for key in fields:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"expected {', '.join(known)}"
            raise ValueError(f"schedule.rules: unknown key {key!r} in {fields}: {hint}")
    if "pattern" not in fields:
        raise ValueError(f"schedule.rules: {fields} has no 'pattern' (a regular expression for parameter paths)")
    multipliers = tuple(float(fields.get(key, 1.0)) for key in known[1:])
    if not all(math.isfinite(multiplier) and multiplier >= 0.0 for multiplier in multipliers):
        raise ValueError(f"schedule.rules: {fields}; expected multipliers of at least 0")
    return fields["pattern"], multipliers[0], multipliers[1]


def _matches(pattern: str, paths: Sequence[str], where: str) -> list[str]:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{where}: {pattern!r} is not a regular expression: {error}") from error
    if matched := [path for path in paths if compiled.fullmatch(path)]:
        return matched
    literal = re.sub(r"[\\^$()\[\]{}|+?]|\.\*|\.\+", "", pattern)
    near = difflib.get_close_matches(literal, paths, n=3, cutoff=0.3) or list(paths[:3])
    begins = [path for path in paths if compiled.match(path)]
    hint = "; it matches the beginning of some: patterns match the whole path, end this one in '.*'" if begins else ""
    raise ValueError(f"{where}: {pattern!r} matches no parameter; near: {', '.join(begins[:3] or near)}{hint}")


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"


def _heading(name: str, rows: Sequence[Parameter]) -> str:
    count, size = sum(row.count for row in rows), sum(row.bytes for row in rows)
    tensors = "1 tensor" if len(rows) == 1 else f"{len(rows)} tensors"
    return f"{name}: {tensors}, {count:,} parameters, {size / 1e6:,.2f} MB"
