"""What the README shows runs as it stands there."""

import re
import textwrap
from pathlib import Path

import numpy as np
import pytest

from jaxvision.engine.writers import read_records
from tests.test_extension import command

README = (Path(__file__).parent.parent / "README.md").read_text()
BLOCKS = [textwrap.dedent(block) for block in re.findall(r"^```python\n(.*?)^```", README, re.DOTALL | re.MULTILINE)]
FILES = {match.group(1): block for block in BLOCKS if (match := re.match(r"# (\S+\.py)\n", block))}


@pytest.mark.slow
def test_the_files_of_a_users_own_package_train_a_model_on_their_data(tmp_path):
    assert {"my_vision/__init__.py", "my_vision/net.py", "my_vision/stripes.py", "stripes.py"} <= FILES.keys()
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    out = command(tmp_path, "experiments.run", "--config", "stripes.py", "--workdir", "run")
    assert "top-1" in out
    evaluations = [row["values"] for row in read_records(tmp_path / "run/metrics.jsonl") if row["kind"] == "eval"]
    assert evaluations[-1]["top1"] >= 0.9


def test_every_python_block_can_be_read():
    for block in BLOCKS:
        compile(block, "README.md", "exec")


@pytest.mark.slow
def test_gradients_of_each_example_of_a_detector(unoptimized):
    (block,) = [block for block in BLOCKS if "jax.vmap(jax.grad(" in block]
    shown = {}
    exec(block, shown)
    norms = np.asarray(shown["norms"])
    assert norms.shape == (16,) and (norms > 0.1).all() and len(np.unique(norms)) == 16
