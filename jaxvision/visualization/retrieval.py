"""The sheet of a retrieval: each query with its nearest images beside it, hits and misses framed and marked."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from jaxvision.visualization import palette
from jaxvision.visualization.canvas import blank, font, shorten, to_rgb

CELL = 128
GAP = 12
TITLE = 22
FRAME = 4
HEADER = 30


def retrieval_sheet(
    queries: Sequence[np.ndarray],
    found: Sequence[Sequence[np.ndarray]],
    *,
    query_titles: Sequence[str],
    titles: Sequence[Sequence[str]],
    hits: Sequence[Sequence[bool]] | None = None,
) -> UInt8[np.ndarray, "h w 3"]:
    """One row for each query: the query, then its nearest images, the nearest first.

    Args:
      queries: images `[H, W]` or `[H, W, C]` of any sizes.
      found: the images found for each query.
      query_titles, titles: one line under each image.
      hits: which of those found are right, where that is known: framed green with a check mark, or red with a cross.
    """
    if not queries or len({len(queries), len(found), len(query_titles), len(titles)}) > 1:
        raise ValueError(
            f"{len(queries)} queries with {len(found)} rows of results: expected as many, and at least one"
        )
    columns = max(len(row) for row in found)
    step, row_height = CELL + GAP, CELL + TITLE + GAP
    offset = 2 * GAP  # sets the query apart
    paper, pen = blank(GAP + (columns + 1) * step + offset, HEADER + len(queries) * row_height)
    head = font(13, bold=True)
    pen.text((GAP, HEADER / 2 + 2), "query", palette.TEXT, head, anchor="lm")
    pen.text((GAP + step + offset, HEADER / 2 + 2), "nearest images (cosine)", palette.TEXT, head, anchor="lm")
    for i, query in enumerate(queries):
        top = HEADER + i * row_height
        _cell(paper, pen, GAP, top, query, query_titles[i], None)
        for j, picture in enumerate(found[i]):
            right = None if hits is None else bool(hits[i][j])
            _cell(paper, pen, GAP + offset + (j + 1) * step, top, picture, titles[i][j], right)
    return np.asarray(paper).copy()


def _cell(
    paper: Image.Image, pen: ImageDraw.ImageDraw, left: int, top: int, image: np.ndarray, title: str, hit: bool | None
) -> None:
    inner = CELL - 2 * FRAME
    picture = Image.fromarray(to_rgb(image))
    scale = inner / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    method = Image.Resampling.NEAREST if scale > 2 else Image.Resampling.LANCZOS
    picture = picture.resize(size, method)
    color = palette.GRID if hit is None else palette.RIGHT if hit else palette.WRONG
    width = 1 if hit is None else FRAME - 1
    pen.rectangle((left, top, left + CELL - 1, top + CELL - 1), outline=color, width=width)
    paper.paste(picture, (left + (CELL - size[0]) // 2, top + (CELL - size[1]) // 2))
    mark = "" if hit is None else "✓ " if hit else "✗ "
    face = font(12)
    line = shorten(mark + title, CELL, face)
    text = palette.TEXT if hit is None else color
    pen.text((left + CELL / 2, top + CELL + TITLE / 2 - 1), line, text, face, anchor="mm")
