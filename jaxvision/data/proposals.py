"""Proposals from elsewhere than the model that learns from them, joined to a data set: Fast R-CNN's regions.

A sample gets `proposals`, the `count` best ones of its image, in pixels of the original, and they move along with it
(`data.samples`, `structures.Proposals`). They come from a file, or are made up:

    dict(name="with_proposals", path="train.npz", eval_path="val.npz", source=dict(name="coco", ...))

A file is one that `python -m experiments.propose` writes (.npz), or a list of COCO's results (.json). The arrays of the
former are, of n proposals of m images, `id` str [m], `splits` int64 [m + 1], of which image i has the rows
`splits[i]`..`splits[i + 1] - 1`, `boxes` float32 [n, 4] (left, top, right, bottom) and `scores` float32 [n].
"""

import dataclasses
import itertools
import json
import os
import zipfile
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Float

from jaxvision.data.order import sample_rng
from jaxvision.data.samples import Sample, SampleSource
from jaxvision.data.sources.memory import check_split
from jaxvision.data.table import Table
from jaxvision.errors import SetupError

Boxes = Float[np.ndarray, "n 4"]
SHIFT, STRETCH = 0.3, 0.4
"""Made regions lie at most this share of an object's sides beside it, and are at most exp(this) larger or smaller."""
SIDES = (0.1, 0.5)
"""Of the others: shares of the sides of the image."""


def write_proposals(path: str | os.PathLike[str], found: Iterable[tuple[Any, Boxes, np.ndarray]]) -> int:
    """Writes (id of the image, boxes, scores) of each image to a file; see the top. Returns how many boxes there are.

    Args:
      path: its name ends in .npz.
      found: each id once; boxes are left, top, right, bottom in pixels of the original image.

    Raises:
      SetupError: another kind of file.
    """
    if not os.fspath(path).endswith(".npz"):
        raise SetupError(f"proposals are written to a .npz file, not to {os.fspath(path)!r}")
    ids, boxes, scores = [], [np.zeros((0, 4), np.float32)], [np.zeros(0, np.float32)]
    for own, own_boxes, own_scores in found:
        ids.append(str(own))
        boxes.append(np.asarray(own_boxes, np.float32).reshape(-1, 4))
        scores.append(np.asarray(own_scores, np.float32).reshape(-1))
    splits = np.cumsum([len(part) for part in boxes]).astype(np.int64)
    arrays = {"id": np.array(ids, np.str_), "boxes": np.concatenate(boxes), "scores": np.concatenate(scores)}
    target = epath.Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as stream:
        np.savez(stream, splits=splits, **arrays)  # type: ignore[arg-type]
    return int(splits[-1])


def read_proposals(path: str | os.PathLike[str]) -> dict[str, tuple[Boxes, np.ndarray]]:
    """Boxes and scores of each image, by its id as text; see the top for the files.

    Raises:
      SetupError: no such file, or one of another kind.
    """
    name = os.fspath(path)
    if not epath.Path(name).exists():
        raise SetupError(f"no such file of proposals: {name!r}; experiments.propose writes one")
    try:
        return _read_json(name) if name.endswith(".json") else _read_npz(name)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, zipfile.BadZipFile) as error:
        raise SetupError(
            f"{name!r} is no file of proposals ({type(error).__name__}: {error}): expected a .npz of "
            "experiments.propose, or a .json list of COCO's results with image_id, bbox and score"
        ) from error


def _read_npz(name: str) -> dict[str, tuple[Boxes, np.ndarray]]:
    with epath.Path(name).open("rb") as stream, np.load(stream, allow_pickle=False) as file:
        ids, splits, boxes, scores = (file[key] for key in ("id", "splits", "boxes", "scores"))
    if boxes.shape != (splits[-1], 4) or scores.shape != (splits[-1],) or len(splits) != len(ids) + 1:
        raise ValueError(f"{len(ids)} images, {len(splits)} splits, boxes {boxes.shape}, scores {scores.shape}")
    rows = [slice(start, end) for start, end in itertools.pairwise(splits)]
    return {str(own): (boxes[row], scores[row]) for own, row in zip(ids.tolist(), rows, strict=True)}


def _read_json(name: str) -> dict[str, tuple[Boxes, np.ndarray]]:
    found: dict[str, list[tuple[float, ...]]] = {}
    for row in json.loads(epath.Path(name).read_text()):
        left, top, width, height = row["bbox"]
        box = (left, top, left + width, top + height, row["score"])
        found.setdefault(str(row["image_id"]), []).append(box)
    tables = {own: np.array(rows, np.float32) for own, rows in found.items()}
    return {own: (table[:, :4], table[:, 4]) for own, table in tables.items()}


@dataclasses.dataclass(frozen=True, eq=False)
class Proposed:
    """A source whose samples also have `proposals`.

    Attributes:
      source: of the samples.
      propose: `(index, sample) -> boxes [count, 4]`.
    """

    source: SampleSource
    propose: Callable[[int, Sample], Boxes]

    @property
    def name(self) -> str:
        return self.source.name

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.source.class_names

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def annotations(self) -> tuple[str, ...]:
        return (*self.source.annotations, "proposals")

    @property
    def keypoint_names(self) -> tuple[str, ...]:
        return self.source.keypoint_names

    def __len__(self) -> int:
        return len(self.source)

    def sample(self, index: int) -> Sample:
        """See `SampleSource`."""
        sample = self.source.sample(index)
        return sample | {"proposals": self.propose(index, sample)}


def with_proposals(
    source: Any, path: str, eval_path: str, count: int = 2000, eval_count: int = 1000, *, split: str
) -> Any:
    """A data set with the proposals of a file for each of its parts.

    Args:
      source: of images with an `id`; without one they are numbered from 0.
      path, eval_path: files of the training and the validation part; see the top of this file.
      count, eval_count: so many proposals of each image, those that score best, are kept, as OpenMMLab keeps them for
        training.

    Raises:
      SetupError: a file that cannot be read, or lacks an image.
    """
    check_split(split)
    name, most = (path, count) if split == "train" else (eval_path, eval_count)
    _check_count(most)
    found = read_proposals(name)

    def boxes_of(own: Any) -> Boxes:
        if str(own) not in found:
            raise SetupError(f"{name!r} has no proposals for image {own!r} of {source.name}")
        return best(*found[str(own)], most)

    if not isinstance(source, Table):
        return Proposed(source, lambda index, sample: boxes_of(sample.get("id", index)))
    ids = np.asarray(source.columns.get("id", np.arange(len(source)))).tolist()
    lacking = [own for own in ids if str(own) not in found]
    if lacking:
        raise SetupError(
            f"{name!r} has no proposals for {len(lacking)} of the {len(ids)} images of {source.name}, such as "
            f"{lacking[0]!r}: propose for this part of the data"
        )
    column = np.zeros((len(ids), most, 4), np.float32)
    for row, own in enumerate(ids):
        column[row] = boxes_of(own)
    return dataclasses.replace(source, columns={**source.columns, "proposals": column})


def random_proposals(source: Any, count: int = 100, objects: float = 0.5, seed: int = 0, *, split: str) -> Any:
    """A data set with made-up proposals: some near its objects, moved and stretched at random, the others anywhere.

    It stands for proposals where there are none: they know where objects are, so that what is scored with them is the
    classes and the refined boxes alone.

    Args:
      source: of images with `boxes`.
      count: proposals of each image, in random order.
      objects: share of them near objects; an object has several.
      seed: of all of this.

    Raises:
      SetupError: images without boxes.
    """
    check_split(split)
    _check_count(count)
    if "boxes" not in source.annotations or not 0 <= objects <= 1:
        raise SetupError(
            f"random_proposals: {source.name} has {', '.join(source.annotations) or 'nothing'} and objects is "
            f"{objects}: expected images with boxes, and a share"
        )

    def propose(index: int, sample: Sample) -> Boxes:
        rng = sample_rng(seed, 2 * index + (split == "validation"))
        height, width = sample["image"].shape[:2]
        end = np.array([width, height], np.float64)
        sides = rng.uniform(*SIDES, (count, 2)) * end
        centers = sides / 2 + rng.uniform(size=(count, 2)) * (end - sides)
        truth = np.asarray(sample["boxes"], np.float64).reshape(-1, 4)
        if near := round(objects * count) if len(truth) else 0:
            chosen = truth[rng.integers(0, len(truth), near)]
            own = chosen[:, 2:] - chosen[:, :2]
            centers[:near] = (chosen[:, :2] + chosen[:, 2:]) / 2 + rng.uniform(-SHIFT, SHIFT, (near, 2)) * own
            sides[:near] = own * np.exp(rng.uniform(-STRETCH, STRETCH, (near, 2)))
        boxes = np.concatenate([centers - sides / 2, centers + sides / 2], axis=1)
        return rng.permutation(np.clip(boxes, 0, np.tile(end, 2))).astype(np.float32)

    return Proposed(source, propose)


def best(boxes: Boxes, scores: Float[np.ndarray, " n"], count: int) -> Float[np.ndarray, "count 4"]:
    """The boxes of the highest scores, best first, the earlier of equals; zeros fill up."""
    order = np.argsort(-scores, kind="stable")[:count]
    padded = np.zeros((count, 4), np.float32)
    padded[: len(order)] = boxes[order]
    return padded


def _check_count(count: int) -> None:
    if count < 1:
        raise SetupError(f"{count} proposals of each image: expected at least 1")
