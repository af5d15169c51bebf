"""MiT: segmentation_models_pytorch's copy of the authors' code, the same with OpenMMLab's norms, and transformers'."""

import functools
from unittest import mock

import torch

from jaxvision.backbones import mit
from tests.parity.references.reference import Reference
from tests.parity.references.tempers import enliven

LEVELS = dict.fromkeys(mit.LEVELS, "")


class Net(torch.nn.Module):
    """An encoder of smp with smp's classification head."""

    def __init__(self, encoder: torch.nn.Module):
        from segmentation_models_pytorch.base import ClassificationHead

        super().__init__()
        self.encoder = encoder
        self.classification_head = ClassificationHead(encoder.out_channels[-1], 1000, dropout=0.0)

    def forward(self, x):
        return self.classification_head(self.encoder(x)[-1])


def _smp(name):
    from segmentation_models_pytorch.encoders import get_encoder

    linspace = functools.partial(torch.linspace, device="cpu")  # its numbers are read, on the device "meta", too
    with mock.patch.object(torch, "linspace", linspace):
        return Net(get_encoder(name, weights=None))


def _openmmlab(name):
    model = _smp(name)
    for module in model.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = 1e-6
    return model


def _huggingface(name):
    from transformers import SegformerConfig, SegformerForImageClassification

    fields = mit.SIZES[name]
    config = SegformerConfig(depths=fields["depths"], hidden_sizes=fields["widths"], num_labels=1000)
    return SegformerForImageClassification(config)


def outputs_of(model, x):
    maps = model.encoder(x)[2:]
    return {**dict(zip(mit.LEVELS, maps, strict=True)), "logits": model.classification_head(maps[-1])}


def huggingface_outputs(model, x):
    outputs = model(x, output_hidden_states=True)
    return {**dict(zip(mit.LEVELS, outputs.hidden_states, strict=True)), "logits": outputs.logits}


def _reference(name):
    source, _, bare = name.rpartition("/")
    if source == "huggingface":
        make, outputs, table = lambda: _huggingface(bare), huggingface_outputs, "huggingface/5"
    else:
        make, outputs, table = lambda: (_openmmlab if source else _smp)(bare), outputs_of, "smp"
    return Reference(make, "mit", LEVELS, table, temper=enliven, outputs=outputs)


REFERENCES = {name: _reference(name) for name in mit.SIZES}

SMALLEST = ("mit_b0", "openmmlab/mit_b0", "huggingface/mit_b0")
