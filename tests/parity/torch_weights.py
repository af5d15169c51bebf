"""PyTorch state dicts -> our variables, and the shared measuring tools of the parity tests.

Names map mechanically: a number joins the name before it ("layer1.0.conv1" -> "layer1_0/conv1"), a classifier's last
linear layer is "head", everything else lies under "backbone".
"""

import os
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import jaxvision as jv
from tests.parity.recording import measured


def load_tool(name):
    """`calibrate`, `golden` or `torchvision_cpu` from the shared parity folder; skips where it is not set."""
    root = os.environ.get("JAXVISION_TEST_DATA")
    if not root:
        pytest.skip("JAXVISION_TEST_DATA is not set", allow_module_level=True)
    folder = str(Path(root) / "parity")
    if folder not in sys.path:
        sys.path.append(folder)
    return __import__(name)


def load_golden(name):
    """The golden fixture `name` and the module that reads it."""
    golden = load_tool("golden")
    if not hasattr(golden.compare, "__wrapped__"):
        golden.compare = measured(golden.compare)
    return golden, golden.load(Path(golden.__file__).parent / "golden" / f"{name}.npz")


def load(model, state_dict, path, **options):
    """Variables of a model from a state dict of arrays, by way of a file; options of `load_pretrained`."""
    import torch

    torch.save({name: torch.from_numpy(np.array(value)) for name, value in state_dict.items()}, path)
    return jv.load_pretrained(model, path, **options)


def to_variables(state_dict, head="fc"):
    """Variables of a `Classifier`; `head` names the reference's last linear layer."""
    variables: dict = {"params": {}, "batch_stats": {}}
    for name, value in state_dict.items():
        if name.endswith("num_batches_tracked"):
            continue
        value = _numpy(value).copy()  # torch moves its statistics in place
        *path, leaf = path_of(name, value.ndim, head)
        node = variables
        for part in path:
            node = node.setdefault(part, {})
        node[leaf] = jnp.asarray(value.transpose(*range(2, value.ndim), 1, 0) if value.ndim > 1 else value)
    return {collection: tree for collection, tree in variables.items() if tree}


def to_state_dict(variables, names, head="fc"):
    """The inverse of `to_variables`: numpy arrays for those of `names` (a model's state dict) that variables hold."""
    state_dict = {}
    for name, like in names.items():
        if name.endswith("num_batches_tracked"):
            continue
        value = variables
        for part in path_of(name, like.ndim, head):
            value = value[part]
        value, last = np.asarray(value), np.ndim(value) - 1
        state_dict[name] = (value.transpose(last, last - 1, *range(last - 1)) if last > 0 else value).copy()
    return state_dict


def path_of(name, ndim, head="fc"):
    """ "layer1.0.bn1.weight" -> ("params", "backbone", "layer1_0", "bn1", "scale")."""
    module, leaf = name.rsplit(".", 1)
    path = ["head"] if module == head else ["backbone", *_path(module.removeprefix("backbone."))]
    if leaf.startswith("running_"):
        return "batch_stats", *path, leaf.removeprefix("running_")
    if leaf == "weight":
        leaf = "scale" if ndim == 1 else "kernel"
    return "params", *path, leaf


def _path(module):
    parts: list[str] = []
    for part in module.split("."):
        if part.isdigit():
            parts[-1] += f"_{part}"
        else:
            parts.append(part)
    return parts


def _numpy(x):
    return x.detach().numpy() if hasattr(x, "detach") else np.asarray(x)


def nhwc(x):
    return jnp.asarray(np.moveaxis(_numpy(x), 1, -1))


def nchw(x):
    return np.moveaxis(np.asarray(x), -1, 1)


@measured
def error(ours, theirs):
    """Relative to the part of the reference's output that depends on the input: || theirs[0] - theirs[1] ||."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
    per_image = np.linalg.norm(theirs[0] - theirs[1]) * np.sqrt(len(theirs))
    return np.linalg.norm(ours - theirs) / per_image


@measured
def relative(ours, theirs):
    """|| ours - theirs || / || theirs ||."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
    return np.linalg.norm(ours - theirs) / max(np.linalg.norm(theirs), 1e-12)
