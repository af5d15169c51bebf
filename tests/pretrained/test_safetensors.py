"""Weights survive a file bit for bit, and what does not fit is said at once."""

import json
import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.pretrained.safetensors import assign, load_safetensors, load_safetensors_metadata, save_safetensors
from jaxvision.trees import TreeMismatch, flatten


def variables():
    rng = np.random.default_rng(0)
    return {
        "params": {
            "conv1": {"kernel": jnp.asarray(rng.normal(size=(3, 3, 1, 4)), jnp.float32)},
            "head": {"kernel": jnp.asarray(rng.normal(size=(4, 10)), jnp.bfloat16), "bias": jnp.zeros((10,))},
        },
        "batch_stats": {"count": jnp.int32(7), "mask": jnp.array([True, False]), "empty": jnp.zeros((0, 3))},
    }


def assert_equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for name, leaf in flatten(a).items():
        other = flatten(b)[name]
        assert (leaf.shape, leaf.dtype) == (other.shape, other.dtype), name
        np.testing.assert_array_equal(np.asarray(leaf), np.asarray(other), name)


def test_a_tree_comes_back_bit_for_bit_with_its_metadata(tmp_path):
    path = tmp_path / "new" / "model.safetensors"
    save_safetensors(path, variables(), {"accuracy": "0.98", "config": json.dumps({"a": 1})})
    assert_equal(load_safetensors(path), variables())
    assert load_safetensors_metadata(path) == {"accuracy": "0.98", "config": '{"a": 1}'}
    assert [p.name for p in path.parent.iterdir()] == ["model.safetensors"]


def test_the_public_reader_and_ours_agree_on_names_and_values(tmp_path):
    import safetensors.numpy

    path = tmp_path / "a.safetensors"
    tree = {"a": {"b": np.arange(6, dtype=np.float32).reshape(2, 3).T, "c": np.float32(2)}}
    save_safetensors(path, tree)
    public = safetensors.numpy.load_file(path)
    np.testing.assert_array_equal(public["a/b"], tree["a"]["b"])
    assert public["a/c"] == 2 and public["a/c"].shape == ()
    header = path.read_bytes()[8 : 8 + struct.unpack("<Q", path.read_bytes()[:8])[0]]
    assert json.loads(header)["a/b"]["shape"] == [3, 2]


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    import safetensors.numpy

    path = tmp_path / "a.safetensors"
    save_safetensors(path, {"a": np.ones(3)})
    before = path.read_bytes()

    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(safetensors.numpy, "save", fail)
    with pytest.raises(OSError, match="No space"):
        save_safetensors(path, {"a": np.zeros(3)})
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


@pytest.mark.parametrize("keep", [0, 4, 20, -1])
def test_an_incomplete_file_is_one_clear_error(tmp_path, keep):
    path = tmp_path / "a.safetensors"
    save_safetensors(path, {"a": np.ones(3)})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"a\.safetensors is not a complete safetensors file"):
        load_safetensors(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no weights at .*nothing\.safetensors"):
        load_safetensors(tmp_path / "nothing.safetensors")


def test_wrong_things_to_write_are_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    with pytest.raises(ValueError, match="metadata are strings"):
        save_safetensors(path, {"a": np.ones(3)}, {"epochs": 3})
    with pytest.raises(ValueError, match=r"rng is a .*key<fry>"):
        save_safetensors(path, {"rng": jax.random.key(0)})
    with pytest.raises(ValueError, match="no arrays"):
        save_safetensors(path, {})
    assert not path.exists()


def test_assign_casts_to_the_dtype_of_the_model():
    model = {"a": jnp.zeros((2,), jnp.float32), "n": jnp.int32(0)}
    out = assign(model, {"a": np.array([1, 2], jnp.bfloat16), "n": np.int64(5)})
    assert out["a"].dtype == jnp.float32 and out["n"].dtype == jnp.int32
    np.testing.assert_array_equal(out["a"], [1.0, 2.0])


def test_assign_lists_every_difference_at_once():
    model = {
        "conv1": {"kernel": jnp.zeros((3, 3, 1, 4))},
        "head": {"kernel": jnp.zeros((4, 10)), "bias": jnp.zeros((10,))},
        "count": jnp.int32(0),
    }
    loaded = {
        "conv1": {"kernel_": np.zeros((3, 3, 1, 4))},
        "head": {"kernel": np.zeros((4, 5)), "bias": np.zeros((5,))},
        "fc": {"bias": np.zeros((5,), np.float32)},
        "count": np.float32(0),
    }
    with pytest.raises(TreeMismatch) as error:
        assign(model, loaded)
    text = str(error.value)
    assert "missing     conv1/kernel float32[3, 3, 1, 4]; the file has conv1/kernel_ instead?" in text
    assert "unexpected  fc/bias float32[5]" in text
    assert "shape       head/kernel: float64[4, 5] in the file, float32[4, 10] in the model" in text
    assert "shape       head/bias" in text and "dtype       count: float32[] in the file, int32[]" in text
    assert len(text.splitlines()) == 1 + 6
