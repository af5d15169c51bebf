"""The whole predictor of a model as one pure function of named arrays, for everything that exports it.

It is `Model.predict` for any task: device transforms, network, decoding, suppression and the way back to the original
image. Its inputs are the canvas, uint8, and those of `size`, `original_size` and `to_original` (see `data.collate`)
that its answer depends on; the rest of a batch is filled in. Its outputs are the predictions as one flat dict of arrays
("boxes", "detections/boxes"), so that whoever calls it needs none of our structures.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
from jax.extend.core import Literal
from jaxtyping import Array

from jaxvision.data.collate import GEOMETRY
from jaxvision.errors import SetupError, UserError
from jaxvision.loading import Model, example_batch
from jaxvision.structures import Proposals
from jaxvision.trees import flatten, nest

Arrays = Mapping[str, Any]
WEIGHTS, INPUTS = 0, 1
"""Positions of a predictor's arguments."""
SYMBOLIC = "b"
"""Name of the number of images where it is left open."""


@dataclasses.dataclass(frozen=True, eq=False)
class Predictor:
    """What a model predicts, as a function of named arrays.

    Attributes:
      function: `(weights, inputs) -> outputs`, each a flat dict of arrays; to be traced.
      weights: the arrays that predictions depend on, by their names in the model's variables.
      inputs: shapes and dtypes by name; the leading axis is the batch, a number or symbolic.
      outputs: likewise.
      passed: outputs of the task that are an input as it is, name -> name: a caller has them already, and the function
        leaves them out.
    """

    function: Callable[[Arrays, Arrays], dict[str, Array]]
    weights: Arrays
    inputs: Mapping[str, jax.ShapeDtypeStruct]
    outputs: Mapping[str, jax.ShapeDtypeStruct]
    passed: Mapping[str, str]


def predictor(model: Model, batch: int | None = None) -> Predictor:
    """The predictor for batches of a fixed number of images, or of any (None).

    Raises:
      SetupError: the model cannot be traced for any number of images.
    """
    if batch is not None:
        return _predictor(model, batch)
    (images,) = jax.export.symbolic_shape(SYMBOLIC)
    try:
        return _predictor(model, images)
    except UserError:
        raise
    except Exception as error:
        _predictor(model, 1)  # its own error, where the number of images is not the reason
        reason, name = str(error).partition("\n")[0], type(inner_task(model)).__name__
        raise SetupError(
            f"{name} cannot be exported for any number of images ({reason}): give a fixed one (--batch 8)"
        ) from error


def _predictor(model: Model, images: Any) -> Predictor:
    def predict(weights: Arrays, inputs: Arrays) -> dict[str, Array]:
        rows = inputs["image"].shape[0]
        given = dict(inputs)
        if "proposals" in given:
            boxes = given["proposals"]
            given["proposals"] = Proposals(boxes, jnp.all(boxes[..., 2:] > boxes[..., :2], axis=-1))
        batch = {
            **given,
            "valid": jnp.ones((rows,), bool),
            "index": jnp.arange(rows, dtype=jnp.int32),
            "position": jnp.arange(rows, dtype=jnp.uint32),
        }
        return flatten(model.predict(nest(weights), batch))

    all_weights = flatten(model.variables)
    shapes = {name: (x.shape[1:], x.dtype) for name, x in example_batch((*model.image_size, model.channels)).items()}
    inputs = {name: jax.ShapeDtypeStruct((images, *shapes[name][0]), shapes[name][1]) for name in ("image", *GEOMETRY)}
    if (proposals := proposals_of(model)) is not None:
        inputs["proposals"] = jax.ShapeDtypeStruct((images, proposals, 4), jnp.float32)
    traced, outputs = jax.make_jaxpr(predict, return_shape=True)(all_weights, inputs)
    names = [*((WEIGHTS, name) for name in sorted(all_weights)), *((INPUTS, name) for name in sorted(inputs))]
    used, passed = _used(traced.jaxpr, names, sorted(outputs))
    kept = {name: array for name, array in all_weights.items() if (WEIGHTS, name) in used}
    idle = {name: shape for name, shape in inputs.items() if (INPUTS, name) not in used}

    def function(weights: Arrays, inputs: Arrays) -> dict[str, Array]:
        # What no answer depends on must still be there while the model is traced; the compiler then drops it.
        rows = inputs["image"].shape[0]
        spare = {name: jnp.zeros(array.shape, array.dtype) for name, array in all_weights.items() if name not in kept}
        unseen = {name: jnp.zeros((rows, *shape.shape[1:]), shape.dtype) for name, shape in idle.items()}
        found = predict({**weights, **spare}, {**inputs, **unseen})
        return {name: value for name, value in found.items() if name not in passed}

    return Predictor(
        function,
        kept,
        {name: shape for name, shape in inputs.items() if name not in idle},
        {name: shape for name, shape in outputs.items() if name not in passed},
        passed,
    )


def proposals_of(model: Model) -> int | None:
    """Rows of proposals that come with each image, for models that learn from those of another; None without."""
    source = None if model.config is None else model.config.data.source
    return source.get("count") if source is not None and "proposals" in source.name else None


def inner_task(model: Model) -> Any:
    """The task without test-time augmentation."""
    return getattr(model.task, "task", model.task)


def _used(jaxpr: Any, inputs: list[tuple[int, str]], outputs: list[str]) -> tuple[set[tuple[int, str]], dict[str, str]]:
    """The inputs (argument, name) that some output is computed from, and the outputs that are an input themselves."""
    names = dict(zip(jaxpr.invars, inputs, strict=True))
    passed: dict[str, str] = {}
    live: set[Any] = set()
    for name, variable in zip(outputs, jaxpr.outvars, strict=True):
        if not isinstance(variable, Literal) and names.get(variable, (0, ""))[0] == INPUTS:
            passed[name] = names[variable][1]
        else:
            live |= _variables((variable,))
    for equation in reversed(jaxpr.eqns):
        if live.intersection(equation.outvars):
            live |= _variables(equation.invars)
    return {name for variable, name in names.items() if variable in live}, passed


def _variables(atoms: Iterable[Any]) -> set[Any]:
    """Those that are no constants."""
    return {atom for atom in atoms if not isinstance(atom, Literal)}
