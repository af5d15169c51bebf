"""The command that measures runs, with numbers that are checked for sense alone."""

from experiments import benchmark


def test_the_benchmark_reports_step_loop_and_memory(capsys):
    assert benchmark.main(["--config", "linear_digits:smoke", "--steps", "3", "--rounds", "2"]) == 0
    told = capsys.readouterr().out
    assert "parameters: " in told
    assert "bare step:" in told and "whole loop:" in told and "over the bare step" in told


def test_the_input_is_measured_alone(capsys):
    assert benchmark.main(["--config", "linear_digits:smoke", "--input", "--rounds", "1"]) == 0
    assert "images 16x16x1" in capsys.readouterr().out


def test_a_mistake_is_one_line(capsys):
    assert benchmark.main(["--config", "linear_digit"]) == 2
    assert "did you mean" in capsys.readouterr().err
