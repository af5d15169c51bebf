"""Parity tests need torch: the default suite does not even import them (`pytest tests/parity -m parity` runs them)."""


def pytest_ignore_collect(collection_path, config):
    if "not parity" in config.getoption("markexpr"):
        return True
    from tests.parity import torchvision_kernels

    torchvision_kernels.prepare()  # before any module imports torchvision
    return None
