"""FCOS against OpenMMLab (golden fixture) and torchvision: raw outputs, detections, losses, published names."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxvision as jv
from jaxvision.config import build
from jaxvision.errors import SetupError
from jaxvision.trees import flatten
from tests.conftest import strict
from tests.parity.detections import instances, rows, unmatched
from tests.parity.openmmlab import Dense, call, loss, predict
from tests.parity.torch_weights import error, load, load_tool, nhwc

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
torchvision = load_tool("torchvision_cpu").torchvision
calibrate = load_tool("calibrate").calibrate

SIZE = (192, 256)
"""Not a multiple of 128, where torchvision's points of the coarsest levels lie closer together than their stride."""
CLASSES = 7
OURS = {"classification": "loss_cls", "box": "loss_bbox", "centerness": "loss_centerness"}
TORCHVISION = {"logits": "cls_logits", "codes": "bbox_regression", "centerness": "bbox_ctrness"}


@pytest.fixture(scope="module")
def openmmlab(tmp_path_factory):
    return Dense.run("mmdet_fcos_r50-caffe_fpn_gn-head", "fcos", tmp_path_factory.mktemp("weights"))


def test_levels_and_heads_equal_openmmlab(openmmlab):
    outputs = openmmlab.outputs
    distances = [
        openmmlab.model.distances(codes, points[None, :, 2:])
        for codes, points in zip(outputs["codes"], outputs["points"], strict=True)
    ]
    openmmlab.compare_heads("logits", distances, "centerness")


def test_detections_equal_openmmlab(openmmlab):
    openmmlab.compare_own_detections()


def test_losses_equal_openmmlab(openmmlab):
    openmmlab.compare_own_losses(OURS)


def test_the_older_names_of_openmmlabs_predictors_load(openmmlab, tmp_path):
    model, state_dict = openmmlab.model, openmmlab.golden.state_dict(openmmlab.fixture)
    older = {name.replace("bbox_head.conv_", "bbox_head.fcos_"): x for name, x in state_dict.items()}
    assert "bbox_head.fcos_centerness.weight" in older
    again = load(model, older, tmp_path / "older.pth", source="openmmlab")
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), openmmlab.variables, again))


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """A sharp random torchvision network, images in 0..1, our model with its weights, and its outputs."""
    torch.manual_seed(0)
    theirs = torchvision.models.detection.fcos_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=CLASSES, min_size=SIZE[0], max_size=SIZE[1]
    )
    calibrate(theirs, torch.rand(4, 3, *SIZE))
    with torch.no_grad():
        for name, parameter in theirs.head.named_parameters():
            if parameter.ndim == 4:
                parameter.normal_(0, (2.0 / parameter[0].numel()) ** 0.5)
                parameter -= parameter.mean(dim=(1, 2, 3), keepdim=True)
            elif name.endswith("weight"):
                parameter.uniform_(0.5, 1.5)
            else:
                parameter.normal_(1.0 if "bbox_reg" in name else 0.0, 0.2)
    images = torch.rand(2, 3, *SIZE)
    model = build("model", {"name": "torchvision/fcos", "num_classes": CLASSES})
    path = tmp_path_factory.mktemp("weights") / "fcos.pth"
    state = {name: value.numpy() for name, value in theirs.state_dict().items()}
    variables = load(model, state, path, source="torchvision")
    mean, std = (torch.tensor(x).reshape(3, 1, 1) for x in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with strict():
        _, _, outputs = call(model, variables, nhwc((images - mean) / std))
    return theirs, images, model, state, outputs


@torch.no_grad()
def raw(theirs, images):
    """(head outputs, anchors of each image, their number on each level)."""
    batch, _ = theirs.transform(list(images))
    features = list(theirs.backbone(batch.tensors).values())
    counts = [x.shape[2] * x.shape[3] for x in features]
    return theirs.head(features), theirs.anchor_generator(batch, features), counts


def test_heads_and_points_equal_torchvision(reference):
    theirs, images, _, _, outputs = reference
    heads, anchors, counts = raw(theirs, images)
    points = np.concatenate(outputs["points"])
    corners = points[:, [0, 1, 0, 1]] + points[:, 2:] * [-0.5, -0.5, 0.5, 0.5]
    np.testing.assert_allclose(corners, anchors[0].numpy(), atol=1e-4)
    assert [len(x) for x in outputs["points"]] == counts
    measured = {
        "logits": error(np.concatenate(outputs["logits"], axis=1), heads["cls_logits"].numpy()),
        "codes": error(np.maximum(np.concatenate(outputs["codes"], axis=1), 0), heads["bbox_regression"].numpy()),
        "centerness": error(np.concatenate(outputs["centerness"], axis=1)[..., None], heads["bbox_ctrness"].numpy()),
    }
    print({name: f"{value:.1e}" for name, value in measured.items()})
    assert max(measured.values()) <= 1e-4


@torch.no_grad()
def test_detections_equal_torchvision(reference):
    """From the same raw outputs all of them; from our own, a pair on the edge of suppression may change sides."""
    theirs, images, model, _, outputs = reference
    heads, _, counts = raw(theirs, images)
    ends = np.cumsum(counts)[:-1]
    same = {
        name: tuple(jnp.asarray(np.reshape(x, own.shape)) for x, own in zip(parts, outputs[name], strict=True))
        for name, key in TORCHVISION.items()
        for parts in [np.split(heads[key].numpy(), ends, axis=1)]
    }
    size = jnp.asarray([SIZE, SIZE], jnp.float32)
    with strict():
        exact, own = predict(model, {**outputs, **same}, size), predict(model, outputs, size)
    for image, expected in enumerate(theirs.eval()(list(images))):
        expected = [expected[name].numpy() for name in ("boxes", "scores", "labels")]
        count = len(expected[0])
        assert len(rows(exact, image)[0]) == len(rows(own, image)[0]) == count > 20
        missed = unmatched(rows(exact, image), expected), unmatched(rows(own, image), expected)
        print(missed, "of", count)
        assert missed[0] == 0 and missed[1] <= 0.01 * count


@torch.no_grad()
@pytest.mark.parametrize("count", [0, 1, 5])
def test_losses_equal_torchvision_image_by_image(reference, count):
    theirs, images, model, _, outputs = reference
    rng = np.random.default_rng(count)
    corners = rng.uniform(0, 1, (count, 2, 2)) * SIZE[::-1]
    boxes = np.concatenate([corners.min(1), corners.max(1) + 4], axis=1).astype(np.float32)
    labels = rng.integers(0, CLASSES, count)
    heads, anchors, counts = raw(theirs, images)
    one = {name: value[:1] for name, value in heads.items()}
    truth = {"boxes": torch.tensor(boxes).reshape(-1, 4), "labels": torch.tensor(labels)}
    expected = theirs.compute_loss([truth], one, anchors[:1], counts)
    own = {name: values if name == "points" else tuple(x[:1] for x in values) for name, values in outputs.items()}
    batch = {
        "targets": instances([(boxes, labels)]),
        "size": jnp.asarray([SIZE], jnp.float32),
        "valid": jnp.ones(1, bool),
    }
    with strict():
        terms = loss(model, own, batch)
    for ours, name in (
        ("classification", "classification"),
        ("box", "bbox_regression"),
        ("centerness", "bbox_ctrness"),
    ):
        print(ours, float(terms[ours][0] / terms[ours][1]), float(expected[name]))
        np.testing.assert_allclose(terms[ours][0] / terms[ours][1], expected[name], rtol=1e-4, atol=1e-6)


def test_the_older_names_of_torchvisions_neck_load_and_the_wrong_row_is_refused(reference, tmp_path):
    _, _, model, state, _ = reference
    older = {
        ".".join(parts[:4] + parts[5:]) if ".fpn." in name and "extra" not in name and len(parts) == 6 else name: x
        for name, x in state.items()
        for parts in [name.split(".")]
    }
    assert "backbone.fpn.inner_blocks.0.weight" in older
    path = tmp_path / "older.pth"
    load(model, older, path)
    with pytest.raises(SetupError, match="load torchvision/fcos instead"):
        jv.load_pretrained("fcos", path, source="torchvision", num_classes=CLASSES)


def test_another_number_of_classes_replaces_only_the_last_layer_of_the_classifier(reference, tmp_path):
    _, _, model, state, _ = reference
    path = tmp_path / "weights.pth"
    kept = load(model, state, path)
    fresh = jv.load_pretrained("torchvision/fcos", path, num_classes=3)
    changed = jax.tree.map(lambda a, b: a.shape != b.shape or bool((a != b).any()), kept, fresh)
    named = {name for name, different in flatten(changed).items() if different}
    assert named == {f"params/head/cls_logits/{leaf}" for leaf in ("kernel", "bias")}
