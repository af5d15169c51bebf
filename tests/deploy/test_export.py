"""Export: the whole predictor of a classifier, a detector and a segmenter, reloaded without the code of a model."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from experiments import export as command
from jaxvision import deploy
from jaxvision.data.images import ImageError
from jaxvision.data.transforms import Letterbox
from jaxvision.deploy.export import export_model, lower
from jaxvision.deploy.lowering import ARG_REDUCTIONS, COMPOSITES, lowered, operations
from jaxvision.deploy.predictor import predictor
from jaxvision.engine.task import Task
from jaxvision.engine.tta import TTA, augmented
from jaxvision.errors import SetupError
from jaxvision.inference import Inferencer
from jaxvision.loading import Model
from jaxvision.pretrained.safetensors import read_safetensors, save_safetensors
from jaxvision.structures import Detections
from jaxvision.trees import flatten
from tests.deploy.made import model_of, pictures, run_elsewhere

THREE = (
    "classification/lenet5_digits",
    "detection/retinanet_r18_fpn_digit_scenes",
    "segmentation/unet_r18_digit_scenes",
)
MODEL_CODE = ("flax", "jaxvision.layers", "jaxvision.backbones", "jaxvision.engine", "jaxvision.config", "tensorflow")
RELOAD = """
import json, sys
import numpy as np
import jax
jax.config.update("jax_disable_most_optimizations", True)
from jaxvision import deploy
for name in sys.argv[2:]:
    program = deploy.load(f"{sys.argv[1]}/{name}.stablehlo")
    pictures = np.load(f"{sys.argv[1]}/pictures.npz")
    found = program([pictures[key] for key in sorted(pictures)])
    np.savez(f"{sys.argv[1]}/{name}.npz", **{f"{i}/{key}": x for i, one in enumerate(found) for key, x in one.items()})
print(json.dumps([name for name in sys.modules]))
"""


def assert_same(found, wanted):
    """Flat dicts of arrays, to 1e-5 of the largest; integers and what is valid exactly."""
    assert set(found) == set(wanted)
    for name, expected in wanted.items():
        expected = np.asarray(expected)
        assert found[name].dtype == expected.dtype and found[name].shape == expected.shape, name
        if expected.dtype.kind == "f":
            scale = max(1.0, np.abs(expected).max(initial=0))
            np.testing.assert_allclose(found[name], expected, atol=1e-5 * scale, rtol=0, err_msg=name)
        else:
            np.testing.assert_array_equal(found[name], expected, err_msg=name)


def reloaded_is_original(names, folder, **how):
    images = pictures(3)
    np.savez(folder / "pictures.npz", **{str(i): image for i, image in enumerate(images)})
    wanted = {}
    for config in names:
        name, model = config.partition("/")[2], model_of(config)
        export_model(model, folder / f"{name}.stablehlo", **how)
        wanted[name] = [flatten(result.prediction) for result in Inferencer(model, batch_size=3)(images)]
    modules = run_elsewhere(RELOAD, folder, *wanted)
    assert not [module for module in modules if module.startswith((*MODEL_CODE, "jaxvision.detection"))]
    for name, results in wanted.items():
        with np.load(folder / f"{name}.npz") as file:
            for i, expected in enumerate(results):
                rows = {key.partition("/")[2]: file[key] for key in file.files if key.startswith(f"{i}/")}
                assert_same(rows, expected)
    return wanted


def test_a_classifier_and_a_segmenter_come_back_without_their_code(tmp_path, unoptimized):
    found = reloaded_is_original((THREE[0], THREE[2]), tmp_path)
    assert len(np.unique(found["unet_r18_digit_scenes"][0]["labels"])) > 1


@pytest.mark.slow
def test_a_detector_comes_back_with_its_suppression(tmp_path, unoptimized):
    found = reloaded_is_original((THREE[1],), tmp_path)
    valid = [one["valid"].sum() for one in found["retinanet_r18_fpn_digit_scenes"]]
    assert min(valid) > 5


@dataclasses.dataclass(frozen=True)
class Brightness(Task):
    """One box as high as the picture, as sure as it is bright: an answer that is known without training."""

    class_names: tuple[str, ...] = ("dark", "bright")
    fixed: bool = False

    def predict(self, variables, batch, ctx, carry=None):
        rows = len(batch["image"]) if self.fixed else batch["image"].shape[0]
        assert isinstance(rows, int) or not self.fixed
        scores = jnp.mean(batch["image"].astype(jnp.float32), axis=(1, 2, 3))[:, None] * variables["params"]["scale"]
        boxes = jnp.pad(batch["size"], ((0, 0), (2, 0)))[:, None]
        labels = (scores > 0.5).astype(jnp.int32)
        found = Detections(boxes, scores, labels, batch["valid"][:, None] & (scores > 0))
        return {"found": found, "to_original": batch["to_original"]}, carry

    def for_views(self):
        return self

    def invert(self, predictions, view):
        return {"scores": predictions["found"].scores}

    def merged(self, entries):
        return entries

    def to_json(self, sample, prediction):
        return {}


def bright(task=None):
    variables = {"params": {"scale": np.float32(1 / 255), "unused": np.zeros(3, np.float32)}}
    task = Brightness() if task is None else task
    return Model(task, variables, (8, 8), 3, lambda batch, key: batch, host_transforms=(Letterbox(centered=False),))


def test_only_what_predictions_depend_on_goes_in_and_only_what_is_computed_comes_out():
    what = predictor(bright())
    assert set(what.weights) == {"params/scale"}
    assert {name: (str(x.shape), x.dtype) for name, x in what.inputs.items()} == {
        "image": ("(b, 8, 8, 3)", np.uint8),
        "size": ("(b, 2)", np.float32),
    }
    assert set(what.outputs) == {f"found/{name}" for name in ("boxes", "scores", "labels", "valid")}
    assert what.passed == {"to_original": "to_original"}


@pytest.mark.parametrize("batch, beside", [(None, False), (None, True), (2, False)])
def test_files_and_arrays_of_any_size_give_what_the_inferencer_gives(tmp_path, batch, beside):
    model, images = bright(), pictures(3, (5, 9, 3))
    written = export_model(model, tmp_path / "new" / "bright.hlo", batch=batch, weights_beside=beside)
    assert written == [str(tmp_path / "new" / f"bright.hlo{end}") for end in ("", *[".safetensors"] * beside, ".json")]
    Image.fromarray(images[0]).save(tmp_path / "first.png")
    inputs = [str(tmp_path / "first.png"), *images[1:]]
    program = deploy.load(tmp_path / "new" / "bright.hlo")
    found = program(inputs)
    for one, result in zip(found, Inferencer(model, batch_size=2)(inputs), strict=True):
        assert_same(one, flatten(result.prediction))
    assert_same(program(images[1]), found[1])
    assert program.class_names == ("dark", "bright") and program.batch == batch and program([]) == []
    if beside:
        assert set(read_safetensors(f"{tmp_path}/new/bright.hlo.safetensors")) == {"params/scale"}


def test_plain_jax_reads_a_program(tmp_path):
    export_model(bright(), tmp_path / "bright.hlo", platforms=("cpu", "tpu"))
    code = """
import json, sys
import jax, jax.export, numpy as np
about = json.loads(open(f"{sys.argv[1]}.json").read())
program = jax.export.deserialize(open(sys.argv[1], "rb").read())
inputs = {"image": np.full((8, 8, 3), 51, np.uint8), "size": np.float32([8, 8]), "to_original": np.eye(3)}
found = program.call({name: inputs[name][None] for name in about["inputs"]})
assert not [name for name in sys.modules if name.startswith("jaxvision")]
print(json.dumps([program.platforms, {name: np.asarray(x).tolist() for name, x in found.items()}]))
"""
    platforms, found = run_elsewhere(code, tmp_path / "bright.hlo")
    assert platforms == ["cpu", "tpu"] and found["found/boxes"] == [[[0, 0, 8, 8]]]
    assert found["found/scores"][0][0] == pytest.approx(0.2)


def test_the_metadata_say_how_the_program_is_used(tmp_path):
    model = model_of(THREE[0])
    export_model(model, tmp_path / "lenet5.hlo", batch=4, weights_beside=True)
    about = json.loads((tmp_path / "lenet5.hlo.json").read_text())
    assert about["inputs"] == {"image": {"shape": [4, 32, 32, 1], "dtype": "uint8"}}
    assert about["outputs"]["scores"] == {"shape": [4, 10], "dtype": "float32"}
    assert about["canvas"] == [32, 32] and about["channels"] == 1 and about["task"] == "classification"
    assert about["class_names"] == [f"class {i}" for i in range(10)] and about["weights"] == "lenet5.hlo.safetensors"
    (resize,) = about["host_transforms"]
    assert resize["name"] == "Resize" and resize["mode"] == "stretch" and about["config"]["model"]["name"] == "lenet5"


def test_merged_views_are_exported_with_the_rest(tmp_path):
    model = bright(task=augmented(Brightness(), TTA(flips=("horizontal",))))
    export_model(model, tmp_path / "bright.hlo")
    images = pictures(2)
    for one, result in zip(deploy.load(tmp_path / "bright.hlo")(images), Inferencer(model)(images), strict=True):
        assert_same(one, flatten(result.prediction))


def test_proposals_are_an_input_where_the_model_learns_from_those_of_another():
    what = predictor(model_of("detection/fast_rcnn_r18_fpn_digit_scenes", abstract=True), 2)
    rows, last = what.inputs["proposals"].shape[1:]
    assert rows > 1 and last == 4


def test_a_model_for_a_fixed_number_of_images_says_so():
    model = bright(task=Brightness(fixed=True))
    with pytest.raises(SetupError, match=r"Brightness cannot be exported for any number .*--batch 8"):
        predictor(model)
    assert predictor(model, 2).inputs["image"].shape == (2, 8, 8, 3)


@pytest.mark.parametrize(
    "how, message",
    [
        ({"format": "stablehl"}, "did you mean 'stablehlo'"),
        ({"platforms": ("gpu",)}, "unknown platform 'gpu'"),
        ({"platforms": ()}, "expected at least one"),
        ({"batch": 0}, "batch=0"),
        ({"format": "tflite", "weights_beside": True}, "StableHLO program alone"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(tmp_path, how, message):
    with pytest.raises(SetupError, match=message):
        export_model(bright(), tmp_path / "bright.hlo", **how)
    assert not list(tmp_path.iterdir())


def test_the_loader_names_what_is_missing_or_wrong(tmp_path):
    with pytest.raises(SetupError, match=r"is a folder: tf\.saved_model\.load"):
        deploy.load(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"nothing\.hlo"):
        deploy.load(tmp_path / "nothing.hlo")
    export_model(bright(), tmp_path / "bright.hlo", batch=1)
    program = deploy.load(tmp_path / "bright.hlo")
    with pytest.raises(SetupError, match="takes the inputs image, size, and got image"):
        program.call({"image": np.zeros((1, 8, 8, 3), np.uint8)})
    with pytest.raises(ImageError, match="expected uint8"):
        program(np.zeros((8, 8), np.float32))
    about = json.loads((tmp_path / "bright.hlo.json").read_text())
    strange = dataclasses.replace(program, about=about | {"host_transforms": [{"name": "Mine", "module": "my.own"}]})
    with pytest.raises(SetupError, match=r"my\.own\.Mine, which is not jaxvision's own"):
        strange(np.zeros((8, 8), np.uint8))
    more = dataclasses.replace(program, about=about | {"inputs": about["inputs"] | {"proposals": {}}})
    with pytest.raises(SetupError, match="also takes proposals"):
        more(np.zeros((8, 8), np.uint8))
    (tmp_path / "bright.hlo.json").write_text(json.dumps(about | {"version": 0}))
    with pytest.raises(SetupError, match="version 0: expected 'stablehlo', version 1"):
        deploy.load(tmp_path / "bright.hlo")


def test_searches_become_plain_reductions():
    def function(x, choice):
        inner = jax.jit(lambda x: jnp.argmax(x, axis=1))(x)
        other = jax.lax.platform_dependent(x, cpu=lambda x: x * 0, default=lambda x: x + 1)
        return {"most": inner, "least": jnp.argmin(x, axis=0).astype(jnp.int8), "other": jax.nn.relu(other)}

    x = np.array([[3, 5, 5], [-1, -2, -2]], np.float32)
    plain = lowered(function, ARG_REDUCTIONS)
    assert "argm" not in str(jax.make_jaxpr(plain)(x, 1))
    found, wanted = plain(x, 1), function(x, 1)
    assert_same({k: np.asarray(found[k]) for k in ("most", "least")}, {k: wanted[k] for k in ("most", "least")})
    np.testing.assert_array_equal(found["other"], np.maximum(x + 1, 0))


def test_the_best_by_sorting_are_those_of_top_k():
    x = np.array([[3, 5, np.nan, 5, -np.inf, 1], [0, 7, 7, 7, 2, np.inf]], np.float32)
    found = lowered(lambda x: jax.lax.top_k(x, 4), COMPOSITES)(x)
    for given, wanted in zip(found, jax.lax.top_k(x, 4), strict=True):
        np.testing.assert_array_equal(given, wanted)


def test_a_loop_is_looked_into_for_its_operations():
    def function(x):
        return jax.lax.fori_loop(0, 3, lambda _, x: jnp.sort(x) + jax.lax.erf(x), x)

    assert {"sort", "erf"} <= operations(function, np.zeros(3, np.float32))


def test_the_command_exports_a_checkpoint(tmp_path, capsys):
    save_safetensors(tmp_path / "weights.safetensors", model_of(THREE[0]).variables)
    config = f"{THREE[0]}:smoke"
    arguments = ["--config", config, "--checkpoint", str(tmp_path / "weights.safetensors"), "--output"]
    assert command.main([*arguments, str(tmp_path / "lenet5.hlo"), "--batch", "2", "--weights", "beside"]) == 0
    out = capsys.readouterr().out
    assert "weights.safetensors" in out.splitlines()[0] and out.count("wrote ") == 3
    assert deploy.load(tmp_path / "lenet5.hlo").batch == 2
    assert command.main([*arguments, str(tmp_path / "x"), "--format", "saved_model", "--weights", "beside"]) == 2
    assert command.main(["--config", config, "--output", str(tmp_path / "x")]) == 2
    assert "give the trained weights" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        command.main([*arguments, "x", "--batch", "none"])
    assert "'symbolic', and got 'none'" in capsys.readouterr().err


OF_EVERY_KIND = (
    *("classification/resnet18_digit_attributes", "classification/vit_base_patch16_224_imagenet"),
    *("detection/fcos_r18_fpn_digit_scenes", "detection/yolox_s_digit_scenes", "detection/ssd_r18_digit_scenes"),
    *("detection/detr_r18_digit_scenes", "detection/deformable_detr_r18_digit_scenes"),
    *("detection/fast_rcnn_r18_fpn_digit_scenes", "detection/mask_rcnn_r18_fpn_digit_scenes"),
    *("detection/faster_rcnn_r26_fpn_dconv_digit_scenes", "detection/cascade_mask_rcnn_r18_fpn_digit_scenes"),
    *("detection/panoptic_fpn_r18_fpn_digit_scenes", "detection/sliding_window_r18_digit_scenes"),
    *("segmentation/deeplab_v1_vgg11_digit_scenes", "segmentation/fcn8s_vgg11_digit_scenes"),
    *("segmentation/segformer_b0_digit_scenes", "segmentation/pspnet_r18_d8_digit_scenes"),
    *("segmentation/ocrnet_hrnet_w18_small_digit_scenes", "segmentation/manet_r18_digit_scenes"),
)


@pytest.mark.slow
@pytest.mark.parametrize("name", OF_EVERY_KIND)
def test_every_kind_is_lowered_for_every_platform_and_any_number_of_images(name):
    what = predictor(model_of(name, abstract=True))
    program = lower(what, weights_beside=True, platforms=("cpu", "cuda", "tpu"))
    assert program.platforms == ("cpu", "cuda", "tpu") and len(program.out_avals) == len(what.outputs) > 0
