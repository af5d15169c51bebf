"""SegFormer against OpenMMLab (golden fixture) and transformers: logits, label maps, losses, published names."""

import numpy as np
import pytest

import jaxvision as jv
from jaxvision.config import build
from tests.parity.semantic import Semantic, run
from tests.parity.torch_weights import error, load, load_tool, nchw, nhwc

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
calibrate = load_tool("calibrate").calibrate

CLASSES, SIZE = 7, (96, 64)
FIELDS = {"widths": (16, 32, 40, 64), "depths": (1, 1, 2, 1)}


@pytest.fixture(scope="module")
def openmmlab(tmp_path_factory):
    return Semantic.run("mmseg_segformer_mit-b0", "segformer", tmp_path_factory.mktemp("weights"), num_classes=19)


def test_levels_head_and_logits_equal_openmmlab(openmmlab):
    """The windows of OpenMMLab's prediction are larger than the fixture's images: there is one."""
    openmmlab.compare()


def test_label_maps_equal_openmmlab(openmmlab):
    openmmlab.compare_labels()


def test_losses_equal_openmmlab(openmmlab):
    openmmlab.compare_losses()


def test_openmmlabs_names_and_values_come_back(openmmlab):
    openmmlab.compare_names("openmmlab")


@pytest.fixture(scope="module")
def huggingface():
    """A small network of transformers, two images, and ours of the same form."""
    import transformers

    torch.manual_seed(0)
    config = transformers.SegformerConfig(
        hidden_sizes=FIELDS["widths"], depths=FIELDS["depths"], num_labels=CLASSES, decoder_hidden_size=48
    )
    theirs = transformers.SegformerForSemanticSegmentation(config)
    for parameter in theirs.parameters():
        if parameter.ndim >= 2:  # as they start, attention is even and nothing depends on the picture
            with torch.no_grad():
                parameter.normal_(0, (1.0 / parameter[0].numel()) ** 0.5)
    calibrate(theirs, torch.randn(4, 3, *SIZE))
    fields = {"width": 48, "backbone": FIELDS}
    return theirs, build("model", {"name": "huggingface/segformer", "num_classes": CLASSES, **fields})


@torch.no_grad()
def test_logits_equal_transformers(huggingface, tmp_path):
    theirs, model = huggingface
    images = torch.randn(2, 3, *SIZE)
    state = {name: value.numpy() for name, value in theirs.state_dict().items()}
    variables = load(model, state, tmp_path / "weights.bin", source="huggingface")
    _, outputs = run(model, variables, nhwc(images))
    difference = error(nchw(outputs["logits"]), theirs(images).logits.numpy())
    print(f"{difference:.1e}")
    assert difference <= 1e-4


def test_saved_files_of_transformers_load(huggingface, tmp_path):
    theirs, model = huggingface
    theirs.save_pretrained(tmp_path)
    loaded = jv.load_pretrained(model, tmp_path / "model.safetensors")["params"]["decode_head"]
    np.testing.assert_array_equal(loaded["conv_seg"]["bias"], theirs.decode_head.classifier.bias.detach())
    first, last = (theirs.decode_head.linear_projections[i].proj.weight.detach().numpy() for i in (0, 3))
    np.testing.assert_array_equal(loaded["convs_0"]["kernel"], first.T)
    np.testing.assert_array_equal(loaded["convs_3"]["kernel"], last.T)
