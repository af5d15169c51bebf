"""NMS against the greedy loop in numpy; every test of one size shares one compiled program."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from jaxvision.ops.nms import TILE, nms, soft_nms
from tests.conftest import strict


def oracle(boxes, scores, threshold, labels=None, valid=None):
    """Greedy by descending score, equal scores by index; only the IoU is rounded to float32, as in torchvision."""
    labels = np.zeros(len(scores), int) if labels is None else labels
    alive = np.ones(len(scores), bool) if valid is None else valid.copy()
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    kept = []
    for i in np.argsort(-scores, kind="stable"):
        if not alive[i]:
            continue
        kept.append(i)
        size = np.minimum(boxes[i, 2:], boxes[:, 2:]) - np.maximum(boxes[i, :2], boxes[:, :2])
        inside = np.prod(np.maximum(size, np.float32(0)), axis=1)
        with np.errstate(invalid="ignore"):
            alive &= ~(((inside / (area[i] + area - inside)).astype(np.float64) > threshold) & (labels == labels[i]))
    return np.array(kept, int)


def random_scene(n, seed, size=100.0):
    """Boxes on a coarse grid and few different scores and labels: overlaps, ties, equal boxes, some without area."""
    rng = np.random.default_rng(seed)
    corner = rng.integers(0, size / 4, (n, 2)) * 4
    boxes = np.concatenate([corner, corner + rng.integers(0, 6, (n, 2)) * 4], axis=1).astype(np.float32)
    return boxes, rng.integers(0, 20, n).astype(np.float32) / 20, rng.integers(0, 3, n), rng.uniform(size=n) < 0.8


@functools.cache
def program(max_outputs, threshold=0.5):
    def run(boxes, scores, labels, valid):
        return nms(boxes, scores, iou_threshold=threshold, max_outputs=max_outputs, labels=labels, valid=valid)

    return jax.jit(run)


def kept(outputs):
    indices, valid = map(np.asarray, outputs)
    assert indices.dtype == np.int32 and (np.diff(valid.astype(int)) <= 0).all() and (indices[~valid] == 0).all()
    return indices[valid]


SMALL, LARGE = 40, 4 * TILE + 88


@pytest.mark.parametrize("n,max_outputs,size", [(SMALL, 60, 40.0), (LARGE, 1000, 400.0), (LARGE, 300, 400.0)])
def test_kept_boxes_and_their_order_equal_the_greedy_loop(n, max_outputs, size):
    """With labels and a mask, many ties, equal boxes and boxes without area; more, and fewer, outputs than kept."""
    for seed in range(8):
        scene = random_scene(n, seed, size)
        with strict():
            outputs = program(max_outputs)(*scene)
        want = oracle(scene[0], scene[1], 0.5, *scene[2:])
        assert max_outputs != 300 or len(want) > 300
        np.testing.assert_array_equal(kept(outputs), want[:max_outputs])


@pytest.mark.parametrize("n", [1, SMALL, LARGE])
def test_without_labels_and_mask(n):
    boxes, scores, *_ = random_scene(n, 0)
    with strict():
        outputs = jax.jit(functools.partial(nms, iou_threshold=0.3, max_outputs=n))(boxes, scores)
    np.testing.assert_array_equal(kept(outputs), oracle(boxes, scores, 0.3))


def test_a_chain_in_which_each_box_suppresses_the_next():
    """The slowest case of the fixed point: one more box is decided in each round."""
    left = np.arange(LARGE, dtype=np.float32) * 10
    boxes = np.stack([left, 0 * left, left + 40, 0 * left + 40], axis=1)
    same, every = np.zeros(LARGE, int), np.ones(LARGE, bool)
    chain = kept(program(1000)(boxes, -left, same, every))
    np.testing.assert_array_equal(chain, np.arange(0, LARGE, 2))


def test_an_overlap_of_exactly_the_threshold_stays():
    boxes = np.tile(np.array([[0, 0, 10, 10]], np.float32), (SMALL, 1))
    boxes[1] = [0, 0, 10, 20]  # IoU 1 / 2 with the first
    boxes[2] = [0, 0, 10, 19]
    scores = np.linspace(1, 0, SMALL, dtype=np.float32)
    same, three = np.zeros(SMALL, int), np.arange(SMALL) < 3
    np.testing.assert_array_equal(kept(program(60)(boxes, scores, same, three)), [0, 1])


@pytest.mark.parametrize("threshold,side,both", [(0.3, 3, False), (0.7, 7, True), (0.6, 6, False), (0.1, 1, False)])
def test_the_threshold_keeps_all_its_digits(threshold, side, both):
    """The float32 nearest to 0.7 lies below 0.7, that nearest to 0.3 above 0.3: so torchvision decides on the CPU."""
    assert (float(np.float32(side) / np.float32(10)) > threshold) is not both
    boxes = jnp.array([[0, 0, 10, 10], [0, 0, side, 10]], jnp.float32)
    run = jax.jit(functools.partial(nms, iou_threshold=threshold, max_outputs=2))
    _, valid = run(boxes, jnp.array([0.9, 0.8]))
    np.testing.assert_array_equal(valid, [True, both])


def test_boxes_without_area_never_suppress_each_other():
    points = np.full((SMALL, 4), 7, np.float32)
    outputs = program(60)(points, np.zeros(SMALL, np.float32), np.zeros(SMALL, int), np.ones(SMALL, bool))
    np.testing.assert_array_equal(kept(outputs), np.arange(SMALL))


def test_lowest_scores_stay_before_padding_and_zeros_of_both_signs_are_ties():
    boxes = np.arange(SMALL, dtype=np.float32)[:, None] * 10 + np.array([0, 0, 5, 5], np.float32)
    scores = np.where(np.arange(SMALL) % 2, 0.0, -0.0).astype(np.float32)
    scores[5], valid = -np.inf, np.arange(SMALL) >= 3
    outputs = program(60)(boxes, scores, np.zeros(SMALL, int), valid)
    np.testing.assert_array_equal(kept(outputs), [3, 4, *range(6, SMALL), 5])


def test_nothing_valid_nothing_given_and_nothing_wanted():
    boxes, scores, labels, _ = random_scene(SMALL, 0)
    assert not program(60)(boxes, scores, labels, np.zeros(SMALL, bool))[1].any()
    for shape, max_outputs in (((0, 4), 5), ((3, 4), 0)):
        indices, valid = nms(jnp.zeros(shape), jnp.zeros(shape[0]), iou_threshold=0.5, max_outputs=max_outputs)
        assert indices.shape == valid.shape == (max_outputs,) and not valid.any()


def test_vmap_equals_image_by_image():
    """Also of images that need different numbers of rounds, one of them without a valid box."""
    scenes = [random_scene(LARGE, seed, size) for seed, size in ((0, 30.0), (1, 400.0), (2, 100.0))]
    scenes[2][3][:] = False
    with strict():
        indices, valid = jax.jit(jax.vmap(program(300)))(*map(np.stack, zip(*scenes, strict=True)))
    for scene, one, row in zip(scenes, indices, valid, strict=True):
        np.testing.assert_array_equal(kept((one, row)), oracle(scene[0], scene[1], 0.5, *scene[2:])[:300])


@pytest.mark.parametrize("check_vma", [False, True])
def test_works_under_shard_map_and_in_a_gradient(check_vma):
    """As in a training step that samples from its own proposals: no gradient, and no error, passes through."""
    mesh = jax.make_mesh((2,), ("batch",), axis_types=(AxisType.Auto,))
    boxes, scores, *_ = map(np.stack, zip(*[random_scene(SMALL, seed) for seed in (0, 1)], strict=True))

    def step(boxes, scores):
        def loss(boxes, scores):
            indices, valid = nms(boxes[0], scores[0], iou_threshold=0.5, max_outputs=20)
            return jnp.where(valid, scores[0][indices], 0.0).sum(), (indices[None], valid[None])

        gradient, outputs = jax.grad(loss, argnums=(0, 1), has_aux=True)(boxes, scores)
        return *outputs, *gradient

    spec = PartitionSpec("batch")
    mapped = jax.shard_map(step, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=check_vma)
    with strict():
        indices, valid, to_boxes, to_scores = jax.jit(mapped)(boxes, scores)
    for i in range(2):
        want = oracle(boxes[i], scores[i], 0.5)[:20]
        np.testing.assert_array_equal(kept((indices[i], valid[i])), want)
        np.testing.assert_array_equal(np.flatnonzero(to_scores[i]), np.sort(want))
    assert not to_boxes.any()


def soft_oracle(boxes, scores, method, labels, valid, threshold=0.3, sigma=0.5, min_score=1e-3):
    """The published loop: (index, score) of each choice."""
    scores, left, chosen = scores.astype(np.float64), np.flatnonzero(valid), []
    while len(left):
        best = left[np.argmax(scores[left])]
        chosen.append((best, scores[best]))
        left = left[left != best]
        size = np.minimum(boxes[best, 2:], boxes[left, 2:]) - np.maximum(boxes[best, :2], boxes[left, :2])
        inside = np.prod(np.maximum(size, 0), axis=1).astype(np.float64)
        union = np.prod(boxes[best, 2:] - boxes[best, :2]) + np.prod(boxes[left, 2:] - boxes[left, :2], axis=1) - inside
        iou = np.where(labels[left] == labels[best], inside / np.maximum(union, 1e-9), 0)
        scores[left] *= np.where(iou >= threshold, 1 - iou, 1) if method == "linear" else np.exp(-(iou**2) / sigma)
        left = left[scores[left] >= min_score]
    return chosen


@pytest.mark.parametrize("method", ["linear", "gaussian"])
def test_soft_nms_equals_the_published_loop(method):
    """Ties of lowered scores may round either way in float32, so the scores here are all different."""

    @jax.jit
    @jax.vmap
    def run(boxes, scores, labels, valid):
        return soft_nms(boxes, scores, max_outputs=SMALL + 5, method=method, labels=labels, valid=valid)

    scenes = [random_scene(SMALL, seed, 40.0) for seed in range(4)]
    scenes = [(boxes, np.random.default_rng(i).uniform(0, 1, SMALL).astype(np.float32), labels, valid)
              for i, (boxes, _, labels, valid) in enumerate(scenes)]  # fmt: skip
    scenes[3][3][:] = False
    with strict():
        indices, lowered, valid = map(np.asarray, run(*map(np.stack, zip(*scenes, strict=True))))
    assert 5 < valid[0].sum() <= scenes[0][3].sum() and not valid[3].any()
    for i, (boxes, scores, labels, given) in enumerate(scenes):
        want = soft_oracle(boxes, scores, method, labels, given)
        np.testing.assert_array_equal(indices[i][valid[i]], [index for index, _ in want])
        np.testing.assert_allclose(lowered[i][valid[i]], [score for _, score in want], rtol=1e-5)
        assert (lowered[i][~valid[i]] == 0).all()


def test_soft_nms_of_little():
    one = jnp.ones((1, 4)), jnp.full(1, 1e-6)
    _, scores, valid = soft_nms(*one, max_outputs=2)
    np.testing.assert_array_equal(valid, [True, False])  # the best is taken, however low
    np.testing.assert_allclose(scores, [1e-6, 0])
    assert not soft_nms(jnp.zeros((0, 4)), jnp.zeros(0), max_outputs=2)[2].any()
    with pytest.raises(ValueError, match="unknown method of soft_nms 'hard'"):
        soft_nms(*one, max_outputs=2, method="hard")


def test_bfloat16_boxes_are_compared_in_float32():
    boxes, scores, *_ = random_scene(SMALL, 3)
    low = jnp.bfloat16
    with strict():
        outputs = jax.jit(functools.partial(nms, iou_threshold=0.5, max_outputs=SMALL))(
            jnp.asarray(boxes, low), jnp.asarray(scores, low)
        )
    np.testing.assert_array_equal(kept(outputs), oracle(boxes, np.asarray(jnp.asarray(scores, low), np.float32), 0.5))


def test_errors_name_what_was_given():
    with pytest.raises(ValueError, match=r"vmap it over images.*got the shapes \[\(2, 3, 4\), \(2, 3\), None, None\]"):
        nms(jnp.zeros((2, 3, 4)), jnp.zeros((2, 3)), iou_threshold=0.5, max_outputs=3)
    with pytest.raises(ValueError, match="max_outputs=-1"):
        nms(jnp.zeros((3, 4)), jnp.zeros(3), iou_threshold=0.5, max_outputs=-1)
