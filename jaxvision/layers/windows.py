"""Attention inside the windows of a feature map, every other time shifted (Liu et al. 2021, arXiv:2103.14030, 3.2).

Positions, windows and masks follow from static shapes and are numpy constants of the traced program, no variables.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

Attention = Callable[[Float[Array, "w n c"], Bool[np.ndarray, "v n n"] | None], Float[Array, "w n c"]]

_APART = -100.0
"""Added to the logits of tokens that a shift has put into one window; finite, as in every published network."""


def attend_in_windows(
    x: Float[Array, "b h w c"], window: int, shifted: bool, attention: Attention
) -> Float[Array, "b h w c"]:
    """Applies `attention` to each window of a map.

    The map is padded with zeros at the bottom and right to a multiple of the window, and the padding takes part in the
    attention, as in torchvision and OpenMMLab. (timm shifts first and pads then, which is the same where the window
    divides the map.) A shift moves the windows by half their size, except along an axis with a single window, where it
    would only cut that window in two.

    Args:
      x: the map.
      window: its side in tokens.
      shifted: whether the windows are shifted.
      attention: gets windows [b * v, window**2, c], those of an image in row-major order, and for the `v` windows of an
        image which of their tokens are no neighbours, None: all are.
    """
    _, height, width, channels = x.shape
    rows, columns = (math.ceil(size / window) for size in (height, width))
    half = window // 2 if shifted else 0
    shift = (half if rows > 1 else 0, half if columns > 1 else 0)
    padding = (rows * window - height, columns * window - width)
    if any(padding):
        x = jnp.pad(x, ((0, 0), (0, padding[0]), (0, padding[1]), (0, 0)))
    if any(shift):
        x = jnp.roll(x, (-shift[0], -shift[1]), (1, 2))
    x = x.reshape(-1, rows, window, columns, window, channels).transpose(0, 1, 3, 2, 4, 5)
    x = attention(x.reshape(-1, window**2, channels), strangers(rows, columns, window, shift) if any(shift) else None)
    x = x.reshape(-1, rows, columns, window, window, channels).transpose(0, 1, 3, 2, 4, 5)
    x = x.reshape(-1, rows * window, columns * window, channels)
    if any(shift):
        x = jnp.roll(x, shift, (1, 2))
    return x[:, :height, :width] if any(padding) else x


def attention_in_windows(
    query: Float[Array, "w n h d"],
    key: Float[Array, "w n h d"],
    value: Float[Array, "w n h d"],
    bias: Float[Array, "h n n"],
    apart: Bool[np.ndarray, "v n n"] | None,
) -> Float[Array, "w n h*d"]:
    """Softmax attention with a bias for every pair of tokens; logits and softmax in float32.

    Args:
      query: scaled already.
      apart: pairs of tokens that do not see each other, for the `v` windows of an image; None: all do.
    """
    windows, tokens, heads, _ = query.shape
    logits = jnp.einsum("wnhd,wmhd->whnm", query, key, preferred_element_type=jnp.float32) + bias[None]
    if apart is not None:
        images = logits.reshape(-1, len(apart), heads, tokens, tokens)
        logits = (images + jnp.where(apart, _APART, 0.0)[None, :, None]).reshape(logits.shape)
    weights = jax.nn.softmax(logits, axis=-1).astype(value.dtype)
    return jnp.einsum("whnm,wmhd->wnhd", weights, value).reshape(windows, tokens, -1)


def strangers(rows: int, columns: int, window: int, shift: tuple[int, int]) -> Bool[np.ndarray, "v n n"]:
    """Pairs of tokens that share a window of the shifted map without being neighbours in the map (fig. 4).

    Args:
      rows, columns: of windows; `v` is their product.
      window: its side `n**0.5`.
      shift: of rows and columns, in tokens.
    """
    last = [np.arange(count * window) >= count * window - s for count, s in zip((rows, columns), shift, strict=True)]
    region = 2 * last[0][:, None] + last[1][None, :]
    region = region.reshape(rows, window, columns, window).transpose(0, 2, 1, 3).reshape(-1, window**2)
    return region[:, :, None] != region[:, None, :]


def relative_position_index(window: int) -> Int[np.ndarray, "n n"]:
    """Row of the table [(2 * window - 1)**2, heads] of relative biases for each (query, key) of a window's tokens."""
    places = np.stack(np.divmod(np.arange(window**2), window))
    down, right = places[:, :, None] - places[:, None, :] + window - 1
    return down * (2 * window - 1) + right


def pairwise_bias(table: Float[Array, "r h"], window: int) -> Float[Array, "h n n"]:
    """The bias of each pair of a window's tokens from that of each relative position."""
    index = relative_position_index(window)
    return table[index.reshape(-1)].reshape(*index.shape, -1).transpose(2, 0, 1)


def log_spaced_positions(window: int, pretrained_window: int) -> Float[np.ndarray, "r 2"]:
    """Relative positions (down, right) of the table's rows in units of the window, in about [-1, 1], log-spaced.

    Liu et al. 2022, arXiv:2111.09883, section 3.3; scaled so that 8 units and not 1 are the edge of the window.

    Args:
      window: of this network.
      pretrained_window: that its weights were first trained with, which is the unit.
    """
    steps = np.arange(1 - window, window) * 8 / max(pretrained_window - 1, 1)
    steps = np.sign(steps) * np.log2(np.abs(steps) + 1) / 3
    return np.stack(np.meshgrid(steps, steps, indexing="ij"), axis=-1).reshape(-1, 2).astype(np.float32)


def resize_table(table: np.ndarray, window: int) -> np.ndarray:
    """A table [(2 * old - 1)**2, heads] of relative biases for another window, by timm's rule for checkpoints.

    The old positions move to a geometric grid (Bao et al. 2021, arXiv:2106.08254, in their code) that is as fine as
    before in the middle and ends at the new edge; the new positions are read from it linearly along each axis. For a
    smaller window that is close to the middle of the table. (The authors' code and OpenMMLab's detectors stretch the
    table evenly, bicubically.)

    Raises:
      ValueError: the table is not that of a square window.
    """
    old, new = math.isqrt(len(table)), 2 * window - 1
    if old**2 != len(table):
        raise ValueError(f"a table of {len(table)} relative positions is not that of a square window")
    known, wanted = _geometric_positions(old // 2, new // 2), np.arange(new) - new // 2
    weights = np.stack([np.interp(wanted, known, unit) for unit in np.eye(old)], axis=1)
    resized = np.einsum("ip,jq,pqh->ijh", weights, weights, table.reshape(old, old, -1).astype(np.float64))
    return resized.reshape(new**2, -1).astype(table.dtype)


def _geometric_positions(count: int, last: int) -> np.ndarray:
    """Places of the offsets -count ... count: steps that grow by one factor, 1.01 to 1.5, and add up to about `last`.

    The factor is found as roughly as timm finds it, so that tables agree.
    """
    low, high = 1.01, 1.5
    while high - low > 1e-6:
        factor = (low + high) / 2
        if (1 - factor**count) / (1 - factor) > last:
            high = factor
        else:
            low = factor
    right = np.cumsum(factor ** np.arange(count))
    return np.concatenate([-right[::-1], [0.0], right])
