"""Weight cards: found by hash or name, and their files in the folder of weights, in the cache, or downloaded."""

import dataclasses
import hashlib
import re

import pytest

import jaxvision as jv
from jaxvision import registry
from jaxvision.errors import SetupError
from jaxvision.loading import card_config
from jaxvision.pretrained import cards, keymaps
from jaxvision.pretrained.cards import FEATURES, card_of_file, find_card, labels, weight_cards
from jaxvision.pretrained.download import cache_folder, locate


@pytest.fixture
def places(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXVISION_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "weights").mkdir()
    return tmp_path


def test_a_card_is_found_by_the_hash_in_the_file_name():
    card = jv.weight_card("resnet50-11ad3fa6.pth")
    assert (card.source, card.model, card.name) == ("torchvision", "resnet50", "torchvision:resnet50.imagenet1k_v2")
    assert (card.image_size, card.resize, card.interpolation) == ((224, 224), 232, "bilinear")
    assert card.mean == (0.485, 0.456, 0.406) and card.std == (0.229, 0.224, 0.225)
    assert (card.top1, card.top5, card.parameters) == (80.858, 95.434, 25557032) and card.licence == "BSD-3-Clause"
    assert len(card.class_names) == card.num_classes == 1000 and card.class_names[0] == "tench"
    for name in ("/a/b/resnet50-11ad3fa6.pth", card.url, "11ad3fa6", card.name):
        assert jv.weight_card(name) is card
    assert jv.weight_card("torchvision:resnet50").tag == "imagenet1k_v1"
    other = jv.weight_card("resnet50_8xb32_in1k_20210831-ea4938fc.pth")
    assert other is jv.weight_card("openmmlab:resnet50_8xb32_in1k") and other.licence == "Apache-2.0"
    assert other.top1 == 76.55 and other.resize == 256


def test_unknown_cards_are_told_with_the_nearest():
    with pytest.raises(SetupError, match="no weight card for 'resnet50.pth': expected a file name that ends in -HASH"):
        jv.weight_card("resnet50.pth")
    with pytest.raises(SetupError, match="there are torchvision:resnet50.imagenet1k_v1, torchvision:resnet50.*v2"):
        jv.weight_card("torchvision:resnet50.v3")
    with pytest.raises(SetupError, match="did you mean 'openmmlab:resnet50_8xb32_in1k'"):
        jv.weight_card("openmmlab:resnet50_8xb32_in2k")
    assert find_card("resnet50.pth") is None and find_card("x-00000000.pth") is None


def test_every_card_is_complete():
    cards = weight_cards()
    assert len({card.name for card in cards}) == len({card.hash for card in cards}) == len(cards) >= 48
    for card in cards:
        assert re.fullmatch(r"[0-9a-f]{8}", card.hash) and card.hash in card.file
        assert card.url.startswith("https://") and card.recipe.startswith("https://")
        assert card.source in keymaps.SOURCES and card.licence
        assert card.interpolation in ("bilinear", "bicubic") and len(card.mean) == len(card.std) == 3
        if card.task == "classification":
            assert 50 < card.top1 < 100 and (card.top5 is None or card.top1 < card.top5 < 100)
        if card.task == "semantic_segmentation":
            assert card.top1 is None and 35 < (card.miou or card.mdice) < 90
        assert card.num_classes or card.task == FEATURES
        assert len(card.class_names) == card.num_classes, card.name
    assert labels("nothing") == ()


def test_a_segmenter_has_a_card():
    card = jv.weight_card("fcn_resnet50_coco-1167a1af.pth")
    assert (card.name, card.registered) == ("torchvision:fcn_resnet50.coco_with_voc_labels_v1", "torchvision/fcn")
    assert (card.miou, card.pixel_accuracy, card.parameters) == (60.5, 91.4, 35_322_218)
    assert card.class_names[:2] == ("background", "aeroplane") and card.licence == "BSD-3-Clause"
    card = jv.weight_card("openmmlab:pspnet_r50-d8_4xb4-160k_ade20k-512x512")
    assert (card.miou, card.registered, card.config) == (42.48, "pspnet", "segmentation/pspnet_r50_d8_ade20k")
    assert card.class_names[-1] == "flag" and card.licence == "Apache-2.0"
    encoder = jv.weight_card("openmmlab:mit_b0")
    assert (encoder.task, encoder.registered, encoder.file) == (
        FEATURES,
        "openmmlab/mit_b0",
        "mit_b0_20220624-7e0fe6dd.pth",
    )
    with pytest.raises(SetupError, match="is a backbone without classes: give it as pretrained.backbone"):
        card_config(encoder)


def test_the_folder_of_weights_comes_before_the_cache(places):
    card = jv.weight_card("torchvision:resnet18")
    cached, own = cache_folder() / card.file, places / "weights" / card.file
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"a")
    assert locate(card) == cached
    own.write_bytes(b"b")
    assert locate(card) == own


def test_a_download_is_checked_and_appears_complete_or_not_at_all(places):
    served = places / "server" / "net-0.pth"
    served.parent.mkdir()
    served.write_bytes(b"weights" * 1000)
    digest = hashlib.sha256(served.read_bytes()).hexdigest()[:8]
    card = dataclasses.replace(jv.weight_card("torchvision:resnet18"), url=served.as_uri(), hash=digest)
    lines = []
    assert locate(card, lines.append) == cache_folder() / "net-0.pth" and "downloading file:///" in lines[0]
    assert (cache_folder() / "net-0.pth").read_bytes() == served.read_bytes()
    assert locate(card, lines.append) and len(lines) == 1
    wrong = dataclasses.replace(card, url=(places / "server" / "net-1.pth").as_uri())
    (places / "server" / "net-1.pth").write_bytes(b"cut off")
    with pytest.raises(SetupError, match=f"SHA-256 begins with .* instead of {digest}"):
        locate(wrong)
    assert [path.name for path in cache_folder().iterdir()] == ["net-0.pth"]


def test_weights_that_cannot_be_had_are_told_with_address_and_place(places):
    card = dataclasses.replace(jv.weight_card("torchvision:resnet18"), url=(places / "resnet18-f37072fd.pth").as_uri())
    with pytest.raises(SetupError) as error:
        locate(card)
    text = str(error.value)
    assert f"fetch {card.url} and put it to {places / 'weights' / card.file}" in text
    assert str(cache_folder()) in text and "torchvision:resnet18" in text


def test_a_renamed_file_is_known_by_its_content(tmp_path, monkeypatch):
    file = tmp_path / "renamed.pth"
    file.write_bytes(b"weights")
    assert card_of_file(file) is None and card_of_file(tmp_path / "missing.pth") is None
    card = jv.weight_card("torchvision:resnet18")
    digest = hashlib.sha256(b"weights").hexdigest()[:8]
    monkeypatch.setitem(cards._table(), digest, card)
    assert card_of_file(file) is card


def test_every_card_names_a_registered_model_and_prepares_images_as_it_says():
    for card in weight_cards():
        if card.task == FEATURES:
            assert card.registered in registry.names("model")
            continue
        config = card_config(card)
        assert config.model.name == card.registered in registry.names("model") and config.task.name == card.task
        assert tuple(config.data.image_size) == tuple(card.image_size)
        assert config.model.num_classes == card.num_classes
        if card.config:  # of the recipe, which its own test compares
            assert tuple(config.data.source.class_names) == card.class_names
            assert config.data.eval_transforms[0].mean == card.mean and not card.bgr
            continue
        resize, *crop = config.data.eval_host_transforms
        assert (resize.get("short") or tuple(resize.size)) == card.resize
        assert [step.name for step in crop] == (["center_crop"] if card.task == "classification" else [])
        assert resize.interpolation == card.interpolation
        normal = config.data.eval_transforms[0]
        assert (normal.mean, normal.std, normal.bgr) == (card.mean, card.std, card.bgr)
    assert {card.model.split("_")[0] for card in weight_cards() if card.bgr} == {"regnetx"}
