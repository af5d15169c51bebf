"""How difficult scenes are.

| preset | digits | height, share of the shorter side | turned by | hidden at most | beside the digits |
|---|---|---|---|---|---|
| `easy` | 1-4 | 0.25-0.45 | 15° | 0 | nothing; strong contrast, soft ground |
| `medium` | 2-8 | 0.15-0.40 | 45° | 0.25 | shapes on the ground |
| `hard` | 4-14 | 0.10-0.40 | 75° | 0.55 | more shapes, bars across digits, weak contrast, noise |
| `crowd` | 24-60 | 0.045-0.11 | 30° | 0.35 | up to 2 groups annotated as one crowd each |
| `lines` | 1-5 lines of 2-7 | 0.08-0.20 | 30° | 0 | the objects are lines of digits |

Turns stay within 75° because 6 and 9 differ by half a turn.
"""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from jaxvision import registry


@dataclasses.dataclass(frozen=True)
class Preset:
    """Ranges that a scene is drawn from.

    Attributes:
      objects: digits (or lines) per scene, fewest and most; those that find no place are left out.
      scale: height of a digit, smallest and largest, as a share of the image's shorter side.
      rotation: largest angle in degrees, to either side.
      overlap: largest share of an object's pixels that others, or the image's border, may hide.
      clutter: most shapes on the ground, which are annotated by nothing.
      occluders: most bars across the objects, which are annotated by nothing.
      contrast: difference in luminance of digits and ground, smallest and largest, 0..255.
      texture: strength of the ground's texture, in luminance.
      noise: largest deviation of a pixel, 0..255.
      crowds: most groups of small digits that are annotated as one object, a crowd.
      line: digits of a line, fewest and most; (1, 1) where digits are the objects.
    """

    objects: tuple[int, int]
    scale: tuple[float, float]
    rotation: float
    overlap: float
    clutter: int
    occluders: int
    contrast: tuple[float, float]
    texture: float
    noise: int
    crowds: int = 0
    line: tuple[int, int] = (1, 1)

    def __post_init__(self) -> None:
        for name, low in (("objects", 0), ("scale", 1e-9), ("contrast", 0), ("line", 1)):
            values = getattr(self, name)
            if len(values) != 2 or not low <= values[0] <= values[1]:
                raise ValueError(f"{name} is {values}: expected (smallest, largest), at least {max(0, round(low))}")
        if not 0 <= self.overlap < 1:
            raise ValueError(f"overlap is {self.overlap}: expected a share of 0 or more, less than 1")
        for name in ("rotation", "clutter", "occluders", "texture", "noise", "crowds"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}: expected 0 or more")

    @property
    def lines(self) -> bool:
        """Whether the objects are lines of digits."""
        return self.line != (1, 1)

    @property
    def most_objects(self) -> int:
        """Largest number of annotated objects."""
        return self.objects[1] + self.crowds


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "easy": Preset((1, 4), (0.25, 0.45), 15, 0.0, 0, 0, (110, 160), 14, 6),
        "medium": Preset((2, 8), (0.15, 0.40), 45, 0.25, 8, 0, (75, 140), 26, 14),
        "hard": Preset((4, 14), (0.10, 0.40), 75, 0.55, 16, 3, (45, 110), 36, 26),
        "crowd": Preset((24, 60), (0.045, 0.11), 30, 0.35, 6, 0, (70, 140), 26, 12, crowds=2),
        "lines": Preset((1, 5), (0.08, 0.20), 30, 0.0, 4, 0, (80, 150), 22, 10, line=(2, 7)),
    }
)


def resolve(preset: str, changes: Mapping[str, Any]) -> Preset:
    """The preset of this name with the `changes` that are not None.

    Raises:
      ValueError: an unknown name, or a value outside its range.
    """
    if preset not in PRESETS:
        raise ValueError(f"unknown preset {preset!r}: {registry.hint(preset, PRESETS)}")
    given = {name: value for name, value in changes.items() if value is not None}
    return dataclasses.replace(PRESETS[preset], **given)
