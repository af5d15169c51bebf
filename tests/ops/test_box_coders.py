"""Box coders: known numbers, decoding undoes encoding, degenerate boxes stay finite."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.ops import box_coders as ops
from tests.conftest import strict
from tests.ops.test_boxes import DEGENERATE, random_boxes

MEANS, STDS = (0.1, -0.1, 0.2, 0.0), (0.1, 0.1, 0.2, 0.2)


def centre(boxes):
    return (boxes[..., :2] + boxes[..., 2:]) / 2


CODERS = {
    "deltas": (
        lambda b, a: ops.encode_deltas(b, a, MEANS, STDS),
        lambda c, a, **k: ops.decode_deltas(c, a, MEANS, STDS, max_ratio=1e-6, **k),
    ),
    "tblr": (ops.encode_tblr, ops.decode_tblr),
    "tblr4": (
        functools.partial(ops.encode_tblr, normalizer=(1.0, 2.0, 3.0, 4.0)),
        functools.partial(ops.decode_tblr, normalizer=(1.0, 2.0, 3.0, 4.0)),
    ),
    "distances": (
        lambda b, a: ops.encode_distances(b, centre(a)),
        lambda c, a, **k: ops.decode_distances(c, centre(a), **k),
    ),
    "yolo": (lambda b, a: ops.encode_yolo(b, a, 400.0), lambda c, a, **k: ops.decode_yolo(c, a, 400.0, **k)),
}


@pytest.mark.parametrize("name", CODERS)
def test_decoding_undoes_encoding_clips_and_is_finite(name):
    encode, decode = CODERS[name]
    boxes, anchors = random_boxes((2, 8)), random_boxes((2, 8), seed=1)
    degenerate = np.repeat(DEGENERATE, len(DEGENERATE), axis=0), np.tile(DEGENERATE, (len(DEGENERATE), 1))

    @jax.jit
    def compute(boxes, anchors, one, other):
        codes = encode(boxes, anchors)
        bad = encode(one, other)
        return (
            decode(codes, anchors),
            decode(codes, anchors, size=jnp.array([[60, 50], [40, 70]])),
            (bad, decode(bad, other)),
            jax.grad(lambda b, a: jnp.square(encode(b, a)).sum(), argnums=(0, 1))(one, other),
            jax.grad(lambda c, a: jnp.square(decode(c, a)).sum(), argnums=(0, 1))(bad, other),
            decode(encode(boxes.astype(jnp.bfloat16), anchors), anchors),
            decode(codes[:, :0], anchors[:, :0]),
        )

    with strict():
        back, clipped, *finite, half, empty = compute(boxes, anchors, *degenerate)
    np.testing.assert_allclose(back, boxes, atol=2e-3)
    limits = np.array([[[50, 60, 50, 60]], [[70, 40, 70, 40]]])
    np.testing.assert_allclose(clipped, np.clip(boxes, 0, limits), atol=2e-3)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(finite))
    assert half.dtype == jnp.bfloat16 and empty.shape == (2, 0, 4)


def test_known_numbers():
    anchor, box = jnp.array([10.0, 20, 30, 60]), jnp.array([15.0, 30, 55, 70])
    np.testing.assert_allclose(ops.encode_deltas(box, anchor), [15 / 20, 10 / 40, np.log(2), 0], rtol=1e-6)
    np.testing.assert_allclose(
        ops.encode_deltas(box, anchor, MEANS, STDS), [6.5, 3.5, (np.log(2) - 0.2) / 0.2, 0], rtol=1e-5
    )
    # top, bottom, left, right of the anchor's centre (20, 40), over its sides (20, 40) and 4
    np.testing.assert_allclose(ops.encode_tblr(box, anchor), [10 / 160, 30 / 160, 5 / 80, 35 / 80], rtol=1e-6)
    np.testing.assert_array_equal(ops.encode_distances(box, jnp.array([20.0, 40])), [5, 10, 35, 30])
    np.testing.assert_allclose(
        ops.encode_yolo(box, anchor, 32), [0.5 + 15 / 32, 0.5 + 10 / 32, np.log(2), 0], rtol=1e-6
    )


def test_growth_and_shrinking_are_limited():
    anchor = jnp.array([[0.0, 0, 16, 16]])
    far = jnp.array([[0.0, 0, 9, -9]])
    grown = np.exp(abs(np.log(0.016))) * 16
    for limit, height in ((True, 16 / 62.5), (False, 16 * np.exp(-9.0))):
        box = ops.decode_deltas(far, anchor, limit_shrinking=limit)[0]
        np.testing.assert_allclose(box[2:] - box[:2], [grown, height], rtol=1e-3)


def test_one_box_per_class_broadcasts():
    anchors, deltas = random_boxes((5,)), np.random.default_rng(0).normal(size=(5, 3, 4)).astype(np.float32)
    with strict():
        boxes = ops.decode_deltas(jnp.asarray(deltas), jnp.asarray(anchors)[:, None])
        one = ops.decode_deltas(jnp.asarray(deltas[:, 1]), jnp.asarray(anchors))
    np.testing.assert_allclose(boxes[:, 1], one, rtol=1e-6)


def test_errors_name_what_was_given():
    with pytest.raises(ValueError, match=r"arrays \[..., 4\], and got \(2, 8\)"):
        ops.decode_deltas(jnp.zeros((2, 8)), jnp.zeros((2, 4)))
