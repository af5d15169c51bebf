"""Logits and labels at the original size of images: a part of the canvas, cut out and resized by torch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from jaxvision.ops.interpolate import interpolate
from jaxvision.segmentation import original
from tests.conftest import strict
from tests.parity.torch_weights import nchw

pytestmark = pytest.mark.parity
SIZES = np.int32([[16, 24], [13, 24], [16, 17], [1, 9], [7, 1], [10, 10]])
"""On a canvas of 16 x 24."""
ORIGINALS = np.int32([[37, 41], [13, 24], [9, 40], [20, 1], [1, 33], [5, 5]])
"""On a canvas of 37 x 41: larger, equal, smaller, and single rows and columns."""
CANVAS = (37, 41)


@pytest.mark.parametrize("align_corners", [False, True])
def test_logits_and_labels_are_torchs(align_corners, monkeypatch):
    monkeypatch.setattr(original, "ROWS", 8)  # the last strip passes the border
    head = np.random.default_rng(0).normal(size=(len(SIZES), 4, 6, 11)).astype(np.float32)

    @jax.jit
    def ours(head, size, whole):
        logits = interpolate(head, (16, 24), align_corners=align_corners)
        every = (jnp.arange(side, dtype=jnp.int32) for side in CANVAS)
        shown = original.logits_at_original(logits, size, whole, *every, align_corners=align_corners)
        return shown, original.labels_at_original(logits, size, whole, CANVAS, align_corners=align_corners)

    with strict():
        logits, labels = ours(head, SIZES.astype(np.float32), ORIGINALS)
    assert labels.dtype == jnp.uint8 and labels.shape == (len(SIZES), *CANVAS)
    options = {"mode": "bilinear", "align_corners": align_corners}
    canvas = F.interpolate(torch.from_numpy(nchw(head).copy()), (16, 24), **options)
    for i, ((height, width), size) in enumerate(zip(SIZES, ORIGINALS.tolist(), strict=True)):
        theirs = F.interpolate(canvas[i : i + 1, :, :height, :width], tuple(size), **options)
        own = nchw(logits[i : i + 1, : size[0], : size[1]])
        np.testing.assert_allclose(own, theirs.numpy(), atol=2e-6)
        np.testing.assert_array_equal(labels[i, : size[0], : size[1]], theirs[0].argmax(0).numpy())
