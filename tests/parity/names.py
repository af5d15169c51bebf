"""Names and shapes of published weights: what we would write against what the reference has."""

import jax
import numpy as np

from jaxvision.pretrained import keymaps
from jaxvision.trees import flatten, nest
from tests.parity import zoo
from tests.parity.torch_weights import error, nhwc


def check_written_names(model, reference, theirs) -> None:
    """A model, written in the reference's names, has exactly its names and shapes.

    Args:
      model: a classifier.
      reference: says which table and the image's size.
      theirs: their name -> shape, or anything with a shape.
    """
    family = keymaps.family_of(model)
    zeros = {name: np.broadcast_to(np.float32(0), v.shape) for name, v in zoo.shapes(model, reference).items()}
    ours = keymaps.to_state_dict(zeros, keymaps.rules_for(family, reference.source))
    theirs = {name: tuple(getattr(value, "shape", value)) for name, value in theirs.items()}
    assert {name: value.shape for name, value in ours.items()} == theirs


def check_every_parameter_tells(model, reference, torch_model, x, paths) -> None:
    """Moving one parameter of ours by a tenth moves the logits by more than the tolerance."""
    images = nhwc(x)
    variables = zoo.variables_of(model, reference, torch_model.state_dict())
    flat = flatten(variables)
    forward = jax.jit(lambda v, x: model.apply(v, x))
    plain = forward(variables, images)
    for path in paths:
        moved = forward(nest({**flat, path: 1.1 * flat[path] + 0.01}), images)
        assert error(moved, plain) > 3 * reference.tolerance, path
