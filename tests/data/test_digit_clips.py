"""Clips of moving digits: tracks against the masks of each frame, actions against what moves how."""

import numpy as np
import pytest
from scipy import ndimage

from jaxvision.config import build
from jaxvision.data.loader import Loader
from jaxvision.data.sources import DigitClips
from jaxvision.data.sources.digit_scenes.clips import ACTIONS

ALL = ("boxes", "masks", "keypoints", "rotated_boxes")


def clips(preset="medium", size=(72, 96), split="train", channels=3, annotations=ALL, **arguments):
    return DigitClips(preset, annotations=annotations, split=split, image_size=size, channels=channels, **arguments)


def test_tracks_agree_with_the_masks_of_each_frame():
    made = clips(frames=12)
    hidden = 0
    for index in range(4):
        clip = made.sample(index)
        assert clip["video"].shape == (12, 72, 96, 3) and clip["video"].dtype == np.uint8
        count = len(clip["labels"])
        assert clip["track_ids"].tolist() == list(range(1, count + 1))
        assert clip["masks"].shape == (12, count, 72, 96) and clip["masks"].sum(axis=1).max() <= 1
        for time in range(12):
            for track in range(count):
                rows, columns = np.nonzero(clip["masks"][time, track])
                assert clip["present"][time, track] == bool(len(rows))
                hidden += not len(rows)
                box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) if len(rows) else (0, 0, 0, 0)
                assert tuple(clip["boxes"][time, track]) == box
                assert clip["area"][time, track] == len(rows)
                assert len(rows) or not clip["keypoints"][time, track].any()
                center = clip["keypoints"][time, track, 4]
                if center[2] == 2 and clip["area"][time, track] > 60:
                    x, y, width, height, _ = clip["rotated_boxes"][time, track]
                    assert np.hypot(x - center[0], y - center[1]) < max(width, height)


def test_digits_move_on_from_frame_to_frame_over_a_still_ground():
    clip = clips("easy", frames=10).sample(1)
    centers = clip["keypoints"][:, :, 4, :2]
    steps = np.hypot(*np.moveaxis(np.diff(centers, axis=0), -1, 0))
    assert 0.5 < steps.max() < 0.08 * 72
    still = ~ndimage.binary_dilation(clip["masks"].any(axis=(0, 1)), iterations=2)
    noise = np.ptp(clip["video"][:, still].astype(int), axis=0)
    assert noise.max() <= 2 * 6 + 1


@pytest.mark.parametrize("action", ACTIONS)
def test_an_action_is_what_all_digits_do(action):
    made = clips("easy", actions=True, frames=9)
    assert made.class_names == ACTIONS and made.annotations == ("label",)
    index = next(i for i in range(200) if made.sample(i)["label"] == ACTIONS.index(action))
    draws = made._draws(index, 2)
    assert draws.integer(0, 7) == ACTIONS.index(action)
    for path in made._paths(ACTIONS.index(action), draws):
        first, last = path[0], path[-1]
        moved = last.points[4] - first.points[4]
        turned = last.angle - first.angle
        grown = np.linalg.norm(last.points[2] - last.points[0]) / np.linalg.norm(first.points[2] - first.points[0])
        expected = {
            "left": moved[0] < -10, "right": moved[0] > 10, "up": moved[1] < -10, "down": moved[1] > 10,
            "clockwise": turned > 1, "counterclockwise": turned < -1, "grow": grown > 1.5, "shrink": grown < 0.7,
        }  # fmt: skip
        assert [name for name, happens in expected.items() if happens] == [action]


def test_a_clip_depends_on_its_number_alone():
    made, again = clips(), clips(num_examples=3, annotations=("boxes",))
    first = [made.sample(i) for i in range(3)]
    for index in (2, 0, 1):
        clip = again.sample(index)
        np.testing.assert_array_equal(clip["video"], first[index]["video"])
        np.testing.assert_array_equal(clip["boxes"], first[index]["boxes"])
    assert not np.array_equal(clips(split="validation").sample(0)["video"], first[0]["video"])


@pytest.mark.parametrize("size", [(1, 1), (8, 30), (64, 64)])
@pytest.mark.parametrize("frames, channels", [(1, 1), (4, 3)])
def test_clips_of_every_size_are_made(size, frames, channels):
    clip = clips("hard", size, channels=channels, frames=frames).sample(0)
    assert clip["video"].shape == (frames, *size, channels)


def test_batches_hold_tracks_or_actions():
    made = clips(num_examples=6, frames=3)
    batch = next(iter(Loader(made, 4).evaluate()))
    targets, rows = batch["targets"], made.max_instances
    assert batch["video"].shape == (4, 3, 72, 96, 3) and targets.boxes.shape == (4, 3, rows, 4)
    assert targets.masks.shape == (4, 3, rows, 72, 12) and batch["track_ids"].shape == (4, rows)
    clip = made.sample(2)
    count = len(clip["labels"])
    np.testing.assert_array_equal(targets.valid[2, :, :count], clip["present"])
    np.testing.assert_array_equal(targets.boxes[2, :, :count], clip["boxes"])
    np.testing.assert_array_equal(targets.labels[2, 0, :count], np.where(clip["present"][0], clip["labels"], 0))
    assert not targets.valid[2, :, count:].any() and not batch["track_ids"][2, count:].any()
    acting = clips(actions=True, frames=2).gather(np.arange(5))
    assert acting["label"].shape == (5,) and acting["label"].dtype == np.int32


def test_configs_build_clips_and_wrong_ones_are_refused():
    supplied = dict(split="train", image_size=(32, 32), channels=1)
    assert build("source", dict(name="digit_clips", frames=2), **supplied).sample(0)["video"].shape == (2, 32, 32, 1)
    for arguments, message in (
        (dict(preset="lines"), "made of single digits, not of lines"),
        (dict(frames=0), "frames is 0: expected at least 1"),
        (dict(annotations=("texts",)), "unknown annotation 'texts' of a clip"),
        (dict(preset="eazy"), "did you mean 'easy'"),
    ):
        with pytest.raises(ValueError, match=message):
            build("source", dict(name="digit_clips", **arguments), **supplied)
