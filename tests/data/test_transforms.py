"""Host transforms: windows, their composition, and the rules of each."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxvision import registry
from jaxvision.data.order import bucket_of, sample_rng
from jaxvision.data.transforms import (
    CenterCrop,
    Expand,
    IouCrop,
    Letterbox,
    RandomCrop,
    RandomResizedCrop,
    RandomScale,
    RandomScaledCrop,
    RandomShortSide,
    Resize,
    ResizeSide,
    View,
    split_forms,
)
from jaxvision.data.transforms.view import compose
from jaxvision.errors import SetupError

ALL = tuple(registry.lookup("host_transform", name).load() for name in registry.names("host_transform"))


def plan(transform, original=(480, 640), canvas=(224, 224), seed=0, **sample):
    return transform.plan(View.whole(original, canvas), sample, sample_rng(seed, 0))


def test_randomness_is_that_of_the_sample_and_differs_between_samples():
    draws = {position: sample_rng(3, position).random(4).tolist() for position in range(50)}
    assert draws == {position: sample_rng(3, position).random(4).tolist() for position in range(50)}
    assert len({tuple(draw) for draw in draws.values()}) == 50
    assert sample_rng(4, 0).random() != draws[0][0]
    with pytest.raises(ValueError, match="number is -1: expected an integer"):
        sample_rng(0, -1)


def test_buckets_are_a_function_of_seed_and_step_and_all_occur():
    chosen = [bucket_of(1, step, 3) for step in range(300)]
    assert chosen == [bucket_of(1, step, 3) for step in range(300)]
    assert min(np.bincount(chosen, minlength=3)) > 60


@pytest.mark.parametrize(
    "transform,original,size",
    [
        (Resize(), (480, 640), (224, 224)),
        (Resize((100, 300)), (480, 640), (100, 300)),
        (Resize(mode="fit"), (480, 640), (168, 224)),
        (Resize(mode="cover"), (480, 640), (224, 299)),
        (ResizeSide(256), (480, 640), (256, 341)),
        (ResizeSide(256), (640, 480), (341, 256)),
        (ResizeSide(800, 1333), (480, 640), (800, 1066)),
        (ResizeSide(800, 1333), (300, 1000), (400, 1333)),
        (ResizeSide(None, 320), (480, 640), (240, 320)),
        (ResizeSide(800), (1, 5000), (800, 4000000)),
    ],
)
def test_sizes(transform, original, size):
    view, _ = plan(transform, original)
    assert view.size == size and view.window == (0, 0, original[1], original[0])


def test_short_sides_are_all_chosen():
    sizes = {plan(RandomShortSide((300, 400), 1000), seed=seed)[0].size for seed in range(20)}
    assert sizes == {(300, 400), (400, 533)}


def test_random_scales_keep_the_ratio_and_lie_between_their_factors():
    views = [plan(RandomScale(512, 2048, (0.5, 2.0)), (480, 640), seed=seed)[0] for seed in range(40)]
    shorts = np.array([view.size[0] for view in views])
    assert 256 <= shorts.min() < 320 and 800 < shorts.max() <= 1024
    assert all(abs(view.size[1] - view.size[0] * 640 / 480) <= 1 for view in views)
    panorama, _ = plan(RandomScale(512, 2048, (1.0, 1.0)), (100, 800))
    assert panorama.size == (256, 2048)


def test_windows_of_scaled_pictures_lie_inside_and_half_of_the_pictures_stay():
    views = [plan(RandomScaledCrop(), seed=seed)[0] for seed in range(60)]
    whole = [view.window == (0, 0, 640, 480) for view in views]
    assert 15 < sum(whole) < 45
    for view in (view for view, same in zip(views, whole, strict=True) if not same):
        left, top, right, bottom = view.window
        assert 0 <= left < right <= 640 + 1e-6 and 0 <= top < bottom <= 480 + 1e-6
        assert all(384 <= side <= 600 for side in view.size)
        assert (right - left) / view.size[1] == pytest.approx((bottom - top) / view.size[0], rel=0.01)
        assert any(abs((right - left) / view.size[1] - 480 / short) < 0.01 for short in (400, 500, 600))


def test_a_side_never_vanishes():
    assert plan(ResizeSide(None, 10), (1, 1000))[0].size == (1, 10)


def test_letterbox_centres_the_picture_on_grey():
    view, _ = plan(Letterbox(), (480, 640), (320, 320))
    assert view.size == (320, 320) and view.fill == 114
    np.testing.assert_allclose(view.boxes(np.array([[0.0, 0, 640, 480]])), [[0, 40, 320, 280]], atol=1e-9)
    small, _ = plan(Letterbox(upscale=False), (100, 50), (320, 320))
    np.testing.assert_allclose(small.boxes(np.array([[0.0, 0, 50, 100]])), [[135, 110, 185, 210]], atol=1e-9)


def test_letterbox_in_the_corner_keeps_the_size_of_the_picture():
    view, _ = plan(Letterbox(centered=False), (480, 640), (320, 320))
    assert view.size == (240, 320) and view.fill == 114 and view.window == (0, 0, 640, 480)


def test_center_crop_is_the_middle_and_pads_what_is_smaller():
    assert plan(CenterCrop((200, 100)))[0].window == (270, 140, 370, 340)
    view, _ = plan(CenterCrop((500, 100), fill=7))
    assert view.window == (270, -10, 370, 490) and view.fill == 7
    assert plan(CenterCrop((200, 100), fill=7))[0].fill == 0


@pytest.mark.parametrize("padding", [0, 4])
def test_random_crops_reach_every_place_and_none_beyond(padding):
    windows = [plan(RandomCrop((30, 30), padding), (32, 36), seed=seed)[0].window for seed in range(300)]
    assert {window[1] for window in windows} == set(range(-padding, 3 + padding))
    assert {window[0] for window in windows} == set(range(-padding, 7 + padding))
    assert {plan(RandomCrop((40, 36)), (32, 36), seed=seed)[0].window[1] for seed in range(200)} == set(range(-8, 1))


def test_random_resized_crops_have_the_areas_and_ratios_asked_for():
    transform = RandomResizedCrop((9, 9), scale=(0.2, 0.5), ratio=(0.5, 2.0))
    windows = np.array([plan(transform, seed=seed)[0].window for seed in range(300)])
    width, height = (windows[:, 2:] - windows[:, :2]).T
    assert windows.min() >= 0 and windows[:, 2].max() <= 640 and windows[:, 3].max() <= 480
    area, ratio = width * height / (480 * 640), width / height
    assert 0.195 < area.min() < 0.22 and 0.47 < area.max() < 0.505
    assert 0.49 < ratio.min() < 0.6 and 1.7 < ratio.max() < 2.02


def test_random_resized_crop_falls_back_to_the_centre():
    assert plan(RandomResizedCrop(), (10, 1000))[0].window == (493.0, 0.0, 506.0, 10.0)
    assert plan(RandomResizedCrop(), (1000, 10))[0].window == (0.0, 493.0, 10.0, 506.0)


def test_expand_puts_the_whole_picture_on_a_larger_ground():
    factors = []
    for seed in range(100):
        view, _ = plan(Expand(probability=1.0), (100, 200), seed=seed)
        left, top, right, bottom = view.window
        assert left <= 0 and top <= 0 and right >= 200 and bottom >= 100
        assert view.fill == (124, 116, 104) or view.size == (100, 200)
        factors.append(view.size[0] / 100)
    assert 1 <= min(factors) < 1.2 and 3.7 < max(factors) <= 4
    assert plan(Expand(probability=0.0))[0].window == (0, 0, 640, 480)


BOXES = np.array([[10, 10, 60, 60], [300, 200, 420, 330], [600, 440, 638, 478]], np.float32)


def test_iou_crops_keep_the_objects_whose_centre_is_inside():
    cropped = 0
    for seed in range(60):
        sample = dict(boxes=BOXES, labels=np.arange(3), texts=("a", "b", "c"), masks=np.zeros((3, 1, 1), bool))
        view, kept = plan(IouCrop(), seed=seed, **sample)
        left, top, right, bottom = view.window
        centers = (BOXES[:, :2] + BOXES[:, 2:]) / 2
        inside = ((centers > (left, top)) & (centers < (right, bottom))).all(1)
        assert kept["labels"].tolist() == np.flatnonzero(inside).tolist()
        assert kept["texts"] == tuple("abc"[i] for i in kept["labels"])
        np.testing.assert_array_equal(kept["boxes"], BOXES[inside])
        assert len(kept["masks"]) == len(kept["boxes"]) >= 1
        assert 0.5 <= (right - left) / (bottom - top) <= 2 or view.size == (480, 640)
        cropped += view.size != (480, 640)
    assert 30 < cropped < 60


def test_iou_crop_leaves_an_image_without_objects_alone():
    assert plan(IouCrop(), boxes=np.zeros((0, 4), np.float32))[0].size == (480, 640)


def test_iou_crop_reaches_the_overlap():
    box = np.array([[100, 100, 300, 300]], np.float32)
    for seed in range(20):
        view, _ = plan(IouCrop(overlaps=(0.7, 1.0)), seed=seed, boxes=box)
        if view.size != (480, 640):
            left, top, right, bottom = view.window
            common = max(0, min(300, right) - max(100, left)) * max(0, min(300, bottom) - max(100, top))
            assert common / (200 * 200 + (right - left) * (bottom - top) - common) >= 0.7


def test_a_picture_that_is_too_large_is_fitted_at_the_end():
    view, _ = compose(View.whole((480, 640), (800, 1333)), {}, (ResizeSide(800, 1333),), sample_rng(0, 0))
    assert view.size == (800, 1066)
    view, _ = compose(View.whole((480, 640), (1333, 800)), {}, (ResizeSide(800, 1333),), sample_rng(0, 0))
    assert view.size == (600, 800)


geometric = st.sampled_from(
    [
        Resize((50, 70)),
        Resize((90, 60), "fit"),
        Resize((30, 30), "cover"),
        ResizeSide(40, 60),
        Letterbox((64, 48)),
        CenterCrop((40, 30)),
        RandomCrop((35, 45), 3),
        RandomResizedCrop((40, 40)),
        Expand(),
        IouCrop(),
    ]
)


@given(st.lists(geometric, max_size=5), st.integers(0, 1000), st.tuples(st.integers(1, 90), st.integers(1, 90)))
@settings(max_examples=100, deadline=None)
def test_composed_windows_are_the_windows_in_turn(transforms, seed, original):
    """Any chain moves points as its members do one after the other, each on a picture of its own."""
    sample = dict(boxes=np.array([[0.2, 0.2, 0.7, 0.8]], np.float32) * (original[::-1] * 2))
    view, rng = View.whole(original, (64, 64)), sample_rng(seed, 0)
    points = np.random.default_rng(seed).random((7, 2)) * original[::-1]
    moved, alone_rng = points, sample_rng(seed, 0)
    for transform in transforms:
        alone = View.whole(view.size, view.canvas)
        boxes = {"boxes": view.boxes(sample["boxes"])}
        view, _ = transform.plan(view, sample, rng)
        alone, _ = transform.plan(alone, boxes, alone_rng)
        moved = alone.points(moved)
        assert alone.size == view.size
        np.testing.assert_allclose(view.points(points), moved, rtol=1e-9, atol=1e-6)
    back = np.concatenate([moved, np.ones((7, 1))], 1) @ view.to_original.T
    np.testing.assert_allclose(back[:, :2], points, rtol=1e-4, atol=1e-3)
    assert min(view.fitted().size) >= 1


@pytest.mark.parametrize("cls", [cls for cls in ALL if cls.__module__.startswith("jaxvision.data.transforms.")])
def test_transforms_are_frozen_and_hashable(cls):
    transform = cls()
    assert hash(transform) == hash(cls()) and dataclasses.is_dataclass(transform)


class Negative:
    def pixels(self, image, rng):
        return 255 - image


def test_the_two_forms_are_told_apart():
    crop, negative = CenterCrop(), Negative()
    assert split_forms((crop, negative)) == ((crop,), (negative,))
    with pytest.raises(SetupError, match="CenterCrop comes after Negative.*change their order"):
        split_forms((negative, crop))
    with pytest.raises(SetupError, match="int is no host transform.*belongs into `augment`"):
        split_forms((3,))


@pytest.mark.parametrize(
    "make,message",
    [
        (lambda: Resize((0, 3)), "resize: size is (0, 3)"),
        (lambda: Resize(mode="fitt"), "unknown mode 'fitt': did you mean 'fit'?"),
        (lambda: ResizeSide(None, None), "give short, long or both"),
        (lambda: ResizeSide(0), "short is 0"),
        (lambda: RandomScale(0), "short is 0"),
        (lambda: RandomScale(10, factors=(2.0, 1.0)), "factors is (2.0, 1.0)"),
        (lambda: RandomShortSide(()), "shorts is ()"),
        (lambda: Letterbox(fill=300), "fill is 300, expected 0..255"),
        (lambda: RandomCrop(padding=-1), "padding is -1"),
        (lambda: RandomResizedCrop(scale=(0.5, 0.1)), "scale is (0.5, 0.1)"),
        (lambda: RandomScaledCrop(sides=(9, 3)), "sides is (9, 3)"),
        (lambda: RandomScaledCrop(probability=2), "probability is 2"),
        (lambda: Expand(sides=(0.5, 2)), "expected at least 1"),
        (lambda: Expand(probability=2), "probability is 2"),
        (lambda: IouCrop(overlaps=(0.5,)), "expected one of at least 1"),
    ],
)
def test_mistakes_are_named(make, message):
    with pytest.raises(SetupError) as error:
        make()
    assert message in str(error.value)
