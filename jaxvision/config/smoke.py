"""The tiny form of every config: a few synthetic images, a narrow model, two steps."""

import math
from typing import Any

from jaxvision import registry
from jaxvision.config.node import COMMAND_LINE, SMOKE, Leaf, Many, Origin, Tree, to_tree

DEVICES = 8  # that tests simulate
AUGMENTS = ("augment", "closing_augment")
LARGEST_IMAGE = 64  # for which the tiny form of every family is made
SCENES = {
    "detection": ("boxes",),
    "instance_segmentation": ("boxes", "masks"),
    "panoptic_segmentation": ("panoptic",),
    "semantic_segmentation": ("semantic",),
}
"""Task -> annotations of the scenes that it takes in place of a data set; tasks that are not here learn labels."""
SCENE_CLASSES = 10
"""Digits; where stuff is a class, there is one of it."""
SHORT_CRF = {"iterations": 1, "filter": "lattice", "label_weights": None}
"""What a task that sharpens label maps does it with; the exact filter takes the square of the pixels."""
SMALLEST_IMAGE = 16  # below, the synthetic source cannot tell ten classes apart
LARGEST_NUM_CLASSES = 100  # nor more than some two hundred at the largest


def smoke(tree: Tree) -> Tree:
    """A completed tree in its tiny form; what the command line set stays."""
    origin = Origin.now(SMOKE, "smoke")
    model, data = tree["model"], tree["data"]
    num_classes = model["num_classes"].plain if isinstance(model.get("num_classes"), Leaf) else None
    task = tree["task"]
    if isinstance(num_classes, int) and num_classes > LARGEST_NUM_CLASSES:
        model = _put(model, origin, num_classes=LARGEST_NUM_CLASSES)
        if "teacher" in task:
            task = task | {"teacher": _put(task["teacher"], origin, num_classes=LARGEST_NUM_CLASSES)}
        data = data | {key: _with_classes(data[key], origin) for key in AUGMENTS}
    size, *buckets = (_small(size) for size in (data["image_size"].plain, *data["buckets"].plain))
    batch_size = DEVICES * _images_of_a_device(data)
    data = _put(data, origin, batch_size=batch_size, eval_batch_size=None, image_size=size)
    eval_buckets, original_buckets = (
        tuple(dict.fromkeys(map(_small, data[name].plain))) for name in ("eval_buckets", "original_buckets")
    )
    data = _put(
        data,
        origin,
        buckets=tuple(dict.fromkeys(buckets)),
        eval_buckets=eval_buckets,
        original_buckets=original_buckets,
        repeats=min(data["repeats"].plain, 2),
    )
    source = _slot("source", data["source"], origin)
    if (annotations := SCENES.get(task["name"].plain)) is not None:
        scenes = _with_scenes(source, annotations, origin)
        if scenes is not source:
            source = scenes
            model = _put(model, origin, num_classes=SCENE_CLASSES + bool({"panoptic", "semantic"} & set(annotations)))
    if source["name"].plain == "synthetic":
        multi_label = task.get("multi_label")
        like = {"num_classes": min(num_classes, LARGEST_NUM_CLASSES)} if isinstance(num_classes, int) else {}
        source = _put(source, origin, **like, **({"multi_label": multi_label.plain} if multi_label else {}))
    if "num_examples" in source and source["num_examples"].plain < batch_size:
        source = _put(source, origin, num_examples=batch_size)
    schedule = _put(tree["schedule"], origin, steps=2, warmup=0.0, accumulate=1)
    # An epoch is one step, so that the second one is the closing one.
    schedule = _put(schedule, origin, closing_epochs=min(schedule["closing_epochs"].plain, 1.0))
    if "start" in schedule["learning_rate"]:  # after a warm-up that is longer than the run
        schedule = schedule | {"learning_rate": _put(schedule["learning_rate"], origin, start=0.0)}
    if isinstance(task.get("crf"), dict):
        task = task | {"crf": _put(task["crf"], origin, **SHORT_CRF)}
    slots = {
        "task": _slot("task", task, origin),
        "model": _slot("model", model, origin),
        "data": data | {"source": source},
        "schedule": schedule,
        "evaluation": _put(tree["evaluation"], origin, every_epochs=1.0, tta=None),
        "checkpoint": _put(tree["checkpoint"], origin, every_epochs=1.0),
        "log": _put(tree["log"], origin, every_steps=1),
    }
    return _put(tree | slots, origin, pretrained=None)


def _images_of_a_device(data: Tree) -> int:
    """Two, so that batch norm has a variance, or as many as the transforms mix that take groups."""
    items = (item for key in AUGMENTS if isinstance(data[key], Many) for item in data[key].items)
    return math.lcm(2, *(getattr(registry.lookup("augment", item["name"].plain).load(), "group", 1) for item in items))


def _with_scenes(source: Tree, annotations: tuple[str, ...], origin: Origin) -> Tree:
    """The source with scenes in place of the synthetic one that it is or is made of, if there is one.

    Scenes that took that place before do so again: a config that starts from a completed one is completed twice.
    """
    name = source["name"]
    if name.plain == "synthetic" or (name.plain == "digit_scenes" and name.origin.rank == SMOKE):
        scenes = {"name": Leaf("digit_scenes", origin), "annotations": Leaf(annotations, origin)}
        return _slot("source", scenes, origin)
    inner = source.get("source")
    if not isinstance(inner, dict):
        return source
    scenes = _with_scenes(inner, annotations, origin)
    return source if scenes is inner else source | {"source": scenes}


def _with_classes(transforms: Any, origin: Origin) -> Any:
    """Transforms that make rows of labels, for the classes of the tiny model."""
    if not isinstance(transforms, Many):
        return transforms
    items = (
        _put(item, origin, num_classes=LARGEST_NUM_CLASSES) if "num_classes" in item else item
        for item in transforms.items
    )
    return Many(tuple(items), transforms.origin, transforms.type)


def _small(size: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(min(max(side, SMALLEST_IMAGE), LARGEST_IMAGE) for side in size)


def _put(tree: Tree, origin: Origin, **values: Any) -> Tree:
    kept = {key for key in values if _by_command_line(tree.get(key))}
    return tree | {key: to_tree(value, origin) for key, value in values.items() if key not in kept}


def _slot(kind: str, tree: Tree, origin: Origin) -> Tree:
    """The tiny form of a registered constructor and of those in its slots, by the `smoke` arguments of their rows."""
    entry = registry.lookup(kind, tree["name"].plain)
    other = entry.smoke.get("name")
    if other is not None and other != entry.name and not _by_command_line(tree["name"]):
        entry = registry.lookup(kind, other)
        tree = {"name": Leaf(other, origin)}
    tree = _put(tree, origin, **{key: value for key, value in entry.smoke.items() if key != "name"})
    for key, value in tree.items():
        kind = (registry.slot_kind(key) or ("", False))[0]
        if kind and isinstance(value, dict) and "name" in value:
            tree = tree | {key: _slot(kind, value, origin)}
        elif kind and isinstance(value, Many):
            items = (
                _slot(kind, item, origin) if isinstance(item, dict) and "name" in item else item for item in value.items
            )
            tree = tree | {key: Many(tuple(items), value.origin, value.type)}
    return tree


def _by_command_line(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_by_command_line, value.values()))
    return value is not None and value.origin.rank == COMMAND_LINE
