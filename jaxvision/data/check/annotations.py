"""What is wrong with labels, boxes, keypoints and ids; known from columns, without decoding an image."""

from collections import Counter
from collections.abc import Iterator

import numpy as np

from jaxvision.data.check.gather import Gathered
from jaxvision.data.check.report import KEPT_ROWS, Finding, Severity, listed, many
from jaxvision.data.table import Ragged

OUTSIDE = 1.0
"""Pixels by which a box may leave its image without a word: annotations are rounded."""
THIN = 1.0
"""Pixels below which a side of a box cannot be learned from; preparation drops such objects."""
LONG_IMAGE, LONG_BOX = 4.0, 20.0
"""Ratios of the sides that are mentioned."""
UNEQUAL = 10.0
"""Ratio of the most frequent class to the least frequent that is mentioned."""


def found(gathered: Gathered, severity: Severity, kind: str, what: str, places: np.ndarray, count: int = 0) -> Finding:
    """A finding about samples: `what` is the sentence, {} in it the names."""
    distinct = np.unique(places)
    names = tuple(gathered.name(int(place)) for place in distinct[:KEPT_ROWS])
    text = what.format(listed(names, len(distinct)))
    rows = tuple(int(gathered.rows[place]) for place in distinct[:KEPT_ROWS])
    return Finding(severity, kind, gathered.part, count or len(distinct), f"{gathered.part}: {text}", rows, names)


def check_annotations(gathered: Gathered, max_instances: int | None) -> Iterator[Finding]:
    """Findings in one part."""
    yield from _class_names(gathered)
    yield from _labels(gathered)
    yield from _classes(gathered)
    yield from _ids(gathered)
    if gathered.ragged("boxes") is not None:
        yield from _boxes(gathered)
    if gathered.ragged("keypoints") is not None:
        yield from _keypoints(gathered)
    yield from _objects(gathered, max_instances)
    yield from _sizes(gathered)


def _values_per_column(gathered: Gathered) -> list[int] | None:
    """Number of values of each head, where labels have a column for each (`image_csv`, classes "head/value")."""
    label, heads = gathered.array("label"), [name.partition("/") for name in gathered.class_names]
    if label is None or label.ndim != 2 or not all(slash for _, slash, _ in heads):
        return None
    counts = Counter(head for head, _, _ in heads)
    return list(counts.values()) if len(counts) == label.shape[1] != len(heads) else None


def images_per_class(gathered: Gathered) -> np.ndarray | None:
    """Images that are of the class, or hold an object of it; labels out of range count nowhere."""
    classes = len(gathered.class_names)
    label = gathered.array("label")
    if label is not None:
        if heads := _values_per_column(gathered):
            columns = zip(label.T, heads, strict=True)
            return np.concatenate([np.bincount(c[(c >= 0) & (c < n)], minlength=n) for c, n in columns])
        if label.ndim == 2:
            return (label > 0).sum(axis=0)
        return np.bincount(label[(label >= 0) & (label < classes)].astype(np.int64), minlength=classes)
    labels = gathered.ragged("labels") or gathered.ragged("segment_labels")
    if labels is not None:
        pairs = np.stack([owners(labels), labels.values.astype(np.int64)], axis=1)
        pairs = np.unique(pairs[(pairs[:, 1] >= 0) & (pairs[:, 1] < classes)], axis=0)
        return np.bincount(pairs[:, 1], minlength=classes)
    values = [look.values for look in gathered.looks.values() if look.values is not None]
    if values and gathered.complete:
        return np.sum([class_pixels(gathered, value) > 0 for value in values], axis=0)
    return None


def objects_per_class(gathered: Gathered) -> np.ndarray | None:
    labels, classes = gathered.ragged("labels"), len(gathered.class_names)
    if labels is None:
        return None
    kept = labels.values[(labels.values >= 0) & (labels.values < classes)]
    return np.bincount(kept.astype(np.int64), minlength=classes)


def class_pixels(gathered: Gathered, values: np.ndarray) -> np.ndarray:
    """Pixels of each value as stored -> pixels of each class."""
    classes, table = len(gathered.class_names), getattr(gathered.source, "semantic_values", None)
    mapped = np.arange(256) if table is None else np.asarray(table)
    known = mapped < classes
    return np.bincount(mapped[known], values[known], minlength=classes).astype(np.int64)


def owners(column: Ragged) -> np.ndarray:
    """The row of each value."""
    return np.repeat(np.arange(len(column)), np.diff(column.splits))


def _class_names(gathered: Gathered) -> Iterator[Finding]:
    twice = [name for name, count in Counter(gathered.class_names).items() if count > 1]
    if twice:
        text = f"{many(len(twice), 'class name is', 'class names are')} there more than once: {listed(twice)}"
        yield Finding("error", "class-names", gathered.part, len(twice), f"{gathered.part}: {text}")
    if any(not str(name).strip() for name in gathered.class_names):
        yield Finding("error", "class-names", gathered.part, 1, f"{gathered.part}: a class has an empty name")


def _labels(gathered: Gathered) -> Iterator[Finding]:
    classes = len(gathered.class_names)
    expected = f"expected 0..{classes - 1} for {many(classes, 'class', 'classes')}"
    label = gathered.array("label")
    if label is not None and label.ndim == 1:
        places = np.flatnonzero((label < 0) | (label >= classes))
        if len(places):
            values = listed([str(v) for v in np.unique(label[places])])
            what = f"{many(len(places), 'label is', 'labels are')} out of range ({values}; {expected}): {{}}"
            yield found(gathered, "error", "label-range", what, places)
    elif label is not None and (heads := _values_per_column(gathered)):
        wrong = (label < -1) | (label >= np.array(heads))
        if wrong.any():
            what = (
                f"labels out of range (expected -1, not known, to {listed([str(n - 1) for n in heads])} in turn): {{}}"
            )
            yield found(gathered, "error", "label-range", what, np.flatnonzero(wrong.any(axis=1)))
    elif label is not None and (label.shape[1] != classes or not np.isin(label, (0, 1)).all()):
        what = f"labels are rows of {label.shape[1]} values; expected 0 or 1 for each of {classes} classes"
        yield found(gathered, "error", "label-range", what, np.zeros(0, np.int64), len(label))
    for key, thing in (("labels", "object"), ("segment_labels", "segment")):
        labels = gathered.ragged(key)
        if labels is not None:
            wrong = (labels.values < 0) | (labels.values >= classes)
            if wrong.any():
                values = listed([str(v) for v in np.unique(labels.values[wrong])])
                count = int(wrong.sum())
                verb = many(count, f"{thing} has", f"{thing}s have")
                what = f"{verb} a label out of range ({values}; {expected}) in {{}}"
                yield found(gathered, "error", "label-range", what, owners(labels)[wrong], count)


def _classes(gathered: Gathered) -> Iterator[Finding]:
    counts = images_per_class(gathered)
    if counts is None or not gathered.complete or not len(gathered.source):
        return
    empty = [name for name, count in zip(gathered.class_names, counts, strict=True) if not count]
    if empty:
        severity: Severity = "warning" if gathered.part == "training" else "note"
        text = f"{many(len(empty), 'class has', 'classes have')} no sample: {listed(empty)}"
        yield Finding(severity, "class-without-sample", gathered.part, len(empty), f"{gathered.part}: {text}")
    present = counts[counts > 0]
    if len(present) > 1 and present.max() >= UNEQUAL * present.min() and gathered.part == "training":
        most, least = int(np.argmax(counts)), int(np.flatnonzero(counts == present.min())[0])
        text = (
            f"classes are unequal: {gathered.class_names[most]} in {many(int(counts[most]), 'image')}, "
            f"{gathered.class_names[least]} in {many(int(counts[least]), 'image')}"
        )
        yield Finding("note", "class-imbalance", gathered.part, 1, f"{gathered.part}: {text}")


def _ids(gathered: Gathered) -> Iterator[Finding]:
    files, own_ids = gathered.array("file"), gathered.array("id")
    if files is None or getattr(gathered.source, "read", None) is not None:
        return
    names = files.astype(str)
    _, first, counts = np.unique(names, return_index=True, return_counts=True)
    repeated = np.flatnonzero(counts > 1)
    if len(repeated):
        what = f"{many(len(repeated), 'image is', 'images are')} listed more than once: {{}}"
        yield found(gathered, "note", "repeated-image", what, first[repeated])
    if own_ids is None:
        return
    distinct = np.sort(first)  # rows that repeat an image repeat its id by right
    ids = Counter(str(own_ids[place]) for place in distinct)
    twice = {value for value, count in ids.items() if count > 1}
    if twice:
        places = [p for p in distinct if str(own_ids[p]) in twice]
        shown = f"{many(len(twice), 'id')} ({listed(sorted(twice))})"
        what = f"{shown} stand{'s' if len(twice) == 1 else ''} for more than one image: {{}}"
        yield found(gathered, "warning", "duplicate-id", what, np.asarray(places), len(twice))


def _boxes(gathered: Gathered) -> Iterator[Finding]:
    column = gathered.ragged("boxes")
    assert column is not None
    boxes, rows = column.values.astype(np.float64).reshape(-1, 4), owners(column)
    finite = np.asarray(np.isfinite(boxes).all(axis=1))
    if not finite.all():
        count = int((~finite).sum())
        what = f"{many(count, 'box has', 'boxes have')} coordinates that are no numbers (NaN or infinite) in {{}}"
        yield found(gathered, "error", "box-not-finite", what, rows[~finite], count)
    sides = np.where(finite[:, None], boxes[:, 2:] - boxes[:, :2], 1e9)
    backwards = sides.min(axis=1, initial=np.inf) < 0
    if backwards.any():
        count = int(backwards.sum())
        what = (
            f"{many(count, 'box has', 'boxes have')} a right edge left of the left, or a bottom above the top, in {{}}"
        )
        yield found(gathered, "error", "box-backwards", what, rows[backwards], count)
    thin = ~backwards & (sides.min(axis=1, initial=np.inf) < THIN)
    if thin.any():
        count = int(thin.sum())
        what = f"{many(count, 'box is', 'boxes are')} thinner than one pixel and left out in training: {{}}"
        yield found(gathered, "warning", "box-degenerate", what, rows[thin], count)
    yield from _outside(gathered, boxes, rows, finite)
    ratio = sides.max(axis=1, initial=0) / np.maximum(sides.min(axis=1, initial=np.inf), 1e-9)
    long = finite & ~backwards & ~thin & (ratio > LONG_BOX)
    if long.any():
        count = int(long.sum())
        what = f"{many(count, 'box is', 'boxes are')} more than {LONG_BOX:.0f} times longer than wide: {{}}"
        yield found(gathered, "note", "box-long", what, rows[long], count)


def _outside(gathered: Gathered, boxes: np.ndarray, rows: np.ndarray, finite: np.ndarray) -> Iterator[Finding]:
    sizes = gathered.sizes()[rows].astype(np.float64)
    limits = np.where(sizes > 0, sizes, np.inf)[:, ::-1]  # width, height
    with np.errstate(invalid="ignore"):
        beyond = np.maximum(-boxes[:, :2], boxes[:, 2:] - limits).max(axis=1, initial=-np.inf)
        away = (np.minimum(boxes[:, 2:], limits) <= np.maximum(boxes[:, :2], 0)).any(axis=1)
        degenerate = (boxes[:, 2:] <= boxes[:, :2]).any(axis=1)
    away &= finite & ~degenerate
    if away.any():
        count = int(away.sum())
        what = f"{many(count, 'box lies', 'boxes lie')} outside of the image altogether: {{}}"
        yield found(gathered, "warning", "box-outside", what, rows[away], count)
    partly = finite & ~away & ~degenerate & (beyond > OUTSIDE)
    if partly.any():
        count = int(partly.sum())
        far = beyond[partly].max()
        verb = many(count, "box leaves its", "boxes leave their")
        what = f"{verb} image by up to {far:.0f} pixels and {'is' if count == 1 else 'are'} clipped: {{}}"
        yield found(gathered, "warning", "box-outside", what, rows[partly], count)


def _keypoints(gathered: Gathered) -> Iterator[Finding]:
    column = gathered.ragged("keypoints")
    assert column is not None
    points, rows = column.values.astype(np.float64), owners(column)
    shown = points[..., 2] > 0
    broken = (shown & ~np.isfinite(points).all(axis=-1)).any(axis=-1)
    if broken.any():
        count = int(broken.sum())
        what = f"{many(count, 'object has', 'objects have')} keypoints that are no numbers (NaN or infinite) in {{}}"
        yield found(gathered, "error", "keypoint-not-finite", what, rows[broken], count)
    limits = gathered.sizes()[rows].astype(np.float64)[:, ::-1]
    limits = np.where(limits > 0, limits, np.inf)[:, None]
    with np.errstate(invalid="ignore"):
        out = shown & ((points[..., :2] < -OUTSIDE) | (points[..., :2] > limits + OUTSIDE)).any(axis=-1)
    if out.any():
        count = int(out.sum())
        what = f"{many(count, 'visible keypoint lies', 'visible keypoints lie')} outside of the image: {{}}"
        yield found(gathered, "warning", "keypoint-outside", what, rows[out.any(axis=-1)], count)


def _objects(gathered: Gathered, max_instances: int | None) -> Iterator[Finding]:
    labels, label = gathered.ragged("labels"), gathered.array("label")
    if label is not None and label.ndim == 2:
        per_image, thing = (label > 0).sum(axis=1), "label"
    elif labels is not None:
        per_image, thing = np.diff(labels.splits), "object"
    else:
        return
    empty = np.flatnonzero(per_image == 0)
    if len(per_image) and len(empty) == len(per_image):
        yield found(gathered, "error", "empty-image", f"no image has any {thing}: {{}}", empty)
    elif len(empty):
        share = len(empty) / len(per_image)
        verb = many(len(empty), f"image has no {thing}", f"images have no {thing}")
        what = f"{verb} ({share:.1%}): {{}}"
        yield found(gathered, "note", "empty-image", what, empty)
    if max_instances is None or thing == "label":
        return
    over = np.flatnonzero(per_image > max_instances)
    if len(over):
        lost = int((per_image[over] - max_instances).sum())
        verb = many(len(over), "image has", "images have")
        what = (
            f"{verb} more than data.max_instances={max_instances} objects (up to {per_image.max()}), "
            f"so {many(lost, 'object is', 'objects are')} left out: {{}}"
        )
        yield found(gathered, "warning", "too-many-objects", what, over, lost)


def _sizes(gathered: Gathered) -> Iterator[Finding]:
    sizes = gathered.sizes()
    known = sizes.min(axis=1, initial=1) > 0
    long = np.flatnonzero(
        known & (sizes.max(axis=1, initial=0) > LONG_IMAGE * np.maximum(1, sizes.min(axis=1, initial=1 << 30)))
    )
    if len(long):
        what = f"{many(len(long), 'image is', 'images are')} more than {LONG_IMAGE:.0f} times longer than wide: {{}}"
        yield found(gathered, "note", "image-long", what, long)
