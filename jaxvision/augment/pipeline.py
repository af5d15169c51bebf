"""Runs transforms over a batch, each sample with a random key of its own, or each group of neighbours with one."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

Sample = Mapping[str, Any]
Transform = Callable[[Sample, PRNGKeyArray], Sample]


@runtime_checkable
class GroupTransform(Protocol):
    """A transform of `group` neighbouring samples at once: Mixup, mosaic, copy-paste.

    `mix` gets the samples with a leading axis of `group` on every leaf, and returns them likewise, as many.
    """

    group: int

    def mix(self, samples: Sample, key: PRNGKeyArray) -> Sample: ...


Pipeline = Callable[[Mapping[str, Any], PRNGKeyArray], dict[str, Any]]


def pipeline(transforms: Sequence[Transform | GroupTransform]) -> Pipeline:
    """Returns `(batch, seed_key) -> batch`, which applies the transforms in order to every sample.

    Transform i gets the key `fold_in(fold_in(seed_key, position), i)`, where `position` uint32 `[b]` is the sample's
    place in the whole of training; that of a group is the position of its first sample. Groups are neighbours in the
    batch, from its start. The result is therefore a function of the seed and the samples' places: however the batch is
    divided over devices, processes and micro-batches, and wherever a run is resumed, it is the same, as long as every
    device's share holds whole groups.

    Every leaf of the batch has the batch as its leading axis; transforms see it without.

    Raises:
      ValueError: when the result is traced with a batch that does not divide into groups.
    """
    transforms = tuple(transforms)

    def run(batch: Mapping[str, Any], seed_key: PRNGKeyArray) -> dict[str, Any]:
        batch = dict(batch)
        if not transforms:
            return batch
        positions = batch["position"]
        check_groups(transforms, positions.shape[0])
        keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(seed_key, positions)
        for numbered in _stages(transforms):
            number, transform = numbered[0]
            if isinstance(transform, GroupTransform):
                batch = _mixed(transform, number, batch, keys)
            else:
                batch = jax.vmap(_one_by_one(numbered))(batch, keys)
        return batch

    return run


def changed_at(position: int, before: Pipeline, after: Pipeline) -> Pipeline:
    """`before` for the batches of samples in front of a place in the whole of training, `after` from there on.

    So the result is still a function of the seed and the samples' places alone. Both are compiled into one program, of
    which a step runs one half. All samples of a batch lie on one side: `position` is the first one of a batch.

    A key of the batch that only one of the two adds ("dropped", "mixed") is zero, or False, where the other one ran.

    Raises:
      ValueError: when the result is traced and the two give an array different shapes or dtypes.
    """

    def run(batch: Mapping[str, Any], seed_key: PRNGKeyArray) -> dict[str, Any]:
        batch = dict(batch)
        shapes: list[dict[str, Any]] = [jax.eval_shape(one, batch, seed_key) for one in (before, after)]
        for key in shapes[0].keys() & shapes[1].keys():
            kinds = [jax.tree.map(lambda x: (x.shape, x.dtype), one[key]) for one in shapes]
            if kinds[0] != kinds[1]:
                raise ValueError(
                    f"augment makes {key!r} {_told(shapes[0][key])}, closing_augment {_told(shapes[1][key])}: what "
                    "changes the kind of an array (mixup makes rows of labels) must be in both, if with probability=0"
                )

        def filled(one: Pipeline, batch: dict[str, Any], seed_key: PRNGKeyArray) -> dict[str, Any]:
            given = one(batch, seed_key)
            missing = {key: shape for shape in shapes for key, shape in shape.items() if key not in given}
            return given | jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), missing)

        begun = batch["position"][0] >= jnp.uint32(position)
        branches = (functools.partial(filled, one) for one in (after, before))
        return jax.lax.cond(begun, *branches, batch, seed_key)

    return run


def _told(tree: Any) -> str:
    return ", ".join(f"{x.dtype}{list(x.shape)}" for x in jax.tree.leaves(tree))


def check_groups(
    transforms: Sequence[Transform | GroupTransform], samples: int, name: str = "the batch of each device"
) -> None:
    """Raises unless `samples`, which `name` calls, divide into the groups of every group transform."""
    groups = [transform.group for transform in transforms if isinstance(transform, GroupTransform)]
    size = math.lcm(*groups)
    if samples % size == 0:
        return
    users = ", ".join(type(t).__name__ for t in transforms if isinstance(t, GroupTransform) and samples % t.group)
    lower, upper = samples // size * size, (samples // size + 1) * size
    nearest = f"{lower} or {upper}" if lower else f"{upper}"
    raise ValueError(
        f"{users} mixes neighbouring samples in groups of {size}, but {name} has {samples} of them; "
        f"the nearest sizes: {nearest}"
    )


def _stages(transforms: tuple[Any, ...]) -> list[list[tuple[int, Any]]]:
    """Numbered transforms in runs: each group transform alone, those of one sample together."""
    stages: list[list[tuple[int, Any]]] = []
    for number, transform in enumerate(transforms):
        grouped = isinstance(transform, GroupTransform)
        if stages and not grouped and not isinstance(stages[-1][-1][1], GroupTransform):
            stages[-1].append((number, transform))
        else:
            stages.append([(number, transform)])
    return stages


def _one_by_one(numbered: list[tuple[int, Transform]]) -> Callable[[Sample, PRNGKeyArray], dict[str, Any]]:
    def apply(sample: Sample, key: PRNGKeyArray) -> dict[str, Any]:
        for number, transform in numbered:
            sample = transform(sample, jax.random.fold_in(key, number))
        return dict(sample)

    return apply


def _mixed(transform: GroupTransform, number: int, batch: dict[str, Any], keys: PRNGKeyArray) -> dict[str, Any]:
    size = transform.group

    def mix(samples: Sample, key: PRNGKeyArray) -> dict[str, Any]:
        return dict(transform.mix(samples, jax.random.fold_in(key, number)))

    grouped = jax.tree.map(lambda x: x.reshape(x.shape[0] // size, size, *x.shape[1:]), batch)
    out = jax.vmap(mix)(grouped, keys[::size])
    return jax.tree.map(lambda x: x.reshape(x.shape[0] * size, *x.shape[2:]), out)


def sample_at(samples: Sample, place: int | Array) -> dict[str, Any]:
    """One of a group's samples."""
    return jax.tree.map(lambda x: x[place], dict(samples))


def stacked(samples: Sequence[Sample]) -> dict[str, Any]:
    """A group from its samples."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *(dict(sample) for sample in samples))
