"""A trained RepVGG and its deployed form are one function."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.backbones.repvgg import RepVGG, reparameterize
from jaxvision.classification.classifier import Classifier
from tests.backbones.fill import fill
from tests.conftest import strict

TRAINED = RepVGG(depths=(1, 2, 2, 1), widths=(8, 8, 16, 16), stem_width=8, groups=4, reduction=4)


@pytest.mark.parametrize("wrap", [lambda backbone: backbone, lambda backbone: Classifier(backbone, 5)])
def test_the_deployed_form_computes_what_the_trained_one_does(wrap, unoptimized):
    trained, deployed = wrap(TRAINED), wrap(TRAINED.clone(deploy=True))
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 32, 32, 3), np.float32))
    variables = fill(trained, x, train=False)
    fused = reparameterize(variables)
    assert "batch_stats" not in fused and "batch_stats" in variables
    wanted = jax.eval_shape(lambda x: deployed.init(jax.random.key(0), x, train=False), x)
    assert jax.tree.map(jnp.shape, fused) == jax.tree.map(jnp.shape, wanted)
    with strict():
        outputs = jax.jit(lambda a, b, x: (trained.apply(a, x, train=False), deployed.apply(b, x, train=False)))(
            variables, fused, x
        )
    for ours, theirs in zip(*map(jax.tree.leaves, outputs), strict=True):
        assert jnp.linalg.norm(ours - theirs) <= 1e-4 * jnp.linalg.norm(theirs) > 0


def test_reparameterize_refuses_what_has_no_branches_or_no_statistics():
    with pytest.raises(ValueError, match="no block with the branches conv_kxk"):
        reparameterize({"params": {"head": {"kernel": jnp.zeros((2, 2))}}})
    variables = fill(TRAINED, jnp.zeros((1, 32, 32, 3)), train=False)
    with pytest.raises(ValueError, match="needs the running statistics"):
        reparameterize({"params": variables["params"]})
    with pytest.raises(ValueError, match="no block with the branches"):
        reparameterize(reparameterize(variables))


def test_other_collections_and_statistics_stay():
    variables = fill(TRAINED, jnp.zeros((1, 32, 32, 3)), train=False)
    other = {"neck": {"bn": {"mean": jnp.zeros(2), "var": jnp.ones(2)}}}
    mixed = {
        "params": {"backbone": variables["params"], "neck": {"bn": {"scale": jnp.ones(2), "bias": jnp.zeros(2)}}},
        "batch_stats": {"backbone": variables["batch_stats"], **other},
        "queue": {"keys": jnp.zeros(3)},
    }
    fused = reparameterize(mixed)
    assert set(fused) == {"params", "batch_stats", "queue"} and jax.tree.structure(
        fused["batch_stats"]
    ) == jax.tree.structure(other)
