"""Exports for TensorFlow, reloaded without jaxvision: a SavedModel, and TensorFlow Lite where it converts."""

import json

import numpy as np
import pytest

from experiments import export as command
from jaxvision.deploy.export import export_model
from jaxvision.errors import SetupError
from jaxvision.inference import Inferencer
from jaxvision.pretrained.safetensors import save_safetensors
from jaxvision.trees import flatten
from tests.deploy.made import model_of, pictures, run_elsewhere
from tests.deploy.test_export import THREE, assert_same

pytestmark = pytest.mark.slow
SAVED_MODEL = """
import json, sys
import numpy as np
import tensorflow as tf
loaded = tf.saved_model.load(sys.argv[1])
inputs = {name: tf.constant(value) for name, value in np.load(sys.argv[2]).items()}
found = loaded.signatures["serving_default"](**inputs)
same = loaded.predict(inputs)
assert all((found[name].numpy() == same[name].numpy()).all() for name in same) and set(found) == set(same)
assert not [name for name in sys.modules if name.startswith(("jaxvision", "flax"))]
np.savez(sys.argv[3], **{name: value.numpy() for name, value in found.items()})
print(json.dumps(sorted(found)))
"""
TFLITE = """
import json, sys
import numpy as np
import tensorflow as tf
run = tf.lite.Interpreter(sys.argv[1]).get_signature_runner()
np.savez(sys.argv[3], **run(**np.load(sys.argv[2])))
print(json.dumps(0))
"""


def batch_of(model, images):
    """The inputs of a program for these images, and what the model predicts for them."""
    infer = Inferencer(model, batch_size=len(images))
    batch = infer.batch(images)
    predictions = flatten(infer._predict(infer._variables, batch))
    return batch, {name: np.asarray(value) for name, value in predictions.items()}


def reloaded(code, model, folder, images, program, about):
    batch, wanted = batch_of(model, images)
    np.savez(folder / "inputs.npz", **{name: batch[name] for name in about["inputs"]})
    run_elsewhere(code, program, folder / "inputs.npz", folder / "found.npz")
    with np.load(folder / "found.npz") as found:
        assert_same(dict(found), {name: value for name, value in wanted.items() if name not in about["passed"]})
    return wanted


@pytest.mark.parametrize("config, batch", [(THREE[0], None), (THREE[1], None), (THREE[2], 2)])
def test_a_saved_model_comes_back_in_tensorflow_alone(tmp_path, unoptimized, config, batch):
    model = model_of(config)
    written = export_model(model, tmp_path / "program", format="saved_model", batch=batch)
    about = json.loads((tmp_path / "program" / "jaxvision.json").read_text())
    assert written[0] == str(tmp_path / "program") and about["format"] == "saved_model"
    wanted = reloaded(SAVED_MODEL, model, tmp_path, pictures(2), tmp_path / "program", about)
    if "valid" in wanted:
        assert wanted["valid"].sum() > 5


@pytest.mark.parametrize("config", [THREE[0], THREE[2]])
def test_a_classifier_and_a_segmenter_convert_to_tensorflow_lite(tmp_path, unoptimized, config):
    model = model_of(config)
    export_model(model, tmp_path / "program.tflite", format="tflite")
    about = json.loads((tmp_path / "program.tflite.json").read_text())
    reloaded(TFLITE, model, tmp_path, pictures(1), tmp_path / "program.tflite", about)


def test_what_tensorflow_lite_does_not_know_is_an_error_that_says_what_does(tmp_path):
    with pytest.raises(SetupError, match=r"of RetinaNet does not convert .*top_k.*'stablehlo' or 'saved_model'"):
        export_model(model_of(THREE[1]), tmp_path / "program.tflite", format="tflite")
    assert not list(tmp_path.iterdir())


def test_the_command_writes_a_saved_model(tmp_path, capsys):
    save_safetensors(tmp_path / "weights.safetensors", model_of(THREE[0]).variables)
    arguments = ["--checkpoint", str(tmp_path / "weights.safetensors"), "--format", "saved_model"]
    assert command.main(["--config", f"{THREE[0]}:smoke", *arguments, "--output", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.count("wrote ") == 2 and (tmp_path / "out" / "saved_model.pb").exists()
