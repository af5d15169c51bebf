"""The measure of single models: programs run, and the command says one line for each model."""

import jax.numpy as jnp

from experiments import benchmark
from jaxvision.model_speed import compile_programs, own_image_size, timed


def test_programs_of_a_model_run_and_are_counted():
    programs = compile_programs("resnet10t", batch_size=2, image_size=(32, 32), dtype=jnp.bfloat16)
    assert programs.parameters == 5_435_488 and programs.compile_seconds > 0
    assert programs.flops is None or 1e7 < programs.flops < 1e9
    first, second = (timed([programs.forward, programs.train]) for _ in range(2))
    assert all(seconds > 0 for seconds in first + second)
    assert own_image_size("resnet10t") == (224, 224)


def test_the_command_measures_models_by_name(capsys):
    status = benchmark.main(["--models", "resnet10t", "--batch-size", "2", "--image-size", "32", "--rounds", "1"])
    out = capsys.readouterr().out
    assert status == 0 and "resnet10t" in out and "5.44 M" in out and "train step" in out and "32x32 float32" in out
    assert benchmark.main(["--models", "resnet10tt"]) == 2
