"""Names of published vision transformers: the tables of `vit`, see `jaxvision/pretrained/keymaps.py`.

torchvision's files were written before its perceptrons' layers got numbers, and Hugging Face's before version 5 renamed
the layers of its models; both accept either. The class of a Hugging Face model decides the prefix, and a bare one has
none. The first files of DINOv2 have timm's names but for registers (whose class token has a position:
`prefix_positions="class"`) and gates.
"""

_BLOCK = r"^backbone\.blocks\.(\d+)\."


def _torchvision(first: str, second: str) -> tuple[tuple[str, str], ...]:
    return (
        (r"^backbone\.cls_token", "class_token"),
        (r"^backbone\.pos_embed", "encoder.pos_embedding"),
        (r"^backbone\.patch_embed\.proj\.", "conv_proj."),
        (_BLOCK, r"encoder.layers.encoder_layer_\1."),
        (r"\.norm([12])\.", r".ln_\1."),
        (r"\.attn\.qkv\.", ".self_attention.in_proj_"),
        (r"\.attn\.proj\.", ".self_attention.out_proj."),
        (r"\.mlp\.fc1\.", f".mlp.{first}."),
        (r"\.mlp\.fc2\.", f".mlp.{second}."),
        (r"^backbone\.norm\.", "encoder.ln."),
        (r"^head\.", "heads.head."),
    )


_OPENMMLAB = (
    (r"\.patch_embed\.proj\.", ".patch_embed.projection."),
    (_BLOCK, r"backbone.layers.\1."),
    (r"\.norm([12])\.", r".ln\1."),
    (r"^backbone\.norm\.", "backbone.ln1."),
    (r"^backbone\.fc_norm\.", "backbone.ln2."),
    (r"\.norm_pre\.", ".pre_norm."),
    (r"\.ls1\.gamma", ".attn.gamma1.weight"),
    (r"\.ls2\.gamma", ".ffn.gamma2.weight"),
)
_FFN = ((r"\.mlp\.fc1\.", ".ffn.layers.0.0."), (r"\.mlp\.fc2\.", ".ffn.layers.1."))
_OPENMMLAB_HEAD = ((r"^head(_dist)?\.", r"head.layers.head\1."),)


def _huggingface(
    prefix: str, parts: tuple[str, ...], dino: bool, heads: tuple[str, str]
) -> tuple[tuple[str, str], ...]:
    """`parts`: names of the list of blocks, of queries, keys, values and output, and of the perceptron's layers."""
    blocks, query, key, value, out, first, second = parts
    norms = ("norm1", "norm2") if dino else ("layernorm_before", "layernorm_after")
    join = lambda names: " + ".join(rf"\1.{name}.\2" for name in names)  # noqa: E731
    return (
        (r"^backbone\.pos_embed", f"{prefix}embeddings.position_embeddings"),
        (r"^backbone\.cls_token", f"{prefix}embeddings.cls_token"),
        (r"^backbone\.dist_token", f"{prefix}embeddings.distillation_token"),
        (r"^backbone\.reg_token", f"{prefix}embeddings.register_tokens"),
        (r"^backbone\.patch_embed\.proj\.", f"{prefix}embeddings.patch_embeddings.projection."),
        (r"^backbone\.norm\.", f"{prefix}layernorm."),
        (_BLOCK, rf"{prefix}{blocks}.\1."),
        *((rf"\.norm{i + 1}\.", f".{norm}.") for i, norm in enumerate(norms)),
        (r"\.ls([12])\.gamma", r".layer_scale\1.lambda1"),
        (r"\.attn\.proj\.", f".attention.{out}."),
        (r"\.mlp\.fc2\.", f".{second}."),
        (r"^head\.", f"{heads[0]}."),
        (r"^head_dist\.", f"{heads[1]}."),
        (r"^(.*)\.attn\.qkv\.(\w+)$", join(f"attention.{name}" for name in (query, key, value))),
        (r"^(.*)\.mlp\.fc1\.(\w+)$", join(first.split(" + "))),
    )


_DINOV2 = ((r"^backbone\.reg_token", "register_tokens"), (r"^backbone\.", ""))
_OLD = ("encoder.layer", *(f"attention.{name}" for name in ("query", "key", "value")), "output.dense")
_NEW = ("q_proj", "k_proj", "v_proj", "o_proj")
_HEADS = ("classifier", "distillation_classifier")
_TEACHER = ("cls_classifier", "distillation_classifier")
_DENSE = ("intermediate.dense", "output.dense")
_FC = ("mlp.fc1", "mlp.fc2")
_GATED = ("mlp.gate_proj + mlp.up_proj", "mlp.down_proj")
KEYS = {
    "timm": ((r"^backbone\.", ""),),
    "timm/dinov2": _DINOV2,
    "timm/dinov2 swiglu": ((r"\.mlp\.fc1\.", ".mlp.w12."), (r"\.mlp\.fc2\.", ".mlp.w3."), *_DINOV2),
    "torchvision": _torchvision("0", "3"),
    "torchvision/linear": _torchvision("linear_1", "linear_2"),
    "openmmlab": (*_OPENMMLAB, *_FFN, *_OPENMMLAB_HEAD),
    "openmmlab/linear head": (*_OPENMMLAB, *_FFN, (r"^head\.", "head.fc.")),
    "openmmlab/swiglu": (*_OPENMMLAB, (r"\.mlp\.fc1\.", ".ffn.w12."), (r"\.mlp\.fc2\.", ".ffn.w3."), *_OPENMMLAB_HEAD),
    "openmmlab/mmseg": (
        *_OPENMMLAB,
        *_FFN,
        (r"\.attn\.qkv\.", ".attn.attn.in_proj_"),
        (r"\.attn\.proj\.", ".attn.attn.out_proj."),
        *_OPENMMLAB_HEAD,
    ),
    **{
        f"huggingface/{name}": _huggingface(prefix, parts, dino, heads)
        for model, prefix, dino, heads in (
            ("vit", "vit.", False, _HEADS),
            ("deit", "deit.", False, _TEACHER),
            ("deit without teacher", "deit.", False, _HEADS),
            ("dinov2", "dinov2.", True, _HEADS),
            ("dinov2_with_registers", "dinov2_with_registers.", True, _HEADS),
            ("vit bare", "", False, _HEADS),
            ("dinov2 bare", "", True, _HEADS),
        )
        for name, parts in (
            (model, (*_OLD, *(_FC if dino else _DENSE))),
            (f"{model} 5", ("encoder.layer" if dino else "layers", *_NEW, *_FC)),
            *([(f"{model} swiglu", (*_OLD, "mlp.weights_in", "mlp.weights_out"))] if dino else []),
            *([(f"{model} swiglu 5", ("encoder.layer", *_NEW, *_GATED))] if dino else []),
        )
    },
}
IGNORED = (r"(^|\.)mask_token$", r"^(vit\.|deit\.)?pooler\.")
