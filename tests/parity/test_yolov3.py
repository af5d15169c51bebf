"""YOLOv3 against OpenMMLab (golden fixture): raw outputs, detections, losses, published names."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxvision as jv
from jaxvision.config import build
from tests.conftest import strict
from tests.parity.detections import instances, rows, unmatched
from tests.parity.torch_weights import load_golden, nchw, nhwc

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def openmmlab(tmp_path_factory):
    golden, fixture = load_golden("mmdet_yolov3_d53")
    model = build("model", {"name": "yolov3", "num_classes": 80, "images": 1.0})
    path = tmp_path_factory.mktemp("weights") / "yolov3.pth"
    torch.save({name: torch.from_numpy(np.array(value)) for name, value in golden.state_dict(fixture).items()}, path)
    variables = jv.load_pretrained(model, path, source="openmmlab")
    call = jax.jit(lambda variables, images: model.apply(variables, images, method=levels_and_outputs))
    with strict():
        return golden, fixture, model, *call(variables, nhwc(golden.inputs(fixture)))


def levels_and_outputs(model, images):
    features = model.backbone(images, train=False)
    return features, model.neck(features), model(images)


def test_levels_and_heads_equal_openmmlab(openmmlab):
    golden, fixture, _, features, pyramid, outputs = openmmlab
    ours = {f"backbone/{i}": nchw(x) for i, x in enumerate(features.values())}
    ours |= {f"neck/{2 - i}": nchw(x) for i, x in enumerate(pyramid.values())}
    for i, x in enumerate(pyramid.values()):
        codes, confidence, logits = (outputs[name][i] for name in ("codes", "confidence", "logits"))
        numbers = np.concatenate([codes, confidence[..., None], logits], axis=-1)
        ours[f"head/0/{2 - i}"] = nchw(np.reshape(numbers, (*x.shape[:3], -1)))
    assert set(ours) == set(fixture.output_shapes)
    for name, values in ours.items():
        difference = golden.compare(fixture, name, values)
        print(name, f"{difference:.1e}", f"allowed {golden.tolerance(fixture, name):.1e}")
        assert difference <= golden.tolerance(fixture, name), name


def test_detections_equal_openmmlab(openmmlab):
    _, fixture, model, _, _, outputs = openmmlab
    assert fixture.preds_stable
    size = jnp.asarray(fixture.input["valid"], jnp.float32)
    with strict():
        found = jax.jit(model.predict)(outputs, size)
    for image in range(2):
        theirs = [fixture.preds[f"{image}/{name}"] for name in ("bboxes", "scores", "labels")]
        ours = rows(found, image)
        print(len(ours[0]), fixture.preds[f"{image}/count"], unmatched(ours, theirs))
        assert len(ours[0]) == fixture.preds[f"{image}/count"]
        assert (np.diff(ours[1]) <= 0).all()
        assert unmatched(ours, theirs) == 0


def test_losses_equal_openmmlab(openmmlab):
    """The sum over both images, as there."""
    _, fixture, model, _, _, outputs = openmmlab
    truth = [(fixture.gt[f"{i}/bboxes"], fixture.gt[f"{i}/labels"]) for i in range(2)]
    with strict():
        terms = jax.jit(model.loss)(outputs, {"targets": instances(truth), "valid": jnp.ones(2, bool)})
    names = {"classification": "loss_cls", "confidence": "loss_conf", "place": "loss_xy", "size": "loss_wh"}
    for ours, theirs in names.items():
        total = sum(value for name, value in fixture.losses.items() if name.startswith(theirs))
        print(ours, float(terms[ours][0]), total)
        assert float(terms[ours][1]) == 2
        np.testing.assert_allclose(terms[ours][0], total, rtol=1e-4)
