"""Transforms that mix neighbours: what the mixtures hold, and that they depend on seed and position alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from jaxvision.augment import (
    CopyPaste,
    CutMix,
    DetectionMixup,
    Mixup,
    MixupCutMix,
    Mosaic,
    Normalize,
    RandomFlip,
    changed_at,
    check_groups,
    pipeline,
)
from jaxvision.augment.pipeline import stacked
from tests.augment import drawing
from tests.conftest import strict

CLASSES = 5
MIXERS = (Mixup(CLASSES), CutMix(CLASSES), MixupCutMix(CLASSES))
SCENES = (
    ((30, 30, 30, 16, 0.5), (62, 50, 18, 26, -0.3)),
    ((45, 40, 40, 30, 0.0),),
    (),
    ((20, 20, 12, 12, 0.2), (60, 20, 12, 12, 0.4), (40, 60, 30, 12, 0.9), (70, 60, 10, 10, 0.0)),
)


def images(n=8, dtype=np.uint8):
    image = np.random.default_rng(0).integers(0, 256, (n, 12, 10, 3), np.uint8)
    return {
        "image": image if dtype == np.uint8 else (image / 255).astype(dtype),
        "label": (np.arange(n) % CLASSES).astype(np.int32),
        "valid": np.ones(n, bool),
        "position": np.arange(40, 40 + n, dtype=np.uint32),
    }


def scenes(repeats=1, rows=8):
    batch = jax.tree.map(np.array, stacked([drawing.scene(objects, rows=rows) for objects in SCENES] * repeats))
    return {**batch, "position": np.arange(len(batch["image"]), dtype=np.uint32)}


def run(transforms, batch, seed=0):
    with strict():
        return jax.device_get(jax.jit(pipeline(transforms))(batch, jax.random.key(seed)))


def at(batch, i):
    return jax.tree.map(lambda x: x[i], batch)


@pytest.mark.parametrize("mixer", MIXERS, ids=lambda t: type(t).__name__)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_every_pixel_and_label_is_the_same_mixture_of_both(mixer, dtype, unoptimized):
    batch = images(64, dtype)
    out = run((mixer,), batch)
    assert out["image"].dtype == dtype and out["label"].dtype == np.float32 and out["label"].shape == (64, CLASSES)
    np.testing.assert_allclose(out["label"].sum(1), 1, atol=1e-6)
    rows = np.eye(CLASSES, dtype=np.float32)[batch["label"]]
    cuts, shares = 0, []
    for i in range(64):
        a, b = (batch["image"][k].astype(np.float64) for k in (i, i ^ 1))
        share = float(out["label"][i] @ rows[i])
        np.testing.assert_allclose(out["label"][i], share * rows[i] + (1 - share) * rows[i ^ 1], atol=1e-5)
        blended = np.abs(out["image"][i] - (share * a + (1 - share) * b)).max() < (0.51 if dtype == np.uint8 else 1e-5)
        other = (out["image"][i] == batch["image"][i ^ 1]).all(-1)
        own = (out["image"][i] == batch["image"][i]).all(-1)
        if not blended:
            cuts += 1
            assert (own | other).all()
            np.testing.assert_allclose(own.mean(), share, atol=1e-6)
            rows_, columns = np.flatnonzero(other.any(1)), np.flatnonzero(other.any(0))
            assert other[rows_[0] : rows_[-1] + 1, columns[0] : columns[-1] + 1].all()
        shares.append(share)
    assert np.std(shares) > 0.1
    np.testing.assert_allclose(shares[::2], shares[1::2], atol=1e-5)  # one share for both of a pair
    expected = {Mixup: (0, 0), CutMix: (40, 64), MixupCutMix: (12, 52)}[type(mixer)]
    assert expected[0] <= cuts <= expected[1]


def test_probability_and_rows_of_labels():
    batch = images(64)
    never = run((MixupCutMix(CLASSES, probability=0.0),), batch)
    np.testing.assert_array_equal(never["image"], batch["image"])
    np.testing.assert_array_equal(never["label"], np.eye(CLASSES)[batch["label"]])
    assert not never["mixed"].any()
    twice = run((Mixup(CLASSES), CutMix(CLASSES, probability=0.5)), batch)
    np.testing.assert_allclose(twice["label"].sum(1), 1, atol=1e-5)
    several = {**batch, "label": np.ones((64, CLASSES), np.float32)}
    np.testing.assert_allclose(run((Mixup(CLASSES),), several)["label"], 1)
    half = run((CutMix(CLASSES, probability=0.5),), batch)
    assert 16 < (half["image"] == batch["image"]).all((1, 2, 3)).sum() < 48


def test_cutmix_stays_in_the_pictures_and_takes_semantic_maps_along(unoptimized):
    batch = {**scenes(), "label": np.arange(4, dtype=np.int32)}
    batch["size"][0] = 40, 50
    del batch["targets"], batch["panoptic"]
    out = run((CutMix(CLASSES),), batch)
    for i in range(4):
        taken = (out["semantic"][i] != batch["semantic"][i]) | (out["image"][i] != batch["image"][i]).any(-1)
        height, width = batch["size"][i ^ 1].astype(int)
        assert not taken[min(height, 80) :].any() and not taken[:, min(width, 90) :].any()
        from_other = (out["image"][i] == batch["image"][i ^ 1]).all(-1)
        assert (from_other[taken]).all()
        assert (out["semantic"][i][taken] == batch["semantic"][i ^ 1][taken]).all()


PIPELINES = {
    "mixup": ((RandomFlip(), MixupCutMix(CLASSES), Normalize()), images(64)),
    "mosaic": ((Mosaic(), RandomFlip()), None),
    "copy_paste": ((CopyPaste(),), None),
}


@pytest.mark.parametrize("name", PIPELINES)
def test_eight_devices_mix_as_one(name, unoptimized):
    transforms, batch = PIPELINES[name]
    if batch is None:
        batch = scenes(8)
        del batch["panoptic"]
    augment, key = pipeline(transforms), jax.random.key(3)
    with strict():
        alone = jax.jit(augment)(batch, key)
        mesh = Mesh(np.array(jax.devices()), ("batch",))
        mapped = jax.shard_map(augment, mesh=mesh, in_specs=(P("batch"), P()), out_specs=P("batch"), check_vma=True)
        assert_same(jax.jit(mapped)(batch, key), alone)


def test_two_devices_under_pmap_mix_as_one(unoptimized):
    (transforms, batch), key = PIPELINES["mixup"], jax.random.key(3)
    augment = pipeline(transforms)
    local = jax.tree.map(lambda x: x.reshape(2, -1, *x.shape[1:]), batch)
    rows = jax.device_get(jax.pmap(augment, in_axes=(0, None))(local, key))
    assert_same(jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), rows), jax.jit(augment)(batch, key))


def assert_same(one, other):
    """Equal but for the last bits, which depend on the shapes that a program is compiled for."""

    def check(a, b):
        a, b = np.asarray(a), np.asarray(b)
        if a.dtype == np.uint8 or not np.issubdtype(a.dtype, np.floating):
            assert (a == b).mean() > 0.9999 or (a.size < 100 and (a == b).all())
        else:
            np.testing.assert_allclose(a, b, atol=1e-4)

    jax.tree.map(check, one, other)


def test_a_batch_that_does_not_divide_into_groups_is_refused():
    batch = images(6)
    with pytest.raises(
        ValueError, match="Mosaic mixes neighbouring samples in groups of 4, but .* has 6 of them; .* 4 or 8"
    ):
        jax.eval_shape(pipeline((Mixup(CLASSES), Mosaic())), batch, jax.random.key(0))
    with pytest.raises(ValueError, match="data.batch_size / 8 has 1 of them; the nearest sizes: 2"):
        check_groups((Mixup(CLASSES),), 1, "data.batch_size / 8")
    check_groups((RandomFlip(),), 1)


def test_transforms_change_at_a_place_in_training_within_one_program(unoptimized):
    """To the same bits as each of the two alone would make; what only the first adds is zero from then on."""

    def noise(sample, key):
        moved = sample["image"] + jax.random.randint(key, (), 0, 256, jnp.int32).astype(jnp.uint8)
        return {**sample, "image": moved, "dropped": jnp.int32(3)}

    before, after = pipeline((noise,)), pipeline((RandomFlip(),))
    key, first = jax.random.key(3), images(8) | {"position": np.arange(8, dtype=np.uint32)}
    second = {**first, "position": first["position"] + np.uint32(8)}
    with strict():
        changing = jax.jit(changed_at(8, before, after))
        one, two = (jax.device_get(changing(batch, key)) for batch in (first, second))
        alone = jax.device_get((jax.jit(before)(first, key), jax.jit(after)(second, key)))
    assert changing._cache_size() == 1
    jax.tree.map(np.testing.assert_array_equal, one, alone[0])
    assert (two.pop("dropped") == 0).all() and (one["dropped"] == 3).all()
    jax.tree.map(np.testing.assert_array_equal, two, alone[1])


def test_eight_devices_change_together(unoptimized):
    before, after = pipeline((Mixup(CLASSES),)), pipeline((Mixup(CLASSES, probability=0.0), RandomFlip()))
    batch, key = images(16), jax.random.key(3)
    mesh = Mesh(np.array(jax.devices()), ("batch",))
    for position in (40, 56):
        change = changed_at(position, before, after)
        mapped = jax.shard_map(change, mesh=mesh, in_specs=(P("batch"), P()), out_specs=P("batch"), check_vma=True)
        assert_same(jax.jit(mapped)(batch, key), jax.jit(before if position == 56 else after)(batch, key))


def test_transforms_that_make_different_arrays_cannot_change():
    change = changed_at(8, pipeline((Mixup(CLASSES),)), pipeline((RandomFlip(),)))
    with pytest.raises(ValueError, match=r"augment makes 'label' float32\[8, 5\], closing_augment int32\[8\]"):
        jax.eval_shape(change, images(8), jax.random.key(0))


def in_order(targets, i):
    """Rows of objects of one sample."""
    return np.flatnonzero(targets.valid[i])


@pytest.mark.parametrize("scale", [(1.0, 1.0), (0.5, 1.5)])
def test_mosaic_places_four_pictures_with_their_objects(scale, unoptimized):
    batch = scenes(2)
    del batch["panoptic"]
    out = run((Mosaic(scale=scale, fill=9),), batch, seed=1)
    assert (out["size"] == drawing.CANVAS).all() and (out["dropped"] == 0).all()
    seen = 0
    for i in range(8):
        sample = at(out, i)
        masks = drawing.unpack(sample["targets"].masks, 96)
        assert not masks[~sample["targets"].valid].any()
        for k in in_order(out["targets"], i):
            seen += 1
            label, mask = sample["targets"].labels[k], masks[k]
            np.testing.assert_allclose(drawing.tight_box(mask), sample["targets"].boxes[k], atol=1.01)
            assert (sample["semantic"][mask] == label).all()
            inner = drawing.eroded(mask, 3)
            assert (sample["image"][inner, 0] == 50 + 50 * label).all()
            x, y, visible = sample["targets"].keypoints[k, 0]
            assert not visible or sample["image"][int(y), int(x), 2] > 200
        drawn = sample["semantic"] % 255 > 0
        assert (masks.any(0) <= drawn).all()
    assert seen > 20


def test_mosaic_keeps_the_largest_and_counts_the_rest(unoptimized):
    objects = tuple((10 + 17 * i, 20 + 20 * j, 6 + i, 6 + j, 0.0) for i in range(5) for j in range(1))
    sample = drawing.scene(objects[:4], rows=5)
    batch = jax.device_get(stacked([sample] * 4)) | {"position": np.arange(4, dtype=np.uint32)}
    for key in ("panoptic", "semantic"):
        del batch[key]
    out = run((Mosaic(center=(0.5, 0.5), scale=(0.5, 0.5)),), batch)
    assert (out["dropped"] > 5).all() and out["targets"].valid.all()
    sides = out["targets"].boxes[..., 2] - out["targets"].boxes[..., 0]
    assert (np.diff(sides, axis=1) <= 0).all() and sides.min() >= 4  # four of the widest, then the next


def test_a_mosaic_result_knows_where_its_own_picture_went(unoptimized):
    batch = scenes()
    del batch["panoptic"], batch["semantic"]
    out = run((Mosaic(center=(0.5, 0.5), scale=(0.5, 0.5)),), batch)
    for i in (0, 1, 3):
        own = np.asarray(batch["targets"].keypoints[i, 1, 0, :2])
        expected = batch["to_original"][i] @ [*own, 1]
        inverse = np.linalg.inv(out["to_original"][i])
        place = (inverse @ expected)[:2]
        points = out["targets"].keypoints[i, :, 0, :2]
        assert np.linalg.norm(points - place, axis=1).min() < 1e-2
    never = run((Mosaic(probability=0.0),), batch)
    jax.tree.map(np.testing.assert_array_equal, {k: v for k, v in never.items() if k != "dropped"}, batch)


def test_detection_mixup_has_the_objects_of_both(unoptimized):
    batch = scenes()
    del batch["panoptic"], batch["semantic"]
    out = run((DetectionMixup(),), batch)
    a, b = batch["image"][0].astype(float), batch["image"][1]
    np.testing.assert_allclose(out["image"][0], (a + b) / 2, atol=0.51)
    counts = batch["targets"].valid.sum(1)
    np.testing.assert_array_equal(
        out["targets"].valid.sum(1), [counts[0] + counts[1]] * 2 + [counts[2] + counts[3]] * 2
    )
    np.testing.assert_array_equal(out["dropped"], 0)
    found = {tuple(box) for box in out["targets"].boxes[0][out["targets"].valid[0]]}
    assert found == {tuple(box) for i in (0, 1) for box in batch["targets"].boxes[i][batch["targets"].valid[i]]}
    batch = scenes(rows=5)
    del batch["panoptic"], batch["semantic"]
    crowded = {**batch, **at({"targets": batch["targets"], "image": batch["image"]}, np.array([3, 3, 3, 3]))}
    assert (run((DetectionMixup(),), crowded)["dropped"] == 3).all()


def test_copy_paste_pastes_pixels_masks_and_classes(unoptimized):
    batch = scenes(4)
    del batch["panoptic"]
    out = run((CopyPaste(min_area_ratio=0.0),), batch)
    pasted = hidden = 0
    for i in range(16):
        before, other, sample = at(batch, i), at(batch, i ^ 1), at(out, i)
        drawing.assert_consistent({**sample, "panoptic": sample["semantic"]})
        masks = drawing.unpack(sample["targets"].masks, 96)
        assert (masks.sum(0) <= 1).all()
        changed = (sample["image"] != before["image"]).any(-1)
        assert (sample["image"][changed] == other["image"][changed]).all()
        assert (masks.any(0) | ~changed).all()
        assert ((sample["semantic"] % 255 > 0) == masks.any(0)).all()
        old = {tuple(box) for box in before["targets"].boxes[before["targets"].valid]}
        new = {tuple(box) for box in sample["targets"].boxes[sample["targets"].valid]}
        theirs = {tuple(box) for box in other["targets"].boxes[other["targets"].valid]}
        pasted += len(new & theirs - old)
        hidden += len(old - new)
    assert pasted >= 4 and hidden >= 2


def test_copy_paste_hides_keypoints_and_drops_what_is_covered(unoptimized):
    below = drawing.scene(((40, 40, 20, 20, 0.0), (75, 15, 8, 8, 0.0)))
    above = drawing.scene(((40, 40, 18, 30, 0.0),))
    batch = jax.device_get(stacked([below, above])) | {"position": np.arange(2, dtype=np.uint32)}
    del batch["panoptic"]
    out = at(run((CopyPaste(probability=1.0, min_area_ratio=0.02),), batch), 0)
    assert out["targets"].valid.sum() == 3
    row = int(np.flatnonzero(out["targets"].keypoints[:, 0, 2] == 1)[0])
    np.testing.assert_array_equal(out["targets"].boxes[row], [30, 30, 50, 50])  # a rim on both sides is left
    np.testing.assert_allclose(
        out["targets"].area[row], 400 * drawing.unpack(out["targets"].masks, 96)[row].sum() / 400
    )
    gone = at(run((CopyPaste(probability=1.0, min_area_ratio=0.2),), batch), 0)
    assert gone["targets"].valid.sum() == 2


def test_copy_paste_pastes_no_more_than_there_are_rows_for(unoptimized):
    full = drawing.scene(((20, 20, 12, 12, 0.2), (60, 20, 12, 12, 0.4), (40, 60, 30, 12, 0.9), (70, 60, 10, 10, 0.0)))
    other = drawing.scene(((20, 60, 8, 8, 0.0), (10, 40, 8, 8, 0.0), (80, 40, 8, 8, 0.0)))
    batch = jax.device_get(stacked([full, other])) | {"position": np.arange(2, dtype=np.uint32)}
    del batch["panoptic"]
    out = at(run((CopyPaste(probability=1.0),), batch), 0)
    assert out["targets"].valid.all()
    drawing.assert_consistent({**out, "panoptic": out["semantic"]})


def test_samples_that_cannot_be_mixed_are_refused():
    batch, plain = scenes(), images()
    boxes_only = {**batch, "targets": batch["targets"].replace(masks=None)}
    for transform, samples, message in (
        (Mixup(CLASSES), batch, "the samples have targets: use detection_mixup"),
        (Mixup(CLASSES), {"semantic": plain["image"][..., 0]} | plain, "use cutmix"),
        (CutMix(3), {**plain, "label": np.ones((8, 5), np.float32)}, "labels of 5 classes for num_classes=3"),
        (Mosaic(), batch, "cannot merge panoptic"),
        (Mosaic(), plain, "needs samples with targets or a semantic map"),
        (DetectionMixup(), plain, "needs samples with targets"),
        (CopyPaste(), batch, "cannot merge panoptic"),
        (CopyPaste(), {k: v for k, v in boxes_only.items() if k != "panoptic"}, "needs samples with instance masks"),
    ):
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(pipeline((transform,)), samples, jax.random.key(0))
    for make, message in (
        (lambda: Mixup(0), "num_classes is 0"),
        (lambda: Mixup(3, alpha=0.0), "alpha is 0.0"),
        (lambda: CutMix(3, probability=2.0), "probability is 2.0"),
        (lambda: MixupCutMix(3, switch_probability=-1.0), "switch_probability is"),
        (lambda: Mosaic((0.8, 0.2)), "center is"),
        (lambda: Mosaic(scale=(0.0, 1.0)), "scale is"),
        (lambda: DetectionMixup(share=2.0), "share is 2.0"),
        (lambda: CopyPaste(-0.1), "probability is"),
    ):
        with pytest.raises(ValueError, match=message):
            make()


def test_mixing_works_where_there_is_nothing_to_mix(unoptimized):
    empty = jax.device_get(stacked([drawing.scene(())] * 4)) | {"position": np.arange(4, dtype=np.uint32)}
    padding = {**empty, "size": np.zeros((4, 2), np.float32)}
    for batch in (empty, padding):
        del batch["panoptic"]
        for transform in (Mosaic(), CopyPaste()):
            out = run((transform,), batch)
            assert not out["targets"].valid.any()
            assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(out))
