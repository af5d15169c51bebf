"""Boxes against loops in numpy (float64), on random and degenerate input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.ops import boxes as ops
from jaxvision.ops.boxes import box_area, box_convert, box_iou, box_iou_aligned, clip_boxes
from tests.conftest import strict

DEGENERATE = np.array(
    [
        [0, 0, 0, 0],  # a point
        [5, 5, 5, 5],
        [3, 2, 3, 9],  # a line
        [2, 3, 9, 3],
        [0, 0, 10, 10],
        [0, 0, 10, 10],  # equal
        [10, 0, 20, 10],  # touching
        [2, 2, 4, 4],  # inside
        [100, 100, 110, 105],  # apart
    ],
    np.float32,
)


def random_boxes(shape, seed=0, size=100):
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, size, (*shape, 2))
    return np.concatenate([corner, corner + rng.uniform(0, size / 2, (*shape, 2))], -1).astype(np.float32)


A = np.concatenate([random_boxes((12,)), DEGENERATE])
B = np.concatenate([random_boxes((7,), seed=1), DEGENERATE[4:]])


def oracle(a, b, kind):
    """One pair of boxes; a quotient without a denominator is 0."""
    a, b = a.astype(np.float64), b.astype(np.float64)

    def divide(x, y):
        return x / y if y else 0.0

    (aw, ah), (bw, bh) = a[2:] - a[:2], b[2:] - b[:2]
    w, h = np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0)
    union = aw * ah + bw * bh - w * h
    iou = divide(w * h, union)
    cw, ch = np.maximum(a[2:], b[2:]) - np.minimum(a[:2], b[:2])
    if kind == "iou":
        return iou
    if kind == "iof":
        return divide(w * h, aw * ah)
    if kind == "giou":
        return iou - divide(cw * ch - union, cw * ch)
    distance = np.square((a[:2] + a[2:] - b[:2] - b[2:]) / 2).sum()
    diou = iou - distance / (cw**2 + ch**2 + 1e-7)
    if kind == "diou":
        return diou
    shape = 4 / np.pi**2 * (np.arctan2(aw, ah) - np.arctan2(bw, bh)) ** 2
    return diou - shape**2 / (1 - iou + shape + 1e-7)


@pytest.fixture(scope="module")
def computed():
    """Everything the tests of values and gradients look at, for all kinds, in one program."""

    def of_kind(kind, a, b, degenerate):
        def total(x, y):
            return box_iou(x, y, kind).sum()

        return {
            "pairs": box_iou(a, b, kind),
            "aligned": box_iou_aligned(a, a[::-1], kind),
            "gradient": jax.grad(total)(a, b),
            "degenerate": jax.grad(total, argnums=(0, 1))(degenerate, degenerate),
            "equal": jax.grad(lambda x: box_iou_aligned(x, x, kind).sum())(degenerate),
            "nan": box_iou_aligned(a * jnp.nan, a, kind),
            "empty": [jax.value_and_grad(total)(a[:n], b[:m]) for n, m in ((0, 3), (3, 0), (0, 0))],
        }

    with strict():
        return jax.jit(lambda *boxes: {kind: of_kind(kind, *boxes) for kind in ops.KINDS})(A, B, DEGENERATE)


@pytest.mark.parametrize("kind", ops.KINDS)
def test_overlaps_equal_a_loop_over_pairs(computed, kind):
    pairs, aligned = computed[kind]["pairs"], computed[kind]["aligned"]
    np.testing.assert_allclose(pairs, [[oracle(x, y, kind) for y in B] for x in A], atol=2e-5)
    np.testing.assert_allclose(aligned, [oracle(x, y, kind) for x, y in zip(A, A[::-1], strict=True)], atol=2e-5)


@pytest.mark.parametrize("kind", ops.KINDS)
def test_gradients_are_finite_for_every_pair_of_degenerate_boxes(computed, kind):
    left, right = computed[kind]["degenerate"]
    assert np.isfinite(left).all() and np.isfinite(right).all() and np.isfinite(computed[kind]["equal"]).all()
    assert np.abs(left[4]).max() > 0


@pytest.mark.parametrize("kind", ["iou", "iof", "giou", "diou"])
def test_gradients_equal_finite_differences(computed, kind):
    """Not of CIoU: the weight of its shape term is held fixed."""
    step = 1e-4
    for row in range(6):
        for side in range(4):
            shift = np.eye(4)[side] * step
            up, down = (np.sum([oracle(A[row] + s, y, kind) for y in B]) for s in (shift, -shift))
            np.testing.assert_allclose(computed[kind]["gradient"][row, side], (up - down) / (2 * step), atol=2e-4)


@pytest.mark.parametrize("kind", ops.KINDS)
def test_nan_boxes_stay_nan_and_empty_sets_are_no_exception(computed, kind):
    assert np.isnan(computed[kind]["nan"]).all()
    for total, gradient in computed[kind]["empty"]:
        assert total == 0 and np.all(gradient == 0)


def test_leading_axes_and_vmap_agree_and_bfloat16_stays():
    a, b = random_boxes((2, 5)), random_boxes((2, 3), seed=1)

    @jax.jit
    def compute(a, b):
        low = jnp.bfloat16
        return (
            box_iou(a, b, "giou"),
            jax.vmap(lambda a, b: box_iou(a, b, "giou"))(a, b),
            box_iou(a.astype(low), b.astype(low)),
            box_iou(a.astype(low), b),
        )

    with strict():
        batched, mapped, half, mixed = compute(a, b)
    np.testing.assert_allclose(batched, mapped, atol=1e-6)
    assert half.dtype == jnp.bfloat16 and mixed.dtype == jnp.float32


def test_formats_convert_there_and_back():
    boxes = np.concatenate([random_boxes((6,)), DEGENERATE])
    known = {"xyxy": [2, 3, 6, 9], "xywh": [2, 3, 4, 6], "cxcywh": [4, 6, 4, 6]}
    pairs = [(source, target) for source in ops.FORMATS for target in ops.FORMATS]

    @jax.jit
    def convert(boxes):
        first = {name: jnp.array(value, jnp.float32) for name, value in known.items()}
        return [
            (
                box_convert(first[source], source, target),
                box_convert(box_convert(box_convert(boxes, "xyxy", source), source, target), target, "xyxy"),
            )
            for source, target in pairs
        ]

    with strict():
        converted = convert(boxes)
    for (_, target), (one, back) in zip(pairs, converted, strict=True):
        np.testing.assert_array_equal(one, known[target])
        np.testing.assert_allclose(back, boxes, atol=1e-4)


def test_area_and_clipping():
    boxes = jnp.array([[[-5.0, -5, 5, 5], [90, 40, 130, 70]], [[0, 0, 1, 2], [30, 30, 40, 40]]])
    with strict():
        np.testing.assert_array_equal(box_area(boxes), [[100, 1200], [2, 100]])
        one = clip_boxes(boxes, (50, 100))
        each = clip_boxes(boxes, jnp.array([[50, 100], [20, 10]]))
        flat = clip_boxes(boxes[0], jnp.array([50.0, 100.0]))
    np.testing.assert_array_equal(one[0], [[0, 0, 5, 5], [90, 40, 100, 50]])
    np.testing.assert_array_equal(one[0], flat)
    np.testing.assert_array_equal(each[1], [[0, 0, 1, 2], [10, 20, 10, 20]])


def test_errors_name_what_was_given():
    boxes = jnp.zeros((2, 4))
    with pytest.raises(ValueError, match="unknown kind of overlap 'iuo': expected one of iou, iof"):
        box_iou(boxes, boxes, "iuo")
    with pytest.raises(ValueError, match=r"of the same rank, and got \(2, 4\) and \(4,\)"):
        box_iou(boxes, boxes[0])
    with pytest.raises(ValueError, match=r"boxes \[..., 4\], and got float32 \(2, 3\)"):
        box_area(boxes[:, :3])
    with pytest.raises(ValueError, match="int32"):
        box_area(boxes.astype(jnp.int32))
    with pytest.raises(ValueError, match="unknown box format 'yxyx'"):
        box_convert(boxes, "xyxy", "yxyx")
