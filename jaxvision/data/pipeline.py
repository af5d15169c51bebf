"""From a row of a source to its slot in a batch: what the workers of a loader do, with numpy and Pillow.

A job is one sample of one batch. `begin` reads the file, and plans; `finish` gets the pixels, resamples them and writes
everything into the batch. Between them the pixels are decoded, by TensorFlow or by `read_image`.
"""

import dataclasses
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from jaxvision.data import images, maps
from jaxvision.data.collate import collate, dropped_instances
from jaxvision.data.images import MAX_PIXELS, ImageError, read_image
from jaxvision.data.jpeg import read_header
from jaxvision.data.order import sample_rng
from jaxvision.data.original import original_map
from jaxvision.data.prepare import change_pixels, in_channels, move
from jaxvision.data.resample import placement, resample
from jaxvision.data.samples import Sample, SampleSource
from jaxvision.data.table import Table
from jaxvision.data.transforms.view import Size, View, compose

RATIOS = (1, 2, 4, 8)
"""Of libjpeg's scaled decoding, as TensorFlow offers it."""
_HEAVY = ("segmentation", "semantic_file", "panoptic_file", "segment_ids", "segment_labels", "segment_crowd")
"""Columns of a table that are decoded only when the plan is made, and only as far as it needs them."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How samples become rows of a batch; the same for all samples of a loader.

    Attributes:
      source: the data set.
      geometric: host transforms of the form `plan`.
      of_pixels: those of the form `pixels`.
      seed: of their randomness.
      channels: 1 or 3.
      max_instances: rows of `targets`.
      train: see `prepare`.
    """

    source: SampleSource
    geometric: tuple[Any, ...]
    of_pixels: tuple[Any, ...]
    seed: int
    channels: int
    max_instances: int
    train: bool

    @property
    def light(self) -> SampleSource:
        """The source without what is slow to read."""
        if not isinstance(self.source, Table):
            return self.source
        columns = {name: column for name, column in self.source.columns.items() if name not in _HEAVY}
        return dataclasses.replace(self.source, columns=columns)


class OpenBatch:
    """A batch that its samples write themselves into, in any order."""

    def __init__(
        self, rows: np.ndarray, positions: np.ndarray, canvas: Size, channels: int, original: Size | None = None
    ):
        """`original` is the canvas of label maps at their original size, where the batch is to have them."""
        self.rows, self.positions, self.canvas, self.original = rows, positions, canvas, original
        self.images = np.empty((len(rows), *canvas, channels), np.uint8)
        self.dropped: dict[int, int] = {}
        self._others: Any = None
        self._lock = threading.Lock()

    def write(self, place: int, row: dict[str, Any]) -> None:
        """Stores a batch of one sample, all of it but its image."""
        with self._lock:
            if self._others is None:
                self._others = jax.tree.map(lambda leaf: np.empty((len(self.rows), *leaf.shape[1:]), leaf.dtype), row)
        for leaves, leaf in zip(jax.tree.leaves(self._others), jax.tree.leaves(row), strict=True):
            leaves[place] = leaf[0]

    def repeat_first(self) -> None:
        """Makes every row that of the first."""
        for leaves in (self.images, *jax.tree.leaves(self._others)):
            leaves[1:] = leaves[:1]

    def result(self) -> dict[str, Any]:
        return {**self._others, "image": self.images}


@dataclasses.dataclass
class Job:
    """Attributes:

    batch: where the sample goes.
    place: its row there.
    rng: its randomness.
    encoded: bytes of the file, where TensorFlow is to decode it.
    sample: annotations as planned.
    view: the plan; None until the size of the image is known.
    pixels: the whole image, where it is decoded already.
    """

    batch: OpenBatch
    place: int
    rng: np.random.Generator
    encoded: bytes | None = None
    sample: Sample | None = None
    view: View | None = None
    pixels: np.ndarray | None = None

    @property
    def ratio(self) -> int:
        """How many times smaller TensorFlow is to decode: 1, or more where the rest still halves the picture.

        libjpeg then computes fewer pixels. They are averages of others than those that the resampling takes: on
        photographs the result differs by 0.7 to 1.0 levels in the mean (it would be 2.1 to 2.4 without the rest).
        """
        assert self.view is not None
        return max(ratio for ratio in RATIOS if ratio == 1 or min(self.view.step) >= 2 * ratio)

    @property
    def scaled(self) -> View:
        """The view of the image that is so decoded."""
        assert self.view is not None
        ratio, (height, width) = self.ratio, self.view.original
        left, top, right, bottom = self.view.window
        return dataclasses.replace(
            self.view,
            original=(-(-height // ratio), -(-width // ratio)),
            window=(left / ratio, top / ratio, right / ratio, bottom / ratio),
        )

    @property
    def window(self) -> tuple[int, int, int, int]:
        """Top, left, height and width of the pixels of it that are needed."""
        left, top, right, bottom = placement(self.scaled).needed
        return top, left, max(1, bottom - top), max(1, right - left)


def begin(recipe: Recipe, light: SampleSource, batch: OpenBatch, place: int, *, tensorflow: bool) -> Job:
    """Reads the sample and plans it; see `Job` for what is left to decode."""
    row = int(batch.rows[place])
    job = Job(batch, place, sample_rng(recipe.seed, int(batch.positions[place])))
    if not isinstance(light, Table):
        sample = light.sample(row)
        job.pixels = sample.pop("image")
    else:
        file = light.file(row)
        encoded = _encoded(light, row, file)
        header = read_header(encoded) if tensorflow else None
        if header is not None and header.plain and header.size[0] * header.size[1] <= MAX_PIXELS:
            job.encoded, size = encoded, header.size
        else:
            job.pixels = _named(file, encoded)
            size = job.pixels.shape[:2]
        sample = light.annotation(row, size)
        if "boxes" in sample:
            sample["rows"] = np.arange(len(sample["boxes"]))
    original = job.pixels.shape[:2] if job.pixels is not None else size
    job.view, job.sample = compose(View.whole(original, batch.canvas), sample, recipe.geometric, job.rng)
    return job


def finish(recipe: Recipe, job: Job, pixels: np.ndarray | None) -> None:
    """Writes the sample into its batch.

    Args:
      recipe: of the loader.
      job: planned by `begin`.
      pixels: those of `job.window`, where the job has none itself.
    """
    view, sample = job.view, job.sample
    assert view is not None and sample is not None
    drawn = job.batch.images[job.place]
    if pixels is None:
        assert job.pixels is not None
        resample(in_channels(job.pixels, recipe.channels), view, drawn)
    else:
        top, left = job.window[:2]
        resample(in_channels(pixels, recipe.channels), job.scaled, drawn, (left, top))
    change_pixels(drawn, view, recipe.of_pixels, job.rng)
    if isinstance(recipe.source, Table):
        sample = _with_heavy(recipe.source, int(job.batch.rows[job.place]), sample, view.original)
    moved = move(sample, view, train=recipe.train)
    if job.batch.original is not None:
        name = str(sample.get("file", job.batch.rows[job.place]))
        moved["semantic_original"] = original_map(sample["semantic"], view, job.batch.original, name)
    if dropped := dropped_instances([moved], recipe.max_instances):
        job.batch.dropped[job.place] = dropped
    moved["image"] = drawn[:0]
    row = collate([moved], max_instances=recipe.max_instances)
    del row["image"]
    job.batch.write(job.place, row)


def run(recipe: Recipe, light: SampleSource, batch: OpenBatch, place: int) -> None:
    """A whole job without TensorFlow."""
    finish(recipe, begin(recipe, light, batch, place, tensorflow=False), None)


def sizes(light: SampleSource) -> Iterator[Size]:
    """Height and width of every image: as annotated, else as its file says, which is not decoded."""
    shape = getattr(light, "image_shape", None)
    for row in range(len(light)):
        if shape is not None:
            yield shape[:2]
        elif not isinstance(light, Table):
            yield light.sample(row)["image"].shape[:2]
        elif "size" in light.columns:
            height, width = light.row_of("size", row)
            yield int(height), int(width)
        else:
            yield images.read_header(light.file(row) if light.read is None else light.encoded(row)).size


def find_damaged(source: SampleSource, rows: Sequence[int]) -> ImageError | None:
    """The error of the first image among `rows` that `read_image` refuses."""
    for row in rows:
        if isinstance(source, Table):
            try:
                _named(source.file(row), source.encoded(row))
            except ImageError as error:
                return error
    return None


def _with_heavy(table: Table, row: int, sample: Sample, size: Size) -> Sample:
    """Adds masks of the objects that the plan kept, and maps."""
    rows = sample.get("rows")
    sample = {key: value for key, value in sample.items() if key != "rows"}
    if "segmentation" in table.columns:
        values = table.row_of("segmentation", row)
        sample["masks"] = maps.instance_masks(values if rows is None else values[rows], size)
    others = {"file": table.columns["file"]} | {
        name: table.columns[name] for name in _HEAVY[1:] if name in table.columns
    }
    if len(others) > 1:
        sample = dataclasses.replace(table, columns=others).annotation(row, size) | sample
    return sample


def _encoded(table: Table, row: int, file: str) -> bytes:
    if table.read is None:
        try:
            with open(file, "rb") as stream:
                return stream.read()
        except OSError:
            pass  # a URL, or an error that `read_image` words better
        from jaxvision.data.images import read_bytes

        return read_bytes(file)
    return table.encoded(row)


def _named(file: str, encoded: bytes) -> np.ndarray:
    """`read_image`, whose errors name the file."""
    try:
        return read_image(encoded)
    except ImageError as error:
        given = f"the given image ({len(encoded)} bytes)"
        raise ImageError(str(error).replace(given, f"image {file!r}")) from error
