"""Conv, Dense and the norms against torch.nn from the same weights: outputs, gradients, running statistics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision import layers
from tests.conftest import strict
from tests.parity.torch_weights import nchw, nhwc, relative

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
nn = torch.nn


def values_and_gradients(apply, params, x, weights):
    """Output, and the gradients of sum(weights * output) to parameters and input."""
    with strict():
        y, pullback = jax.vjp(apply, params, x)
        return y, *pullback(weights)


CONVS = [
    (4, {}),
    (6, {"kernel_size": 1, "strides": 2}),
    (6, {"kernel_size": 3, "strides": 2, "groups": 2}),
    (4, {"kernel_size": 3, "groups": 4}),
    (6, {"kernel_size": 3, "dilation": 2}),
    (6, {"kernel_size": 7, "strides": 2, "use_bias": False}),
    (6, {"kernel_size": (1, 5), "strides": (1, 2), "padding": (1, 0), "dilation": (1, 2)}),
    (6, {"kernel_size": 4, "strides": 4, "padding": 0}),
]


@pytest.mark.parametrize("features,options", CONVS, ids=str)
def test_conv(features, options):
    torch.manual_seed(0)
    size, dilation = (np.broadcast_to(options.get(k, d), 2) for k, d in (("kernel_size", 3), ("dilation", 1)))
    theirs = nn.Conv2d(
        4,
        features,
        tuple(map(int, size)),
        options.get("strides", 1),
        options.get("padding", tuple(int(d * (k - 1) // 2) for k, d in zip(size, dilation, strict=True))),
        tuple(map(int, dilation)),
        options.get("groups", 1),
        bias=options.get("use_bias", True),
    )
    x = torch.randn(2, 4, 13, 12, requires_grad=True)
    want = theirs(x)
    weights = torch.randn_like(want)
    (want * weights).sum().backward()
    ours = layers.Conv(features, **options)
    kernel = lambda w: jnp.asarray(w.detach().numpy().transpose(2, 3, 1, 0))  # noqa: E731
    params = {"kernel": kernel(theirs.weight)}
    if theirs.bias is not None:
        params["bias"] = jnp.asarray(theirs.bias.detach().numpy())
    y, dparams, dx = values_and_gradients(lambda p, x: ours.apply({"params": p}, x), params, nhwc(x), nhwc(weights))
    assert relative(nchw(y), want.detach()) < 1e-6 and relative(nchw(dx), x.grad) < 1e-6
    assert relative(dparams["kernel"], kernel(theirs.weight.grad)) < 1e-6
    if theirs.bias is not None:
        assert relative(dparams["bias"], theirs.bias.grad) < 1e-6


def test_dense():
    torch.manual_seed(0)
    theirs, x = nn.Linear(5, 3), torch.randn(4, 7, 5)
    params = {
        "kernel": jnp.asarray(theirs.weight.detach().numpy().T),
        "bias": jnp.asarray(theirs.bias.detach().numpy()),
    }
    with strict():
        y = layers.Dense(3).apply({"params": params}, jnp.asarray(x.numpy()))
    assert relative(y, theirs(x).detach()) < 1e-6


NORMS = {
    "bn": (lambda: nn.BatchNorm2d(6), layers.Norm("bn")),
    "bn momentum": (lambda: nn.BatchNorm2d(6, eps=1e-3, momentum=0.03), layers.Norm("bn", 1e-3, 0.97)),
    "sync_bn": (lambda: nn.BatchNorm2d(6), layers.Norm("sync_bn")),
    "gn": (lambda: nn.GroupNorm(3, 6), layers.Norm("gn", groups=3)),
    "ln": (lambda: nn.LayerNorm(6), layers.Norm("ln")),
}


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("offset", [0.0, 30.0])
def test_three_training_steps_and_an_evaluation(name, offset):
    make, norm = NORMS[name]
    torch.manual_seed(0)
    theirs, ours = make(), norm(name="n")
    with torch.no_grad():
        theirs.weight.uniform_(0.5, 1.5), theirs.bias.normal_()
    last = isinstance(theirs, nn.LayerNorm)  # torch normalises the last axis: feed it NHWC
    reference = (lambda x: theirs(x.movedim(1, -1)).movedim(-1, 1)) if last else theirs
    params = {"scale": jnp.asarray(theirs.weight.detach().numpy()), "bias": jnp.asarray(theirs.bias.detach().numpy())}
    stats = {"batch_stats": {"mean": jnp.zeros(6), "var": jnp.ones(6)}} if "bn" in name else {}
    for _ in range(3):
        x = (torch.randn(4, 6, 5, 3) * 2 + offset).requires_grad_()
        theirs.zero_grad()
        want = reference(x)
        weights = torch.randn_like(want)
        (want * weights).sum().backward()

        def apply(params, x, stats=stats):
            return ours.apply({"params": params, **stats}, x, train=True, mutable=["batch_stats"])[0]

        y, dparams, dx = values_and_gradients(apply, params, nhwc(x), nhwc(weights))
        _, stats = ours.apply({"params": params, **stats}, nhwc(x), train=True, mutable=["batch_stats"])
        tolerance = 1e-6 * (1 + offset)
        assert relative(nchw(y), want.detach()) < tolerance and relative(nchw(dx), x.grad) < 3 * tolerance
        assert relative(dparams["scale"], theirs.weight.grad) < 3 * tolerance
        assert relative(dparams["bias"], theirs.bias.grad) < 3 * tolerance
    if stats:
        assert relative(stats["batch_stats"]["mean"], theirs.running_mean) < 1e-6
        assert relative(stats["batch_stats"]["var"], theirs.running_var) < 1e-5
    theirs.eval()
    x = torch.randn(2, 6, 5, 3)
    y = ours.apply({"params": params, **stats}, nhwc(x), train=False)
    assert relative(nchw(y), reference(x).detach()) < 2e-6


def test_batch_norm_refuses_a_single_value_as_torch_does():
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        nn.BatchNorm2d(3)(torch.zeros(1, 3, 1, 1))
    module = layers.BatchNorm()
    variables = module.init(jax.random.key(0), jnp.zeros((1, 1, 1, 3)), train=True)
    with pytest.raises(ValueError, match="one value per channel"):
        module.apply(variables, jnp.zeros((1, 1, 1, 3)), train=True, mutable=["batch_stats"])


def test_initial_weights_have_torchs_spread():
    torch.manual_seed(0)
    theirs = nn.Conv2d(64, 96, 3, groups=2)
    params = layers.Conv(96, 3, groups=2).init(jax.random.key(0), jnp.zeros((1, 4, 4, 64)))["params"]
    for ours, reference in ((params["kernel"], theirs.weight), (params["bias"], theirs.bias)):
        np.testing.assert_allclose(jnp.abs(ours).max(), reference.abs().max().item(), rtol=0.05)
        np.testing.assert_allclose(ours.std(), reference.std().item(), rtol=0.15)
