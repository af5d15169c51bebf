"""What a network says about images before its last layer: `FeatureExtractor`, and any layer's output by name.

    extract = jv.FeatureExtractor("runs/lenet5_digits")        # or a config or model with a checkpoint
    extract("seven.png").shape, extract("folder").shape        # (84,), (N, 84)
    jv.FeatureExtractor("runs/a", layer="c4")("a.png").shape   # (h, w, channels)

A layer is "pooled" (the vector that the classifier sees), a level of the backbone ("c4", "tokens"), or the path of a
module ("backbone/layer3_5", as parameters are named), whose output it is.
"""

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxvision import augment
from jaxvision.engine.task import Batch, Context, PyTree, Task
from jaxvision.engine.tta import augmented
from jaxvision.errors import SetupError
from jaxvision.inference import Inferencer, Input, expand
from jaxvision.loading import Model, load_model
from jaxvision.ops import pool
from jaxvision.registry import hint

POOLED = "pooled"


class FeatureExtractor:
    """Features of image files and arrays, prepared as `Inferencer` prepares them, in batches of one compiled program.

    Attributes:
      model: the loaded `loading.Model`, whose task gives features.
      layer: what is returned.
    """

    def __init__(
        self,
        source: str | os.PathLike[str] | Model | nn.Module,
        checkpoint: str | int | os.PathLike[str] | None = None,
        *,
        layer: str = POOLED,
        batch_size: int = 16,
        variables: Mapping[str, PyTree] | None = None,
        image_size: tuple[int, int] = (224, 224),
        mean: tuple[float, ...] = (0.485, 0.456, 0.406),
        std: tuple[float, ...] = (0.229, 0.224, 0.225),
    ) -> None:
        """Loads the model.

        Args:
          source: as for `loading.load_model`; or a module, a classifier or a backbone, with its `variables`.
          checkpoint: as for `load_model`.
          layer: see the top of this file.
          batch_size: images per call of the compiled program.
          variables, image_size, mean, std: of a module: images are stretched to `image_size`, pixels 0..1 normalised;
            one mean is a model of grey images.

        Raises:
          SetupError: no such layer, or no variables for a module.
        """
        if isinstance(source, nn.Module):
            if variables is None:
                raise SetupError(f"FeatureExtractor got a {type(source).__name__} without its variables")
            preprocess = augment.pipeline([augment.Normalize(mean, std)])
            source = Model(_Bare(source), variables, image_size, len(mean), preprocess)
        model = source if isinstance(source, Model) else load_model(source, checkpoint)
        self.layer = layer
        network = network_of(model.task)
        self.model = replace(model, task=Features(observed(network, [layer]), layer))
        check_layer(self.model, network, layer)
        self._infer = Inferencer(self.model, batch_size=batch_size)

    def __call__(self, inputs: Input | Iterable[Input]) -> Float[np.ndarray, "*n h w c"] | Float[np.ndarray, "*n c"]:
        """float32 features of one image, or with a leading axis of several; `inputs` as for `Inferencer`."""
        items, single = expand(inputs)
        found = np.stack(list(self.iterate(items)))
        return found[0] if single else found

    def iterate(self, items: Iterable[Input]) -> Iterator[Float[np.ndarray, "..."]]:
        """The features of each image, in order; for more images than memory should hold."""
        for result in self._infer.iterate(items):
            yield result.prediction["features"]

    @property
    def about(self) -> str:
        """One line: layer, network, size of the images, origin of the weights."""
        height, width = self.model.image_size
        network = type(getattr(network_of(self.model.task), "backbone", network_of(self.model.task))).__name__
        return f"{self.layer} of {network} at {height}x{width} ({self.model.origin or 'weights in memory'})"


@dataclass(frozen=True)
class Features(Task):
    """A task whose prediction is the output of a layer: `{"features": float32 [B, ...]}`."""

    model: nn.Module
    layer: str = POOLED

    def predict(
        self, variables: Mapping[str, PyTree], batch: Batch, ctx: Context, carry: PyTree = None
    ) -> tuple[dict[str, Array], PyTree]:
        _, found = outputs(self.model, variables, ctx.cast(batch["image"]), (self.layer,))
        return {"features": found[self.layer].astype(jnp.float32)}, carry

    def to_json(self, sample: Mapping[str, Any], prediction: PyTree) -> dict[str, Any]:
        return {}


@dataclass(frozen=True)
class _Bare(Task):
    """Carries a module that was given without a task."""

    model: nn.Module


def network_of(task: Task) -> nn.Module:
    """The module of a task, whatever wraps it."""
    model = getattr(augmented(task, None), "model", None)
    if not isinstance(model, nn.Module):
        raise SetupError(f"{type(task).__name__} has no `model`: features come from a flax module")
    return model


def observed(network: nn.Module, layers: Sequence[str]) -> nn.Module:
    """The network with a backbone that returns those of `layers` that are levels, and passes gradients everywhere."""
    backbone = getattr(network, "backbone", network)
    plain: dict[str, Any] = {
        name: value for name, value in (("frozen_stages", 0), ("remat", False)) if hasattr(backbone, name)
    }
    changed = backbone.clone(**plain) if plain else backbone
    for layer in layers:
        returned = getattr(changed, "out_levels", ())
        if returned and layer not in (*returned, POOLED):
            with contextlib.suppress(ValueError):  # no level: the name of a module
                changed = changed.clone(out_levels=(*returned, layer))
    return changed if backbone is network else network.clone(backbone=changed)


def outputs(
    network: nn.Module, variables: Mapping[str, PyTree], images: Float[Array, "b h w c"], layers: Sequence[str]
) -> tuple[Any, dict[str, Array]]:
    """One evaluation pass -> the network's own output, and those of `layers`; what `observed` returned is given here.

    Raises:
      SetupError: a layer that the network does not have; names the nearest.
    """
    own = "" if not hasattr(network, "backbone") else "backbone"
    wanted = {*layers, own}

    def keep(module: nn.Module, method: str) -> bool:
        return method == "__call__" and "/".join(module.path) in wanted

    result, state = network.apply(variables, images, train=False, capture_intermediates=keep, mutable=["intermediates"])
    seen = dict(_calls(state.get("intermediates", {})))
    levels = seen.get(own, {})
    levels = levels if isinstance(levels, Mapping) else {}
    found = {}
    for layer in layers:
        if layer in levels:
            found[layer] = levels[layer]
        elif layer == POOLED:
            found[layer] = _pooled(network, variables, images, levels)
        elif isinstance(seen.get(layer), jax.Array):
            found[layer] = seen[layer]
        else:
            known = tuple(dict.fromkeys((POOLED, *levels, *module_paths(variables))))
            raise SetupError(f"the network has no layer {layer!r} that returns an array: {_near(layer, known)}")
    return result, found


def module_paths(variables: Mapping[str, PyTree]) -> tuple[str, ...]:
    """Paths of all modules that have parameters, in the order of the tree."""
    found: dict[str, None] = {}

    def walk(node: Any, path: str) -> None:
        for key, value in node.items():
            if isinstance(value, Mapping):
                below = f"{path}/{key}" if path else str(key)
                found[below] = None
                walk(value, below)

    walk(variables.get("params", {}), "")
    return tuple(found)


def check_layer(model: Model, network: nn.Module, layer: str) -> None:
    """Raises SetupError where the model has no such layer; computes nothing."""
    shape = (1, *model.image_size, model.channels)
    images = jax.ShapeDtypeStruct(shape, jnp.float32)
    jax.eval_shape(lambda v, x: outputs(observed(network, [layer]), v, x, (layer,))[1], model.variables, images)


def _pooled(
    network: nn.Module, variables: Mapping[str, PyTree], images: Float[Array, "b h w c"], levels: Mapping[str, Array]
) -> Float[Array, "b c"]:
    if hasattr(network, "features"):
        return network.apply(variables, images, train=False, method="features")  # type: ignore[return-value]
    if not levels:
        raise SetupError(f"{type(network).__name__} has neither `features` nor a backbone: give the path of a module")
    last = list(levels.values())[-1]
    return pool.global_avg_pool(last) if last.ndim == 4 else jnp.mean(last, axis=tuple(range(1, last.ndim - 1)))


def _calls(tree: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """(path of a module, what its last call returned)."""
    for key, value in tree.items():
        if key == "__call__":
            yield path, value[-1]
        elif isinstance(value, Mapping):
            yield from _calls(value, f"{path}/{key}" if path else key)


def _near(given: str, known: Sequence[str]) -> str:
    text = hint(given, known)
    return text if len(known) <= 20 or "did you mean" in text else f"such as {', '.join(known[:12])}, ..."
