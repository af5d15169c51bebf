"""Published files of detectors: the number of classes comes from the file, whatever its names and its background."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxvision as jv
from jaxvision import registry
from jaxvision.config import node, smoke
from jaxvision.config.build import _construct
from jaxvision.config.complete import complete_slot
from jaxvision.config.node import Origin
from jaxvision.errors import SetupError
from jaxvision.pretrained.keymaps import OWN, family_of, to_state_dict
from jaxvision.pretrained.load import class_layers, classes_of, save_torch_named_safetensors
from jaxvision.pretrained.safetensors import read_safetensors, save_safetensors
from jaxvision.registry import table
from jaxvision.trees import flatten, nest
from tests.detection.test_every_detector import is_detector

DETECTORS = [name for name in registry.names("model") if is_detector(name)]


def small(name, classes):
    """The tiny form of a registered detector."""
    tree = complete_slot("model", {"name": name, "num_classes": classes}, "model")
    tiny = node.explicit(smoke._slot("model", tree, Origin.now(smoke.SMOKE, "smoke")))
    return _construct("model", complete_slot("model", node.from_tree(tiny), "model"), "model", {})


def shapes(model):
    images = jax.ShapeDtypeStruct((1, *family_of(model).input), jnp.float32)
    return flatten(jax.eval_shape(lambda key, x: model.init(key, x, train=False), jax.random.key(0), images))


@pytest.mark.parametrize("name", DETECTORS)
def test_the_number_of_classes_is_found_under_the_names_of_every_source(name):
    model = small(name, 7)
    family, layers = family_of(model), class_layers(model, family_of(model))
    values = {key: np.broadcast_to(np.float32(0), leaf.shape) for key, leaf in shapes(model).items()}
    for source, rules in {**family.keys, "jaxvision": OWN}.items():
        if "backbone" not in source.split("/"):
            found = classes_of(to_state_dict(values, rules), layers, family)
            assert found == (7 if layers else None), source
    assert (
        bool(layers) == (not name.startswith("rpn")) and classes_of({"anything": np.zeros(3)}, layers, family) is None
    )


def small_mask_rcnn(num_classes: int):
    """As torchvision's: a background before the classes, which some of the layers do without."""
    return small("torchvision/mask_rcnn", num_classes)


def test_a_registered_name_takes_the_number_of_classes_of_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr(table, "_ROWS", dict(table._ROWS))
    registry.register("model", "torchvision/small_mask_rcnn", small_mask_rcnn)
    model, rng = small_mask_rcnn(4), np.random.default_rng(0)
    values = {name: rng.uniform(0.5, 1, leaf.shape).astype(np.float32) for name, leaf in shapes(model).items()}
    file = tmp_path / "a.safetensors"
    save_torch_named_safetensors(file, model, nest(values))
    assert read_safetensors(file)["roi_heads.box_predictor.bbox_pred.weight"].shape[0] == 4 * (1 + 4)
    loaded = flatten(jv.load_pretrained("torchvision/small_mask_rcnn", file))
    assert loaded.keys() == values.keys()
    for name, value in loaded.items():
        np.testing.assert_array_equal(value, values[name], name)
    other = flatten(jv.load_pretrained("torchvision/small_mask_rcnn", file, num_classes=2))
    assert other["params/box_predictor/bbox_pred/bias"].shape == (4 * 2,)
    broken = read_safetensors(file) | {"roi_heads.box_predictor.bbox_pred.bias": np.zeros(4 * 6, np.float32)}
    save_safetensors(tmp_path / "b.safetensors", broken)
    with pytest.raises(SetupError, match="has no classifier of torchvision/small_mask_rcnn under the names of"):
        jv.load_pretrained("torchvision/small_mask_rcnn", tmp_path / "b.safetensors")
