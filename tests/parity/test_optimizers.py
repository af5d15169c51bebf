"""Optimizers against torch.optim and timm, schedules against torch.optim.lr_scheduler, over several steps."""

import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from jaxvision.engine import optimizers, schedules
from jaxvision.engine.optimizers import OptimizerSettings, make_optimizer

pytestmark = pytest.mark.parity


def declare_torchvision_operators() -> torch.library.Library | None:
    """Lets timm import a torchvision whose wheel was built for CUDA beside a CPU-only torch; no operator is called."""
    spec = importlib.util.find_spec("torchvision")
    assert spec is not None and spec.origin is not None
    try:
        torch.ops.load_library(Path(spec.origin).parent / "_C.so")
    except OSError:
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            if not hasattr(torch.ops.torchvision, name):
                library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return library
    return None


OPERATORS = declare_torchvision_operators()  # kept: the declaration lives as long as the object

from timm.optim import Lamb, Lars, Lion, RMSpropTF  # noqa: E402

STEPS = 24
SHAPES = {"block/kernel": (5, 7), "block/bias": (7,), "head/kernel": (7, 3), "head/bias": (3,)}


def draw(seed):
    rng = np.random.default_rng(seed)
    return {path: rng.normal(size=shape).astype(np.float32) for path, shape in SHAPES.items()}


def train_jax(optimizer, learning_rate, grads, **settings):
    """Our parameters after one update per gradient; flat trees, whose paths are then those of the settings."""
    params = draw(0)
    bundle = make_optimizer(
        OptimizerSettings(**settings),
        params,
        optimizer=optimizer,
        learning_rate=learning_rate,
        total_steps=STEPS,
        steps_per_epoch=4,
        batch_size=1,
    )
    state, update = bundle.transform.init(params), jax.jit(bundle.transform.update)
    for gradient in grads:
        updates, state = update(gradient, state, params)
        params = jax.tree.map(jnp.add, params, updates)
    return params


def train_torch(make, scheduler, grads, groups=lambda path: {}, clip=None):
    params = {path: torch.nn.Parameter(torch.tensor(value)) for path, value in draw(0).items()}
    optimizer = make([{"params": [p], **groups(path)} for path, p in params.items()])
    schedule = scheduler(optimizer)
    for gradient in grads:
        for path, p in params.items():
            p.grad = torch.tensor(gradient[path])
        if clip:
            clip(params.values())
        optimizer.step()
        schedule.step()
    return {path: p.detach().numpy() for path, p in params.items()}


def assert_close(found, expected):
    for path in SHAPES:
        scale = np.abs(expected[path]).max()
        np.testing.assert_allclose(found[path] / scale, expected[path] / scale, rtol=0, atol=1e-6, err_msg=path)


PAIRS = {
    "sgd": (optimizers.sgd(weight_decay=0.05), lambda p: torch.optim.SGD(p, 0.02, weight_decay=0.05)),
    "momentum": (optimizers.sgd(0.9), lambda p: torch.optim.SGD(p, 0.02, momentum=0.9)),
    "nesterov": (
        optimizers.sgd(0.9, nesterov=True, weight_decay=0.05),
        lambda p: torch.optim.SGD(p, 0.02, momentum=0.9, nesterov=True, weight_decay=0.05),
    ),
    "adam": (optimizers.adam(weight_decay=0.05), lambda p: torch.optim.Adam(p, 0.02, weight_decay=0.05)),
    "adam, other numbers": (
        optimizers.adam(0.5, 0.9, 1e-3),
        lambda p: torch.optim.Adam(p, 0.02, betas=(0.5, 0.9), eps=1e-3),
    ),
    "adamw": (optimizers.adamw(), lambda p: torch.optim.AdamW(p, 0.02)),
    "rmsprop": (optimizers.rmsprop(weight_decay=0.05), lambda p: torch.optim.RMSprop(p, 0.02, weight_decay=0.05)),
    "rmsprop, momentum": (
        optimizers.rmsprop(0.9, 1e-3, 0.9),
        lambda p: torch.optim.RMSprop(p, 0.02, alpha=0.9, eps=1e-3, momentum=0.9),
    ),
    "rmsprop_tf": (
        optimizers.rmsprop_tf(0.9, 1e-3, 0.8, weight_decay=0.05),
        lambda p: RMSpropTF(
            p, 0.02, alpha=0.9, eps=1e-3, momentum=0.8, weight_decay=0.05, lr_in_momentum=False, foreach=False
        ),
    ),
    "lion": (optimizers.lion(weight_decay=0.05), lambda p: Lion(p, 0.02, weight_decay=0.05)),
    "lamb": (optimizers.lamb(), lambda p: Lamb(p, 0.02, max_grad_norm=None)),
    "lars": (
        optimizers.lars(weight_decay=0.05, trust_coefficient=0.02),
        lambda p: Lars(p, 0.02, momentum=0.9, weight_decay=0.05, trust_coeff=0.02),
    ),
    "lars, nesterov": (
        optimizers.lars(nesterov=True, trust_coefficient=0.5),
        lambda p: Lars(p, 0.02, momentum=0.9, nesterov=True, trust_coeff=0.5, always_adapt=True),
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_optimizers_equal_the_reference_under_a_schedule(name):
    ours, theirs = PAIRS[name]
    grads = [draw(1 + t) for t in range(STEPS)]
    found = train_jax(ours, schedules.cosine(0.02), grads)
    assert_close(found, train_torch(theirs, lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, STEPS), grads))


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (
            optimizers.sgd(0.9, weight_decay=0.05),
            lambda p: torch.optim.SGD(p, 0.02, momentum=0.9, weight_decay=0.05),
        ),
        (optimizers.adamw(weight_decay=0.05), lambda p: torch.optim.AdamW(p, 0.02, weight_decay=0.05)),
        (optimizers.lion(weight_decay=0.05), lambda p: Lion(p, 0.02, weight_decay=0.05)),
        (optimizers.lamb(weight_decay=0.05), lambda p: Lamb(p, 0.02, weight_decay=0.05, max_grad_norm=None)),
        (
            optimizers.lars(weight_decay=0.05, trust_coefficient=0.5),
            lambda p: Lars(p, 0.02, momentum=0.9, weight_decay=0.05, trust_coeff=0.5),
        ),
    ],
    ids=["sgd", "adamw", "lion", "lamb", "lars"],
)
def test_groups_and_clipping_equal_torch_parameter_groups(ours, theirs):
    """Head at 3 times the rate, vectors without weight decay, global norm clipped to 2."""

    def groups(path):
        rate = {"lr": 0.06} if path.startswith("head") else {}
        return {**rate, **({"weight_decay": 0.0} if path.endswith("bias") else {})}

    grads = [draw(1 + t) for t in range(STEPS)]
    found = train_jax(
        ours,
        schedules.cosine(0.02),
        grads,
        rules=({"pattern": "head/.*", "learning_rate": 3.0},),
        no_weight_decay_on_norm_and_bias=True,
        clip_norm=2.0,
    )

    def clip(params):
        torch.nn.utils.clip_grad_norm_(params, 2.0)

    def scheduler(optimizer):
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)

    assert_close(found, train_torch(theirs, scheduler, grads, groups, clip))


def torch_rates(scheduler, steps, every=1):
    """Rates of the first `steps` updates under a torch scheduler that is stepped after each `every` of them."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.3)
    schedule, rates = scheduler(optimizer), []
    for t in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if (t + 1) % every == 0 and t + 1 < steps:
            schedule.step()
    return rates


def with_warmup(main, factor, iterations):
    """OpenMMLab's convention: two chained schedulers, whose factors are multiplied."""
    lr = torch.optim.lr_scheduler

    def make(optimizer):
        return lr.ChainedScheduler([lr.LinearLR(optimizer, factor, total_iters=iterations), main(optimizer)])

    return make


LR = torch.optim.lr_scheduler
SCHEDULES = {
    "StepLR": (schedules.step(0.3, (5, 10, 15), 0.1), lambda o: LR.StepLR(o, 5), 6, {}),
    "MultiStepLR": (
        schedules.step(0.3, (20, 90), 0.2, "steps"),
        lambda o: LR.MultiStepLR(o, [20, 90], 0.2),
        1,
        {},
    ),
    "CosineAnnealingLR": (schedules.cosine(0.3, 0.01), lambda o: LR.CosineAnnealingLR(o, 120, 0.01), 1, {}),
    "CosineAnnealingLR by epochs": (
        schedules.cosine(0.3, 0.01, by="epochs"),
        lambda o: LR.CosineAnnealingLR(o, 20, 0.01),
        6,
        {},
    ),
    "PolynomialLR": (schedules.polynomial(0.3, 0.9), lambda o: LR.PolynomialLR(o, 120, 0.9), 1, {}),
    "LinearLR": (schedules.linear(0.3, 0.03, stop=10), lambda o: LR.LinearLR(o, 1.0, 0.1, 60), 1, {}),
    "ExponentialLR": (schedules.exponential(0.3, 0.8), lambda o: LR.ExponentialLR(o, 0.8), 6, {}),
    "OneCycleLR": (
        schedules.one_cycle(0.3),
        lambda o: LR.OneCycleLR(o, 0.3, total_steps=120, cycle_momentum=False),
        1,
        {},
    ),
    "OneCycleLR, lines": (
        schedules.one_cycle(0.3, 0.1, 10.0, 100.0, "linear"),
        lambda o: LR.OneCycleLR(o, 0.3, 120, None, None, 0.1, "linear", False, 0.85, 0.95, 10.0, 100.0),
        1,
        {},
    ),
    "CosineAnnealingWarmRestarts": (
        schedules.restarts(0.3, 15, 2, 0.01, "steps"),
        lambda o: LR.CosineAnnealingWarmRestarts(o, 15, 2, 0.01),
        1,
        {},
    ),
    "CosineAnnealingWarmRestarts by epochs": (
        schedules.restarts(0.3, 3, by="epochs"),
        lambda o: LR.CosineAnnealingWarmRestarts(o, 3),
        6,
        {},
    ),
    "LinearLR as warm-up": (
        schedules.constant(0.3),
        lambda o: LR.LinearLR(o, 0.1, total_iters=18),
        1,
        {"warmup": 3, "warmup_factor": 0.1},
    ),
    "ConstantLR as warm-up": (
        schedules.constant(0.3),
        lambda o: LR.ConstantLR(o, 0.25, total_iters=18),
        1,
        {"warmup": 3, "warmup_factor": 0.25, "warmup_kind": "constant"},
    ),
    "LinearLR chained with ExponentialLR": (
        schedules.exponential(0.3, 0.98, 1, "steps"),
        with_warmup(lambda o: LR.ExponentialLR(o, 0.98), 0.01, 30),
        1,
        {"warmup": 5, "warmup_factor": 0.01},
    ),
    "SequentialLR": (
        schedules.cosine(0.3, start=3),
        lambda o: LR.SequentialLR(
            o, [LR.LinearLR(o, 0.01, total_iters=18), LR.CosineAnnealingLR(o, 120 - 18)], milestones=[18]
        ),
        1,
        {"warmup": 3, "warmup_factor": 0.01},
    ),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_equal_torch(name):
    learning_rate, scheduler, every, warmup = SCHEDULES[name]
    schedule = schedules.make_schedule(learning_rate, total_steps=120, steps_per_epoch=6, **warmup)
    found = jax.vmap(schedule)(jnp.arange(120))
    # torch updates most rates recursively from the one before, which in Python floats costs nothing
    np.testing.assert_allclose(found, torch_rates(scheduler, 120, every), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("patience", "cooldown"), [(0, 0), (1, 0), (2, 3)])
def test_reduce_on_plateau_equals_torch(patience, cooldown):
    losses = np.exp(-np.linspace(0, 2, 40)) + 0.2 * np.random.default_rng(0).random(40)
    losses = losses.astype(np.float32)
    bundle = make_optimizer(
        OptimizerSettings(),
        draw(0),
        optimizer=optimizers.sgd(),
        learning_rate=schedules.reduce_on_plateau(0.3, 0.5, patience, cooldown, 1e-2, 1e-3, 1, "steps"),
        total_steps=40,
        steps_per_epoch=6,
        batch_size=1,
    )
    state = bundle.transform.init(draw(0))
    update = jax.jit(lambda state, value: bundle.transform.update(draw(1), state, draw(0), value=value)[1])
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.3)
    scheduler = LR.ReduceLROnPlateau(
        optimizer, factor=0.5, patience=patience, cooldown=cooldown, threshold=1e-2, min_lr=1e-3
    )
    rates = []
    for t, loss in enumerate(losses):
        rates.append(optimizer.param_groups[0]["lr"])
        np.testing.assert_allclose(bundle.learning_rate(t, state), rates[-1], rtol=1e-6)
        state = update(state, loss)
        scheduler.step(float(loss))
    assert len(set(rates)) > 3
