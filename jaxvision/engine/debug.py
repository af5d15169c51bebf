"""`log.debug_nans`: runs each step compiled and, once one has a result that is no number, again operation by operation.

The first operation that makes a nan is then named, with the line of the model, loss or optimizer that it belongs to.
One device, no donation, no mapped axis.
"""

import itertools
import sysconfig
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from jaxvision.engine.hooks import NonFiniteError
from jaxvision.engine.metrics import StepMetrics
from jaxvision.engine.state import TrainState
from jaxvision.engine.step import TrainStep
from jaxvision.engine.task import Batch

_LIBRARIES = tuple(sysconfig.get_paths()[name] for name in ("purelib", "stdlib"))


def find_first_nan(make_step: Callable[[], Any], first_step: int) -> TrainStep:
    """A step that raises `NonFiniteError` with the operation and its line.

    Args:
      make_step: returns the step of `Parallel.map` with kind "jit".
      first_step: completed updates before its first call.
    """
    numbers = itertools.count(first_step + 1)
    with jax.debug_nans(True):  # without donation: the inputs are needed again
        step = make_step()

    def checked(state: TrainState, batch: Batch) -> tuple[TrainState, StepMetrics]:
        number = next(numbers)
        try:
            # Set here and not for the process: in jax 0.10 the first operation that switches it off for itself
            # (jnp.var) while it is traced switches a global setting off for good. Single operations bring constants.
            with jax.debug_nans(True), jax.transfer_guard("allow"):
                return step(state, batch)
        except FloatingPointError as error:
            what = str(error).splitlines()[0].rstrip(".")
            raise NonFiniteError(
                f"step {number}: {what} {_where(error)}; run without compilation to find it"
            ) from error

    return checked


def _where(error: BaseException) -> str:
    """The innermost line outside of installed libraries, and the one of the library that it called."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith(_LIBRARIES)]
    frame = own[-1] if own else frames[-1]
    return f"at {Path(frame.filename).name}:{frame.lineno} in {frame.name}: {frame.line}"
