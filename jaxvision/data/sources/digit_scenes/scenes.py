"""`DigitScenes`: pictures with everything that can be annotated about them."""

from typing import Any

import numpy as np
from jaxtyping import Int

from jaxvision import registry
from jaxvision.data.collate import collate
from jaxvision.data.samples import Sample
from jaxvision.data.sources.digit_scenes import annotate, render
from jaxvision.data.sources.digit_scenes.compose import Layout, compose
from jaxvision.data.sources.digit_scenes.draws import Draws
from jaxvision.data.sources.digit_scenes.glyphs import KEYPOINTS, load_glyphs
from jaxvision.data.sources.digit_scenes.presets import resolve
from jaxvision.data.sources.memory import check_split

OBJECT_KEYS = ("boxes", "labels", "crowd", "area")
"""Given together, with each of the other annotations of objects."""
MORE_OBJECT_KEYS = ("masks", "keypoints", "rotated_boxes", "texts")
PIXEL_KEYS = ("semantic", "panoptic")
KEEP_BYTES = 2**28
"""Scenes that take no more than this (256 MiB) together are kept in memory once they are made."""


class DigitScenes:
    """Scanned digits, turned and scaled, on textured grounds; `presets` says how difficult, `annotate` what is true.

    Scene i is a function of (seed, split, i), the preset and the size: it does not depend on `num_examples`, on
    `annotations` or on what was read before, and is the same in every process. Training scenes are made of training
    digits, validation scenes of validation digits.

    Scenes are made when they are asked for; one CPU core makes, per second at 128x128 (256x256), 640 (250) easy, 430
    (200) medium, 270 (140) hard, 100 (70) crowd ones and 350 (190) of lines. They are kept, as uint8 images and maps of
    object numbers, where all of them take no more than `KEEP_BYTES`: 4,096 scenes of 128x128 pixels in colour fill
    256 MiB.

    Class i is digit i; with the preset `lines` the one class is "line". Where `semantic` or `panoptic` is among the
    annotations, "background" is the last class, after the things, as in COCO's panoptic categories; so a class has the
    same number in all annotations.

    Attributes:
      preset: the ranges that scenes are drawn from.
      max_instances: rows of `targets` that `gather` gives, which every scene fits in.
    """

    def __init__(
        self,
        preset: str = "easy",
        num_examples: int = 1000,
        validation_examples: int = 200,
        annotations: tuple[str, ...] = ("boxes",),
        seed: int = 0,
        objects: tuple[int, int] | None = None,
        scale: tuple[float, float] | None = None,
        rotation: float | None = None,
        overlap: float | None = None,
        clutter: int | None = None,
        contrast: tuple[float, float] | None = None,
        noise: int | None = None,
        *,
        split: str,
        image_size: tuple[int, int],
        channels: int,
    ):
        """From `objects` on: values in place of the preset's; see `presets.Preset`.

        Args:
          preset: "easy", "medium", "hard", "crowd" or "lines".
          num_examples: training scenes.
          validation_examples: validation scenes.
          annotations: of `label` (which digits are in the picture, float32 `[10]`), `boxes`, `masks`, `keypoints`,
            `rotated_boxes`, `texts` (each of these five with `OBJECT_KEYS`), `semantic`, `panoptic`.
          seed: chooses the scenes; 0..2**64-1.
        """
        check_split(split)
        changes = {
            "objects": objects, "scale": scale, "rotation": rotation, "overlap": overlap, "clutter": clutter,
            "contrast": contrast, "noise": noise,
        }  # fmt: skip
        self.preset = resolve(preset, changes)
        self.name = f"digit_scenes:{preset}"
        self.annotations = expand(annotations)
        length = num_examples if split == "train" else validation_examples
        self._length = check_extent(self.name, length, image_size, channels)
        things = ("line",) if self.preset.lines else tuple("0123456789")
        ground = ("background",) if {"semantic", "panoptic"} & set(self.annotations) else ()
        self.class_names = things + ground
        self.keypoint_names = KEYPOINTS if "keypoints" in self.annotations else ()
        self.multi_label = "label" in self.annotations
        self.max_instances = max(1, self.preset.most_objects)
        self._split, self._seed = split, seed
        self._size, self._channels = (int(image_size[0]), int(image_size[1])), channels
        self._kept: dict[int, tuple[np.ndarray, np.ndarray, Sample]] | None = None
        if self._length * self._size[0] * self._size[1] * (channels + 1) <= KEEP_BYTES:
            self._kept = {}

    def __len__(self) -> int:
        return self._length

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return (*self._size, self._channels)

    def sample(self, index: int) -> Sample:
        """See `SampleSource`."""
        image, objects, rows = self._scene(check_index(self.name, index, self._length))
        sample: Sample = {
            "image": image.copy(), "file": f"{self.name}/{self._split}/{index:06d}", "id": int(index),
        }  # fmt: skip
        asked, background = self.annotations, self.num_classes - 1
        for key in asked:
            if key in rows:
                sample[key] = rows[key] if key == "texts" else rows[key].copy()
        if "label" in asked:
            sample["label"] = np.isin(np.arange(self.num_classes), rows["labels"]).astype(np.float32)
        if "masks" in asked:
            sample["masks"] = annotate.masks(objects, len(rows["labels"]))
        if "semantic" in asked:
            sample["semantic"] = annotate.semantic(objects, rows["labels"], background)
        if "panoptic" in asked:
            sample |= annotate.panoptic(objects, rows, background)
        return sample

    def gather(self, indices: Int[np.ndarray, " n"]) -> dict[str, Any]:
        """A batch (see `data.collate`) with `max_instances` rows of objects; texts are left out."""
        samples = [self.sample(int(index)) for index in indices]
        return collate(samples, max_instances=self.max_instances, max_segments=self.max_instances + 1)

    def layout(self, index: int) -> Layout:
        """The objects of scene `index` as they were placed, hidden parts included."""
        glyphs = load_glyphs(self._split)
        return compose(glyphs, self.preset, self._size, Draws(self._seed, self._stream(index), 0))

    def _stream(self, index: int) -> int:
        return 2 * index + (self._split == "validation")

    def _scene(self, index: int) -> tuple[np.ndarray, np.ndarray, Sample]:
        """Image, map of object numbers, and rows of all objects."""
        if self._kept is not None and index in self._kept:
            return self._kept[index]
        layout, draws = self.layout(index), Draws(self._seed, self._stream(index), 1)
        ground = render.make_ground(self.preset, self._size, draws)
        tiles = [item.tile.cut(*self._size) for item in layout.items] + list(layout.occluders)
        for tile, color in zip(tiles, render.object_colors(self.preset, ground, len(tiles), draws), strict=True):
            render.paint(ground.pixels, tile, color)
        image = render.finish(ground.pixels, self.preset.noise, self._channels, draws)
        count = len(layout.items)
        objects = np.where(layout.top <= count, layout.top, 0).astype(np.uint8 if count < 256 else np.uint16)
        scene = image, objects, annotate.instances(layout)
        if self._kept is not None:
            self._kept[index] = scene
        return scene


def expand(annotations: tuple[str, ...]) -> tuple[str, ...]:
    """The keys of samples that have these annotations.

    Raises:
      ValueError: an unknown one, or none.
    """
    known = ("label", *OBJECT_KEYS, *MORE_OBJECT_KEYS, *PIXEL_KEYS)
    for name in annotations:
        if name not in known:
            raise ValueError(f"unknown annotation {name!r}: {registry.hint(name, known)}")
    if not annotations:
        raise ValueError(f"annotations is empty: expected some of {', '.join(known)}")
    keys = [key for key in ("label",) if key in annotations]
    if set(annotations) & {*OBJECT_KEYS, *MORE_OBJECT_KEYS}:
        keys += [*OBJECT_KEYS, *(key for key in MORE_OBJECT_KEYS if key in annotations)]
    keys += [key for key in PIXEL_KEYS if key in annotations]
    return (*keys, "segment_labels", "segment_crowd") if "panoptic" in keys else tuple(keys)


def check_extent(name: str, length: int, image_size: tuple[int, int], channels: int) -> int:
    """The length, if there is something of a possible size to draw."""
    if length < 1:
        raise ValueError(f"{name}: {length} examples; expected at least 1")
    if channels not in (1, 3):
        raise ValueError(f"{name}: channels is {channels}: images have 1 channel (grey) or 3 (RGB)")
    if min(image_size) < 1:
        raise ValueError(f"{name}: image_size is {tuple(image_size)}: expected at least 1 pixel")
    return length


def check_index(name: str, index: int, length: int) -> int:
    """The index, if there is such a sample."""
    if not 0 <= index < length:
        raise IndexError(f"{name} has samples 0..{length - 1}, not {index}")
    return int(index)
