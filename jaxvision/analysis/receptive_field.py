"""Receptive fields: which input pixels a unit can see, and which it does see.

The theoretical field follows from the operations alone: intervals of input rows and columns are carried through the
traced network, through kernels, strides, dilation, padding and pooling, as in Araujo et al. 2019 (Distill, "Computing
receptive fields of convolutional neural networks"), and joined where branches meet. Exact for convolutional networks;
whatever mixes all positions (attention, squeeze and excitation) sees the whole image, and so does here what shuffles
positions in a way that intervals cannot say (windows of tokens, resizing).

The effective field is measured (Luo et al. 2016, arXiv:1701.04128): the mean absolute gradient of a layer's central
unit with respect to random images.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Jaxpr, Literal, Var
from jaxtyping import Array, Float, PRNGKeyArray

from jaxvision.errors import SetupError
from jaxvision.features import observed, outputs

THRESHOLD = 1 - 0.9545
"""Part of the largest gradient above which a pixel belongs to the effective field (Luo et al., section 3)."""


@dataclasses.dataclass(frozen=True)
class Span:
    """What the elements along an array's dimension see of one side of the image.

    Element i sees the pixels `stride * i + low` to `stride * i + high`, inclusive, as far as the image has them.
    """

    dim: int
    stride: int
    low: int
    high: int

    @property
    def size(self) -> int:
        """Pixels."""
        return self.high - self.low + 1

    def window(self, dim: int, size: int, stride: int, dilation: int, before: int) -> "Span":
        """Behind a sliding window with `before` pixels of padding in front."""
        low = self.low - self.stride * before
        high = self.high + self.stride * ((size - 1) * dilation - before)
        return Span(dim, self.stride * stride, low, high)


Side = Span | str | None
"""How an array depends on one side of the image: by position, all of it (`ALL`), or not at all."""
ALL = "all"
Field = tuple[Side, Side]
NOTHING: Field = (None, None)


def theoretical(
    network: nn.Module, variables: Any, layers: Sequence[str], size: tuple[int, int], channels: int = 3
) -> dict[str, tuple[Span | None, Span | None]]:
    """The receptive field of each layer, of height and width; None where a unit sees the whole side.

    Args:
      variables: arrays or their shapes; nothing is computed.
      layers: as for `FeatureExtractor`; maps [B, H, W, C].
      size: of the images.
    """
    network = observed(network, layers)
    images = jax.ShapeDtypeStruct((1, *size, channels), jnp.float32)
    closed = jax.make_jaxpr(lambda v, x: [outputs(network, v, x, layers)[1][name] for name in layers])(
        variables, images
    )
    start: Field = (Span(1, 1, 0, 0), Span(2, 1, 0, 0))
    inputs = [NOTHING] * (len(closed.jaxpr.invars) - 1) + [start]
    found = _interpret(closed.jaxpr, inputs)
    return {
        name: tuple(side if isinstance(side, Span) else None for side in field)  # type: ignore[misc]
        for name, field in zip(layers, found, strict=True)
    }


def effective(
    network: nn.Module,
    variables: Any,
    layer: str,
    size: tuple[int, int],
    *,
    channels: int = 3,
    samples: int = 32,
    key: PRNGKeyArray | None = None,
) -> Float[np.ndarray, "h w"]:
    """The effective receptive field of the layer's central unit: between 0 and 1, its largest value.

    Args:
      size: of the images, larger than the field that is to be seen whole.
      samples: random images (standard normal) that are averaged.
    """
    network = observed(network, [layer])
    key = jax.random.key(0) if key is None else key

    def central(variables: Any, image: Array) -> Array:
        level = outputs(network, variables, image[None], (layer,))[1][layer]
        if level.ndim != 4:
            raise SetupError(f"the layer {layer!r} returns {level.shape}: expected a map [B, H, W, C]")
        return jnp.sum(level[0, level.shape[1] // 2, level.shape[2] // 2].astype(jnp.float32))

    @jax.jit
    def measure(variables: Any, keys: PRNGKeyArray) -> Array:
        def one(key: PRNGKeyArray) -> Array:
            image = jax.random.normal(key, (*size, channels))
            return jnp.sum(jnp.abs(jax.grad(central, argnums=1)(variables, image)), axis=-1)

        return jnp.mean(jax.lax.map(one, keys), axis=0)

    heat = np.asarray(measure(variables, jax.random.split(key, samples)))
    if not heat.max() > 0:
        raise SetupError(f"no gradient of the layer {layer!r} reaches the image")
    return heat / heat.max()


def extent(heat: Float[np.ndarray, "h w"]) -> float:
    """Side of a square as large as the area above `THRESHOLD`, in pixels."""
    return float(np.sqrt((heat > THRESHOLD).sum()))


def _interpret(jaxpr: Jaxpr, inputs: Sequence[Field]) -> list[Field]:
    """The fields of a jaxpr's results."""
    fields: dict[Var, Field] = dict(zip(jaxpr.invars, inputs, strict=True))

    def read(var: Any) -> Field:
        return NOTHING if isinstance(var, Literal) else fields.get(var, NOTHING)

    for eqn in jaxpr.eqns:
        given = [read(var) for var in eqn.invars]
        if all(field == NOTHING for field in given):
            continue
        for var, field in zip(eqn.outvars, _apply(eqn, given), strict=True):
            fields[var] = field
    return [read(var) for var in jaxpr.outvars]


def _apply(eqn: Any, given: Sequence[Field]) -> list[Field]:
    """The fields of an equation's results."""
    name, count = eqn.primitive.name, len(eqn.outvars)
    inner = next((eqn.params[key] for key in ("jaxpr", "call_jaxpr", "fun_jaxpr") if key in eqn.params), None)
    if eqn.params.get("branches_platforms") is not None:  # one function in several forms; the last one is the general
        return _interpret(eqn.params["branches"][-1].jaxpr, given[1:])
    if name in _LOOPS:
        return [_whole(given)] * count
    if inner is not None and name not in _RULES:
        body = getattr(inner, "jaxpr", inner)
        return _interpret(body, given) if len(body.invars) == len(given) else [_whole(given)] * count
    if name in _ELEMENTWISE:
        return list(given) if name == "optimization_barrier" else [_join(given)] * count
    rule = _RULES.get(name)
    return [_whole(given)] * count if rule is None else [rule(eqn, given)] * count


def _join(fields: Sequence[Field]) -> Field:
    """What a result sees whose elements see what those of all `fields` see at their place."""
    return _join_sides([field[0] for field in fields]), _join_sides([field[1] for field in fields])


def _join_sides(sides: Sequence[Side]) -> Side:
    some = [side for side in sides if side is not None]
    if not some:
        return None
    spans = [side for side in some if isinstance(side, Span)]
    if len(spans) < len(some) or len({(span.dim, span.stride) for span in spans}) > 1:
        return ALL
    return dataclasses.replace(spans[0], low=min(s.low for s in spans), high=max(s.high for s in spans))


def _whole(fields: Sequence[Field]) -> Field:
    seen = [any(field[axis] is not None for field in fields) for axis in range(2)]
    return (ALL if seen[0] else None, ALL if seen[1] else None)


def _mapped(field: Field, move: Callable[[Span], Side]) -> Field:
    first, second = (move(side) if isinstance(side, Span) else side for side in field)
    return first, second


def _conv(eqn: Any, given: Sequence[Field]) -> Field:
    if given[1] != NOTHING:
        return _whole(given)
    numbers, kernel = eqn.params["dimension_numbers"], eqn.invars[1].aval.shape

    def move(span: Span) -> Side:
        if span.dim not in numbers.lhs_spec[2:]:
            return ALL
        axis = numbers.lhs_spec[2:].index(span.dim)
        if eqn.params["lhs_dilation"][axis] != 1:
            return ALL
        size = kernel[numbers.rhs_spec[2 + axis]]
        stride, dilation = eqn.params["window_strides"][axis], eqn.params["rhs_dilation"][axis]
        return span.window(numbers.out_spec[2 + axis], size, stride, dilation, eqn.params["padding"][axis][0])

    return _mapped(given[0], move)


def _window(eqn: Any, given: Sequence[Field]) -> Field:
    def move(span: Span) -> Side:
        keys = ("window_dimensions", "window_strides", "window_dilation")
        size, stride, dilation = (eqn.params[key][span.dim] for key in keys)
        return span.window(span.dim, size, stride, dilation, eqn.params["padding"][span.dim][0])

    return _mapped(given[0], move)


def _reduce(eqn: Any, given: Sequence[Field]) -> Field:
    axes = eqn.params["axes"]

    def move(span: Span) -> Side:
        return ALL if span.dim in axes else _at(span, span.dim - sum(axis < span.dim for axis in axes))

    return _mapped(given[0], move)


def _squeeze(eqn: Any, given: Sequence[Field]) -> Field:
    removed = [dim % len(eqn.invars[0].aval.shape) for dim in eqn.params["dimensions"]]

    def move(span: Span) -> Side:
        return ALL if span.dim in removed else _at(span, span.dim - sum(dim < span.dim for dim in removed))

    return _mapped(given[0], move)


def _broadcast(eqn: Any, given: Sequence[Field]) -> Field:
    before, after, dims = eqn.invars[0].aval.shape, eqn.params["shape"], eqn.params["broadcast_dimensions"]

    def move(span: Span) -> Side:
        dim = dims[span.dim]
        return _at(span, dim) if before[span.dim] == after[dim] else ALL

    return _mapped(given[0], move)


def _reshape(eqn: Any, given: Sequence[Field]) -> Field:
    before, after = eqn.invars[0].aval.shape, eqn.params["new_sizes"]
    starts = [int(np.prod(after[:dim], dtype=int)) for dim in range(len(after))]

    def move(span: Span) -> Side:
        start = int(np.prod(before[: span.dim], dtype=int))
        same = [d for d, size in enumerate(after) if starts[d] == start and size == before[span.dim]]
        return _at(span, same[0]) if same else ALL

    return _mapped(given[0], move)


def _transpose(eqn: Any, given: Sequence[Field]) -> Field:
    return _mapped(given[0], lambda span: _at(span, eqn.params["permutation"].index(span.dim)))


def _pad(eqn: Any, given: Sequence[Field]) -> Field:
    def move(span: Span) -> Side:
        before, _, between = eqn.params["padding_config"][span.dim]
        return ALL if between else span.window(span.dim, 1, 1, 1, before)

    return _mapped(given[0], move)


def _slice(eqn: Any, given: Sequence[Field]) -> Field:
    def move(span: Span) -> Side:
        stride = (eqn.params["strides"] or [1] * (span.dim + 1))[span.dim]
        return span.window(span.dim, 1, stride, 1, -eqn.params["start_indices"][span.dim])

    return _mapped(given[0], move)


def _along(key: str) -> Callable[[Any, Sequence[Field]], Field]:
    """Of operations that leave positions alone, except along the dimension that a parameter names."""

    def rule(eqn: Any, given: Sequence[Field]) -> Field:
        moved = [_mapped(field, lambda span: ALL if span.dim == eqn.params[key] else span) for field in given]
        return _join(moved)

    return rule


def _dot(eqn: Any, given: Sequence[Field]) -> Field:
    contracted, batched = eqn.params["dimension_numbers"]
    ranks = [len(var.aval.shape) for var in eqn.invars]
    free = [[d for d in range(ranks[i]) if d not in (*contracted[i], *batched[i])] for i in range(2)]
    fronts = (len(batched[0]), len(batched[0]) + len(free[0]))
    moved = []
    for i in range(2):

        def move(span: Span, i: int = i) -> Side:
            if span.dim in contracted[i]:
                return ALL
            if span.dim in batched[i]:
                return _at(span, list(batched[i]).index(span.dim))
            return _at(span, fronts[i] + free[i].index(span.dim))

        moved.append(_mapped(given[i], move))
    return _join(moved)


def _at(span: Span, dim: int) -> Span:
    return dataclasses.replace(span, dim=dim)


_LOOPS = ("scan", "while", "cond")
_ELEMENTWISE = frozenset((
    "abs", "add", "add_any", "and", "ceil", "clamp", "convert_element_type", "copy", "cos", "div", "eq", "erf",
    "erf_inv", "erfc", "exp", "exp2", "expm1", "floor", "ge", "gt", "integer_pow", "is_finite", "le", "log", "log1p",
    "logistic", "lt", "max", "min", "mul", "ne", "neg", "not", "optimization_barrier", "or", "pow",
    "reduce_precision", "rem", "round", "rsqrt", "select_n", "sign", "sin", "sqrt", "square", "stop_gradient", "sub",
    "tan", "tanh", "xor",
))  # fmt: skip
_RULES: Mapping[str, Callable[[Any, Sequence[Field]], Field]] = {
    "conv_general_dilated": _conv,
    **dict.fromkeys(("reduce_window_max", "reduce_window_min", "reduce_window_sum", "reduce_window"), _window),
    **dict.fromkeys(
        ("reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "reduce_and", "reduce_or", "argmax", "argmin"),
        _reduce,
    ),
    "squeeze": _squeeze,
    "broadcast_in_dim": _broadcast,
    "reshape": _reshape,
    "transpose": _transpose,
    "pad": _pad,
    "slice": _slice,
    "concatenate": _along("dimension"),
    "split": _along("axis"),
    "dot_general": _dot,
}
