"""Label maps at their original size: on the smallest canvas that holds them, unchanged; and what is wrong is named."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from jaxvision.config.sections import Data as Section
from jaxvision.data import tf_loader
from jaxvision.data.build import build_data
from jaxvision.data.loader import Loader
from jaxvision.data.original import original_canvases
from jaxvision.data.table import Table
from jaxvision.data.tf_loader import TfLoader
from jaxvision.data.transforms import CenterCrop, Letterbox, ResizeSide
from jaxvision.errors import SetupError

SIZES = [(20, 30), (30, 20), (9, 14), (20, 30), (50, 41), (12, 33), (30, 20)]
WIDE, TALL, LARGE = (20, 33), (30, 20), (50, 50)


@pytest.fixture(autouse=True)
def threads(monkeypatch):
    """TensorFlow decodes JPEG files alone; see tests/data/test_tf_loader.py."""
    monkeypatch.setattr(tf_loader, "import_tensorflow", lambda: None)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("maps"), np.random.default_rng(0)
    for i, size in enumerate(SIZES):
        Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(folder / f"{i}.png")
        Image.fromarray(rng.integers(0, 4, size, np.uint8)).save(folder / f"map {i}.png")
    names = {"file": "{}.png", "semantic_file": "map {}.png"}
    columns = {
        key: np.array([str(folder / name.format(i)) for i in range(len(SIZES))], object) for key, name in names.items()
    }
    values = np.array([0, 1, 2, *[255] * 253], np.uint8)
    return Table("maps", tuple("abc"), columns, semantic_values=values)


def make(table, *processes, **options):
    options = {"transforms": (ResizeSide(16, 24),), "eval_buckets": ((16, 24), (24, 16))} | options
    options = {"original_buckets": (LARGE, WIDE, TALL)} | options
    return TfLoader(table, 2, 0, *processes, image_size=(24, 24), workers=2, training=False, **options)


def test_maps_come_as_they_are_on_the_smallest_canvas_that_holds_them(table):
    loader = make(table)
    batches = list(loader.evaluate())
    assert len(batches) == loader.evaluation_steps
    seen = []
    for batch in batches:
        maps = batch["semantic_original"]
        assert maps.dtype == np.uint8 and maps.shape[1:] in (WIDE, TALL, LARGE)
        for row in np.flatnonzero(batch["valid"]):
            index = int(batch["index"][row])
            height, width = SIZES[index]
            assert batch["original_size"][row].tolist() == [height, width]
            np.testing.assert_array_equal(maps[row, :height, :width], table.sample(index)["semantic"])
            assert (maps[row, height:] == 255).all() and (maps[row, :, width:] == 255).all()
            smaller = [c for c in (WIDE, TALL, LARGE) if c[0] * c[1] < maps[row].size]
            assert not any(height <= c[0] and width <= c[1] for c in smaller)
            assert (np.argmax(batch["image"].shape[1:3]) == 0) == (height > width)
            seen.append(index)
    assert sorted(seen) == list(range(len(SIZES)))
    plain = list(make(table, original_buckets=()).evaluate())
    assert not any("semantic_original" in batch for batch in plain)
    assert "semantic_original" not in next(make(table).train())


def test_processes_agree_on_the_canvases(table):
    parts = [list(make(table, i, 2).evaluate()) for i in range(2)]
    for batch, *own in zip(make(table).evaluate(), *parts, strict=True):
        for name in ("semantic_original", "index", "valid"):
            np.testing.assert_array_equal(batch[name], np.concatenate([part[name] for part in own]), name)


def test_an_image_that_no_canvas_holds_is_named_before_evaluation_starts(table):
    with pytest.raises(SetupError) as error:
        _ = make(table, original_buckets=(WIDE, TALL)).evaluation_steps
    assert f"image {table.file(4)!r} is 50 x 41 pixels (height x width)" in str(error.value)
    assert "data.original_buckets (20 x 33, 30 x 20); such are 1 of 7 images: add (50, 41)" in str(error.value)
    with pytest.raises(SetupError, match=r"'1' is 3 x 9 .* 2 of 3 images: add \(8, 9\), which holds all of them"):
        original_canvases([(2, 2), (3, 9), (8, 4)], [(2, 5)], str)
    lying = dataclasses.replace(table, columns={**table.columns, "size": np.full((len(SIZES), 2), 9)})
    with pytest.raises(SetupError, match="is 20 x 30 pixels .height x width. and fits on none"):
        list(make(lying, original_buckets=((9, 9),)).evaluate())


@pytest.mark.parametrize("transform", [CenterCrop((8, 8)), Letterbox()])
def test_a_network_that_does_not_see_the_image_as_it_is_is_refused(table, transform):
    with pytest.raises(SetupError, match=r"network sees the window .* 'resize_side' and 'resize' keep images whole"):
        list(make(table, transforms=(transform,)).evaluate())


def test_mistakes_are_named(table):
    bare = dataclasses.replace(table, columns={"file": table.columns["file"]})
    with pytest.raises(SetupError, match="'maps' has no semantic maps: leave it empty"):
        make(bare)
    with pytest.raises(SetupError, match=r"a canvas is \(0, 5\)"):
        make(table, original_buckets=((0, 5),))


def test_scenes_have_their_maps_at_the_original_size_where_a_config_says_so():
    source = dict(name="digit_scenes", num_examples=6, validation_examples=4, annotations=("semantic",))
    values = dict(source=source, batch_size=2, image_size=(32, 32), channels=3, original_buckets=((40, 48),))
    data = build_data(Section(**values), seed=0)
    assert type(data.train) is Loader and type(data.evaluation) is TfLoader
    batch = next(data.evaluation.evaluate())
    np.testing.assert_array_equal(batch["semantic_original"][:, :32, :32], batch["semantic"])
    assert batch["semantic_original"].shape[1:] == (40, 48) and (batch["semantic_original"][:, 32:] == 255).all()
