"""One sample on its canvas: a drawn object moves together with its box, masks, keypoints and maps."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from jaxvision.data import images
from jaxvision.data.order import sample_rng
from jaxvision.data.prepare import move, prepare
from jaxvision.data.resample import placement, resample
from jaxvision.data.samples import IGNORED
from jaxvision.data.transforms import (
    CenterCrop,
    Expand,
    Letterbox,
    RandomCrop,
    RandomResizedCrop,
    Resize,
    ResizeSide,
    View,
)

CHAINS = {
    "stretch": (Resize(),),
    "fit": (Resize(mode="fit"),),
    "letterbox": (Letterbox(),),
    "cover and centre": (Resize(mode="cover"), CenterCrop()),
    "padded crop": (RandomCrop((110, 90), 8),),
    "random resized crop": (RandomResizedCrop(scale=(0.5, 1.0)),),
    "expand": (Expand((1.0, 2.0), probability=1.0), Resize()),
    "all": (Expand((1.0, 1.5)), RandomResizedCrop((70, 80), scale=(0.6, 1.0)), Letterbox()),
}


def drawn(seed, size=(120, 160)):
    """A bright block on black, at half and whole pixels alike, and everything that is known of it."""
    rng = np.random.default_rng(seed)
    top, left = (int(rng.integers(10, side // 2)) for side in size)
    height, width = (int(rng.integers(20, side // 2 - 12)) for side in size)
    mask = np.zeros(size, bool)
    mask[top : top + height, left : left + width] = True
    box = np.array([left, top, left + width, top + height], np.float32)
    center = (box[:2] + box[2:]) / 2
    annotations = dict(
        boxes=box[None],
        labels=np.array([1], np.int32),
        masks=mask[None],
        semantic=mask.astype(np.uint8),
        panoptic=mask.astype(np.int32),
        segment_labels=np.array([1], np.int32),
        segment_crowd=np.array([False]),
        keypoints=np.array([[[*box[:2], 2], [*center, 1], [0, 0, 0]]], np.float32),
        rotated_boxes=np.array([[*center, width, height, 0.0]], np.float32),
        label=3,
    )
    return np.repeat(mask[..., None], 3, -1).astype(np.uint8) * 255, annotations


@given(seed=st.integers(0, 10_000), chain=st.sampled_from(sorted(CHAINS)))
@settings(max_examples=40, deadline=None)
def test_a_drawn_object_moves_with_its_annotations(seed, chain):
    image, annotations = drawn(seed)
    sample = prepare(image, annotations, CHAINS[chain], sample_rng(seed, 1), canvas=(100, 100))
    height, width = sample["size"].astype(int)
    assert sample["image"].shape == (100, 100, 3) and sample["label"] == 3
    box = sample["boxes"][0]
    bright = sample["image"][:height, :width, 0] > 135
    rows, columns = np.flatnonzero(bright.any(1)), np.flatnonzero(bright.any(0))
    if not len(rows):  # cropped away
        assert (box[2:] - box[:2]).min() < 2
        return
    if chain not in ("letterbox", "expand", "all"):  # there the ground is bright, too
        found = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        np.testing.assert_allclose(found, box, atol=1.01)
    for mask in (sample["masks"][0], sample["semantic"] == 1, sample["panoptic"] == 1):
        seen = [np.flatnonzero(mask.any(axis)) for axis in (0, 1)]
        if (box[2:] - box[:2]).min() > 2:
            found = [seen[0][0], seen[1][0], seen[0][-1] + 1, seen[1][-1] + 1]
            np.testing.assert_allclose(found, box, atol=0.51)
    for point, old in zip(sample["keypoints"][0], annotations["keypoints"][0], strict=True):
        if point[2]:
            back = sample["to_original"] @ [*point[:2], 1]
            np.testing.assert_allclose(back[:2], old[:2], atol=1e-3)
            assert point[2] == old[2]
        else:
            assert not point.any()
    outside = sample["semantic"] == IGNORED
    assert not (outside & sample["masks"][0]).any() and not sample["panoptic"][outside].any()
    assert outside[height:].all() and outside[:, width:].all()


def test_an_unchanged_image_is_copied():
    image, annotations = drawn(0)
    sample = prepare(image, annotations, (), sample_rng(0, 0), canvas=(130, 170))
    np.testing.assert_array_equal(sample["image"][:120, :160], image)
    assert not sample["image"][120:].any() and not sample["image"][:, 160:].any()
    np.testing.assert_array_equal(sample["to_original"], np.eye(3))
    assert sample["size"].tolist() == [120, 160] and sample["original_size"].tolist() == [120, 160]


def test_a_file_is_decoded_by_the_one_rule(tmp_path):
    image, _ = drawn(1)
    Image.fromarray(image).save(tmp_path / "a.png")
    by_path = prepare(tmp_path / "a.png", None, (Resize(),), sample_rng(0, 0), canvas=(64, 64))
    by_bytes = prepare((tmp_path / "a.png").read_bytes(), None, (Resize(),), sample_rng(0, 0), canvas=(64, 64))
    np.testing.assert_array_equal(by_path["image"], by_bytes["image"])


def test_resizing_is_pillows():
    image = np.random.default_rng(0).integers(0, 256, (97, 131, 3), np.uint8)
    sample = prepare(image, None, (Resize(),), sample_rng(0, 0), canvas=(40, 50))
    expected = np.asarray(Image.fromarray(image).resize((50, 40), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(sample["image"], expected)


@pytest.mark.parametrize("canvas", [(40, 50), (200, 240)])
def test_a_crop_of_a_resized_image_is_the_resized_crop(canvas):
    image = np.random.default_rng(0).integers(0, 256, (97, 131, 3), np.uint8)
    whole = prepare(image, None, (Resize(),), sample_rng(0, 0), canvas=canvas)["image"].astype(int)
    middle = prepare(image, None, (Resize(canvas), CenterCrop((22, 30))), sample_rng(0, 0), canvas=(22, 30))["image"]
    top, left = (canvas[0] - 22) // 2, (canvas[1] - 30) // 2
    assert np.abs(whole[top : top + 22, left : left + 30] - middle).max() <= 1


@pytest.mark.parametrize("chain", sorted(CHAINS))
def test_the_pixels_that_are_named_are_all_that_is_needed(chain):
    image = np.random.default_rng(0).integers(0, 256, (120, 160, 3), np.uint8)
    for seed in range(10):
        view, rng = View.whole((120, 160), (100, 100)), sample_rng(seed, 0)
        for transform in CHAINS[chain]:
            view, _ = transform.plan(view, {}, rng)
        view = view.fitted()
        left, top, right, bottom = placement(view).needed
        canvas, part = np.zeros((2, 100, 100, 3), np.uint8)
        resample(image, view, canvas)
        resample(np.ascontiguousarray(image[top:bottom, left:right]), view, part, (left, top))
        assert np.abs(canvas.astype(int) - part).max() <= 1


@pytest.mark.parametrize("channels", [1, 3])
def test_enlarging_with_opencv_and_with_pillow_agrees(monkeypatch, channels):
    image = np.random.default_rng(0).integers(0, 256, (60, 70, channels), np.uint8)
    fast, slow = np.zeros((2, 300, 310, channels), np.uint8)
    images.stretch(image, fast)
    monkeypatch.setattr(images, "_MANY_PIXELS", 2**30)
    images.stretch(image, slow)
    assert np.abs(fast.astype(int) - slow).max() <= 1 and (fast != slow).any()


@pytest.mark.parametrize("window", [(300, 0, 400, 90), (-50, -50, -1, -1), (159.9, 0, 300, 90)])
def test_a_window_beside_the_image_shows_the_fill(window):
    view = View((120, 160), window, (50, 60), (64, 64), fill=(1, 2, 3))
    canvas = np.zeros((64, 64, 3), np.uint8)
    resample(np.full((120, 160, 3), 200, np.uint8), view, canvas)
    assert (canvas[:, 1:] == [1, 2, 3]).all()


def test_a_shifted_picture_stays_in_its_place():
    """A ramp shows where each pixel comes from, at the edges of the image too."""
    image = np.repeat(np.arange(0, 240, 2, dtype=np.uint8)[None, :, None].repeat(40, 0), 3, -1)
    for shift in (0.0, 0.3, 0.5, 0.7, 2.2):
        for scale in (0.4, 1.0, 1.7):
            size = (30, 160)
            view = View((40, 120), (-shift / scale, 0, (size[1] - shift) / scale, 30 / scale), size, size, fill=255)
            canvas = np.zeros((*size, 3), np.uint8)
            resample(image, view, canvas)
            x = (np.arange(160) + 0.5 - shift) / scale
            inside = (x >= 2 / scale + 2) & (x < 118 - 2 / scale)
            np.testing.assert_allclose(canvas[5, inside, 0], (x[inside] - 0.5) * 2, atol=1)
            assert (canvas[5, (x < -1e-6) | (x > 120 + 1e-6), 0] == 255).all()


def test_grey_networks_get_luminance():
    image, _ = drawn(0)
    sample = prepare(image // 255 * np.array([255, 0, 0], np.uint8), None, (Resize(),), sample_rng(0, 0),
                     canvas=(120, 160), channels=1)  # fmt: skip
    assert sample["image"].shape == (120, 160, 1) and sample["image"].max() == 76


def test_training_leaves_out_what_is_hardly_to_be_seen():
    boxes = np.array([[0, 0, 50, 50], [49.5, 0, 90, 50], [60, 60, 90, 90]], np.float32)
    annotations = dict(
        boxes=boxes,
        labels=np.arange(3, dtype=np.int32),
        texts=("a", "b", "c"),
        area=np.ones(3, np.float32),
        rotated_boxes=np.array([[25, 25, 50, 50, 0.3]] * 3, np.float32),
    )
    view = View((100, 100), (0, 0, 50, 50), (50, 50), (64, 64))
    assert move(annotations, view, train=False)["labels"].tolist() == [0, 1, 2]
    moved = move(annotations, view, train=True)
    assert moved["labels"].tolist() == [0] and moved["texts"] == ("a",) and len(moved["rotated_boxes"]) == 1
    np.testing.assert_array_equal(moved["boxes"], [[0, 0, 50, 50]])


def corners(boxes):
    cx, cy, width, height, angle = boxes.astype(float).T
    along = np.stack([np.cos(angle), np.sin(angle)], 1) * width[:, None] / 2
    across = np.stack([-np.sin(angle), np.cos(angle)], 1) * height[:, None] / 2
    center = np.stack([cx, cy], 1)
    return np.stack([center + a * along + b * across for a, b in ((-1, -1), (1, -1), (1, 1), (-1, 1))], 1)


@given(st.floats(-3, 3), st.floats(2, 40), st.floats(2, 40))
@settings(max_examples=50, deadline=None)
def test_rotated_boxes_keep_their_corners_or_the_smallest_rectangle_around_them(angle, width, height):
    boxes = np.array([[50, 40, width, height, angle]], np.float32)
    uniform = View((100, 100), (10, 10, 90, 90), (160, 160), (160, 160))
    moved = move({"rotated_boxes": boxes}, uniform, train=False)["rotated_boxes"]
    np.testing.assert_allclose(corners(moved)[0], uniform.points(corners(boxes)[0]), atol=1e-3)
    stretched = View((100, 100), (0, 0, 100, 100), (100, 200), (200, 200))
    moved = move({"rotated_boxes": boxes}, stretched, train=False)["rotated_boxes"]
    points = stretched.points(corners(boxes)[0])
    cx, cy, w, h, a = moved[0].astype(float)
    local = (points - [cx, cy]) @ np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])
    assert (np.abs(local) <= np.array([w, h]) / 2 + 1e-2).all()
    angles = np.linspace(0, np.pi, 181)
    turned = (
        np.stack([points @ [np.cos(t), np.sin(t)] for t in angles]),
        np.stack([points @ [-np.sin(t), np.cos(t)] for t in angles]),
    )
    assert w * h <= np.min(np.ptp(turned[0], 1) * np.ptp(turned[1], 1)) * 1.001


class Negative:
    def pixels(self, image, rng):
        return 255 - image


def test_transforms_of_pixels_see_the_picture_and_not_the_padding():
    image, _ = drawn(0)
    sample = prepare(image, None, (Resize((50, 60)), Negative()), sample_rng(0, 0), canvas=(64, 64))
    assert sample["image"][:50, :60].max() == 255 and not sample["image"][50:].any()


def test_images_of_one_pixel_and_extreme_ratios_work():
    for size in ((1, 1), (1, 500), (500, 1)):
        image = np.full((*size, 3), 77, np.uint8)
        for chain in (*CHAINS.values(), (ResizeSide(20, 30), CenterCrop((20, 20)))):
            sample = prepare(image, None, chain, sample_rng(0, 0), canvas=(32, 32))
            assert sample["image"].shape == (32, 32, 3) and min(sample["size"]) >= 1
