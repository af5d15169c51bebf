"""What the model is really fed: batches of the loader after the device transforms, as samples for the eye."""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, UInt8
from PIL import Image

from jaxvision import augment, errors, experiment
from jaxvision import config as configs
from jaxvision.checking import read_sample
from jaxvision.data.build import build_data
from jaxvision.data.samples import Sample
from jaxvision.ops.masks import unpack_masks
from jaxvision.structures import Instances

PER_SHEET = 36
"""Samples on one contact sheet at most."""
SIDE = 320
"""Longest side of a picture on a sheet, in pixels."""


@dataclasses.dataclass(frozen=True, eq=False)
class Fed:
    """One sample as the model gets it.

    Attributes:
      sample: in the schema of `data.samples`, the image in uint8 before normalisation, coordinates in canvas pixels.
      original: the sample as the source has it, where it was asked for.
      title: name of the file, or number of the sample.
    """

    sample: Sample
    original: Sample | None
    title: str


def browse(
    config: Any, *, split: str = "train", step: int = 0, count: int = 16, original: bool = False
) -> tuple[list[Fed], Any]:
    """The first samples that a run of the config takes from `step` on, with its seed: the same pixels bit for bit.

    Args:
      config: completed config.
      split: "train", augmented; or "validation", in the order of the source.
      step: number of batches before, 0-based.
      count: of samples.
      original: also reads them without the loader.

    Returns:
      The samples, fewer where the validation part ends, and their source.

    Raises:
      SetupError: data that cannot be built or read.
    """
    with errors.setup():
        data = build_data(config.data, config.seed)
        loader = data.train if split == "train" else data.evaluation
        training = experiment.training_preprocess(config, data.train) if split == "train" else None
        preprocess = jax.jit(training or experiment.build_preprocess(config, train=False))
        batches = loader.train(step) if split == "train" else itertools.islice(loader.evaluate(), step, None)
        key = augmentation_key(config.seed)
        found: list[Fed] = []
        for batch in batches:
            fed = jax.device_get(preprocess(batch, key))
            for row in np.flatnonzero(fed["valid"]):
                found.append(_fed(config, loader.source, fed, int(row), original))
                if len(found) == count:
                    return found, loader.source
    return found, loader.source


def augmentation_key(seed: int) -> Array:
    """The random key that the train step gives to the device transforms (`engine.state.create_state`)."""
    return jax.random.split(jax.random.key(seed))[1]


def sheets(found: Sequence[Fed], source: Any) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    """Contact sheets of samples, each beside its original where there is one."""
    from jaxvision.visualization.canvas import enlarge
    from jaxvision.visualization.samples import draw_sample
    from jaxvision.visualization.sheets import contact_sheet

    names, keypoints = tuple(source.class_names), tuple(getattr(source, "keypoint_names", ()))
    for start in range(0, len(found), PER_SHEET):
        part = found[start : start + PER_SHEET]
        pictures = []
        for fed in part:
            shown = enlarge(draw_sample(_untitled(fed.sample), names, keypoints), smallest=SIDE // 2, largest=SIDE)
            if fed.original is not None:
                shown = _side_by_side(draw_sample(_untitled(fed.original), names, keypoints), shown)
            pictures.append(shown)
        wide = 2 if part[0].original is not None else 1
        yield contact_sheet(pictures, [_title(fed, names) for fed in part], largest=wide * SIDE)


def displayed(image: np.ndarray, config: Any) -> UInt8[np.ndarray, "h w c"]:
    """A preprocessed image `[h, w, c]` in uint8 again: the config's `normalize` taken back."""
    chosen = [configs.build("augment", spec) for spec in (*config.data.augment, *config.data.eval_transforms)]
    pixels = image.astype(np.float64)
    for transform in reversed(chosen):
        if isinstance(transform, augment.Normalize):
            pixels = pixels * np.asarray(transform.std) + np.asarray(transform.mean)
    return np.round(np.clip(pixels, 0, 1) * 255).astype(np.uint8)


def _untitled(sample: Sample) -> Sample:
    """Without the label of the image, which stands over it on the sheet."""
    return {key: value for key, value in sample.items() if key != "label"}


def _title(fed: Fed, class_names: Sequence[str]) -> str:
    """With the label of the image: tiny pictures have no room for it. Mixed labels have their shares."""
    label = fed.sample.get("label")
    if label is None:
        return fed.title
    if np.ndim(label) == 0:
        return f"{fed.title}: {class_names[int(label)]}"
    held = [i for i in np.argsort(-label, kind="stable") if label[i] > 0]
    shown = [class_names[i] + ("" if label[i] == 1 else f" {label[i]:.2g}") for i in held]
    return f"{fed.title}: {', '.join(shown) or 'no class'}"


def _fed(config: Any, source: Any, batch: Mapping[str, Any], row: int, original: bool) -> Fed:
    own = jax.tree.map(lambda x: x[row], dict(batch))
    sample: Sample = {"image": displayed(own["image"], config)}
    sample |= {key: own[key] for key in ("label", "semantic") if key in own}
    if "targets" in own:
        sample |= _objects(own["targets"], sample["image"].shape[1])
    if "panoptic" in own:
        kept = own["segment_valid"]
        sample["panoptic"] = own["panoptic"]
        sample |= {key: own[key][kept] for key in ("segment_labels", "segment_crowd")}
    index = int(own["index"])
    title = source.file(index) if hasattr(source, "file") else f"sample {index}"
    return Fed(sample, read_sample(source, index) if original else None, title.rpartition("/")[2])


def _objects(targets: Instances, width: int) -> Sample:
    """The valid rows of one image, masks unpacked."""
    fields = {field.name: getattr(targets, field.name) for field in dataclasses.fields(targets)}
    valid = fields.pop("valid")
    sample = {name: values[valid] for name, values in fields.items() if values is not None}
    if "masks" in sample:
        sample["masks"] = unpack_masks(sample["masks"], width)
    return sample


def _side_by_side(
    left: UInt8[np.ndarray, "a b 3"], right: UInt8[np.ndarray, "c d 3"], gap: int = 6
) -> UInt8[np.ndarray, "h w 3"]:
    """Both in cells of `SIDE`, so that a large photograph does not make what is fed look tiny."""
    pictures = []
    for picture in (left, right):
        scale = SIDE / max(picture.shape[:2])
        size = tuple(max(1, round(side * scale)) for side in picture.shape[1::-1])
        method = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
        pictures.append(np.asarray(Image.fromarray(picture).resize(size, method)))
    height = max(picture.shape[0] for picture in pictures)
    paper = np.full((height, sum(picture.shape[1] for picture in pictures) + gap, 3), 255, np.uint8)
    paper[: pictures[0].shape[0], : pictures[0].shape[1]] = pictures[0]
    paper[: pictures[1].shape[0], -pictures[1].shape[1] :] = pictures[1]
    return paper
