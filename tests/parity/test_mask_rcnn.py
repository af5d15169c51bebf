"""Mask R-CNN against OpenMMLab (golden fixture) and torchvision: heads, detections with masks, losses, names."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxvision as jv
from jaxvision.config import build
from jaxvision.ops import pack_masks, paste_masks_on_host, unpack_masks
from jaxvision.pretrained import keymaps
from jaxvision.trees import flatten
from tests.conftest import strict
from tests.parity.detections import instances, overlaps, rows, unmatched
from tests.parity.openmmlab import Golden
from tests.parity.torch_weights import error, load_tool, nhwc
from tests.parity.two_stage import (
    CLASSES,
    EVERY,
    SIZE,
    all_candidates,
    by_image,
    load,
    load_torchvision,
    randomize,
    torch_losses,
    truth,
)

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
torchvision = load_torchvision()
calibrate = load_tool("calibrate").calibrate


def of_regions(model, images, rois):
    pyramid = model.neck(model.backbone(images, train=False))
    return *model.regions(pyramid, rois), model.every_mask(pyramid, rois)


def everything(model, variables, images, batch, rois):
    """What is said of given regions, detections and losses, in one program."""
    regions = model.apply(variables, images, rois, method=of_regions)
    inputs = {"image": images, "size": batch["size"]}
    outputs = model.apply(variables, inputs)
    keys = {"sampling": jax.random.key(0)}
    learned = model.apply(variables, inputs, train=True, targets=batch["targets"], rngs=keys)
    return regions, model.predict(outputs, batch["size"]), model.loss(learned, batch)


run = jax.jit(everything, static_argnums=0)


def batch_of(per_image, masks, size):
    """`masks`: [n, h, w] of each image, beside its (boxes, labels)."""
    targets = instances(per_image)
    canvas = np.zeros((*targets.labels.shape, *SIZE), bool)
    for i, own in enumerate(masks):
        canvas[i, : len(own), : own.shape[1], : own.shape[2]] = own
    targets = targets.replace(masks=jnp.asarray(pack_masks(canvas)))
    return {"targets": targets, "size": jnp.asarray(size, jnp.float32), "valid": jnp.ones(len(per_image), bool)}


@pytest.fixture(scope="module")
def openmmlab(tmp_path_factory):
    fields = {"backbone": {"norm": "frozen_bn"}, **all_candidates("mask_rcnn")}
    fields["stage"]["sampler"]["positive_fraction"] = 500 / EVERY  # more than there are; masks of each are computed
    own = Golden.read("mmdet_mask-rcnn_r50_fpn", "mask_rcnn", tmp_path_factory.mktemp("weights"), **fields)
    rois, place = by_image(own.fixture.gt["rois"])
    masks = [own.fixture.gt[f"{i}/masks"].astype(bool) for i in range(2)]
    batch = batch_of(own.truth, masks, own.fixture.input["valid"])
    with strict():
        found = run(own.model, own.variables, own.images, batch, rois)
    return own, found, place


def test_heads_equal_openmmlab(openmmlab):
    own, ((logits, deltas, masks), _, _), place = openmmlab
    deltas = np.asarray(deltas)[place]
    ours = {
        "roi/cls": np.asarray(logits)[place],
        "roi/bbox": deltas.reshape(len(deltas), -1),
        "roi/mask": np.moveaxis(np.asarray(masks)[place], -1, 1),
    }
    own.compare(ours, whole=False)


def test_detections_and_their_masks_equal_openmmlab(openmmlab):
    """The fixture keeps the 50 best of each image, of the first eight the masks, of the others their areas."""
    own, (_, found, _), _ = openmmlab
    own.compare_detections(found)
    fixture = own.fixture
    for image in range(2):
        boxes, scores, labels = (fixture.preds[f"{image}/{name}"] for name in ("bboxes", "scores", "labels"))
        ours = rows(found, image)
        same = (overlaps(boxes, ours[0]) > 0.99) & (labels[:, None] == ours[2][None])
        same &= np.abs(scores[:, None] - ours[1][None]) < 1e-3
        size = tuple(fixture.input["valid"][image])
        masks = np.asarray(found.masks[image])[same.argmax(1)]
        pasted = paste_masks_on_host(masks, boxes, size)
        theirs = fixture.preds[f"{image}/masks_packed"]
        theirs = unpack_masks(theirs, size[1])
        wrong = (pasted[: len(theirs)] != theirs).mean(axis=(1, 2))
        areas = pasted.sum(axis=(1, 2)), fixture.preds[f"{image}/mask_areas"]
        print("pixels that differ", f"{wrong.max():.1e}", "areas", np.abs(areas[0] - areas[1]).max())
        assert wrong.max() <= 2e-3
        np.testing.assert_allclose(*areas, rtol=5e-3, atol=3)


def test_losses_equal_openmmlab(openmmlab):
    own, (_, _, terms), _ = openmmlab
    names = {"objectness": "loss_rpn_cls", "proposal_box": "loss_rpn_bbox", "mask": "loss_mask"}
    own.compare_losses(terms, names | {"classification": "loss_cls", "box": "loss_bbox"}, rtol=1e-3)


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """A sharp random torchvision network, images in 0..1, our model with its weights, regions, and what ours says."""
    torch.manual_seed(0)
    theirs = torchvision.models.detection.maskrcnn_resnet50_fpn(
        weights=None,
        weights_backbone=None,
        num_classes=CLASSES + 1,
        min_size=SIZE[0],
        max_size=SIZE[1],
        rpn_pre_nms_top_n_train=200,
        rpn_pre_nms_top_n_test=100,
        rpn_post_nms_top_n_train=80,
        rpn_post_nms_top_n_test=60,
        box_detections_per_img=20,
    )
    calibrate(theirs, torch.rand(4, 3, *SIZE))
    randomize(theirs)
    images = torch.rand(2, 3, *SIZE)
    fields = {
        "backbone": {"norm": {"epsilon": 1e-5}},  # published weights have frozen statistics, and no epsilon
        "proposals": {
            "sampler": {"count": EVERY},
            "training": {"candidates": 200, "max_detections": 80},
            "evaluation": {"candidates": 100, "max_detections": 60},
        },
        "stage": {"sampler": {"count": EVERY}},
        "suppression": {"max_detections": 20},
    }
    model = build("model", {"name": "torchvision/mask_rcnn", "num_classes": CLASSES, **fields})
    path = tmp_path_factory.mktemp("weights") / "mask_rcnn.pth"
    state = {name: value.numpy() for name, value in theirs.state_dict().items()}
    variables = load(model, state, path, source="torchvision")
    boxes, labels = truth(5)
    x, y = np.arange(SIZE[1]) + 0.5, np.arange(SIZE[0])[:, None] + 0.5
    left, top, right, bottom = boxes.T[..., None, None]
    inside = ((x - (left + right) / 2) / (right - left)) ** 2 + ((y - (top + bottom) / 2) / (bottom - top)) ** 2 < 0.25
    per_image, masks = [(boxes, labels), (boxes[:2], labels[:2])], [inside, inside[:2]]
    rois = np.stack([truth(12, seed)[0] for seed in (1, 2)])
    mean, std = (torch.tensor(x).reshape(3, 1, 1) for x in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    batch = batch_of(per_image, masks, [SIZE, SIZE])
    with strict():
        found = run(model, variables, nhwc((images - mean) / std), batch, jnp.asarray(rois))
    return theirs, images, model, state, variables, found, rois, (per_image, masks)


@torch.no_grad()
def test_masks_of_given_regions_equal_torchvision(reference):
    theirs, images, _, _, _, ((_, _, masks), _, _), rois, _ = reference
    batch, _ = theirs.eval().transform(list(images))
    features = theirs.backbone(batch.tensors)
    heads = theirs.roi_heads
    pooled = heads.mask_roi_pool(features, list(torch.tensor(rois)), batch.image_sizes)
    expected = heads.mask_predictor(heads.mask_head(pooled)).numpy()[:, 1:]
    measured = error(np.moveaxis(np.asarray(masks), -1, 2), expected.reshape(2, -1, *expected.shape[1:]))
    print(f"{measured:.1e}")
    assert measured <= 1e-4


@torch.no_grad()
def test_masks_of_detections_equal_torchvision(reference):
    """Of those that both find: of 20, one on the edge of suppression may change sides."""
    theirs, images, _, _, _, (_, found, _), _, _ = reference
    for image, expected in enumerate(theirs.eval()(list(images))):
        boxes, scores, labels = (expected[name].numpy() for name in ("boxes", "scores", "labels"))
        ours = rows(found, image)
        assert len(boxes) == 20 and unmatched(ours, (boxes, scores, labels - 1)) <= 1
        same = (overlaps(boxes, ours[0]) > 0.99) & (labels[:, None] - 1 == ours[2][None])
        common = same.any(1)
        masks = np.asarray(found.masks[image])[same[common].argmax(1)]
        pasted = paste_masks_on_host(masks, boxes[common], SIZE, form="integer")
        wrong = (pasted != (expected["masks"].numpy()[common, 0] >= 0.5)).mean(axis=(1, 2))
        print(image, common.sum(), f"{wrong.max():.1e}")
        assert wrong.max() <= 2e-3


def test_losses_equal_torchvision(reference):
    theirs, images, _, _, _, (_, _, terms), _, (per_image, masks) = reference
    expected = torch_losses(theirs, images, per_image, masks)
    names = {
        "objectness": "loss_objectness",
        "proposal_box": "loss_rpn_box_reg",
        "classification": "loss_classifier",
        "box": "loss_box_reg",
        "mask": "loss_mask",
    }
    assert set(terms) == set(names) and set(expected) == set(names.values())
    for ours, name in names.items():
        print(ours, float(terms[ours][0] / terms[ours][1]), expected[name])
        np.testing.assert_allclose(terms[ours][0] / terms[ours][1], expected[name], rtol=1e-3, atol=1e-6)


def test_torchvisions_names_and_values_come_back(reference):
    """All but the box and the mask of the background, which nothing reads."""
    _, _, model, state, variables, _, _, _ = reference
    written = keymaps.to_state_dict(flatten(variables), keymaps.family_of(model).keys["torchvision/module"])
    wanted = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    assert set(written) == set(wanted)
    for name, value in wanted.items():
        first = 1 if "mask_fcn_logits" in name else 4 if "box_predictor.bbox_pred" in name else 0
        np.testing.assert_array_equal(written[name][first:], value[first:], err_msg=name)


def test_the_older_names_of_torchvisions_published_file_load(reference, tmp_path):
    _, _, model, state, variables, _, _, _ = reference
    older = {name.replace("rpn.head.conv.0.0.", "rpn.head.conv."): value for name, value in state.items()}
    for i in range(4):
        older = {k.replace(f"mask_head.{i}.0.", f"mask_head.mask_fcn{i + 1}."): v for k, v in older.items()}
        for kind in ("inner", "layer"):
            new = f"backbone.fpn.{kind}_blocks.{i}."
            older = {name.replace(f"{new}0.", new): value for name, value in older.items()}
    assert "roi_heads.mask_head.mask_fcn4.weight" in older
    loaded = load(model, older, tmp_path / "older.pth")
    for a, b in zip(jax.tree.leaves(loaded), jax.tree.leaves(variables), strict=True):
        np.testing.assert_array_equal(a, b)


def test_another_number_of_classes_replaces_only_the_last_layers(reference, tmp_path):
    _, _, _, state, variables, _, _, _ = reference
    path = tmp_path / "weights.pth"
    torch.save({name: torch.from_numpy(np.array(value)) for name, value in state.items()}, path)
    fresh = jv.load_pretrained("torchvision/mask_rcnn", path, num_classes=3)
    changed = jax.tree.map(lambda a, b: a.shape != b.shape or bool((a != b).any()), variables, fresh)
    named = {name for name, different in flatten(changed).items() if different}
    last = ("box_predictor/cls_score", "box_predictor/bbox_pred", "mask_predictor/mask_fcn_logits")
    assert named == {f"params/{layer}/{leaf}" for layer in last for leaf in ("kernel", "bias")}
