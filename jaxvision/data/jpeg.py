"""What the header of a JPEG file says, read in microseconds (ITU-T T.81, annex B; JFIF; Adobe's APP14)."""

import dataclasses

_FRAMES = (0xC0, 0xC1, 0xC2)
"""Baseline, extended sequential and progressive: what libjpeg decodes to 8 bits."""
_NO_LENGTH = (0x01, *range(0xD0, 0xD8))


@dataclasses.dataclass(frozen=True)
class JpegHeader:
    """Attributes:

    size: height and width as stored.
    plain: grey or YCbCr of 8 bits, and upright: what any JPEG decoder turns into the same RGB.
    """

    size: tuple[int, int]
    plain: bool


def read_header(encoded: bytes) -> JpegHeader | None:
    """The header of a JPEG file; None for any other file, and where it is damaged."""
    if encoded[:3] != b"\xff\xd8\xff":
        return None
    at, jfif, adobe, turned, end = 2, False, None, False, len(encoded)
    while at + 4 <= end:
        if encoded[at] != 0xFF:
            return None
        marker = encoded[at + 1]
        if marker == 0xFF or marker in _NO_LENGTH:
            at += 1 if marker == 0xFF else 2
            continue
        length = int.from_bytes(encoded[at + 2 : at + 4], "big")
        body = encoded[at + 4 : at + 2 + length] if marker in (0xE0, 0xE1, 0xEE) else b""
        if marker == 0xE0:
            jfif = jfif or body[:5] == b"JFIF\0"
        elif marker == 0xE1 and body[:6] == b"Exif\0\0":
            turned = turned or not _is_upright(body[6:])
        elif marker == 0xEE and body[:5] == b"Adobe" and len(body) >= 12:
            adobe = body[11]
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            frame = encoded[at + 4 : at + 2 + length]
            if len(frame) < 6 or len(frame) < 6 + 3 * frame[5]:
                return None
            size = int.from_bytes(frame[1:3], "big"), int.from_bytes(frame[3:5], "big")
            known = marker in _FRAMES and frame[0] == 8 and min(size) > 0
            return JpegHeader(size, known and not turned and _is_known_color(frame, jfif, adobe))
        elif marker in (0xD9, 0xDA):
            return None
        at += 2 + length
    return None


def _is_known_color(frame: bytes, jfif: bool, adobe: int | None) -> bool:
    if frame[5] == 1:
        return True
    if frame[5] != 3:
        return False
    if jfif:
        return True
    return adobe == 1 if adobe is not None else tuple(frame[6:15:3]) == (1, 2, 3)


def _is_upright(tiff: bytes) -> bool:
    """Whether EXIF data say nothing of a rotation; False where they are not understood."""
    order: dict[bytes, str] = {b"II": "little", b"MM": "big"}
    if tiff[:2] not in order:
        return False
    number = lambda at, size: int.from_bytes(tiff[at : at + size], order[tiff[:2]])  # type: ignore[arg-type]  # noqa: E731
    start = number(4, 4)
    for at in range(start + 2, start + 2 + 12 * number(start, 2), 12):
        if at + 12 > len(tiff):
            return False
        if number(at, 2) == 0x0112:
            return number(at + 2, 2) == 3 and number(at + 8, 2) == 1
    return True
