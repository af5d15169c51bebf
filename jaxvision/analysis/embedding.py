"""Feature spaces in the plane: principal components, and t-SNE (van der Maaten and Hinton 2008), by scikit-learn."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from jaxvision.errors import SetupError

METHODS = ("pca", "tsne")
BEFORE_TSNE = 50
"""Principal components that t-SNE gets (its paper, section 4.2)."""


def project(features: Float[np.ndarray, "n d"], method: str, seed: int = 0) -> tuple[Float[np.ndarray, "n 2"], str]:
    """Points in the plane, and a line that says how they were made.

    Args:
      features: at least four rows.
      method: "pca" or "tsne".
      seed: of t-SNE.
    """
    rows = np.asarray(features, np.float32).reshape(len(features), -1)
    if len(rows) < 4:
        raise SetupError(f"a picture of the feature space needs at least 4 images, got {len(rows)}")
    if method not in METHODS:
        raise SetupError(f"unknown projection {method!r}: expected one of {', '.join(METHODS)}")
    from sklearn.decomposition import PCA

    if method == "pca":
        pca = PCA(2, random_state=seed).fit(rows)
        first, second = pca.explained_variance_ratio_
        return pca.transform(rows), f"PCA: {first:.1%} and {second:.1%} of the variance"
    from sklearn.manifold import TSNE

    if rows.shape[1] > BEFORE_TSNE:
        rows = PCA(min(BEFORE_TSNE, len(rows)), random_state=seed).fit_transform(rows)
    perplexity = float(min(30, max(2, (len(rows) - 1) // 3)))
    tsne = TSNE(2, perplexity=perplexity, init="pca", learning_rate="auto", random_state=seed)
    return tsne.fit_transform(rows), f"t-SNE: perplexity {perplexity:g}"


def neighbours_agree(features: Float[np.ndarray, "n d"], labels: Sequence[int]) -> float:
    """Share of rows whose nearest other row (cosine) has their label: how well classes are told apart."""
    from jaxvision.retrieval import normalized, retrieval_scores

    rows, known = normalized(features), np.asarray(labels)
    return retrieval_scores(rows, known, rows, known, topk=(1,), leave_one_out=True)["recall@1"]
