"""Checkpoints of torch, written here byte by byte, come back as arrays; what surrounds them comes back as data."""

import io
import json
import pickle
import zipfile

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxvision.pretrained.pickle_reader import CheckpointError, Opaque
from jaxvision.pretrained.safetensors import save_safetensors
from jaxvision.pretrained.torch_file import load_torch, read_weights
from tests.pretrained.writer import STORAGES, Call, Checkpoint, Name, Raw, code, dumps, ordered, storage, tensor

FORMATS = ("zip", "legacy")


def write(path, kind, tree, checkpoint):
    return getattr(checkpoint, kind)(path, tree)


def arrays():
    rng = np.random.default_rng(0)
    return {
        "conv.weight": rng.normal(size=(4, 3, 2, 2)).astype(np.float32),
        "bn.num_batches_tracked": np.asarray(7, np.int64),
        "empty": np.zeros((0, 3), np.float32),
    }


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("dtype", STORAGES)
def test_every_dtype_comes_back(tmp_path, kind, dtype):
    numpy = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype)
    value = np.random.default_rng(0).integers(0, 2, (3, 5)).astype(numpy)
    c = Checkpoint()
    loaded = load_torch(write(tmp_path / "a.pth", kind, ordered({"x": c.array(value)}), c))
    assert loaded.format == kind and loaded.state_dict["x"].dtype == value.dtype
    np.testing.assert_array_equal(loaded.state_dict["x"], value)


@pytest.mark.parametrize("kind", FORMATS)
def test_scalars_empty_tensors_and_metadata_come_back(tmp_path, kind):
    c, want = Checkpoint(), arrays()
    tree = {
        "state_dict": ordered({name: c.array(value) for name, value in want.items()}),
        "epoch": 12,
        "best": 0.75,
        "optimizer": {"state": {0: {"exp_avg": c.array(np.ones((2, 3), np.float32))}}, "param_groups": [{"lr": 0.1}]},
    }
    loaded = load_torch(write(tmp_path / "a.pth", kind, tree, c))
    assert loaded.wrapper == "state_dict" and list(loaded.state_dict) == list(want)
    for name, value in want.items():
        assert loaded.state_dict[name].shape == value.shape and loaded.state_dict[name].dtype == value.dtype
        np.testing.assert_array_equal(loaded.state_dict[name], value)
    assert loaded.other == {
        "state_dict": {},
        "epoch": 12,
        "best": 0.75,
        "optimizer": {"state": {0: {"exp_avg": "float32[2, 3]"}}, "param_groups": [{"lr": 0.1}]},
    }
    assert loaded.unknown_globals == () and not loaded.state_dict["conv.weight"].flags.writeable


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_views_equal_numpy(data):
    size = data.draw(st.integers(1, 40))
    base = np.arange(size, dtype=np.float32)
    shape = tuple(data.draw(st.lists(st.integers(0, 4), max_size=4)))
    strides = tuple(data.draw(st.integers(0, 6)) for _ in shape)
    offset = data.draw(st.integers(0, size + 2))
    last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
    c = Checkpoint()
    c.storages["0"] = base
    file = io.BytesIO()
    c.zip(file, {"x": tensor("float32", "0", size, offset, shape, strides)})
    import tempfile

    with tempfile.NamedTemporaryFile(suffix=".pth") as handle:
        handle.write(file.getvalue())
        handle.flush()
        if 0 not in shape and last >= size:
            with pytest.raises(CheckpointError, match="beyond"):
                load_torch(handle.name)
            return
        got = load_torch(handle.name).state_dict["x"]
    want = np.zeros(shape, np.float32)
    for index in np.ndindex(*shape):
        want[index] = base[offset + sum(i * s for i, s in zip(index, strides, strict=True))]
    np.testing.assert_array_equal(got, want)
    assert got.shape == shape


def test_tensors_share_their_storage_without_a_copy(tmp_path):
    c = Checkpoint()
    c.storages["0"] = np.arange(12, dtype=np.float32)
    whole, part = tensor("float32", "0", 12, 0, (3, 4), (4, 1)), tensor("float32", "0", 12, 4, (4, 2), (1, 4))
    loaded = load_torch(c.zip(tmp_path / "a.pth", {"whole": whole, "part": part, "again": whole})).state_dict
    np.testing.assert_array_equal(loaded["part"], np.arange(12).reshape(3, 4)[1:].T)
    assert loaded["again"] is loaded["whole"] and np.shares_memory(loaded["part"], loaded["whole"])


def test_a_view_of_a_storage_in_the_legacy_format(tmp_path):
    c = Checkpoint()
    c.storages["7"] = np.arange(10, dtype=np.int64)
    view = tensor("int64", "7", 10, 1, (2,), (2,), view=(("v", 4, 5),))
    np.testing.assert_array_equal(load_torch(c.legacy(tmp_path / "a.pth", {"x": view})).state_dict["x"], [5, 7])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "complex64", "bool"])
def test_big_endian_files_are_swapped(tmp_path, dtype):
    numpy = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype)
    value, c = np.asarray([0, 1, 1, 0, 1], numpy), Checkpoint()
    x = c.array(value)
    if dtype == "bfloat16":
        c.storages["0"] = value.view(np.uint16)
    loaded = load_torch(c.zip(tmp_path / "a.pth", {"x": x}, byteorder="big")).state_dict["x"]
    assert loaded.dtype == value.dtype
    np.testing.assert_array_equal(loaded, value)


def test_dtypes_apart_from_their_storage(tmp_path):
    c, value = Checkpoint(), np.arange(6, dtype=np.uint16)
    c.storages["0"] = value
    untyped = Raw(code(("storage", Name("torch.storage.UntypedStorage"), "0", "cpu", 12)) + b"Q")
    rebuild = Name("torch._utils._rebuild_tensor_v3")
    x = Call(rebuild, (untyped, 2, (2, 2), (2, 1), False, ordered({}), Name("torch.uint16"), ordered({})))
    parameter = Call(Name("torch._utils._rebuild_parameter"), (x, True, ordered({})))
    loaded = load_torch(c.zip(tmp_path / "a.pth", {"x": parameter}))
    np.testing.assert_array_equal(loaded.state_dict["x"], [[2, 3], [4, 5]])
    assert loaded.state_dict["x"].dtype == np.uint16 and loaded.unknown_globals == ()


# Wrappers

WRAPPED = [
    (lambda w, e: w, "", "w"),
    (lambda w, e: {"state_dict": w, "meta": {"epoch": 1}}, "state_dict", "w"),
    (lambda w, e: {"model": w, "model_ema": e}, "model_ema", "e"),
    (lambda w, e: {"state_dict": w, "state_dict_ema": e}, "state_dict_ema", "e"),
    (lambda w, e: {"params": w, "params_ema": e}, "params_ema", "e"),
    (lambda w, e: {"model": w, "ema": {"module": e, "updates": 3}}, "ema.module", "e"),
    (lambda w, e: {"model": {"state_dict": w}, "optimizer": {"x": e["a.weight"]}}, "model.state_dict", "w"),
    (lambda w, e: {"generator": w, "optimizer": e}, "generator", "w"),
    (lambda w, e: {f"module.{k}": v for k, v in w.items()}, "without 'module.'", "w"),
    (
        lambda w, e: {"model": {f"_orig_mod.module.{k}": v for k, v in w.items()}},
        "model, without '_orig_mod.', without 'module.'", "w",
    ),
    (lambda w, e: {"n_averaged": e["a.weight"]} | {f"module.{k}": v for k, v in w.items()}, "without 'module.'", "w"),
]  # fmt: skip


@pytest.mark.parametrize("wrap,where,which", WRAPPED, ids=[where or "bare" for _, where, _ in WRAPPED])
def test_wrappers_are_taken_off_and_named(tmp_path, wrap, where, which):
    c = Checkpoint()
    sets = {
        key: {name: c.array(np.full((2,), n, np.float32)) for name in ("a.weight", "a.bias")}
        for n, key in enumerate("we")
    }
    loaded = load_torch(c.zip(tmp_path / "a.pth", wrap(sets["w"], sets["e"])))
    assert loaded.wrapper == where and set(loaded.state_dict) == {"a.weight", "a.bias"}
    assert loaded.state_dict["a.bias"][0] == "we".index(which)


def test_the_last_weights_are_taken_where_averaged_ones_are_not_wanted(tmp_path):
    c = Checkpoint()
    tree = {"model_ema": {"a": c.array([1.0])}, "model": {"a": c.array([0.0])}}
    assert load_torch(c.zip(tmp_path / "a.pth", tree), prefer_ema=False).wrapper == "model"
    two = {"netG": {"a": c.array([1.0])}, "netD": {"a": c.array([0.0])}}
    with pytest.raises(CheckpointError, match="several sets of weights.*netG, netD"):
        load_torch(c.zip(tmp_path / "b.pth", two))


def test_a_pickled_module_gives_its_state_dict(tmp_path):
    c = Checkpoint()

    def module(parameters, modules, buffers=(), passing=()):
        state = {"training": True, "_parameters": parameters, "_buffers": dict(buffers), "_modules": modules}
        return Raw(
            code(Name("my.Net")) + b")\x81" + code(state | {"_non_persistent_buffers_set": list(passing)}) + b"b"
        )

    conv = module({"weight": c.array([1.0]), "bias": None}, {})
    net = module({}, {"conv": conv}, {"mean": c.array([2.0]), "cache": c.array([3.0])}, ["cache"])
    loaded = load_torch(c.zip(tmp_path / "a.pt", {"model": net, "epoch": 3}))
    assert set(loaded.state_dict) == {"conv.weight", "mean"} and loaded.unknown_globals == ("my.Net",)
    assert loaded.other["epoch"] == 3


# Objects beside the weights


def test_objects_of_other_libraries_are_data(tmp_path):
    c = Checkpoint()
    history = Raw(
        code(Name("mmengine.logging.history_buffer.HistoryBuffer")) + b")\x81" + code({"_max_length": 10}) + b"b"
    )
    double = Call(Name("numpy.dtype"), ("f8", False, True), (3, "<", None, None, None, -1, -1, 0))
    raw = Call(Name("_codecs.encode"), (np.float64(2.5).tobytes().decode("latin1"), "latin1"))
    empty = Call(Name("numpy.core.multiarray._reconstruct"), (Name("numpy.ndarray"), (0,), b"b"))
    contents = np.arange(6, dtype=np.float64).reshape(2, 3)
    tree = {
        "state_dict": ordered({"w": c.array([1.0])}),
        "message_hub": {"log_scalars": {"train/loss": history}},
        "args": Raw(code(Call(Name("argparse.Namespace"))) + code({"lr": 0.1, "path": "x"}) + b"b"),
        "when": Call(Name("datetime.datetime"), (b"\x07\xe6\x01\x02\x03\x04\x05\x00\x00\x00",)),
        "best": Call(Name("numpy.core.multiarray.scalar"), (double, raw)),
        "history": Raw(code(empty) + code((1, (2, 3), double, False, contents.tobytes())) + b"b"),
        "fortran": Raw(code(empty) + code((1, (2, 3), double, True, contents.tobytes("F"))) + b"b"),
        "classes": Call(Name("builtins.set"), ([1, 2],)),
        "size": Call(Name("torch.Size"), ([3, 4],)),
        "device": Call(Name("torch.device"), ("cuda", 1)),
        "dtype": Name("torch.float16"),
    }
    loaded = load_torch(c.zip(tmp_path / "a.pth", tree))
    other = loaded.other
    assert loaded.unknown_globals == (
        "argparse.Namespace", "datetime.datetime", "mmengine.logging.history_buffer.HistoryBuffer",
    )  # fmt: skip
    assert isinstance(other["args"], Opaque) and other["args"].state == {"lr": 0.1, "path": "x"}
    assert other["message_hub"]["log_scalars"]["train/loss"].state == {"_max_length": 10}
    assert other["best"] == 2.5 and other["classes"] == [1, 2] and other["size"] == (3, 4)
    assert other["device"] == "cuda:1" and other["dtype"] == "torch.float16"
    np.testing.assert_array_equal(other["history"], contents)
    np.testing.assert_array_equal(other["fortran"], contents)


@pytest.mark.parametrize("protocol", range(6))
def test_plain_pickles_of_numpy_arrays_load(tmp_path, protocol):
    value = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    tree = {"model": {"w": value, "n": np.float32(3)}, "__author__": "someone", "set": {1, 2}, "frozen": frozenset("a")}
    tree |= {"big": 1 << 90, "minus": -5, "bytes": b"\xff\x00", "array": bytearray(b"ab"), "flags": (True, False, None)}
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps(tree, protocol))
    if protocol < 2:
        with pytest.raises(CheckpointError, match="no file that torch.save wrote"):
            load_torch(path)
        return
    loaded = load_torch(path)
    assert loaded.format == "pickle" and loaded.wrapper == "model" and loaded.unknown_globals == ()
    np.testing.assert_array_equal(loaded.state_dict["w"], value)
    assert loaded.other["big"] == 1 << 90 and loaded.other["minus"] == -5 and loaded.other["bytes"] == b"\xff\x00"
    assert loaded.other["array"] == b"ab" and loaded.other["flags"] == (True, False, None)
    assert loaded.other["model"]["n"] == 3 and sorted(loaded.other["set"]) == [1, 2]


# What is no checkpoint


@pytest.mark.parametrize(
    "content,message",
    [
        (b"", "is empty"),
        (b"<html><body>404</body></html>", "a web page instead of weights"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"hello world", "no file that torch.save wrote"),
        (b"PK\x03\x04 and nothing more", "damaged or cut off zip archive"),
        (b"\x10\x00\x00\x00\x00\x00\x00\x00{}", "looks like safetensors"),
        (dumps({"epoch": 3}), "holds no weights: found a dict with 'epoch'"),
        (dumps({"epoch": 3})[:-4], "pickle"),
        (b"\x80\x09.", "protocol 9"),
    ],
)  # fmt: skip
def test_other_files_are_told_by_what_they_are(tmp_path, content, message):
    path = tmp_path / "a.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as error:
        load_torch(path)
    assert str(path) in str(error.value)


def test_missing_files_folders_and_programs_are_told(tmp_path):
    with pytest.raises(FileNotFoundError, match="no weights at"):
        load_torch(tmp_path / "none.pth")
    with pytest.raises(CheckpointError, match="is a folder"):
        load_torch(tmp_path)
    c = Checkpoint()
    c.zip(tmp_path / "script.pt", {"x": c.array([1.0])}, extra=[("constants.pkl", b"")])
    with pytest.raises(CheckpointError, match="TorchScript"):
        load_torch(tmp_path / "script.pt")
    with zipfile.ZipFile(tmp_path / "small.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", dumps({"x": "y" * 1000}))
    with pytest.raises(CheckpointError, match="is compressed"):
        load_torch(tmp_path / "small.pth")


def test_a_storage_that_is_missing_or_too_small_is_told(tmp_path):
    c = Checkpoint()
    c.storages["0"] = np.zeros(3, np.float32)
    with pytest.raises(CheckpointError, match="should have 4 elements and has 12 bytes"):
        load_torch(c.zip(tmp_path / "a.pth", {"x": tensor("float32", "0", 4, 0, (4,), (1,))}))
    with pytest.raises(CheckpointError, match="'1' of a tensor float32.4. is not in the file"):
        load_torch(c.zip(tmp_path / "b.pth", {"x": tensor("float32", "1", 4, 0, (4,), (1,))}))
    whole = c.legacy(tmp_path / "c.pth", {"x": tensor("float32", "0", 3, 0, (3,), (1,))}).read_bytes()
    (tmp_path / "c.pth").write_bytes(whole[:-1])
    with pytest.raises(CheckpointError, match="cut off or damaged in storage '0'"):
        load_torch(tmp_path / "c.pth")
    assert load_torch(c.zip(tmp_path / "d.pth", {"x": c.array([1.0]), "y": storage("float32", "0", 3)})).other


# One door


def test_one_door_reads_safetensors_and_split_checkpoints(tmp_path):
    first, second = {"a.weight": np.ones((2, 2), np.float32)}, {"b.weight": np.zeros(3, np.float16)}
    save_safetensors(tmp_path / "model-1.safetensors", first)
    c = Checkpoint()
    c.zip(tmp_path / "model-2.bin", {name: c.array(value) for name, value in second.items()})
    table = {"a.weight": "model-1.safetensors", "b.weight": "model-2.bin"}
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": table}))
    loaded = read_weights(index)
    assert list(loaded.state_dict) == ["a.weight", "b.weight"]
    np.testing.assert_array_equal(loaded.state_dict["b.weight"], second["b.weight"])
    assert read_weights(tmp_path / "model-1.safetensors").format == "safetensors"
    for wrong, message in (
        ({"a.weight": "../model-1.safetensors"}, "names of files beside it"),
        ({"a.weight": "/etc/passwd"}, "names of files beside it"),
        ({"c.weight": "model-2.bin"}, "places c.weight in model-2.bin, which lacks it"),
        ("nothing", "no index of weights"),
    ):
        index.write_text(json.dumps({"weight_map": wrong}))
        with pytest.raises(CheckpointError, match=message):
            read_weights(index)
