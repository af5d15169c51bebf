"""Several processes: joining them, making sure they run the same thing, stopping them together.

A TPU pod, Slurm, Open MPI and Kubernetes are found by `jax.distributed.initialize()` itself; elsewhere set
JAX_COORDINATOR_ADDRESS (host:port of process 0), JAX_NUM_PROCESSES and JAX_PROCESS_ID.
"""

import contextlib
import json
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from types import FrameType
from typing import Any, TypeVar

import jax
import numpy as np

from jaxvision.errors import EXPECTED, SetupError, UserError, exit_status

T = TypeVar("T")
COORDINATOR, PROCESSES, PROCESS = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"


def cluster_present(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether the environment says that this process is one of several."""
    if COORDINATOR in environment:
        return True
    sizes = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", PROCESSES)
    if any(environment.get(name, "1").isdigit() and int(environment.get(name, "1")) > 1 for name in sizes):
        return True
    if "," in environment.get("TPU_WORKER_HOSTNAMES", "") or "," in environment.get("TPU_PROCESS_ADDRESSES", ""):
        return True
    return "KUBERNETES_SERVICE_HOST" in environment and "JOB_COMPLETION_INDEX" in environment


def initialize(heartbeat_timeout_seconds: int = 100) -> None:
    """Joins the other processes of a cluster; does nothing in a single process, or when already joined.

    Args:
      heartbeat_timeout_seconds: a host that is silent for this long is lost, and the others stop with an error.
    """
    if jax.distributed.is_initialized() or not cluster_present():
        return
    arguments: dict[str, Any] = {}
    if COORDINATOR in os.environ:
        missing = [name for name in (PROCESSES, PROCESS) if not os.environ.get(name, "").isdigit()]
        if len(missing) == 1:
            raise SetupError(f"{COORDINATOR} is set, so {missing[0]} must be a number too, got none")
        if not missing:
            arguments = {
                "coordinator_address": os.environ[COORDINATOR],
                "num_processes": int(os.environ[PROCESSES]),
                "process_id": int(os.environ[PROCESS]),
            }
    if os.environ.get("JAX_PLATFORMS", "").startswith("cpu"):
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(heartbeat_timeout_seconds=heartbeat_timeout_seconds, **arguments)


def check_same_everywhere(values: Mapping[str, Mapping[str, str]]) -> None:
    """Compares named facts (the keys of a configuration, versions) over all processes; says which differ, and where.

    Raises:
      SetupError: on every process alike.
    """
    if jax.process_count() == 1:
        return
    lines = []
    hosts = _gather_texts(socket.gethostname())
    for name, facts in values.items():
        everyone = [json.loads(text) for text in _gather_texts(json.dumps(facts))]
        for process, other in enumerate(everyone):
            keys = [key for key in {**everyone[0], **other} if everyone[0].get(key) != other.get(key)]
            shown = [f"{key} is {everyone[0].get(key)} and {other.get(key)}" for key in keys[:_SHOWN]]
            more = [f"{len(keys) - _SHOWN} more"] if len(keys) > _SHOWN else []
            if keys:
                where = f"process 0 ({hosts[0]}) and process {process} ({hosts[process]})"
                lines.append(f"{name} differs between {where}: {', '.join([*shown, *more])}")
    if lines:
        raise SetupError("the processes do not run the same thing: " + "; ".join(lines))


def on_main(function: Callable[[], T]) -> T | None:
    """Calls a function on process 0 only and returns its result there; where it raises, every process does.

    Raises:
      UserError: on the other processes, with the message of process 0.
    """
    if jax.process_count() == 1:
        return function()
    result, error = None, None
    if jax.process_index() == 0:
        try:
            result = function()
        except Exception as caught:
            error = caught
    told = _gather_texts("" if error is None else f"{error}" or type(error).__name__)[0]
    if error is not None:
        raise error
    if told:
        raise UserError(f"process 0: {told}")
    return result


def _gather_texts(text: str) -> list[str]:
    """The text of every process."""
    from jax.experimental import multihost_utils

    mine = np.frombuffer(text.encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.array(len(mine)))
    padded = np.pad(mine, (0, int(lengths.max()) + 1 - len(mine)))
    rows = multihost_utils.process_allgather(padded)
    return [bytes(row[:length]).decode() for row, length in zip(rows, lengths, strict=True)]


class LostHost(UserError, RuntimeError):
    """Another process of the run ended or cannot be reached."""


@contextlib.contextmanager
def naming_lost_hosts() -> Iterator[None]:
    """Says in plain words, within the block, that a collective failed because another process is gone.

    A process that ended closes its connections, which the others see at once. One that is only silent (a frozen host,
    a cut cable) is given up after the heartbeat timeout: then, and where process 0 is the one that ended, JAX itself
    ends the others, with its own message on their stderr.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1 or not any(word in str(error).lower() for word in _CONNECTION):
            raise
        reason = str(error).strip().splitlines()[0][:200]
        raise LostHost(
            f"process {jax.process_index()} on {socket.gethostname()} has lost the other processes of the run: one of "
            "them ended or cannot be reached, and its own output says why. The same command on all hosts resumes from "
            f"the newest checkpoint ({reason})"
        ) from error


_CONNECTION = ("gloo", "nccl", "connection", "peer", "heartbeat", "coordination", "unavailable", "socket")
_SHOWN = 5
GRACE_SECONDS = 3.0
"""Process 0 ends last after an error: with it goes the service without which JAX aborts the others."""


@contextlib.contextmanager
def ending_alone() -> Iterator[None]:
    """Within the block, an error in one of several processes ends that process at once, with its message.

    For commands. A normal exit of Python would wait for processes that wait for this one. In a single process, and for
    an error before the others are joined, it does nothing.
    """
    try:
        yield
    except BaseException as error:
        if not jax.distributed.is_initialized():
            raise
        if isinstance(error, EXPECTED):
            print(f"error: {error}", file=sys.stderr)
        else:
            traceback.print_exception(error)
        sys.stdout.flush()
        sys.stderr.flush()
        if jax.process_index() == 0:
            time.sleep(GRACE_SECONDS)
        os._exit(exit_status(error))


class StopRequest:
    """Whether someone asked this run to stop after the current step (SIGTERM, or Ctrl-C once)."""

    def __init__(self) -> None:
        self.signal: str | None = None

    def due(self, step: int) -> bool:
        """True on every process at the same step once any of them was asked."""
        if jax.process_count() == 1:
            return self.signal is not None
        from jax.experimental import multihost_utils

        if multihost_utils.reached_preemption_sync_point(step):
            self.signal = self.signal or "SIGTERM"
            return True
        return False


@contextlib.contextmanager
def stop_on_signal() -> Iterator[StopRequest]:
    """Turns SIGTERM and the first Ctrl-C into a request to stop, within the block."""
    request = StopRequest()

    def handle(number: int, frame: FrameType | None) -> None:
        request.signal = signal.Signals(number).name
        signal.signal(signal.SIGINT, signal.default_int_handler)
        print(f"\n{request.signal}: stopping after this step; once more stops at once", file=sys.stderr, flush=True)

    # In several processes JAX's own SIGTERM handler finds the step at which all stop; a Python handler would break it.
    ours = jax.process_count() == 1 and threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, handle) for number in ((signal.SIGINT, signal.SIGTERM) if ours else ())}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
