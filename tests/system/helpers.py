"""Runs of `python -m experiments.run` in processes of their own, and what they leave behind."""

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath

from experiments import run as command
from jaxvision.engine import checkpoint_io
from jaxvision.engine.writers import read_records

ROOT = Path(__file__).parents[2]
CONFIG = "tests/system/tiny.py"
SPEED = ("images_per_second", "input_wait")
"""What a clock says, which two equal runs need not share."""


def environment(devices: int = 1, cluster: tuple[int, int, int] | None = None) -> dict[str, str]:
    """Of a process with fake CPU devices; `cluster`: (port, processes, this process)."""
    extra = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}", "PYTHONPATH": str(ROOT)}
    if cluster is not None:
        port, processes, process = cluster
        extra["JAX_COORDINATOR_ADDRESS"] = f"localhost:{port}"
        extra |= {"JAX_NUM_PROCESSES": str(processes), "JAX_PROCESS_ID": str(process)}
    return {**os.environ, **extra, "JAX_PLATFORMS": "cpu", "PYTHONUNBUFFERED": "1"}


@dataclasses.dataclass
class Run:
    """A started process; stdout and stderr go to files, so that nobody must read them."""

    process: subprocess.Popen
    log: Path

    @property
    def text(self) -> str:
        """All that was said so far."""
        return self.log.read_text()

    def wait(self, timeout: float = 120) -> int:
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"still running after {timeout} s:\n{self.text}") from None

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def succeeds(self, timeout: float = 120) -> str:
        assert self.wait(timeout) == 0, self.text
        return self.text

    def until(self, condition: Callable[[], Any], what: str, timeout: float = 90) -> Any:
        """Waits for a true value while the process runs."""
        end = time.monotonic() + timeout
        while not (value := condition()):
            alive = self.process.poll() is None
            if not alive or time.monotonic() > end:
                self.kill()
                raise AssertionError(f"{'timeout' if alive else 'ended'} while waiting for {what}:\n{self.text}")
            time.sleep(0.003)
        return value


def start(workdir: Path, *options: str, config: str = CONFIG, log: Path | None = None, **env: Any) -> Run:
    """Starts one process of a run."""
    log = log or workdir.with_name(f"{workdir.name}.{time.monotonic_ns()}.log")
    command = [sys.executable, "-W", "error", "-m", "experiments.run", "--config", config, "--workdir", str(workdir)]
    with log.open("w") as file:
        process = subprocess.Popen(
            [*command, *options], cwd=ROOT, env=environment(**env), stdout=file, stderr=subprocess.STDOUT
        )
    return Run(process, log)


def run(workdir: Path, *options: str, **settings: Any) -> str:
    """Runs to the end, which must be good; returns what was said."""
    return start(workdir, *options, **settings).succeeds()


def here(workdir: Path, *options: str, config: str = CONFIG) -> int:
    """The same command in this process, on one device; returns its status."""
    devices = "--config.parallel.devices=1"
    return command.main(["--config", config, "--workdir", str(workdir), devices, *options])


def start_two(workdir: Path, *options: str, devices: int = 1, each: Sequence[Sequence[str]] = ((), ()), **settings):
    """Starts two processes of one run; `each`: options of their own."""
    port = free_port()
    logs = [workdir.with_name(f"{workdir.name}.{time.monotonic_ns()}.process{p}.log") for p in range(2)]
    return [
        start(workdir, *options, *each[p], devices=devices, cluster=(port, 2, p), log=logs[p], **settings)
        for p in range(2)
    ]


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("localhost", 0))
        return server.getsockname()[1]


def last_step(workdir: Path) -> int:
    """Of the training records so far."""
    file = workdir / "metrics.jsonl"
    records = [r for r in (read_records(file) if file.exists() else []) if r["kind"] == "train"]
    return records[-1]["step"] if records else 0


def saved_steps(workdir: Path) -> list[int]:
    folder = workdir / "checkpoints"
    return sorted(int(path.name) for path in folder.glob("*") if path.name.isdigit()) if folder.exists() else []


def records(workdir: Path) -> list[dict[str, Any]]:
    """The history without clocks."""
    kept = []
    for record in read_records(workdir / "metrics.jsonl"):
        values = {name: value for name, value in record["values"].items() if name not in SPEED}
        kept.append({key: value for key, value in record.items() if key != "time"} | {"values": values})
    return kept


def checkpoint(workdir: Path, step: int | None = None) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Every verified array of a saved state by name, and its `extra`."""
    ocp = checkpoint_io.orbax()
    step = saved_steps(workdir)[-1] if step is None else step
    options = ocp.CheckpointManagerOptions(read_only=True)
    manager = ocp.CheckpointManager(
        epath.Path(workdir / "checkpoints"), options=options, item_handlers=checkpoint_io.handlers()
    )
    try:
        about = checkpoint_io.read_about(manager, step)
        arrays = checkpoint_io.read_arrays(manager, step, checkpoint_io.described(about), about)
    finally:
        manager.close()
    return {name: np.asarray(array) for name, array in arrays.items()}, about["extra"]


def assert_same_run(got: Path, wanted: Path) -> None:
    """The last states and the histories are equal bit for bit."""
    (arrays, extra), (wanted_arrays, wanted_extra) = checkpoint(got), checkpoint(wanted)
    assert arrays.keys() == wanted_arrays.keys()
    groups = {name.split("/")[0] for name in arrays}
    assert {"step", "params", "collections", "opt_state", "ema", "rng"} <= groups, groups
    different = [name for name, array in arrays.items() if array.tobytes() != wanted_arrays[name].tobytes()]
    assert not different, different
    assert extra == wanted_extra
    assert records(got) == records(wanted)
    assert json.loads((got / "config.json").read_text()) == json.loads((wanted / "config.json").read_text())
