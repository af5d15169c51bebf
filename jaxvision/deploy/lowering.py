"""A traced program in fewer kinds of operations, for converters that do not know all of them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal
from jaxtyping import Array, Int

Rule = Callable[..., Any]
"""`(*inputs, **parameters of the operation) -> output`"""


def lowered(function: Callable[..., Any], rules: Mapping[str, Rule], *, default: bool = True) -> Callable[..., Any]:
    """`function` with other operations in place of those whose names (jax primitives) are in `rules`.

    Calls of functions are written out. Bodies of loops and branches stay as they are.

    Args:
      default: takes the default of what differs between platforms (`jax.lax.platform_dependent`); else that stays.
    """

    def call(*arguments: Any) -> Any:
        closed, shapes = jax.make_jaxpr(function, return_shape=True)(*arguments)
        found = _evaluate(closed, jax.tree.leaves(arguments), rules, default)
        return jax.tree.unflatten(jax.tree.structure(shapes), found)

    return call


def operations(function: Callable[..., Any], *arguments: Any) -> set[str]:
    """Names of all operations (jax primitives) of a function, those within loops and branches included."""
    found: set[str] = set()

    def collect(jaxpr: Any) -> None:
        for equation in jaxpr.eqns:
            found.add(equation.primitive.name)
            for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=_is_program):
                if _is_program(inner):
                    collect(getattr(inner, "jaxpr", inner))

    collect(jax.make_jaxpr(function)(*arguments).jaxpr)
    return found


def _is_program(value: Any) -> bool:
    return isinstance(value, (ClosedJaxpr, Jaxpr))


def arg_best(x: Array, *, axes: tuple[int, ...], index_dtype: Any, largest: bool) -> Int[Array, "..."]:
    """The first place of the largest, or smallest, number along an axis, by two plain reductions."""
    (axis,) = axes
    best = (jnp.max if largest else jnp.min)(x, axis=axis, keepdims=True)
    places = jax.lax.broadcasted_iota(jnp.int32, x.shape, axis)
    return jnp.min(jnp.where(x == best, places, x.shape[axis]), axis=axis).astype(index_dtype)


ARG_REDUCTIONS: Mapping[str, Rule] = {
    "argmax": lambda x, *, axes, index_dtype, **_: arg_best(x, axes=axes, index_dtype=index_dtype, largest=True),
    "argmin": lambda x, *, axes, index_dtype, **_: arg_best(x, axes=axes, index_dtype=index_dtype, largest=False),
}
"""jax reduces pairs of a number and its place, which TensorFlow Lite's converter (2.21) does not know."""


def top_by_sort(x: Array, *, k: int, axis: int = -1, **_: Any) -> tuple[Array, Int[Array, "..."]]:
    """The k largest numbers along an axis and their places; of equal ones the first, NaN before all."""
    axis %= x.ndim
    places = jax.lax.broadcasted_iota(jnp.int32, x.shape, axis)
    # Ascending and backwards: so NaN comes first, and a stable sort leaves the first of equal ones in front.
    found = jax.lax.sort((jax.lax.rev(x, (axis,)), jax.lax.rev(places, (axis,))), dimension=axis, num_keys=1)
    best, index = (jax.lax.slice_in_dim(jax.lax.rev(part, (axis,)), 0, k, axis=axis) for part in found)
    return best, index


COMPOSITES: Mapping[str, Rule] = {
    "top_k": top_by_sort,
    "erf": lambda x, **_: 1 - jax.lax.erfc(x),
}
"""What jax 0.10 writes as a composite operation, which TensorFlow 2.21 cannot read."""


def _evaluate(closed: ClosedJaxpr, arguments: Sequence[Any], rules: Mapping[str, Rule], default: bool) -> list[Any]:
    jaxpr = closed.jaxpr
    known: dict[Any, Any] = dict(zip(jaxpr.constvars, closed.consts, strict=True))
    known |= dict(zip(jaxpr.invars, arguments, strict=True))

    def value(atom: Any) -> Any:
        return atom.val if isinstance(atom, Literal) else known[atom]

    for equation in jaxpr.eqns:
        inputs = [value(atom) for atom in equation.invars]
        inner = _called(equation, default)
        if equation.primitive.name in rules:
            found = rules[equation.primitive.name](*inputs, **equation.params)
            found = list(found) if equation.primitive.multiple_results else [found]
        elif inner is not None:
            found = _evaluate(inner, inputs[len(inputs) - len(inner.jaxpr.invars) :], rules, default)
        else:
            found = equation.primitive.bind(*inputs, **equation.params)
            found = list(found) if equation.primitive.multiple_results else [found]
        known.update(zip(equation.outvars, found, strict=True))
    return [value(atom) for atom in jaxpr.outvars]


def _called(equation: Any, default: bool) -> ClosedJaxpr | None:
    """The program that an operation only calls."""
    parameters, name = equation.params, equation.primitive.name
    if default and name == "cond" and parameters.get("branches_platforms") is not None:
        of_default = [platforms is None for platforms in parameters["branches_platforms"]].index(True)
        return parameters["branches"][of_default]
    if name in ("jit", "pjit"):
        return parameters["jaxpr"]
    if name in ("custom_jvp_call", "custom_vjp_call"):
        return parameters["call_jaxpr"]
    return None
