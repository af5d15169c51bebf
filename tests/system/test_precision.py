"""Precision of boxes and masks, which is computed once from the detections of all processes."""

import json
import subprocess
import sys

import numpy as np
import pytest

from tests.system import helpers, precision


def test_two_processes_give_the_precision_of_one(tmp_path):
    """Eleven images in batches of four: the last is partial, and the second process has one image of it, not two."""
    port, file = helpers.free_port(), tmp_path / "results.json"
    both = []
    for process in range(2):
        log = tmp_path / f"{process}.log"
        with log.open("w") as stream:
            started = subprocess.Popen(
                [sys.executable, "-W", "error", "-m", "tests.system.precision", str(file)],
                cwd=helpers.ROOT,
                env=helpers.environment(cluster=(port, 2, process)),
                stdout=stream,
                stderr=subprocess.STDOUT,
            )
        both.append(helpers.Run(started, log))
    alone = precision.evaluate(devices=1)
    for run in both:
        run.succeeds()
    two = json.loads(file.read_text())
    assert two.keys() == alone.keys()
    for name, value in alone.items():
        np.testing.assert_array_equal(two[name], value, err_msg=name)
    for name in ("ap", "ap50", "mask_ap", "mask_ap50", "voc_ap", "voc07_ap"):
        assert 0.05 < alone[name] < 0.95, f"{name} {alone[name]} says nothing"


def test_the_scenes_are_uneven():
    scenes = precision.Scenes()
    counts = scenes.said.valid.sum(1)
    assert set(counts) >= {0, precision.SLOTS} and set(scenes.truth.valid.sum(1)) >= {0, precision.TRUTHS}
    halves = [counts[rows].sum() for rows in (np.arange(11) % 4 < 2, np.arange(11) % 4 >= 2)]
    assert halves[0] != pytest.approx(halves[1]) and precision.IMAGES % precision.BATCH
