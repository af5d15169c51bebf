"""DETR and Deformable DETR against OpenMMLab (golden fixtures) and transformers: outputs, detections, losses, names."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxvision as jv
from jaxvision.config import build
from tests.conftest import strict
from tests.parity.detections import instances, rows, unmatched
from tests.parity.torch_weights import error, load_golden, load_tool, nchw, nhwc

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")

LEVELS = {"detr": ["c5"], "deformable_detr": ["c3", "c4", "c5"]}


@pytest.fixture(scope="module", params=["detr", "deformable_detr"])
def openmmlab(request, tmp_path_factory):
    name = request.param
    golden, fixture = load_golden(f"mmdet_{name.replace('_', '-')}_r50")
    model = build("model", {"name": name, "num_classes": 80})
    path = tmp_path_factory.mktemp("weights") / "weights.pth"
    state = {name: torch.from_numpy(np.array(value)) for name, value in golden.state_dict(fixture).items()}
    torch.save(state, path)
    variables = jv.load_pretrained(model, path, source="openmmlab")

    def levels_and_outputs(model, inputs):
        features = model.backbone(inputs["image"], train=False)
        return features, model.neck(features), model(inputs)

    size = jnp.asarray(fixture.input["valid"], jnp.float32)
    call = jax.jit(lambda variables, inputs: model.apply(variables, inputs, method=levels_and_outputs))
    with strict():
        features, levels, outputs = call(variables, {"image": nhwc(golden.inputs(fixture)), "size": size})
    return golden, fixture, model, ({k: features[k] for k in LEVELS[name]}, levels), outputs, size


def test_levels_and_every_layer_of_the_decoder_equal_openmmlab(openmmlab):
    golden, fixture, _, (features, levels), outputs, _ = openmmlab
    ours = {f"backbone/{i}": nchw(x) for i, x in enumerate(features.values())}
    ours |= {f"neck/{i}": nchw(x) for i, x in enumerate(levels.values())}
    ours |= {"head/0": outputs["logits"], "head/1": outputs["boxes"]}
    assert set(ours) == set(fixture.output_shapes)
    for name, values in ours.items():
        difference, allowed = golden.compare(fixture, name, values), golden.tolerance(fixture, name, base=1e-3)
        print(name, f"{difference:.1e}", f"allowed {allowed:.1e}")
        assert difference <= allowed, name


def test_detections_equal_openmmlab(openmmlab):
    _, fixture, model, _, outputs, size = openmmlab
    assert fixture.preds_stable
    with strict():
        found = jax.jit(model.predict)(outputs, size)
    for image in range(2):
        theirs = [fixture.preds[f"{image}/{name}"] for name in ("bboxes", "scores", "labels")]
        ours = rows(found, image)
        print(len(ours[0]), fixture.preds[f"{image}/count"], unmatched(ours, theirs))
        assert len(ours[0]) == fixture.preds[f"{image}/count"]
        assert (np.diff(ours[1]) <= 0).all()
        assert unmatched(ours, theirs) == 0


def test_losses_of_every_layer_equal_openmmlab(openmmlab):
    _, fixture, model, _, outputs, size = openmmlab
    truth = [(fixture.gt[f"{i}/bboxes"], fixture.gt[f"{i}/labels"]) for i in range(2)]
    batch = {"targets": instances(truth), "size": size, "valid": jnp.ones(2, bool)}
    with strict():
        terms = jax.jit(model.loss)(outputs, batch)
    names = {"classification": "loss_cls", "box": "loss_bbox", "giou": "loss_iou"}
    assert len(terms) == len(fixture.losses) == 18
    for ours, (total, count) in terms.items():
        name, _, layer = ours.partition("_")
        expected = fixture.losses[f"d{layer}.{names[name]}" if layer else names[name]]
        print(ours, float(total / count), expected)
        np.testing.assert_allclose(total / count, expected, rtol=1e-4)


SIZE, PICTURES = (96, 128), ((96, 128), (75, 100))
BACKBONE = {"embedding_size": 16, "hidden_sizes": [16, 32, 64, 128], "depths": [2, 2, 2, 2], "layer_type": "basic"}
SMALL = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "num_queries": 12,
    "num_labels": 5,
}
OURS = {
    "num_classes": 5,
    "queries": 12,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "heads": 4,
    "hidden": 48,
    "max_detections": 12,
}
KINDS = {
    "detr": ({}, {}),
    "deformable_detr": ({"auxiliary_loss": True}, {}),
    "refined": ({"auxiliary_loss": True, "with_box_refine": True}, {"refine": True}),
}
"""Options of transformers' model and of ours."""


def transformers_model(kind, **backbone):
    """With random weights under which outputs depend on the image."""
    load_tool("torchvision_cpu")
    transformers = pytest.importorskip("transformers")
    name = "Detr" if kind == "detr" else "DeformableDetr"
    if not backbone:
        levels = ["stage4"] if kind == "detr" else ["stage2", "stage3", "stage4"]
        config = transformers.ResNetConfig(**BACKBONE, out_features=levels)
        backbone = {"use_timm_backbone": False, "backbone_config": config}
    config = getattr(transformers, f"{name}Config")(**SMALL, **backbone, **KINDS[kind][0])
    torch.manual_seed(0)
    model = getattr(transformers, f"{name}ForObjectDetection")(config).eval()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith("running_var") or (tensor.ndim == 1 and name.endswith("weight")):
                tensor.uniform_(0.5, 1.5)
            elif tensor.ndim == 1:
                tensor.normal_(0, 0.3)
            elif "query_position" not in name and "level_embed" not in name:
                tensor.normal_(0, (1.5 / tensor[0].numel()) ** 0.5)
    return model


def published(state):
    """The names in files, which are those of modules before version 5."""
    renamed = {}
    for name, value in state.items():
        name = name.replace("backbone.model.", "backbone.conv_encoder.model.").replace(
            "_attn.o_proj.", "_attn.out_proj."
        )
        renamed[name.replace(".mlp.fc", ".fc")] = value.clone()
    return renamed


def own_model(kind, **backbone):
    return build(
        "model",
        {
            "name": "detr" if kind == "detr" else "huggingface/deformable_detr",
            "backbone": {"name": "resnet18", "norm": {"name": "frozen_bn"}, **backbone},
            "neck": {"channels": 32},
            **OURS,
            **KINDS[kind][1],
        },
    )


@pytest.fixture(scope="module", params=list(KINDS))
def reference(request, tmp_path_factory):
    """transformers' outputs and losses, our model, and our outputs with its weights."""
    kind = request.param
    theirs, model = transformers_model(kind), own_model(kind, width=16)
    images, mask = torch.randn(2, 3, *SIZE), torch.zeros(2, *SIZE, dtype=torch.long)
    for i, (height, width) in enumerate(PICTURES):
        mask[i, :height, :width] = 1
        images[i, :, height:], images[i, :, :, width:] = 0, 0
    boxes = torch.tensor([[0.3, 0.4, 0.2, 0.3], [0.6, 0.5, 0.7, 0.4], [0.5, 0.8, 0.1, 0.1]])
    truth = [(boxes, torch.tensor([0, 4, 2])), (boxes[:0], torch.zeros(0, dtype=torch.long))]
    labels = [{"boxes": boxes, "class_labels": labels} for boxes, labels in truth]
    with torch.no_grad():
        expected = theirs(images, pixel_mask=mask, labels=labels)
    path = tmp_path_factory.mktemp("weights") / "weights.pth"
    torch.save(published(theirs.state_dict()), path)
    variables = jv.load_pretrained(model, path, source="huggingface")
    size = jnp.asarray(PICTURES, jnp.float32)
    with strict():
        outputs = jax.jit(model.apply)(variables, {"image": nhwc(images), "size": size})
    return kind, theirs, expected, truth, model, outputs, size


def test_outputs_equal_transformers(reference):
    _, _, expected, _, _, outputs, _ = reference
    for name, theirs in (("logits", expected.logits), ("boxes", expected.pred_boxes)):
        measured = error(outputs[name][-1], theirs.numpy())
        print(name, f"{measured:.1e}")
        assert measured <= 1e-4


def test_losses_equal_transformers(reference):
    """From the same outputs. One of the two images has no object. DETR's other layers differ there, see `detr.py`."""
    kind, _, expected, truth, model, _, size = reference
    sides = np.asarray(size)[:, None, [1, 0, 1, 0]]
    corners = [np.concatenate([b[:, :2] - b[:, 2:] / 2, b[:, :2] + b[:, 2:] / 2], axis=1) for b, _ in truth]
    objects = [(c * s, labels) for c, s, (_, labels) in zip(corners, sides, truth, strict=True)]
    batch = {"targets": instances(objects), "size": size, "valid": jnp.ones(2, bool)}
    said = [*((layer["logits"], layer["pred_boxes"]) for layer in expected.auxiliary_outputs or ())]
    said.append((expected.logits, expected.pred_boxes))
    same = zip(("logits", "boxes"), zip(*said, strict=True), strict=True)
    with strict():
        terms = jax.jit(model.loss)({name: jnp.asarray(torch.stack(values).numpy()) for name, values in same}, batch)
    weights = {"ce": ("classification", 1), "bbox": ("box", 5), "giou": ("giou", 2)}
    compared = 0
    for name, theirs in expected.loss_dict.items():
        if name.startswith("loss_"):
            part, *layer = name.removeprefix("loss_").split("_")
            ours = "_".join([weights[part][0], *layer])
            total, count = terms[ours]
            print(ours, float(total / count), float(theirs) * weights[part][1])
            np.testing.assert_allclose(total / count, float(theirs) * weights[part][1], rtol=1e-4)
            compared += 1
    assert compared == len(terms) == (3 if kind == "detr" else 9)


def test_detections_equal_transformers(reference):
    kind, _, expected, _, model, outputs, size = reference
    load_tool("torchvision_cpu")
    import transformers

    processor = getattr(transformers, "DetrImageProcessor" if kind == "detr" else "DeformableDetrImageProcessor")()
    options = {} if kind == "detr" else {"top_k": 12}
    theirs = processor.post_process_object_detection(expected, -1.0, torch.tensor(PICTURES), **options)
    with strict():
        found = jax.jit(model.predict)(outputs, size)
    for image, (height, width) in enumerate(PICTURES):
        boxes = theirs[image]["boxes"].clamp(min=0).minimum(torch.tensor([width, height, width, height]))
        rest = theirs[image]["scores"], theirs[image]["labels"]
        ours = rows(found, image)
        assert len(ours[0]) == len(boxes) == 12
        assert unmatched(ours, (boxes.numpy(), *(x.numpy() for x in rest)), score=1e-4) == 0


@pytest.mark.parametrize("kind", ["detr", "deformable_detr"])
def test_files_of_transformers_load_with_a_backbone_of_timm_too(kind, tmp_path):
    """Names and shapes, as `save_pretrained` writes them."""
    theirs = transformers_model(kind, use_timm_backbone=True, use_pretrained_backbone=False, backbone="resnet18")
    theirs.save_pretrained(tmp_path)
    model = own_model(kind)
    variables = jv.load_pretrained(model, tmp_path / "model.safetensors")
    kernel = np.transpose(variables["params"]["backbone"]["layer2_0"]["conv1"]["kernel"], (3, 2, 0, 1))
    np.testing.assert_array_equal(kernel, theirs.model.backbone.model.layer2[0].conv1.weight.detach())
    fresh = jv.load_pretrained(model.clone(num_classes=3), tmp_path / "model.safetensors", num_classes=3)
    assert fresh["params"]["decoder"].keys() == variables["params"]["decoder"].keys()
