"""Runs a task through the real train step under any map."""

import functools

import jax
import numpy as np
import optax

from jaxvision.engine.parallel import SHARED, SPLIT, make_parallel
from jaxvision.engine.state import create_state, transforms_for
from jaxvision.engine.step import StepSettings, make_train_step
from tests.engine.toys import batch_of

UNEVEN = np.arange(16) % 5 != 0
UNEVEN[2:8] = False  # devices with no valid row at all


def run(task, kind, devices, *, steps=3, batch=None, optimizer=None, check=False, create=None, **settings):
    """Trains a few steps; returns the state, the metrics of each step and the parallel set-up."""
    batch = batch_of(16) if batch is None else batch
    parallel = make_parallel(kind, devices)
    transforms = transforms_for(task.objectives, optimizer or optax.sgd(0.1, momentum=0.9))
    settings = StepSettings(axis_name=parallel.axis_name, total_steps=steps, **settings)
    create = functools.partial(
        create_state, task=task, transforms=transforms, ema=settings.ema is not None, **(create or {})
    )
    state = parallel.create(create, jax.random.key(0), batch)
    step = parallel.map(
        make_train_step(task, transforms, settings),
        inputs=(SHARED, SPLIT),
        outputs=(SHARED, SHARED),
        donate=(0,),
        check=check,
    )
    history = []
    for _ in range(steps):
        state, metrics = step(state, parallel.place(batch))
        history.append({name: np.array(value) for name, value in jax.device_get(metrics).items()})
    return state, history, parallel


def arrays(state):
    return jax.device_get(jax.tree.leaves(state.replace(rng=None)))


def every_shard(state):
    for leaf in jax.tree.leaves(state.replace(rng=None)):
        yield [np.asarray(shard.data) for shard in leaf.addressable_shards]
