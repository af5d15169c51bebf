"""Names -> constructors: one static table of rows whose targets ("module:attr") are imported when they are built.

A constructor parameter that is named after a kind (`backbone=`, `norm=`) is a slot: a config fills it with the name of
a row of that kind; its plural (`sources=`) is a tuple of slots. A user's own package adds rows with `register`, from a
module that `config.imports` names.
"""

import dataclasses
import difflib
import fnmatch
import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from jaxvision.errors import UserError

KINDS = (
    "task",
    "model",
    "backbone",
    "neck",
    "norm",
    "source",
    "host_transform",
    "augment",
    "optimizer",
    "learning_rate",
)

SUPPLIED: Mapping[str, tuple[str, ...]] = {
    "task": ("model", "num_classes", "class_names"),
    "source": ("split", "image_size", "channels", "max_instances"),
}
"""Arguments that the library passes itself; they do not appear in a config."""


CLASSIFIER = "jaxvision.classification.classifier:Classifier"


class RegistryError(UserError, ValueError):
    """An unknown or doubled name, or a target that cannot be imported."""


@dataclasses.dataclass(frozen=True, eq=False)
class Entry:
    """One row of the table.

    Attributes:
      kind: one of `KINDS`.
      name: what configs call it.
      target: the constructor, or "module:attr".
      preset: arguments that replace the constructor's defaults; visible in the config.
      fixed: arguments that the name itself stands for; not in the config.
      smoke: arguments of the tiny form; a `name` among them replaces the row by another one.
      supplied: parameters that the library passes, as far as the constructor has them, and to the slots of the same
        kind in it, as far as their rows list them.
      nested: arguments that those slots get instead.
      doc: one line for lists.
    """

    kind: str
    name: str
    target: str | Callable[..., Any]
    preset: Mapping[str, Any]
    fixed: Mapping[str, Any]
    smoke: Mapping[str, Any]
    supplied: tuple[str, ...]
    doc: str = ""
    nested: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def address(self) -> str:
        """The target as "module:attr"."""
        if isinstance(self.target, str):
            return self.target
        return f"{self.target.__module__}:{getattr(self.target, '__qualname__', type(self.target).__qualname__)}"

    def load(self) -> Callable[..., Any]:
        """Imports the constructor."""
        if not isinstance(self.target, str):
            return self.target
        module, _, attribute = self.target.partition(":")
        try:
            return getattr(importlib.import_module(module), attribute)
        except Exception as error:  # a user's module may fail in any way
            why = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise RegistryError(f"{self.kind} {self.name!r} ({self.target}) cannot be imported: {why}") from error


class _Size(Mapping):
    """The fields of one size of a family, read from its table when they are needed."""

    def __init__(self, table: str, size: str):
        self._table, self._size = table, size

    def _fields(self) -> Mapping[str, Any]:
        module, _, attribute = self._table.partition(":")
        return getattr(importlib.import_module(module), attribute)[self._size]

    def __getitem__(self, key: str) -> Any:
        return self._fields()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields())

    def __len__(self) -> int:
        return len(self._fields())


_ROWS: dict[tuple[str, str], Entry] = {}
_ALIASES: dict[tuple[str, str], str] = {}


def register(
    kind: str,
    name: str,
    target: str | Callable[..., Any],
    *,
    smoke: Mapping[str, Any] | None = None,
    fixed: Mapping[str, Any] | None = None,
    supplied: tuple[str, ...] | None = None,
    nested: Mapping[str, Any] | None = None,
    doc: str = "",
    **preset: Any,
) -> None:
    """Adds a row; `preset` arguments replace defaults of the constructor. See `Entry`.

    The same row twice is accepted, because a module may be loaded twice.

    Raises:
      RegistryError: an unknown kind, or a name that another target has.
    """
    _check_kind(kind)
    supplied = SUPPLIED.get(kind, ()) if supplied is None else supplied
    _add(Entry(kind, name, target, preset, fixed or {}, smoke or {}, supplied, doc, nested or {}))


def register_family(
    name: str,
    target: str,
    sizes: Iterable[str],
    *,
    smoke: Mapping[str, Any],
    aliases: Mapping[str, str] | None = None,
    doc: str = "",
) -> None:
    """Adds a family of backbones under its own name and under each size's, and a classifier for each size.

    Args:
      target: "module:attr" of the constructor; the module's `SIZES` maps each name of `sizes` to its arguments.
      smoke: arguments of the tiny form.
      aliases: other projects' name -> size.

    Raises:
      RegistryError: a name that another target has.
    """
    register("backbone", name, target, smoke=smoke, doc=doc)
    table = f"{target.partition(':')[0]}:SIZES"
    for size in sizes:
        _add(Entry("backbone", size, target, _Size(table, size), {}, smoke, (), doc))
        register("model", size, CLASSIFIER, backbone={"name": size}, doc=doc)
    for alias, size in (aliases or {}).items():
        register_alias("backbone", alias, size)
        register_alias("model", alias, size)


def register_alias(kind: str, alias: str, name: str) -> None:
    """Another project's name for a row: `lookup` knows it, `names` does not list it.

    Raises:
      RegistryError: there is no row `name`, or another row is called `alias`.
    """
    lookup(kind, name)
    if (kind, alias) in _ROWS or _ALIASES.get((kind, alias), name) != name:
        raise RegistryError(f"{kind} {alias!r} is registered already: it cannot stand for {name!r}")
    _ALIASES[kind, alias] = name


def _add(entry: Entry) -> None:
    kind, name = entry.kind, entry.name
    if (kind, name) in _ALIASES:
        raise RegistryError(f"{kind} {name!r} stands for {_ALIASES[kind, name]!r} already: choose another name")
    old = _ROWS.get((kind, name))
    if old is not None and (old.address, old.preset, old.fixed) != (entry.address, entry.preset, entry.fixed):
        raise RegistryError(
            f"{kind} {name!r} is registered already, as {old.address}: register {entry.address} under another name"
        )
    _ROWS[kind, name] = entry


def lookup(kind: str, name: str) -> Entry:
    """The row of this name or alias, or a RegistryError with the nearest ones."""
    _check_kind(kind)
    entry = _ROWS.get((kind, _ALIASES.get((kind, name), name)))
    if entry is None:
        aliases = (alias for other, alias in _ALIASES if other == kind)
        raise RegistryError(f"unknown {kind} {name!r}: {hint(name, (*names(kind), *aliases))}")
    return entry


def names(kind: str, pattern: str = "*") -> tuple[str, ...]:
    """Registered names that match a shell pattern, sorted: `names("model", "resnet*")`."""
    _check_kind(kind)
    return tuple(sorted(name for row_kind, name in _ROWS if row_kind == kind and fnmatch.fnmatchcase(name, pattern)))


def entries() -> tuple[Entry, ...]:
    """Every row."""
    return tuple(_ROWS.values())


def hint(given: str, known: Iterable[str]) -> str:
    """ "did you mean 'x'?", or the list of what is known where nothing is near."""
    known = list(known)
    near = difflib.get_close_matches(str(given), known, n=1, cutoff=0.6)
    if not near:
        lower = {name.lower(): name for name in known}
        near = [lower[match] for match in difflib.get_close_matches(str(given).lower(), lower, n=1, cutoff=0.6)]
    if near:
        return f"did you mean {near[0]!r}?"
    return f"expected one of {', '.join(known)}" if known else "there is none yet"


def slot_kind(parameter: str) -> tuple[str, bool] | None:
    """The kind of the slot that a parameter of this name is, and whether it takes a tuple of them; None for others."""
    if parameter in KINDS:
        return parameter, False
    single = parameter.removesuffix("s")
    return (single, True) if single != parameter and single in KINDS else None


def _check_kind(kind: str) -> None:
    if kind not in KINDS:
        raise RegistryError(f"unknown kind {kind!r}: {hint(kind, KINDS)}")


def _fill_table() -> None:
    register("task", "classification", "jaxvision.classification.task:ClassificationTask")

    register("model", "linear", CLASSIFIER, backbone={"name": "flatten"}, doc="softmax regression on pixels")
    register("model", "lenet5", CLASSIFIER, backbone={"name": "lenet5"}, doc="LeCun et al. 1998")
    register("backbone", "flatten", "jaxvision.classification.linear:Flatten")
    register("backbone", "lenet5", "jaxvision.backbones.lenet:LeNet5")

    register_family(
        "resnet",
        "jaxvision.backbones.resnet:ResNet",
        (
            *("resnet18", "resnet26", "resnet34", "resnet50", "resnet101", "resnet152", "resnet200"),
            *("resnet50c", "resnet101c", "resnet152c", "resnet50s", "resnet101s", "resnet152s"),
            *("resnet18d", "resnet26d", "resnet34d", "resnet50d", "resnet101d", "resnet152d", "resnet200d"),
            *("resnet10t", "resnet14t", "resnet26t", "resnet50t", "resnet50_gn"),
            *("resnet50_caffe", "resnet101_caffe", "wide_resnet50_2", "wide_resnet101_2"),
            *("resnet18_cifar", "resnet34_cifar", "resnet50_cifar", "resnet101_cifar", "resnet152_cifar"),
            *("resnext50_32x4d", "resnext50d_32x4d", "resnext101_32x4d", "resnext101_32x8d", "resnext101_32x16d"),
            *("resnext101_32x32d", "resnext101_64x4d", "resnext152_32x4d"),
        ),
        smoke={"depth": 14, "width": 8},
        aliases={
            **{f"resnetv1c{depth}": f"resnet{depth}c" for depth in (50, 101, 152)},
            **{f"resnetv1d{depth}": f"resnet{depth}d" for depth in (50, 101, 152)},
            "wide-resnet50": "wide_resnet50_2",
        },
        doc="He et al. 2015",
    )
    register_family(
        "senet",
        "jaxvision.backbones.senet:SENet",
        (
            *("seresnet18", "seresnet34", "seresnet50", "seresnet101", "seresnet152", "seresnet50t"),
            *("seresnet152d", "seresnet200d", "seresnet269d", "seresnext26d_32x4d", "seresnext26t_32x4d"),
            *("seresnext50_32x4d", "seresnext101_32x4d", "seresnext101_32x8d", "seresnext101_64x4d"),
            *("seresnext101d_32x8d", "senet154", "legacy_senet154", "legacy_seresnet18", "legacy_seresnet34"),
            *("legacy_seresnet50", "legacy_seresnet101", "legacy_seresnet152", "legacy_seresnext26_32x4d"),
            *("legacy_seresnext50_32x4d", "legacy_seresnext101_32x4d"),
        ),
        smoke={"depth": 14, "width": 8},
        doc="Hu et al. 2018",
    )
    register_family(
        "resnest",
        "jaxvision.backbones.resnest:ResNeSt",
        (
            *("resnest14d", "resnest26d", "resnest50d", "resnest101e", "resnest200e", "resnest269e"),
            *("resnest50d_4s2x40d", "resnest50d_1s4x24d"),
        ),
        smoke={"depth": 14, "width": 8},
        aliases={
            **{f"resnest{depth}": f"resnest{depth}{stem}" for depth, stem in ((50, "d"), (101, "e"), (200, "e"))},
            "resnest269": "resnest269e",
        },
        doc="Zhang et al. 2022",
    )

    for kind in ("bn", "sync_bn", "frozen_bn", "gn", "ln"):
        register("norm", kind, "jaxvision.layers.norm:Norm", fixed={"kind": kind})

    for name, attribute in (("digits", "Digits"), ("idx", "Idx"), ("npz", "Npz"), ("tfds", "Tfds")):
        register("source", name, f"jaxvision.data.sources:{attribute}", smoke={"name": "synthetic"})
    register("source", "presence", "jaxvision.data.presence:presence", supplied=("split",), smoke={"name": "synthetic"})
    register("source", "synthetic", "jaxvision.data.sources:Synthetic", smoke={"num_examples": 20})
    few = {"num_examples": 20, "validation_examples": 20}
    register("source", "digit_scenes", "jaxvision.data.sources:DigitScenes", smoke=few)
    register("source", "digit_clips", "jaxvision.data.sources:DigitClips", smoke=few)
    for name in ("coco", "coco_panoptic", "image_folder", "image_mask", "tfds_records", "voc", "yolo"):
        target = f"jaxvision.data.sources.{name}:{name}"
        register("source", name, target, supplied=("split",), smoke={"name": "synthetic"})
    for name in ("class_balanced", "concatenate", "k_fold", "repeat", "subset"):
        target = f"jaxvision.data.wrappers:{name}"
        nested = {"split": "train"} if name == "k_fold" else {}
        register("source", name, target, supplied=("split",), nested=nested, smoke={"name": "synthetic"})

    for name, attribute in (
        ("color_jitter", "ColorJitter"),
        ("normalize", "Normalize"),
        ("random_crop_pad", "RandomCropPad"),
        ("random_flip", "RandomFlip"),
    ):
        register("augment", name, f"jaxvision.augment:{attribute}")

    for name, attribute in (
        ("center_crop", "CenterCrop"),
        ("expand", "Expand"),
        ("iou_crop", "IouCrop"),
        ("letterbox", "Letterbox"),
        ("random_crop", "RandomCrop"),
        ("random_resized_crop", "RandomResizedCrop"),
        ("random_short_side", "RandomShortSide"),
        ("resize", "Resize"),
        ("resize_side", "ResizeSide"),
    ):
        register("host_transform", name, f"jaxvision.data.transforms:{attribute}")
    for direction in ("horizontal", "vertical"):
        register("augment", f"random_{direction}_flip", "jaxvision.augment:RandomFlip", fixed={"direction": direction})
    for name, attribute in (
        ("copy_paste", "CopyPaste"),
        ("cutmix", "CutMix"),
        ("detection_mixup", "DetectionMixup"),
        ("large_scale_jitter", "LargeScaleJitter"),
        ("mixup", "Mixup"),
        ("mixup_cutmix", "MixupCutMix"),
        ("mosaic", "Mosaic"),
        ("random_affine", "RandomAffine"),
        ("random_perspective", "RandomPerspective"),
        ("random_rot90", "RandomRot90"),
        ("random_rotate", "RandomRotate"),
        ("random_shear", "RandomShear"),
    ):
        register("augment", name, f"jaxvision.augment:{attribute}")

    for name, attribute in (
        ("gaussian_blur", "GaussianBlur"),
        ("gaussian_noise", "GaussianNoise"),
        ("photo_metric_distortion", "PhotoMetricDistortion"),
        ("random_autocontrast", "RandomAutocontrast"),
        ("random_equalize", "RandomEqualize"),
        ("random_erasing", "RandomErasing"),
        ("random_grayscale", "RandomGrayscale"),
        ("random_hsv", "RandomHSV"),
        ("random_invert", "RandomInvert"),
        ("random_posterize", "RandomPosterize"),
        ("random_sharpness", "RandomSharpness"),
        ("random_solarize", "RandomSolarize"),
    ):
        register("augment", name, f"jaxvision.augment:{attribute}")

    for name, attribute in (
        ("augmix", "AugMix"),
        ("autoaugment", "AutoAugment"),
        ("randaugment", "RandAugment"),
        ("timm/randaugment", "TimmRandAugment"),
        ("torchvision/randaugment", "RandAugment"),
        ("trivial_augment", "TrivialAugmentWide"),
    ):
        register("host_transform", name, f"jaxvision.data.transforms.policies:{attribute}")

    for name in ("sgd", "adam", "adamw", "lamb", "lars", "lion", "rmsprop", "lbfgs"):
        register("optimizer", name, f"jaxvision.engine.optimizers:{name}")
    for name in (
        *("constant", "step", "cosine", "polynomial", "linear", "one_cycle"),
        *("exponential", "reduce_on_plateau", "restarts"),
    ):
        register("learning_rate", name, f"jaxvision.engine.schedules:{name}")


_fill_table()
