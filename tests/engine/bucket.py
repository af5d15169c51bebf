"""A stand-in for `gs://bucket/` that lies in a local folder."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

from etils.epath import gpath, testing


@contextlib.contextmanager
def bucket(folder: Path) -> Iterator[None]:
    """Within it `etils.epath` finds `gs://bucket/a` at `folder / "a"`."""

    def local(path) -> str:
        return str(path).replace("gs://bucket", str(folder))

    def one(original, path, *args, **kwargs):
        return original(local(path), *args, **kwargs)

    def two(original, path, target, **kwargs):
        return original(local(path), local(target), **kwargs)

    ones = ("exists", "isdir", "listdir", "makedirs", "mkdir", "open", "remove", "rmtree", "stat")
    with (
        mock.patch.object(gpath, "_is_tf_installed", lambda: False),  # it would ask TensorFlow for the real bucket
        testing.mock_epath(**dict.fromkeys(ones, one), **dict.fromkeys(("rename", "replace"), two)),
    ):
        yield
