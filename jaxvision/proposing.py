"""The proposals of a trained network for every image of a data set, in a file that another detector learns from."""

import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxvision import errors
from jaxvision.data.build import build_source
from jaxvision.data.proposals import write_proposals
from jaxvision.inference import Inferencer
from jaxvision.structures import Detections


def propose(infer: Inferencer, config: Any, path: str | os.PathLike[str], *, split: str) -> tuple[int, int]:
    """Writes what a detector finds, whatever the class; `data.proposals` describes the file.

    Args:
      infer: of a region proposal network, or of another detector.
      config: completed config, of whose data section the images are.
      path: its name ends in .npz.
      split: "train", every image once and not augmented, or "validation".

    Returns:
      The number of images and that of proposals.

    Raises:
      SetupError: data that cannot be built or read, or a task that finds no boxes.
    """
    with errors.setup():
        source = build_source(config.data, split)
    ids: list[Any] = []

    def images() -> Iterator[np.ndarray]:
        for index in range(len(source)):
            sample = source.sample(index)
            ids.append(sample.get("id", index))
            yield sample["image"]

    def found() -> Iterator[tuple[Any, np.ndarray, np.ndarray]]:
        for number, result in enumerate(infer.iterate(images())):
            own = result.prediction
            if not isinstance(own, Detections):
                raise errors.SetupError(
                    f"a {type(result.task).__name__} proposes no boxes: take a detector such as rpn"
                )
            valid = np.asarray(own.valid)
            yield ids[number], np.asarray(own.boxes)[valid], np.asarray(own.scores)[valid]

    written = write_proposals(path, found())
    return len(ids), written
