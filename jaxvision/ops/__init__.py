"""Pure functions on arrays: no parameters, static shapes, one definition for CPU, GPU and TPU."""

from jaxvision.ops.anchors import base_anchors, centered_boxes, grid_anchors, grid_points
from jaxvision.ops.box_coders import (
    decode_deltas,
    decode_distances,
    decode_tblr,
    decode_yolo,
    encode_deltas,
    encode_distances,
    encode_tblr,
    encode_yolo,
)
from jaxvision.ops.box_fusion import weighted_boxes_fusion
from jaxvision.ops.boxes import box_area, box_convert, box_iou, box_iou_aligned, clip_boxes
from jaxvision.ops.deform_conv import deform_conv2d
from jaxvision.ops.deformable_attention import deformable_attention
from jaxvision.ops.grid_sample import grid_sample
from jaxvision.ops.label_maps import to_size
from jaxvision.ops.mask_crops import crop_masks
from jaxvision.ops.masks import (
    mask_areas,
    mask_boxes,
    mask_iou,
    pack_masks,
    paste_masks,
    paste_masks_on_host,
    unpack_masks,
)
from jaxvision.ops.matching import linear_sum_assignment
from jaxvision.ops.nms import nms, soft_nms
from jaxvision.ops.roi_align import assign_levels, multilevel_roi_align, roi_align
from jaxvision.ops.roi_pool import roi_pool
from jaxvision.ops.top_k import top_k

__all__ = [
    "assign_levels",
    "base_anchors",
    "box_area",
    "box_convert",
    "box_iou",
    "box_iou_aligned",
    "centered_boxes",
    "clip_boxes",
    "crop_masks",
    "decode_deltas",
    "decode_distances",
    "decode_tblr",
    "decode_yolo",
    "deform_conv2d",
    "deformable_attention",
    "encode_deltas",
    "encode_distances",
    "encode_tblr",
    "encode_yolo",
    "grid_anchors",
    "grid_points",
    "grid_sample",
    "linear_sum_assignment",
    "mask_areas",
    "mask_boxes",
    "mask_iou",
    "multilevel_roi_align",
    "nms",
    "pack_masks",
    "paste_masks",
    "paste_masks_on_host",
    "roi_align",
    "roi_pool",
    "soft_nms",
    "to_size",
    "top_k",
    "unpack_masks",
    "weighted_boxes_fusion",
]
