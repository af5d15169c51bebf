"""What a check found: plain sentences, numbers per class, and the same as JSON."""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int

from jaxvision.errors import SetupError

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
SHOWN_NAMES = 3
"""Samples that a sentence names."""
KEPT_ROWS = 50
"""Rows that a finding keeps, for pictures and for `report.json`."""
SHOWN_CLASSES = 40
"""Classes in the table; of more, the most and the least frequent ones."""


@dataclasses.dataclass(frozen=True)
class Finding:
    """One kind of thing that was found in one part of the data.

    Attributes:
      severity: an `error` stops training; a `warning` is probably a mistake; a `note` is worth knowing.
      kind: its short name, the same in every report.
      part: "training", "validation", or "both".
      count: how often.
      text: the sentence, with the first names.
      rows: the first `KEPT_ROWS` samples of the part.
      names: of these samples.
    """

    severity: Severity
    kind: str
    part: str
    count: int
    text: str
    rows: tuple[int, ...] = ()
    names: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, eq=False)
class Statistics:
    """Numbers of one part of the data.

    Attributes:
      part: "training" or "validation".
      name: of the source.
      images: samples of the source.
      looked: samples that the numbers are from; fewer in the fast mode of large data.
      opened: images whose files or pixels were looked at; likewise.
      images_per_class: images that hold the class, or are of it; None where nothing says so.
      objects_per_class: boxes of each class.
      pixels_per_class: of semantic or panoptic maps; the full mode counts them.
      ignored_pixels: those that have no class.
      sizes: height and width of each image, zeros where unknown.
      boxes: width and height of each box, in pixels, of finite ones.
    """

    part: str
    name: str
    images: int
    looked: int
    opened: int
    images_per_class: Int[np.ndarray, " c"] | None
    objects_per_class: Int[np.ndarray, " c"] | None
    pixels_per_class: Int[np.ndarray, " c"] | None
    ignored_pixels: int
    sizes: Int[np.ndarray, "n 2"]
    boxes: Float[np.ndarray, "m 2"]

    def lines(self) -> list[str]:
        """Numbers in a few lines."""
        of = "" if self.looked == self.images else f" ({self.looked:,} of them were looked at)"
        if not of and 0 < self.opened < self.images:
            of = f" (the headers of {self.opened:,} files were read)"
        lines = [f"{self.part}: {many(self.images, 'image')}{of} of {self.name}"]
        known = self.sizes[self.sizes.min(axis=1) > 0] if len(self.sizes) else self.sizes
        if len(known):
            middle, low, high = np.median(known, axis=0), known.min(axis=0), known.max(axis=0)
            text = f"{middle[0]:.0f} x {middle[1]:.0f} pixels (height x width)"
            if (low != high).any():
                text = f"median {text}, heights {low[0]} to {high[0]}, widths {low[1]} to {high[1]}"
            lines.append(f"  sizes: {text}")
        if self.objects_per_class is not None and self.looked:
            total = int(self.objects_per_class.sum())
            text = f"  objects: {total:,}, {total / self.looked:.1f} per image"
            if len(self.boxes):
                sides = np.sqrt(np.maximum(self.boxes.prod(axis=1), 0))
                text += f"; sides of {sides.min():.0f} to {sides.max():.0f} pixels, median {np.median(sides):.0f}"
            lines.append(text)
        if self.pixels_per_class is not None:
            total = int(self.pixels_per_class.sum()) + self.ignored_pixels
            lines.append(f"  pixels: {total:,}, {self.ignored_pixels / max(1, total):.1%} without a class")
        return lines


@dataclasses.dataclass(frozen=True, eq=False)
class Report:
    """The result of `check`.

    Attributes:
      findings: errors first.
      parts: training, then validation.
      class_names: one per class.
      full: whether every image was decoded.
      seconds: what the check took.
      root: folder in which the named files lie; "" where names are complete.
    """

    findings: tuple[Finding, ...]
    parts: tuple[Statistics, ...]
    class_names: tuple[str, ...]
    full: bool
    seconds: float
    root: str = ""

    def of(self, severity: Severity) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.severity == severity)

    @property
    def errors(self) -> tuple[Finding, ...]:
        return self.of("error")

    def sentences(self, *, notes: bool = True) -> list[str]:
        """One line per finding, errors first, and what they come to."""
        severities: tuple[Severity, ...] = SEVERITIES if notes else SEVERITIES[:-1]
        lines = [f"{finding.severity}: {finding.text}" for severity in severities for finding in self.of(severity)]
        counts = [many(len(self.of(severity)), severity) for severity in SEVERITIES if self.of(severity)]
        if not self.of("error") and not self.of("warning"):
            counts = ["nothing wrong", *counts]
        told = " and ".join(filter(None, [", ".join(counts[:-1]), counts[-1]]))
        how = "every image was decoded" if self.full else "images were not decoded"
        return [*lines, f"The check of the data found {told} ({how}, {self.seconds:.1f} s)."]

    def lines(self) -> list[str]:
        """The whole report."""
        lines = [line for part in self.parts for line in part.lines()]
        table = self.table()
        lines += ["", *table, ""] if table else [""]
        if self.root and any(finding.names for finding in self.findings):
            lines.append(f"(files are named from {self.root})")
        return lines + self.sentences()

    def table(self) -> list[str]:
        """Images, boxes and pixels per class, training beside validation."""
        columns: list[tuple[str, Sequence[str]]] = []
        for part in self.parts:
            for what in ("images", "objects", "pixels"):
                counts = getattr(part, f"{what}_per_class")
                if counts is None:
                    continue
                shown = [f"{count:,}" for count in counts]
                if what == "pixels":
                    shown = [f"{count / max(1, counts.sum()):.2%}" for count in counts]
                columns.append((f"{part.part} {what}", shown))
        order = self._order()
        if not columns or not len(order):
            return []
        names = [_fit(name) for name in self.class_names]
        width = max(5, *(len(names[i]) for i in order if i >= 0))
        lines = ["  ".join([f"{'class':<{width}}", *(title for title, _ in columns)])]
        for i in order:
            if i < 0:
                lines.append(f"... {len(names) - len(order) + 1} more ...")
                continue
            cells = [f"{shown[i]:>{len(title)}}" for title, shown in columns]
            lines.append("  ".join([f"{names[i]:<{width}}", *cells]))
        return lines

    def _order(self) -> list[int]:
        """Classes in the table: all in their own order, or the most and the least frequent around a -1."""
        classes = len(self.class_names)
        if classes <= SHOWN_CLASSES:
            return list(range(classes))
        counts = np.zeros(classes)
        for part in self.parts[:1]:
            for kept in (part.images_per_class, part.objects_per_class, part.pixels_per_class):
                counts = counts + (kept if kept is not None else 0)
        order = [int(i) for i in np.argsort(-counts, kind="stable")]
        half = SHOWN_CLASSES // 2
        return [*order[:half], -1, *order[-half:]]

    def json(self) -> dict[str, Any]:
        """Everything but the lists of sizes, which `pictures` show."""
        parts = [
            {
                "part": part.part,
                "source": part.name,
                "images": part.images,
                "looked": part.looked,
                "opened": part.opened,
                "ignored_pixels": part.ignored_pixels,
                **{
                    name: None if counts is None else [int(count) for count in counts]
                    for name in ("images_per_class", "objects_per_class", "pixels_per_class")
                    for counts in [getattr(part, name)]
                },
            }
            for part in self.parts
        ]
        return {
            "full": self.full,
            "seconds": round(self.seconds, 2),
            "root": self.root,
            "class_names": list(self.class_names),
            "parts": parts,
            "findings": [dataclasses.asdict(finding) for finding in self.findings],
        }

    def text(self) -> str:
        """`json` as text."""
        return json.dumps(self.json(), indent=1, ensure_ascii=False) + "\n"

    def raise_errors(self, closer: str) -> None:
        """Raises `SetupError` with all errors; `closer` says how to look closer."""
        if not self.errors:
            return
        told = "".join(f"\n  {finding.text}" for finding in self.errors)
        where = f"\n(files are named from {self.root})" if self.root else ""
        raise SetupError(f"the data cannot be trained with:{told}{where}\nLook closer with: {closer}")


def many(count: int, singular: str, plural: str | None = None) -> str:
    """ "1 image", "2 images"."""
    return f"{count:,} {singular if count == 1 else plural or singular + 's'}"


def listed(names: Sequence[str], total: int | None = None) -> str:
    """ "a, b, c and 4 more"."""
    total = len(names) if total is None else total
    shown = list(names[:SHOWN_NAMES])
    more = total - len(shown)
    if more > 0:
        return f"{', '.join(shown)} and {more:,} more"
    return " and ".join(filter(None, [", ".join(shown[:-1]), *shown[-1:]]))


def _fit(name: str, width: int = 32) -> str:
    name = " ".join(name.split()) or repr(name)
    return name if len(name) <= width else name[: width - 1] + "…"
