"""Published files of segmenters: under the publisher's name of the model, and encoders that training starts from."""

import jax
import jax.numpy as jnp
import numpy as np

import jaxvision as jv
from jaxvision.config import build
from jaxvision.pretrained.keymaps import family_of, to_state_dict
from jaxvision.pretrained.load import match
from jaxvision.pretrained.safetensors import save_safetensors
from jaxvision.pretrained.torch_file import LoadedFile
from jaxvision.trees import flatten


def zeros(model):
    """Our names -> zeros of the shapes of the variables."""
    images = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    shapes = flatten(jax.eval_shape(lambda key, x: model.init(key, x, train=False), jax.random.key(0), images))
    return {name: np.broadcast_to(np.float32(0), leaf.shape) for name, leaf in shapes.items()}


def test_torchvisions_name_of_a_segmenter_loads_its_file(tmp_path):
    name, file = "deeplabv3_mobilenet_v3_large", tmp_path / "weights.safetensors"
    model = build("model", {"name": name, "num_classes": 21})
    values = zeros(model)
    save_safetensors(file, to_state_dict(values, family_of(model).keys["torchvision"]))
    loaded = flatten(jv.load_pretrained(name, file))
    assert {key: leaf.shape for key, leaf in loaded.items()} == {key: leaf.shape for key, leaf in values.items()}
    assert loaded["params/decode_head/conv_seg/bias"].shape == (21,)


def test_the_encoder_of_a_card_fills_a_segmenters_backbone():
    card = jv.weight_card("openmmlab:mit_b0")
    model = build("model", {"name": "segformer", "num_classes": 3, "width": 8})
    wanted, family = zeros(model), family_of(model)
    own = {name: leaf for name, leaf in wanted.items() if name.startswith("params/backbone/")}
    encoder = to_state_dict(own, family.keys["openmmlab/backbone/encoder"])
    assert "layers.0.0.projection.weight" in encoder and not any("backbone" in name for name in encoder)
    found = match(LoadedFile(encoder, format="zip"), card, wanted, family, None, parts=("backbone",))
    assert found.values.keys() == own.keys() and not found.fresh and found.source == "openmmlab"
