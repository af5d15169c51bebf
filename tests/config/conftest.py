import pytest

from jaxvision import registry
from tests.config.toys import Job, Net, block, open_block


@pytest.fixture(autouse=True)
def rows():
    """Toy constructors; the table is restored after the test."""
    before = dict(registry.table._ROWS)
    registry.register("model", "net", Net, width=4, smoke={"width": 1})
    registry.register("model", "deep_net", Net, width=4, backbone={"name": "block", "depth": 9})
    registry.register("backbone", "block", block, smoke={"keep": 0.5})
    registry.register("backbone", "open", open_block)
    registry.register("task", "job", Job)
    yield
    registry.table._ROWS.clear()
    registry.table._ROWS.update(before)
