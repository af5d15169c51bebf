"""SSD against OpenMMLab (golden fixture) and torchvision: raw outputs, detections, losses, published names; SSD512's
extra layers against torch."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxvision as jv
from jaxvision.backbones.ssd_vgg import SSDVGG
from jaxvision.config import build
from jaxvision.detection.ssd import keys
from jaxvision.necks.ssd_extras import SSDExtras
from jaxvision.pretrained.keymaps import reference_names
from jaxvision.trees import flatten
from tests.conftest import strict
from tests.parity.detections import instances, rows, unmatched
from tests.parity.torch_weights import load_golden, load_tool, nchw, nhwc, relative

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
torchvision = load_tool("torchvision_cpu").torchvision
calibrate = load_tool("calibrate").calibrate

CLASSES = 7
SIZE = (300, 300)


def load(model, state_dict, path, **options):
    torch.save({name: torch.as_tensor(value) for name, value in state_dict.items()}, path)
    return jv.load_pretrained(model, path, **options)


predict = jax.jit(lambda model, outputs, size: model.predict(outputs, size), static_argnums=0)
loss = jax.jit(lambda model, outputs, batch: model.loss(outputs, batch), static_argnums=0)


def levels_and_outputs(model, images):
    features = model.backbone(images, train=False)
    return features, model.neck(features), model(images)


call = jax.jit(lambda model, v, x: model.apply(v, x, method=levels_and_outputs), static_argnums=0)


@pytest.fixture(scope="module")
def openmmlab(tmp_path_factory):
    golden, fixture = load_golden("mmdet_ssd300")
    model = build("model", {"name": "ssd300", "num_classes": 80})
    path = tmp_path_factory.mktemp("weights") / "ssd300.pth"
    variables = load(model, golden.state_dict(fixture), path, source="openmmlab")
    with strict():
        return golden, fixture, model, *call(model, variables, nhwc(golden.inputs(fixture)))


def test_levels_and_heads_equal_openmmlab(openmmlab):
    golden, fixture, _, features, pyramid, outputs = openmmlab
    ours = {f"backbone/{i}": nchw(x) for i, x in enumerate(features.values())}
    ours |= {f"neck/{i}": nchw(x) for i, x in enumerate(pyramid.values())}
    for i, x in enumerate(pyramid.values()):
        for k, name in enumerate(("logits", "deltas")):
            ours[f"head/{k}/{i}"] = nchw(np.reshape(outputs[name][i], (*x.shape[:3], -1)))
    assert set(ours) == set(fixture.output_shapes)
    for name, values in ours.items():
        difference = golden.compare(fixture, name, values)
        print(name, f"{difference:.1e}", f"allowed {golden.tolerance(fixture, name):.1e}")
        assert difference <= golden.tolerance(fixture, name), name


def test_detections_equal_openmmlab(openmmlab):
    _, fixture, model, _, _, outputs = openmmlab
    assert fixture.preds_stable
    with strict():
        found = predict(model, outputs, jnp.asarray(fixture.input["valid"], jnp.float32))
    theirs = [fixture.preds[f"0/{name}"] for name in ("bboxes", "scores", "labels")]
    ours = rows(found, 0)
    print(len(ours[0]), unmatched(ours, theirs))
    assert len(ours[0]) == fixture.preds["0/count"]
    assert (np.diff(ours[1]) <= 0).all()
    assert unmatched(ours, theirs) == 0


def test_losses_equal_openmmlab(openmmlab):
    _, fixture, model, _, _, outputs = openmmlab
    batch = {"targets": instances([(fixture.gt["0/bboxes"], fixture.gt["0/labels"])]), "valid": jnp.ones(1, bool)}
    with strict():
        terms = loss(model, outputs, batch)
    for ours, theirs in (("classification", "loss_cls/0"), ("box", "loss_bbox/0")):
        print(ours, float(terms[ours][0] / terms[ours][1]), fixture.losses[theirs])
        np.testing.assert_allclose(terms[ours][0] / terms[ours][1], fixture.losses[theirs], rtol=1e-4)


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """A sharp random torchvision network, two images in 0..1, our model with its weights, and its outputs."""
    torch.manual_seed(0)
    theirs = torchvision.models.detection.ssd300_vgg16(weights=None, weights_backbone=None, num_classes=CLASSES + 1)
    theirs.transform.image_mean, theirs.transform.image_std = [0.5] * 3, [0.25] * 3
    calibrate(theirs, torch.rand(2, 3, *SIZE))
    images = torch.nn.functional.interpolate(torch.rand(2, 3, 12, 12), SIZE, mode="bilinear")
    with torch.no_grad():
        levels = list(theirs.backbone((images - 0.5) / 0.25).values())
        for part, spread in ((theirs.head.classification_head, 2.0), (theirs.head.regression_head, 0.5)):
            for level, conv in zip(levels, part.module_list, strict=True):
                conv.bias.normal_(0, 0.1)
                conv.weight *= spread / conv(level).std()
    model = build("model", {"name": "torchvision/ssd300", "num_classes": CLASSES})
    path = tmp_path_factory.mktemp("weights") / "ssd300_vgg16.pth"
    variables = load(model, theirs.state_dict(), path, source="torchvision")
    with strict():
        *_, outputs = call(model, variables, nhwc((images - 0.5) / 0.25))
    return theirs.eval(), images, model, outputs


@torch.no_grad()
def raw(theirs, images):
    batch, _ = theirs.transform(list(images))
    levels = list(theirs.backbone(batch.tensors).values())
    return theirs.head(levels), theirs.anchor_generator(batch, levels)


def test_heads_and_anchors_equal_torchvision(reference):
    theirs, images, _, outputs = reference
    heads, anchors = raw(theirs, images)
    np.testing.assert_allclose(np.concatenate(outputs["anchors"]), anchors[0].numpy(), atol=1e-3)
    logits = np.roll(np.concatenate(outputs["logits"], axis=1), 1, axis=-1)
    deltas = np.concatenate(outputs["deltas"], axis=1)
    for name, ours, key in (("logits", logits, "cls_logits"), ("deltas", deltas, "bbox_regression")):
        measured = relative(ours, heads[key].numpy())
        print(name, f"{measured:.1e}")
        assert measured <= 1e-4


@torch.no_grad()
def test_detections_equal_torchvision(reference, monkeypatch):
    """Class by class: torchvision's default, moving the classes apart, rounds the boxes."""
    monkeypatch.setattr(torchvision.ops.boxes, "batched_nms", torchvision.ops.boxes._batched_nms_vanilla)
    theirs, images, model, outputs = reference
    with strict():
        found = predict(model, outputs, jnp.asarray([SIZE, SIZE], jnp.float32))
    for image, expected in enumerate(theirs(list(images))):
        expected = [expected["boxes"].numpy(), expected["scores"].numpy(), expected["labels"].numpy() - 1]
        missed = unmatched(rows(found, image), expected)
        print(missed, "of", len(expected[0]))
        assert len(rows(found, image)[0]) == len(expected[0]) > 20
        assert missed <= 0.01 * len(expected[0])


@torch.no_grad()
@pytest.mark.parametrize("count", [0, 1, 5])
def test_losses_equal_torchvision_image_by_image(reference, count):
    theirs, images, model, outputs = reference
    rng = np.random.default_rng(count)
    corners = rng.uniform(0, 1, (count, 2, 2)) * SIZE
    boxes = np.concatenate([corners.min(1), np.minimum(corners.max(1) + 20, SIZE)], axis=1).astype(np.float32)
    labels = rng.integers(0, CLASSES, count)
    heads, anchors = raw(theirs, images)
    target = {"boxes": torch.tensor(boxes).reshape(-1, 4), "labels": torch.tensor(labels, dtype=torch.int64) + 1}
    matched = torch.full((len(anchors[0]),), -1)
    if count:
        matched = theirs.proposal_matcher(torchvision.ops.box_iou(target["boxes"], anchors[0]))
    expected = theirs.compute_loss([target], {k: v[:1] for k, v in heads.items()}, anchors[:1], [matched])
    own = {name: values if name == "anchors" else tuple(x[:1] for x in values) for name, values in outputs.items()}
    with strict():
        terms = loss(model, own, {"targets": instances([(boxes, labels)]), "valid": jnp.ones(1, bool)})
    for ours, name in (("classification", "classification"), ("box", "bbox_regression")):
        print(ours, float(terms[ours][0] / terms[ours][1]), float(expected[name]))
        np.testing.assert_allclose(terms[ours][0] / terms[ours][1], expected[name], rtol=1e-4, atol=1e-6)


def test_another_number_of_classes_replaces_only_the_classifier(reference, tmp_path):
    theirs, _, model, _ = reference
    path = tmp_path / "weights.pth"
    kept = load(model, theirs.state_dict(), path, source="torchvision")
    fresh = jv.load_pretrained("torchvision/ssd300", path, num_classes=3)
    changed = jax.tree.map(lambda a, b: a.shape != b.shape or bool((a != b).any()), kept, fresh)
    named = {name for name, different in flatten(changed).items() if different}
    assert named and all(name.startswith("params/head/classification_head/") for name in named)


def test_a_classifiers_file_fills_the_backbone(tmp_path):
    theirs = torchvision.models.vgg16(weights=None)
    path = tmp_path / "vgg16.pth"
    torch.save(theirs.state_dict(), path)
    variables = jv.load_pretrained(SSDVGG(), path, source="torchvision")
    kernel = variables["params"]["features_28"]["kernel"]
    assert variables["params"]["features_31"]["kernel"].shape == (3, 3, 512, 1024)
    np.testing.assert_array_equal(np.transpose(kernel, (3, 2, 0, 1)), theirs.features[28].weight.detach())


def test_the_extra_layers_of_ssd512_equal_torch():
    """A small torch form of footnote 5: five pairs of convolutions down to one pixel of 512, the last one 4 x 4."""
    torch.manual_seed(0)
    entry = jv.registry.lookup("model", "ssd512").preset["neck"]
    neck = SSDExtras(**{key: value for key, value in entry.items() if key != "name"}).clone(
        channels=(16, 12, 12, 12, 8)
    )
    inputs = {"c3": torch.randn(2, 12, 64, 64), "c4": torch.randn(2, 20, 32, 32)}
    shapes = jax.eval_shape(lambda x: neck.init(jax.random.key(0), x), {name: nhwc(x) for name, x in inputs.items()})
    draw = np.random.default_rng(0).normal
    variables = jax.tree.map(lambda x: draw(0, (2 / max(np.prod(x.shape[:-1]), 9)) ** 0.5, x.shape).astype("f"), shapes)
    with strict():
        ours = jax.jit(neck.apply)(variables, {name: nhwc(x) for name, x in inputs.items()})
    scale = torch.tensor(np.asarray(variables["params"]["l2_norm"]["scale"]))
    normed = torch.nn.functional.normalize(inputs["c3"]) * scale.reshape(1, -1, 1, 1)
    expected, x = [normed, inputs["c4"]], inputs["c4"]
    for i, (stride, kernel) in enumerate(((2, 3), (2, 3), (2, 3), (2, 3), (1, 4))):
        layer = variables["params"][f"extra_layers_{i}"]
        for name, options in (("conv1", {}), ("conv2", {"stride": stride, "padding": 1})):
            weight = torch.tensor(np.transpose(layer[name]["kernel"], (3, 2, 0, 1)).copy())
            assert weight.shape[-1] == (1 if name == "conv1" else kernel)
            bias = torch.tensor(np.asarray(layer[name]["bias"]))
            x = torch.relu(torch.nn.functional.conv2d(x, weight, bias, **options))
        expected.append(x)
    assert [x.shape[-1] for x in expected] == [64, 32, 16, 8, 4, 2, 1]
    for (name, y), theirs in zip(ours.items(), expected, strict=True):
        measured = relative(nchw(y), theirs.numpy())
        print(name, f"{measured:.1e}")
        assert measured <= 1e-5


def test_ssd512_has_the_names_and_shapes_of_openmmlab():
    """Its published file follows from its config: channels of seven levels, 4 or 6 anchors, 81 classes."""
    model = build("model", {"name": "ssd512", "num_classes": 80})
    images = jax.ShapeDtypeStruct((1, 512, 512, 3), jnp.float32)
    params = flatten(jax.eval_shape(lambda x: model.init(jax.random.key(0), x), images))
    ours = {}
    for name, leaf in params.items():
        (theirs,) = reference_names(name, keys(model)["openmmlab"])
        ours[theirs] = (*leaf.shape[:1:-1], *leaf.shape[:2]) if len(leaf.shape) == 4 else leaf.shape
    channels, anchors = (512, 1024, 512, 256, 256, 256, 256), (4, 6, 6, 6, 6, 4, 4)
    expected = {"neck.l2_norm.weight": (512,)}
    for i, (before, after) in enumerate(itertools.pairwise(channels[1:])):
        width = 4 if i == 4 else 3
        for part, shape in ((0, (after // 2, before, 1, 1)), (1, (after, after // 2, width, width))):
            name = f"neck.extra_layers.{i}.{part}.conv"
            expected |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    for i, (width, count) in enumerate(zip(channels, anchors, strict=True)):
        for kind, numbers in (("cls", 81), ("reg", 4)):
            name = f"bbox_head.{kind}_convs.{i}.0"
            expected |= {f"{name}.weight": (count * numbers, width, 3, 3), f"{name}.bias": (count * numbers,)}
    _, fixture = load_golden("mmdet_ssd300")
    expected |= {name: tuple(shape) for name, shape in fixture.shapes.items() if name.startswith("backbone.")}
    assert ours == expected
