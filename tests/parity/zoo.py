"""The reference of every registered size: how timm, torchvision or OpenMMLab builds it, and what it calls things.

A family adds its sizes to `references` and the reason for each name of timm or torchvision that it leaves out to
`EXCLUDED`; `test_zoo` and `zoo_errors` do the rest.
"""

import dataclasses
import importlib
import re
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import torch

import jaxvision as jv
from jaxvision.backbones import resnest, resnet, senet
from tests.parity.torch_weights import error, load_tool, nchw, nhwc, path_of

calibrate = load_tool("calibrate").calibrate
torchvision = load_tool("torchvision_cpu").torchvision
timm = importlib.import_module("timm")  # needs the former

TOLERANCE = 1e-4
"""Of levels and logits in float32."""

RESNET_LEVELS = {"c1": "<maxpool", **{f"c{i + 1}": f"layer{i}" for i in range(1, 5)}}


@torch.no_grad()
def damp(model):
    """Scales the last norm of every residual branch by 0.3 and the logits of split attention by 0.2.

    Random branches as strong as their shortcuts double a rounding error every other block, so that over fifty of them
    float32 is off by more than 1e-3 in the reference, too; those of trained networks do not.
    """
    for module in model.modules():
        last = getattr(module, "bn3", getattr(module, "bn2", None))
        if hasattr(module, "conv2") and last is not None:
            last.weight *= 0.3
    for name, parameter in model.named_parameters():
        if name.endswith("conv2.fc2.weight"):
            parameter *= 0.2


@dataclasses.dataclass(frozen=True)
class Reference:
    """A network of another library.

    Attributes:
      make: builds it, with 1000 classes.
      family: module of `jaxvision.backbones`.
      levels: our level -> the submodule whose output it is; with "<" in front, whose input.
      rename: (regular expression, replacement) for the names of its parameters, applied in order.
      head: its last linear layer, after renaming.
      temper: called on the calibrated network.
    """

    make: Callable[[], torch.nn.Module]
    family: str
    levels: Mapping[str, str] = dataclasses.field(default_factory=lambda: RESNET_LEVELS)
    rename: tuple[tuple[str, str], ...] = ()
    head: str = "fc"
    temper: Callable[[torch.nn.Module], None] = damp

    def name(self, theirs: str) -> str:
        """Their name of a parameter in the order of ours."""
        for pattern, replacement in self.rename:
            theirs = re.sub(pattern, replacement, theirs)
        return theirs


def _timm(name):
    return lambda: timm.create_model(name)


def _caffe(depth):
    """torchvision's ResNet with the strides moved to the first 1x1 convolutions, which is what "caffe" means."""

    def make():
        model = getattr(torchvision.models, f"resnet{depth}")(weights=None)
        for block in (model.layer2[0], model.layer3[0], model.layer4[0]):
            block.conv1.stride, block.conv2.stride = (2, 2), (1, 1)
        return model

    return make


def _cifar(depth):
    """torchvision's ResNet with OpenMMLab's CIFAR stem."""

    def make():
        model = getattr(torchvision.models, f"resnet{depth}")(weights=None)
        model.conv1 = torch.nn.Conv2d(3, 64, 3, 1, 1, bias=False)
        model.maxpool = torch.nn.Identity()
        return model

    return make


def _resnext152():
    block = torchvision.models.resnet.Bottleneck
    return torchvision.models.ResNet(block, [3, 8, 36, 3], groups=32, width_per_group=4)


LEGACY = (
    (r"^layer0\.conv([23])\.", lambda m: f"conv1.{3 * int(m[1]) - 3}."),
    (r"^layer0\.bn([12])\.", lambda m: f"conv1.{3 * int(m[1]) - 2}."),
    (r"^layer0\.conv1\.", "conv1.0."),
    (r"^layer0\.bn3\.", "bn1."),
)
PLAIN_LEGACY = ((r"^layer0\.", ""),)


def references() -> dict[str, Reference]:
    """Size -> its reference."""
    found = {name: Reference(_timm(name), "resnet") for name in resnet.SIZES}
    found |= {f"resnet{depth}_caffe": Reference(_caffe(depth), "resnet") for depth in (50, 101)}
    found |= {f"resnet{depth}_cifar": Reference(_cifar(depth), "resnet") for depth in (18, 34, 50, 101, 152)}
    found["resnext152_32x4d"] = Reference(_resnext152, "resnet")
    for name in senet.SIZES:
        if name.startswith("legacy_"):
            stem = LEGACY if "senet154" in name else PLAIN_LEGACY
            rename = (*stem, (r"\.se_module\.", ".se."), (r"^last_linear\.", "fc."))
            levels = {**RESNET_LEVELS, "c1": "<pool0"}
            found[name] = Reference(_timm(name), "senet", levels, rename)
        else:
            found[name] = Reference(_timm(name), "senet")
    found |= {name: Reference(_timm(name), "resnest") for name in resnest.SIZES}
    return found


EXCLUDED = {
    "resnet": {
        r"ecaresnet.*|ecaresnext.*": "efficient channel attention is another structure",
        r"resnetaa.*|seresnetaa.*|seresnextaa.*|resnetblur.*": "anti-aliased strides are another structure",
        r"resnetrs.*": "ResNet-RS is another family",
        r"test_resnet": "a model of timm's own tests",
    },
}
"""Module of timm -> names that are not built here, and why."""


def shape_tree(reference: Reference, state_dict) -> dict:
    """Path in our variables -> shape in our layout, of a state dict."""
    shapes = {}
    for theirs, value in state_dict.items():
        if not theirs.endswith("num_batches_tracked"):
            path = path_of(reference.name(theirs), value.ndim, reference.head)
            shape = tuple(value.shape)
            shapes["/".join(path)] = (*shape[2:], *shape[1::-1]) if len(shape) > 1 else shape
    return shapes


def variables_of(reference: Reference, state_dict) -> dict:
    """A state dict as variables of a `Classifier`."""
    tree: dict = {}
    for theirs, value in state_dict.items():
        if theirs.endswith("num_batches_tracked"):
            continue
        value = np.asarray(value).copy()
        *path, leaf = path_of(reference.name(theirs), value.ndim, reference.head)
        node = tree
        for part in path:
            node = node.setdefault(part, {})
        node[leaf] = jnp.asarray(value.transpose(*range(2, value.ndim), 1, 0) if value.ndim > 1 else value)
    return tree


@torch.no_grad()
def run_reference(model, reference: Reference, x) -> dict[str, np.ndarray]:
    """Every level and the logits."""
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
    """The same of our model, whose backbone returns every level."""

    def forward(variables, x):
        return model.apply(variables, x, method=lambda m, x: (m(x), m.backbone(x, train=False)))

    logits, levels = jax.jit(forward)(variables, x)
    return {"logits": np.asarray(logits), **{level: nchw(y) for level, y in levels.items()}}


def calibrated(reference: Reference, size: int, seed: int = 0, images: int = 4):
    """A sharp random network in evaluation mode, and two images."""
    torch.manual_seed(seed)
    model = reference.make()
    calibrate(model, torch.randn(images, 3, size, size), seed=seed)
    reference.temper(model)
    return model, torch.randn(2, 3, size, size)


def compare(model, reference: Reference, ours, x) -> dict[str, float]:
    """Error of each output of `ours`, a model whose backbone returns every level, by `torch_weights.error`.

    Raises:
      AssertionError: it has other outputs, or other shapes.
    """
    theirs = run_reference(model, reference, x)
    mine = run_ours(ours, variables_of(reference, model.state_dict()), nhwc(x))
    assert set(mine) == set(theirs)
    return {name: float(error(mine[name], theirs[name])) for name in theirs}


def errors(name: str, size: int = 64) -> dict[str, float]:
    """`compare` for a registered size at its 1000 classes."""
    reference = references()[name]
    model, x = calibrated(reference, size)
    ours = jv.create_model(name, num_classes=1000, backbone={"out_levels": tuple(reference.levels)})
    return compare(model, reference, ours, x)
