"""The sliding window: its grid, what each window is classified by, and its loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.detection.dense import Suppression
from jaxvision.detection.sliding_window import SlidingWindow, Windows
from tests.conftest import strict
from tests.detection.made import EVERY, Tiny, batch_of

pytestmark = pytest.mark.usefixtures("unoptimized")
WINDOWS = Windows(sizes=((16, 16), (16, 24), (400, 8)), step=0.5)
MODEL = SlidingWindow(Tiny(), 3, WINDOWS, crop=16, sampler=EVERY, chunk=7, suppression=Suppression(iou_threshold=0.3))


@pytest.fixture(scope="module")
def variables():
    return MODEL.init(jax.random.key(0), jnp.zeros((1, 32, 48, 3)))


@jax.jit
def losses_and_slopes(variables, batch):
    def loss(variables):
        keys = {"sampling": jax.random.key(0)}
        outputs = MODEL.apply(variables, {**batch}, train=True, targets=batch["targets"], rngs=keys)
        terms = MODEL.loss(outputs, batch)
        return sum(total / jnp.maximum(count, 1.0) for total, count in terms.values()), terms

    (_, terms), slopes = jax.value_and_grad(loss, has_aux=True)(variables)
    return terms, slopes


@pytest.mark.parametrize("counts", [[0, 0], [1, 0], [4, 4]])
def test_no_truth_one_object_and_full_truth_have_finite_losses_and_slopes(variables, counts):
    with strict():
        terms, slopes = losses_and_slopes(variables, batch_of(counts))
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves((terms, slopes)))
    assert terms["classification"][0] > 0 and terms["classification"][1] > 10


def test_windows_slide_by_a_share_of_their_sides_and_stay_in_the_canvas():
    windows = WINDOWS((32, 48))
    rows = [(y, x) for y in (0, 8, 16) for x in (0, 8, 16, 24, 32)]
    wide = [(y, x) for y in (0, 8, 16) for x in (0, 12, 24)]
    expected = [(x, y, x + 16, y + 16) for y, x in rows] + [(x, y, x + 24, y + 16) for y, x in wide]
    np.testing.assert_array_equal(windows, np.asarray(expected, np.float32))
    with pytest.raises(ValueError, match=r"no window of .* lies in a canvas of \(12, 12\)"):
        WINDOWS((12, 12))


def test_every_window_is_classified_as_its_own_crop_is(variables):
    """A window of the crop's own size is cut out without resampling: two samples of a pixel are its middle's mean."""
    with strict():
        images = jnp.asarray(batch_of([1, 1])["image"])
        outputs = jax.jit(MODEL.apply)(variables, images)
        assert outputs["logits"].shape == (2, 24, 4) and outputs["windows"].shape == (24, 4)
        # Bilinear samples at a quarter and three quarters of a pixel mix it with its neighbours.
        kernel = np.array([0.125, 0.75, 0.125], np.float32)
        edge = np.pad(np.asarray(images), ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
        soft = sum(kernel[i] * edge[:, i : i + 32] for i in range(3))
        soft = sum(kernel[i] * soft[:, :, i : i + 48] for i in range(3))
        for row in (0, 7, 14):
            x, y = np.asarray(outputs["windows"][row, :2]).astype(int)
            crops = jnp.asarray(soft[:, y : y + 16, x : x + 16])
            features = MODEL.backbone.apply({"params": variables["params"]["backbone"]}, crops, train=False)["c4"]
            head = variables["params"]["cls_logits"]
            expected = features.mean((1, 2)) @ head["kernel"] + head["bias"][None]
            np.testing.assert_allclose(outputs["logits"][:, row], expected, rtol=1e-4, atol=1e-5)


def test_the_windows_nearest_to_the_objects_are_found_and_those_beyond_the_picture_are_not():
    windows = jnp.asarray(WINDOWS((32, 48)))
    usable = jnp.asarray(np.asarray(windows[:, 0] < 24)[None])
    logits = jnp.zeros((1, 24, 4)).at[..., 3].set(8.0).at[0, 3, 1].set(30.0).at[0, 0, 2].set(30.0).at[0, 1, 2].set(29.0)
    with strict():
        outputs = {"windows": windows, "usable": usable, "logits": logits}
        found = jax.jit(MODEL.predict)(outputs, jnp.asarray([[32.0, 20.0]]))
    assert found.valid.sum() == 1  # the neighbour overlaps by a third, and is suppressed
    np.testing.assert_array_equal(found.boxes[0, :1], [[0, 0, 16, 16]])
    assert found.labels[0, 0] == 2
    assert float(found.boxes[..., 2].max()) <= 20


def test_wrong_settings_and_outputs_are_refused(variables):
    for fields in ({"sizes": ()}, {"sizes": ((0, 4),)}, {"step": 0.0}):
        with pytest.raises(ValueError, match="sliding windows got"):
            Windows(**fields)
    with pytest.raises(ValueError, match="crop=0"):
        SlidingWindow(Tiny(), 3, crop=0)
    with pytest.raises(ValueError, match="call the model with targets="):
        MODEL.loss({"logits": jnp.zeros((1, 24, 4))}, batch_of([1]))
