"""The loader of exported predictors: jax and numpy, and to read image files Pillow; no model, no task, no flax.

    infer = load("retinanet.stablehlo")
    infer("street.jpg")["boxes"]                  # or a list of files and uint8 arrays, which gives a list

The program is a serialised `jax.export.Exported`, so jaxvision is not needed at all:

    import json, jax, numpy as np
    from PIL import Image

    about = json.loads(open("retinanet.stablehlo.json").read())
    program = jax.export.deserialize(open("retinanet.stablehlo", "rb").read())
    image, (height, width) = Image.open("street.jpg").convert("RGB"), about["canvas"]
    canvas = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
    scale = [[image.width / width, 0, 0], [0, image.height / height, 0], [0, 0, 1]]
    inputs = {"image": canvas, "size": np.float32([height, width]), "to_original": np.float32(scale)}
    inputs["original_size"] = np.int32([image.height, image.width])
    found = program.call({name: inputs[name][None] for name in about["inputs"]})
    found["boxes"], found["scores"], [about["class_names"][i] for i in found["labels"][0]]

These lines stretch the image to the canvas, as `host_transforms` of the JSON says if it has a `Resize` with the mode
"stretch" alone; a grey canvas is `[H, W, 1]`. With weights beside, `program.call(weights, inputs)` takes
`safetensors.numpy.load_file("retinanet.stablehlo.safetensors")`.
"""

import dataclasses
import functools
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.export
import numpy as np

from jaxvision.errors import SetupError

FORMAT = 1
"""Of the JSON; another number is refused."""
METADATA, WEIGHTS = ".json", ".safetensors"
"""What is added to the name of the program for the files beside it."""
AT_ONCE = 16
"""Images per call, where the program takes any number."""
GEOMETRY = ("size", "original_size", "to_original")
Arrays = Mapping[str, Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Exported:
    """An exported predictor.

    Attributes:
      about: the metadata, see `export.describe`.
      program: what `jax.export` read.
      weights: by name, where they lie beside the program.
    """

    about: Mapping[str, Any]
    program: jax.export.Exported
    weights: Arrays | None = None

    @functools.cached_property
    def _call(self) -> Any:
        return jax.jit(self.program.call)

    @property
    def class_names(self) -> tuple[str, ...]:
        """By label; none where they are unknown."""
        return tuple(self.about["class_names"])

    def call(self, inputs: Arrays) -> dict[str, jax.Array]:
        """The program itself: arrays as `about["inputs"]` says to arrays as `about["outputs"]` says."""
        wanted = self.about["inputs"]
        if set(inputs) != set(wanted):
            raise SetupError(f"the program takes the inputs {', '.join(wanted)}, and got {', '.join(inputs)}")
        return self._call(dict(inputs)) if self.weights is None else self._call(self.weights, dict(inputs))

    def __call__(self, images: Any) -> dict[str, np.ndarray] | list[dict[str, np.ndarray]]:
        """What is predicted for an image: all outputs of the task by name, without the axis of the batch.

        Args:
          images: a file or a uint8 array `[H, W]` or `[H, W, C]` of any size, or a list of them, which gives a list.

        Raises:
          ImageError: a file that is no image, or an array that is no uint8 image.
          SetupError: the program takes more than images: use `call`.
        """
        known = {"image", *GEOMETRY}
        if more := set(self.about["inputs"]) - known:
            raise SetupError(f"the program also takes {', '.join(sorted(more))}: prepare a batch and use call(inputs)")
        if not isinstance(images, (list, tuple)):
            return self._predict([self._prepare(images)])[0]
        found: list[dict[str, np.ndarray]] = []
        for start in range(0, len(images), size := self.batch or AT_ONCE):
            found += self._predict([self._prepare(image) for image in images[start : start + size]])
        return found

    @property
    def batch(self) -> int | None:
        """Images that the program takes, or None for any number."""
        size = self.about["inputs"]["image"]["shape"][0]
        return size if isinstance(size, int) else None

    def _prepare(self, image: Any) -> dict[str, np.ndarray]:
        """An image on its canvas, with its geometry."""
        from jaxvision.data import transforms
        from jaxvision.data.images import fit_image, read_image
        from jaxvision.data.order import sample_rng
        from jaxvision.data.prepare import prepare

        chosen = []
        for spec in self.about["host_transforms"]:
            settings = {name: _frozen(value) for name, value in spec.items() if name not in ("name", "module")}
            if spec["name"] not in transforms.__all__:
                raise SetupError(
                    f"images are prepared by {spec['module']}.{spec['name']}, which is not jaxvision's own: bring them "
                    "to their canvas yourself and use call(inputs)"
                )
            chosen.append(getattr(transforms, spec["name"])(**settings))
        image = read_image(image) if isinstance(image, (str, os.PathLike)) else image
        channels, canvas = self.about["channels"], tuple(self.about["canvas"])
        image = fit_image(image, np.shape(image)[:2] if np.ndim(image) > 1 else (1, 1), channels)  # checks it, too
        return dict(prepare(image, None, chosen, sample_rng(0, 0), canvas=canvas, channels=channels))

    def _predict(self, samples: Sequence[Mapping[str, np.ndarray]]) -> list[dict[str, np.ndarray]]:
        size = self.batch or len(samples)
        filled = [*samples, *[samples[-1]] * (size - len(samples))]
        inputs = {name: np.stack([one[name] for one in filled]) for name in self.about["inputs"]}
        found = jax.device_get(self.call(inputs))
        passed = self.about["passed"].items()
        return [
            {name: value[row] for name, value in found.items()} | {name: sample[source] for name, source in passed}
            for row, sample in enumerate(samples)
        ]


def load(path: str | os.PathLike[str]) -> Exported:
    """Reads a program that `export_model` wrote, and the files beside it.

    Raises:
      FileNotFoundError: no such program, or one without its metadata or weights.
      SetupError: another kind of file.
    """
    file = Path(path)
    if file.is_dir():
        raise SetupError(f"{file} is a folder: tf.saved_model.load reads a SavedModel")
    about_file = Path(f"{file}{METADATA}")
    for needed in (file, about_file):
        if not needed.exists():
            raise FileNotFoundError(f"no such file: {needed} (a program FILE has its metadata in FILE{METADATA})")
    about = json.loads(about_file.read_text())
    if about.get("format") != "stablehlo" or about.get("version") != FORMAT:
        given = f"{about.get('format')!r}, version {about.get('version')}"
        raise SetupError(f"{file} is {given}: expected 'stablehlo', version {FORMAT}")
    weights = None
    if about["weights"] is not None:
        from safetensors.numpy import load_file

        weights = load_file(file.parent / about["weights"])
    return Exported(about, jax.export.deserialize(bytearray(file.read_bytes())), weights)


def _frozen(value: Any) -> Any:
    """JSON's lists as tuples."""
    return tuple(map(_frozen, value)) if isinstance(value, list) else value
