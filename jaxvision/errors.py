"""What a command tells in one line: errors whose message says everything, so that a traceback would only hide it."""

import contextlib
from collections.abc import Iterator


class UserError(Exception):
    """Something outside the code went wrong: a setting, a file, a disk, another host. The message says what to do."""


class SetupError(UserError, ValueError):
    """Settings, data and devices that do not go together."""


@contextlib.contextmanager
def setup() -> Iterator[None]:
    """Raises a plain `ValueError` as `SetupError`, within a block that checks settings and does little else."""
    try:
        yield
    except UserError:
        raise
    except ValueError as error:
        raise SetupError(str(error)) from error


EXPECTED = (UserError, OSError)
"""What a command tells without a traceback; errors of the system name the file and the reason themselves."""


def exit_status(error: BaseException) -> int:
    """Of a command that ends by this error: 2 for a mistake in settings and files, 1 for what went wrong in a run."""
    return 2 if isinstance(error, UserError) and isinstance(error, ValueError) else 1
