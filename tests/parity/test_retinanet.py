"""RetinaNet against OpenMMLab (golden fixture) and torchvision: raw outputs, detections, losses, published names."""

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
"""Not a multiple of 128, where torchvision's anchors of the coarsest levels lie closer together than their stride."""
CLASSES = 7


@pytest.fixture(scope="module")
def openmmlab(tmp_path_factory):
    return Dense.run("mmdet_retinanet_r50_fpn", "retinanet", tmp_path_factory.mktemp("weights"))


def test_levels_and_heads_equal_openmmlab(openmmlab):
    openmmlab.compare_heads("logits", "deltas")


def test_detections_equal_openmmlab(openmmlab):
    openmmlab.compare_own_detections()


def test_losses_equal_openmmlab(openmmlab):
    openmmlab.compare_own_losses({"classification": "loss_cls", "box": "loss_bbox"})


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """A sharp random torchvision network, images in 0..1, our model with its weights, and its outputs."""
    torch.manual_seed(0)
    theirs = torchvision.models.detection.retinanet_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=CLASSES, min_size=SIZE[0], max_size=SIZE[1]
    )
    calibrate(theirs, torch.rand(4, 3, *SIZE))
    with torch.no_grad():
        for name, parameter in theirs.head.named_parameters():
            if name.endswith("weight"):
                gain = 2.0 if "conv" in name else 0.2 if "bbox" in name else 1.0
                parameter.normal_(0, (gain / parameter[0].numel()) ** 0.5)
                parameter -= parameter.mean(dim=(1, 2, 3), keepdim=True)
            else:
                parameter.normal_(-1.0 if "cls_logits" in name else 0.0, 0.1)
    images = torch.rand(2, 3, *SIZE)
    norm = {"backbone": {"norm": {"epsilon": 1e-5}}}  # published weights have frozen statistics, and no epsilon
    model = build("model", {"name": "torchvision/retinanet", "num_classes": CLASSES, **norm})
    path = tmp_path_factory.mktemp("weights") / "retinanet.pth"
    state = {name: value.numpy() for name, value in theirs.state_dict().items()}
    variables = load(model, state, path, source="torchvision")
    mean, std = (torch.tensor(x).reshape(3, 1, 1) for x in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with strict():
        _, _, outputs = call(model, variables, nhwc((images - mean) / std))
    return theirs, images, model, state, outputs


@torch.no_grad()
def raw(theirs, images):
    """(head outputs, anchors of each image)."""
    batch, _ = theirs.transform(list(images))
    features = list(theirs.backbone(batch.tensors).values())
    return theirs.head(features), theirs.anchor_generator(batch, features)


def test_heads_and_anchors_equal_torchvision(reference):
    theirs, images, _, _, outputs = reference
    heads, anchors = raw(theirs, images)
    np.testing.assert_allclose(np.concatenate(outputs["anchors"]), anchors[0].numpy(), atol=1e-4)
    for name, key in (("logits", "cls_logits"), ("deltas", "bbox_regression")):
        measured = error(np.concatenate(outputs[name], axis=1), heads[key].numpy())
        print(name, f"{measured:.1e}")
        assert measured <= 1e-4


@torch.no_grad()
def test_detections_equal_torchvision(reference, monkeypatch):
    """From the same raw outputs and from our own, but for pairs on the edge of suppression, one of 300 (seen).

    Class by class: torchvision's default, moving the classes apart, rounds the boxes.
    """
    monkeypatch.setattr(torchvision.ops.boxes, "batched_nms", torchvision.ops.boxes._batched_nms_vanilla)
    theirs, images, model, _, outputs = reference
    heads, _ = raw(theirs, images)
    ends = np.cumsum([len(x) for x in outputs["anchors"]])[:-1]
    same = {
        name: tuple(map(jnp.asarray, np.split(heads[key].numpy(), ends, axis=1)))
        for name, key in (("logits", "cls_logits"), ("deltas", "bbox_regression"))
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
        assert max(missed) <= 0.01 * count


@torch.no_grad()
@pytest.mark.parametrize("count", [0, 1, 5])
def test_losses_equal_torchvision_image_by_image(reference, count):
    theirs, images, model, _, outputs = reference
    rng = np.random.default_rng(count)
    corners = rng.uniform(0, 1, (count, 2, 2)) * SIZE[::-1]
    boxes = np.concatenate([corners.min(1), corners.max(1) + 4], axis=1).astype(np.float32)
    labels = rng.integers(0, CLASSES, count)
    heads, anchors = raw(theirs, images)
    one = {name: value[:1] for name, value in heads.items()}
    expected = theirs.compute_loss(
        [{"boxes": torch.tensor(boxes).reshape(-1, 4), "labels": torch.tensor(labels)}], one, anchors[:1]
    )
    own = {name: values if name == "anchors" else tuple(x[:1] for x in values) for name, values in outputs.items()}
    batch = {
        "targets": instances([(boxes, labels)]),
        "size": jnp.asarray([SIZE], jnp.float32),
        "valid": jnp.ones(1, bool),
    }
    with strict():
        terms = loss(model, own, batch)
    for ours, name in (("classification", "classification"), ("box", "bbox_regression")):
        print(ours, float(terms[ours][0] / terms[ours][1]), float(expected[name]))
        np.testing.assert_allclose(terms[ours][0] / terms[ours][1], expected[name], rtol=1e-4, atol=1e-6)


def test_the_older_names_of_torchvisions_published_file_load(reference, tmp_path):
    _, _, model, state, _ = reference
    older = {}
    for name, value in state.items():
        name = name.replace("_blocks.0.0.", "_blocks.0.").replace("_blocks.1.0.", "_blocks.1.")
        name = name.replace("_blocks.2.0.", "_blocks.2.")
        for i in reversed(range(4)):
            name = name.replace(f"_head.conv.{i}.0.", f"_head.conv.{2 * i}.")
        older[name] = value
    assert "head.classification_head.conv.6.weight" in older and "backbone.fpn.inner_blocks.0.weight" in older
    path = tmp_path / "older.pth"
    variables = load(model, older, path)
    kernel = variables["params"]["head"]["classification_head"]["conv_3"]["kernel"]
    given = older["head.classification_head.conv.6.weight"]
    np.testing.assert_array_equal(np.transpose(kernel, (3, 2, 0, 1)), given)
    with pytest.raises(SetupError, match="load torchvision/retinanet instead"):
        jv.load_pretrained("retinanet", path, source="torchvision", num_classes=CLASSES)


def test_another_number_of_classes_replaces_only_the_last_layer_of_the_classifier(reference, tmp_path):
    _, _, _, state, _ = reference
    path = tmp_path / "weights.pth"
    model = build("model", {"name": "torchvision/retinanet", "num_classes": CLASSES})
    kept = load(model, state, path)
    fresh = jv.load_pretrained("torchvision/retinanet", path, num_classes=3)
    changed = jax.tree.map(lambda a, b: a.shape != b.shape or bool((a != b).any()), kept, fresh)
    named = {name for name, different in flatten(changed).items() if different}
    assert named == {f"params/head/classification_head/cls_logits/{leaf}" for leaf in ("kernel", "bias")}
