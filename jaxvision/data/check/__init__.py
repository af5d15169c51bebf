"""Is this data set what one thinks it is? Every finding is a sentence with the names of the samples.

The fast mode knows what needs no decoding: annotations, which files exist, and what their headers say (of at most
`gather.HEADERS` files). It runs before every training: 10,000 images take one or two seconds. The full mode decodes
everything, compares contents, and counts pixels.
"""

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxvision.data.check.annotations import (
    check_annotations,
    class_pixels,
    images_per_class,
    objects_per_class,
)
from jaxvision.data.check.files import check_files, check_leakage
from jaxvision.data.check.gather import Gathered, gather
from jaxvision.data.check.report import SEVERITIES, Finding, Report, Statistics
from jaxvision.data.table import Ragged

__all__ = ["Finding", "Report", "Statistics", "check"]

PARTS = ("training", "validation")


def check(
    train: Any,
    validation: Any = None,
    *,
    full: bool = True,
    max_instances: int | None = None,
    on_image: Callable[[int], None] = lambda count: None,
    workers: int | None = None,
) -> Report:
    """Looks at a data set.

    Args:
      train: a `Table`, another `SampleSource`, or a source that is gathered in batches (`sources.memory.Source`).
      validation: likewise, of the same classes; None where there is none.
      full: decodes every image; else see the top of this file.
      max_instances: objects of an image that a batch has room for; None does not check it.
      on_image: called with a number of images that are done, from the calling thread.
      workers: threads that decode; None: one per core.
    """
    start = time.monotonic()
    sources = [source for source in (train, validation) if source is not None]
    gathered = [
        gather(source, part, full=full, on_image=on_image, workers=workers)
        for source, part in zip(sources, PARTS, strict=False)
    ]
    root = _common_root([part.root for part in gathered])
    for part in gathered:
        part.root = root
    findings: list[Finding] = []
    for part in gathered:
        if not len(part.source):
            findings.append(Finding("error", "no-image", part.part, 1, f"{part.part}: there is no image"))
            continue
        findings += check_files(part)
        findings += check_annotations(part, max_instances)
    if len(gathered) == 2:
        findings += _differences(*gathered)
        findings += check_leakage(*gathered)
    findings.sort(key=lambda finding: SEVERITIES.index(finding.severity))
    return Report(
        tuple(findings),
        tuple(map(_statistics, gathered)),
        gathered[0].class_names,
        full,
        time.monotonic() - start,
        root,
    )


def _differences(train: Gathered, validation: Gathered) -> list[Finding]:
    if train.class_names == validation.class_names:
        return []
    only = [sorted({*a.class_names} - {*b.class_names}) for a, b in ((train, validation), (validation, train))]
    told = "; ".join(
        f"{part} alone has {', '.join(names[:5])}" for part, names in zip(PARTS, only, strict=True) if names
    )
    text = f"both: training and validation differ in their classes: {told or 'their order'}"
    return [Finding("error", "class-names", "both", 1, text)]


def _statistics(gathered: Gathered) -> Statistics:
    classes = len(gathered.class_names)
    pixels, ignored = None, 0
    for look in gathered.looks.values():
        own = look.pixels if look.values is None else class_pixels(gathered, look.values)
        if own is None:
            continue
        pixels = own if pixels is None else pixels + own
        ignored += look.unlabelled if look.values is None else int(look.values.sum() - own.sum())
    column = gathered.columns.get("boxes")
    boxes = column.values.reshape(-1, 4) if isinstance(column, Ragged) else np.zeros((0, 4))
    sides = (boxes[:, 2:] - boxes[:, :2]).astype(np.float32)
    return Statistics(
        gathered.part,
        gathered.source.name,
        len(gathered.source),
        len(gathered.rows),
        len(gathered.looks),
        images_per_class(gathered) if classes else None,
        objects_per_class(gathered),
        pixels,
        ignored,
        gathered.sizes(),
        sides[np.isfinite(sides).all(axis=1)],
    )


def _common_root(roots: list[str]) -> str:
    """The folder of all parts; "" where a part has none."""
    shared = roots[0]
    for root in roots[1:]:
        while not root.startswith(shared):
            shared = shared[: shared[:-1].rfind("/") + 1]
    return shared
