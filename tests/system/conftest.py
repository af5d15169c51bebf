"""One uninterrupted run that many tests compare with."""

import pytest

from tests.system import helpers


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory):
    """Workdir of a complete run in one process on one device; to be copied, not changed."""
    workdir = tmp_path_factory.mktemp("uninterrupted") / "run"
    helpers.run(workdir)
    return workdir
