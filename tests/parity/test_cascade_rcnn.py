"""Cascade R-CNN against OpenMMLab (golden fixture): levels, heads of all stages, detections, every loss term, names.

Samplers take all candidates, there and here, so that losses are deterministic.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.config import build
from tests.conftest import strict
from tests.parity.detections import instances, rows, unmatched
from tests.parity.torch_weights import load_golden, nchw, nhwc
from tests.parity.two_stage import all_candidates, by_image, load

pytestmark = pytest.mark.parity
pytest.importorskip("torch")
STAGES = range(3)


def levels_and_regions(model, images, rois):
    features = model.backbone(images, train=False)
    pyramid = model.neck(features)
    return features, pyramid, [model.regions(i, pyramid, rois) for i in STAGES]


def everything(model, variables, images, batch, rois):
    """Levels, outputs, predictions and losses, in one program."""
    levels = model.apply(variables, images, rois, method=levels_and_regions)
    inputs = {"image": images, "size": batch["size"]}
    outputs = model.apply(variables, inputs)
    keys = {"sampling": jax.random.key(0)}
    learned = model.apply(variables, inputs, train=True, targets=batch["targets"], rngs=keys)
    return levels, outputs["rpn"], model.predict(outputs, batch["size"]), model.loss(learned, batch)


@pytest.fixture(scope="module")
def openmmlab(tmp_path_factory):
    golden, fixture = load_golden("mmdet_cascade-rcnn_r50_fpn")
    fields = {"num_classes": 80, "backbone": {"norm": "frozen_bn"}, **all_candidates("cascade_rcnn")}
    model = build("model", {"name": "cascade_rcnn", **fields})
    path = tmp_path_factory.mktemp("weights") / "weights.pth"
    variables = load(model, golden.state_dict(fixture), path, source="openmmlab")
    rois, place = by_image(fixture.gt["rois"])
    batch = {
        "targets": instances([(fixture.gt[f"{i}/bboxes"], fixture.gt[f"{i}/labels"]) for i in range(2)]),
        "size": jnp.asarray(fixture.input["valid"], jnp.float32),
        "valid": jnp.ones(2, bool),
    }
    with strict():
        run = jax.jit(everything, static_argnums=0)
        return golden, fixture, run(model, variables, nhwc(golden.inputs(fixture)), batch, rois), place


def test_levels_and_all_stages_equal_openmmlab(openmmlab):
    golden, fixture, ((features, pyramid, regions), rpn, _, _), place = openmmlab
    ours = {f"backbone/{i}": nchw(x) for i, x in enumerate(features.values())}
    ours |= {f"neck/{i}": nchw(x) for i, x in enumerate(pyramid.values())}
    for i, x in enumerate(pyramid.values()):
        for k, name in enumerate(("logits", "deltas")):
            ours[f"rpn/{k}/{i}"] = nchw(np.reshape(rpn[name][i], (*x.shape[:3], -1)))
    for i, said in enumerate(regions):
        logits, deltas = (np.asarray(x)[place] for x in said)
        ours |= {f"roi{i}/cls": logits, f"roi{i}/bbox": deltas.reshape(len(deltas), -1)}
    assert set(ours) == set(fixture.output_shapes)
    for name, values in ours.items():
        difference = golden.compare(fixture, name, values)
        print(name, f"{difference:.1e}", f"allowed {golden.tolerance(fixture, name):.1e}")
        assert difference <= golden.tolerance(fixture, name), name


def test_predictions_equal_openmmlab(openmmlab):
    """The fixture keeps the 50 best of each image."""
    _, fixture, (_, _, found, _), _ = openmmlab
    assert fixture.preds_stable
    for image in range(2):
        theirs = [fixture.preds[f"{image}/{name}"] for name in ("bboxes", "scores", "labels")]
        ours = rows(found, image)
        print(len(ours[0]), "of", fixture.preds[f"{image}/count"])
        assert len(ours[0]) == fixture.preds[f"{image}/count"]
        assert unmatched(ours, theirs) == 0


def test_losses_equal_openmmlab(openmmlab):
    _, fixture, (_, _, _, terms), _ = openmmlab
    names = {"objectness": "loss_rpn_cls", "proposal_box": "loss_rpn_bbox"}
    names |= {f"classification_{i}": f"s{i}.loss_cls" for i in STAGES} | {f"box_{i}": f"s{i}.loss_bbox" for i in STAGES}
    assert set(terms) == set(names)
    for ours, theirs in names.items():
        total = sum(value for name, value in fixture.losses.items() if name.startswith(theirs))
        print(ours, float(terms[ours][0] / terms[ours][1]), total)
        np.testing.assert_allclose(terms[ours][0] / terms[ours][1], total, rtol=1e-3)
