"""Class activation maps: where a layer speaks for a class.

Grad-CAM (Selvaraju et al. 2017, arXiv:1610.02391, equations 1 and 2), Grad-CAM++ (Chattopadhay et al. 2018,
arXiv:1710.11063, equations 10 and 19) and Eigen-CAM (Muhammad and Yeasin 2020, arXiv:2008.00299), for any layer that
`jaxvision.features` names: a level of a convolutional network, or the tokens of a transformer, laid out on their grid.

    cam = gradcam("runs/resnet18", layer="c4")
    cam("cat.png").save("cat_cam.png")
"""

import dataclasses
import os
import re
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from jaxvision.analysis.split import split
from jaxvision.engine.task import Batch, Context, PyTree, Task
from jaxvision.engine.tta import augmented
from jaxvision.errors import SetupError
from jaxvision.features import module_paths, network_of, observed, outputs
from jaxvision.inference import Inferencer
from jaxvision.loading import Model, load_model
from jaxvision.ops.interpolate import interpolate
from jaxvision.registry import hint

METHODS = ("gradcam", "gradcam++", "eigencam")
MOST_PREFIX = 16
"""Tokens in front of the patches (class, distillation, registers) at most."""


def gradcam(
    source: str | os.PathLike[str] | Model,
    checkpoint: str | int | os.PathLike[str] | None = None,
    *,
    layer: str | None = None,
    method: str = "gradcam",
    target: int | None = None,
    batch_size: int = 8,
) -> Inferencer:
    """An `Inferencer` whose predictions are maps and whose pictures show them on the image.

    Args:
      source, checkpoint: as for `loading.load_model`.
      layer: as for `FeatureExtractor`; None: the last level of the backbone, or its last module that returns a map; in
        a transformer with a class token, whose last patches do not reach the logits, the last block's `norm1`.
      method: one of `METHODS`.
      target: class that the maps are of; None: the one that is predicted.

    Returns:
      `infer(image).prediction` has `map` float32 [h, w], the positive evidence on the layer's grid; `heat` [H, W], the
      same on the network's canvas, 0..1; `label`, its class; `score`; and `gradient`, the largest one in the layer.

    Raises:
      SetupError: no such layer, method or class, or a layer that no logit depends on.
    """
    if method not in METHODS:
        raise SetupError(f"unknown method {method!r}: {hint(method, METHODS)}")
    model = source if isinstance(source, Model) else load_model(source, checkpoint)
    network = network_of(model.task)
    classes = getattr(network, "num_classes", None)
    if target is not None and classes is not None and not 0 <= target < classes:
        raise SetupError(f"target is class {target}: the model has the classes 0 .. {classes - 1}")
    chosen = layer or default_layer(model, network)
    task = ActivationMap(observed(network, [chosen]), augmented(model.task, None), chosen, method, target)
    _dependence(model, task.model, chosen)
    return Inferencer(dataclasses.replace(model, task=task), batch_size=batch_size)


@dataclasses.dataclass(frozen=True)
class ActivationMap(Task):
    """A classification task whose prediction is a map, see `gradcam`."""

    model: nn.Module
    task: Task
    layer: str
    method: str = "gradcam"
    target: int | None = None

    def predict(
        self, variables: Mapping[str, PyTree], batch: Batch, ctx: Context, carry: PyTree = None
    ) -> tuple[dict[str, Array], PyTree]:
        images = ctx.cast(batch["image"])
        activation, tail = split(lambda v, x: _logits_and_layer(self.model, v, x, self.layer), variables, images)
        logits = tail(activation)
        label = jnp.argmax(logits, axis=-1).astype(jnp.int32)
        if self.target is not None:
            label = jnp.full_like(label, self.target)

        def score(a: Array) -> Array:  # images do not depend on each other in evaluation
            return jnp.sum(jnp.take_along_axis(tail(a), label[:, None], axis=1))

        size = (images.shape[1], images.shape[2])
        gradient = jax.grad(score)(activation)
        maps = activation_map(on_grid(activation, size), on_grid(gradient, size), self.method)
        heat = interpolate(maps[..., None], size, method="bilinear")[..., 0]
        highest = jnp.max(heat, axis=(1, 2), keepdims=True)
        scores = jnp.take_along_axis(jax.nn.softmax(logits), label[:, None], axis=1)[:, 0]
        largest = jnp.max(jnp.abs(gradient.astype(jnp.float32)), axis=tuple(range(1, gradient.ndim)))
        heat = heat / jnp.where(highest > 0, highest, 1.0)
        return {"map": maps, "heat": heat, "label": label, "score": scores, "gradient": largest}, carry

    def to_json(self, sample: Mapping[str, Any], prediction: PyTree) -> dict[str, Any]:
        """`class`, `label`, `score`, `layer`; `silent`, whether no gradient of the class reaches the layer."""
        label = int(prediction["label"])
        names = getattr(self.task, "class_names", ())
        name = names[label] if names else str(label)
        silent = self.method != "eigencam" and not float(prediction["gradient"]) > 0
        score = float(prediction["score"])
        return {"class": name, "label": label, "score": score, "layer": self.layer, "silent": silent}

    def draw(self, sample: Mapping[str, Any], prediction: PyTree) -> UInt8[np.ndarray, "h w 3"]:
        """The image, and beside it the same with the heat map over it."""
        from jaxvision.visualization.classification import percent
        from jaxvision.visualization.heatmap import draw_heatmap

        told = self.to_json(sample, prediction)
        title = f"{told['class']} ({percent(told['score'])}), {self.layer}{': no gradient' if told['silent'] else ''}"
        matrix = np.asarray(sample["to_original"]) if "to_original" in sample else None
        return draw_heatmap(sample["image"], np.asarray(prediction["heat"]), matrix, title)


def activation_map(
    activation: Float[Array, "b h w c"], gradient: Float[Array, "b h w c"], method: str = "gradcam"
) -> Float[Array, "b h w"]:
    """The positive part of the weighted sum of channels, in float32.

    Grad-CAM weights a channel by the mean of its gradient. Grad-CAM++ weights positive gradients by alpha, in the form
    that follows for an exponential output. Eigen-CAM takes the first right singular vector of the activation (without
    centring), its sign turned so that the sum of the map is positive; it does not know the class.
    """
    a, g = activation.astype(jnp.float32), gradient.astype(jnp.float32)
    if method == "eigencam":
        b, h, w, c = a.shape
        _, _, vectors = jnp.linalg.svd(a.reshape(b, h * w, c), full_matrices=False)
        maps = jnp.einsum("bhwc,bc->bhw", a, vectors[:, 0], precision=jax.lax.Precision.HIGHEST)
        maps = maps * jnp.where(jnp.sum(maps, axis=(1, 2), keepdims=True) < 0, -1.0, 1.0)
    else:
        if method == "gradcam++":
            total = jnp.sum(a, axis=(1, 2), keepdims=True)
            below = 2.0 * g**2 + total * g**3
            alpha = jnp.where(g != 0, g**2 / jnp.where(below != 0, below, 1.0), 0.0)
            weights = jnp.sum(alpha * jax.nn.relu(g), axis=(1, 2))
        else:
            weights = jnp.mean(g, axis=(1, 2))
        maps = jnp.einsum("bhwc,bc->bhw", a, weights, precision=jax.lax.Precision.HIGHEST)
    return jax.nn.relu(maps)


def on_grid(x: Float[Array, "b *n c"], size: tuple[int, int]) -> Float[Array, "b h w c"]:
    """Tokens [B, N, C] of images of `size` on the grid of their patches, without class and register tokens.

    Raises:
      SetupError: neither a map [B, H, W, C] nor tokens of square patches behind at most `MOST_PREFIX` others.
    """
    if x.ndim == 4:
        return x
    if x.ndim == 3:
        count = x.shape[1]
        grids = {(size[0] // patch, size[1] // patch) for patch in range(1, min(size) + 1)}
        fitting = [(h, w) for h, w in grids if 0 <= count - h * w <= MOST_PREFIX]
        if fitting:
            h, w = max(fitting, key=lambda grid: grid[0] * grid[1])
            return x[:, count - h * w :].reshape(x.shape[0], h, w, x.shape[2])
    raise SetupError(f"the layer returns {x.shape}: expected maps [B, H, W, C] or tokens [B, N, C] of square patches")


def default_layer(model: Model, network: nn.Module) -> str:
    """See `gradcam`."""
    variables = model.variables
    paths = module_paths(variables)
    candidates = []
    if any(re.search(r"(^|/)cls_token$|class_token$", path) for path in _parameter_paths(variables)):
        candidates = sorted((path for path in paths if path.endswith("/norm1")), key=_numbers)[-1:]
    backbone = getattr(network, "backbone", network)
    levels = [level for level in getattr(backbone, "out_levels", ()) if level != "pooled"]
    candidates += [*levels[::-1], "c5", "c4", "tokens", *paths[::-1]]
    problems = []
    for layer in dict.fromkeys(candidates):
        try:
            _dependence(model, observed(network, [layer]), layer)
            return layer
        except SetupError as error:
            problems.append(f"{layer}: {error}")
    raise SetupError(f"no layer for a map was found ({problems[0]}): name one, such as {', '.join(paths[:5])}")


def _dependence(model: Model, network: nn.Module, layer: str) -> None:
    """Raises SetupError where the layer cannot carry a map of the logits; computes nothing."""
    size = model.image_size

    def trace(variables: PyTree, images: Array) -> Array:
        activation, _ = split(lambda v, x: _logits_and_layer(network, v, x, layer), variables, images)
        return on_grid(activation, size)

    images = jax.ShapeDtypeStruct((1, *size, model.channels), jnp.float32)
    found = jax.eval_shape(trace, model.variables, images)
    if min(found.shape[1:3]) < 2 and max(found.shape[1:3]) < 2:
        raise SetupError(f"the layer {layer!r} has a single position at {size[0]}x{size[1]}: it shows no place")


def _logits_and_layer(network: nn.Module, variables: PyTree, images: Array, layer: str) -> tuple[Array, Array]:
    logits, found = outputs(network, variables, images, (layer,))
    if not isinstance(logits, jax.Array) or logits.ndim != 2:
        raise SetupError(f"{type(network).__name__} returns no logits [B, classes]: maps of classes need a classifier")
    return logits.astype(jnp.float32), found[layer]


def _numbers(path: str) -> tuple[int, ...]:
    """Block 11 comes after block 9."""
    return tuple(map(int, re.findall(r"\d+", path)))


def _parameter_paths(variables: Mapping[str, PyTree]) -> tuple[str, ...]:
    from jaxvision.trees import flatten

    return tuple(flatten(variables.get("params", {})))
