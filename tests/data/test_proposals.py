"""Proposals that come with the data: files, made-up ones, and that they move with the image as its boxes do."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.augment.flip import RandomFlip
from jaxvision.augment.geometry import move_sample
from jaxvision.augment.instances import Keep
from jaxvision.augment.mosaic import Mosaic
from jaxvision.data.collate import collate
from jaxvision.data.prepare import prepare
from jaxvision.data.proposals import random_proposals, read_proposals, with_proposals, write_proposals
from jaxvision.data.samples import SampleSource
from jaxvision.data.sources.digit_scenes import DigitScenes
from jaxvision.data.table import Ragged, Table
from jaxvision.data.transforms import RandomResizedCrop
from jaxvision.errors import SetupError
from tests.conftest import strict

BOXES = np.array([[0, 0, 4, 4], [2, 3, 9, 8], [1, 1, 2, 5]], np.float32)
SCORES = np.array([0.2, 0.9, 0.2], np.float32)


def table(ids=(7, 9)):
    files = np.array([f"{own}.png" for own in ids], object)
    boxes = Ragged.of([[(0, 0, 2, 3)]] * len(ids), np.float32, (4,))
    return Table("set", ("a",), {"file": files, "id": np.array(ids), "boxes": boxes})


def scenes(count=3, **options):
    settings = {"num_examples": count, "validation_examples": count, "split": "train", "image_size": (48, 64)}
    return DigitScenes(**{**settings, "channels": 3, **options})


def test_a_table_gets_the_best_proposals_of_its_images_from_either_kind_of_file(tmp_path):
    written = write_proposals(tmp_path / "a.npz", [(9, BOXES, SCORES), (7, BOXES[:0], SCORES[:0])])
    assert written == 3
    results = [
        {"image_id": own, "category_id": 1, "bbox": [*box[:2].tolist(), *(box[2:] - box[:2]).tolist()], "score": s}
        for own in (9, 7)
        for box, s in zip(BOXES, SCORES.tolist(), strict=True)
    ]
    (tmp_path / "a.json").write_text(json.dumps(results))
    for name, empty in (("a.npz", True), ("a.json", False)):
        path = str(tmp_path / name)
        joined = with_proposals(table(), path, path, count=2, eval_count=5, split="train")
        assert joined.annotations == ("boxes", "proposals")
        expected = BOXES[[1, 0]]  # the earlier of equals
        np.testing.assert_array_equal(joined.annotation(1, (9, 9))["proposals"], expected)
        np.testing.assert_array_equal(joined.annotation(0, (9, 9))["proposals"], 0 * expected if empty else expected)
        more = with_proposals(table(), path, path, count=2, eval_count=5, split="validation")
        assert more.annotation(1, (9, 9))["proposals"].shape == (5, 4)
        assert not more.annotation(1, (9, 9))["proposals"][3:].any(), "zeros fill up"
        np.testing.assert_array_equal(joined.take([1, 1]).annotation(1, (9, 9))["proposals"], expected)


def test_files_that_cannot_be_used_are_refused(tmp_path):
    path = str(tmp_path / "a.npz")
    write_proposals(path, [(7, BOXES, SCORES)])
    with pytest.raises(SetupError, match="no proposals for 1 of the 2 images of set, such as 9"):
        with_proposals(table(), path, path, split="train")
    with pytest.raises(SetupError, match="no such file of proposals"):
        read_proposals(tmp_path / "b.npz")
    with pytest.raises(SetupError, match=r"\.npz file, not to"):
        write_proposals(tmp_path / "a.json", [])
    (tmp_path / "bad.json").write_text('{"detections": []}')
    (tmp_path / "bad.npz").write_bytes(b"PK nothing")
    np.savez(tmp_path / "pickled.npz", id=np.array([{}], object))
    for name in ("bad.json", "bad.npz", "pickled.npz"):
        with pytest.raises(SetupError, match="is no file of proposals"):
            read_proposals(tmp_path / name)
    with pytest.raises(SetupError, match="0 proposals"):
        random_proposals(scenes(), count=0, split="train")
    with pytest.raises(SetupError, match="expected images with boxes"):
        random_proposals(scenes(annotations=("label",)), split="train")


def test_sources_that_are_no_tables_are_read_with_their_proposals(tmp_path):
    path = str(tmp_path / "a.npz")
    write_proposals(path, [(own, BOXES + own, SCORES) for own in range(2)])
    joined = with_proposals(scenes(), path, path, count=2, split="train")
    assert isinstance(joined, SampleSource) and len(joined) == 3 and joined.annotations[-1] == "proposals"
    np.testing.assert_array_equal(joined.sample(1)["proposals"], BOXES[[1, 0]] + 1)
    with pytest.raises(SetupError, match="no proposals for image 2"):
        joined.sample(2)


def test_made_up_proposals_are_a_function_of_the_seed_and_half_of_them_lie_near_objects():
    made = random_proposals(scenes(), count=40, split="train")
    for index in range(3):
        sample = made.sample(index)
        found, truth = sample["proposals"], sample["boxes"]
        np.testing.assert_array_equal(found, made.sample(index)["proposals"])
        assert found.shape == (40, 4) and found.dtype == np.float32
        assert (found >= 0).all() and (found <= [64, 48, 64, 48]).all() and (found[:, 2:] > found[:, :2]).all()
        low, high = np.maximum(found[:, None, :2], truth[:, :2]), np.minimum(found[:, None, 2:], truth[:, 2:])
        common = np.maximum(high - low, 0).prod(-1)
        areas = [(x[:, 2:] - x[:, :2]).prod(-1) for x in (found, truth)]
        best = (common / (areas[0][:, None] + areas[1] - common)).max(1)
        assert (best > 0.2).sum() >= 15 and (best < 0.2).sum() >= 5
    other = random_proposals(scenes(), count=40, seed=1, split="train")
    validation = random_proposals(scenes(), count=40, split="validation")
    for one in (other.sample(0), validation.sample(0), made.sample(1)):
        assert (one["proposals"] != made.sample(0)["proposals"]).any()


def test_on_the_host_proposals_move_as_boxes_do_and_those_out_of_sight_are_padding():
    image = np.zeros((40, 60, 3), np.uint8)
    boxes = np.array([[2, 3, 30, 20], [40, 25, 58, 39], [0, 0, 1, 1]], np.float32)
    annotations = {"boxes": boxes, "labels": np.zeros(3, np.int32), "proposals": np.pad(boxes, ((0, 1), (0, 0)))}
    seen = 0
    for seed in range(8):
        rng = np.random.default_rng(seed)
        crop = RandomResizedCrop(scale=(0.2, 0.5))
        sample = prepare(image, annotations, (crop,), rng, canvas=(32, 32))
        batch = collate([sample])
        valid = batch["proposals"].valid[0]
        np.testing.assert_array_equal(valid[:3], (sample["boxes"][:, 2:] > sample["boxes"][:, :2]).all(1))
        assert not valid[3] and not batch["proposals"].boxes[0][~valid].any()
        np.testing.assert_array_equal(batch["proposals"].boxes[0, :3][valid[:3]], sample["boxes"][valid[:3]])
        seen += valid.sum()
    assert 0 < seen < 24


def test_on_the_device_proposals_move_as_boxes_do():
    source = random_proposals(scenes(1), count=6, split="train")
    batch = collate([source.sample(0)], max_instances=6)
    sample = jax.tree.map(lambda x: jnp.asarray(x[0]), batch)
    found = sample["proposals"].replace(valid=sample["proposals"].valid.at[-1].set(False))
    targets = sample["targets"].replace(boxes=found.boxes, valid=found.valid)
    sample |= {"proposals": found, "targets": targets}
    matrix = jnp.asarray([[0.9, -0.4, 3], [0.4, 0.9, -20], [0, 0, 1]], jnp.float32)
    keep = Keep(min_area_ratio=0.0, min_size=0.0)
    with strict():
        results = [RandomFlip(1.0)(sample, jax.random.key(0)), move_sample(sample, matrix, keep)]
        results.append(RandomFlip(1.0, direction="vertical")(sample, jax.random.key(0)))
    for moved in results:
        np.testing.assert_array_equal(moved["proposals"].valid, moved["targets"].valid)
        np.testing.assert_allclose(moved["proposals"].boxes, moved["targets"].boxes, atol=1e-5)
        assert not moved["proposals"].valid[-1] and moved["proposals"].valid.any()
        assert (moved["proposals"].boxes[:-1] != found.boxes[:-1]).any()
    with pytest.raises(ValueError, match="mosaic cannot merge proposals"):
        Mosaic().mix(jax.tree.map(lambda x: jnp.stack([x] * 4), sample), jax.random.key(0))
