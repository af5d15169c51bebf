"""YOLOX against OpenMMLab (golden fixture): raw outputs, detections, losses, published names."""

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
PUBLISHED = {"nano": 0.91, "tiny": 5.06, "s": 8.97, "m": 25.3, "l": 54.2, "x": 99.1}
"""Millions of parameters: README.md of Megvii-BaseDetection/YOLOX, and of OpenMMLab's configs/yolox."""


@pytest.fixture(scope="module")
def openmmlab(tmp_path_factory):
    golden, fixture = load_golden("mmdet_yolox_s")
    every = {"max_detections": 1000}
    model = build("model", {"name": "yolox_s", "num_classes": 80, "suppression": every})
    path = tmp_path_factory.mktemp("weights") / "yolox.pth"
    weights = {name: torch.from_numpy(np.array(value)) for name, value in golden.state_dict(fixture).items()}
    copies = {f"ema_{name.replace('.', '_')}": value for name, value in weights.items()}
    torch.save(weights | copies, path)
    variables = jv.load_pretrained(model, path, source="openmmlab")
    call = jax.jit(lambda variables, images: model.apply(variables, images, method=levels_and_outputs))
    with strict():
        pyramid, outputs = call(variables, nhwc(golden.inputs(fixture)))
    return golden, fixture, model, pyramid, outputs


def levels_and_outputs(model, images):
    features = model.backbone(images, train=False)
    return (features, model.neck(features)), model(images)


def test_levels_and_heads_equal_openmmlab(openmmlab):
    golden, fixture, _, (features, pyramid), outputs = openmmlab
    ours = {f"backbone/{i}": nchw(x) for i, x in enumerate(features.values())}
    ours |= {f"neck/{i}": nchw(x) for i, x in enumerate(pyramid.values())}
    for i, x in enumerate(pyramid.values()):
        for k, name in enumerate(("logits", "codes", "objectness")):
            ours[f"head/{k}/{i}"] = nchw(np.reshape(outputs[name][i], (*x.shape[:3], -1)))
    assert set(ours) == set(fixture.output_shapes)
    for name, values in ours.items():
        difference = golden.compare(fixture, name, values)
        print(name, f"{difference:.1e}", f"allowed {golden.tolerance(fixture, name):.1e}")
        assert difference <= golden.tolerance(fixture, name), name


def test_detections_equal_openmmlab(openmmlab):
    """Theirs are not clipped to the picture."""
    _, fixture, model, _, outputs = openmmlab
    assert fixture.preds_stable
    size = jnp.asarray(fixture.input["valid"], jnp.float32)
    with strict():
        found = jax.jit(model.predict)(outputs, size)
    for image in range(2):
        limit = np.tile(fixture.input["valid"][image][::-1], 2)
        theirs = [fixture.preds[f"{image}/{name}"] for name in ("bboxes", "scores", "labels")]
        theirs[0] = np.clip(theirs[0], 0, limit)
        ours = rows(found, image)
        print(len(ours[0]), fixture.preds[f"{image}/count"], unmatched(ours, theirs))
        assert len(ours[0]) == fixture.preds[f"{image}/count"]
        assert (np.diff(ours[1]) <= 0).all()
        assert unmatched(ours, theirs) == 0


def test_losses_equal_openmmlab(openmmlab):
    _, fixture, model, _, outputs = openmmlab
    truth = [(fixture.gt[f"{i}/bboxes"], fixture.gt[f"{i}/labels"]) for i in range(2)]
    batch = {"targets": instances(truth), "valid": jnp.ones(2, bool)}
    with strict():
        terms = jax.jit(model.loss)(outputs, batch)
    names = {"classification": "loss_cls", "box": "loss_bbox", "objectness": "loss_obj"}
    for ours, theirs in names.items():
        print(ours, float(terms[ours][0] / terms[ours][1]), fixture.losses[theirs], "positives", terms[ours][1])
        np.testing.assert_allclose(terms[ours][0] / terms[ours][1], fixture.losses[theirs], rtol=1e-4)
    assert float(terms["l1"][0]) == 0


@pytest.mark.parametrize("size", PUBLISHED)
def test_sizes_are_the_published_ones(size):
    model = build("model", {"name": f"yolox_{size}", "num_classes": 80})
    shapes = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32))
    count = sum(x.size for x in jax.tree.leaves(shapes["params"])) / 1e6
    assert abs(count - PUBLISHED[size]) < (0.05 if count > 10 else 0.005)
