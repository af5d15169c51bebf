"""Pictures of samples: each kind of annotation is where it should be, and any subset and size can be drawn."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from experiments.results import digit_scenes
from jaxvision.data.sources import DigitClips, DigitScenes
from jaxvision.data.sources.digit_scenes import PRESETS
from jaxvision.visualization import marks, palette
from jaxvision.visualization.samples import SMALLEST, draw_sample

NAMES = (*"0123456789", "background")
KINDS = ("boxes", "rotated_boxes", "masks", "keypoints", "texts", "semantic", "panoptic")


def plain(height=100, width=100, level=90, **annotations):
    return {"image": np.full((height, width, 3), level, np.uint8), **annotations}


def near(picture, color, tolerance=6):
    return np.abs(picture.astype(int) - color).max(axis=-1) <= tolerance


def changed(sample):
    bare = draw_sample({"image": sample["image"]})
    return (draw_sample(sample) != bare).any(axis=-1)


# Where marks are


def test_an_image_alone_stays_as_it_is_and_a_tiny_one_grows_by_a_whole_factor():
    image = np.random.default_rng(0).integers(0, 255, (100, 90, 3), dtype=np.uint8)
    picture = draw_sample({"image": image})
    factor = SMALLEST // 100
    assert picture.shape == (100 * factor, 90 * factor, 3)
    np.testing.assert_array_equal(picture[::factor, ::factor], image)
    large = np.random.default_rng(0).integers(0, 255, (500, 600, 3), dtype=np.uint8)
    np.testing.assert_array_equal(draw_sample({"image": large}), large)


def test_the_outline_of_a_box_lies_on_its_border():
    sample = plain(400, 500, boxes=np.array([[50, 60, 350, 260]], np.float32))
    touched = changed(sample)
    rows, columns = np.nonzero(touched)
    assert (columns.min(), rows.min(), columns.max(), rows.max()) == pytest.approx((50, 60, 349, 259), abs=2)
    assert touched[160, 48:54].any() and touched[58:64, 200].any() and not touched[70:250, 60:340].any()


def test_boxes_of_enlarged_images_grow_with_them():
    touched = changed(plain(50, 40, boxes=np.array([[10, 5, 30, 45]], np.float32)))
    factor = SMALLEST // 50
    rows, columns = np.nonzero(touched)
    expected = (10 * factor, 5 * factor, 30 * factor, 45 * factor)
    assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == pytest.approx(expected, abs=3)


def test_a_rotated_box_is_drawn_at_its_corners():
    row = np.array([[250, 200, 200, 80, 0.5]], np.float32)
    touched = changed(plain(400, 500, rotated_boxes=row))
    for x, y in ((-100, -40), (100, -40), (100, 40), (-100, 40), (0, -40), (100, 0)):
        place = 250 + 200j + complex(x, y) * np.exp(0.5j)
        assert touched[
            round(place.imag) - 2 : round(place.imag) + 3, round(place.real) - 2 : round(place.real) + 3
        ].any()
    notch = 250 + 200j - 36j * np.exp(0.5j)
    assert touched[round(notch.imag) - 2 : round(notch.imag) + 2, round(notch.real) - 2 : round(notch.real) + 2].any()
    assert not touched[195:215, 240:260].any()


def test_masks_tint_their_pixels_and_no_others():
    mask = np.zeros((1, 400, 500), bool)
    mask[0, 100:200, 50:300] = True
    np.testing.assert_array_equal(changed(plain(400, 500, masks=mask)), mask[0])


def test_visible_keypoints_are_discs_hidden_ones_rings_others_absent():
    points = np.array([[[100, 100, 2], [200, 100, 1], [300, 100, 0]]], np.float32)
    picture = draw_sample(plain(400, 500, keypoints=points))
    touched = changed(plain(400, 500, keypoints=points))
    first, second = marks.color_of(0), marks.color_of(1)
    assert (
        near(picture[100, 100], first) and near(picture[100, 200], (255, 255, 255)) and near(picture[100, 203], second)
    )
    assert not touched[:, 250:].any() and touched.sum() < 300


def test_semantic_classes_have_their_colour_background_none_and_ignored_stripes():
    semantic = np.zeros((400, 500), np.uint8)
    semantic[:100], semantic[300:] = 10, 255
    picture = draw_sample(plain(400, 500, semantic=semantic), NAMES)
    assert picture.shape[0] > 400  # a legend
    assert (picture[10:90, 10:490] == 90).all()
    middle = picture[150:250, 10:490].reshape(-1, 3)
    assert (middle == middle[0]).all() and np.abs(middle[0] - 90.0).max() > 20
    assert len(np.unique(picture[320:380, 100:200])) == 2


def test_segments_have_their_colours_and_names():
    panoptic = np.ones((400, 500), np.int32)
    panoptic[:, 250:], panoptic[:50] = 2, 0
    sample = plain(400, 500, panoptic=panoptic, segment_labels=np.array([3, 10]), segment_crowd=np.array([True, False]))
    picture = draw_sample(sample, NAMES)
    assert (picture[60:, 260:] == 90).all()
    assert (picture[300, 10:240] == picture[300, 10]).all() and (picture[300, 10] != 90).any()
    assert near(picture, marks.color_of(0), 25).any()


def test_every_annotation_of_a_scene_has_a_panel_that_shows_it():
    made = DigitScenes("hard", annotations=KINDS, split="train", image_size=(200, 200), channels=3)
    picture = draw_sample(made.sample(0), made.class_names, made.keypoint_names)
    assert picture.shape[1] == 3 * 200 + 2 * 8
    panels = [picture[20:220, start : start + 200] for start in (0, 208, 416)]
    for panel in panels:
        assert (panel != made.sample(0)["image"]).any(axis=-1).mean() > 0.03


# Names


def test_names_stand_on_their_colour_and_never_on_each_other():
    boxes = np.array([[20, 100, 120, 300], [200, 100, 300, 300], [210, 105, 310, 305]], np.float32)
    sample = plain(400, 500, boxes=boxes, labels=np.array([0, 1, 2]))
    with_names, without = draw_sample(sample, ("cat", "dog", "bird")), draw_sample(plain(400, 500, boxes=boxes))
    names = (with_names != without).any(axis=-1)
    assert names[84:100, 22:40].any() and names.sum() > 3 * 300
    pen = marks.Marks(sample["image"])
    places = [pen.tag("a name", tuple(box), (0, 0, 0)) for box in np.repeat(boxes, 9, axis=0)]
    tags = [tag[0] for tag in pen._tags]
    assert len(tags) == sum(places) < len(places)
    for a, b in itertools.combinations(tags, 2):
        assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
    assert all(min(tag) >= 0 and tag[2] <= 500 and tag[3] <= 400 for tag in tags)


def test_names_without_a_place_are_counted_below():
    boxes = np.tile(np.array([[10, 10, 60, 40]], np.float32), (40, 1))
    sample = plain(400, 400, boxes=boxes, labels=np.zeros(40, int))
    picture = draw_sample(sample, ("a long name of a class",))
    assert picture.shape == (420, 400, 3) and (picture[400:] != 255).any()


def test_the_class_of_an_image_stands_above_it():
    for label in (3, np.array([0, 1.0, 0]), np.zeros(4)):
        picture = draw_sample(plain(400, 400, label=label), ("a", "b", "c"))
        assert picture.shape == (426, 400, 3) and (picture[26:] == 90).all()
        assert near(picture[:26], palette.rgb(palette.TEXT)).any()


def test_texts_are_written_where_they_say_more_than_the_class():
    boxes, labels = np.array([[50, 100, 350, 200]], np.float32), np.array([7])
    same, other, none = (
        draw_sample(plain(400, 400, boxes=boxes, labels=labels, texts=(text,)), NAMES) for text in ("7", "1812", "")
    )
    np.testing.assert_array_equal(same, none)
    assert (other != same).any()


def test_keypoint_names_make_a_legend():
    points = np.full((1, 5, 3), 50, np.float32)
    without, names = (
        draw_sample(plain(400, 400, keypoints=points)),
        draw_sample(plain(400, 400, keypoints=points), (), tuple("abcde")),
    )
    assert names.shape[0] > without.shape[0] == 400


def test_the_contact_sheet_of_the_scenes_has_a_cell_for_each_preset_and_annotation():
    titles, pictures = zip(*digit_scenes.cells(), strict=True)
    assert len(titles) == 15 and {f'preset "{name}"' for name in PRESETS} < set(titles)
    assert {picture.shape for picture in pictures} == {(208, 208, 3)}
    assert Path(digit_scenes.__file__).with_suffix(".png").stat().st_size < 400_000


# Robustness


@pytest.mark.parametrize("shape", [(1, 1), (1, 700), (9, 5), (3000, 20), (1200, 2000), (64, 64)])
@pytest.mark.parametrize("channels", [1, 3])
def test_images_of_every_size_are_drawn(shape, channels):
    made = DigitScenes("medium", annotations=KINDS, split="train", image_size=shape, channels=channels)
    picture = draw_sample(made.sample(0), made.class_names, made.keypoint_names)
    assert picture.dtype == np.uint8 and picture.ndim == 3
    assert max(picture.shape) < 2400 and picture.shape[0] >= 64


@pytest.mark.parametrize("kinds", [kinds for n in (1, 2) for kinds in itertools.combinations(KINDS, n)])
def test_any_subset_of_annotations_is_drawn(kinds):
    made = DigitScenes("crowd", annotations=KINDS, split="validation", image_size=(60, 80), channels=3)
    sample = made.sample(1)
    extra = ("segment_labels", "segment_crowd") if "panoptic" in kinds else ()
    for names in ((), made.class_names):
        draw_sample({key: sample[key] for key in ("image", *kinds, *extra)}, names)


def test_objects_of_no_number_of_rows_and_broken_values_are_drawn():
    boxes = np.array(
        [[np.nan, 0, 1, 1], [-1e9, -5, 1e9, 50], [5, 5, 5, 5], [30, 30, 20, 10], [500, 500, 600, 600]], np.float32
    )
    rotated = np.array([[np.nan] * 5, [np.inf] * 5, [5, 5, 0, 0, 0], [1e9, 0, 5, 5, 1], [0, 0, 9, 9, 9]], np.float32)
    points = np.full((5, 2, 3), np.nan, np.float32)
    points[:, :, 2] = 2
    labels = np.array([0, -1, 99, 2, 3])
    draw_sample(plain(boxes=boxes, rotated_boxes=rotated, keypoints=points, labels=labels), ("a",), ("b", "c"))
    draw_sample(plain(keypoints=points, labels=labels))
    nothing = {"boxes": np.zeros((0, 4)), "labels": np.zeros(0, int), "masks": np.zeros((0, 100, 100), bool)}
    draw_sample(plain(**nothing, keypoints=np.zeros((0, 2, 3))), ("a",), ("b", "c"))
    draw_sample(plain(labels=np.array([1])), ("a", "b"))


@pytest.mark.parametrize("annotations", [("boxes",), ("masks", "keypoints", "rotated_boxes")])
def test_clips_are_strips_of_frames(annotations):
    made = DigitClips(annotations=annotations, frames=9, split="train", image_size=(64, 64), channels=1)
    strip = draw_sample(made.sample(0), made.class_names, made.keypoint_names)
    assert strip.shape[1] == 6 * 256 + 5 * 8
    assert strip.shape[0] == 276 + (24 if "keypoints" in annotations else 0)
    acting = DigitClips(actions=True, frames=2, split="train", image_size=(64, 64), channels=3)
    assert draw_sample(acting.sample(0), acting.class_names).shape == (26 + 276, 2 * 256 + 8, 3)


# Colours


def test_the_first_colours_are_apart_for_every_kind_of_colour_vision():
    first = [marks.color_of(i) for i in range(7)]
    assert [f"#{r:02X}{g:02X}{b:02X}" for r, g, b in first] == [c for c in palette.CYCLE if c != palette.BLACK]
    everything = np.array([marks.color_of(i) for i in range(21)])
    distance = np.abs(everything[:, None] - everything[None]).sum(axis=-1) + 999 * np.eye(21, dtype=int)
    assert distance.min() >= 30


def test_classes_of_a_picture_share_no_colour_while_there_are_enough():
    colors = marks.colors_of([0, 21, 42, 7, 133])
    assert len(set(colors.values())) == 5 and colors[0] == marks.color_of(0) and colors[7] == marks.color_of(7)
    assert len(marks.colors_of(list(range(80)))) == 80


def test_letters_are_read_on_every_colour():
    for number in range(21):
        color = marks.color_of(number)
        light = palette.luminance(tuple(channel / 255 for channel in color))
        ink = palette.luminance(tuple(channel / 255 for channel in palette.rgb(marks.ink_on(color))))
        assert (max(light, ink) + 0.05) / (min(light, ink) + 0.05) >= 4.0  # contrast ratio of WCAG 2.1


def test_a_legend_says_how_many_names_it_leaves_out():
    entries = [(marks.color_of(i), f"class number {i}") for i in range(100)]
    assert marks.legend(entries, 400).shape == (4 + 20 * 5, 400, 3)
    assert marks.legend(entries[:2], 400).shape == (24, 400, 3)
    assert marks.legend(entries, 20).shape[1] == 20
