"""Files that torch itself wrote, through our reader: every array as `torch.load` gives it, and networks' outputs."""

import datetime
import time
from argparse import Namespace

import jax
import numpy as np
import pytest

import jaxvision as jv
from jaxvision.backbones.resnet import LEVELS
from jaxvision.pretrained.load import save_torch_named_safetensors
from jaxvision.pretrained.torch_file import load_torch, read_weights
from tests.conftest import strict
from tests.parity import make_cards
from tests.parity.torch_weights import error, load_golden, load_tool, nchw, nhwc

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
calibrate = load_tool("calibrate").calibrate
torchvision = load_tool("torchvision_cpu").torchvision

FORMATS = {"zip": {}, "legacy": {"_use_new_zipfile_serialization": False}}
DTYPES = [
    "float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool", "complex64",
    "complex128", "uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2",
]  # fmt: skip


def numpy_of(tensor):
    """The tensor's elements; types that torch does not hand to numpy as their bits."""
    tensor = tensor.detach().contiguous()
    bits = {torch.bfloat16: torch.int16, torch.float8_e4m3fn: torch.int8, torch.float8_e5m2: torch.int8}
    return tensor.view(bits[tensor.dtype]).numpy() if tensor.dtype in bits else tensor.numpy()


def assert_equal(ours, theirs):
    want = numpy_of(theirs)
    assert ours.shape == tuple(theirs.shape) and str(ours.dtype) == str(theirs.dtype).removeprefix("torch.")
    np.testing.assert_array_equal(np.ascontiguousarray(ours).view(want.dtype).reshape(want.shape), want)


def tensors():
    """Views, transposed, shared, expanded, scalar and empty tensors, parameters and buffers."""
    torch.manual_seed(0)
    base = torch.randn(6, 8)
    return {
        "base": base, "row": base[2], "column": base[:, 3], "strided": base[1::2, ::3], "transposed": base.T,
        "channels_last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last), "same": base,
        "expanded": base[:1].expand(5, 8), "scalar": torch.tensor(3.5), "from_view": base[4, 5],
        "empty": torch.empty(0, 3), "none": torch.empty(0), "parameter": torch.nn.Parameter(torch.randn(3)),
        "frozen": torch.nn.Parameter(torch.randn(2, 2), requires_grad=False), "conjugate": torch.randn(3) + 0,
    }  # fmt: skip


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_views_and_shared_storages_equal_torch(tmp_path, kind, protocol):
    path = tmp_path / "a.pt"
    torch.save(tensors(), path, pickle_protocol=protocol, **FORMATS[kind])
    loaded = load_torch(path)
    theirs = torch.load(path, weights_only=False)  # its safe reader knows protocol 2 only
    assert loaded.format == kind and loaded.unknown_globals == () and list(loaded.state_dict) == list(theirs)
    for name, tensor in theirs.items():
        assert_equal(loaded.state_dict[name], tensor)
    assert np.shares_memory(loaded.state_dict["base"], loaded.state_dict["strided"])


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_equals_torch(tmp_path, kind, dtype):
    values = (torch.randn(4, 5) * 10).abs().to(getattr(torch, dtype))
    path = tmp_path / "a.pt"
    written = {"x": values, "y": values.clone()[1:, 2:]}
    torch.save(written, path, **FORMATS[kind])
    loaded = load_torch(path)
    assert loaded.unknown_globals == () and set(loaded.state_dict) == {"x", "y"}
    for name, tensor in written.items():  # torch cannot read its newest types in its legacy format
        assert_equal(loaded.state_dict[name], tensor)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_training_checkpoint_with_other_objects(tmp_path, kind):
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(torch.randn(2, 3, 8, 8)).sum().backward()
    optimizer.step()
    checkpoint = {
        "model": {f"module.{name}": value for name, value in model.state_dict().items()},
        "optimizer": optimizer.state_dict(),
        "args": Namespace(lr=0.1, out=None),
        "when": datetime.datetime(2020, 1, 2),
        "history": np.random.default_rng(0).normal(size=(3, 4)),
        "best": np.float64(0.5),
        "rng": torch.get_rng_state(),
        "epoch": 7,
    }
    path = tmp_path / "a.pth"
    torch.save(checkpoint, path, **FORMATS[kind])
    loaded = load_torch(path)
    assert loaded.wrapper == "model, without 'module.'"
    assert loaded.unknown_globals == ("argparse.Namespace", "datetime.datetime")
    for name, tensor in model.state_dict().items():
        assert_equal(loaded.state_dict[name], tensor)
    np.testing.assert_array_equal(loaded.other["history"], checkpoint["history"])
    assert loaded.other["best"] == 0.5 and loaded.other["epoch"] == 7
    assert loaded.other["args"].state == {"lr": 0.1, "out": None}
    assert loaded.other["optimizer"]["param_groups"][0]["lr"] == 0.1


@pytest.mark.parametrize("kind", FORMATS)
def test_a_whole_pickled_network_gives_its_state_dict(tmp_path, kind):
    model = torchvision.models.resnet18(weights=None)
    path = tmp_path / "a.pt"
    torch.save({"epoch": 1, "model": model}, path, **FORMATS[kind])
    loaded = load_torch(path)
    assert set(loaded.state_dict) == set(model.state_dict())
    for name, tensor in model.state_dict().items():
        assert_equal(loaded.state_dict[name], tensor)
    assert "torchvision.models.resnet.ResNet" in loaded.unknown_globals


def run(model, variables, x):
    apply = lambda v, x: model.apply(v, x, method=lambda m, x: (m(x), m.backbone(x, train=False)))  # noqa: E731
    with strict():
        return jax.jit(apply)(variables, x)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_logits_of_a_resnet_from_its_file_equal_the_reference(tmp_path, kind, library):
    torch.manual_seed(0)
    if library == "torchvision":
        theirs = torchvision.models.resnet50(weights=None)
    else:
        theirs = pytest.importorskip("timm").create_model("resnet50", pretrained=False)
    calibrate(theirs, torch.randn(4, 3, 96, 96), seed=1)
    path, x = tmp_path / "resnet50.pth", torch.randn(2, 3, 96, 96)
    torch.save({"state_dict": theirs.state_dict(), "epoch": 90}, path, **FORMATS[kind])
    variables = jv.load_pretrained("resnet50", path, source=library)
    logits, levels = run(jv.create_model("resnet50", num_classes=1000), variables, nhwc(x))
    with torch.no_grad():
        assert error(logits, theirs(x)) <= 1e-4
        y, names = theirs, ("layer1", "layer2", "layer3", "layer4")
        y = y.maxpool((y.relu if library == "torchvision" else y.act1)(y.bn1(y.conv1(x))))
        for level, name in zip(LEVELS[1:], names, strict=True):
            y = getattr(theirs, name)(y)
            assert error(nchw(levels[level]), y) <= 1e-4


def test_our_file_in_torch_names_loads_in_torch_exactly(tmp_path):
    from safetensors.torch import load_file

    theirs = calibrate(torchvision.models.resnet18(weights=None), torch.randn(4, 3, 64, 64))
    torch.save(theirs.state_dict(), tmp_path / "a.pth")
    variables = jv.load_pretrained("resnet18", tmp_path / "a.pth")
    model = jv.create_model("resnet18", num_classes=1000)
    save_torch_named_safetensors(tmp_path / "b.safetensors", model, variables)
    again = torchvision.models.resnet18(weights=None)
    again.load_state_dict(load_file(tmp_path / "b.safetensors"))
    for name, tensor in again.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(tensor, theirs.state_dict()[name]), name


@pytest.mark.parametrize("fixture,model", [("mmpretrain_resnet50", "resnet50"), ("mmpretrain_lenet5", "lenet5")])
def test_openmmlab_weights_from_a_file_reproduce_the_golden_outputs(tmp_path, fixture, model):
    golden, recorded = load_golden(fixture)
    state_dict = {name: torch.from_numpy(value) for name, value in golden.state_dict(recorded).items()}
    torch.save({"meta": {"epoch": 100}, "state_dict": state_dict}, tmp_path / "a.pth")
    variables = jv.load_pretrained(model, tmp_path / "a.pth", source="openmmlab")
    classes = variables["params"]["head"]["bias"].shape[0]
    logits, _ = run(jv.create_model(model, num_classes=classes), variables, nhwc(golden.inputs(recorded)))
    assert golden.compare(recorded, "head", logits) <= golden.tolerance(recorded, "head")


def test_a_resnet_of_hugging_face_equals_transformers(tmp_path):
    transformers = pytest.importorskip("transformers")
    for layer, name in (("bottleneck", "resnet50"), ("basic", "resnet18")):
        basic = layer == "basic"
        sizes = {"hidden_sizes": [64, 128, 256, 512], "depths": [2, 2, 2, 2]} if basic else {}
        config = transformers.ResNetConfig(layer_type=layer, num_labels=10, **sizes)
        theirs = transformers.ResNetForImageClassification(config)
        calibrate(theirs, torch.randn(4, 3, 64, 64))
        x = torch.randn(2, 3, 64, 64)
        theirs.save_pretrained(tmp_path / name, max_shard_size="20MB")
        files = {path.name for path in (tmp_path / name).iterdir()}
        path = tmp_path / name / ("model.safetensors.index.json" if len(files) > 2 else "model.safetensors")
        variables = jv.load_pretrained(name, path, source="huggingface")
        with torch.no_grad():
            want = theirs(x).logits
        assert error(run(jv.create_model(name, num_classes=10), variables, nhwc(x))[0], want) <= 1e-4
        assert len(read_weights(path).state_dict) >= len(jax.tree.leaves(variables))


def test_an_encoder_of_segmentation_models_fills_a_backbone(tmp_path):
    smp = pytest.importorskip("segmentation_models_pytorch")
    theirs = smp.Unet("resnet18", encoder_weights=None)
    calibrate(theirs, torch.randn(2, 3, 64, 64))
    torch.save(theirs.state_dict(), tmp_path / "unet.pth")
    backbone = jv.create_model("resnet18", num_classes=1).backbone
    # The decoder's names begin otherwise, so only the encoder is asked for.
    variables = jv.load_pretrained(backbone, tmp_path / "unet.pth", source="smp")
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        want = theirs.encoder(x)[-1]
    assert error(nchw(backbone.apply(variables, nhwc(x), train=False)["c5"]), want) <= 1e-4


def test_kernels_of_transposed_and_grouped_convolutions_have_the_stated_layout():
    from jaxvision.pretrained.keymaps import to_our_layout

    x = torch.randn(2, 6, 5, 7)
    with torch.no_grad():
        layer = torch.nn.ConvTranspose2d(6, 4, 3, stride=2, bias=False)
        kernel = to_our_layout("params/a/kernel", layer.weight.numpy())
        ours = jax.lax.conv_transpose(
            nhwc(x), kernel, (2, 2), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"), transpose_kernel=True
        )
        assert error(nchw(ours), layer(x)) <= 1e-5
        layer = torch.nn.Conv2d(6, 4, 3, groups=2, bias=False)
        kernel = to_our_layout("params/a/kernel", layer.weight.numpy())
        numbers = ("NHWC", "HWIO", "NHWC")
        ours = jax.lax.conv_general_dilated(
            nhwc(x), kernel, (1, 1), "VALID", dimension_numbers=numbers, feature_group_count=2
        )
        assert error(nchw(ours), layer(x)) <= 1e-5


def test_the_cards_of_torchvision_are_those_of_the_installed_package():
    rows = [*make_cards.torchvision_rows(torchvision.models), *make_cards.torchvision_segmenters(torchvision.models)]
    kept = [line for line in (make_cards.FOLDER / "cards.json").read_text().splitlines() if '"torchvision"' in line]
    assert make_cards.to_lines(rows).splitlines() == kept


def test_reading_a_large_file_is_not_slower_than_torch(tmp_path):
    torch.manual_seed(0)
    tensors = {f"{n}.weight": torch.randn(1024, 1280) for n in range(20)}
    path = tmp_path / "a.pth"
    torch.save(tensors, path)
    size, ours, theirs = path.stat().st_size / 1e6, [], []
    for _ in range(3):
        start = time.monotonic()
        for array in load_torch(path).state_dict.values():
            np.array(array)
        ours.append(time.monotonic() - start)
        start = time.monotonic()
        torch.load(path, weights_only=True)
        theirs.append(time.monotonic() - start)
    print(f"{size:.0f} MB: {size / min(ours):,.0f} MB/s, torch.load {size / min(theirs):,.0f} MB/s")
    assert min(ours) < 3 * min(theirs)


def test_a_published_file_predicts_with_nothing_but_its_name(tmp_path, test_data):
    """Preparation, classes and weights follow from the hash in the file's name; torchvision's own transforms agree."""
    from PIL import Image

    torch.manual_seed(0)
    model = torchvision.models.resnet18(weights=None)
    calibrate(model, torch.randn(4, 3, 96, 96), seed=1)
    path = tmp_path / "resnet18-f37072fd.pth"
    torch.save(model.state_dict(), path)
    pictures = sorted((test_data / "data/coco_mini/images/val2017").glob("*.jpg"))[:3]
    infer = jv.Inferencer("resnet18", path, batch_size=3)
    assert infer.model.card is jv.weight_card("resnet18-f37072fd.pth")
    weights = torchvision.models.ResNet18_Weights.IMAGENET1K_V1
    x = torch.stack([weights.transforms()(Image.open(picture).convert("RGB")) for picture in pictures])
    with torch.no_grad():
        theirs = model(x).numpy()
    results = infer(pictures)
    ours = np.stack([result.prediction["logits"] for result in results])
    print(f"logits {error(ours, theirs):.1e} (images agree within one level)")
    assert error(ours, theirs) < 2e-2
    assert [r.json["class"] for r in results] == [weights.meta["categories"][i] for i in theirs.argmax(1)]
    with pytest.raises(jv.errors.SetupError, match="it belongs to the model 'resnet18', asked for 'resnet50'"):
        jv.Inferencer("resnet50", path)
