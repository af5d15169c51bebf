"""Panoptic FPN against OpenMMLab (golden fixture): levels, heads, the branch of stuff, the map, losses, names."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.config import build
from jaxvision.ops import pack_masks
from jaxvision.pretrained import keymaps
from jaxvision.trees import flatten
from tests.conftest import strict
from tests.parity.detections import instances
from tests.parity.torch_weights import load_golden, nchw, nhwc
from tests.parity.two_stage import EVERY, SIZE, all_candidates, by_image, load

pytestmark = pytest.mark.parity
pytest.importorskip("torch")
THINGS, VOID = 80, 133


def of_regions(model, images, rois):
    backbone = model.backbone(images, train=False)
    pyramid = model.neck(backbone, train=False)
    return backbone, pyramid, *model.regions(pyramid, rois), model.every_mask(pyramid, rois)


@pytest.fixture(scope="module")
def openmmlab(tmp_path_factory):
    golden, fixture = load_golden("mmdet_panoptic-fpn_r50_fpn")
    fields = {"num_classes": 133, "backbone": {"norm": "frozen_bn"}, **all_candidates("panoptic_fpn")}
    fields["stage"]["sampler"]["positive_fraction"] = 500 / EVERY  # more than there are; masks of each are computed
    model = build("model", {"name": "panoptic_fpn", **fields})
    path = tmp_path_factory.mktemp("weights") / "weights.pth"
    state = golden.state_dict(fixture)
    variables = load(model, state, path, source="openmmlab")
    rois, place = by_image(fixture.gt["rois"])
    targets = instances([(fixture.gt[f"{i}/bboxes"], fixture.gt[f"{i}/labels"]) for i in range(2)])
    canvas = np.zeros((*targets.labels.shape, *SIZE), bool)
    for i in range(2):
        masks = fixture.gt[f"{i}/masks"].astype(bool)
        canvas[i, : len(masks)] = masks
    batch = {
        "targets": targets.replace(masks=jnp.asarray(pack_masks(canvas))),
        "semantic": jnp.asarray(np.stack([fixture.gt[f"{i}/sem_seg"] for i in range(2)])),
        "size": jnp.asarray([SIZE, SIZE], jnp.float32),
        "valid": jnp.ones(2, bool),
    }

    @jax.jit
    def everything(variables, images, batch):
        inputs = {"image": images, "size": batch["size"]}
        outputs = model.apply(variables, inputs)
        learned = model.apply(
            variables, inputs, train=True, targets=batch["targets"], rngs={"sampling": jax.random.key(0)}
        )
        regions = model.apply(variables, images, rois, method=of_regions)
        return regions, outputs, model.predict(outputs, batch["size"]), model.loss(learned, batch)

    with strict():
        found = everything(variables, nhwc(golden.inputs(fixture)), batch)
    return golden, fixture, found, place, (model, variables, state)


def test_levels_and_heads_equal_openmmlab(openmmlab):
    golden, fixture, ((backbone, pyramid, logits, deltas, masks), outputs, _, _), place, _ = openmmlab
    deltas = np.asarray(deltas)[place]
    ours = {
        **{f"backbone/{i}": nchw(backbone[f"c{i + 2}"]) for i in range(4)},
        **{f"neck/{i}": nchw(pyramid[f"p{i + 2}"]) for i in range(5)},
        "roi/cls": np.asarray(logits)[place],
        "roi/bbox": deltas.reshape(len(deltas), -1),
        "roi/mask": np.moveaxis(np.asarray(masks)[place], -1, 1),
        "semantic/seg_preds": nchw(outputs["semantic"]),
    }
    for name, values in ours.items():
        difference = golden.compare(fixture, name, values)
        print(name, f"{difference:.1e}", f"allowed {golden.tolerance(fixture, name):.1e}")
        assert difference <= golden.tolerance(fixture, name), name


def test_panoptic_maps_equal_openmmlab(openmmlab):
    """Theirs hold the class, and 1000 times the number of a thing; 133 where nothing is."""
    _, fixture, (_, _, found, _), _, _ = openmmlab
    for image in range(2):
        theirs = fixture.preds[f"{image}/panoptic"][0]
        numbers, labels = np.asarray(found.panoptic[image]), np.asarray(found.labels[image])
        classes = np.where(numbers > 0, labels[numbers - 1], VOID)
        wrong = (classes != theirs % 1000).mean()
        print("pixels that differ", f"{wrong:.1e}", "classes", np.unique(classes))
        assert wrong <= 2e-3
        assert len(np.unique(numbers[classes < THINGS])) == len(np.unique(theirs[theirs >= 1000]))


def test_losses_equal_openmmlab(openmmlab):
    _, fixture, (_, _, _, terms), _, _ = openmmlab
    names = {"objectness": "loss_rpn_cls", "proposal_box": "loss_rpn_bbox", "mask": "loss_mask"}
    names |= {"classification": "loss_cls", "box": "loss_bbox", "semantic": "loss_seg"}
    assert set(terms) == set(names)
    for ours, theirs in names.items():
        total = sum(value for name, value in fixture.losses.items() if name.startswith(theirs))
        print(ours, float(terms[ours][0] / terms[ours][1]), total)
        np.testing.assert_allclose(terms[ours][0] / terms[ours][1], total, rtol=1e-3)


def test_openmmlabs_names_and_values_come_back(openmmlab):
    model, variables, state = openmmlab[-1]
    written = keymaps.to_state_dict(flatten(variables), keymaps.family_of(model).keys["openmmlab"])
    wanted = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    assert set(written) == set(wanted)
    for name, value in wanted.items():
        np.testing.assert_array_equal(written[name], value, err_msg=name)
