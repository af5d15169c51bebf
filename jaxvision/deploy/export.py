"""Export: a trained model as one program that needs none of its code, pre- and post-processing included.

    export_model(load_model("runs/retinanet"), "retinanet.stablehlo")
    deploy.load("retinanet.stablehlo")(["street.jpg"])         # or ten lines of plain jax, see `exported`

Whatever the task, what is exported is its whole predictor (`predictor.Predictor`). Beside the program FILE lie
`FILE.json`, which says what goes in and comes out (`describe`), and, with weights beside, `FILE.safetensors`. A
SavedModel is a folder, which holds them as `jaxvision.json` and as variables.
"""

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.export
from etils import epath

from jaxvision import __version__
from jaxvision.deploy.exported import FORMAT, METADATA, WEIGHTS
from jaxvision.deploy.predictor import Arrays, Predictor, inner_task, predictor
from jaxvision.errors import SetupError
from jaxvision.loading import Model
from jaxvision.pretrained.safetensors import save_safetensors
from jaxvision.registry import hint

FORMATS = ("stablehlo", "saved_model", "tflite")
PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
DEFAULT_PLATFORMS = ("cpu", "cuda", "tpu")


def export_model(
    model: Model,
    path: str | os.PathLike[str],
    *,
    format: str = "stablehlo",
    batch: int | None = None,
    weights_beside: bool = False,
    platforms: Sequence[str] = DEFAULT_PLATFORMS,
) -> list[str]:
    """Writes the model's whole predictor, and returns the names of what was written.

    Args:
      model: see `load_model`.
      path: a file or, for "saved_model", a folder; folders are made.
      format: "stablehlo" (`jax.export`), "saved_model" (TensorFlow), "tflite" (TensorFlow Lite; see
        `tensorflow.write_tflite`).
      batch: number of images; None leaves it open, and is 1 for TensorFlow Lite, which needs a number.
      weights_beside: in a file of their own rather than as constants of the program; StableHLO alone.
      platforms: for which the program is lowered, among `PLATFORMS`.

    Raises:
      SetupError: an unknown format or platform, or a model that cannot be exported so; the text says what to change.
    """
    if format not in FORMATS:
        raise SetupError(f"unknown format {format!r}: {hint(format, FORMATS)}")
    for platform in platforms:
        if platform not in PLATFORMS:
            raise SetupError(f"unknown platform {platform!r}: {hint(platform, PLATFORMS)}")
    if not platforms or (batch is not None and batch < 1):
        raise SetupError(f"platforms={tuple(platforms)}, batch={batch}: expected at least one of each")
    if weights_beside and format != "stablehlo":
        raise SetupError(f"weights lie beside a StableHLO program alone: leave it out with format {format!r}")
    target = epath.Path(path)
    if format == "stablehlo":
        return write_stablehlo(model, target, batch, weights_beside, tuple(platforms))
    from jaxvision.deploy import tensorflow

    if format == "saved_model":
        return tensorflow.write_saved_model(model, target, batch, tuple(platforms))
    return tensorflow.write_tflite(model, target, batch or 1)


def write_stablehlo(
    model: Model, path: epath.Path, batch: int | None, weights_beside: bool, platforms: tuple[str, ...]
) -> list[str]:
    """A file that `jax.export.deserialize` reads; see `exported` for how it is called."""
    what = predictor(model, batch)
    program = lower(what, weights_beside=weights_beside, platforms=platforms)
    weights = epath.Path(f"{path}{WEIGHTS}")
    beside = weights.name if weights_beside else None
    about = describe(model, what, "stablehlo", platforms=list(platforms), weights=beside)
    path.parent.mkdir(parents=True, exist_ok=True)
    written = [str(path)]
    if weights_beside:
        save_safetensors(weights, dict(what.weights))
        written.append(str(weights))
    path.write_bytes(bytes(program.serialize()))
    return [*written, write_metadata(path, about)]


def lower(what: Predictor, *, weights_beside: bool, platforms: Sequence[str]) -> jax.export.Exported:
    """The program: `call(inputs)` or, with weights beside, `call(weights, inputs)`; flat dicts of arrays all."""
    if weights_beside:
        shapes = {name: jax.ShapeDtypeStruct(array.shape, array.dtype) for name, array in what.weights.items()}
        return jax.export.export(jax.jit(what.function), platforms=platforms)(shapes, dict(what.inputs))

    def function(inputs: Arrays) -> Mapping[str, Any]:
        return what.function(what.weights, inputs)

    return jax.export.export(jax.jit(function), platforms=platforms)(dict(what.inputs))


def describe(model: Model, what: Predictor, format: str, **more: Any) -> dict[str, Any]:
    """What a user of the program must know, as JSON.

    `inputs` and `outputs` with shapes ("b" is any number of images) and dtypes; `passed`, outputs of the task that are
    an input as it is; `canvas` (height, width) and `channels` of images; `host_transforms`, which bring a decoded image
    there, in turn, by one resampling with Pillow's antialiased filter, the picture in the upper left corner and
    `fill` beside it; `class_names` by label; `task`, `origin` of the weights, `config` and versions.
    """
    config = None
    if model.config is not None:
        from jaxvision import config as configs

        config = json.loads(configs.to_json(model.config))["config"]
    return {
        "format": format,
        "version": FORMAT,
        "jaxvision": __version__,
        "jax": jax.__version__,
        "task": None if config is None else config["task"]["name"],
        "origin": model.origin,
        "canvas": list(model.image_size),
        "channels": model.channels,
        "host_transforms": [transform_to_json(transform) for transform in model.host_transforms],
        "inputs": shapes_to_json(what.inputs),
        "outputs": shapes_to_json(what.outputs),
        "passed": dict(what.passed),
        "class_names": list(getattr(inner_task(model), "class_names", ())),
        **more,
        "config": config,
    }


def shapes_to_json(shapes: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, Any]:
    """Name -> shape and dtype; a symbolic side as text."""
    return {
        name: {"shape": [s if isinstance(s, int) else str(s) for s in x.shape], "dtype": str(x.dtype)}
        for name, x in shapes.items()
    }


def transform_to_json(transform: Any) -> dict[str, Any]:
    """The class of a host transform and its settings."""
    kind = type(transform)
    is_instance = dataclasses.is_dataclass(transform) and not isinstance(transform, type)
    fields = dataclasses.asdict(transform) if is_instance else {}
    return {"name": kind.__name__, "module": kind.__module__, **json.loads(json.dumps(fields, default=str))}


def write_metadata(path: epath.Path, about: Mapping[str, Any], name: str | None = None) -> str:
    """Writes the JSON beside a file, or as `name` into a folder; returns its name."""
    target = epath.Path(f"{path}{METADATA}") if name is None else path / name
    target.write_text(json.dumps(about, indent=1) + "\n")
    return str(target)
