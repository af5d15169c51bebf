"""What recipes for ImageNet-1k share: the data, the augmentation of the three schools, weight decay, averages.

`torchvision` is that of pytorch/vision's references/classification (train.py, presets.py, README.md), `timm` that of
timm's train.py, which DeiT, Swin, ConvNeXt and "ResNet strikes back" use. What every recipe here does otherwise than
its source: Mixup and CutMix draw one share per pair of neighbours (their programs: one per batch); the learning rate
rises every step in the warm-up (torchvision and timm: once per epoch); the average of the weights is taken after every
step, and begins with the first (torchvision: it is the weights themselves while the warm-up lasts).

tfds:imagenet2012 is prepared by hand, see https://www.tensorflow.org/datasets/catalog/imagenet2012; a folder of
images: `--config.data.source=image_folder:DIR`.
"""

from typing import Any

from configs.common import base
from jaxvision.config import Config

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLASSES = 1000
IMAGES = 1_281_167
"""Of the training part."""

complete = base.complete


def get_config(
    arg: str = "",
    *,
    image_size: int = 224,
    train_size: int | None = None,
    resize: int = 256,
    interpolation: str = "bilinear",
) -> Config:
    """ImageNet-1k with a random window and a flip in training, the centre of the picture in evaluation.

    Args:
      arg: of the config.
      image_size: side in pixels.
      train_size: side in training where it differs.
      resize: shorter side before the centre is cut out.
      interpolation: of windows and of resizing. "bilinear": torchvision (train.py's `--interpolation`). "bicubic":
        DeiT, ConvNeXt (`--train-interpolation`), Swin (`DATA.INTERPOLATION`) and MAE; timm's train.py draws one of the
        two for each window if it is not told, and evaluates with the model's own, "bicubic" for most.
    """
    config = base.get_config(arg)
    config.task = "classification"
    config.data = dict(
        source="tfds_records:imagenet2012",
        image_size=(image_size, image_size),
        buckets=() if train_size is None else ((train_size, train_size),),
        channels=3,
        host_transforms=(dict(name="random_resized_crop", interpolation=interpolation),),
        eval_host_transforms=(dict(name="resize_side", short=resize, interpolation=interpolation), "center_crop"),
        augment=("random_flip",),
        eval_transforms=(dict(name="normalize", mean=MEAN, std=STD),),
    )
    config.checkpoint.best_metric = "top1"
    return config


def augmentation(
    config: Config,
    *,
    policy: str | dict | None = None,
    erasing: float = 0.0,
    erasing_mode: str = "constant",
    mixup: float = 0.0,
    cutmix: float = 0.0,
) -> None:
    """Adds to what `get_config` gives.

    Args:
      policy: host transform after the window ("trivial_augment", "autoaugment", `timm_policy(9)`); torchvision's
        presets.py gives its policies the interpolation of the window, and "nearest" is the default.
      erasing: probability that a rectangle is overwritten, after the normalisation.
      erasing_mode: torchvision writes zeros ("constant"), timm noise ("normal").
      mixup: alpha; with `cutmix` either is chosen for each pair with the same probability.
      cutmix: alpha.
    """
    data = config.data
    if policy is not None:
        data.host_transforms = (data.host_transforms[0], policy)
    augment: list[Any] = ["random_flip"]
    normalize: dict[str, Any] = dict(name="normalize", mean=MEAN, std=STD)
    if erasing:
        # torchvision: area 0.02 .. 0.33, aspect 0.3 .. 3.3; timm: 0.02 .. 1/3, 0.3 .. 1/0.3
        timm: dict[str, Any] = dict(area=(0.02, 1 / 3), aspect=(0.3, 1 / 0.3)) if erasing_mode == "normal" else {}
        augment += [normalize, dict(name="random_erasing", probability=erasing, mode=erasing_mode, **timm)]
        data.eval_transforms = (normalize,)
    if mixup and cutmix:
        augment.append(dict(name="mixup_cutmix", num_classes=CLASSES, mixup_alpha=mixup, cutmix_alpha=cutmix))
    elif mixup:
        augment.append(dict(name="mixup", num_classes=CLASSES, alpha=mixup))
    data.augment = tuple(augment)


def timm_policy(magnitude: int, *, increasing: bool = True, interpolation: str = "bicubic") -> dict:
    """timm's "rand-m9-mstd0.5-inc1"; its default of `interpolation` is "random"."""
    policy = f"rand-m{magnitude}-mstd0.5{'-inc1' if increasing else ''}"
    return dict(name="timm/randaugment", policy=policy, interpolation=interpolation)


def torchvision_sgd(batch_size: int, learning_rate: dict, epochs: int, weight_decay: float = 1e-4) -> dict:
    """A schedule of pytorch/vision's train.py with its default optimizer; the rate is given for this batch."""
    return dict(
        epochs=epochs,
        optimizer=dict(name="sgd", momentum=0.9, weight_decay=weight_decay),
        learning_rate=learning_rate,
        base_batch_size=batch_size,
    )


def average(batch_size: int, epochs: int, decay: float = 0.99998, every: int = 32) -> float:
    """The decay per step of torchvision's `--model-ema`, which averages every 32nd step.

    There the decay is adjusted to `1 - (1 - decay) * batch_size * every / epochs`; its `every`-th root is the same
    average taken after every step.
    """
    return (1 - min(1.0, (1 - decay) * batch_size * every / epochs)) ** (1 / every)
