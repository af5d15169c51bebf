"""`DigitClips`: short videos of moving digits, with tracks, or with one action per clip."""

import dataclasses
import math
from typing import Any

import jax
import numpy as np
from jaxtyping import Int

from jaxvision import registry
from jaxvision.data.collate import collate
from jaxvision.data.samples import Sample
from jaxvision.data.sources.digit_scenes import annotate, render
from jaxvision.data.sources.digit_scenes.compose import Item, draw_digit, make_item, on_grid
from jaxvision.data.sources.digit_scenes.draws import Draws
from jaxvision.data.sources.digit_scenes.glyphs import CELLS, KEYPOINTS, Placement, load_glyphs
from jaxvision.data.sources.digit_scenes.presets import resolve
from jaxvision.data.sources.digit_scenes.scenes import check_extent, check_index
from jaxvision.data.sources.memory import check_split

ACTIONS = ("left", "right", "up", "down", "clockwise", "counterclockwise", "grow", "shrink")
TRACK_KEYS = ("boxes", "labels", "track_ids", "present", "area")
"""Given together, with each of the other annotations of tracks."""
MORE_TRACK_KEYS = ("masks", "keypoints", "rotated_boxes")


class DigitClips:
    """Digits that move over a still ground, and over each other, for `frames` frames.

    By default each goes its own way: straight on until the border turns it back, swinging and breathing; the
    annotations are tracks. With `actions` all digits of a clip do the same, one of `ACTIONS`, which is the clip's
    `label` and its only annotation. A clip is a function of (seed, split, index) as a scene is.

    Attributes:
      preset: as of `DigitScenes`; objects, scale, rotation, clutter, contrast, texture and noise count.
      frames: per clip.
      max_instances: most tracks of a clip.
    """

    def __init__(
        self,
        preset: str = "easy",
        frames: int = 8,
        num_examples: int = 500,
        validation_examples: int = 100,
        annotations: tuple[str, ...] = ("boxes",),
        actions: bool = False,
        seed: int = 0,
        objects: tuple[int, int] | None = None,
        scale: tuple[float, float] | None = None,
        *,
        split: str,
        image_size: tuple[int, int],
        channels: int,
    ):
        """Like that of `DigitScenes`.

        Args:
          annotations: of `boxes`, `masks`, `keypoints`, `rotated_boxes`, each with `TRACK_KEYS`.
        """
        check_split(split)
        self.preset = resolve(preset, {"objects": objects, "scale": scale})
        if self.preset.lines:
            raise ValueError(f"clips are made of single digits, not of lines: preset {preset!r} is one of scenes only")
        if frames < 1:
            raise ValueError(f"frames is {frames}: expected at least 1")
        self.name = f"digit_clips:{preset}"
        self.frames, self.actions = frames, actions
        self.annotations = ("label",) if actions else expand(annotations)
        self.class_names = ACTIONS if actions else tuple("0123456789")
        self.keypoint_names = KEYPOINTS if "keypoints" in self.annotations else ()
        self.multi_label = False
        self.max_instances = max(1, self.preset.objects[1])
        length = num_examples if split == "train" else validation_examples
        self._length = check_extent(self.name, length, image_size, channels)
        self._split, self._seed = split, seed
        self._size, self._channels = (int(image_size[0]), int(image_size[1])), channels

    def __len__(self) -> int:
        return self._length

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Of one frame."""
        return (*self._size, self._channels)

    def sample(self, index: int) -> Sample:
        """A clip, in the schema of clips in `data.samples`."""
        check_index(self.name, index, self._length)
        layout, look = self._draws(index, 2), self._draws(index, 3)
        action = layout.integer(0, len(ACTIONS) - 1)
        paths = self._paths(action if self.actions else None, layout)
        clip: Sample = {"file": f"{self.name}/{self._split}/{index:06d}", "id": int(index)}
        frames = [[path[time] for path in paths] for time in range(self.frames)]
        tops = np.stack([_top(items, self._size) for items in frames])
        clip["video"] = self._video(frames, look)
        if self.actions:
            return clip | {"label": action}
        return clip | _tracks(frames, tops, self.annotations)

    def gather(self, indices: Int[np.ndarray, " n"]) -> dict[str, Any]:
        """Clips as arrays with a leading axis: `video` `[n, t, h, w, c]`, and `label` int32 `[n]`, or `targets`
        (`structures.Instances` with axes `[n, t, max_instances]`, valid where present) and `track_ids` int32
        `[n, max_instances]`, 0 where there is no track."""
        clips = [self.sample(int(index)) for index in indices]
        batch: dict[str, Any] = {"video": np.stack([clip["video"] for clip in clips])}
        if self.actions:
            return batch | {"label": np.array([clip["label"] for clip in clips], np.int32)}
        batch["targets"] = _stack([self._targets(clip) for clip in clips])
        ids = np.zeros((len(clips), self.max_instances), np.int32)
        for row, clip in zip(ids, clips, strict=True):
            row[: len(clip["track_ids"])] = clip["track_ids"]
        return batch | {"track_ids": ids}

    def _draws(self, index: int, part: int) -> Draws:
        return Draws(self._seed, 2 * index + (self._split == "validation"), part)

    def _targets(self, clip: Sample) -> Any:
        keys = [key for key in ("boxes", "area", *MORE_TRACK_KEYS) if key in clip]
        frames = [
            {"image": image, "labels": clip["labels"]} | {key: clip[key][time] for key in keys}
            for time, image in enumerate(clip["video"])
        ]
        targets = collate(frames, max_instances=self.max_instances)["targets"]
        valid = np.zeros_like(targets.valid)
        valid[:, : clip["present"].shape[1]] = clip["present"]
        labels = np.where(valid, targets.labels, 0)
        return targets.replace(valid=valid, labels=labels)

    def _paths(self, action: int | None, draws: Draws) -> list[list[Item]]:
        """For each digit, what it is at each time."""
        glyphs = load_glyphs(self._split)
        paths = []
        for _ in range(draws.integer(*self.preset.objects)):
            digit = draw_digit(glyphs, self.preset, min(self._size), draws)
            draw = draws.uniforms(10)
            if action is None:
                motion = _free(digit, self._size, self.frames, math.radians(self.preset.rotation), draw)
            else:
                motion = _act(digit, self._size, self.frames, ACTIONS[action], draw)
            paths.append([make_item(glyphs, [placement], placement.angle, line=False) for placement in motion])
        return paths

    def _video(self, frames: list[list[Item]], draws: Draws) -> np.ndarray:
        ground = render.make_ground(self.preset, self._size, draws)
        colors = render.object_colors(self.preset, ground, len(frames[0]), draws)
        video = np.empty((self.frames, *self.image_shape), np.uint8)
        for image, items in zip(video, frames, strict=True):
            pixels = ground.pixels.copy()
            for item, color in zip(items, colors, strict=True):
                render.paint(pixels, item.tile.cut(*self._size), color)
            image[:] = render.finish(pixels, self.preset.noise, self._channels, draws)
        return video


def expand(annotations: tuple[str, ...]) -> tuple[str, ...]:
    """The keys of clips that have these annotations."""
    known = (*TRACK_KEYS, *MORE_TRACK_KEYS)
    for name in annotations:
        if name not in known:
            raise ValueError(f"unknown annotation {name!r} of a clip: {registry.hint(name, known)}")
    if not annotations:
        raise ValueError(f"annotations is empty: expected some of {', '.join(known)}")
    return (*TRACK_KEYS, *(key for key in MORE_TRACK_KEYS if key in annotations))


def _free(digit: Placement, size: tuple[int, int], frames: int, rotation: float, draw: np.ndarray) -> list[Placement]:
    """Straight on between the borders, swinging within the rotation and breathing by 15 %."""
    times, side = np.arange(frames), min(size)
    heading, speed = 2 * math.pi * draw[0], side * (0.01 + 0.05 * draw[1])
    half = digit.cell[1] * CELLS / 2
    places = []
    for length, start, step in ((size[1], draw[2], math.cos(heading)), (size[0], draw[3], math.sin(heading))):
        margin = min(half, length / 2)
        room = length - 2 * margin
        way = np.mod(start * room + times * speed * step, 2 * room) if room > 0 else np.zeros(frames)
        places.append(margin + np.where(way > room, 2 * room - way, way))
    angles = rotation * np.sin(2 * math.pi * (draw[4] + times * (0.02 + 0.04 * draw[5])))
    scales = 1 + 0.15 * np.sin(2 * math.pi * (draw[6] + times * (0.01 + 0.04 * draw[7])))
    return _placements(digit, places[0], places[1], angles, scales)


def _act(digit: Placement, size: tuple[int, int], frames: int, action: str, draw: np.ndarray) -> list[Placement]:
    """One action, halfway done in the middle of the clip, where the digit is near the middle of the picture."""
    way = (np.arange(frames) - (frames - 1) / 2) / max(1, frames - 1)
    x, y = (length * (0.3 + 0.4 * share) for length, share in ((size[1], draw[0]), (size[0], draw[1])))
    speed, still = 0.5 + 0.5 * draw[2], np.zeros(frames)
    travel = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}.get(action, (0, 0))
    turn = {"clockwise": 1, "counterclockwise": -1}.get(action, 0)
    growth = {"grow": 1, "shrink": -1}.get(action, 0)
    distance = 0.7 * min(size) * speed
    return _placements(
        digit,
        x + travel[0] * distance * way,
        y + travel[1] * distance * way,
        still + digit.angle + turn * math.pi * speed * way,
        2.0 ** (growth * 1.4 * speed * way),
    )


def _placements(
    digit: Placement, x: np.ndarray, y: np.ndarray, angles: np.ndarray, scales: np.ndarray
) -> list[Placement]:
    return [
        dataclasses.replace(
            digit,
            center=on_grid(float(x[t]), float(y[t])),
            cell=(digit.cell[0] * float(scales[t]), digit.cell[1] * float(scales[t])),
            angle=float(angles[t]),
        )
        for t in range(len(x))
    ]


def _top(items: list[Item], size: tuple[int, int]) -> np.ndarray:
    top = np.zeros(size, np.int32)
    for number, item in enumerate(items, start=1):
        tile = item.tile.cut(*size)
        top[tile.window][tile.mask] = number
    return top


def _tracks(frames: list[list[Item]], tops: np.ndarray, asked: tuple[str, ...]) -> Sample:
    times, count = len(frames), len(frames[0])
    tracks: Sample = {
        "boxes": np.zeros((times, count, 4), np.float32),
        "labels": np.array([item.label for item in frames[0]], np.int32),
        "track_ids": np.arange(1, count + 1, dtype=np.int32),
        "present": np.zeros((times, count), bool),
        "area": np.zeros((times, count), np.float32),
        "keypoints": np.zeros((times, count, len(KEYPOINTS), 3), np.float32),
        "rotated_boxes": np.zeros((times, count, 5), np.float32),
    }
    for time, (items, top) in enumerate(zip(frames, tops, strict=True)):
        for i, item in enumerate(items):
            found = annotate.visible(item, i + 1, top)
            if found is not None:
                tracks["present"][time, i] = True
                tracks["boxes"][time, i] = found.box
                tracks["area"][time, i] = found.area
                tracks["rotated_boxes"][time, i] = found.rotated
                tracks["keypoints"][time, i] = annotate.keypoints(item, i + 1, top)
    if "masks" in asked:
        tracks["masks"] = np.stack([annotate.masks(top, count) for top in tops])
    return {key: tracks[key] for key in asked}


def _stack(trees: list[Any]) -> Any:
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)
