"""Writes a labelled data set out as PNG files, a folder per class: what the source `image_folder` reads."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath
from PIL import Image

from jaxvision.errors import SetupError

FOLDERS = {"train": "train", "validation": "val"}


def write_image_folder(sources: Mapping[str, Any], folder: epath.PathLike) -> dict[str, int]:
    """Writes `folder/train/CLASS/NUMBER.png` and `folder/val/CLASS/NUMBER.png`; the number is the sample's row.

    Args:
      sources: "train" and "validation" -> a source whose samples have one `label`.
      folder: created; must be empty or absent, since files of another data set would be read as well.

    Returns:
      Images per part.

    Raises:
      SetupError: a folder that holds something, or samples with several labels or none.
    """
    root = epath.Path(folder)
    if root.exists() and any(root.iterdir()):
        raise SetupError(f"{str(root)!r} is not empty: name another folder, or delete it first")
    counts = {}
    for split, source in sources.items():
        for i in range(len(source)):
            sample = source.sample(i)
            if np.ndim(sample.get("label", ())):
                raise SetupError(f"source {source.name!r} has no single label per image: there is no folder for it")
            path = root / FOLDERS[split] / source.class_names[sample["label"]]
            path.mkdir(parents=True, exist_ok=True)
            image = sample["image"]
            with (path / f"{i:06d}.png").open("wb") as stream:
                Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(stream, "PNG")
        counts[split] = len(source)
    return counts
