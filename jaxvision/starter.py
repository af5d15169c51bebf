"""From a folder of data to a run: what is in it, what can be trained on it, and a config to start from.

The config is a Python file in the workdir, to be read, edited and run again with `--config`. What it chooses follows
the data: the size of the network's images that of the files, the length of the schedule and the batch their number.
"""

import dataclasses
import os
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxvision import config as configs
from jaxvision import errors, registry
from jaxvision.checking import check_sources, read_sample
from jaxvision.data.check import Report
from jaxvision.data.check.gather import spread
from jaxvision.data.faults import DataError
from jaxvision.data.images import ImageError, fit_image
from jaxvision.data.sources.coco import share_with_masks
from jaxvision.data.table import Table

SIDES = (32, 64, 96, 128, 160, 224)
"""Image sizes to choose from: the largest that does not enlarge the median image by more than a tenth."""
DETECTION_SIDES = (64, 96, 128, 192, 256, 320)
"""The same for detectors."""
DETECTION_BATCH = 16
MASK_BATCH = 8
"""Of detectors of masks, which take several times as long."""
WITH_MASKS = 0.99
"""Share of the objects that must have a mask; the others would be left out."""
MODELS = {
    "detection": "retinanet",
    "instance_segmentation": "mask_rcnn",
    "panoptic_segmentation": "panoptic_fpn",
    "semantic_segmentation": "fcn",
}
MEMORY_SIDE = 32
"""Pixels of images that a source fits to one size when it reads them (IDX, npz)."""
CIFAR_STEM_UP_TO = 64
"""Pixels up to which the network begins without the stem that divides sizes by four."""
EPOCHS = ((1_000, 100), (10_000, 60), (100_000, 30))
"""(training images, epochs) up to that many; more images are seen `FEWEST_EPOCHS` times."""
FEWEST_EPOCHS = 15
MEASURED = 64
"""Images whose pixels the normalisation is from."""
WIDTH = 110
"""Characters in a line of a written config."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is trained.

    Attributes:
      task: the config's task.
      source: the config's source.
      metric: that the best checkpoint is chosen by.
      why: sentences that say what was chosen, for the output and for the config.
    """

    task: dict[str, Any]
    source: dict[str, Any]
    metric: str
    why: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Pixels:
    """Of a sample of the training images.

    Attributes:
      channels: 1 where all of them are grey.
      mean, std: per channel, where white is 1.
    """

    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


def recognised(folder: str) -> Any:
    """`data.recognise.recognise` of the absolute path, so that a written config runs from any folder."""
    from jaxvision.data.recognise import recognise

    with errors.setup():
        return recognise(folder if "://" in folder else os.path.abspath(folder))


def builder(source: Mapping[str, Any]) -> Callable[[str], Any]:
    """split -> source, before there is a config; sources of one size in memory are read at that of `MEMORY_SIDE`."""
    supplied: dict[str, Any] = {"image_size": (MEMORY_SIDE, MEMORY_SIDE), "channels": 3, "max_instances": 100}

    def build(split: str) -> Any:
        known = registry.lookup("source", source["name"]).supplied
        given = {name: value for name, value in supplied.items() if name in known}
        return configs.build("source", source, split=split, **given)

    return build


def start(folder: str, workdir: str | None = None, say: Callable[[str], None] = print) -> tuple[str, str]:
    """Looks at a folder, says what it found and writes a config for it; one that is there already is kept.

    Args:
      folder: of the data.
      workdir: of the run; None: runs/NAME, of the folder.
      say: gets each line of output.

    Returns:
      The path of the config, and the workdir.

    Raises:
      SetupError: an unknown format, or data with errors.
    """
    name = _name(folder)
    workdir = workdir or os.path.join("runs", name)
    found = recognised(folder)
    say(f"{folder}: {found.note}")
    source = with_masks(found.source)
    report, (train, _) = check_sources(builder(source), full=False)
    for line in report.lines():
        say(line)
    report.raise_errors(f"python -m experiments.check --data {folder} --output check")
    beside = os.path.join("runs", name) if "://" in workdir else workdir  # configs are read from local files
    path = Path(beside) / f"{name}.py"
    if path.exists():
        say(f"{path} is there already and is used as it is; delete it to have it written anew.")
        return str(path), workdir
    plan = choose(source, train)
    for line in plan.why:
        say(line)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(config_text(plan, report, train, note=found.note), encoding="utf-8")
    say(f"wrote {path}: edit it, and run it again with --config {path}")
    return str(path), workdir


def with_masks(source: Mapping[str, Any]) -> dict[str, Any]:
    """The source; that of COCO files reads masks where nearly all objects of both parts have one."""
    if source["name"] != "coco":
        return dict(source)
    paths = [source[key] for key in ("annotations", "eval_annotations") if source.get(key)]
    try:
        shares = [share_with_masks(path) for path in paths]
    except DataError:
        return dict(source)  # the check of the data says what is wrong
    return {**source, "masks": True} if min(shares) >= WITH_MASKS else dict(source)


def choose(source: Mapping[str, Any], train: Any) -> Plan:
    """The task that is registered and fits the annotations best."""
    given = tuple(getattr(train, "annotations", ("label",)))
    if "label" in given:
        label = np.asarray(train.columns["label"]) if isinstance(train, Table) else None
        if train.multi_label if label is None else label.ndim == 2:
            return Plan(_several_labels(), dict(source), "map", ("Training a classifier of several labels per image.",))
        return Plan({"name": "classification"}, dict(source), "top1", ("Training a classifier.",))
    if "panoptic" in given and len(set(getattr(train, "things", ()))) == 2:
        said = "Training a network for things and stuff, Panoptic FPN."
        return Plan({"name": "panoptic_segmentation"}, dict(source), "pq", (said,))
    if "boxes" in given and "masks" in given:
        said = "Training a detector that also outlines each object, Mask R-CNN."
        return Plan({"name": "instance_segmentation"}, dict(source), "mask_ap", (said,))
    if "boxes" in given:
        return Plan({"name": "detection"}, dict(source), "ap", ("Training a detector, RetinaNet.",))
    if "semantic" in given:
        said = "Training a network that says the class of each pixel, FCN."
        return Plan({"name": "semantic_segmentation"}, dict(source), "miou", (said,))
    wanted = "segmentation"
    known = f"registered tasks: {', '.join(registry.names('task'))}"
    why = (
        f"The annotations are those of {wanted}, for which --data has no recipe ({known}).",
        "What is trained instead says WHICH classes an image holds, not where: a classifier of several labels, which",
        "it takes from the annotations (the source `presence`).",
    )
    return Plan(_several_labels(), {"name": "presence", "source": dict(source)}, "map", why)


def config_text(plan: Plan, report: Report, train: Any, *, note: str = "") -> str:
    """A config file, as text."""
    images = [part.images for part in report.parts]
    write, what = {
        "detection": (_detector, "detector"),
        "instance_segmentation": (_detector, "detector with masks"),
        "panoptic_segmentation": (_detector, "panoptic network"),
        "semantic_segmentation": (_segmenter, "segmenter"),
    }.get(plan.task["name"], (_classifier, "classifier"))
    chosen = write(plan, report, train)
    lines = [
        f'"""A {what} for {images[0]:,} training and {images[1]:,} validation images.',
        "",
        "Written by `--data` as a start: edit it, and run it again with `--config`. Nothing overwrites it.",
        '"""',
        "",
        *_comment(_plain(note)),
        *(_comment(" ".join(plan.why)) if plan.source["name"] == "presence" else ()),
        *_classes(report.class_names),
        "",
        "from configs.common import base",
        "",
        "",
        'def get_config(arg=""):',
        "    config = base.get_config(arg)",
        f"    config.task = {_python(plan.task if len(plan.task) > 1 else plan.task['name'])}",
        *chosen,
        f'    config.checkpoint.best_metric = "{plan.metric}"',
        "    config.log.every_steps = 10",
        "    return base.complete(config)",
    ]
    return "\n".join(lines) + "\n"


def _classifier(plan: Plan, report: Report, train: Any) -> list[str]:
    """Model, data and schedule: a ResNet-18 from scratch."""
    images = report.parts[0].images
    side, pixels = image_side(report.parts[0].sizes), measure_pixels(train)
    augmentation = _augmentation(isinstance(train, Table), pixels.channels, side)
    data = _data(plan, side, pixels, batch_size(images, side), augmentation)
    stem = {"backbone": {"stem": "cifar"}} if side <= CIFAR_STEM_UP_TO else {}
    model = {"name": "resnet18", "num_classes": len(report.class_names), **stem}
    schedule = {
        "epochs": epochs_for(images),
        "optimizer": {"name": "sgd", "momentum": 0.9, "weight_decay": 5e-4},
        "learning_rate": {"name": "cosine", "value": 0.1},
        "base_batch_size": 128,
        "warmup": 1.0,
    }
    return [
        f"    config.model = {_python(model)}",
        *_assigned("data", data, _comments(data, images)),
        *_assigned("schedule", schedule, {"base_batch_size": "of the learning rate, which follows data.batch_size"}),
    ]


def _detector(plan: Plan, report: Report, train: Any) -> list[str]:
    """Model, data and schedule: RetinaNet, Mask R-CNN or Panoptic FPN with a ResNet-18 from scratch.

    Anchors begin at the smaller objects.
    """
    images, name = report.parts[0].images, MODELS[plan.task["name"]]
    masks = name != "retinanet"
    side, pixels = image_side(report.parts[0].sizes, DETECTION_SIDES), measure_pixels(train)
    flip = () if pixels.channels == 1 else ("random_flip",)
    how = {"host_transforms": ("letterbox",), "eval_host_transforms": ("letterbox",), "augment": flip}
    most = MASK_BATCH if masks else DETECTION_BATCH
    data = _data(plan, side, pixels, min(most, batch_size(images, side)), how)
    model = {
        "name": name,
        "num_classes": len(report.class_names),
        **({"num_stuff": sum(not thing for thing in train.things)} if name == "panoptic_fpn" else {}),
        "backbone": "resnet18",
        "neck": {"channels": 128},
        **(_regions if masks else _anchors)(anchor_scale(train, side)),
    }
    schedule = {
        "epochs": epochs_for(images),
        "optimizer": {"name": "adamw", "weight_decay": 0.05},
        "learning_rate": {"name": "cosine", "value": 1e-3},
        "base_batch_size": most,
        "warmup": 1.0,
        "clip_norm": 5.0,
    }
    comments = _comments(data, images) | {"image_size": "height, width; images are fitted into it"}
    comments["host_transforms"] = "the whole image, with plain borders beside it"
    finest = 4 if masks else 8
    return [
        "    # anchors.scales: sides of square ones over the stride, "
        f"{finest} pixels at the finest level, {2 * finest} at the next, ...",
        f"    config.model = {_python(model, 4, len('config.model = '))}",
        '    # weights of ImageNet, where they can be had: config.pretrained = dict(backbone="torchvision:resnet18")',
        *_assigned("data", data, comments),
        *_assigned("schedule", schedule, {"base_batch_size": "of the learning rate, which follows data.batch_size"}),
    ]


def _segmenter(plan: Plan, report: Report, train: Any) -> list[str]:
    """Model, data and schedule: the dilated FCN with a ResNet-18 from scratch, which learns from random windows."""
    images = report.parts[0].images
    side, pixels = image_side(report.parts[0].sizes, DETECTION_SIDES), measure_pixels(train)
    flip = () if pixels.channels == 1 else ("random_flip",)
    window = {"name": "random_resized_crop", "scale": (0.25, 1.0)}
    how = {"host_transforms": (window,), "eval_host_transforms": ("letterbox",), "augment": flip}
    data = _data(plan, side, pixels, min(DETECTION_BATCH, batch_size(images, side)), how)
    model = {
        "name": MODELS[plan.task["name"]],
        "num_classes": len(report.class_names),
        "backbone": {"name": "resnet18", "output_stride": 8},
        "width": 128,
        "auxiliary": {"width": 64},
    }
    schedule = {
        "epochs": epochs_for(images),
        "optimizer": {"name": "adamw", "weight_decay": 0.05},
        "learning_rate": {"name": "cosine", "value": 1e-3},
        "base_batch_size": DETECTION_BATCH,
        "warmup": 1.0,
        "clip_norm": 5.0,
    }
    comments = _comments(data, images) | {"image_size": "height, width; windows of images are resized to it"}
    comments["eval_host_transforms"] = "the whole image, with plain borders beside it, which do not count"
    return [
        f"    config.model = {_python(model, 4, len('config.model = '))}",
        '    # weights of ImageNet, where they can be had: config.pretrained = dict(backbone="torchvision:resnet18")',
        *_assigned("data", data, comments),
        *_assigned("schedule", schedule, {"base_batch_size": "of the learning rate, which follows data.batch_size"}),
    ]


def _anchors(scale: float) -> dict[str, Any]:
    """Of RetinaNet."""
    return {"anchors": {"scales": tuple(round(scale * 2 ** (i / 3), 2) for i in range(3))}}


def _regions(scale: float) -> dict[str, Any]:
    """Of Mask R-CNN, whose finest level has half the stride; for small images, so with fewer regions than published."""
    few = {"candidates": 500, "max_detections": 200}
    return {
        "proposals": {
            "anchors": {"scales": (round(2 * scale, 2), round(2 * scale * 2**0.5, 2))},
            "training": few,
            "evaluation": few,
        },
        "width": 512,
        "stage": {"sampler": {"count": 128}},
        "mask_width": 128,
    }


def _data(plan: Plan, side: int, pixels: Pixels, batch: int, how: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "source": plan.source,
        "batch_size": batch,
        "image_size": (side, side),
        "channels": pixels.channels,
        **how,
        "eval_transforms": ({"name": "normalize", "mean": pixels.mean, "std": pixels.std},),
    }


def _comments(data: Mapping[str, Any], images: int) -> dict[str, str]:
    flipped = "random_flip" in data["augment"]
    return {
        "image_size": "height, width; images are resized to it",
        **({"augment": "delete random_flip where left and right differ: text, digits, road signs"} if flipped else {}),
        "eval_transforms": f"mean and standard deviation of {min(MEASURED, images)} training images",
    }


def epochs_for(images: int) -> int:
    """By the number of training images, see `EPOCHS`."""
    return next((epochs for most, epochs in EPOCHS if images <= most), FEWEST_EPOCHS)


def anchor_scale(train: Any, side: int) -> float:
    """Side of the smallest anchors over the finest stride, 8: that of the smaller tenth of some objects, 1 to 4.

    Args:
      side: of the canvas, to which images are fitted.
    """
    sides: list[float] = []
    for row in spread(len(train), MEASURED):
        try:
            sample = read_sample(train, int(row))
        except ImageError:
            continue
        boxes = np.asarray(sample.get("boxes", ()), np.float64).reshape(-1, 4)  # panoptic maps have none
        scale = side / max(sample["image"].shape[:2])
        sides += (np.sqrt(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)) * scale).tolist()
    return float(np.clip(np.quantile(sides, 0.1) / 8, 1, 4)) if sides else 4.0


def image_side(sizes: np.ndarray, sides: Sequence[int] = SIDES) -> int:
    """The side of the network's images for files of these heights and widths (zeros where unknown)."""
    known = sizes[(sizes > 0).all(axis=1)]
    if not len(known):
        return sides[-1]
    middle = float(np.median(known.min(axis=1)))
    return max((side for side in sides if side <= 1.1 * middle), default=sides[0])


def batch_size(images: int, side: int) -> int:
    """A power of two: at least eight batches per epoch where there are enough images, and 64 at most, 32 of 224 pixels.

    Fewer than 8 samples leave batch normalisation little to go by.
    """
    most = 64 if side < SIDES[-1] else 32
    wanted = min(most, max(8, images // 8), max(1, images))
    return 1 << (wanted.bit_length() - 1)


def measure_pixels(train: Any) -> Pixels:
    """Channels, mean and standard deviation of the pixels of some training images."""
    shown = []
    for row in spread(len(train), MEASURED):
        try:
            shown.append(fit_image(read_sample(train, int(row))["image"], (64, 64), 3))
        except ImageError:
            continue
    if not shown:
        return Pixels(3, (0.5,), (0.25,))
    stack = np.stack(shown) / 255.0
    grey = bool((stack == stack[..., :1]).all())
    stack = stack[..., :1] if grey else stack
    mean, std = stack.mean(axis=(0, 1, 2)), np.maximum(stack.std(axis=(0, 1, 2)), 0.01)
    return Pixels(1 if grey else 3, tuple(mean.round(3).tolist()), tuple(std.round(3).tolist()))


def _augmentation(files: bool, channels: int, side: int) -> dict[str, Any]:
    """Crops of files on the host, shifts of images in memory on the device; grey ones, often text, are not mirrored."""
    flip = () if channels == 1 else ("random_flip",)
    if not files:
        return {"augment": ({"name": "random_crop_pad", "padding": side // 8}, *flip)}
    crop = {"name": "random_resized_crop", "scale": (0.25, 1.0)}
    evaluation = ({"name": "resize", "mode": "cover"}, "center_crop")
    return {"host_transforms": (crop,), "eval_host_transforms": evaluation, "augment": flip}


def _several_labels() -> dict[str, Any]:
    return {"name": "classification", "criterion": "binary_cross_entropy", "multi_label": True}


def _name(folder: str) -> str:
    """A name for files and runs: letters, digits, `_` and `-` of the folder's own."""
    own = os.path.basename(os.path.normpath(folder if "://" in folder else os.path.abspath(folder)))
    return re.sub(r"[^\w-]+", "_", own).strip("_") or "data"


def _assigned(section: str, values: Mapping[str, Any], comments: Mapping[str, str]) -> list[str]:
    lines = [f"    config.{section} = dict("]
    for key, value in values.items():
        if key in comments:
            lines.append(f"        # {comments[key]}")
        lines.append(f"        {key}={_python(value, 8, len(key) + 2)},")
    return [*lines, "    )"]


def _python(value: Any, indent: int = 0, taken: int = 0) -> str:
    """Python source, with `dict(...)` and double quotes as in the shipped configs.

    A mapping that is too long for its line takes one for each of its arguments; the line begins with `indent` spaces
    and `taken` other characters.
    """
    if isinstance(value, Mapping):
        line = f"dict({', '.join(f'{key}={_python(item)}' for key, item in value.items())})"
        if indent + taken + len(line) <= WIDTH:
            return line
        inner = indent + 4
        items = [f"{' ' * inner}{key}={_python(item, inner, len(key) + 2)},\n" for key, item in value.items()]
        return f"dict(\n{''.join(items)}{' ' * indent})"
    if isinstance(value, (tuple, list)):
        return f"({', '.join(map(_python, value))}{',' if len(value) == 1 else ''})"
    if isinstance(value, str) and "'" not in repr(value)[1:-1] and '"' not in value:
        return f'"{repr(value)[1:-1]}"'
    return repr(value)


def _comment(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False)


def _classes(class_names: Sequence[str]) -> list[str]:
    """A comment of them all, in which no line ends within a name."""
    joined = ", ".join(f"{i} {_plain(name)}".replace(" ", "\0") for i, name in enumerate(class_names))
    return [line.replace("\0", " ") for line in _comment(f"Classes: {joined}")]


def _plain(text: Any) -> str:
    """One line that any file can hold."""
    return " ".join(str(text).encode("utf-8", "replace").decode().split())
