"""Parity tests need torch: the default suite does not even import them (`pytest tests/parity -m parity` runs them)."""


def pytest_ignore_collect(collection_path, config):
    return True if "not parity" in config.getoption("markexpr") else None
