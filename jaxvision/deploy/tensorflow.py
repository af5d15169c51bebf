"""Exported predictors for TensorFlow: a SavedModel, and TensorFlow Lite where its converter can.

    tf.saved_model.load("lenet5").signatures["serving_default"](image=images)["label"]

TensorFlow is imported when something is written, and jaxvision is not needed to read it.
"""

import os
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from etils import epath

from jaxvision.deploy.export import describe, write_metadata
from jaxvision.deploy.lowering import ARG_REDUCTIONS, COMPOSITES, lowered, operations
from jaxvision.deploy.predictor import Arrays, inner_task, predictor
from jaxvision.errors import SetupError
from jaxvision.loading import Model

METADATA = "jaxvision.json"
"""In the folder of a SavedModel."""
UNKNOWN_TO_LITE = frozenset({"sort", "top_k"})
"""Operations of jax that TensorFlow Lite's converter (2.21) does not translate as jax writes them."""


def write_saved_model(model: Model, path: epath.Path, batch: int | None, platforms: tuple[str, ...]) -> list[str]:
    """A folder that `tf.saved_model.load` reads, with the weights as its variables.

    Its signature "serving_default" takes the inputs by name and returns the outputs by name; its method
    `predict(inputs)` does the same with dicts.
    """
    what = predictor(model, batch)
    # jax2tf knows the open side by a name of its own.
    shapes = {name: f"({', '.join(map(str, x.shape))})" for name, x in what.inputs.items()}
    function = lowered(what.function, COMPOSITES, default=False)
    weights = {name: jax.ShapeDtypeStruct(array.shape, array.dtype) for name, array in what.weights.items()}
    if unknown := operations(function, weights, dict(what.inputs)) & COMPOSITES.keys():
        raise SetupError(f"TensorFlow cannot read {', '.join(sorted(unknown))} within a loop: export 'stablehlo'")
    call = _converted(function, polymorphic_shapes=[None, shapes], native_serialization_platforms=platforms)
    _save(call, what.weights, what.inputs, path)
    return [str(path), write_metadata(path, describe(model, what, "saved_model", platforms=list(platforms)), METADATA)]


def write_tflite(model: Model, path: epath.Path, batch: int) -> list[str]:
    """A file that `tf.lite.Interpreter` runs: the whole predictor in TensorFlow Lite's own operations.

    Classifiers and segmenters convert. The searches of jax (`argmax`), which the converter does not know, are written
    as plain reductions. What sorts (detectors: the best boxes, suppression) does not convert.

    Args:
      batch: images of one call; the program is for this number.

    Raises:
      SetupError: the converter refuses the program.
    """
    what = predictor(model, batch)
    name = f"{type(inner_task(model)).__name__} of {type(getattr(model.task, 'model', model.task)).__name__}"

    def function(weights: Arrays, inputs: Arrays) -> Mapping[str, Any]:
        return what.function(what.weights, inputs)

    function = lowered(function, ARG_REDUCTIONS)
    # The converter takes minutes for these, and prints the whole program.
    if unknown := operations(function, {}, dict(what.inputs)) & UNKNOWN_TO_LITE:
        raise SetupError(_refused(name, f"it has {', '.join(sorted(unknown))}"))
    call = _converted(function, native_serialization_platforms=("cpu",))
    with tempfile.TemporaryDirectory() as folder:
        _save(call, {}, what.inputs, epath.Path(folder))
        import tensorflow as tf

        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        try:
            program = converter.convert()
        except Exception as error:  # a ConverterError holds the whole program as text
            raise SetupError(_refused(name, str(error).partition("\n")[0][:300])) from error
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(program)
    return [str(path), write_metadata(path, describe(model, what, "tflite"))]


def _refused(name: str, reason: str) -> str:
    return f"{name} does not convert to TensorFlow Lite ({reason}): export it as 'stablehlo' or 'saved_model'"


def _converted(function: Callable[..., Any], **how: Any) -> Callable[..., Any]:
    """As TensorFlow calls it; programs that predict are not differentiated."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    from jax.experimental import jax2tf

    return jax2tf.convert(function, with_gradient=False, **how)


def _save(
    call: Callable[..., Any], weights: Arrays, inputs: Mapping[str, jax.ShapeDtypeStruct], path: epath.Path
) -> None:
    """Writes `call(weights, inputs)` as a SavedModel."""
    import tensorflow as tf

    module = tf.Module()
    module.weights = {name: tf.Variable(np.asarray(array), trainable=False) for name, array in weights.items()}
    shapes = {name: [side if isinstance(side, int) else None for side in x.shape] for name, x in inputs.items()}
    specs = {name: tf.TensorSpec(shapes[name], inputs[name].dtype.name, name=name) for name in inputs}

    @tf.function(autograph=False, input_signature=[specs])
    def predict(inputs: Arrays) -> Any:
        return call(dict(module.weights), inputs)

    @tf.function(autograph=False)
    def serve(**inputs: Any) -> Any:
        return call(dict(module.weights), inputs)

    module.predict = predict
    tf.saved_model.save(module, str(path), signatures=serve.get_concrete_function(**specs))
