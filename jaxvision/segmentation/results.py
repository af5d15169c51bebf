"""What segmenters found, as people use it and as PNG label maps hold it.

A map is an 8-bit PNG of the original image's size whose values are labels: what the source `image_mask`, and every
benchmark's server, reads. With a palette viewers show the colours of our pictures, and the values stay the same for
readers that take a palette's indices (Pillow; `image_mask`), but not for those that see colours (OpenCV).
"""

import dataclasses
import io
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Bool, Int, UInt8
from PIL import Image

from jaxvision.registry import hint

TOLD = 5
"""Classes that are named where an image has one line."""


@dataclasses.dataclass(frozen=True, eq=False)
class LabelMap:
    """The class of each pixel of an image.

    Attributes:
      labels: 0-based, of the original image's pixels.
      names: of all classes, by label.
    """

    labels: UInt8[np.ndarray, "H W"]
    names: tuple[str, ...]

    def __str__(self) -> str:
        names = self.present
        shares = ", ".join(f"{name} {np.mean(self.mask(name)):.1%}" for name in names[:TOLD])
        return shares + (", ..." if len(names) > TOLD else "")

    @property
    def present(self) -> tuple[str, ...]:
        """Names of the classes that have a pixel, the largest first."""
        counts = np.bincount(self.labels.ravel(), minlength=len(self.names))
        return tuple(self.names[i] for i in np.argsort(-counts, kind="stable") if counts[i])

    def mask(self, name: str) -> Bool[np.ndarray, "H W"]:
        """Pixels of the class of this name; raises KeyError if there is no such class."""
        if name not in self.names:
            raise KeyError(f"no class {name!r}: {hint(name, self.names)}")
        return self.labels == self.names.index(name)


class LabelMapFiles:
    """`labels/NAME.png` of each image, and `labels/classes.json`: the names by label."""

    def __init__(self, folder: epath.Path, found: Callable[[Any, Any], LabelMap], *, palette: bool = False) -> None:
        self._folder = folder / "labels"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._found, self._palette, self._count = found, palette, 0

    def add(self, sample: Mapping[str, Any], prediction: Any) -> dict[str, Any]:
        found = self._found(sample, prediction)
        if not self._count:
            (self._folder / "classes.json").write_text(json.dumps(found.names, indent=1) + "\n")
        picture = Image.fromarray(found.labels)
        if self._palette:
            picture = picture.copy()
            picture.putpalette(_colors(found.names).tobytes())
        buffer = io.BytesIO()
        picture.save(buffer, "PNG")
        (self._folder / f"{sample['name']}.png").write_bytes(buffer.getvalue())
        self._count += 1
        return {"label_map": f"labels/{sample['name']}.png"}

    def close(self) -> Sequence[str]:
        return (f"labels/ ({self._count} PNG)",)


def _colors(names: Sequence[str]) -> Int[np.ndarray, "256 3"]:
    """Those of pictures; black for a class "background", white for what is no class."""
    from jaxvision.visualization.marks import colors_of

    shown = [i for i, name in enumerate(names) if name.lower() != "background"]
    colors = np.full((256, 3), 255, np.uint8)
    colors[: len(names)] = 0
    for label, color in colors_of(shown).items():
        colors[label] = color
    return colors
