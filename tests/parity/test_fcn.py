"""The dilated FCN against OpenMMLab (golden fixture) and torchvision: levels, heads, label maps, losses, names."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.config import build
from jaxvision.losses.pixels import CrossEntropy
from jaxvision.pretrained import keymaps
from jaxvision.pretrained.load import match, open_weights
from jaxvision.trees import flatten
from tests.conftest import strict
from tests.parity.semantic import Semantic, run
from tests.parity.torch_weights import error, load, load_golden, load_tool, nchw, nhwc

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
torchvision = load_tool("torchvision_cpu").torchvision
calibrate = load_tool("calibrate").calibrate
SIZE, CLASSES = (48, 64), 6


@pytest.fixture(scope="module")
def openmmlab(tmp_path_factory):
    return Semantic.run("mmseg_fcn_r50-d8", "fcn", tmp_path_factory.mktemp("weights"), num_classes=19)


def test_levels_heads_and_logits_equal_openmmlab(openmmlab):
    openmmlab.compare()


def test_label_maps_equal_openmmlab(openmmlab):
    openmmlab.compare_labels()


def test_losses_equal_openmmlab(openmmlab):
    openmmlab.compare_losses()


def test_openmmlabs_names_and_values_come_back(openmmlab):
    openmmlab.compare_names("openmmlab/v1c sequential")


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """A sharp random torchvision network with its auxiliary head, images, our model with its weights, its outputs."""
    torch.manual_seed(0)
    theirs = torchvision.models.segmentation.fcn_resnet50(
        weights=None, weights_backbone=None, num_classes=CLASSES, aux_loss=True
    )
    calibrate(theirs, torch.rand(4, 3, *SIZE))
    images = torch.rand(2, 3, *SIZE)
    model = build("model", {"name": "torchvision/fcn", "num_classes": CLASSES})
    path = tmp_path_factory.mktemp("weights") / "fcn.pth"
    state = {name: value.numpy() for name, value in theirs.state_dict().items()}
    variables = load(model, state, path)
    batch = {"semantic": torch.randint(0, CLASSES, (2, *SIZE)), "valid": np.ones(2, bool)}
    batch["semantic"][:, :5] = 255
    shown = {"semantic": jnp.asarray(batch["semantic"].numpy(), jnp.uint8), "valid": jnp.ones(2, bool)}

    @jax.jit
    def rest(outputs):
        return model.logits(outputs, SIZE), model.enlarge(outputs["auxiliary"][0], SIZE), model.loss(outputs, shown)

    _, outputs = run(model, variables, nhwc(images))
    with strict():
        ours = rest(outputs)
    with torch.no_grad():
        return theirs.eval()(images), batch["semantic"], ours, (model, variables, state)


def test_logits_equal_torchvision(reference):
    theirs, _, (logits, auxiliary, _), _ = reference
    measured = {"out": error(nchw(logits), theirs["out"]), "aux": error(nchw(auxiliary), theirs["aux"])}
    print({name: f"{value:.1e}" for name, value in measured.items()})
    assert max(measured.values()) <= 1e-4


def test_losses_equal_torchvisions_criterion(reference):
    """Its reference script adds half of the auxiliary loss."""
    theirs, labels, (_, _, terms), (model, _, _) = reference
    assert model.losses == (CrossEntropy(),)
    for term, name, weight in (("cross_entropy", "out", 1.0), ("auxiliary_cross_entropy", "aux", 0.5)):
        want = weight * torch.nn.functional.cross_entropy(theirs[name], labels, ignore_index=255)
        np.testing.assert_allclose(terms[term][0] / terms[term][1], want, rtol=1e-4)


def test_torchvisions_names_and_values_come_back(reference):
    *_, (model, variables, state) = reference
    written = keymaps.to_state_dict(flatten(variables), keymaps.family_of(model).keys["torchvision"])
    wanted = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    assert set(written) == set(wanted)
    for name, value in wanted.items():
        np.testing.assert_array_equal(written[name], value, err_msg=name)


@pytest.mark.parametrize("file", ["torchvision", "openmmlab"])
def test_a_classifiers_file_fills_the_backbone(tmp_path, file):
    """torchvision's ResNet-50, and OpenMMLab's form with three convolutions in the stem, by its fixture."""
    if file == "torchvision":
        state, name = torchvision.models.resnet50(weights=None).state_dict(), "torchvision/fcn"
    else:
        golden, fixture = load_golden("mmseg_fcn_r50-d8")
        whole = golden.state_dict(fixture)
        state = {key: torch.from_numpy(np.array(value)) for key, value in whole.items() if key.startswith("backbone.")}
        state["head.fc.weight"], state["head.fc.bias"], name = torch.zeros(10, 2048), torch.zeros(10), "fcn"
    path = tmp_path / "classifier.pth"
    torch.save(state, path)
    model = build("model", {"name": name, "num_classes": CLASSES})
    images = jax.ShapeDtypeStruct((1, *SIZE, 3), jnp.float32)
    wanted = flatten(jax.eval_shape(lambda x: model.init(jax.random.key(0), x), images))
    found = match(*open_weights(str(path)), wanted, keymaps.family_of(model), None, parts=("backbone",))
    assert found.source.startswith(file)
    assert set(found.values) == {own for own in wanted if own.split("/")[1] == "backbone"}
