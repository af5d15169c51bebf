"""Vision transformers: timm's, with images of another size than the stored position embedding, and torchvision's."""

import torch

from jaxvision.backbones import vit
from tests.parity.references.reference import Reference, from_timm, from_torchvision


@torch.no_grad()
def sharpen(model):
    """Weights that keep the signal's size, as trained ones do, and telling values of everything that starts tiny.

    A fresh transformer's attention is all but uniform, and its positions, tokens and layer scales hardly matter.
    """
    for name, p in model.named_parameters():
        if name.endswith(("pos_embed", "pos_embedding", "_token", "class_token")):
            p.normal_(0, 0.5)
        elif name.endswith("gamma"):
            p.uniform_(0.3, 1.0)
        elif (p.ndim == 1 and "norm" in name.rsplit(".", 2)[-2]) or ".ln" in name:
            p.uniform_(0.7, 1.3) if name.endswith("weight") else p.normal_(0, 0.1)
        elif p.ndim == 1:
            p.normal_(0, 0.1)
        else:
            p.normal_(0, p[0].numel() ** -0.5)


def levels_of(depth):
    """A block in the middle, all tokens behind the norm, and those of the patches as a map."""
    return dict.fromkeys((f"block{depth // 2}", "c4", "tokens"), "")


def timm_outputs(model, x):
    """The levels of `levels_of`, and the logits."""
    middle = len(model.blocks) // 2
    (inner,) = model.forward_intermediates(x, indices=[middle], intermediates_only=True)
    tokens = model.forward_features(x)
    height, width = inner.shape[2:]
    patches = tokens[:, model.num_prefix_tokens :]
    c4 = patches.reshape(len(x), height, width, -1).permute(0, 3, 1, 2)
    return {f"block{middle}": inner, "c4": c4, "tokens": tokens, "logits": model.forward_head(tokens)}


def torchvision_outputs(model, x):
    """The same; torchvision's own images have the size of its position embedding."""
    seen = {}
    layers = model.encoder.layers
    hooks = [layers[len(layers) // 2].register_forward_hook(lambda _, args, y: seen.update(inner=y))]
    hooks.append(model.encoder.register_forward_hook(lambda _, args, y: seen.update(tokens=y)))
    logits = model(x)
    for hook in hooks:
        hook.remove()
    side = x.shape[-1] // model.patch_size
    as_map = lambda t: t[:, 1:].permute(0, 2, 1).reshape(len(x), -1, side, side)  # noqa: E731
    return {
        f"block{len(layers) // 2}": as_map(seen["inner"]),
        "c4": as_map(seen["tokens"]),
        "tokens": seen["tokens"],
        "logits": logits,
    }


def row(name, fields):
    """timm's network, fed with images of three or four patches a side."""
    side = {8: 32, 14: 56, 16: 64, 32: 96}[fields.get("patch_size", 16)]
    return Reference(
        from_timm(name, num_classes=1000, dynamic_img_size=True),
        "vit",
        levels_of(fields["depth"]),
        size=side,
        temper=sharpen,
        outputs=timm_outputs,
    )


REFERENCES = {
    **{name: row(name, fields) for name, fields in vit.SIZES.items()},
    **{
        f"torchvision:{name}": Reference(
            from_torchvision(name),
            "vit",
            levels_of(depth),
            "torchvision",
            ours,
            size=224,
            temper=sharpen,
            outputs=torchvision_outputs,
        )
        for name, ours, depth in (
            ("vit_b_16", "vit_base_patch16_224", 12),
            ("vit_b_32", "vit_base_patch32_224", 12),
            ("vit_l_16", "vit_large_patch16_224", 24),
            ("vit_l_32", "vit_large_patch32_224", 24),
            ("vit_h_14", "vit_huge_patch14_224", 32),
        )
    },
}
"""Image size and position embedding of every row but torchvision's differ: each one also tests the resampling."""

FAMILIES = {"vision_transformer": ("vit",), "deit": ("vit",)}

EXCLUDED = {
    "vision_transformer": {
        r"vit_(giant|gigantic)_patch1[46]_((reg4_)?dinov2|(gap_)?224)": "above a billion parameters; fields make them",
        r"vit_huge_patch1[46]_gap_.*": "beyond large; fields make them",
        r"vit_(huge|giant|gigantic)_patch14_clip_\d+": "beyond large; fields make them",
        r"vit_.*_clip_quickgelu_.*": "a GELU of CLIP's own towers",
        r"vit_.*_siglip_.*": "SigLIP's image towers belong to their text towers",
        r"vit_.*_tipsv2": "image towers that belong to text towers",
        r"vit_.*_radio_v\d": "RADIO's students of several teachers",
        r"vit_intern300m_.*": "InternVL's image tower",
        r"vit_so150m2?_.*": "shapes from a scaling law, not of the size table",
        r"vit_.*_patch16_(rpn|18x2)_224|vit_.*_xp_224|vit_(d|p|dp)wee_.*|vit_dlittle_.*": "blocks of another structure",
        r"beit3_.*": "norms inside attention and perceptron",
        r"aimv2_.*": "root mean square norms and no biases",
        r"test_vit\d?": "models of timm's own tests",
    },
}

TORCHVISION = r"vit_.*"

SMALLEST = (
    *("vit_tiny_patch16_224", "vit_small_patch8_224", "vit_small_patch32_224", "vit_medium_patch16_gap_240"),
    *(
        "vit_wee_patch16_reg1_gap_256",
        "vit_xsmall_patch16_clip_224",
        "vit_small_patch14_dinov2",
        "deit3_small_patch16_224",
    ),
    *("vit_small_patch14_reg4_dinov2", "deit_tiny_distilled_patch16_224", "flexivit_small"),
)
