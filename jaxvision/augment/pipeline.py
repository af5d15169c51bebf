"""Runs transforms over a batch, each sample with a random key of its own."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jaxtyping import Array, PRNGKeyArray

Sample = Mapping[str, Any]
Transform = Callable[[Sample, PRNGKeyArray], Sample]


def pipeline(transforms: Sequence[Transform]) -> Callable[[Mapping[str, Any], PRNGKeyArray], dict[str, Any]]:
    """Returns `(batch, seed_key) -> batch`, which applies the transforms in order to every sample.

    Transform i gets the key `fold_in(fold_in(seed_key, position), i)`, where `position` uint32 `[b]` is the sample's
    place in the whole of training. The result is therefore a function of the seed and the sample's place: however the
    batch is divided over devices and processes, and wherever a run is resumed, it is the same.

    Every leaf of the batch has the batch as its leading axis; transforms see it without.
    """
    transforms = tuple(transforms)

    def one(sample: Sample, position: Array, seed_key: PRNGKeyArray) -> dict[str, Any]:
        key = jax.random.fold_in(seed_key, position)
        for i, transform in enumerate(transforms):
            sample = transform(sample, jax.random.fold_in(key, i))
        return dict(sample)

    def run(batch: Mapping[str, Any], seed_key: PRNGKeyArray) -> dict[str, Any]:
        if not transforms:
            return dict(batch)
        return jax.vmap(one, in_axes=(0, 0, None))(dict(batch), batch["position"], seed_key)

    return run
