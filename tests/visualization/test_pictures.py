"""Pictures made of pixels: classifications, contact sheets, conversion and files."""

import numpy as np
import pytest
from PIL import Image

from jaxvision.visualization import palette
from jaxvision.visualization.canvas import enlarge, font, save_picture, shorten, to_rgb
from jaxvision.visualization.classification import MARGIN, PANEL_WIDTH, draw_classification, percent
from jaxvision.visualization.sheets import GAP, TITLE_HEIGHT, contact_sheet


def bar_lengths(picture, color):
    """Lengths in pixels of the bars of a colour, from top to bottom."""
    hit = (picture == palette.rgb(color)).all(axis=2)
    hit[:, : -(PANEL_WIDTH + MARGIN)] = False
    lengths = [int(row.sum()) for row in hit]
    return [n for n, before in zip(lengths, [0, *lengths], strict=False) if n > 20 and before != n]


def test_the_image_stands_enlarged_by_a_whole_factor_at_the_left():
    image = np.random.default_rng(0).integers(0, 255, (28, 28, 3), dtype=np.uint8)
    picture = draw_classification(image, np.array([0.2, 0.8]))
    assert picture.dtype == np.uint8 and picture.shape[2] == 3
    factor = 256 // 28
    side = 28 * factor
    top = (picture.shape[0] - side) // 2
    shown = picture[top : top + side, MARGIN : MARGIN + side]
    np.testing.assert_array_equal(shown[::factor, ::factor], image)


def test_bars_are_as_long_as_their_scores():
    image = np.zeros((8, 8), np.uint8)
    picture = draw_classification(image, np.array([0.1, 0.5, 1.0], np.float32))
    (best,) = bar_lengths(picture, palette.BLUE)
    others = bar_lengths(picture, palette.NEUTRAL)
    assert others[0] == pytest.approx(best / 2, abs=1)


def test_a_truth_beyond_the_five_best_gets_a_row_of_its_own():
    image, scores = np.zeros((100, 100), np.uint8), np.linspace(1.0, 0.5, 10, dtype=np.float32)
    picture = draw_classification(image, scores, truth=9)
    (full,) = bar_lengths(picture, palette.WRONG)
    (own,) = bar_lengths(picture, palette.RIGHT)
    assert own == pytest.approx(full / 2, abs=1)
    assert len(bar_lengths(picture, palette.NEUTRAL)) == 4
    assert picture.shape[0] > draw_classification(image, scores, truth=0).shape[0]


def test_several_true_labels_are_green():
    truth = np.array([1, 0, 1, 0, 0, 0])
    picture = draw_classification(np.zeros((9, 9)), np.array([0.9, 0.8, 0.7, 0.1, 0, 0]), truth=truth)
    assert len(bar_lengths(picture, palette.RIGHT)) == 2 and not bar_lengths(picture, palette.WRONG)


@pytest.mark.parametrize("shape", [(1, 1), (3, 2000), (2000, 3, 4), (32, 32, 3), (700, 900, 1)])
@pytest.mark.parametrize("classes", [1, 4, 1000])
def test_images_of_all_shapes_and_class_counts_are_drawn(shape, classes):
    scores = np.random.default_rng(0).random(classes).astype(np.float32)
    names = [f"name number {i} that is far too long for its place" for i in range(classes)]
    picture = draw_classification(np.full(shape, 90, np.uint8), scores, names, truth=classes - 1)
    assert 100 <= picture.shape[0] <= 600 and 400 <= picture.shape[1] <= 900


def test_scores_that_are_not_finite_are_drawn():
    draw_classification(np.zeros((4, 4), np.uint8), np.array([np.nan, np.inf, 0.5]))
    assert [percent(x) for x in (np.nan, 0.0, 1e-5, 0.5, 0.9999, 1.0)] == [
        "nan", "0.0%", "<0.1%", "50.0%", ">99.9%", "100.0%",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "image, expected",
    [
        (np.array([[0, 255]], np.uint8), [0, 255]),
        (np.array([[False, True]]), [0, 255]),
        (np.array([[0.0, 0.5]]), [0, 128]),
        (np.array([[-1.0, 3.0]]), [0, 255]),
        (np.array([[np.nan, 1.0]]), [0, 255]),
        (np.array([[10, 1000]]), [0, 255]),
    ],
)
def test_images_become_pictures_for_the_eye(image, expected):
    picture = to_rgb(image)
    assert picture.dtype == np.uint8 and picture.shape == (1, 2, 3)
    np.testing.assert_array_equal(picture[0], np.repeat(np.array(expected)[:, None], 3, axis=1))


def test_channels_beyond_three_are_left_out():
    image = np.random.default_rng(0).integers(0, 255, (4, 5, 6), dtype=np.uint8)
    np.testing.assert_array_equal(to_rgb(image), image[..., :3])
    with pytest.raises(ValueError, match=r"\[H, W, C\] with pixels, not shape \(2, 0, 3\)"):
        to_rgb(np.zeros((2, 0, 3)))


def test_pictures_are_brought_between_two_sizes():
    assert enlarge(np.zeros((8, 4, 3), np.uint8), 100, 200).shape == (96, 48, 3)
    assert enlarge(np.zeros((150, 10, 3), np.uint8), 100, 200).shape == (150, 10, 3)
    assert enlarge(np.zeros((400, 1, 3), np.uint8), 100, 200).shape == (200, 1, 3)


def test_text_is_cut_where_its_place_ends():
    face = font(14)
    assert shorten("short", 200, face) == "short"
    cut = shorten("a much longer line of text", 80, face)
    assert cut.endswith("…") and face.getlength(cut) <= 80
    assert face.getlength(shorten("a much longer line of text", 100, face)) > face.getlength(cut)
    assert shorten("two\nlines", 200, face) == "two lines"


def test_a_contact_sheet_shows_each_picture_in_its_cell():
    colors = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    pictures = [np.full((100, 120, 3), c, np.uint8) for c in colors]
    sheet = contact_sheet(pictures, ["a", "b", "c"], columns=2)
    assert sheet.shape == (GAP + 2 * (100 + TITLE_HEIGHT + GAP), GAP + 2 * (120 + GAP), 3)
    for place, color in enumerate(colors):
        top = GAP + place // 2 * (100 + TITLE_HEIGHT + GAP) + TITLE_HEIGHT
        left = GAP + place % 2 * (120 + GAP)
        assert (sheet[top : top + 100, left : left + 120] == color).all()
    assert (sheet[-GAP:] == 255).all()


@pytest.mark.parametrize("count", [1, 2, 7, 40])
def test_sheets_of_mixed_sizes_are_near_a_square(count):
    rng = np.random.default_rng(0)
    pictures = [np.zeros((*rng.integers(1, 300, 2), 1), np.uint8) for _ in range(count)]
    height, width, _ = contact_sheet(pictures).shape
    assert 0.3 < height / width < 3.5


def test_wrong_sheets_are_refused():
    with pytest.raises(ValueError, match="at least one picture"):
        contact_sheet([])
    with pytest.raises(ValueError, match="1 titles for 2 pictures"):
        contact_sheet([np.zeros((2, 2))] * 2, ["a"])


def test_pictures_are_written_in_the_format_of_the_suffix(tmp_path):
    picture = np.random.default_rng(0).integers(0, 255, (6, 5, 3), dtype=np.uint8)
    for name, kind in (("new/a.png", "PNG"), ("b.jpg", "JPEG"), ("c", "PNG")):
        save_picture(picture, tmp_path / name)
        with Image.open(tmp_path / name) as written:
            assert written.format == kind and written.size == (5, 6)
    with Image.open(tmp_path / "new/a.png") as written:
        np.testing.assert_array_equal(np.asarray(written), picture)
    with pytest.raises(ValueError, match=r"type '.xyz'.*use .png"):
        save_picture(picture, tmp_path / "d.xyz")
