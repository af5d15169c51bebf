"""Corruptions: every one at every severity on images of all kinds, drawn from a seed, worse as the severity grows."""

import numpy as np
import pytest

from jaxvision.analysis.corruptions import CORRUPTIONS, GROUPS, SEVERITIES, cloud, corrupt

ORDERED = tuple(name for name in CORRUPTIONS if name not in ("elastic_transform", "glass_blur", "snow", "fog"))
"""The published parameters of the others make one severity milder than that before it, by this measure."""


def picture(height=64, width=80, channels=3):
    """A smooth gradient with a dark square and a bright one, as photographs have areas and edges."""
    rows, columns = np.mgrid[:height, :width]
    image = np.stack([80 + 60 * rows / height, 90 + 60 * columns / width, np.full((height, width), 110.0)], axis=-1)
    image[height // 4 : height // 2, width // 4 : width // 2] = (40, 60, 30)
    image[height // 2 :, width // 2 : 3 * width // 4] = (180, 160, 190)
    image += (15 * np.sin(rows / 3.1) * np.sin(columns / 4.3))[..., None]
    return image.astype(np.uint8)[..., :channels]


def change(name, severity, image):
    return float(np.abs(corrupt(image, name, severity).astype(int) - image).mean())


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("shape", [(64, 80, 3), (40, 24, 1), (1, 1, 3), (2, 9, 1)])
def test_images_keep_their_shape_and_type(name, shape):
    image = picture(*shape)
    for severity in (1, 5):
        found = corrupt(image, name, severity)
        assert found.shape == image.shape and found.dtype == np.uint8


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_the_same_row_is_corrupted_the_same_way(name):
    image = picture()
    first = corrupt(image, name, 3, seed=1, row=7)
    corrupt(image, "gaussian_noise", 5)
    np.testing.assert_array_equal(corrupt(image, name, 3, seed=1, row=7), first)
    drawn = ("noise", "glass", "motion", "snow", "fog", "elastic")
    if name.startswith(drawn) or "noise" in name:
        assert (corrupt(image, name, 3, seed=1, row=8) != first).any()
        assert (corrupt(image, name, 3, seed=2, row=7) != first).any()


@pytest.mark.parametrize("name", ORDERED)
def test_a_higher_severity_changes_more(name):
    changes = [change(name, severity, picture(112, 140)) for severity in SEVERITIES]
    assert changes == sorted(changes) and changes[0] > 0.5 and changes[-1] > 1.4 * changes[0]


@pytest.mark.parametrize("name", sorted(set(CORRUPTIONS) - set(ORDERED)))
def test_the_others_change_images_too(name):
    assert all(change(name, severity, picture(112, 140)) > 0.5 for severity in SEVERITIES)


def test_noise_and_contrast_have_the_published_strength():
    grey = np.full((200, 200, 1), 128, np.uint8)
    for severity, scale in zip(SEVERITIES[:3], (0.08, 0.12, 0.18), strict=True):
        assert corrupt(grey, "gaussian_noise", severity).std() / 255 == pytest.approx(scale, rel=0.03)
    shot = corrupt(grey, "shot_noise", 2)
    assert shot.std() / 255 == pytest.approx(np.sqrt(128 / 255 / 25), rel=0.03)
    impulse = corrupt(grey, "impulse_noise", 5)
    assert np.mean(impulse == 0) == pytest.approx(0.135, abs=0.005)
    assert np.mean(impulse == 255) == pytest.approx(0.135, abs=0.005)
    image = picture()
    spread = corrupt(image, "contrast", 1).std(axis=(0, 1)) / image.std(axis=(0, 1))
    np.testing.assert_allclose(spread, 0.4, atol=0.02)
    bright = corrupt(image, "brightness", 2).astype(int).max(-1) - image.max(-1)
    assert (bright == np.minimum(51, 255 - image.max(-1).astype(int))).mean() > 0.99  # a fifth more of the value


def test_corruptions_look_alike_at_every_size():
    small = picture(56, 70)
    large = small.repeat(4, axis=0).repeat(4, axis=1)
    shrunk = corrupt(large, "defocus_blur", 5).reshape(56, 4, 70, 4, 3).mean(axis=(1, 3))
    assert np.abs(corrupt(small, "defocus_blur", 5) - shrunk).mean() < 2


def test_clouds_repeat_at_their_edges():
    clouds = cloud(64, 2.0, np.random.default_rng(0))
    assert clouds.min() == 0 and clouds.max() == 1
    inside, seam = np.abs(np.diff(clouds, axis=0)).mean(), np.abs(clouds[0] - clouds[-1]).mean()
    assert seam < 2 * inside


def test_every_corruption_has_a_group_and_strangers_are_refused():
    assert sorted(name for own in GROUPS.values() for name in own) == sorted(CORRUPTIONS)
    with pytest.raises(ValueError, match="expected 1..5 of gaussian_noise"):
        corrupt(picture(), "frost", 1)
    with pytest.raises(ValueError, match="severity 6"):
        corrupt(picture(), "fog", 6)
