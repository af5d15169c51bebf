"""Images and label maps of the same names in two folders: semantic segmentation as most sets publish it."""

import concurrent.futures
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8

from jaxvision.data.faults import DataError, Faults
from jaxvision.data.files import directory, entries, list_images, read_lines
from jaxvision.data.images import ImageError, open_image
from jaxvision.data.samples import IGNORED
from jaxvision.data.sources.memory import check_split
from jaxvision.data.table import Table
from jaxvision.data.wrappers import holdout

_EXAMINED = 64
"""Label maps that are opened beforehand, evenly spaced, to see whether their values are classes."""
_THREADS = 8


def image_mask(
    images: str,
    masks: str,
    eval_images: str | None = None,
    eval_masks: str | None = None,
    train_list: str | None = None,
    eval_list: str | None = None,
    class_names: tuple[str, ...] = (),
    values: dict[str, int] | None = None,
    ignore: int | None = 255,
    image_suffix: str = "",
    mask_suffix: str = "",
    reduce_zero_label: bool = False,
    *,
    split: str,
) -> Table:
    """A table with `semantic` maps, from 8-bit grey or palette files (PNG).

    Args:
      images: folder of the training images; sub-folders count as parts of the names.
      masks: folder of their label maps, of the same names up to the suffix.
      eval_images: folder of the validation images; None: `images`.
      eval_masks: folder of their label maps; None: `masks`.
      train_list: text file with the training images' names, without suffix, one per line; None: all.
      eval_list: the same of the validation images. Without validation folders and list, a fixed fifth is held out.
      class_names: names of the classes; value i of a map is class i. Empty: the values in the training maps, which are
        all read for that, are the classes, named by their numbers.
      values: class of each value in the maps, where that is not the same: {"7": 0, "8": 1, "0": 255}; 255 ignores.
      ignore: the value without class; None: there is none.
      image_suffix: end of the images' names that is left away to compare them ("_leftImg8bit").
      mask_suffix: the same of the label maps ("_gtFine_labelIds").
      reduce_zero_label: value 0 has no class, and value i is class i - 1 (OpenMMLab's name; ADE20K).
      split: "train" or "validation".

    Raises:
      DataError: missing folders, no pair, label maps in colour or of JPEG, classes that cannot be told. Images without
        label map and the reverse, unreadable maps and values without class (such pixels are ignored), as far as they
        are among the maps that are examined, are counted in a `DataWarning`.
    """
    check_split(split)
    _check_arguments(values, class_names, ignore, train_list, eval_list)
    if reduce_zero_label:
        values = _without_zero(values, class_names)
    separate = eval_images is not None or eval_masks is not None or eval_list is not None
    parts = {
        "train": (images, masks, train_list),
        "validation": (eval_images or images, eval_masks or masks, eval_list),
    }
    own = "train" if not separate else split
    faults = Faults(str(parts[own][1]))
    pairs = _pairs(*parts[own], image_suffix, mask_suffix, faults)
    if values is None and not class_names:
        training = pairs if own == "train" else _pairs(*parts["train"], image_suffix, mask_suffix, Faults(""))
        class_names, values = _classes_of(training, masks, ignore)
    table = _table_of_values(class_names, values, ignore)
    if not class_names:
        class_names = tuple(map(str, range(int(table[table != IGNORED].max(initial=-1)) + 1)))
    known = (table != IGNORED) | np.isin(np.arange(256), _ignored(values, ignore))
    plain = values is None or reduce_zero_label
    bad = _examine(pairs, known, faults, lambda found: _advice(found, known, len(class_names), plain, ignore))
    kept = [pair for pair in pairs if pair[2] not in bad]
    faults.require(len(kept), len(pairs), "label maps")
    faults.warn()
    columns: dict[str, Any] = {
        "file": np.array([image for _, image, _ in kept], object),
        "id": np.array([name for name, _, _ in kept], object),
        "semantic_file": np.array([mask for _, _, mask in kept], object),
    }
    result = Table(f"image_mask:{parts[own][0]}", tuple(class_names), columns, semantic_values=table)
    return result if separate else holdout(result, split)


def _check_arguments(
    values: Mapping[str, int] | None,
    class_names: Sequence[str],
    ignore: int | None,
    train_list: str | None,
    eval_list: str | None,
) -> None:
    if ignore is not None and not 0 <= ignore <= 255:
        raise DataError(f"image_mask: ignore is {ignore}: expected a value of 8 bits, or None")
    if (train_list is None) != (eval_list is None):
        raise DataError("image_mask: give both train_list and eval_list, or none of them")
    if len(class_names) > IGNORED:
        raise DataError(f"image_mask: {len(class_names)} classes; 8-bit label maps hold at most {IGNORED}")
    for value, label in (values or {}).items():
        proper = str(value).isdecimal() and int(value) <= 255 and type(label) is int
        if not proper or not (label == IGNORED or 0 <= label < (len(class_names) or IGNORED)):
            limit = f"0..{len(class_names) - 1}" if class_names else "0.."
            raise DataError(
                f"image_mask: values has {value!r}: {label!r}; expected values 0..255 and classes {limit}, or 255"
            )


def _without_zero(values: Mapping[str, int] | None, class_names: Sequence[str]) -> dict[str, int]:
    """The class of each value where 0 has none."""
    if values is not None or not class_names:
        given = "values, which say that already" if values is not None else "no class_names"
        raise DataError(f"image_mask: reduce_zero_label was given with {given}; it needs class_names and no values")
    return {"0": IGNORED, **{str(label + 1): label for label in range(len(class_names)) if label + 1 < IGNORED}}


def _pairs(
    images: str, masks: str, list_file: str | None, image_suffix: str, mask_suffix: str, faults: Faults
) -> list[tuple[str, str, str]]:
    """(name, image, mask) of each pair, sorted by name."""
    image_folder, mask_folder = directory(images, "images"), directory(masks, "label maps")
    image_of = _by_name(str(image_folder), image_suffix, None)
    mask_of = _by_name(str(mask_folder), mask_suffix, faults)
    if not image_of or not mask_of:
        empty, suffix = (images, image_suffix) if not image_of else (masks, mask_suffix)
        ending = f" whose name ends in {suffix!r}" if suffix else ""
        holds = ", ".join([name for names in entries(empty) for name in names][:5]) or "nothing"
        raise DataError(f"{str(empty)!r} holds no image{ending}; it holds {holds}")
    names = sorted(image_of)
    if list_file is not None:
        names = list(dict.fromkeys(read_lines(list_file, "a list of image names")))
        absent = [name for name in names if name not in image_of]
        faults.extend(
            f"image(s) of {str(list_file)!r} left out, not found in {str(images)!r}", len(absent), map(repr, absent)
        )
        names = [name for name in names if name in image_of]
    bare = [name for name in names if name not in mask_of]
    faults.extend("image(s) left out without label map", len(bare), (repr(image_of[name]) for name in bare))
    if list_file is None:
        alone = sorted(mask_of.keys() - image_of.keys())
        faults.extend("label map(s) not used, without image", len(alone), (repr(mask_of[name]) for name in alone))
    pairs = [(name, image_of[name], mask_of[name]) for name in names if name in mask_of]
    if not pairs:
        some = f"{next(iter(image_of.values()))!r} and {next(iter(mask_of.values()))!r}"
        raise DataError(
            f"no image in {str(images)!r} has a label map of its name in {str(masks)!r}: e.g. {some}; "
            "set image_suffix and mask_suffix if the names end differently"
        )
    lossy = [mask for _, _, mask in pairs if mask.lower().endswith((".jpg", ".jpeg"))]
    if lossy:
        raise DataError(f"{lossy[0]!r}: JPEG changes the values of a label map; save label maps as PNG")
    return pairs


def _by_name(folder: str, suffix: str, faults: Faults | None) -> dict[str, str]:
    """Images below a folder by their names without `suffix` and extension."""
    found: dict[str, str] = {}
    for name in list_images(folder, faults):
        stem = name.rpartition(".")[0]
        if stem.endswith(suffix):
            stem = stem.removesuffix(suffix) if suffix else stem
            path = f"{folder.rstrip('/')}/{name}"
            if stem in found:
                raise DataError(f"two files of the name {stem!r}: {found[stem]!r} and {path!r}")
            found[stem] = path
    return found


def _ignored(values: Mapping[str, int] | None, ignore: int | None) -> list[int]:
    """Values that are said to have no class."""
    given = [int(value) for value, label in (values or {}).items() if label == IGNORED]
    return given + ([ignore] if ignore is not None and str(ignore) not in (values or {}) else [])


def _table_of_values(
    class_names: Sequence[str], values: Mapping[str, int] | None, ignore: int | None
) -> UInt8[np.ndarray, "256"]:
    table = np.full(256, IGNORED, np.uint8)
    if values is None:
        table[: len(class_names)] = np.arange(len(class_names))
    else:
        for value, label in values.items():
            table[int(value)] = label
    if ignore is not None and str(ignore) not in (values or {}):
        table[ignore] = IGNORED
    return table


def _classes_of(
    pairs: Sequence[tuple[str, str, str]], masks: str, ignore: int | None
) -> tuple[tuple[str, ...], dict[str, int]]:
    """The values of all maps as classes."""
    counts = [count for count in _count_values([mask for _, _, mask in pairs]) if isinstance(count, np.ndarray)]
    found = np.flatnonzero(np.sum(counts, axis=0)).tolist() if counts else []
    if found in ([0, 255], [255]) and ignore == 255:
        raise DataError(
            f"{str(masks)!r}: the label maps hold only the values {found}, and 255 is ignored; where 255 is a class, "
            "say class_names=('background', 'foreground') and values={'0': 0, '255': 1}"
        )
    found = [value for value in found if value != ignore]
    if not found:
        raise DataError(f"{str(masks)!r}: no label map holds a value that is a class; set class_names")
    if len(found) > IGNORED:
        raise DataError(f"{str(masks)!r}: the label maps hold {len(found)} values; set class_names and values")
    return tuple(map(str, found)), {str(value): label for label, value in enumerate(found)}


def _examine(
    pairs: Sequence[tuple[str, str, str]],
    known: np.ndarray,
    faults: Faults,
    advice: Callable[[Int[np.ndarray, "256"]], str],
) -> set[str]:
    """Looks for values without class in some of the maps; returns those that cannot be read.

    Args:
      known: which values have a class, or are said to have none.
      advice: what the pixels of each value suggest; "" for nothing.
    """
    chosen = np.unique(np.linspace(0, len(pairs) - 1, min(_EXAMINED, len(pairs))).astype(int))
    masks = [pairs[i][2] for i in chosen]
    bad, total, unknown = set(), np.zeros(256, np.int64), dict[int, list[str]]()
    for mask, counts in zip(masks, _count_values(masks), strict=True):
        if isinstance(counts, ImageError):
            bad.add(mask)
            faults.add("label map(s) left out, not readable", repr(mask))
            continue
        total += counts
        for value in np.flatnonzero((counts > 0) & ~known):
            unknown.setdefault(int(value), []).append(mask)
    share = float(total[~known].sum() / max(1, total.sum()))
    for number, files in unknown.items():
        faults.extend(
            f"label map(s) with the value {number}, which is no class (ignored)", len(files), map(repr, files)
        )
    hint = advice(total)
    if share > 0.5:
        raise DataError(
            f"{faults.where}: {share:.0%} of the pixels have values that are no class ({sorted(unknown)}); "
            f"{hint or 'set class_names, values and ignore to what the label maps hold'}"
        )
    if hint:
        faults.extend(f"remark(s): {hint}", 1, ())
    return bad


def _advice(counts: Int[np.ndarray, "256"], known: np.ndarray, classes: int, plain: bool, ignore: int | None) -> str:
    """What is likely wrong with the numbers of classes, as users of OpenMMLab ask about it.

    Args:
      counts: pixels of each value in the maps that were examined.
      known: which values have a class, or are said to have none.
      classes: their number.
      plain: values are classes as they are, or one more (`reduce_zero_label`).
      ignore: the value that is said to have no class.
    """
    held = np.flatnonzero(counts)
    unknown = held[~known[held]]
    if not plain or not len(held):
        return ""
    if 255 in unknown and ignore != 255:
        return "the maps hold 255, which usually means 'no class': set ignore=255"
    if unknown.tolist() == [classes] and counts[0] == 0:
        return (
            f"the maps hold the values 1 to {classes} and no 0: they count classes from 1; set reduce_zero_label=True"
        )
    if unknown.tolist() == [classes]:
        return (
            f"the maps hold the values 0 to {classes}, one more than the {classes} class_names: if 0 means 'no class' "
            f"(as in ADE20K) set reduce_zero_label=True; if {classes} does, set ignore={classes}; else a name lacks"
        )
    if len(unknown) > max(3, classes):
        return (
            f"{len(held)} values for {classes} classes look like the brightness of a coloured map, or a palette that "
            "was made anew: convert the maps so that each pixel is the number of its class, or set values"
        )
    return ""


def _count_values(masks: Sequence[str]) -> list[Int[np.ndarray, "256"] | ImageError]:
    """How many pixels of each map have each value."""

    def count(mask: str) -> Int[np.ndarray, "256"] | ImageError:
        try:
            with open_image(mask) as picture:
                if picture.mode in ("L", "P", "1"):
                    return np.bincount(np.asarray(picture, np.uint8).reshape(-1), minlength=256)
                mode = picture.mode
        except ImageError as error:
            return error
        raise DataError(
            f"{mask!r} is no label map: its mode is {mode}, expected 8-bit grey or palette, whose values are classes; "
            "a colour-coded map must be converted first"
        )

    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(count, masks))
