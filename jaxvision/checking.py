"""The check of a data set that a config, or a folder, names: its report, and its pictures."""

import dataclasses
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from jaxvision import errors
from jaxvision.data.check import PARTS, Finding, Report, check
from jaxvision.data.samples import INSTANCE_KEYS, Sample
from jaxvision.engine.progress import Progress

SHEET = 24
"""Suspicious samples on the sheet at most."""
PER_FINDING = 4
"""Of them, samples of one finding at most."""

Build = Callable[[str], Any]
"""split -> source."""


class UnreadableData(errors.SetupError):
    """Sources that cannot even be built."""


def check_sources(
    build: Build, *, full: bool = True, max_instances: int | None = None
) -> tuple[Report, tuple[Any, Any]]:
    """Builds and checks both parts, with a progress bar; what the reader left out is among the findings.

    Args:
      build: makes the source of a split, "train" or "validation".
      full: see `data.check.check`.
      max_instances: likewise.

    Returns:
      The report, and both sources.

    Raises:
      UnreadableData: a source cannot be built.
    """
    sources, told = [], []
    for split, part in zip(("train", "validation"), PARTS, strict=True):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            try:
                sources.append(build(split))
            except ValueError as error:
                raise UnreadableData(str(error)) from error
        told += [
            Finding("warning", "left-out", part, 1, f"{part}: {warning.message}")
            for warning in caught
            if issubclass(warning.category, UserWarning)
        ]
    train, validation = sources
    with Progress(sum(map(len, sources)), enabled=full) as progress:
        done = 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            progress.update(done)

        report = check(train, validation, full=full, max_instances=max_instances, on_image=advance)
    findings = sorted([*told, *report.findings], key=lambda f: ("error", "warning", "note").index(f.severity))
    return dataclasses.replace(report, findings=tuple(findings)), (train, validation)


def write_report(report: Report, sources: Sequence[Any], folder: Path) -> list[str]:
    """Writes `report.json` and the pictures into a folder.

    Args:
      report: of `sources`.
      sources: training, then validation.
      folder: is created where it is missing.

    Returns:
      The names of the files.
    """
    from jaxvision.visualization import dataset
    from jaxvision.visualization.canvas import save_figure, save_picture

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(report.text(), encoding="utf-8")
    figures: dict[str, Any] = {}
    for what in ("images", "objects", "pixels"):
        counts = {part.part: getattr(part, f"{what}_per_class") for part in report.parts}
        counts = {part: number for part, number in counts.items() if number is not None}
        if counts:
            figures[f"{what}_per_class.png"] = dataset.class_histogram(report.class_names, counts, what)
    sizes = {part.part: part.sizes for part in report.parts if (part.sizes > 0).any()}
    if any(len(np.unique(values, axis=0)) > 1 for values in sizes.values()):
        figures["image_sizes.png"] = dataset.image_sizes(sizes)
    boxes = np.concatenate([part.boxes for part in report.parts])
    if len(boxes):
        figures["box_sizes.png"] = dataset.box_sizes(boxes)
    for name, figure in figures.items():
        save_figure(figure, folder / name)
    written = ["report.json", *figures]
    sheet = suspicious(report, sources)
    if sheet is not None:
        save_picture(sheet, folder / "suspicious.png")
        written.append("suspicious.png")
    return written


def suspicious(report: Report, sources: Sequence[Any]) -> UInt8[np.ndarray, "h w 3"] | None:
    """A contact sheet of the first samples of each error and warning; None where none can be shown."""
    from jaxvision.visualization.samples import draw_sample
    from jaxvision.visualization.sheets import contact_sheet

    pictures: list[np.ndarray] = []
    titles: list[str] = []
    for finding in (*report.of("error"), *report.of("warning")):
        source = sources[0] if finding.part == PARTS[0] else sources[1]
        for row, name in list(zip(finding.rows, finding.names, strict=True))[:PER_FINDING]:
            if len(pictures) == SHEET:
                break
            try:
                sample = read_sample(source, row)
            except ValueError:  # which is what the finding says
                continue
            names = _names_for(sample, source.class_names)
            pictures.append(draw_sample(sample, names, tuple(getattr(source, "keypoint_names", ()))))
            titles.append(f"{finding.kind}: {name}")
    return contact_sheet(pictures, titles, largest=400) if pictures else None


def read_sample(source: Any, row: int) -> Sample:
    """Sample `row` of any kind of source; objects whose boxes or labels cannot be drawn are left out.

    Raises:
      ImageError: it cannot be read.
    """
    if not hasattr(source, "sample"):
        return {key: value[0] for key, value in source.gather(np.array([row])).items()}
    sample = source.sample(row)
    labels, boxes = sample.get("labels"), sample.get("boxes")
    if labels is None:
        return sample
    kept = np.asarray(labels) >= 0
    if boxes is not None:
        kept &= np.isfinite(boxes).all(axis=1) & (boxes[:, 2:] >= boxes[:, :2]).all(axis=1)
    return sample | {
        key: tuple(text for text, keep in zip(value, kept, strict=True) if keep) if key == "texts" else value[kept]
        for key, value in sample.items()
        if key in INSTANCE_KEYS
    }


def _names_for(sample: Mapping[str, Any], class_names: Sequence[str]) -> tuple[str, ...]:
    """The class names, with numbers for labels beyond them."""
    labels = [
        *np.ravel(sample.get("labels", [])),
        *([sample["label"]] if np.ndim(sample.get("label", [])) == 0 else []),
    ]
    most = max([len(class_names) - 1, *(int(label) for label in labels)])
    return (*class_names, *(f"label {label}?" for label in range(len(class_names), most + 1)))
