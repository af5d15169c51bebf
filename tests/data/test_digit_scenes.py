"""Scenes of scanned digits: every annotation against an independent computation, determinism, splits, sizes."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from jaxvision.config import build
from jaxvision.data.collate import collate
from jaxvision.data.loader import Loader
from jaxvision.data.samples import SampleSource
from jaxvision.data.sources import Digits, DigitScenes, Source, digit_scenes
from jaxvision.data.sources.digit_scenes import PRESETS, glyphs, presets, scenes

ALL = ("boxes", "masks", "keypoints", "rotated_boxes", "texts", "semantic", "panoptic")
SIZES = ((96, 96), (40, 130), (9, 7), (1, 1))


def source(preset="medium", size=(96, 96), split="train", channels=3, annotations=ALL, **arguments):
    return DigitScenes(preset, annotations=annotations, split=split, image_size=size, channels=channels, **arguments)


@pytest.fixture(scope="module", params=list(PRESETS))
def preset(request):
    return request.param


@pytest.fixture(scope="module")
def samples(preset):
    made = source(preset)
    return [(made.sample(i), made.layout(i)) for i in range(12)]


def frame_by_hand(item, ink):
    """Corners and centre of the tight box of the digits' frames, at the item's angle, as complex numbers."""
    corners = []
    for p in item.placements:
        left, top, right, bottom = ink.frames[p.digit]
        half = np.array([(right - left) / 2 * p.cell[0], (bottom - top) / 2 * p.cell[1]])
        center = complex(*p.center) * np.exp(-1j * p.angle)
        corners += [center + complex(x * half[0], y * half[1]) for x in (-1, 1) for y in (-1, 1)]
    own = np.array(corners)
    (left, top), (right, bottom) = (own.real.min(), own.imag.min()), (own.real.max(), own.imag.max())
    box = [left + 1j * top, right + 1j * top, right + 1j * bottom, left + 1j * bottom]
    return np.array([*box, (box[0] + box[2]) / 2]) * np.exp(1j * item.angle)


def digest(sample):
    total = hashlib.sha256()
    for key in sorted(sample):
        value = sample[key]
        total.update(f"{key} {value}".encode() if isinstance(value, (str, int, tuple)) else value.tobytes())
    return total.hexdigest()


# Annotations


def test_boxes_are_the_tight_boxes_of_the_masks_and_areas_their_pixels(samples):
    for sample, _ in samples:
        for mask, box, area in zip(sample["masks"], sample["boxes"], sample["area"], strict=True):
            rows, columns = np.nonzero(mask)
            assert tuple(box) == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            assert area == mask.sum() > 0


def test_masks_do_not_overlap_and_agree_with_semantic_and_panoptic_maps(samples, preset):
    background = 1 if preset == "lines" else 10
    for sample, _ in samples:
        masks, labels = sample["masks"], sample["labels"]
        assert masks.sum(axis=0).max(initial=0) <= 1
        expected = np.full(masks.shape[1:], background)
        for mask, label in zip(masks, labels, strict=True):
            expected[mask] = label
        np.testing.assert_array_equal(sample["semantic"], expected)
        panoptic = sample["panoptic"]
        assert set(np.unique(panoptic)) == set(range(1, len(sample["segment_labels"]) + 1))
        np.testing.assert_array_equal(sample["segment_labels"][panoptic - 1], expected)
        for number, (mask, crowd) in enumerate(zip(masks, sample["crowd"], strict=True), start=1):
            np.testing.assert_array_equal(panoptic == number, mask)
            assert sample["segment_crowd"][number - 1] == crowd


def test_rotated_boxes_are_the_tight_ones_of_their_angle(samples):
    for sample, layout in samples:
        for mask, row, item in zip(sample["masks"], sample["rotated_boxes"], layout.items, strict=True):
            x, y, width, height, angle = row.astype(np.float64)
            assert angle == pytest.approx(item.angle, abs=1e-6)
            rows, columns = np.nonzero(mask)
            corners = np.concatenate([(columns + dx) + 1j * (rows + dy) for dx in (0, 1) for dy in (0, 1)])
            own = (corners - (x + 1j * y)) * np.exp(-1j * angle)
            assert [own.real.min(), own.real.max()] == pytest.approx([-width / 2, width / 2], abs=2e-3)
            assert [own.imag.min(), own.imag.max()] == pytest.approx([-height / 2, height / 2], abs=2e-3)


def test_rotated_boxes_of_upright_digits_are_their_boxes():
    sample = source("medium", rotation=0.0).sample(2)
    left, top, right, bottom = sample["boxes"].T
    expected = np.stack([(left + right) / 2, (top + bottom) / 2, right - left, bottom - top, 0 * left], axis=1)
    np.testing.assert_allclose(sample["rotated_boxes"], expected, atol=1e-5)


def test_keypoints_lie_where_the_transform_puts_them_and_know_what_hides_them(samples, preset):
    seen = set()
    ink = glyphs.load_glyphs("train")
    for sample, layout in samples:
        height, width = layout.top.shape
        for number, (item, points) in enumerate(zip(layout.items, sample["keypoints"], strict=True), start=1):
            if item.crowd:
                assert not points.any()
                continue
            expected = frame_by_hand(item, ink)
            for (x, y, visibility), place in zip(points, expected, strict=True):
                inside = 0 <= place.real < width and 0 <= place.imag < height
                seen.add(int(visibility))
                if not inside:
                    assert (x, y, visibility) == (0, 0, 0)
                    continue
                assert abs(complex(x, y) - place) < 1e-4
                above = layout.top[int(place.imag), int(place.real)]
                assert visibility == (1 if above > number else 2)
    if preset == "hard":
        assert seen == {0, 1, 2}


def test_every_object_keeps_its_share_of_visible_pixels(samples, preset):
    share = 1 - PRESETS[preset].overlap
    for sample, layout in samples:
        for item, area in zip(layout.items, sample["area"], strict=True):
            assert area >= max(1, share * item.tile.mask.sum())


def test_masks_are_the_digits_painted_one_over_the_other(samples):
    """Against scipy's interpolation, in double precision, and a painter that knows nothing of tiles."""
    ink = glyphs.load_glyphs("train")
    for sample, layout in samples[:4]:
        height, width = layout.top.shape
        y, x = np.mgrid[:height, :width] + 0.5
        painted, doubtful = np.zeros((height, width), int), np.zeros((height, width), bool)
        for number, item in enumerate(layout.items, start=1):
            for p in item.placements:
                frame = ink.frames[p.digit]
                own = ((x - p.center[0]) + 1j * (y - p.center[1])) * np.exp(-1j * p.angle)
                u = own.real / p.cell[0] + (frame[0] + frame[2]) / 2
                v = own.imag / p.cell[1] + (frame[1] + frame[3]) / 2
                places = [(v + 1) * glyphs.FINE - 0.5, (u + 1) * glyphs.FINE - 0.5]
                value = ndimage.map_coordinates(ink.ink[p.digit].astype(float), places, order=1)
                painted[value >= glyphs.LEVEL] = number
                doubtful |= np.abs(value - glyphs.LEVEL) < 2
        painted[layout.top > len(layout.items)] = 0
        objects = np.einsum("nhw,n->hw", sample["masks"].astype(int), np.arange(1, len(sample["masks"]) + 1))
        np.testing.assert_array_equal(objects[~doubtful], painted[~doubtful])
        assert doubtful.mean() < 0.05


@settings(deadline=None, max_examples=60)
@given(
    digit=st.integers(0, 1437),
    x=st.integers(-20 * 64, 20 * 64),
    y=st.integers(-20 * 64, 20 * 64),
    height=st.floats(12, 90),
    stretch=st.floats(0.7, 1.4),
    angle=st.floats(-7, 7),
)
def test_ink_fills_the_transformed_frame(digit, x, y, height, stretch, angle):
    ink = glyphs.load_glyphs("train")
    cell = (height / 8 * stretch, height / 8)
    placement = glyphs.Placement(digit, (x / 64, y / 64), cell, angle)
    tile = glyphs.rasterise(ink, [placement])
    assert not tile.mask[[0, -1]].any() and not tile.mask[:, [0, -1]].any()
    rows, columns = np.nonzero(tile.mask)
    pixels = (columns + tile.left + 0.5) + 1j * (rows + tile.top + 0.5)
    own = (pixels - complex(x, y) / 64) * np.exp(-1j * angle)
    frame = ink.frames[digit]
    reached = np.array([own.real.min(), own.imag.min(), own.real.max(), own.imag.max()])
    sides = (frame[2:] - frame[:2]) * cell
    expected = np.concatenate([-sides / 2, sides / 2])
    # No pixel's centre lies outside, by more than a sample of ink; the outermost ink may lie between two pixels.
    outward = (reached - expected) * [-1, -1, 1, 1]
    assert outward.max() <= max(cell) / glyphs.FINE + 0.05
    assert outward.min() >= -1.8 - max(cell) / glyphs.FINE
    np.testing.assert_allclose(placement.corners(frame).mean(axis=0), placement.center, atol=1e-9)


def test_lines_are_objects_with_a_text_of_real_digits():
    made = source("lines")
    ink = glyphs.load_glyphs("train")
    assert made.class_names == ("line", "background")
    for index in range(8):
        sample, layout = made.sample(index), made.layout(index)
        for text, item in zip(sample["texts"], layout.items, strict=True):
            assert text == "".join(str(ink.labels[p.digit]) for p in item.placements)
            assert 2 <= len(text) <= 7
            places = np.array([p.center for p in item.placements]) @ [1, 1j] * np.exp(-1j * item.angle)
            assert (np.diff(places.real) > 0).all() and np.ptp(places.imag) < 0.1
        assert not sample["labels"].any()


def test_texts_of_digits_are_their_classes_and_groups_have_none():
    found = [source("crowd").sample(index) for index in range(8)]
    for sample in found:
        for text, label, crowd in zip(sample["texts"], sample["labels"], sample["crowd"], strict=True):
            assert text == ("" if crowd else str(label))
    assert {int(sample["crowd"].sum()) for sample in found} >= {0, 1}


def test_label_says_which_digits_are_there():
    made = source(annotations=("label", "boxes"))
    assert made.multi_label and made.class_names == tuple("0123456789")
    sample = made.sample(0)
    assert sample["label"].dtype == np.float32
    np.testing.assert_array_equal(np.flatnonzero(sample["label"]), np.unique(sample["labels"]))
    assert set(source(annotations=("label",)).sample(0)) == {"image", "file", "id", "label"}


# Pictures


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("channels", [1, 3])
def test_scenes_of_every_size_and_channels_follow_the_schema(preset, size, channels):
    made = source(preset, size, channels=channels)
    assert isinstance(made, SampleSource) and isinstance(made, Source)
    assert made.image_shape == (*size, channels)
    sample = made.sample(3)
    count = len(sample["labels"])
    kinds = {
        "image": (np.uint8, (*size, channels)), "boxes": (np.float32, (count, 4)), "labels": (np.int32, (count,)),
        "crowd": (np.bool_, (count,)), "area": (np.float32, (count,)), "masks": (np.bool_, (count, *size)),
        "keypoints": (np.float32, (count, 5, 3)), "rotated_boxes": (np.float32, (count, 5)),
        "semantic": (np.uint8, size), "panoptic": (np.int32, size),
    }  # fmt: skip
    assert {key: (sample[key].dtype.type, sample[key].shape) for key in kinds} == kinds
    assert set(sample) == {"file", "id", *made.annotations, "image"} and len(sample["texts"]) == count


def test_grey_scenes_are_the_luminance_of_coloured_ones():
    color, grey = (source(channels=channels).sample(1)["image"].astype(float) for channels in (3, 1))
    np.testing.assert_allclose(grey[..., 0], color @ [0.299, 0.587, 0.114], atol=0.51)


def test_digits_stand_out_from_the_ground_as_the_preset_says():
    for name in ("easy", "medium"):
        low = PRESETS[name].contrast[0]
        made = source(name, channels=1)
        for index in range(6):
            sample = made.sample(index)
            image, ground = sample["image"][..., 0].astype(float), sample["semantic"] == 10
            for mask in sample["masks"]:
                core = ndimage.binary_erosion(mask)
                if core.any():
                    difference = abs(np.median(image[core]) - np.median(image[ground]))
                    assert difference > low - PRESETS[name].texture - 15


def test_samples_are_new_arrays():
    made = source()
    first = made.sample(0)
    expected = digest(first)
    for value in first.values():
        if isinstance(value, np.ndarray):
            value[...] = 1
    assert digest(made.sample(0)) == expected


# Determinism


def test_a_scene_depends_on_its_number_alone(preset, monkeypatch):
    made = source(preset)
    forward = [digest(made.sample(i)) for i in range(4)]
    again = source(preset, num_examples=7)
    assert [digest(again.sample(i)) for i in (3, 2, 1, 0)] == forward[::-1]
    assert len(set(forward)) == 4
    monkeypatch.setattr(scenes, "KEEP_BYTES", 0)
    unkept = source(preset)
    assert unkept._kept is None and digest(unkept.sample(2)) == forward[2]
    only = source(preset, annotations=("boxes",)).sample(1)
    np.testing.assert_array_equal(only["image"], made.sample(1)["image"])
    assert digest(source(preset, seed=1).sample(0)) != forward[0]


def test_scenes_never_change_in_any_process():
    code = (
        "from tests.data.test_digit_scenes import *;"
        "print(*[digest(source(name, (64, 80)).sample(5))[:16] for name in PRESETS]);"
        "assert not {'tensorflow', 'cv2'} & sys.modules.keys()"
    )
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert printed == [digest(source(name, (64, 80)).sample(5))[:16] for name in PRESETS]
    # Masks and boxes are integer arithmetic: the same on every machine.
    total = hashlib.sha256(b"".join(source(name, (64, 80)).sample(5)["panoptic"].tobytes() for name in PRESETS))
    assert total.hexdigest()[:16] == "2c4f0ca06d815167"


def test_training_and_validation_scenes_are_made_of_disjoint_digits():
    parts = {}
    for split in ("train", "validation"):
        ink = glyphs.load_glyphs(split)
        digits = Digits(split=split, image_size=(8, 8), channels=1).gather(np.arange(len(ink.labels)))
        np.testing.assert_array_equal(ink.labels, digits["label"])
        cells = ink.ink.reshape(-1, 10, 8, 10, 8).mean(axis=(2, 4))[:, 1:-1, 1:-1].reshape(-1, 64)
        scans = digits["image"].reshape(-1, 64).astype(float)
        assert min(np.corrcoef(a, b)[0, 1] for a, b in zip(cells, scans, strict=True)) > 0.95
        parts[split] = set(map(bytes, ink.ink.reshape(len(ink.ink), -1)))
        made = source(split=split)
        used = {p.digit for i in range(30) for item in made.layout(i).items for p in item.placements}
        assert max(used) < len(ink.ink) and len(used) > 50
    assert not parts["train"] & parts["validation"] and len(parts["train"]) + len(parts["validation"]) == 1797
    a, b = source().sample(0), source(split="validation").sample(0)
    assert digest(a) != digest(b)


# Batches and configs


def test_batches_are_the_collated_samples_with_rows_for_every_scene(preset):
    made = source(preset, (32, 48))
    batch = made.gather(np.array([2, 0, 2]))
    expected = collate([made.sample(i) for i in (2, 0, 2)], max_instances=made.max_instances)
    np.testing.assert_array_equal(batch["image"], expected["image"])
    np.testing.assert_array_equal(batch["semantic"], expected["semantic"])
    targets = batch["targets"]
    assert targets.boxes.shape == (3, made.max_instances, 4) and targets.masks.shape[-2:] == (32, 6)
    assert targets.valid.sum(axis=1).tolist() == [len(made.sample(i)["labels"]) for i in (2, 0, 2)]
    assert batch["segment_valid"].shape == (3, made.max_instances + 1)


def test_a_loader_reads_scenes():
    made = source("easy", (24, 24), num_examples=10, annotations=("semantic",))
    loader = Loader(made, 4)
    batches = list(loader.evaluate())
    assert len(batches) == 3 and batches[0]["semantic"].shape == (4, 24, 24) and "targets" not in batches[0]
    assert next(loader.train(1))["image"].dtype == np.uint8


def test_configs_build_scenes_and_change_a_preset():
    made = build(
        "source",
        dict(name="digit_scenes", preset="hard", objects=(2, 2), overlap=0.0),
        split="validation", image_size=(64, 64), channels=3,
    )  # fmt: skip
    assert len(made) == 200 and made.preset.objects == (2, 2) and made.preset.clutter == PRESETS["hard"].clutter
    assert max(len(made.sample(i)["labels"]) for i in range(5)) == 2


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(preset="hrad"), "unknown preset 'hrad': did you mean 'hard'"),
        (dict(annotations=("mask",)), "unknown annotation 'mask': did you mean 'masks'"),
        (dict(annotations=()), "annotations is empty: expected some of label, boxes"),
        (dict(split="test"), "unknown split 'test'"),
        (dict(channels=2), "channels is 2"),
        (dict(size=(0, 5)), "image_size is (0, 5)"),
        (dict(num_examples=0), "0 examples; expected at least 1"),
        (dict(overlap=1.0), "overlap is 1.0: expected a share"),
        (dict(objects=(3, 2)), "objects is (3, 2): expected (smallest, largest)"),
        (dict(noise=-1), "noise is -1: expected 0 or more"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError) as error:
        source(**arguments)
    assert message in str(error.value)


def test_there_is_no_scene_beyond_the_last():
    with pytest.raises(IndexError, match=r"samples 0..2, not 3"):
        source(num_examples=3).sample(3)


def test_the_table_of_presets_says_what_they_are():
    table = {line.split("|")[1].strip(" `"): line for line in presets.__doc__.splitlines() if line.startswith("| `")}
    assert set(table) == set(PRESETS) == set(digit_scenes.PRESETS)
    for name, values in PRESETS.items():
        low, high = values.objects
        assert f"{low}-{high}" in table[name] and f"{values.rotation}°" in table[name]
        assert f"| {values.overlap:.2f} |".replace("0.00", "0") in table[name]
