"""Cuts a traced computation at one of its intermediate values: what leads to it, and what follows from it.

The gradient of an output with respect to an activation is then that of an ordinary function of the activation, and no
model has to know about it.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Literal, Var, jaxpr_as_fun
from jaxtyping import Array

from jaxvision.errors import SetupError

Tail = Callable[[Array], Array]


def split(function: Callable[..., tuple[Array, Array]], *args: Any) -> tuple[Array, Tail]:
    """`function(*args)` -> `(output, middle)`, as `middle` and the function from `middle` to `output`.

    Both are traceable; the function holds everything else that the output depends on as constants.

    Raises:
      SetupError: the output does not depend on `middle`.
    """
    closed = jax.make_jaxpr(function)(*args)
    jaxpr = closed.jaxpr
    output, middle = jaxpr.outvars
    made = next((i for i, eqn in enumerate(jaxpr.eqns) if middle in eqn.outvars), None)
    if made is None or isinstance(middle, Literal):
        raise SetupError("the layer computes nothing: its output is an input of the network or a constant")
    later = list(jaxpr.eqns[made + 1 :])
    needed = _inputs(later, output)
    if middle not in needed:
        raise SetupError("the network's output does not depend on the layer")
    kept = [var for var in needed if var is not middle]
    values = _part(closed, jaxpr.eqns[: made + 1], [*jaxpr.constvars, *jaxpr.invars], [middle, *kept])(
        *closed.consts, *jax.tree.leaves(args)
    )
    tail = _part(closed, later, [middle, *kept], [output])
    return values[0], lambda activation: tail(activation, *values[1:])[0]


def _inputs(eqns: Sequence[Any], output: Any) -> list[Var]:
    """Variables from outside of `eqns` that `output` depends on through them, in the order of their use."""
    needed: dict[Var, None] = {output: None}
    for eqn in reversed(eqns):
        if any(var in needed for var in eqn.outvars):
            for var in eqn.outvars:
                needed.pop(var, None)
            needed |= {var: None for var in eqn.invars if not isinstance(var, Literal)}
    return list(needed)


def _part(closed: ClosedJaxpr, eqns: Sequence[Any], inputs: Sequence[Var], results: Sequence[Var]) -> Any:
    """A run of equations as a function."""
    debug = closed.jaxpr.debug_info.with_unknown_names()
    part = closed.jaxpr.replace(
        eqns=list(eqns), constvars=[], invars=list(inputs), outvars=list(results), debug_info=debug
    )
    return jaxpr_as_fun(ClosedJaxpr(part, []))
