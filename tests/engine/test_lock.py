"""One run at a time in a workdir; dead owners do not count. Owners here are real processes."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from jaxvision.engine import lock as lock_module
from jaxvision.engine.lock import WorkdirLock, WorkdirLocked

OWNER = """
import os, sys
from jaxvision.engine.lock import WorkdirLock
with WorkdirLock(sys.argv[1]) as lock:
    if sys.argv[2:] == ["fork"] and os.fork() == 0:  # a worker that outlives its parent
        os.close(1)
        __import__("time").sleep(60)
        os._exit(0)
    print(lock.taken_over, flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def owner(workdir: Path, *arguments: str):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", OWNER, str(workdir), *arguments]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, text=True, start_new_session=True)
    try:
        assert process.stdout.readline()
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def write_owner(workdir: Path, **changes) -> dict:
    record = {**json.loads(lock_module._record()), **changes}
    (workdir / "lock").write_text(json.dumps(record))
    return record


def test_the_lock_names_its_owner_and_goes_with_it(tmp_path):
    with WorkdirLock(tmp_path / "new" / "run") as lock:
        record = json.loads((tmp_path / "new" / "run" / "lock").read_text())
        assert record["host"] == socket.gethostname() and record["pid"] == os.getpid()
        assert record["start"].startswith("20") and lock.taken_over is None
    assert not (tmp_path / "new" / "run" / "lock").exists()
    lock.release()  # harmless


def test_it_is_released_when_the_run_fails(tmp_path):
    with pytest.raises(KeyError), WorkdirLock(tmp_path):
        raise KeyError
    assert os.listdir(tmp_path) == []


def test_a_living_owner_is_named_and_a_killed_one_is_taken_over(tmp_path):
    with owner(tmp_path) as process:
        with pytest.raises(WorkdirLocked, match=rf"in use by another run \(pid {process.pid} on host .*started 20"):
            WorkdirLock(tmp_path).acquire()
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert (tmp_path / "lock").exists()
    with WorkdirLock(tmp_path) as lock:
        assert f"(pid {process.pid} on host" in lock.taken_over
        assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()
    assert os.listdir(tmp_path) == []


def test_a_worker_that_outlives_a_killed_owner_does_not_keep_the_lock(tmp_path):
    with owner(tmp_path, "fork") as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        with WorkdirLock(tmp_path) as lock:
            assert f"(pid {process.pid} on host" in lock.taken_over
            with pytest.raises(WorkdirLocked, match=f"pid {os.getpid()}"):
                WorkdirLock(tmp_path).acquire()


def test_two_locks_of_one_process_exclude_each_other(tmp_path):
    with WorkdirLock(tmp_path), pytest.raises(WorkdirLocked, match=f"kill {os.getpid()}"):
        WorkdirLock(tmp_path).acquire()
    with WorkdirLock(tmp_path):
        pass


def test_an_owner_on_another_host_is_an_error_that_says_how_to_go_on(tmp_path):
    write_owner(tmp_path, host="elsewhere", boot="another")
    with pytest.raises(WorkdirLocked, match=r"another host \(pid .* on host elsewhere.*remove .*lock and run"):
        WorkdirLock(tmp_path).acquire()
    (tmp_path / "lock").unlink()
    with WorkdirLock(tmp_path):
        pass


@pytest.mark.parametrize("content", [b"", b"{", b'{"host": "a"', b"[]"])
def test_a_half_written_lock_has_no_owner(tmp_path, content):
    (tmp_path / "lock").write_bytes(content)
    with WorkdirLock(tmp_path) as lock:
        assert lock.taken_over is None


def test_another_container_of_the_same_machine_is_judged_by_the_kernel(tmp_path):
    write_owner(tmp_path, host="container-1", namespace="pid:[1]")
    with WorkdirLock(tmp_path) as lock:
        assert "on host container-1" in lock.taken_over


class TestWithoutKernelLocks:
    """A file system without `flock`: the owner's process is looked up."""

    @pytest.fixture(autouse=True)
    def no_flock(self, monkeypatch):
        monkeypatch.setattr(lock_module, "_try_flock", lambda file: None)

    def test_a_running_process_keeps_it(self, tmp_path):
        write_owner(tmp_path)
        with pytest.raises(WorkdirLocked, match=f"pid {os.getpid()}"):
            WorkdirLock(tmp_path).acquire()

    def test_a_dead_process_does_not(self, tmp_path):
        process = subprocess.Popen([sys.executable, "-c", ""])
        process.wait()
        write_owner(tmp_path, pid=process.pid)
        with WorkdirLock(tmp_path) as lock:
            assert lock.taken_over

    def test_a_reused_process_number_does_not(self, tmp_path):
        write_owner(tmp_path, process_start="1")
        with WorkdirLock(tmp_path) as lock:
            assert lock.taken_over

    def test_a_reboot_ends_all_owners(self, tmp_path):
        write_owner(tmp_path, boot="before")
        with WorkdirLock(tmp_path) as lock:
            assert lock.taken_over

    def test_another_container_cannot_be_looked_up(self, tmp_path):
        write_owner(tmp_path, namespace="pid:[1]")
        with pytest.raises(WorkdirLocked, match="cannot be looked up"):
            WorkdirLock(tmp_path).acquire()


CONTENDER = """
import os, sys, time
from jaxvision.engine.lock import WorkdirLock, WorkdirLocked
held = 0
for _ in range(40):
    try:
        with WorkdirLock(sys.argv[1]):
            os.mkdir(sys.argv[2])  # fails if another one is inside
            time.sleep(0.002)
            os.rmdir(sys.argv[2])
            held += 1
    except WorkdirLocked:
        time.sleep(0.001)
print(held)
"""


def test_of_many_that_want_it_at_once_only_one_has_it(tmp_path):
    (tmp_path / "run").mkdir()
    write_owner(tmp_path / "run", pid=2**22 + 1, process_start="1")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", CONTENDER, str(tmp_path / "run"), str(tmp_path / "inside")]
    pipe = subprocess.PIPE
    runs = [subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True) for _ in range(4)]
    results = [run.communicate() for run in runs]
    assert all(errors == "" and int(out) >= 1 for out, errors in results), results
