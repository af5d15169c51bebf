"""Fully connected conditional random field by mean field (Krähenbühl and Koltun 2011, arXiv:1210.5644).

Sharpens coarse label maps at the edges of the image: every pair of pixels is coupled by two Gaussian kernels, one of
positions alone (smoothness), one of positions and colours (appearance). Usable on any logits.

Conventions are those of the authors' later code and of pydensecrf: the unary energy is -log softmax(logits); kernels
are normalised symmetrically, k_ij / sqrt(sum_m k_im * sum_m k_jm) (Krähenbühl and Koltun 2013); a pixel is its own
neighbour, too; all pixels are updated at once. Where the paper's Potts model adds energy to unlike labels, they and
this file subtract it from like ones, which is the same up to a constant of each pixel.

The smoothness kernel is computed exactly, as it is separable. The appearance kernel is exact on small images and else
filtered in the permutohedral lattice, as the authors do it: an approximation (tests/segmentation/test_dense_crf.py
bounds what it does to marginals of small images, camvid_crf.py beside it measures that on photographs).
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxvision.ops.permutohedral import Lattice, lattice_filter, permutohedral_lattice
from jaxvision.registry import hint

FILTERS = ("auto", "exact", "lattice")
Filter = Callable[[Float[Array, "n c"]], Float[Array, "n c"]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class DenseCRF:
    """Defaults are those of pydensecrf's example; DeepLab's are in `configs/segmentation/deeplab_*`.

    Attributes:
      iterations: updates of the mean field.
      smoothness: weight of the kernel of positions; 0: without it.
      smoothness_std: its standard deviation in pixels.
      appearance: weight of the kernel of positions and colours; 0: without it.
      position_std: its standard deviation in pixels.
      color_std: its standard deviation in grey levels (of 255).
      filter: of the appearance kernel: "exact" (time grows with the square of the pixels), "lattice", or "auto": exact
        up to `exact_up_to` pixels.
      exact_up_to: pixels of an image.
      capacity: corners of the lattice per pixel that the fast program has room for. An image that needs more loses
        nothing: it takes the slow one, which has room for as many as there can be (6 with three channels; 0.4 kB per
        pixel, and 0.1 kB per class). Road scenes of 480 x 360 need 0.04 to 0.06 at the default deviations and 0.3 to
        0.45 at DeepLab's, photographs of 640 x 427 up to 0.12 and 1.01, noise 1.6 and 5.7; `corners` tells it.
      label_weights: for each class, what a like pixel beside it counts; above 1 for thin classes, that the others
        swallow. None: 1 for all, the Potts model.
      mean, std: by which the images were normalised, where white is 1.
    """

    iterations: int = 5
    smoothness: float = 3.0
    smoothness_std: float = 3.0
    appearance: float = 10.0
    position_std: float = 80.0
    color_std: float = 13.0
    filter: str = "auto"
    exact_up_to: int = 4096
    capacity: float = 1.0
    label_weights: tuple[float, ...] | None = None
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        if self.filter not in FILTERS:
            raise ValueError(f"unknown filter {self.filter!r}: {hint(self.filter, FILTERS)}")
        if min(self.smoothness_std, self.position_std, self.color_std, self.capacity) <= 0 or self.iterations < 0:
            raise ValueError(f"{self}: deviations and capacity are above 0, iterations at least 0")
        if len(self.mean) != len(self.std):
            raise ValueError(f"DenseCRF got mean={self.mean} and std={self.std}; they are as long as each other")

    def __call__(
        self,
        logits: Float[Array, "b h w c"],
        images: Float[Array, "b h w channels"],
        *,
        valid: Bool[Array, "b h w"] | None = None,
        compatibility: Float[Array, "c c"] | None = None,
    ) -> Float[Array, "b h w c"]:
        """The marginals of every pixel, float32; they sum to 1. Images of a batch are computed one after the other.

        Has gradients with respect to `logits` and `compatibility`, none with respect to `images`.

        Args:
          images: as large as the logits, normalised by `mean` and `std`; by default 0 to 1.
          valid: pixels outside (padding) neither give nor take; they keep softmax(logits).
          compatibility: energy of label i beside label j, learned, in place of `label_weights`; None: minus the
            diagonal matrix of `label_weights`.

        Raises:
          ValueError: shapes that do not fit each other.
        """
        if logits.ndim != 4 or images.ndim != 4 or logits.shape[:3] != images.shape[:3]:
            raise ValueError(
                f"DenseCRF got logits {logits.shape} and images {images.shape}; it takes [B, H, W, C] of one size: "
                "enlarge the logits first"
            )
        matrix = self._compatibility(logits.shape[3], compatibility)
        pixels = jnp.ones(logits.shape[:3], jnp.float32) if valid is None else valid.astype(jnp.float32)
        return jax.lax.map(
            lambda one: self._infer(one[0], one[1], one[2], matrix),
            (logits.astype(jnp.float32), self._colors(images), pixels),
        )

    def corners(self, images: Float[Array, "b h w channels"]) -> Float[Array, " b"]:
        """Corners of the lattice that each image needs, per pixel: above `capacity`, the slow program computes it."""

        def of(colors: Float[Array, "h w d"]) -> Float[Array, ""]:
            features = self._features(colors)
            return permutohedral_lattice(features, 1).count.astype(jnp.float32) / np.float32(len(features))

        return jax.lax.map(of, self._colors(images))

    def check(self, classes: int) -> None:
        """Raises ValueError where `label_weights` are those of another number of classes."""
        if self.label_weights is not None and len(self.label_weights) != classes:
            raise ValueError(
                f"DenseCRF has {len(self.label_weights)} label_weights for {classes} classes: give one for each"
            )

    def _compatibility(self, classes: int, given: Float[Array, "c c"] | None) -> Float[Array, "c c"]:
        if given is not None and given.shape != (classes, classes):
            raise ValueError(f"DenseCRF got compatibility {given.shape} for {classes} classes")
        if given is not None:
            return given.astype(jnp.float32)
        self.check(classes)
        weights = (1.0,) * classes if self.label_weights is None else self.label_weights
        return jnp.diag(-np.asarray(weights, np.float32))

    def _colors(self, images: Float[Array, "b h w channels"]) -> Float[Array, "b h w channels"]:
        """In grey levels, without gradients."""
        if images.ndim != 4 or images.shape[3] != len(self.mean):
            raise ValueError(
                f"DenseCRF got images {images.shape} and {len(self.mean)} values of mean and std; "
                "it takes [B, H, W, C] and a value for each channel"
            )
        colors = (images.astype(jnp.float32) * _row(self.std) + _row(self.mean)) * np.float32(255)
        return jax.lax.stop_gradient(colors)

    def _infer(
        self,
        logits: Float[Array, "h w c"],
        colors: Float[Array, "h w d"],
        valid: Float[Array, "h w"],
        compatibility: Float[Array, "c c"],
    ) -> Float[Array, "h w c"]:
        """One image."""
        if not self.appearance:
            return self._mean_field(logits, valid, compatibility, None)
        features = self._features(colors)
        points, dimensions = features.shape
        if self.filter == "exact" or (self.filter == "auto" and points <= self.exact_up_to):
            return self._mean_field(logits, valid, compatibility, exact_filter(features))
        most = points * (dimensions + 1)
        few = min(max(int(self.capacity * points), 1), most)
        lattice = permutohedral_lattice(features, few)

        def infer(lattice: Lattice) -> Float[Array, "h w c"]:
            return self._mean_field(logits, valid, compatibility, lambda values: lattice_filter(lattice, values))

        if few == most:
            return infer(lattice)
        return jax.lax.cond(
            lattice.count <= few, lambda: infer(lattice), lambda: infer(permutohedral_lattice(features, most))
        )

    def _mean_field(
        self,
        logits: Float[Array, "h w c"],
        valid: Float[Array, "h w"],
        compatibility: Float[Array, "c c"],
        appearance: Filter | None,
    ) -> Float[Array, "h w c"]:
        shape = logits.shape
        unary = jax.nn.log_softmax(logits.reshape(-1, shape[-1]))
        weight = valid.reshape(-1, 1)
        kernels: list[tuple[float, Filter]] = []
        if self.smoothness:
            kernels.append(
                (self.smoothness, _normalised(separable_filter((shape[0], shape[1]), self.smoothness_std), weight))
            )
        if appearance is not None:
            kernels.append((self.appearance, _normalised(appearance, weight)))

        def update(_: int, marginals: Float[Array, "n c"]) -> Float[Array, "n c"]:
            messages = [np.float32(w) * smooth(marginals) for w, smooth in kernels]
            energy = jnp.matmul(sum(messages[1:], messages[0]), compatibility, precision=jax.lax.Precision.HIGHEST)
            return jax.nn.softmax(unary - energy)

        marginals = jax.nn.softmax(unary)
        if kernels:
            marginals = jax.lax.fori_loop(0, self.iterations, update, marginals)
        return marginals.reshape(shape)

    def _features(self, colors: Float[Array, "h w d"]) -> Float[Array, "n d2"]:
        """Position and colour of each pixel, in units of the deviations."""
        height, width, _ = colors.shape
        columns, rows = np.meshgrid(np.arange(width), np.arange(height))
        places = np.stack([columns, rows], axis=-1).astype(np.float32) / np.float32(self.position_std)
        features = jnp.concatenate([places, colors / np.float32(self.color_std)], axis=-1)
        return features.reshape(height * width, -1)


def _row(values: tuple[float, ...]) -> Float[np.ndarray, "1 1 1 d"]:
    return np.asarray(values, np.float32).reshape(1, 1, 1, -1)


def exact_filter(features: Float[Array, "n d"], block: int = 2**22) -> Filter:
    """sum_j exp(-|f_i - f_j|^2 / 2) v_j for all i: the oracle of fast filters.

    Args:
      block: pairs of points that are in memory at a time.
    """
    points = features.shape[0]
    rows = max(min(block // points, points), 1)
    blocks = -(-points // rows)
    padded = jnp.pad(features, ((0, blocks * rows - points), (0, 0))).reshape(blocks, rows, -1)

    def smooth(values: Float[Array, "n c"]) -> Float[Array, "n c"]:
        @jax.checkpoint
        def some(own: Float[Array, "r d"]) -> Float[Array, "r c"]:
            # Squares of differences: the binomial formula loses three digits where colours are far from 0.
            distance = sum((own[:, i, None] - features[None, :, i]) ** 2 for i in range(features.shape[1]))
            return jnp.matmul(jnp.exp(np.float32(-0.5) * distance), values, precision=jax.lax.Precision.HIGHEST)

        return jax.lax.map(some, padded).reshape(blocks * rows, -1)[:points]

    return smooth


def separable_filter(size: tuple[int, int], std: float) -> Filter:
    """The exact Gaussian of positions in pixels: one product along the columns, one along the rows.

    Args:
      size: height and width; values are [height * width, channels].
    """
    kernels = []
    for length in size:
        distance = np.subtract.outer(np.arange(length), np.arange(length)) / std
        kernels.append(np.exp(-0.5 * distance**2).astype(np.float32))

    def smooth(values: Float[Array, "n c"]) -> Float[Array, "n c"]:
        grid = values.reshape(*size, -1)
        y = jnp.einsum("ih,hwc->iwc", kernels[0], grid, precision=jax.lax.Precision.HIGHEST)
        y = jnp.einsum("jw,iwc->ijc", kernels[1], y, precision=jax.lax.Precision.HIGHEST)
        return y.reshape(values.shape)

    return smooth


def _normalised(smooth: Filter, weight: Float[Array, "n 1"]) -> Filter:
    """Symmetric normalisation over the points of weight 1."""
    total = smooth(weight)
    scale = jnp.where((weight > 0) & (total > 0), jax.lax.rsqrt(jnp.where(total > 0, total, 1.0)), 0.0) * weight
    return lambda values: scale * smooth(scale * values)
