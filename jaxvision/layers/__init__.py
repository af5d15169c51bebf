"""Small flax modules that architectures share. They follow the dtype of their input; parameters stay float32."""

from jaxvision.layers.attention import SelfAttention, attend
from jaxvision.layers.conv import Conv, Dense
from jaxvision.layers.conv_norm import ConvNorm
from jaxvision.layers.conv_transpose import ConvTranspose
from jaxvision.layers.cross_attention import MultiHeadAttention
from jaxvision.layers.deform_conv import DeformConv
from jaxvision.layers.deformable_attention import DeformableAttention
from jaxvision.layers.drop_path import DropPath, drop_path
from jaxvision.layers.flat_dense import FlatDense
from jaxvision.layers.mlp import GatedMlp, LayerScale, Mlp, gelu
from jaxvision.layers.norm import BatchNorm, GroupNorm, LayerNorm, Norm
from jaxvision.layers.position_embedding import resample_position_embedding
from jaxvision.layers.sine_position_embedding import sine_position_embedding
from jaxvision.layers.squeeze_excite import SqueezeExcite

__all__ = [
    "BatchNorm",
    "Conv",
    "ConvNorm",
    "ConvTranspose",
    "DeformConv",
    "DeformableAttention",
    "Dense",
    "DropPath",
    "FlatDense",
    "GatedMlp",
    "GroupNorm",
    "LayerNorm",
    "LayerScale",
    "Mlp",
    "MultiHeadAttention",
    "Norm",
    "SelfAttention",
    "SqueezeExcite",
    "attend",
    "drop_path",
    "gelu",
    "resample_position_embedding",
    "sine_position_embedding",
]
