"""What there is to predict for: image files, folders, patterns, arrays, video files, cameras, and lists of them."""

import contextlib
import dataclasses
import glob
import itertools
import os
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any, cast

import numpy as np
from etils import epath
from jaxtyping import UInt8

from jaxvision.errors import SetupError
from jaxvision.inference import videos
from jaxvision.inference.videos import Camera, Video

Image = UInt8[np.ndarray, "h w c"]
Input = str | os.PathLike[str] | Image | Video | Camera | int
Failed = Callable[[str, Exception], None]
"""Is told the name of an input and why it cannot be read; raises, or the next one follows."""
SUFFIXES = (
    ".avif", ".bmp", ".gif", ".ico", ".jp2", ".jpeg", ".jpg", ".pgm", ".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff",
    ".webp",
)  # fmt: skip
"""Files of a folder or a glob that are taken for images."""


@dataclasses.dataclass(frozen=True, eq=False)
class Item:
    """One image to predict for.

    Attributes:
      source: file, array, or the video or camera that a frame is of.
      number: of all images, from 0.
      image: the array or frame; None for a file, which is not read yet.
      frame: what is known of the frame of a video or camera.
    """

    source: Any
    number: int
    image: Image | None = None
    frame: videos.Frame | None = None

    @property
    def path(self) -> str | None:
        """Of the image or video file; None of an array or a camera."""
        if isinstance(self.source, Video):
            return self.source.path
        return os.fspath(self.source) if isinstance(self.source, (str, os.PathLike)) else None

    @property
    def live(self) -> bool:
        """Whether somebody waits for it."""
        return isinstance(self.source, Camera)

    def __str__(self) -> str:
        return f"array {self.number}" if isinstance(self.source, np.ndarray) else str(self.source)


def expand(inputs: Input | Iterable[Input], *, moving: bool = False) -> tuple[list[Any], bool]:
    """Image files and arrays that `inputs` names, and whether it is a single one; see `Inferencer.__call__`.

    Args:
      moving: also video files and cameras, as `Video` and `Camera`.

    Raises:
      FileNotFoundError: no such file, or a folder or pattern without images.
      SetupError: an empty list.
    """
    if isinstance(inputs, (Video, Camera)):
        return [inputs], isinstance(inputs, Camera)
    if moving and isinstance(inputs, (int, np.integer)):
        return [Camera(int(inputs))], True
    if isinstance(inputs, (str, os.PathLike)):
        return _files(os.fspath(inputs), moving)
    if isinstance(inputs, (list, tuple)):
        found = list(itertools.chain.from_iterable(expand(item, moving=moving)[0] for item in inputs))
        if not found:
            raise SetupError("there is no image to predict for: the list is empty")
        return found, False
    array = np.asarray(inputs)
    if array.ndim == 4:
        return list(array), False
    return [array], True


def items_of(inputs: Input | Iterable[Input], failed: Failed, *, once: bool = False) -> Generator[Item, None, None]:
    """The images, one by one: frames are decoded, and elements of an iterable looked at, when their turn comes.

    Args:
      inputs: anything that `expand` takes, or any iterable of such things.
      failed: is told of a video or camera that cannot be read (any more), and of a file that is not there.
      once: cameras give one picture.
    """
    number = 0
    if isinstance(inputs, (list, tuple)) and not inputs:
        raise SetupError("there is no image to predict for: the list is empty")
    for given in cast(Iterable[Any], inputs) if is_several(inputs) else (inputs,):
        try:
            sources = expand(given, moving=True)[0]
        except FileNotFoundError as error:
            failed(str(given), error)
            continue
        for source in sources:
            if isinstance(source, (Video, Camera)):
                if once and isinstance(source, Camera):
                    source = dataclasses.replace(source, limit=1)
                with contextlib.closing(videos.frames(source)) as frames:
                    try:
                        for frame in frames:
                            yield Item(source, number, frame.image, frame)
                            number += 1
                    except videos.VideoError as error:
                        failed(str(source), error)
                continue
            yield Item(source, number, source if isinstance(source, np.ndarray) else None)
            number += 1


def is_several(inputs: Any) -> bool:
    """Whether it is a list or another iterable of inputs; arrays are not."""
    return (
        isinstance(inputs, Iterable) and not isinstance(inputs, (str, os.PathLike)) and not hasattr(inputs, "__array__")
    )


def listed(
    names: Iterable[str], left: list[tuple[str, Exception]], *, skip: bool, limit: int | None = None
) -> tuple[list[Any], int | None]:
    """What the names of a command line stand for, and how many images that is; None where nobody knows.

    Args:
      left: gets (name, error) of those that are not there, if they are to be skipped.
      limit: frames of each video and camera.
    """
    if limit is not None and limit < 1:
        raise SetupError(f"max_frames is {limit}: expected at least 1")
    sources: list[Any] = []
    for name in names:
        try:
            found = expand(name, moving=True)[0]
        except FileNotFoundError as error:
            if not skip:
                raise
            left.append((name, error))
            continue
        moving = (Video, Camera)
        sources += [dataclasses.replace(one, limit=limit) if isinstance(one, moving) else one for one in found]
    if not sources:
        raise SetupError("none of the inputs is there: " + "; ".join(str(error) for _, error in left))
    counts = [_count(source) for source in sources]
    return sources, None if None in counts else sum(count or 0 for count in counts)


def _count(source: Any) -> int | None:
    """Images of a source; one that cannot be read tells so when its turn comes."""
    if isinstance(source, Camera):
        return source.limit
    try:
        return videos.about(source).frames if isinstance(source, Video) else 1
    except videos.VideoError:
        return 0


def batches_of(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Up to `size` items at once; one that is live ends a batch, so that its result does not wait for more."""
    batch: list[Item] = []
    for item in items:
        batch.append(item)
        if len(batch) == size or item.live:
            yield batch
            batch = []
    if batch:
        yield batch


def _files(name: str, moving: bool) -> tuple[list[Any], bool]:
    path = epath.Path(name)
    known = (*SUFFIXES, *videos.SUFFIXES) if moving else SUFFIXES
    if path.is_dir():
        files = sorted(str(p) for p in _walk(path) if p.suffix.lower() in known)
        if not files:
            what = "image or video" if moving else "image"
            raise FileNotFoundError(f"folder {name!r} has no {what} (looked for {', '.join(known)})")
        return [_file(file, moving) for file in files], False
    if path.exists():
        found = _file(name, moving)
        return [found], not isinstance(found, Video)
    if moving and name.isdecimal():
        return [Camera(int(name))], True
    if glob.has_magic(name):
        matches = glob.glob(name, recursive=True)
        files = sorted(match for match in matches if match.lower().endswith(known) and os.path.isfile(match))
        if not files:
            raise FileNotFoundError(f"no image matches the pattern {name!r}")
        return [_file(file, moving) for file in files], False
    what = "image or video file" if moving else "image file"
    raise FileNotFoundError(f"no such {what}, folder or pattern: {name!r}")


def _file(name: str, moving: bool) -> str | Video:
    return Video(name) if moving and name.lower().endswith(videos.SUFFIXES) else name


def _walk(folder: epath.Path) -> Iterator[epath.Path]:
    for path in folder.iterdir():
        if path.is_dir():
            yield from _walk(path)
        else:
            yield path
