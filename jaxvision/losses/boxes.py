"""Losses of boxes, per coordinate or per box: L1 and smooth L1, and one minus an overlap.

Smooth L1: Girshick 2015 (arXiv:1504.08083), eq. 3, with the corner `beta` of Detectron and OpenMMLab; overlaps: GIoU
(Rezatofighi et al. 2019), DIoU and CIoU (Zheng et al. 2020), see `ops.boxes`.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxvision.ops import box_iou_aligned


def smooth_l1(
    values: Float[Array, "*shape"], targets: Float[Array, "*shape"], *, beta: float = 1.0
) -> Float[Array, "*shape"]:
    """Per element, float32: d**2 / (2 beta) where d = |values - targets| is below `beta`, else d - beta / 2.

    Args:
      beta: of 0 makes it the absolute difference, L1.
    """
    if values.shape != targets.shape:
        raise ValueError(f"smooth_l1 got targets {targets.shape} for values {values.shape}; the shapes must be equal")
    if beta < 0:
        raise ValueError(f"smooth_l1 got beta={beta}; it is at least 0")
    distance = jnp.abs(values.astype(jnp.float32) - targets.astype(jnp.float32))
    if beta == 0:
        return distance
    return jnp.where(distance < beta, 0.5 * jnp.square(distance) / beta, distance - 0.5 * beta)


def iou_loss(
    boxes: Float[Array, "*batch 4"], targets: Float[Array, "*batch 4"], *, kind: str = "giou"
) -> Float[Array, "*batch"]:
    """One minus the overlap of each box xyxy with its target, float32.

    Args:
      kind: "iou", "giou", "diou" or "ciou", see `ops.boxes.box_iou`.
    """
    if boxes.shape != targets.shape:
        raise ValueError(f"iou_loss got targets {targets.shape} for boxes {boxes.shape}; the shapes must be equal")
    return 1.0 - box_iou_aligned(boxes.astype(jnp.float32), targets.astype(jnp.float32), kind)
