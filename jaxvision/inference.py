"""Image in, prediction and picture out: `Inferencer` runs a trained task on files and arrays.

    infer = Inferencer("runs/lenet5_digits")          # a workdir: config, class names and weights
    result = infer("seven.png")
    result.json["class"], result.save("prediction.png")

From a workdir plain data are read (`config.json`, `meta.json`, a checkpoint) and no Python is executed. One program is
compiled, for a fixed batch that the last images fill up with padding.
"""

import dataclasses
import functools
import glob
import itertools
import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from etils import epath
from jaxtyping import UInt8

from jaxvision.data.collate import GEOMETRY, collate
from jaxvision.data.images import fit_image, read_image
from jaxvision.data.order import sample_rng
from jaxvision.data.prepare import prepare
from jaxvision.data.samples import Sample
from jaxvision.engine.task import Context, Task
from jaxvision.engine.tta import augmented
from jaxvision.errors import SetupError
from jaxvision.loading import Model, load_model

PyTree = Any
Image = UInt8[np.ndarray, "h w c"]
Input = str | os.PathLike[str] | Image
SUFFIXES = (
    ".avif", ".bmp", ".gif", ".ico", ".jp2", ".jpeg", ".jpg", ".pgm", ".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff",
    ".webp",
)  # fmt: skip
"""Files of a folder or a glob that are taken for images."""
READERS = 4
"""Threads that decode images while the device computes."""


@dataclasses.dataclass(frozen=True, eq=False)
class Result:
    """The prediction for one image.

    Attributes:
      path: the file, or None for an array.
      prediction: the task's prediction for this image: a pytree of numpy arrays without the batch's axis.
      json: the same in the direction's usual format.
      task: draws the picture.
      image: the array that was given; files are read again when they are drawn, so that many results stay small.
      geometry: `size`, `original_size` and `to_original` of the image on its canvas.
    """

    path: str | None
    prediction: PyTree
    json: dict[str, Any]
    task: Task
    image: Image | None = None
    geometry: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def picture(self) -> UInt8[np.ndarray, "h w 3"]:
        """The image with its prediction drawn beside or on it."""
        image = self.image if self.path is None else read_image(self.path)
        return self.task.draw({"image": image, **self.geometry}, self.prediction)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the picture (`.png`, `.jpg`, `.webp`); folders are made."""
        from jaxvision.visualization.canvas import save_picture

        save_picture(self.picture(), path)


class Inferencer:
    """Predicts for image files and arrays."""

    def __init__(
        self,
        source: str | os.PathLike[str] | Model,
        checkpoint: str | int | os.PathLike[str] | None = None,
        *,
        batch_size: int = 16,
        tta: Any = "config",
    ) -> None:
        """Loads the model; see `load_model` for `source` and `checkpoint`.

        Args:
          batch_size: images per call of the compiled program; fewer are padded.
          tta: test-time augmentation: "config" as the config's `evaluation.tta` says, None for none, an
            `engine.tta.TTA`, or what a config may say ("d4", "ten_crop:(224, 224)", `dict(name="d4", merge="gmean")`).
        """
        if batch_size < 1:
            raise SetupError(f"batch_size is {batch_size}: expected at least 1")
        self.model = source if isinstance(source, Model) else load_model(source, checkpoint)
        if tta != "config":
            from jaxvision.experiment import build_tta

            self.model = dataclasses.replace(self.model, task=augmented(self.model.task, build_tta(tta)))
        self.batch_size = batch_size
        self._predict = jax.jit(functools.partial(_predict, self.model))
        self._variables = jax.device_put(self.model.variables)

    def __call__(self, inputs: Input | Iterable[Input]) -> Result | list[Result]:
        """Predicts for what `inputs` names.

        Args:
          inputs: an image file or an array `[H, W]` or `[H, W, C]` (uint8) gives one result; a folder (searched with
            its subfolders), a glob pattern, a stack of arrays `[N, H, W, C]`, or a list of any of these gives a list.

        Raises:
          FileNotFoundError: no such file, or a folder or pattern without images.
          ImageError: a file that is no image, an array that is no uint8 image.
        """
        items, single = expand(inputs)
        results = list(self.iterate(items))
        return results[0] if single else results

    def iterate(self, items: Iterable[Input]) -> Iterator[Result]:
        """Results one by one, in order, for image files and arrays; for more images than memory should hold."""
        waiting: tuple[list[Input], list[Sample], PyTree] | None = None
        with ThreadPoolExecutor(READERS) as pool:
            for chunk in _chunks(items, self.batch_size):
                samples = list(pool.map(self._read, chunk))
                # While the device works on this batch, results of the one before are handed out and the next is read.
                predictions = self._predict(self._variables, self._batch(samples))
                if waiting is not None:
                    yield from self._results(*waiting)
                waiting = (chunk, samples, predictions)
        if waiting is not None:
            yield from self._results(*waiting)

    def _read(self, item: Input) -> Sample:
        image = read_image(item) if isinstance(item, (str, os.PathLike)) else item
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

    def _results(self, chunk: list[Input], samples: list[Sample], predictions: PyTree) -> Iterator[Result]:
        predictions = jax.device_get(predictions)
        for row, (item, prepared) in enumerate(zip(chunk, samples, strict=True)):
            own = jax.tree.map(lambda x, row=row: x[row], predictions)
            is_file = isinstance(item, (str, os.PathLike))
            sample = {key: prepared[key] for key in GEOMETRY} | ({} if is_file else {"image": item})
            yield Result(
                path=os.fspath(item) if is_file else None,  # type: ignore[arg-type]
                prediction=own,
                json=self.model.task.to_json(sample, own),
                geometry={key: prepared[key] for key in GEOMETRY},
                task=self.model.task,
                image=None if is_file else item,  # type: ignore[arg-type]
            )


def expand(inputs: Input | Iterable[Input]) -> tuple[list[Input], bool]:
    """Image files and arrays that `inputs` names, and whether it is a single one; see `Inferencer.__call__`."""
    if isinstance(inputs, (str, os.PathLike)):
        return _files(os.fspath(inputs))
    if isinstance(inputs, (list, tuple)):
        found = list(itertools.chain.from_iterable(expand(item)[0] for item in inputs))
        if not found:
            raise SetupError("there is no image to predict for: the list is empty")
        return found, False
    array = np.asarray(inputs)
    if array.ndim == 4:
        return list(array), False
    return [array], True


def _files(name: str) -> tuple[list[Input], bool]:
    path = epath.Path(name)
    if path.is_dir():
        files = sorted(str(p) for p in _walk(path) if p.suffix.lower() in SUFFIXES)
        if not files:
            raise FileNotFoundError(f"folder {name!r} has no image (looked for {', '.join(SUFFIXES)})")
        return list(files), False
    if path.exists():
        return [name], True
    if glob.has_magic(name):
        matches = glob.glob(name, recursive=True)
        files = sorted(match for match in matches if match.lower().endswith(SUFFIXES) and os.path.isfile(match))
        if not files:
            raise FileNotFoundError(f"no image matches the pattern {name!r}")
        return list(files), False
    raise FileNotFoundError(f"no such image file, folder or pattern: {name!r}")


def _walk(folder: epath.Path) -> Iterator[epath.Path]:
    for path in folder.iterdir():
        if path.is_dir():
            yield from _walk(path)
        else:
            yield path


def _chunks(items: Iterable[Input], size: int) -> Iterator[list[Input]]:
    iterator = iter(items)
    while chunk := list(itertools.islice(iterator, size)):
        yield chunk


def _predict(model: Model, variables: Mapping[str, PyTree], batch: Mapping[str, Any]) -> PyTree:
    batch = model.preprocess(batch, jax.random.key(0))
    return model.task.predict(variables, batch, Context(dtype=model.dtype), model.task.init_carry(batch))[0]
