"""The lock of a workdir: one run at a time, with the name of its owner, and no work left by a dead one.

The file `lock` holds a JSON with host, pid and start. On a local disk the owner also keeps it locked in the kernel
(`flock`), which ends with the process however it dies, in another container of the same machine too. Where the kernel
cannot say (no `flock`, another machine), the recorded owner is looked up: its process, with its start time, because
process numbers are used again, and the machine's boot. An owner on another host cannot be looked up.

`gs://` workdirs have neither `flock` nor exclusive creation: the record is looked up and written, which keeps out a
second run, but not one that starts within the same second.
"""

import contextlib
import json
import os
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

from etils import epath

from jaxvision.errors import UserError

fcntl: Any
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


class WorkdirLocked(UserError, RuntimeError):
    """Another run owns the workdir; the message names host, pid and start."""


class WorkdirLock:
    """Context manager that owns a workdir. In a run of several processes only process 0 takes it.

    Attributes:
      path: the lock's file.
      taken_over: one line about the dead owner that left the lock behind, else None.
    """

    def __init__(self, workdir: epath.PathLike):
        self.path = epath.Path(workdir).expanduser() / "lock"
        self.taken_over: str | None = None
        self._file: int | None = None
        self._held = False

    def acquire(self) -> "WorkdirLock":
        """Takes the lock, over from a dead owner if need be.

        Raises:
          WorkdirLocked: the owner lives, or is on another host and cannot be looked up.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if "://" in str(self.path):
            self._take_over(_parse(self.path.read_bytes() if self.path.exists() else b""), kernel=None)
            self.path.write_bytes(_record())
            self._held = True
            return self
        while True:
            file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                kernel = _try_flock(file)
                self._take_over(_wait_for_owner(file) if kernel is False else _parse(_content(file)), kernel)
                if kernel is False:  # the owner died, but a child of its that lives on still holds the file
                    self.path.unlink(missing_ok=True)
                elif _is_at(file, self.path):  # else its owner removed it while we waited
                    os.ftruncate(file, 0)
                    os.lseek(file, 0, os.SEEK_SET)
                    os.write(file, _record())
                    self._file, self._held = file, True
                    return self
            except BaseException:
                os.close(file)
                raise
            os.close(file)

    def release(self) -> None:
        """Removes the lock; harmless if it is not held."""
        if not self._held:
            return
        self._held = False
        with contextlib.suppress(OSError):  # somebody removed it by hand, or the disk is gone
            if self._file is None or _is_at(self._file, self.path):
                self.path.unlink()
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def __enter__(self) -> "WorkdirLock":
        return self.acquire()

    def __exit__(self, *_: Any) -> None:
        self.release()

    def _take_over(self, owner: dict[str, Any] | None, kernel: bool | None) -> None:
        if owner is None:
            if kernel is False:
                raise WorkdirLocked(f"{self.path.parent} is in use by another run, which is just starting")
            return
        who = f"pid {owner['pid']} on host {owner['host']}, started {owner['start']}"
        alive = _is_alive(owner, kernel)
        if alive is None:
            raise WorkdirLocked(
                f"{self.path.parent} is locked by a run on another host ({who}), which cannot be looked up from "
                f"{socket.gethostname()}. If that run has ended, remove {self.path} and run the command again"
            )
        if alive:
            raise WorkdirLocked(
                f"{self.path.parent} is in use by another run ({who}). Wait for it, stop it (kill {owner['pid']}), or "
                "give another workdir"
            )
        self.taken_over = f"took over {self.path.parent} from a run that has ended without saying so ({who})"


def _is_alive(owner: dict[str, Any], kernel: bool | None) -> bool | None:
    """Whether the owner runs; None where this cannot be known. `kernel`: whether we got the file's `flock`."""
    same_host = owner["host"] == socket.gethostname()
    same_boot = owner["boot"] == _boot()
    if kernel and same_boot and owner["boot"]:
        return False  # the same kernel let us have the file
    if not same_host:
        return True if kernel is False else None
    if not same_boot:
        return False
    if owner["namespace"] != _namespace():
        return True if kernel is False else None
    return _started(owner["pid"]) == owner["process_start"]


def _record() -> bytes:
    owner = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "start": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "process_start": _started(os.getpid()),
        "boot": _boot(),
        "namespace": _namespace(),
    }
    return json.dumps(owner, indent=2).encode() + b"\n"


def _parse(content: bytes) -> dict[str, Any] | None:
    try:
        owner = json.loads(content)
        return owner if {"host", "pid", "start", "process_start", "boot", "namespace"} <= set(owner) else None
    except (ValueError, TypeError):
        return None  # killed while it was written: an owner that has not started


def _content(file: int) -> bytes:
    os.lseek(file, 0, os.SEEK_SET)
    return os.read(file, 10_000)


def _wait_for_owner(file: int) -> dict[str, Any] | None:
    """The record of a file that another process holds; that process may be about to write it."""
    until = time.monotonic() + 2
    while True:
        owner = _parse(_content(file))
        if (owner is not None and _is_alive(owner, kernel=False)) or time.monotonic() > until:
            return owner
        time.sleep(0.02)


def _try_flock(file: int) -> bool | None:
    """True: got it. False: a living process has it. None: this file system has no `flock`."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False
    except OSError:
        return None


def _is_at(file: int, path: epath.Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except FileNotFoundError:
        return False


def _started(pid: int) -> str | None:
    """When a process started, as the system tells it; None if there is none (or a zombie)."""
    stat = Path(f"/proc/{pid}/stat")
    if Path("/proc/self/stat").exists():
        try:
            fields = stat.read_text().rpartition(")")[2].split()  # the name before it may hold anything
        except OSError:
            return None
        return None if fields[0] in "ZX" else fields[19]
    try:
        out = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True).stdout.strip()
    except OSError:
        return None
    return out or None


def _boot() -> str:
    """Identity of the running kernel; "" where there is no such file."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""


def _namespace() -> str:
    """Where process numbers are valid (a container has its own)."""
    with contextlib.suppress(OSError):
        return os.readlink("/proc/self/ns/pid")
    return ""
