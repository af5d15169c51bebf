"""SegFormer-B0, ADE20K (Xie et al. 2021); OpenMMLab's `segformer_mit-b0_8xb2-160k_ade20k-512x512` reaches 37.41 mIoU.

It starts from the authors' encoder, trained on ImageNet.
"""

from configs.common import semantic_segmentation


def get_config(arg=""):
    config = semantic_segmentation.get_config(arg, dataset="ade20k", crop=(512, 512))
    config.model = dict(
        name="segformer",
        num_classes=len(semantic_segmentation.ADE20K),
        backbone=dict(drop_path_rate=0.1),
        norm="sync_bn",
        losses=semantic_segmentation.ALL_PIXELS,
    )
    config.schedule = dict(
        steps=160_000,
        optimizer=dict(name="adamw", weight_decay=0.01),
        learning_rate=dict(name="polynomial", value=6e-5, start=1500.0, unit="steps"),
        warmup=1500.0,
        warmup_unit="steps",
        warmup_factor=1e-6,
        rules=(
            dict(pattern="decode_head/.*", learning_rate=10.0),
            dict(pattern=r"backbone/(block|patch_embed)\d.*/norm\d?/.*", weight_decay=0.0),
        ),
    )
    config.pretrained = dict(backbone="openmmlab:mit_b0")
    return semantic_segmentation.complete(config)
