"""`load_pretrained`: from a file in a reference's names to variables, and what it refuses."""

import json
import logging
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxvision as jv
from jaxvision import registry
from jaxvision.backbones import resnet
from jaxvision.backbones.resnet import ResNet
from jaxvision.errors import SetupError
from jaxvision.pretrained.cards import weight_cards
from jaxvision.pretrained.keymaps import family_of, rules_for, to_state_dict
from jaxvision.pretrained.load import save_torch_named_safetensors
from jaxvision.pretrained.safetensors import load_safetensors, read_safetensors, save_safetensors
from jaxvision.trees import TreeMismatch, flatten
from tests.pretrained.writer import Checkpoint, ordered
from tests.segmentation.test_every_segmentor import COUNTS as SEGMENTERS

SIZE = 32


@pytest.fixture(scope="module")
def model():
    return jv.create_model("resnet18", num_classes=5, backbone=dict(width=8))


@pytest.fixture(scope="module")
def variables(model):
    """Random everywhere: scales and statistics too."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, SIZE, SIZE, 3)))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: rng.uniform(0.5, 1, x.shape).astype(np.float32), shapes)


def write(path, model, variables, source="torchvision", change=lambda state_dict: state_dict):
    flat = {name: np.asarray(leaf) for name, leaf in flatten(variables).items()}
    rules = resnet.KEYS[source] if isinstance(model.backbone, ResNet) else ()
    state_dict = to_state_dict(flat, rules)
    state_dict["bn1.num_batches_tracked"] = np.asarray(3, np.int64)
    c = Checkpoint()
    return c.zip(path, {"state_dict": ordered({name: c.array(value) for name, value in change(state_dict).items()})})


def assert_same(a, b, skip="-"):
    a, b = flatten(a), flatten(b)
    assert list(a) == list(b)
    for name, leaf in a.items():
        assert leaf.dtype == jnp.float32
        if skip not in name:
            np.testing.assert_array_equal(leaf, b[name], name)


@pytest.mark.parametrize("source", resnet.KEYS)
def test_weights_in_the_names_of_every_source_load(tmp_path, model, variables, source):
    path = write(tmp_path / "a.pth", model, variables, source)
    assert_same(jv.load_pretrained(model, path, source=source, image_size=SIZE), variables)
    assert_same(jv.load_pretrained(model, path, image_size=SIZE), variables)  # found out by the names


@pytest.mark.parametrize("source", resnet.KEYS)
def test_writing_and_reading_the_names_of_a_reference_is_exact(tmp_path, model, variables, source):
    path = tmp_path / "a.safetensors"
    save_torch_named_safetensors(path, model, variables, source)
    names = read_safetensors(path)
    assert not any("/" in name for name in names) and len(names) == len(flatten(variables))
    assert_same(jv.load_pretrained(model, path, source, image_size=SIZE), variables)
    with pytest.raises(SetupError, match="unknown source 'torch': did you mean 'torchvision'"):
        save_torch_named_safetensors(path, model, variables, "torch")


def test_what_was_loaded_does_not_change_with_the_file(tmp_path, model, variables):
    path = Path(write(tmp_path / "a.pth", model, variables))
    loaded = jv.load_pretrained(model, path, source="torchvision")
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))
    assert_same(loaded, variables)


def test_our_own_files_load_too(tmp_path, model, variables):
    save_safetensors(tmp_path / "a.safetensors", variables)
    assert_same(jv.load_pretrained(model, tmp_path / "a.safetensors", image_size=SIZE), variables)
    assert_same(load_safetensors(tmp_path / "a.safetensors"), variables)


def test_only_the_classifier_starts_anew_where_the_classes_differ(tmp_path, model, variables, caplog):
    path = write(tmp_path / "a.pth", model, variables)
    other = model.clone(num_classes=3)
    with caplog.at_level(logging.WARNING, "jaxvision"):
        loaded = jv.load_pretrained(other, path, image_size=SIZE)
    assert "the file's classifier has 5 classes, the model 3: a new one replaces it" in caplog.text
    assert loaded["params"]["head"]["kernel"].shape == (64, 3)
    assert 0 < float(jnp.abs(loaded["params"]["head"]["kernel"]).max()) <= 1 / 8  # uniform in 1/sqrt(64)
    assert_same(
        {"params": {"backbone": loaded["params"]["backbone"]}},
        {"params": {"backbone": variables["params"]["backbone"]}},
    )
    again = jv.load_pretrained(other, path, image_size=SIZE, rng=jax.random.key(1))
    assert not np.array_equal(again["params"]["head"]["kernel"], loaded["params"]["head"]["kernel"])


def test_a_file_without_a_classifier_needs_the_number_of_classes(tmp_path, model, variables, caplog):
    headless = lambda d: {name: value for name, value in d.items() if not name.startswith("fc.")}  # noqa: E731
    path = write(tmp_path / "a.pth", model, variables, change=headless)
    with pytest.raises(TreeMismatch, match=r"2 differences[^$]*missing     fc.bias\n  missing     fc.weight"):
        jv.load_pretrained(model, path, image_size=SIZE)
    with caplog.at_level(logging.WARNING, "jaxvision"):
        loaded = jv.load_pretrained(model, path, num_classes=5, image_size=SIZE)
    assert "the file has no classifier: a new one takes its place" in caplog.text
    assert_same(loaded, variables, skip="/head/")


def test_a_bare_backbone_takes_its_part(tmp_path, model, variables):
    path = write(tmp_path / "a.pth", model, variables)
    loaded = jv.load_pretrained(model.backbone, path, image_size=SIZE)
    assert_same(loaded, {name: tree["backbone"] for name, tree in variables.items()})
    save_torch_named_safetensors(tmp_path / "b.safetensors", model.backbone, loaded)
    assert_same(jv.load_pretrained(model.backbone, tmp_path / "b.safetensors", image_size=SIZE), loaded)
    torn = lambda d: {name: value for name, value in d.items() if "layer4.1" not in name}  # noqa: E731
    with pytest.raises(TreeMismatch, match=r"missing     layer4.1.conv1.weight"):
        jv.load_pretrained(model.backbone, write(tmp_path / "c.pth", model, variables, change=torn), image_size=SIZE)


def test_a_registered_name_takes_the_number_of_classes_of_the_file(tmp_path):
    model = jv.create_model("lenet5", num_classes=7)
    variables = model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 1)))
    save_torch_named_safetensors(tmp_path / "a.safetensors", model, variables, "openmmlab")
    assert "backbone.classifier.2.weight" in read_safetensors(tmp_path / "a.safetensors")
    assert_same(jv.load_pretrained("lenet5", tmp_path / "a.safetensors"), variables)
    save_safetensors(tmp_path / "b.safetensors", variables)
    assert_same(jv.load_pretrained("lenet5", tmp_path / "b.safetensors"), variables)
    with pytest.raises(SetupError, match="no classifier of resnet50 under the names of torchvision, timm"):
        jv.load_pretrained("resnet50", tmp_path / "a.safetensors")


def test_the_wrong_source_is_refused(tmp_path, model, variables):
    path = write(tmp_path / "a.pth", model, variables)
    with pytest.raises(SetupError, match="has the names of torchvision, not of openmmlab: give source='torchvision'"):
        jv.load_pretrained(model, path, source="openmmlab", image_size=SIZE)
    published = write(tmp_path / "resnet18-f37072fd.pth", model, variables)
    with pytest.raises(
        SetupError, match=r"published by torchvision \(torchvision:resnet18.imagenet1k_v1\), not by timm"
    ):
        jv.load_pretrained(model, published, source="timm", image_size=SIZE)
    with pytest.raises(SetupError, match="unknown source 'timmm': did you mean 'timm'"):
        jv.load_pretrained(model, path, source="timmm", image_size=SIZE)
    lenet = jv.create_model("lenet5", num_classes=7)
    with pytest.raises(SetupError, match="no names of 'timm' are known for this model: .* has those of openmmlab"):
        jv.load_pretrained(lenet, path, source="timm")
    with pytest.raises(SetupError, match="num_classes=4, but the model was made with 5"):
        jv.load_pretrained(model, path, num_classes=4)
    linear = jv.create_model("linear", num_classes=5)
    with pytest.raises(SetupError, match="no published weights are known for this model"):
        jv.load_pretrained(linear, path)


def test_a_card_name_is_looked_up(tmp_path, monkeypatch, model, variables):
    monkeypatch.setenv("JAXVISION_WEIGHTS", str(tmp_path))
    write(tmp_path / "resnet18-f37072fd.pth", model, variables)
    assert_same(jv.load_pretrained(model, "torchvision:resnet18", image_size=SIZE), variables)


def test_the_published_number_of_parameters_is_ours():
    counts = json.loads((Path(__file__).parent.parent / "backbones" / "parameters.json").read_text())
    # torchvision's Swin v2 counts key biases that it does not use; SWAG's have position embeddings of larger images.
    others = ("swin_v2", "swag_e2e")
    counts |= {name: count for name, (_, count) in SEGMENTERS.items()}
    checked = [card for card in weight_cards() if card.source == "torchvision"]
    checked = [card for card in checked if not any(name in card.name for name in others)]
    assert len(checked) >= 86
    assert {card.name: counts[card.registered] for card in checked} == {card.name: card.parameters for card in checked}


def one_size_of_every_family():
    sizes = {}
    for name in registry.names("model"):
        preset = registry.lookup("model", name).preset
        if "backbone" in preset:  # others take a backbone of any family
            sizes.setdefault(registry.lookup("backbone", preset["backbone"]["name"]).address, name)
    return sizes.values()


@pytest.mark.parametrize("name", one_size_of_every_family())
def test_tables_of_every_family_give_each_variable_a_name_of_its_own(name):
    model = jv.create_model(name, num_classes=10)
    family = family_of(model)
    assert family.keys or name in ("linear", "overfeat")  # nobody published weights
    images = jax.ShapeDtypeStruct((1, *family.input), jnp.float32)
    flat = flatten(jax.eval_shape(model.init, jax.random.key(0), images)) if family.keys else {}
    for source in family.keys:
        if "/" in source:
            continue  # a variant is the table of some sizes only
        abstract = {name: np.broadcast_to(np.float32(0), leaf.shape) for name, leaf in flat.items()}
        assert len(to_state_dict(abstract, rules_for(family, source))) >= len(flat)


def test_a_backbone_that_ends_earlier_takes_the_file_of_the_whole_network_but_not_of_a_deeper_one(tmp_path):
    whole = jv.create_model("resnet50", num_classes=5, backbone=dict(width=8))
    shapes = jax.eval_shape(whole.init, jax.random.key(0), jnp.zeros((1, SIZE, SIZE, 3)))
    variables = jax.tree.map(lambda x: np.random.default_rng(0).uniform(0.5, 1, x.shape).astype(np.float32), shapes)
    short = whole.backbone.clone(out_levels=("c2", "c3"))
    for source in ("torchvision", "openmmlab", "huggingface"):
        path = write(tmp_path / f"{source}.pth", whole, variables, source)
        loaded = jv.load_pretrained(short, path, image_size=SIZE)
        assert {"layer2_3"} <= set(loaded["params"]) and not {"layer3_0", "layer4_0"} & set(loaded["params"])
        kept = {name: variables["params"]["backbone"][name] for name in loaded["params"]}
        assert_same(loaded["params"], kept)
    shallow = jv.create_model("resnet26", num_classes=5, backbone=dict(width=8)).backbone
    with pytest.raises(TreeMismatch, match=r"unexpected  layer3\.5\.conv1\.weight"):
        jv.load_pretrained(shallow, tmp_path / "torchvision.pth", image_size=SIZE)


@pytest.mark.parametrize("source", ["timm", "openmmlab"])
def test_level_norms_start_fresh_from_a_classifier_and_are_filled_from_a_file_that_has_them(tmp_path, source, caplog):
    fields = dict(width=4, depths=(1, 1, 1, 1), heads=(1, 1, 1, 1), window_size=(2, 2, 2, 2))
    whole = jv.create_model("swin_tiny_patch4_window7_224", num_classes=5, backbone=fields)
    shapes = jax.eval_shape(whole.init, jax.random.key(0), jnp.zeros((1, SIZE, SIZE, 3)))
    variables = jax.tree.map(lambda x: np.random.default_rng(0).uniform(2, 3, x.shape).astype(np.float32), shapes)
    save_torch_named_safetensors(tmp_path / "a.safetensors", whole, variables, source)
    dense = whole.backbone.clone(out_levels=("c3", "c4", "c5"), level_norms=True)
    with caplog.at_level(logging.WARNING, "jaxvision"):
        loaded = jv.load_pretrained(dense, tmp_path / "a.safetensors", image_size=SIZE)
    assert "the file has no backbone/norm1, backbone/norm2: new ones take their place" in caplog.text
    fresh = {f"norm{i}": {"bias": jnp.zeros(4 * 2**i), "scale": jnp.ones(4 * 2**i)} for i in (1, 2)}
    assert_same(
        {name: fresh.get(name, variables["params"]["backbone"].get(name)) for name in loaded["params"]},
        loaded["params"],
    )

    loaded["params"]["norm1"]["scale"] += 1
    save_torch_named_safetensors(tmp_path / "b.safetensors", dense, loaded, source)
    assert_same(jv.load_pretrained(dense, tmp_path / "b.safetensors", image_size=SIZE), loaded)
    with pytest.raises(TreeMismatch, match=r"missing     (backbone\.)?norm1.bias"):  # a whole model must be complete
        jv.load_pretrained(whole.clone(backbone=dense.clone(out_levels=("c3", "pooled"))), tmp_path / "a.safetensors")
