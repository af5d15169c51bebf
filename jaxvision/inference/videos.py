"""Video files and cameras, frame by frame, by OpenCV, whose wheels bring FFmpeg with them.

Frames are decoded when they are asked for, so that a video of any length takes the memory of a frame. A video that is
written is MPEG-4 (part 2, `mp4v`) in an `.mp4` file: of the encoders in every OpenCV wheel the one that players know;
H.264 is in none of them, for its licence.
"""

import contextlib
import dataclasses
import os
import time
import warnings
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from jaxvision.errors import UserError

SUFFIXES = (".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm", ".wmv")
"""Files that are taken for videos."""
RATE = 25.0
"""Frames per second of a video or camera that does not say it."""
COMPLETE = 0.9
"""Share of the frames that a file announces, below which it is told that it ended early: some only estimate them."""

Picture = UInt8[np.ndarray, "h w 3"]


class VideoError(UserError, ValueError):
    """A video or camera that cannot be used; the message names it and says why."""


@dataclasses.dataclass(frozen=True)
class Video:
    """A video file.

    Attributes:
      path: local.
      limit: frames that are taken, the first ones; None: all.
    """

    path: str
    limit: int | None = None

    def __str__(self) -> str:
        return self.path


@dataclasses.dataclass(frozen=True)
class Camera:
    """A camera of this machine.

    Attributes:
      index: its number, from 0.
      limit: frames that are taken; None: without end.
    """

    index: int
    limit: int | None = None

    def __str__(self) -> str:
        return f"camera {self.index}"


@dataclasses.dataclass(frozen=True)
class About:
    """What a video says about itself.

    Attributes:
      rate: frames per second.
      frames: how many will be taken; some files estimate it. None: unknown.
    """

    rate: float
    frames: int | None


class Frame(NamedTuple):
    """One picture of a video or camera: RGB, its number from 0, seconds from the start, frames per second."""

    image: Picture
    number: int
    seconds: float
    rate: float


def about(source: Video | Camera) -> About:
    """Opens a video or camera and reads its head.

    Raises:
      VideoError: it cannot be opened.
    """
    with _opened(source) as capture:
        return _about(capture, source)


def frames(source: Video | Camera) -> Generator[Frame, None, None]:
    """The frames in their order, upright as the file says.

    Raises:
      VideoError: it cannot be opened, has no frame that can be decoded, or the camera stopped.
    """
    cv2 = _cv2()
    with _opened(source) as capture:
        start, number = time.monotonic(), 0
        known = _about(capture, source)
        while source.limit is None or number < source.limit:
            there, frame = capture.read()
            if not there:
                break
            if isinstance(source, Camera):
                seconds = time.monotonic() - start
            else:
                seconds = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000 or number / known.rate
            yield Frame(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), number, seconds, known.rate)
            number += 1
    if number == source.limit:
        return
    if isinstance(source, Camera):
        raise VideoError(f"{source} gave no more pictures after {number}: is it still connected?")
    if not number:
        raise VideoError(f"cannot decode {str(source)!r}: it has no frame that can be read; is it damaged?")
    if known.frames is not None and number < COMPLETE * known.frames:
        warnings.warn(
            f"video {str(source)!r} ended after {number} of {known.frames} frames: the rest cannot be decoded",
            stacklevel=2,
        )


def read_frame(video: Video, number: int) -> Picture:
    """One frame, found by decoding all before it: seeking is not exact in many formats.

    Raises:
      VideoError: there is no such frame.
    """
    cv2 = _cv2()
    with _opened(video) as capture:
        there = all(capture.grab() for _ in range(number + 1))
        there, frame = capture.retrieve() if there else (False, None)
        if not there:
            raise VideoError(f"video {str(video)!r} has no frame {number}")
        return cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)


class VideoWriter:
    """Writes pictures as an `.mp4` video; the first one says its size, others are fitted to it."""

    def __init__(self, path: str | os.PathLike[str], rate: float) -> None:
        """`rate`: frames per second."""
        self.path = Path(path)
        self.count = 0
        self._rate = rate
        self._writer: Any = None
        self._size = (0, 0)

    def add(self, picture: Picture) -> None:
        """Appends a picture.

        Raises:
          VideoError: the file cannot be written, or this build of OpenCV has no encoder.
        """
        cv2 = _cv2()
        if self._writer is None:
            height, width = picture.shape[:2]
            self._size = (height + height % 2, width + width % 2)  # colours are stored for 2x2 pixels
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with _quiet(cv2):
                fourcc = cv2.VideoWriter.fourcc(*"mp4v")
                self._writer = cv2.VideoWriter(str(self.path), fourcc, self._rate, self._size[::-1])
            if not self._writer.isOpened():
                raise VideoError(
                    f"cannot write the video {str(self.path)!r} of {width} x {height} pixels: is the folder writable? "
                    f"OpenCV {cv2.__version__} may lack FFmpeg (pip install opencv-python-headless has it)"
                )
        self._writer.write(cv2.cvtColor(fitted(picture, self._size), cv2.COLOR_RGB2BGR))
        self.count += 1

    def close(self) -> None:
        """Ends the file; without a picture there is none."""
        if self._writer is not None:
            self._writer.release()


def fitted(picture: Picture, size: tuple[int, int]) -> Picture:
    """The picture in the top left corner of a white one of this height and width, smaller if it has to be."""
    height, width = picture.shape[:2]
    if (height, width) == size:
        return picture
    scale = min(1.0, size[0] / height, size[1] / width)
    if scale < 1:
        shrunk = (max(1, int(width * scale)), max(1, int(height * scale)))
        picture = np.asarray(Image.fromarray(picture).resize(shrunk, Image.Resampling.BILINEAR))
    paper = np.full((*size, 3), 255, np.uint8)
    paper[: picture.shape[0], : picture.shape[1]] = picture
    return paper


@contextlib.contextmanager
def _opened(source: Video | Camera) -> Iterator[Any]:
    cv2 = _cv2()
    if isinstance(source, Video) and "://" not in source.path and not os.path.isfile(source.path):
        raise VideoError(f"cannot read the video {source.path!r}: there is no such file")
    with _quiet(cv2):
        capture = cv2.VideoCapture(source.path if isinstance(source, Video) else source.index)
    try:
        if not capture.isOpened():
            raise VideoError(_camera_failure(source) if isinstance(source, Camera) else _file_failure(source))
        if isinstance(source, Camera):
            capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # the newest picture, where the driver can
        yield capture
    finally:
        capture.release()


def _about(capture: Any, source: Video | Camera) -> About:
    cv2 = _cv2()
    rate, count = capture.get(cv2.CAP_PROP_FPS), capture.get(cv2.CAP_PROP_FRAME_COUNT)
    known = [] if isinstance(source, Camera) or not 0 < count < 2**31 else [int(count)]
    known += [] if source.limit is None else [source.limit]
    return About(float(rate) if 0 < rate <= 1000 else RATE, min(known, default=None))


def _camera_failure(camera: Camera) -> str:
    devices = sorted(str(path) for path in Path("/dev").glob("video*"))
    there = f"this machine has {', '.join(devices)}" if devices else "this machine has no /dev/video*"
    return f"cannot open {camera}: no such camera, or another program or a permission keeps it ({there})"


def _file_failure(video: Video) -> str:
    head = f"cannot read the video {video.path!r}"
    if "://" in video.path:
        return f"{head}: give a local file"
    if not os.path.getsize(video.path):
        return f"{head}: it is empty"
    return (
        f"{head}: it is damaged, no video, or its codec is not in OpenCV's FFmpeg; "
        "`ffmpeg -i FILE new.mp4` makes one that can be read"
    )


@contextlib.contextmanager
def _quiet(cv2: Any) -> Iterator[None]:
    """Without OpenCV's lines on stderr: our error says the same."""
    before = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(before)


def _cv2() -> Any:
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # silent; read when FFmpeg is first used
    import cv2

    return cv2
