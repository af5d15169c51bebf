"""In-memory sources: what they hold, and what they say about bad files."""

import gzip
import hashlib
import struct
import subprocess
import sys

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from jaxvision.data.images import fit_images
from jaxvision.data.sources import Digits, Idx, InMemory, Npz, Source, Synthetic

SIZE = {"image_size": (8, 8), "channels": 1}


def everything(source) -> dict[str, np.ndarray]:
    return source.gather(np.arange(len(source)))


# Digits


def test_digits_are_split_once_into_1438_and_359_stratified_by_class():
    train, validation = (Digits(split=split, **SIZE) for split in ("train", "validation"))
    assert (len(train), len(validation)) == (1438, 359)
    counts = [np.bincount(everything(source)["label"], minlength=10) for source in (train, validation)]
    np.testing.assert_array_equal(counts[0] + counts[1], np.bincount(load_digits().target))
    assert counts[1].min() >= 35 and counts[1].max() <= 37
    together = np.concatenate([everything(source)["image"].reshape(-1, 64) for source in (train, validation)])
    original = np.round(load_digits().images.reshape(-1, 64) * 255 / 16).astype(np.uint8)
    assert sorted(map(bytes, together)) == sorted(map(bytes, original))


def test_the_digits_split_never_changes():
    samples = everything(Digits(split="validation", **SIZE))
    digest = hashlib.sha256(samples["image"].tobytes() + samples["label"].tobytes()).hexdigest()
    assert digest == "f609f1e0413ae6963576a37215be43a5435bdd0a318d33b5f0ba323fb0889595"


def test_digits_need_no_tensorflow():
    code = (
        "import sys; from jaxvision.data.sources import Digits; import jaxvision.data.build, jaxvision.augment;"
        "Digits(split='train', image_size=(8, 8), channels=1);"
        "assert not {'tensorflow', 'tensorflow_datasets'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_images_arrive_at_the_asked_size_and_channels():
    source = Digits(split="validation", image_size=(12, 10), channels=3)
    assert isinstance(source, Source) and source.image_shape == (12, 10, 3)
    assert source.num_classes == 10 and source.class_names == tuple("0123456789") and not source.multi_label
    samples = source.gather(np.array([5, 5, 0]))
    assert samples["image"].shape == (3, 12, 10, 3) and samples["image"].dtype == np.uint8
    assert samples["label"].shape == (3,) and samples["label"].dtype == np.int32
    original = Digits(split="validation", **SIZE).gather(np.array([5, 5, 0]))["image"]
    np.testing.assert_array_equal(samples["image"], fit_images(original, (12, 10), 3))


def test_gathered_arrays_are_new():
    source = Digits(split="validation", **SIZE)
    rows = np.arange(4)
    first = source.gather(rows)
    first["image"][:] = 7
    first["label"][:] = 7
    second = source.gather(rows)
    assert not (second["image"] == 7).all() and not (second["label"] == 7).all()


def test_an_unknown_split_is_refused():
    for source in (Digits, Synthetic):
        with pytest.raises(ValueError, match=r"unknown split 'test'.*'train', 'validation'"):
            source(split="test", **SIZE)


# Labels


def memory(labels, names=("a", "b")):
    return InMemory(np.zeros((len(labels), 4, 4), np.uint8), labels, names, name="x", image_size=(4, 4), channels=1)


def test_labels_are_checked():
    assert everything(memory(np.array([0, 1], np.uint8)))["label"].dtype == np.int32
    several = memory(np.array([[0, 1], [1, 1]], np.int64))
    assert several.multi_label and everything(several)["label"].dtype == np.float32
    for labels, message in (
        (np.array([0, 2]), r"lie in 0\.\.2; expected 0\.\.1"),
        (np.array([-1, 1]), r"lie in -1\.\.1"),
        (np.array([0.0, 1.0]), "float64"),
        (np.array([[0, 1, 0]]), "3 columns for 2 classes"),
        (np.array([[0, 2]]), "must be 0 or 1"),
        (np.zeros(0, int), "no image"),
    ):
        with pytest.raises(ValueError, match=message):
            memory(labels)
    with pytest.raises(ValueError, match="3 images but 2 labels"):
        InMemory(np.zeros((3, 4, 4), np.uint8), np.zeros(2, int), "ab", name="x", image_size=(4, 4), channels=1)


# IDX


def idx_bytes(array: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


IDX_IMAGES = np.arange(3 * 4 * 5, dtype=np.uint8).reshape(3, 4, 5)
IDX_LABELS = np.array([2, 0, 1], np.uint8)


@pytest.fixture
def idx_folder(tmp_path):
    for prefix in ("train", "t10k"):
        (tmp_path / f"{prefix}-images-idx3-ubyte").write_bytes(idx_bytes(IDX_IMAGES))
        (tmp_path / f"{prefix}-labels-idx1-ubyte").write_bytes(idx_bytes(IDX_LABELS))
    return tmp_path


@pytest.mark.parametrize("form", ["plain", "gzip", "dotted"])
def test_idx_files_are_read_plain_and_compressed(idx_folder, form):
    for path in list(idx_folder.iterdir()):
        if form == "gzip":
            path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
            path.unlink()
        elif form == "dotted":
            path.rename(path.with_name(path.name.replace("-idx", ".idx")))
    for split in ("train", "validation"):
        source = Idx(str(idx_folder), split=split, image_size=(4, 5), channels=1)
        samples = everything(source)
        np.testing.assert_array_equal(samples["image"][..., 0], IDX_IMAGES)
        np.testing.assert_array_equal(samples["label"], IDX_LABELS)
        assert source.num_classes == 3


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "not an IDX file"),
        (b"\x89PNG", "89 50 4e 47"),
        (idx_bytes(IDX_LABELS), "1 dimensions; expected 0x08 .* with 3"),
        (struct.pack(">BBBB", 0, 0, 0x0D, 3), "type 0x0d"),
        (idx_bytes(IDX_IMAGES)[:9], "inside its header"),
        (idx_bytes(IDX_IMAGES)[:-1], r"75 bytes, but its header \[3, 4, 5\] asks for 76"),
        (idx_bytes(IDX_IMAGES) + b"x", "77 bytes"),
        (struct.pack(">BBBB3I", 0, 0, 8, 3, 2**32 - 1, 2**32 - 1, 2**32 - 1), "asks for"),
    ],
)
def test_bad_idx_files_are_named(idx_folder, content, message):
    (idx_folder / "train-images-idx3-ubyte").write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        Idx(str(idx_folder), split="train", **SIZE)
    assert "train-images-idx3-ubyte" in str(error.value)


def test_bad_idx_folders_and_archives_are_named(idx_folder):
    with pytest.raises(ValueError, match="is not a directory"):
        Idx(str(idx_folder / "nothing"), split="train", **SIZE)
    path = idx_folder / "train-images-idx3-ubyte"
    path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes())[:-9])
    path.unlink()
    with pytest.raises(ValueError, match="cannot be unpacked as gzip"):
        Idx(str(idx_folder), split="train", **SIZE)
    path.with_name(path.name + ".gz").unlink()
    with pytest.raises(ValueError, match=r"no train-images-idx3-ubyte.*t10k-images"):
        Idx(str(idx_folder), split="train", **SIZE)


def test_complete_mnist_is_read(test_data):
    source = Idx(str(test_data / "data" / "mnist"), split="validation", image_size=(28, 28), channels=1)
    samples = everything(source)
    assert samples["image"].shape == (10000, 28, 28, 1) and source.num_classes == 10
    assert samples["label"][:5].tolist() == [7, 2, 1, 0, 4]
    np.testing.assert_allclose(samples["image"].mean() / 255, 0.1325, atol=1e-4)  # the known mean of the test part


# NPZ


def save_npz(path, **arrays):
    defaults = {
        "x_train": np.zeros((4, 8, 8), np.uint8),
        "y_train": np.array([0, 1, 2, 1]),
        "x_test": np.ones((2, 8, 8), np.uint8),
        "y_test": np.array([[1], [0]]),
    }
    kept = {key: value for key, value in (defaults | arrays).items() if value is not None}
    np.savez(path, **kept)
    return str(path)


def test_npz_archives_are_read(tmp_path):
    path = save_npz(tmp_path / "x.npz", class_names=np.array(["cat", "dog", "eel"]))
    train, validation = (Npz(path, split=split, **SIZE) for split in ("train", "validation"))
    assert len(train) == 4 and len(validation) == 2
    assert train.class_names == validation.class_names == ("cat", "dog", "eel")
    assert everything(validation)["label"].tolist() == [1, 0]


def test_npz_keys_can_be_named_and_classes_counted_from_training(tmp_path):
    arrays = {"x_train": None, "y_train": None, "x_test": None, "y_test": None}
    path = save_npz(
        tmp_path / "x.npz",
        **arrays,
        train_images=np.zeros((3, 8, 8, 3), np.uint8),
        train_labels=np.array([[0, 1, 1], [1, 0, 0], [0, 0, 0]]),
        val_images=np.zeros((1, 8, 8, 3), np.uint8),
        val_labels=np.array([[0, 1, 1]]),
    )
    source = Npz(path, "{split}_images", "{split}_labels", split="validation", **SIZE)
    assert source.multi_label and source.num_classes == 3 and source.image_shape == (8, 8, 1)


def test_bad_npz_archives_are_named(tmp_path):
    with pytest.raises(ValueError, match="there is no file"):
        Npz(str(tmp_path / "no.npz"), split="train", **SIZE)
    broken = tmp_path / "broken.npz"
    broken.write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(ValueError, match=r"cannot read .*broken\.npz"):
        Npz(str(broken), split="train", **SIZE)
    array = tmp_path / "array.npz"
    with array.open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(ValueError, match=r"array\.npz.*one array"):
        Npz(str(array), split="train", **SIZE)
    objects = save_npz(tmp_path / "o.npz", x_train=np.array([{}, {}], object))
    with pytest.raises(ValueError, match=r"cannot read .x_train. in .*o\.npz"):
        Npz(objects, split="train", **SIZE)
    for arrays, split, message in (
        ({"x_train": None}, "train", "no array 'x_train'.*y_train, x_test"),
        ({"x_test": None}, "validation", "none of x_test, x_validation, x_val"),
        ({"x_train": np.zeros((4, 8, 8))}, "train", "'x_train'.* is float64; expected uint8"),
    ):
        with pytest.raises(ValueError, match=message):
            Npz(save_npz(tmp_path / "y.npz", **arrays), split=split, **SIZE)


def test_the_cifar10_subset_is_read(test_data):
    path = str(test_data / "data" / "cifar10_subset" / "cifar10_subset.npz")
    source = Npz(path, split="validation", image_size=(32, 32), channels=3)
    assert len(source) == 1000 and source.class_names[3] == "cat"


# Synthetic


def test_synthetic_images_are_a_function_of_seed_and_split():
    def images(**options):
        return everything(Synthetic(12, **({"split": "train"} | options), image_size=(12, 10), channels=3))["image"]

    np.testing.assert_array_equal(images(), images())
    assert images().shape == (12, 12, 10, 3)
    assert (images() != images(seed=1)).any() and (images() != images(split="validation")).any()


@pytest.mark.parametrize("channels", [1, 3])
def test_synthetic_classes_can_be_learned_by_a_linear_model(channels):
    parts = [
        everything(Synthetic(100, 10, split=split, image_size=(16, 16), channels=channels))
        for split in ("train", "validation")
    ]
    (x, y), (test_x, test_y) = ((part["image"].reshape(100, -1) / 255.0, part["label"]) for part in parts)
    assert LogisticRegression(max_iter=200).fit(x, y).score(test_x, test_y) == 1.0


def test_synthetic_images_can_carry_several_labels():
    source = Synthetic(200, 5, True, split="train", image_size=(16, 16), channels=1)
    labels = everything(source)["label"]
    assert source.multi_label and labels.shape == (200, 5) and labels.dtype == np.float32
    assert set(np.unique(labels.sum(1))) >= {0, 1, 2, 3} and 1.6 < labels.sum(1).mean() < 2.4


def test_synthetic_images_must_be_large_enough_for_the_classes():
    with pytest.raises(ValueError, match="100 classes need images larger than 20 x 20"):
        Synthetic(4, 100, split="train", image_size=(16, 16), channels=1)
