"""Images and labels as arrays in one `.npz` file; needs no TensorFlow."""

import contextlib
import zipfile
import zlib
from collections.abc import Iterator

import numpy as np
from etils import epath

from jaxvision.data.sources.memory import InMemory, check_split, numbered

_VALIDATION = ("test", "validation", "val")


class Npz(InMemory):
    """Arrays `x_train`, `y_train`, `x_test`, `y_test` (the names of Keras) of a numpy archive.

    Images are uint8 `[n, h, w]` or `[n, h, w, c]`; labels integers `[n]` or `[n, 1]`, or 0/1 `[n, classes]` for several
    labels per image. An array `class_names` names the classes; without it they are numbered.
    """

    def __init__(
        self,
        path: str,
        image_key: str = "x_{split}",
        label_key: str = "y_{split}",
        *,
        split: str,
        image_size: tuple[int, int],
        channels: int,
    ):
        """`{split}` in a key stands for "train", or for the first of "test", "validation", "val" that is there."""
        check_split(split)
        file = epath.Path(path)
        with _open(file) as archive:
            part = "train" if split == "train" else _validation_name(archive, image_key, file)
            images = _get(archive, image_key.format(split=part), file)
            labels = _labels(archive, label_key.format(split=part), file)
            train_labels = labels if split == "train" else _labels(archive, label_key.format(split="train"), file)
            names = _get(archive, "class_names", file) if "class_names" in archive else numbered(train_labels)
        if images.dtype != np.uint8:
            raise ValueError(
                f"npz: {image_key.format(split=part)!r} in {str(file)!r} is {images.dtype}; expected uint8, 0..255"
            )
        super().__init__(images, labels, tuple(names), name=f"npz:{file}", image_size=image_size, channels=channels)


@contextlib.contextmanager
def _open(file: epath.Path) -> Iterator[np.lib.npyio.NpzFile]:
    if not file.is_file():
        raise ValueError(f"npz: there is no file {str(file)!r}")
    with file.open("rb") as stream:
        try:
            archive = np.load(stream, allow_pickle=False)
        except (zipfile.BadZipFile, ValueError, EOFError, OSError) as error:
            raise ValueError(f"npz: cannot read {str(file)!r}: {error}") from error
        if isinstance(archive, np.ndarray):
            raise ValueError(f"npz: {str(file)!r} is one array; expected an archive, written with numpy.savez")
        with archive:
            yield archive


def _get(archive: np.lib.npyio.NpzFile, key: str, file: epath.Path) -> np.ndarray:
    if key not in archive:
        raise ValueError(f"npz: no array {key!r} in {str(file)!r}, which holds {', '.join(archive.files)}")
    try:
        return archive[key]
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, OSError) as error:
        raise ValueError(f"npz: cannot read {key!r} in {str(file)!r}: {error}") from error


def _labels(archive: np.lib.npyio.NpzFile, key: str, file: epath.Path) -> np.ndarray:
    labels = _get(archive, key, file)
    return labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels


def _validation_name(archive: np.lib.npyio.NpzFile, key: str, file: epath.Path) -> str:
    for name in _VALIDATION:
        if key.format(split=name) in archive:
            return name
    tried = ", ".join(key.format(split=name) for name in _VALIDATION)
    raise ValueError(f"npz: none of {tried} in {str(file)!r}, which holds {', '.join(archive.files)}")
