"""Tiny models with weights from a seed, for exports: nothing is trained or compiled."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np

from jaxvision import config as configs
from jaxvision import experiment
from jaxvision.data.build import build_source, host_transforms
from jaxvision.loading import Model, example_batch
from jaxvision.trees import map_with_path

ROOT = Path(__file__).parent.parent.parent


def model_of(name, *, abstract=False):
    """The smoke form of a config; its weights from a seed, or only their shapes."""
    config = configs.load(f"{name}:smoke")
    if "num_classes" in config.model:
        names = tuple(f"class {i}" for i in range(config.model.num_classes))
    else:  # of several heads
        names = build_source(config.data, "validation").class_names
    num_classes = len(names)
    task = experiment.build_task(config, class_names=names, num_classes=num_classes).for_prediction()
    preprocess = experiment.build_preprocess(config, train=False)
    shape = (*config.data.image_size, config.data.channels)
    variables = jax.eval_shape(
        lambda key, batch: dict(task.init(key, preprocess(batch, key))), jax.random.key(0), example_batch(shape)
    )
    return Model(
        task,
        variables if abstract else map_with_path(_value, variables),
        shape[:2],
        shape[2],
        preprocess,
        experiment.DTYPES[config.precision],
        host_transforms(config.data, train=False),
        "made",
        None,
        config,
    )


def _value(name, leaf):
    rng = np.random.default_rng(list(name.encode()))
    if leaf.ndim < 2:
        about = float(name.endswith(("scale", "var")))
        return (about + rng.normal(0, 0.05, leaf.shape)).astype(leaf.dtype)
    return (rng.normal(0, 1.4, leaf.shape) / np.sqrt(np.prod(leaf.shape[:-1]))).astype(leaf.dtype)


def pictures(count, shape=(40, 50, 3)):
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (shape[0] + i, *shape[1:]), np.uint8) for i in range(count)]


def run_elsewhere(code, *arguments):
    """Runs Python in a fresh process with warnings as errors; returns what it prints as JSON."""
    command = [sys.executable, "-W", "error::DeprecationWarning", "-c", code, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])
