"""Folders of images, made."""

from pathlib import Path

import numpy as np
from PIL import Image


def write_folder(root: Path, names: list[str], count: int = 8, size: tuple[int, int] = (40, 48)) -> Path:
    """`train/NAME/*.png` and half as many in `val`, of `size` (height, width); the colour tells the class."""
    rng = np.random.default_rng(0)
    for part, number in (("train", count), ("val", max(1, count // 2))):
        for label, name in enumerate(names):
            folder = root / part / name
            folder.mkdir(parents=True)
            for i in range(number):
                pixels = rng.integers(0, 60, (*size, 3), np.uint8)
                pixels[..., label % 3] += 150
                Image.fromarray(pixels).save(folder / f"{i} ö.png")
    return root
