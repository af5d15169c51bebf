"""`Inferencer`: runs a trained task on images, and `Result`: what it found in one."""

import contextlib
import dataclasses
import functools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from jaxtyping import UInt8

from jaxvision.data.collate import GEOMETRY, collate
from jaxvision.data.faults import Faults
from jaxvision.data.images import fit_image, read_image
from jaxvision.data.order import sample_rng
from jaxvision.data.prepare import prepare
from jaxvision.data.samples import Sample
from jaxvision.engine.parallel import find_device
from jaxvision.engine.task import Task
from jaxvision.engine.tta import augmented
from jaxvision.errors import SetupError, UserError
from jaxvision.inference.inputs import Failed, Image, Input, Item, batches_of, expand, is_several, items_of
from jaxvision.inference.videos import Video, read_frame
from jaxvision.loading import Model, load_model

PyTree = Any
READERS = 4
"""Threads that decode images while the device computes."""


@dataclasses.dataclass(frozen=True, eq=False)
class Result:
    """The prediction for one image.

    Attributes:
      path: the image or video file; None for an array or a camera.
      prediction: the task's prediction for this image: a pytree of numpy arrays without the batch's axis.
      task: draws the picture, and tells what was found.
      image: the array or frame; files are read again when they are drawn, so that many results stay small.
      geometry: `size`, `original_size` and `to_original` of the image on its canvas.
      source: what messages call it: the file, "array 3", "camera 0".
      frame: number of the frame, from 0; None for an image.
      seconds: of the frame from the start of the video.
      rate: frames per second of the video.
    """

    path: str | None
    prediction: PyTree
    task: Task
    image: Image | None = None
    geometry: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    source: str = ""
    frame: int | None = None
    seconds: float | None = None
    rate: float | None = None

    @functools.cached_property
    def json(self) -> dict[str, Any]:
        """The prediction as plain data, in the words of the direction."""
        return self.task.to_json(self._sample, self.prediction)

    @functools.cached_property
    def found(self) -> Any:
        """The prediction as a structure of numpy arrays without padding, in pixels of the original image.

        `RankedClasses`, `FoundObjects` (boxes, scores, labels, names, masks), `LabelMap`, `FoundSegments`; or
        `prediction`, where the direction has nothing of that kind.
        """
        return self.task.found(self._sample, self.prediction)

    def picture(self) -> UInt8[np.ndarray, "h w 3"]:
        """The image with its prediction drawn beside or on it."""
        return self.task.draw({**self.geometry, "image": self.pixels()}, self.prediction)

    def pixels(self) -> Image:
        """The image itself, read again where it is a file."""
        if self.image is not None:
            return self.image
        assert self.path is not None
        return read_image(self.path) if self.frame is None else read_frame(Video(self.path), self.frame)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the picture (`.png`, `.jpg`, `.webp`); folders are made."""
        from jaxvision.visualization.canvas import save_picture

        save_picture(self.picture(), path)

    @property
    def _sample(self) -> dict[str, Any]:
        return {**self.geometry, **({} if self.image is None else {"image": self.image})}


class Inferencer:
    """Predicts for image files, arrays, videos and cameras."""

    def __init__(
        self,
        source: str | os.PathLike[str] | Model,
        checkpoint: str | int | os.PathLike[str] | None = None,
        *,
        batch_size: int = 16,
        tta: Any = "config",
        score_threshold: float | None = None,
        top_k: int | None = None,
        device: str | None = None,
    ) -> None:
        """Loads the model; see `load_model` for `source` and `checkpoint`.

        Args:
          batch_size: images per call of the compiled program; fewer are padded, so 1 is the quickest for a camera.
          tta: test-time augmentation: "config" as the config's `evaluation.tta` says, None for none, an
            `engine.tta.TTA`, or what a config may say ("d4", "ten_crop:(224, 224)", `dict(name="d4", merge="gmean")`).
          score_threshold: above which pictures and JSON show detections, and count a class of several as present.
          top_k: classes that pictures and JSON of a classifier list.
          device: "cpu", "gpu", "tpu" or one of several, "gpu:1"; None: the first that JAX has.

        Raises:
          SetupError: an option that the direction does not know, or no such device.
        """
        if batch_size < 1:
            raise SetupError(f"batch_size is {batch_size}: expected at least 1")
        chosen = None if device is None else find_device(device)
        self.model = source if isinstance(source, Model) else load_model(source, checkpoint)
        if tta != "config":
            from jaxvision.experiment import build_tta

            self.model = dataclasses.replace(self.model, task=augmented(self.model.task, build_tta(tta)))
        task = self.model.task.telling(score_threshold=score_threshold, top_k=top_k)
        self.model = dataclasses.replace(self.model, task=task)
        self.batch_size = batch_size
        self._predict = jax.jit(self.model.predict)
        self._variables = jax.device_put(self.model.variables, chosen)

    def __call__(self, inputs: Input | Iterable[Input], *, on_error: str | Failed = "raise") -> Result | list[Result]:
        """Predicts for what `inputs` names, and keeps all results; see `iterate` for more than memory should hold.

        Args:
          inputs: an image file or an array `[H, W]` or `[H, W, C]` (uint8) gives one `Result`, and so does the number
            of a camera, from which one picture is taken; a folder (searched with its subfolders), a glob pattern, a
            video file, a stack of arrays `[N, H, W, C]`, or a list of any of these gives a list.
          on_error: as for `iterate`.

        Raises:
          FileNotFoundError: no such file, or a folder or pattern without images.
          ImageError: a file that is no image, an array that is no uint8 image.
          VideoError: a video or camera that cannot be read.
        """
        single = not is_several(inputs) and expand(inputs, moving=True)[1]
        results = [_without_frame(result) for result in self._iterate(inputs, on_error, once=True)]
        return results[0] if single else results

    def iterate(self, inputs: Input | Iterable[Input], *, on_error: str | Failed = "raise") -> Iterator[Result]:
        """Results one by one, in order, in constant memory: of any number of files, long videos, a camera.

        Args:
          inputs: as for a call, and any iterable of such things, which may be endless: `infer.iterate(0)` follows a
            camera until its consumer stops.
          on_error: what becomes of an image, video or camera that cannot be read: "raise"; "skip", which goes on and
            lists them in one `DataWarning` at the end; or a function that is given its name and the error, and may
            raise.

        Raises:
          SetupError: nothing could be read.
        """
        return self._iterate(inputs, on_error)

    def batch(self, images: Sequence[Image]) -> dict[str, Any]:
        """What the program takes for at most `batch_size` images: `self.model.predict(variables, batch)`."""
        return self._batch([self._read(Item(image, number, image)) for number, image in enumerate(images)])

    def _iterate(self, inputs: Any, on_error: str | Failed, *, once: bool = False) -> Iterator[Result]:
        """`once`: cameras give one picture."""
        left = _Left(on_error)
        waiting: tuple[list[Item], list[Sample], PyTree] | None = None
        with ThreadPoolExecutor(READERS) as pool, contextlib.closing(items_of(inputs, left, once=once)) as items:
            for batch in batches_of(items, self.batch_size):
                read = list(zip(batch, pool.map(self._try_to_read, batch), strict=True))
                errors = [(item, error) for item, (_, error) in read if error is not None]
                if errors and waiting is not None:  # results before the first error come before it
                    yield from self._results(*waiting)
                    waiting = None
                for item, error in errors:
                    left(str(item), error)
                kept = [(item, sample) for item, (sample, _) in read if sample is not None]
                if not kept:
                    continue
                # While the device works on this batch, results of the one before are handed out and the next is read.
                predictions = self._predict(self._variables, self._batch([sample for _, sample in kept]))
                if waiting is not None:
                    yield from self._results(*waiting)
                waiting = ([item for item, _ in kept], [sample for _, sample in kept], predictions)
                left.read += len(kept)
                if batch[-1].live:
                    yield from self._results(*waiting)
                    waiting = None
        if waiting is not None:
            yield from self._results(*waiting)
        left.tell()

    def _try_to_read(self, item: Item) -> tuple[Sample | None, Exception | None]:
        try:
            return self._read(item), None
        except (UserError, OSError) as error:
            return None, error

    def _read(self, item: Item) -> Sample:
        image = item.image if item.image is not None else read_image(item.source)
        size = np.shape(image)[:2] if np.ndim(image) > 1 else (1, 1)
        image = fit_image(image, size, self.model.channels)  # checks it, too
        canvas, channels, transforms = self.model.image_size, self.model.channels, self.model.host_transforms
        return prepare(image, None, transforms, sample_rng(0, 0), canvas=canvas, channels=channels)

    def _batch(self, samples: list[Sample]) -> dict[str, Any]:
        size = self.batch_size
        return {
            **collate(samples + samples[-1:] * (size - len(samples))),
            "valid": np.arange(size) < len(samples),
            "index": np.arange(size, dtype=np.int32),
            "position": np.arange(size, dtype=np.uint32),
        }

    def _results(self, items: list[Item], samples: list[Sample], predictions: PyTree) -> Iterator[Result]:
        predictions = jax.device_get(predictions)
        for row, (item, prepared) in enumerate(zip(items, samples, strict=True)):
            yield Result(
                path=item.path,
                prediction=jax.tree.map(lambda x, row=row: x[row], predictions),
                task=self.model.task,
                image=item.image,
                geometry={key: prepared[key] for key in GEOMETRY},
                source=str(item),
                frame=item.frame and item.frame.number,
                seconds=item.frame and item.frame.seconds,
                rate=item.frame and item.frame.rate,
            )


class _Left:
    """What could not be read, treated as `on_error` says."""

    def __init__(self, on_error: str | Failed) -> None:
        if not callable(on_error) and on_error not in ("raise", "skip"):
            raise SetupError(f"on_error={on_error!r}: expected 'raise', 'skip' or a function of a name and an error")
        self.read = 0
        self._handle = on_error
        self._faults = Faults("prediction")
        self._first: Exception | None = None

    def __call__(self, name: str, error: Exception) -> None:
        if self._handle == "raise":
            raise error
        self._first = self._first or error
        if callable(self._handle):
            self._handle(name, error)
        else:
            self._faults.add("input(s) left out", f"{name}: {error}")

    def tell(self) -> None:
        """Warns of what was skipped; raises if that was everything."""
        if self._first is not None and not self.read:
            raise SetupError(f"nothing could be read: {self._first}") from self._first
        self._faults.warn()


def _without_frame(result: Result) -> Result:
    """Frames of a file are decoded again when they are drawn: those of a whole video would fill the memory."""
    return dataclasses.replace(result, image=None) if result.frame is not None and result.path else result
