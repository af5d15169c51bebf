"""What is wrong with files, and how they will be read; and what training and validation share."""

import os
from collections.abc import Callable, Iterator

import numpy as np

from jaxvision.data.check.annotations import found
from jaxvision.data.check.gather import Gathered, Look
from jaxvision.data.check.report import SHOWN_NAMES, Finding, listed, many
from jaxvision.data.samples import IGNORED

SUFFIXES = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "MPO": (".jpg", ".jpeg", ".mpo"),
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "BMP": (".bmp", ".dib"),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
    "JPEG2000": (".jp2", ".j2k", ".jpx", ".jpc", ".jpf"),
    "AVIF": (".avif", ".avifs"),
    "ICO": (".ico",),
    "TGA": (".tga", ".icb", ".vda", ".vst"),
}
"""Usual suffixes of each format that `read_image` knows."""

HOW_IT_IS_READ: tuple[tuple[str, str, Callable[[Look], bool]], ...] = (
    (
        "grey",
        "grey, repeated into three channels where the model takes RGB",
        lambda look: _mode(look) in ("L", "1", "LA"),
    ),
    ("cmyk", "CMYK, converted to RGB without the colour profile", lambda look: _mode(look) == "CMYK"),
    ("16-bit", "of 16 bits, of which the high byte is kept", lambda look: _mode(look).startswith("I")),
    ("transparent", "with transparency, composited on white", lambda look: look.header.transparent),  # type: ignore
    ("exif-rotated", "turned upright by their EXIF orientation", lambda look: look.header.orientation not in (0, 1)),  # type: ignore
    ("animated", "of several frames or pages, of which the first is taken", lambda look: look.header.animated),  # type: ignore
)


def check_files(gathered: Gathered) -> Iterator[Finding]:
    """Findings in the files, or samples, of one part."""
    yield from _unreadable(gathered)
    yield from _annotated_sizes(gathered)
    yield from _map_values(gathered)
    yield from _bare(gathered)
    yield from _how_they_are_read(gathered)
    yield from _duplicates(gathered)


def check_leakage(train: Gathered, validation: Gathered) -> Iterator[Finding]:
    """Images that both parts share: by file, and by content where that is known."""
    known = _keys(train)
    shared = [(known[key], place) for place, key in _all_keys(validation) if key in known]
    places = np.unique(np.asarray([place for _, place in shared], np.int64))
    if not len(places):
        return
    if len(places) == len(validation.rows):
        text = "every validation image is a training image too: what is measured is memory"
    else:
        pairs: list[str] = []
        seen: set[int] = set()
        for mine, place in shared:
            if place not in seen and len(pairs) < SHOWN_NAMES:
                one, other = train.name(mine), validation.name(place)
                pairs.append(one if train.root + one == validation.root + other else f"{other} = {one}")
            seen.add(place)
        verb = many(len(places), "validation image is a training image", "validation images are training images")
        text = f"{verb} too: {listed(pairs, len(places))}"
    finding = found(validation, "warning", "leakage", "", places)
    yield Finding("warning", "leakage", "both", len(places), f"both: {text}", finding.rows, finding.names)


def _mode(look: Look) -> str:
    return look.header.mode if look.header is not None else ""


def _places(gathered: Gathered, holds: Callable[[Look], object]) -> np.ndarray:
    return np.asarray([place for place, look in gathered.looks.items() if holds(look)], np.int64)


def _with_reasons(gathered: Gathered, places: np.ndarray, reason: Callable[[Look], str | None]) -> str:
    def told(place: int) -> str:
        why = str(reason(gathered.looks[place]))
        return f"{gathered.name(place)} ({why.replace(gathered.root, '') if gathered.root else why})"

    return listed([told(int(place)) for place in np.sort(places)[:SHOWN_NAMES]], len(places))


def _finding(gathered: Gathered, severity, kind: str, text: str, places: np.ndarray) -> Finding:
    """With names that stand in `text` already."""
    return found(gathered, severity, kind, text.replace("{", "{{").replace("}", "}}"), places)


def _unreadable(gathered: Gathered) -> Iterator[Finding]:
    places = _places(gathered, lambda look: look.problem)
    if len(places):
        told = _with_reasons(gathered, places, lambda look: look.problem)
        text = f"{many(len(places), 'image')} cannot be read: {told}"
        yield _finding(gathered, "error", "unreadable", text, places)
    places = _places(gathered, lambda look: look.map_problem)
    if len(places):
        told = _with_reasons(gathered, places, lambda look: look.map_problem)
        text = f"{many(len(places), 'image has', 'images have')} masks that cannot be used: {told}"
        yield _finding(gathered, "error", "unusable-mask", text, places)
    places = _places(gathered, lambda look: look.blank)
    if len(places):
        what = f"{many(len(places), 'image is', 'images are')} of one colour only: {{}}"
        yield found(gathered, "note", "blank-image", what, places)


def _annotated_sizes(gathered: Gathered) -> Iterator[Finding]:
    annotated = gathered.array("size")
    if annotated is None:
        return
    wrong = [
        place
        for place, look in gathered.looks.items()
        if look.size[0] and annotated[place].min() > 0 and tuple(annotated[place]) != tuple(look.size)
    ]
    turned = [
        place
        for place in wrong
        if tuple(annotated[place][::-1]) == tuple(gathered.looks[place].size) and _is_turned(gathered.looks[place])
    ]
    for places, kind, why in (
        (turned, "annotated-sideways", "annotated as stored, not upright as EXIF says, so that boxes lie wrong"),
        (sorted({*wrong} - {*turned}), "annotated-size", "not of the size that its annotation says"),
    ):
        if places:
            shown = []
            for place in places[:SHOWN_NAMES]:
                given, real = annotated[place], gathered.looks[place].size
                name = gathered.name(place)
                shown.append(f"{name} (annotated {given[0]} x {given[1]}, is {real[0]} x {real[1]}, height x width)")
            text = f"{many(len(places), 'image is', 'images are')} {why}: {listed(shown, len(places))}"
            yield _finding(gathered, "warning", kind, text, np.asarray(places))


def _is_turned(look: Look) -> bool:
    return look.header is not None and look.header.orientation in (5, 6, 7, 8)


def _map_values(gathered: Gathered) -> Iterator[Finding]:
    """Values of semantic maps that stand for no class."""
    looks = {place: look for place, look in gathered.looks.items() if look.values is not None}
    if not looks:
        return
    classes, table = len(gathered.class_names), getattr(gathered.source, "semantic_values", None)
    mapped = np.arange(256) if table is None else np.asarray(table)
    for places_of, severity, kind, why in (
        ((mapped >= classes) & (mapped != IGNORED), "error", "mask-value",
         f"stand for no class; expected 0..{classes - 1}, or {IGNORED} for none"),
        ((mapped == IGNORED) & (np.arange(256) != IGNORED), "warning", "mask-value-ignored",
         "stand for no class, so that their pixels are ignored"),
    ):  # fmt: skip
        places = np.asarray([p for p, look in looks.items() if look.values[places_of].any()], np.int64)  # type: ignore
        if len(places):
            total = np.stack([looks[int(p)].values for p in places]).sum(axis=0)  # type: ignore
            values = np.flatnonzero(places_of & (total > 0))
            pixels = int(total[values].sum())
            what = f"values {listed([str(v) for v in values])} of masks ({pixels:,} pixels) {why}: {{}}"
            yield found(gathered, severity, kind, what, places)  # type: ignore[arg-type]


def _bare(gathered: Gathered) -> Iterator[Finding]:
    places = _places(gathered, lambda look: look.bare)
    if len(places):
        count = sum(gathered.looks[int(place)].bare for place in places)
        what = f"{many(count, 'object has a mask', 'objects have masks')} without any pixel: {{}}"
        yield found(gathered, "warning", "empty-mask", what, places, count)


def _how_they_are_read(gathered: Gathered) -> Iterator[Finding]:
    headers = {place: look for place, look in gathered.looks.items() if look.header is not None}
    for kind, how, holds in HOW_IT_IS_READ:
        places = np.asarray([place for place, look in headers.items() if holds(look)], np.int64)
        if len(places):
            of = "" if len(places) < len(gathered.looks) else " (all that were looked at)"
            what = f"{many(len(places), 'image is', 'images are')} {how}{of}: {{}}"
            yield found(gathered, "note", kind, what, places)
    if getattr(gathered.source, "read", None) is not None:
        return
    other = []
    for place, look in headers.items():
        suffix = os.path.splitext(gathered.name(place))[1].lower()
        if suffix and suffix not in SUFFIXES.get(look.header.format, (suffix,)):  # type: ignore[union-attr]
            other.append(place)
    if other:
        told = _with_reasons(gathered, np.asarray(other), lambda look: f"{look.header.format}")  # type: ignore
        text = f"{many(len(other), 'file is', 'files are')} of another format than the name says: {told}"
        yield _finding(gathered, "note", "wrong-suffix", text, np.asarray(other))


def _duplicates(gathered: Gathered) -> Iterator[Finding]:
    by_digest: dict[bytes, list[int]] = {}
    for place, look in gathered.looks.items():
        if look.digest is not None:
            by_digest.setdefault(look.digest, []).append(place)
    groups = [places for places in by_digest.values() if len(places) > 1]
    if not groups:
        return
    told = [" = ".join(gathered.name(place) for place in group[:SHOWN_NAMES]) for group in groups[:SHOWN_NAMES]]
    surplus = sum(len(group) - 1 for group in groups)
    verb = many(surplus, "image is the same as another one", "images are the same as others")
    text = f"{verb}: {listed(told, len(groups))}"
    yield _finding(gathered, "warning", "duplicate-image", text, np.asarray([p for group in groups for p in group]))
    label = gathered.array("label")
    if label is None:
        return
    torn = [group for group in groups if len(np.unique(label[group], axis=0)) > 1]
    if torn:
        told = [" = ".join(gathered.name(place) for place in group[:SHOWN_NAMES]) for group in torn[:SHOWN_NAMES]]
        verb = many(len(torn), "image has copies with different labels", "images have copies with different labels")
        text = f"{verb}: {listed(told, len(torn))}"
        yield _finding(gathered, "warning", "contradiction", text, np.asarray([p for g in torn for p in g]))


def _all_keys(gathered: Gathered) -> Iterator[tuple[int, object]]:
    """(place, what identifies its image): the path, and the digest where it is known."""
    files = gathered.array("file")
    if files is not None and getattr(gathered.source, "read", None) is None and hasattr(gathered.source, "columns"):
        for place in range(len(gathered.rows)):
            yield place, os.path.normpath(str(files[place]))
    for place, look in gathered.looks.items():
        if look.digest is not None:
            yield place, look.digest


def _keys(gathered: Gathered) -> dict[object, int]:
    keys: dict[object, int] = {}
    for place, key in _all_keys(gathered):
        keys.setdefault(key, place)
    return keys
