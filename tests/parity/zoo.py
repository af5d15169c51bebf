"""Compares registered sizes with their references: names and shapes, levels and logits, from the reference's weights.

Weights go through the same tables of names as `load_pretrained`. What is compared with what stands in `references/`.
"""

import importlib
import pkgutil
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import torch

import jaxvision as jv
from jaxvision.pretrained import keymaps
from jaxvision.trees import flatten, nest
from tests.parity import references as folder
from tests.parity.references.reference import Reference, timm, torchvision
from tests.parity.torch_weights import error, load_tool, nchw, nhwc

__all__ = ["Reference", "timm", "torchvision"]  # for the tests of single families

calibrate = load_tool("calibrate").calibrate

MODULES = tuple(
    importlib.import_module(f"{folder.__name__}.{module.name}") for module in pkgutil.iter_modules(folder.__path__)
)


def gather(name: str) -> dict:
    """The union of a mapping that several files of `references/` have."""
    found: dict = {}
    for module in MODULES:
        for key, value in getattr(module, name, {}).items():
            if isinstance(value, Mapping):
                value = {**found.get(key, {}), **value}
            elif isinstance(value, tuple):
                value = (*found.get(key, ()), *value)
            else:
                assert key not in found, f"{key} has two rows"
            found[key] = value
    return found


def references() -> dict[str, Reference]:
    """Every row."""
    return gather("REFERENCES")


def our_name(name: str) -> str:
    """The registered name behind a row."""
    return references()[name].ours or name


def variables_of(model, reference: Reference, state_dict, *, collections=("params", "batch_stats")) -> dict:
    """A state dict as variables of `model`, a classifier, through its family's table for `reference.source`.

    Raises:
      TreeMismatch: names or shapes differ.
    """
    family = keymaps.family_of(model)
    state_dict = {name: value if isinstance(value, np.ndarray) else _numpy(value) for name, value in state_dict.items()}
    wanted = {path: leaf for path, leaf in shapes(model, reference).items() if path.split("/")[0] in collections}
    rules = keymaps.rules_for(family, reference.source)
    ignored = (*family.ignored, *(() if "batch_stats" in collections else (r"running_",)))
    fit = keymaps.fit(state_dict, wanted, rules, ignored=ignored, resize=None)
    values = fit.check(reference.source)
    return nest({path: jnp.asarray(values[path]) for path in wanted})


def shapes(model, reference: Reference) -> dict:
    """Path -> abstract array of every variable of a classifier."""
    size = reference.size
    images = jax.ShapeDtypeStruct((1, size, size, keymaps.family_of(model).input[2]), jnp.float32)
    return flatten(jax.eval_shape(lambda x: model.init(jax.random.key(0), x), images))


def abstract(state_dict) -> dict:
    """Zeros without memory in the place of tensors, which may lie on torch's device "meta"."""
    return {
        name: np.broadcast_to(np.zeros((), np.float32 if value.is_floating_point() else np.int64), tuple(value.shape))
        for name, value in state_dict.items()
    }


@torch.no_grad()
def run_reference(model, reference: Reference, x) -> dict[str, np.ndarray]:
    """Every level and the logits."""
    if reference.outputs is not None:
        return {name: value.numpy() for name, value in reference.outputs(model, x).items()}
    outputs, hooks = {}, []
    for level, place in reference.levels.items():
        module = model.get_submodule(place.removeprefix("<"))
        if place.startswith("<"):
            hook = lambda _, args, level=level: outputs.update({level: args[0].clone()})  # noqa: E731
            hooks.append(module.register_forward_pre_hook(hook))
        else:
            hook = lambda _, args, y, level=level: outputs.update({level: y.clone()})  # noqa: E731
            hooks.append(module.register_forward_hook(hook))
    outputs["logits"] = model(x)
    for hook in hooks:
        hook.remove()
    return {name: value.numpy() for name, value in outputs.items()}


def run_ours(model, variables, x) -> dict[str, np.ndarray]:
    """The same of our model, whose backbone returns every level; "pooled" is left out."""

    def forward(variables, x):
        return model.apply(variables, x, method=lambda m, x: (m(x), m.backbone(x, train=False)))

    logits, levels = jax.jit(forward)(variables, x)
    spatial = {level: nchw(y) if y.ndim == 4 else np.asarray(y) for level, y in levels.items() if level != "pooled"}
    return {"logits": np.asarray(logits), **spatial}


def calibrated(reference: Reference, size: int | None = None, seed: int = 0, images: int = 4):
    """A sharp random network in evaluation mode, and two images."""
    size = size or reference.size
    torch.manual_seed(seed)
    model = reference.make()
    norms = [module for module in model.modules() if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    calibrate(model, torch.randn(images, 3, size, size), seed=seed)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum  # calibration leaves 1
    reference.temper(model)
    return model, torch.randn(2, 3, size, size)


def compare(model, reference: Reference, ours, x) -> dict[str, float]:
    """Error of each output of `ours`, a model whose backbone returns every level, by `torch_weights.error`.

    Raises:
      AssertionError: it has other outputs, or other shapes.
    """
    theirs = run_reference(model, reference, x)
    views = {name: value.detach().numpy() for name, value in model.state_dict().items()}  # not copied: up to 5 GB
    mine = run_ours(ours, variables_of(ours, reference, views), nhwc(x))
    beyond = {*mine} - {*theirs}
    last = ours.backbone.out_levels[-1]  # the classifier needs it, the reference may have no module that returns it
    assert "logits" in theirs and {*theirs} <= {*mine} and beyond <= {last}, (sorted(mine), sorted(theirs))
    return {name: float(error(mine[name], theirs[name])) for name in theirs}


def agree(name: str, errors: dict[str, float]) -> bool:
    """Whether `errors(name)` are within the tolerance, or within three times the reference's own rounding.

    Nothing beyond 1e-3 agrees: a network that rounding moves further is no reference.
    """
    tolerance = references()[name].tolerance
    if max(errors.values()) <= tolerance:
        return True
    own = rounding(name)
    return all(error <= min(max(tolerance, 3 * own[output]), 1e-3) for output, error in errors.items())


def rounding(name: str) -> dict[str, float]:
    """The reference in float32 against itself in float64, as `errors` measures."""
    reference = references()[name]
    model, x = calibrated(reference)
    single = run_reference(model, reference, x)
    double = run_reference(model.double(), reference, x.double())
    return {output: float(error(single[output], double[output])) for output in double}


def errors(name: str, size: int | None = None) -> dict[str, float]:
    """`compare` for a row at its 1000 classes."""
    reference = references()[name]
    model, x = calibrated(reference, size)
    ours = jv.create_model(our_name(name), num_classes=1000)
    levels = dict.fromkeys((*reference.levels, ours.backbone.out_levels[-1]))  # the classifier needs the last one
    ours = jv.create_model(our_name(name), num_classes=1000, backbone={"out_levels": tuple(levels)})
    found = compare(model, reference, ours, x)
    assert set(found) == {*reference.levels, "logits"}
    return found


def _numpy(tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy().copy()  # torch moves its statistics in place
