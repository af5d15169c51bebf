"""Every test runs with eight fake CPU devices and a persistent compilation cache."""

import os
from pathlib import Path

os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8".strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path.home() / ".cache" / "jaxvision" / "tests"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
os.environ.setdefault("MPLBACKEND", "Agg")

import contextlib
import gc
import itertools

import jax
import pytest

MAPS = Path("/proc/self/maps")


@contextlib.contextmanager
def strict():
    """Implicit dtype and rank promotion raise: for our own models, ops, losses and metrics."""
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


@pytest.fixture
def strict_promotion():
    with strict():
        yield


@contextlib.contextmanager
def quickly_compiled():
    """For programs that run once or twice: optimising them is half of their compilation."""
    jax.config.update("jax_disable_most_optimizations", True)
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture
def unoptimized():
    with quickly_compiled():
        yield


@pytest.fixture
def test_data(record_property) -> Path:
    """The folder of real data sets and golden fixtures; the test is skipped where it is not set."""
    root = os.environ.get("JAXVISION_TEST_DATA")
    if not root:
        pytest.skip("JAXVISION_TEST_DATA is not set")
    record_property("real data", True)
    return Path(root)


LARGEST_PART = 0.4
"""Of the memory maps that Linux allows a process, above which compiled programs are dropped."""
_ended = itertools.count(1)


def pytest_runtest_teardown():
    """Drops compiled programs before there are too many: each takes memory maps, and XLA crashes when none is left."""
    if next(_ended) % 8 or not MAPS.exists():
        return
    with MAPS.open("rb") as maps:
        used = sum(1 for _ in maps)
    if used > LARGEST_PART * int(Path("/proc/sys/vm/max_map_count").read_text()):
        jax.clear_caches()
        gc.collect()


def pytest_terminal_summary(terminalreporter):
    """Says how many tests of real data and how many parity tests ran."""
    passed = terminalreporter.stats.get("passed", [])
    real = sum(("real data", True) in map(tuple, report.user_properties) for report in passed)
    parity = sum(report.nodeid.startswith("tests/parity/") for report in passed)
    terminalreporter.write_line(f"tests of real data that ran: {real}; parity tests that ran: {parity}")
