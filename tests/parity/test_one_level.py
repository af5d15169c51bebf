"""RPN, Faster and Mask R-CNN on one level (C4, DC5) against a network of torchvision's parts.

Compared: the level, raw outputs of both stages (of given regions), proposals and detections from the same raw outputs,
every loss term, names of OpenMMLab's files, and the size of the full network.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.config import build
from jaxvision.detection.faster_rcnn import FasterRCNN
from jaxvision.ops import pack_masks
from jaxvision.pretrained import keymaps
from jaxvision.pretrained.load import match, open_weights
from jaxvision.trees import flatten
from tests.conftest import strict
from tests.detection.test_every_detector import COUNTS
from tests.parity.detections import instances, rows, unmatched
from tests.parity.torch_weights import error, load_tool, nhwc
from tests.parity.two_stage import CLASSES, EVERY, SIZE, by_image, load, truth

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
one_level = pytest.importorskip("tests.parity.one_level")
calibrate = load_tool("calibrate").calibrate

FORMS = {"faster_rcnn_c4": ("c4", -1.0), "mask_rcnn_c4": ("c4", 0.0), "faster_rcnn_dc5": ("dc5", 0.0)}
SIZES = [SIZE, (112, 144)]
FEW = {"candidates": 300, "max_detections": 60}


def everything(model, variables, images, batch, rois):
    """The level, what is said of given regions, outputs of both kinds, and losses, in one program."""

    def of_regions(model, images, rois):
        levels = model.neck(model.backbone(images, train=False))
        masks = model.every_mask(levels, rois) if hasattr(model, "mask_depth") else None
        return levels, *model.regions(levels, rois), masks

    inputs = {"image": images, "size": batch["size"]}
    keys = {"sampling": jax.random.key(0)}
    learned = model.apply(variables, inputs, train=True, targets=batch["targets"], rngs=keys)
    regions = model.apply(variables, images, rois, method=of_regions)
    return regions, model.apply(variables, inputs), learned, model.loss(learned, batch)


@pytest.fixture(scope="module", params=FORMS)
def compared(request, tmp_path_factory):
    form, border = FORMS[request.param]
    torch.manual_seed(0)
    theirs = one_level.OneLevel(form, CLASSES, masks="mask" in request.param, linear=64)
    rois = np.concatenate([np.c_[np.full(12, i), truth(12, i + 1)[0]] for i in (0, 1)]).astype(np.float32)
    calibrate(theirs, torch.rand(4, 3, *SIZE), torch.tensor(rois))
    with torch.no_grad():
        theirs.roi_head.bbox_head.fc_cls.weight *= 10
    sampler = {"count": EVERY, "positive_fraction": 200 / EVERY}
    proposals = {"sampler": {"count": EVERY}, "training": FEW, "evaluation": FEW}
    model = build(
        "model",
        {
            "name": request.param,
            "num_classes": CLASSES,
            "backbone": {"depth": 14, "norm": "frozen_bn"},
            "proposals": proposals,
            "stage": {"sampler": sampler},
            "width": 64,
        },
    )
    state = {name: value.numpy() for name, value in theirs.state_dict().items()}
    variables = load(model, state, tmp_path_factory.mktemp("weights") / "weights.pth", source="openmmlab")
    images, objects = torch.rand(2, 3, *SIZE), [truth(5), truth(3, 1)]
    images[1, :, SIZES[1][0] :], images[1, :, :, SIZES[1][1] :] = 0, 0
    objects[1] = (0.875 * objects[1][0], objects[1][1])
    bitmaps = np.zeros((2, 8, *SIZE), bool)
    for own, (boxes, _) in zip(bitmaps, objects, strict=True):
        for mask, (x1, y1, x2, y2) in zip(own, boxes.round().astype(int), strict=False):
            mask[y1:y2, x1 : (x1 + x2 + 1) // 2 + 2] = True
    batch = {
        "targets": instances(objects).replace(masks=jnp.asarray(pack_masks(bitmaps))),
        "size": jnp.asarray(SIZES, jnp.float32),
        "valid": jnp.ones(2, bool),
    }
    with strict():
        found = jax.jit(everything, static_argnums=0)(model, variables, nhwc(images), batch, by_image(rois)[0])
    with torch.no_grad():
        said = theirs(images, torch.tensor(rois))
    return theirs, model, found, said, objects, bitmaps, border


def test_the_level_and_both_stages_equal_torchvisions_parts(compared):
    _, _, ((levels, logits, deltas, masks), outputs, _, _), said, *_ = compared
    (level,) = levels.values()
    pairs = {
        "level": (np.moveaxis(np.asarray(level), -1, 1), said[0]),
        "anchor logits": (outputs["rpn"]["logits"][0], said[1]),
        "anchor deltas": (outputs["rpn"]["deltas"][0], said[2]),
        "logits": (logits, said[3].reshape(2, 12, -1)),
        "deltas": (deltas, said[4].reshape(2, 12, CLASSES, 4)),
    }
    if masks is not None:
        assert masks.shape[2:] == (14, 14, CLASSES)
        pairs["masks"] = (np.moveaxis(np.asarray(masks), -1, 2), said[5].reshape(2, 12, CLASSES, 14, 14))
    for name, (ours, theirs) in pairs.items():
        measured = error(ours, theirs)
        print(name, f"{measured:.1e}")
        assert measured <= 1e-4, name
    places = one_level.anchors(*level.shape[1:3])
    np.testing.assert_allclose(outputs["rpn"]["anchors"][0], places, atol=1e-4)


def test_proposals_and_detections_equal_a_torch_program(compared):
    """From the same raw outputs."""
    theirs, model, (_, outputs, _, _), (level, logits, deltas, *_), *_ = compared
    size = jnp.asarray(SIZES, jnp.float32)
    places = one_level.anchors(*level.shape[2:])
    cells = (places[:, :2] + places[:, 2:]) / 2
    same = {"logits": (jnp.asarray(logits.numpy()),), "deltas": (jnp.asarray(deltas.numpy()),)}
    with strict():
        proposed = model.proposals.propose({**outputs["rpn"], **same}, size)
    for image, (height, width) in enumerate(SIZES):
        # Cells of the canvas beyond the picture, rounded up to 32 pixels, propose nothing here: see rpn.py.
        inside = (cells < torch.tensor([-(-width // 32) * 32, -(-height // 32) * 32]) - 0.5).all(1)
        expected = one_level.propose(
            logits[image][inside], deltas[image][inside], places[inside], (height, width), *FEW.values()
        )
        np.testing.assert_allclose(rows(proposed, image)[0], expected, atol=2e-3)
        rois = torch.cat([torch.full((len(expected), 1), image), expected], dim=1)
        with torch.no_grad():
            raw = theirs.regions_say(level, rois)[:2]
        best = one_level.detect(*raw, expected, (height, width))
        given = [jnp.asarray(x.numpy())[None] for x in (*raw, expected)]
        outputs_of = dict(zip(("logits", "deltas", "rois"), given, strict=True))
        outputs_of["valid"] = jnp.ones((1, len(expected)), bool)
        with strict():
            found = FasterRCNN.predict(model, outputs_of, size[image : image + 1])
        print(len(best[0]), "detections")
        assert len(rows(found, 0)[0]) == len(best[0]) > 10
        assert unmatched(rows(found, 0), best) == 0


def test_losses_equal_a_torch_program(compared):
    theirs, _, (_, _, learned, terms), (level, logits, deltas, *_), objects, bitmaps, border = compared
    boxes = [torch.tensor(own) for own, _ in objects]
    first = one_level.anchor_losses(logits, deltas, one_level.anchors(*level.shape[2:]), SIZES, boxes, border)
    expected = dict(zip(("objectness", "proposal_box"), first, strict=True))
    second, weights, positives = [], [], []
    for image, (own, labels) in enumerate(objects):
        valid = np.asarray(learned["valid"][image])
        rois = torch.tensor(np.asarray(learned["rois"][image])[valid])
        with torch.no_grad():
            said = theirs.regions_say(level, torch.cat([torch.full((len(rois), 1), image), rois], dim=1))
        bits = torch.tensor(bitmaps[image, : len(own)])
        args = (rois, boxes[image], torch.tensor(labels, dtype=torch.long), bits)
        second.append(one_level.region_losses(*said, *args))
        weights.append(len(rois))
        positives.append(int(learned["samples"].positive[image].sum()))
    names = ("classification", "box", "mask")[: len(second[0])]
    for k, name in enumerate(names):
        counts = positives if name == "mask" else weights
        expected[name] = np.average([own[k] for own in second], weights=counts)
    assert set(terms) == set(expected) and min(positives) > 2
    for name, value in expected.items():
        print(name, float(terms[name][0] / terms[name][1]), value)
        np.testing.assert_allclose(terms[name][0] / terms[name][1], value, rtol=1e-3, err_msg=name)


@pytest.mark.parametrize("name", [*FORMS, "rpn_c4"])
def test_full_networks_are_of_the_same_size(name):
    form = FORMS.get(name, ("c4", 0))[0]
    with torch.device("meta"):
        theirs = one_level.OneLevel(form, 80, (3, 4, 6, 3), "mask" in name, of_regions=name != "rpn_c4")
    assert sum(p.numel() for p in theirs.parameters()) == COUNTS[name][1]


def test_the_shared_stage_starts_from_a_classifier(tmp_path):
    """As `pretrained.shared_head` of a config fills it."""
    theirs = one_level.torchvision.models.ResNet(one_level.torchvision.models.resnet.Bottleneck, [1, 1, 1, 1])
    torch.save(theirs.state_dict(), tmp_path / "classifier.pth")
    model = build("model", {"name": "faster_rcnn_c4", "num_classes": 3, "backbone": {"depth": 14}})
    wanted = flatten(jax.eval_shape(lambda key: model.init(key, jnp.zeros((1, 64, 64, 3))), jax.random.key(0)))
    file, card = open_weights(str(tmp_path / "classifier.pth"))
    state = theirs.state_dict()
    for part, layer in (("backbone", "layer2"), ("shared_head", "layer4")):
        found = match(file, card, wanted, keymaps.family_of(model), None, parts=(part,))
        kernel = found.values[f"params/{part}/{layer}_0/conv2/kernel"]
        np.testing.assert_array_equal(kernel, state[f"{layer}.0.conv2.weight"].permute(2, 3, 1, 0))
        assert {name.split("/")[1] for name in found.values} == {part}


def test_openmmlabs_names_come_back(compared):
    theirs, model, *_ = compared
    shapes = jax.eval_shape(lambda key: model.init(key, jnp.zeros((1, 64, 64, 3))), jax.random.key(0))
    variables = {name: np.broadcast_to(np.float32(0), leaf.shape) for name, leaf in flatten(shapes).items()}
    written = keymaps.to_state_dict(variables, keymaps.family_of(model).keys["openmmlab"])
    wanted = {k: v.shape for k, v in theirs.state_dict().items() if not k.endswith("num_batches_tracked")}
    assert {name: value.shape for name, value in written.items()} == wanted
