"""Contact sheets: many pictures on one page, each under its title."""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from jaxvision.visualization import palette
from jaxvision.visualization.canvas import blank, enlarge, font, shorten, to_rgb

GAP = 12
TITLE_HEIGHT = 24


def contact_sheet(
    pictures: Sequence[np.ndarray], titles: Sequence[str] = (), columns: int | None = None, largest: int = 640
) -> UInt8[np.ndarray, "h w 3"]:
    """One picture of all `pictures`, row by row, each in a cell of the common size, under its title.

    Args:
      pictures: images `[H, W]` or `[H, W, C]` of any sizes; tiny ones are enlarged, large ones shrunk.
      titles: one line for each picture (cut where the cell ends), or none at all.
      columns: pictures per row; without it the sheet comes out near a square.
      largest: longest side of a picture on the sheet, in pixels.
    """
    if not pictures:
        raise ValueError("a contact sheet needs at least one picture")
    if titles and len(titles) != len(pictures):
        raise ValueError(f"{len(titles)} titles for {len(pictures)} pictures")
    shown = [to_rgb(p) for p in pictures]
    side = min(largest, max(96, *(max(p.shape[:2]) for p in shown)))
    shown = [enlarge(p, smallest=side, largest=side) for p in shown]
    cell_width = max(p.shape[1] for p in shown)
    title_height = TITLE_HEIGHT if titles else 0
    if columns is None:
        area = sum((p.shape[0] + title_height + GAP) * (cell_width + GAP) for p in shown)
        columns = max(1, round(math.sqrt(area) / (cell_width + GAP)))
    rows = [shown[start : start + columns] for start in range(0, len(shown), columns)]
    heights = [title_height + max(p.shape[0] for p in row) + GAP for row in rows]
    paper, pen = blank(GAP + min(columns, len(shown)) * (cell_width + GAP), GAP + sum(heights))
    face = font(13)
    for place, picture in enumerate(shown):
        left = GAP + place % columns * (cell_width + GAP)
        top = GAP + sum(heights[: place // columns])
        if titles:
            line = shorten(str(titles[place]), cell_width, face)
            pen.text((left + cell_width / 2, top + title_height / 2 - 2), line, palette.TEXT, face, anchor="mm")
        paper.paste(Image.fromarray(picture), (left + (cell_width - picture.shape[1]) // 2, top + title_height))
    return np.asarray(paper).copy()
