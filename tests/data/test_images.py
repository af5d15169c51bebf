"""One rule for reading images: orientation, colour spaces, depth, and what is refused."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from jaxvision.data.images import ImageError, fit_image, fit_images, read_image

RAMP = np.arange(6 * 8 * 3, dtype=np.uint8).reshape(6, 8, 3)


def encode(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def png_header_only(width: int, height: int) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def test_a_png_comes_back_exactly_from_bytes_and_from_a_path(tmp_path):
    data = encode(Image.fromarray(RAMP))
    (tmp_path / "x.png").write_bytes(data)
    for given_image in (data, tmp_path / "x.png", str(tmp_path / "x.png")):
        image = read_image(given_image)
        assert image.dtype == np.uint8
        np.testing.assert_array_equal(image, RAMP)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_exif_orientation_is_applied_once(kind, orientation):
    # What a viewer does, by the EXIF standard: the stored row 0 and column 0 are the named sides of the picture.
    stored_from_upright = {
        1: lambda x: x,
        2: lambda x: x[:, ::-1],
        3: lambda x: x[::-1, ::-1],
        4: lambda x: x[::-1],
        5: lambda x: x.transpose(1, 0, 2),
        6: lambda x: x.transpose(1, 0, 2)[::-1],
        7: lambda x: x.transpose(1, 0, 2)[::-1, ::-1],
        8: lambda x: x.transpose(1, 0, 2)[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(Image.fromarray(np.ascontiguousarray(stored_from_upright(RAMP))), kind, exif=exif)
    np.testing.assert_array_equal(read_image(data), RAMP)


def test_damaged_exif_does_not_hide_the_pixels():
    data = encode(Image.fromarray(RAMP), "PNG", exif=b"Exif\0\0MM\0*\0\0\0\xff broken")
    np.testing.assert_array_equal(read_image(data), RAMP)


def test_grey_is_repeated():
    np.testing.assert_array_equal(
        read_image(encode(Image.fromarray(RAMP[..., 0]))), np.repeat(RAMP[..., :1], 3, axis=-1)
    )


def test_bilevel_is_black_and_white():
    bits = RAMP[..., 0] % 2 == 0
    np.testing.assert_array_equal(read_image(encode(Image.fromarray(bits)))[..., 1], bits * np.uint8(255))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_pixels_become_white(mode):
    rgba = np.zeros((2, 2, 4), np.uint8)
    rgba[0, 0] = (255, 255, 255, 255)
    rgba[0, 1] = (0, 0, 0, 255)
    image = Image.fromarray(rgba)
    data = encode(image.quantize(4) if mode == "P" else image.convert(mode))
    np.testing.assert_array_equal(read_image(data)[..., 0], [[255, 0], [255, 255]])


def test_half_transparent_black_is_grey():
    rgba = np.zeros((1, 1, 4), np.uint8)
    rgba[..., 3] = 128
    assert read_image(encode(Image.fromarray(rgba)))[0, 0].tolist() == [127, 127, 127]


def test_a_palette_is_expanded():
    image = Image.fromarray(RAMP)
    palette = image.quantize(16)
    np.testing.assert_array_equal(read_image(encode(palette)), np.asarray(palette.convert("RGB")))


def test_cmyk_becomes_rgb():
    red = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    pixel = read_image(encode(red, "JPEG", quality=95))[4, 4]
    assert pixel[0] > 245 and pixel[1] < 10 and pixel[2] < 10


def test_sixteen_bits_keep_their_high_byte():
    values = np.array([[0, 255, 256, 0x1234, 0xFFFF]], np.uint16)
    image = read_image(encode(Image.fromarray(values)))
    np.testing.assert_array_equal(image[..., 0], [[0, 0, 1, 0x12, 0xFF]])
    np.testing.assert_array_equal(read_image(encode(Image.fromarray(values), "TIFF")), image)


def test_the_first_frame_of_an_animation_is_taken():
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert read_image(data)[0, 0].tolist() == [255, 0, 0]


def test_floating_point_pixels_are_refused():
    with pytest.raises(ImageError, match="floating-point"):
        read_image(encode(Image.fromarray(np.zeros((2, 2), np.float32)), "TIFF"))


def test_what_is_not_an_image_is_named(tmp_path):
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "drawing.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    for name, reason in (
        ("empty.png", "it is empty"),
        ("text.png", "not an image"),
        ("drawing.eps", "not an image"),
        ("missing.png", "no such file"),
        ("", "directory"),
    ):
        with pytest.raises(ImageError, match=reason) as error:
            read_image(tmp_path / name)
        assert str(tmp_path / name) in str(error.value)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_cut_file_is_an_error_and_not_half_a_picture(kind):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    data = encode(Image.fromarray(noise), kind)
    with pytest.raises(ImageError, match="damaged or cut short"):
        read_image(data[: len(data) // 2])


def test_too_many_pixels_are_refused_before_decoding():
    with pytest.raises(ImageError, match=r"10000 x 8000 = 80000000 pixels.*limit"):
        read_image(png_header_only(10000, 8000))
    with pytest.raises(ImageError, match=r"20000 x 20000|exceeds limit"):
        read_image(png_header_only(20000, 20000))
    with pytest.raises(ImageError, match="limit of 47"):
        read_image(encode(Image.fromarray(RAMP)), max_pixels=47)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["PNG", "JPEG", "GIF", "TIFF", "WEBP"]), st.data())
def test_damaged_files_raise_image_errors_and_nothing_else(kind, data):
    encoded = bytearray(encode(Image.fromarray(RAMP), kind))
    for _ in range(data.draw(st.integers(1, 6))):
        encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))
    try:
        image = read_image(bytes(encoded[: data.draw(st.integers(0, len(encoded)))]), max_pixels=2**16)
    except ImageError:
        return
    assert image.ndim == 3 and image.shape[-1] == 3 and image.dtype == np.uint8


def test_luminance_is_pillows_and_leaves_grey_alone():
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    np.testing.assert_array_equal(
        fit_image(image, (16, 16), 1)[..., 0], np.asarray(Image.fromarray(image).convert("L"))
    )
    grey = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=-1)
    np.testing.assert_array_equal(fit_image(grey, (16, 16), 1), grey[..., :1])


def test_fitting_stretches_to_height_and_width():
    fitted = fit_image(RAMP, (3, 5), 3)
    assert fitted.shape == (3, 5, 3) and fitted.dtype == np.uint8
    np.testing.assert_array_equal(fitted, np.asarray(Image.fromarray(RAMP).resize((5, 3), Image.Resampling.BILINEAR)))


def test_fitting_grey_equals_fitting_its_repetition():
    grey = RAMP[..., :1]
    expected = fit_image(np.repeat(grey, 3, axis=-1), (9, 7), 3)
    np.testing.assert_array_equal(fit_image(grey, (9, 7), 3), expected)
    np.testing.assert_array_equal(fit_image(grey[..., 0], (9, 7), 3), expected)
    np.testing.assert_array_equal(fit_image(expected, (9, 7), 1), fit_image(grey, (9, 7), 1))


def test_a_stack_that_fits_is_not_copied():
    stack = RAMP[None]
    assert fit_images(stack, (6, 8), 3) is stack


def test_arrays_that_are_no_images_are_refused():
    for wrong in (RAMP.astype(np.float32), RAMP[..., :2], RAMP[:0], np.zeros(3, np.uint8)):
        with pytest.raises(ImageError, match="expected uint8"):
            fit_image(wrong, (4, 4), 3)
    with pytest.raises(ValueError, match="channels is 4"):
        fit_image(RAMP, (4, 4), 4)
    with pytest.raises(ValueError, match="image_size"):
        fit_image(RAMP, (0, 4), 3)


def test_real_photos_are_read_as_pillow_reads_them(test_data):
    photos = sorted((test_data / "data" / "coco_mini").rglob("*.jpg"))[:8]
    assert photos
    for photo in photos:
        with Image.open(photo) as image:
            np.testing.assert_array_equal(read_image(photo), np.asarray(image.convert("RGB")))
