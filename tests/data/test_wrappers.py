"""Parts, repetitions and unions of tables, alone and from a config."""

import numpy as np
import pytest

from jaxvision import config, registry
from jaxvision.data import wrappers
from jaxvision.data.samples import IGNORED, SampleSource
from jaxvision.data.sources.coco import coco
from jaxvision.data.sources.image_folder import image_folder
from jaxvision.data.table import Ragged, Table
from jaxvision.errors import SetupError
from tests.data import writers


def labelled(counts, name="set", names="abcdefg"):
    labels = np.repeat(np.arange(len(counts)), counts).astype(np.int32)
    files = np.array([f"{name}/{i}.png" for i in range(len(labels))], object)
    return Table(name, tuple(names[: len(counts)]), {"file": files, "label": labels})


def with_objects(rows, names=("a", "b"), name="set", **columns):
    """`rows`: classes of the objects of each image."""
    files = np.array([f"{name}/{i}.png" for i in range(len(rows))], object)
    boxes = Ragged.of([[(0, 0, 2, 3 + label) for label in row] for row in rows], np.float32, (4,))
    return Table(name, tuple(names), {"file": files, "boxes": boxes, "labels": Ragged.of(rows, np.int32)} | columns)


def files(table):
    return table.columns["file"].tolist()


# k_fold and subset


@pytest.mark.parametrize("seed", [0, 7])
def test_every_sample_is_in_one_fold_and_classes_are_spread_evenly(seed):
    table = labelled([13, 5, 22])
    parts = [wrappers.k_fold(table, 4, fold, seed, split="validation") for fold in range(4)]
    assert sorted(file for part in parts for file in files(part)) == sorted(files(table))
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1
    counts = np.array([np.bincount(part.columns["label"], minlength=3) for part in parts])
    assert (counts.max(0) - counts.min(0) <= 1).all()
    train = wrappers.k_fold(table, 4, 2, seed, split="train")
    assert not set(files(train)) & set(files(parts[2])) and len(train) + len(parts[2]) == 40


def test_folds_depend_on_the_seed_and_on_nothing_else():
    table = labelled([30, 10])
    one, again, other = (files(wrappers.k_fold(table, 5, 1, seed, split="validation")) for seed in (3, 3, 4))
    assert one == again != other
    assert files(wrappers.holdout(labelled([10]), "validation")) == ["set/0.png", "set/5.png"]


def test_tables_without_labels_are_divided_too():
    table = with_objects([[0]] * 11)
    assert [len(wrappers.k_fold(table, 3, fold, split="validation")) for fold in range(3)] == [4, 4, 3]


@pytest.mark.parametrize("folds,fold", [(1, 0), (3, 3), (3, -1), (50, 0)])
def test_folds_that_cannot_be_are_errors(folds, fold):
    with pytest.raises(SetupError, match="k_fold: "):
        wrappers.k_fold(labelled([9]), folds, fold, split="train")


def test_a_larger_subset_holds_the_smaller_one_and_validation_stays_whole():
    table = labelled([20, 20])
    few, more = (set(files(wrappers.subset(table, count, split="train"))) for count in (5, 9))
    assert len(few) == 5 and few < more
    assert wrappers.subset(table, 5, split="validation") is table
    assert len(wrappers.subset(table, 5, 3, split="validation")) == 3
    with pytest.raises(SetupError, match="41 of the 40 samples"):
        wrappers.subset(table, 41, split="train")


# repeat and class_balanced


def test_repetition_is_of_the_training_part():
    table = labelled([2])
    assert files(wrappers.repeat(table, 3)) == files(table) * 3
    assert wrappers.repeat(table, 3, split="validation") is table
    with pytest.raises(SetupError, match="times is 0"):
        wrappers.repeat(table, 0)


def test_classes_of_labelled_images_become_equally_frequent():
    table = labelled([7, 3, 20])
    balanced = wrappers.class_balanced(table, seed=5)
    assert np.bincount(balanced.columns["label"]).tolist() == [20, 20, 20]
    seen = {file: files(balanced).count(file) for file in files(table)}
    assert set(list(seen.values())[:7]) == {2, 3} and set(list(seen.values())[7:10]) == {6, 7}
    assert files(balanced) == files(wrappers.class_balanced(table, seed=5))
    assert wrappers.class_balanced(table, split="validation") is table


def test_repeat_factors_are_those_of_lvis():
    rows = [[0, 0], [0, 1], [0], [0], []] * 20
    table = with_objects(rows)
    # 80% of the images have class 0, 20% class 1.
    factors = wrappers.repeat_factors(table.columns["labels"], 0.45)
    np.testing.assert_allclose(factors, [1, np.sqrt(0.45 / 0.2), 1, 1, 1] * 20)
    balanced = wrappers.class_balanced(table, threshold=0.45)
    counts = np.array([files(balanced).count(file) for file in files(table)]).reshape(20, 5)
    assert (np.delete(counts, 1, axis=1) == 1).all() and set(counts[:, 1]) == {1, 2}
    assert abs(counts[:, 1].mean() - 1.5) < 0.3


def test_what_cannot_be_balanced_is_an_error():
    bare = Table("bare", (), {"file": np.array(["a"], object)})
    with pytest.raises(SetupError, match="'bare' has neither one label per image nor objects; it has no annotations"):
        wrappers.class_balanced(bare)
    with pytest.raises(SetupError, match="threshold is 0"):
        wrappers.class_balanced(labelled([1]), threshold=0)


# concatenate


def test_classes_are_united_by_name():
    first = with_objects([[0, 1], []], ("dog", "cat"), "one")
    crowd = Ragged.of([[True]], bool)
    second = with_objects([[1]], ("bird", "dog"), "two", crowd=crowd)
    both = wrappers.concatenate((first, second))
    assert both.class_names == ("dog", "cat", "bird") and len(both) == 3 and both.name == "one + two"
    assert [both.row(i)["labels"].tolist() for i in range(3)] == [[0, 1], [], [0]]
    assert both.row(2)["crowd"].tolist() == [True] and both.row(0)["area"].tolist() == [6, 8]
    assert both.columns["id"].tolist() == ["0/0", "0/1", "1/0"] and isinstance(both, SampleSource)


def test_labels_of_images_and_ids_that_differ_are_kept():
    tables = [labelled([1, 1], "one"), labelled([2, 1], "two", "cb")]
    for number, table in enumerate(tables):
        table.columns["id"] = np.arange(len(table)) + 10 * number
    both = wrappers.concatenate(tables)
    assert both.columns["label"].tolist() == [0, 1, 2, 2, 1] and both.columns["id"].tolist() == [0, 1, 10, 11, 12]
    rows = np.eye(2, dtype=np.float32)
    several = [Table(n, tuple(n), {"file": np.array(["x", "y"], object), "label": rows}) for n in ("ab", "ca")]
    assert wrappers.concatenate(several).columns["label"].tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0]]


def test_label_maps_keep_their_classes(tmp_path):
    def table(name, names, values):
        writers.image(tmp_path / f"{name}.png", (1, 3))
        writers.label_map(tmp_path / f"{name}_map.png", [[0, 5, 9]])
        own = {"file": [str(tmp_path / f"{name}.png")], "semantic_file": [str(tmp_path / f"{name}_map.png")]}
        table_of_values = np.full(256, IGNORED, np.uint8)
        table_of_values[[0, 5]] = values
        columns = {key: np.array(value, object) for key, value in own.items()}
        return Table(name, names, columns, semantic_values=table_of_values)

    both = wrappers.concatenate((table("one", ("road", "sky"), [0, 1]), table("two", ("sky", "tree"), [1, 0])))
    both = wrappers.concatenate((both, table("three", ("road", "sky"), [0, 1])))
    assert both.class_names == ("road", "sky", "tree") and both.annotations == ("semantic",)
    assert [both.sample(i)["semantic"].tolist() for i in range(3)] == [[[0, 1, 255]], [[2, 1, 255]], [[0, 1, 255]]]
    assert both.take(np.array([1])).sample(0)["semantic"].tolist() == [[2, 1, 255]]


def test_records_are_read_from_the_right_table(tmp_path):
    encoded = [writers.image(tmp_path / f"{i}.png", (2, 2 + i)).read_bytes() for i in range(4)]
    tables = []
    for part in ((0, 1), (2, 3)):
        columns = {"file": np.array(list("ab"), object), "label": np.zeros(2, np.int32)}
        tables.append(Table("t", ("x",), columns, read=lambda i, part=part: encoded[part[i]]))
    both = wrappers.concatenate(tables)
    assert [both.encoded(i) for i in range(4)] == encoded
    assert both.take(np.array([3, 0])).sample(0)["image"].shape == (2, 5, 3)


def test_tables_that_do_not_go_together_are_an_error():
    with pytest.raises(SetupError, match=r"'one' has annotations \['label'\], 'set' has \['area', 'boxes'"):
        wrappers.concatenate((labelled([1], "one"), with_objects([[0]])))
    with pytest.raises(SetupError, match="expected at least one source"):
        wrappers.concatenate(())


def test_coco_files_with_masks_go_together(tmp_path):
    parts = [coco(*writers.coco(tmp_path / str(i), images=6), masks=True, split="train") for i in range(2)]
    both = wrappers.concatenate(parts)
    assert len(both) == 2 * len(parts[0]) and both.class_names == ("cat", "dog")
    for i in range(len(both)):
        one = parts[i // len(parts[0])].sample(i % len(parts[0]))
        assert (both.sample(i)["masks"] == one["masks"]).all() and (both.sample(i)["image"] == one["image"]).all()


# From a config


@pytest.fixture
def flowers(tmp_path):
    for kind, count in (("rose", 8), ("tulip", 4)):
        for i in range(count):
            writers.image(tmp_path / "set" / "train" / kind / f"{i}.png", (2, 2))
            writers.image(tmp_path / "set" / "val" / kind / f"v{i}.png", (2, 2))
    return dict(name="image_folder", path=str(tmp_path / "set"))


def test_a_config_nests_sources(flowers):
    def build(spec, split):
        return config.build("source", spec, split=split)

    folds = dict(name="k_fold", folds=3, fold=1, source=flowers)
    assert [len(build(folds, split)) for split in ("train", "validation")] == [8, 4]
    assert not any("/val/" in file for file in files(build(folds, "validation")))
    union = dict(name="concatenate", sources=(flowers, dict(name="repeat", times=2, source=flowers)))
    assert [len(build(union, split)) for split in ("train", "validation")] == [36, 24]
    balanced = dict(name="class_balanced", source=folds)
    assert np.bincount(build(balanced, "train").columns["label"]).tolist() == [5, 5]


def test_nested_sources_are_completed_checked_and_overridable(flowers):
    spec = config.complete(
        dict(
            task="classification",
            model=dict(name="linear", num_classes=2),
            data=dict(source=dict(name="concatenate", sources=(flowers, flowers)), image_size=(8, 8)),
            schedule=dict(epochs=1, optimizer="sgd", learning_rate=dict(name="constant", value=0.1)),
        )
    )
    assert spec.data.source.sources[1].train == "train" and spec.data.source.sources[0].name == "image_folder"
    with pytest.raises(config.ConfigError, match=r"sources\[1\].*: unknown source 'image_floder': did you mean"):
        config.build("source", dict(name="concatenate", sources=(flowers, "image_floder")), split="train")
    with pytest.raises(config.ConfigError, match="a source|expected"):
        config.build("source", dict(name="concatenate", sources=(3,)), split="train")


def test_a_parameter_named_after_several_of_a_kind_is_a_tuple_of_slots():
    assert registry.slot_kind("sources") == ("source", True) and registry.slot_kind("source") == ("source", False)
    assert registry.slot_kind("folds") is None and registry.slot_kind("s") is None


def test_the_folder_source_is_a_sample_source(flowers):
    assert isinstance(image_folder(flowers["path"], split="train"), SampleSource)
