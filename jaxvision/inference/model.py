"""Prediction in three lines, with the names that users of OpenMMLab know.

model = jv.init_model("runs/retinanet")                    # or (config, checkpoint, device="gpu")
result = jv.inference_model(model, "street.jpg")
jv.show_result_pyplot(model, "street.jpg", result)         # a window or a cell; out_file="street.png" writes it
"""

import dataclasses
import os
import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np
from jaxtyping import UInt8

from jaxvision.errors import SetupError
from jaxvision.inference.inferencer import Inferencer, Result
from jaxvision.inference.inputs import Input


def init_model(
    config: str | os.PathLike[str],
    checkpoint: str | int | os.PathLike[str] | None = None,
    device: str | None = None,
    **options: Any,
) -> Inferencer:
    """The model of a config, workdir or name with its weights: an `Inferencer`, whose options these are.

    For single images `batch_size=1` is the quickest.
    """
    return Inferencer(config, checkpoint, device=device, **options)


def inference_model(model: Inferencer, images: Input | Iterable[Input]) -> Result | list[Result]:
    """What the model finds: a `Result` of one image, a list of several."""
    return model(images)


def show_result_pyplot(
    model: Inferencer,
    image: Input | None,
    result: Result,
    *,
    score_threshold: float | None = None,
    title: str = "result",
    show: bool | None = None,
    out_file: str | os.PathLike[str] | None = None,
) -> UInt8[np.ndarray, "h w 3"]:
    """Draws the image with what was found, and shows it by pyplot or writes it; returns the picture.

    Args:
      image: file or array; None: the result's own.
      result: of one image.
      score_threshold: of the detections that are drawn; None: as the model was loaded.
      title: of the window.
      show: whether to open it; None: unless `out_file` is given. Without a display a warning says so.
      out_file: `.png`, `.jpg` or `.webp`.

    Raises:
      SetupError: several results.
    """
    if not isinstance(result, Result):
        raise SetupError(f"show_result_pyplot got a {type(result).__name__}: it draws one Result, such as results[0]")
    task = model.model.task if score_threshold is None else model.model.task.telling(score_threshold=score_threshold)
    own = dataclasses.replace(result, task=task)
    if isinstance(image, (str, os.PathLike)) and result.frame is None:
        own = dataclasses.replace(own, path=os.fspath(image), image=None)
    elif hasattr(image, "__array__"):
        own = dataclasses.replace(own, image=np.asarray(image))
    picture = own.picture()
    if out_file is not None:
        from jaxvision.visualization.canvas import save_picture

        save_picture(picture, out_file)
    if show or (show is None and out_file is None):
        _show(picture, title)
    return picture


def _show(picture: UInt8[np.ndarray, "h w 3"], title: str) -> None:
    import matplotlib
    from matplotlib import pyplot

    if matplotlib.get_backend().lower() in ("agg", "cairo", "pdf", "pgf", "ps", "svg", "template"):
        warnings.warn(
            f"no display for pyplot (backend {matplotlib.get_backend()!r}): give out_file='result.png', or use the "
            "picture that is returned",
            stacklevel=3,
        )
        return
    height, width = picture.shape[:2]
    figure = pyplot.figure(title, figsize=(width / 100, height / 100), dpi=100)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(picture)
    axes.axis("off")
    pyplot.show()
