"""ConvNeXt: forms that no small size has, dilation, the names of Hugging Face and OpenMMLab, and a training step."""

import pytest

from jaxvision import layers
from jaxvision.backbones.convnext import LEVELS, ConvNeXt
from jaxvision.classification.classifier import Classifier
from tests.parity import zoo
from tests.parity.names import check_every_parameter_tells, check_written_names
from tests.parity.references.convnext import LEVELS as PLACES
from tests.parity.references.tempers import enliven
from tests.parity.training import check_training_step

pytestmark = pytest.mark.parity

SMALL = {"widths": (16, 24, 32, 40), "depths": (1, 1, 2, 1)}
TIMM = {"dims": SMALL["widths"], "depths": SMALL["depths"]}
V2 = {"response_norm": True, "layer_scale": 0.0}


def shallow(name, **options):
    """A narrow network of two to five blocks with all else as timm's size has it."""
    return lambda: zoo.timm.create_model(name, **TIMM, **options)


def reference(make, source="timm", levels=PLACES, **options):
    return zoo.Reference(make, "convnext", levels, source, temper=enliven, **options)


FORMS = {
    "one more layer": ({"hidden": 48}, shallow("convnext_large_mlp", head_hidden_size=48)),
    "at 16": ({"output_stride": 16}, shallow("convnext_tiny", output_stride=16)),
    "at 8": ({"output_stride": 8}, shallow("convnext_tiny", output_stride=8)),
    "version 2 at 8": ({**V2, "output_stride": 8}, shallow("convnextv2_tiny", output_stride=8)),
    "larger epsilon": ({"norm": layers.Norm("ln", epsilon=1e-5)}, shallow("convnext_xxlarge")),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_equal_timm(form):
    fields, make = FORMS[form]
    model, x = zoo.calibrated(reference(make), 96)
    errors = zoo.compare(model, reference(make), Classifier(ConvNeXt(**SMALL, **fields, out_levels=LEVELS), 1000), x)
    print(form, {name: f"{error:.1e}" for name, error in errors.items()})
    assert max(errors.values()) <= 1e-4, errors


def huggingface(version):
    """(our network, its reference) of a narrow network of transformers."""
    import transformers

    kind = {1: "ConvNext", 2: "ConvNextV2"}[version]
    config = getattr(transformers, f"{kind}Config")(
        hidden_sizes=SMALL["widths"], depths=SMALL["depths"], num_labels=1000
    )
    make = lambda: getattr(transformers, f"{kind}ForImageClassification")(config)  # noqa: E731

    def outputs(model, x):
        y = model(x, output_hidden_states=True)
        return {**dict(zip(LEVELS, y.hidden_states[1:], strict=False)), "logits": y.logits}

    ours = ConvNeXt(**SMALL, **(V2 if version == 2 else {}), out_levels=LEVELS)
    return ours, reference(make, "huggingface/v2" if version == 2 else "huggingface", outputs=outputs)


@pytest.mark.parametrize("version", [1, 2])
def test_networks_of_hugging_face_are_reproduced(version):
    ours, theirs = huggingface(version)
    model, x = zoo.calibrated(theirs)
    check_written_names(Classifier(ours, 1000), theirs, model.state_dict())
    errors = zoo.compare(model, theirs, Classifier(ours, 1000), x)
    assert len(errors) == 5 and max(errors.values()) <= 1e-4, errors


NAMES = {
    "timm": (V2, shallow("convnextv2_tiny")),
    "timm/conv": ({}, shallow("convnext_atto")),
    "timm/conv v2": (V2, shallow("convnextv2_atto")),
    "torchvision": (None, zoo.references()["torchvision:convnext_tiny"].make),
}


@pytest.mark.parametrize("form", NAMES)
def test_names_and_shapes_are_written_as_the_reference_has_them(form):
    fields, make = NAMES[form]
    backbone = ConvNeXt(out_levels=("pooled",), **({} if fields is None else {**SMALL, **fields}))
    check_written_names(Classifier(backbone, 1000), reference(make, form.split()[0]), make().state_dict())


def openmmlab_names(version, norms):
    """Names and shapes as mmpretrain/models/backbones/convnext.py builds them, with a linear head."""

    def layer(name, *shape, bias=True):
        return {f"{name}.weight": shape, **({f"{name}.bias": shape[:1]} if bias else {})}

    names, before = {}, 3
    for i, (width, depth) in enumerate(zip(SMALL["widths"], SMALL["depths"], strict=True)):
        down, kernel = f"backbone.downsample_layers.{i}", 4 if i == 0 else 2
        conv, norm = (0, 1) if i == 0 else (1, 0)
        names |= layer(f"{down}.{conv}", width, before, kernel, kernel)
        names |= layer(f"{down}.{norm}", width if i == 0 else before)
        for j in range(depth):
            block = f"backbone.stages.{i}.{j}"
            names |= layer(f"{block}.depthwise_conv", width, 1, 7, 7) | layer(f"{block}.norm", width)
            names |= layer(f"{block}.pointwise_conv1", 4 * width, width)
            names |= layer(f"{block}.pointwise_conv2", width, 4 * width)
            grn = {f"{block}.grn.gamma": (4 * width,), f"{block}.grn.beta": (4 * width,)}
            names |= {f"{block}.gamma": (width,)} if version == 1 else grn
        before = width
    for i in norms:
        names |= layer(f"backbone.norm{i}", SMALL["widths"][i])
    return names | layer("head.fc", 1000, before)


@pytest.mark.parametrize("version", [1, 2])
def test_names_are_those_of_openmmlab(version):
    fields = V2 if version == 2 else {}
    table = reference(None, "openmmlab")
    backbone = ConvNeXt(**SMALL, **fields, out_levels=("pooled",))
    check_written_names(Classifier(backbone, 1000), table, openmmlab_names(version, norms=(3,)))
    dense = ConvNeXt(**SMALL, **fields, norm_levels=True)  # of detectors and segmenters
    check_written_names(Classifier(dense, 1000), table, openmmlab_names(version, norms=range(4)))


def test_small_parameters_tell():
    for make, fields, part in (
        (shallow("convnext_tiny"), {}, "ls/gamma"),
        (shallow("convnextv2_tiny"), V2, "mlp/grn/scale"),
    ):
        model, x = zoo.calibrated(reference(make))
        ours = Classifier(ConvNeXt(**SMALL, **fields, out_levels=("pooled",)), 1000)
        at = "params/backbone"
        paths = [f"{at}/stages_2/blocks_1/{part}", f"{at}/stages_2/downsample_0/scale", f"{at}/norm/scale"]
        check_every_parameter_tells(ours, reference(make), model, x, paths)


@pytest.mark.parametrize("name,fields", [("convnext_tiny", {}), ("convnextv2_tiny", V2)])
def test_a_training_step_equals_torch(name, fields, monkeypatch):
    backbone = ConvNeXt(**SMALL, **fields, out_levels=("pooled",))
    print(name, f"worst gradient {check_training_step(backbone, reference(shallow(name)), monkeypatch):.1e}")
