"""What was saved comes back bit for bit, or the message says why not. Kills, full disks and processes are real."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxvision.engine.checkpoint_io import checksums
from jaxvision.engine.checkpoints import CheckpointError, CheckpointMismatch, Checkpoints, restore_variables
from jaxvision.trees import flatten


@flax.struct.dataclass
class State:
    step: Any
    params: Any
    collections: Any
    frozen: Any
    opt_state: Any
    ema: Any
    rng: Any


def make_state(seed: int = 0, features: int = 4, optimizer: Any = None) -> State:
    """Everything a state may hold: a typed key, bfloat16, integers, optax tuples, empty subtrees, None, no elements."""

    def make(key):
        params = {
            "conv1": {"kernel": jax.random.normal(key, (3, 3, 1, features))},
            "head": {"bias": jnp.ones((features,), jnp.bfloat16)},
        }
        tx = optimizer or optax.chain(optax.clip(1.0), optax.sgd(0.1, momentum=0.9))
        with jax.numpy_dtype_promotion("standard"):
            opt_state = {"loss": tx.init(params)}
        collections = {
            "batch_stats": {"mean": jnp.arange(4.0)},
            "queue": {"pointer": jnp.int32(3), "rows": jnp.zeros((0, 2)), "full": jnp.array([True, False])},
            "nothing": {},
        }
        return State(jnp.int32(seed), params, collections, {}, opt_state, {"params": params, "extra": None}, key)

    mesh = Mesh(np.array(jax.devices()[:2]), "batch")
    return jax.jit(make, out_shardings=NamedSharding(mesh, PartitionSpec()))(jax.random.key(seed))


def wanted(state: State) -> State:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)


def assert_same(a: Any, b: Any) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    assert checksums(flatten(a)) == checksums(flatten(b))


# -- saving and restoring ----------------------------------------------------------------------------------------------


def test_a_state_comes_back_bit_for_bit_with_its_types_and_placement(tmp_path):
    state = make_state()
    extra = {"best": 0.1 + 0.2, "history": [[1, 0.5]]}
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore(wanted(state)) is None and checkpoints.latest_step() is None
        checkpoints.save(7, state, extra=extra)
        restored, got, step = checkpoints.restore(wanted(state))
    assert (got, step) == (extra, 7)
    assert_same(restored, state)
    assert jax.tree.map(lambda x: x.sharding, restored) == jax.tree.map(lambda x: x.sharding, state)
    with Checkpoints(tmp_path) as checkpoints:  # as a new process would
        assert_same(checkpoints.restore(state)[0], state)
    one = jax.random.normal(state.rng), jax.random.normal(restored.rng)
    assert one[0] == one[1]


def test_a_state_may_be_donated_while_it_is_written(tmp_path):
    update = jax.jit(lambda x: jax.tree.map(lambda v: v + 1, x), donate_argnums=0)
    state = {"params": {str(i): jnp.full((50_000,), i, jnp.float32) for i in range(20)}}
    before = checksums(flatten(state))
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state)
        for _ in range(5):
            state = update(state)
        restored, _, _ = checkpoints.restore(state)
    assert checksums(flatten(restored)) == before


def test_the_newest_and_the_best_are_kept_over_restarts(tmp_path):
    accuracy = {1: 0.5, 2: 0.9, 3: 0.9, 4: float("nan"), 5: 0.1, 6: None, 7: 0.2}
    for step, value in accuracy.items():
        with Checkpoints(tmp_path, max_to_keep=2, best_metric="top1") as checkpoints:
            checkpoints.save(step, {"params": jnp.ones(step)}, metrics={} if value is None else {"top1": value})
            checkpoints.wait()
            assert set(map(str, checkpoints.all_steps())) == set(os.listdir(tmp_path))
    assert checkpoints.all_steps() == [2, 6, 7]
    assert checkpoints.best_step() == 2
    with Checkpoints(tmp_path, best_metric="top1", best_mode="min") as checkpoints:
        assert checkpoints.best_step() == 7
    assert restore_variables(tmp_path, "best")[2] == 2


def test_saving_a_step_twice_is_harmless_and_a_leftover_step_is_replaced(tmp_path):
    with Checkpoints(tmp_path, max_to_keep=3) as checkpoints:
        checkpoints.save(1, {"params": jnp.zeros(3)})
        checkpoints.save(1, {"params": jnp.ones(3)})
        checkpoints.save(2, {"params": jnp.zeros(3)})
    with Checkpoints(tmp_path, max_to_keep=3) as checkpoints:
        assert checkpoints.restore({"params": jnp.zeros(3)}, 1)[0]["params"].sum() == 0
        checkpoints.save(2, {"params": jnp.ones(3)})
        assert checkpoints.restore({"params": jnp.zeros(3)})[0]["params"].sum() == 3
        assert checkpoints.all_steps() == [1, 2]


def test_evaluation_reads_variables_without_the_optimizer(tmp_path):
    state = make_state()
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(3, state, extra={"epoch": 1.5})
    variables, extra, step = restore_variables(tmp_path)
    assert (extra, step) == ({"epoch": 1.5}, 3)
    assert set(variables) == {"params", "collections", "ema", "frozen"} and variables["frozen"] == {}
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(variables))
    assert_same(variables["params"], state.params)
    assert checksums(flatten(variables["collections"])) == checksums(flatten(state.collections))
    assert_same(variables["ema"]["params"], state.params)


def test_parameters_may_be_a_bare_array(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(0, {"params": jnp.arange(3.0), "ema": None})
    variables, _, step = restore_variables(tmp_path)
    np.testing.assert_array_equal(variables["params"], [0, 1, 2])
    assert variables["ema"] is None and step == 0


# -- a changed model, wrong questions ----------------------------------------------------------------------------------


def test_a_changed_model_is_one_error_that_lists_every_difference(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(5, make_state())
        with pytest.raises(CheckpointMismatch) as error:
            checkpoints.restore(wanted(make_state(features=6, optimizer=optax.adam(0.1))))
        other = make_state()
        other = other.replace(params={**other.params, "conv1": {"kernel": other.params["conv1"]["kernel"] > 0}})
        with pytest.raises(CheckpointMismatch, match=r"dtype +params/conv1/kernel: float32\[.*bool\["):
            checkpoints.restore(other)
        assert checkpoints.restore(make_state())[2] == 5
    text = str(error.value)
    for part in (
        "step 5",
        "shape       params/conv1/kernel: float32[3, 3, 1, 4] in the file, float32[3, 3, 1, 6] in the model",
        "shape       params/head/bias: bfloat16[4] in the file",
        "shape       ema/params/conv1/kernel",
        "missing     opt_state/loss/0/mu/conv1/kernel",
        "unexpected  opt_state/loss/1/0/trace/conv1/kernel",
    ):
        assert part in text, text


def test_wrong_questions_name_what_there_is(tmp_path):
    with pytest.raises(CheckpointError, match="there is no such folder"):
        restore_variables(tmp_path / "nothing")
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(CheckpointError, match="no checkpoints in"):
            restore_variables(tmp_path)
        checkpoints.save(5, {"params": jnp.ones(3)}, metrics={"top1": 0.5})
        checkpoints.wait()
        with pytest.raises(CheckpointError, match=r"no checkpoint of step 4 in .*steps: \[5\]"):
            checkpoints.restore({"params": jnp.ones(3)}, 4)
        with pytest.raises(CheckpointError, match=r"has a value of checkpoint\.best_metric"):
            checkpoints.restore({"params": jnp.ones(3)}, "best")
        with pytest.raises(CheckpointError, match=r"has a value of checkpoint\.best_metric"):
            restore_variables(tmp_path, "best")
    with pytest.raises(ValueError, match="max_to_keep is 0"):
        Checkpoints(tmp_path, max_to_keep=0)
    with pytest.raises(ValueError, match="expected 'max' or 'min'"):
        Checkpoints(tmp_path, best_mode="least")


# -- damage ------------------------------------------------------------------------------------------------------------


def data_files(step: Path) -> list[Path]:
    return [p for p in sorted(step.rglob("*")) if p.is_file() and p.name not in ("commit_success.txt", "_sharding")]


def flip(path: Path, where: int) -> None:
    data = bytearray(path.read_bytes())
    data[where] ^= 0x10
    path.write_bytes(bytes(data))


def test_a_flipped_bit_anywhere_never_restores_wrong_numbers(tmp_path, caplog):
    state = {"params": {"w": jax.random.normal(jax.random.key(0), (3000,)), "b": jnp.zeros((9,), jnp.int32)}}
    truth = checksums(flatten(state))
    with Checkpoints(tmp_path / "run") as checkpoints:
        checkpoints.save(1, state)
        checkpoints.save(2, state)
    damaged = 0
    rng = np.random.default_rng(0)
    for file in data_files(tmp_path / "run" / "2"):
        copy = tmp_path / "copy"
        shutil.copytree(tmp_path / "run", copy)
        flip(copy / file.relative_to(tmp_path / "run"), int(rng.integers(file.stat().st_size)))
        variables, _, step = restore_variables(copy)
        assert checksums(flatten({"params": variables["params"]})) == truth, file
        damaged += step == 1
        shutil.rmtree(copy)
    assert damaged >= 3  # some bytes of the format are never read
    assert "the checkpoint of step 2" in caplog.text and "is damaged" in caplog.text


@pytest.mark.parametrize("harm", ["flip", "truncate", "delete", "about"])
def test_a_damaged_newest_step_falls_back_to_the_one_before_and_says_so(tmp_path, caplog, harm):
    states = {step: make_state(step) for step in (1, 2, 3)}
    with Checkpoints(tmp_path, max_to_keep=3) as checkpoints:
        for step, state in states.items():
            checkpoints.save(step, state)
    newest = tmp_path / "3"
    if harm == "about":
        flip(newest / "about" / "metadata", 300)
    else:
        for file in (newest / "state").rglob("d/*"):
            {
                "flip": lambda f: flip(f, f.stat().st_size // 2),
                "truncate": lambda f: f.write_bytes(b""),
                "delete": Path.unlink,
            }[harm](file)
    with Checkpoints(tmp_path, max_to_keep=3) as checkpoints:
        with pytest.raises(CheckpointError, match=r"asked for 3\).*damaged.*\[3\]. Other steps: \[1, 2\]"):
            checkpoints.restore(wanted(states[1]), 3)
        restored, _, step = checkpoints.restore(wanted(states[1]))
        assert step == 2
        assert_same(restored, states[2])
        assert "the checkpoint of step 3" in caplog.text and "is damaged" in caplog.text
        assert "falling back to the checkpoint before it, step 2" in caplog.text
        assert checkpoints.all_steps() == [1, 2] and (tmp_path / "3.damaged").is_dir()
        checkpoints.save(3, states[3])  # the run goes on over the same steps
        assert_same(checkpoints.restore(states[1])[0], states[3])
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.all_steps() == [1, 2, 3]


def test_a_step_whose_removal_was_killed_does_no_harm(tmp_path):
    with Checkpoints(tmp_path, max_to_keep=3, best_metric="top1") as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, {"params": jnp.full(3, step)}, metrics={"top1": 1.0 / step})
    shutil.rmtree(tmp_path / "1" / "about")
    for file in (tmp_path / "2").rglob("*"):
        if file.is_file():
            file.unlink()
    with Checkpoints(tmp_path, max_to_keep=2, best_metric="top1") as checkpoints:
        assert checkpoints.best_step() == 3
        assert checkpoints.restore({"params": jnp.zeros(3, int)})[2] == 3
        checkpoints.save(4, {"params": jnp.full(3, 4)})
        checkpoints.wait()
        assert checkpoints.all_steps() == [3, 4] and sorted(os.listdir(tmp_path)) == ["3", "4"]


def test_when_nothing_is_intact_it_says_so_and_moves_nothing(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"params": jnp.ones(3)})
        checkpoints.wait()
        flip(tmp_path / "1" / "about" / "metadata", 50)
        with pytest.raises(CheckpointError, match=r"no intact checkpoint .*Train anew in another workdir"):
            checkpoints.restore({"params": jnp.ones(3)})
    assert (tmp_path / "1").is_dir()


def test_nothing_is_printed_but_the_two_lines_of_a_fallback_and_help_needs_no_orbax(tmp_path):
    code = f"""
        import pathlib, sys
        import jax.numpy as jnp
        import jaxvision.engine.checkpoints as c
        assert not any(name.startswith("orbax") for name in sys.modules)
        state = dict(params={{str(i): jnp.full((1000,), i) for i in range(50)}})
        with c.Checkpoints({str(tmp_path)!r}) as checkpoints:
            checkpoints.save(1, state)
            checkpoints.save(2, state)
            checkpoints.wait()
            for file in pathlib.Path({str(tmp_path)!r}, "2").rglob("d/*"):
                file.unlink()
            assert checkpoints.restore(state)[2] == 1
        c.restore_variables({str(tmp_path)!r})
    """
    done = subprocess.run(child(code, flags=["-W", "error"]), env=environment(), capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == "", done.stderr
    damaged, falling_back = done.stderr.splitlines()
    assert "step 2" in damaged and "falling back to the checkpoint before it, step 1" in falling_back


# -- kills, full disks, processes --------------------------------------------------------------------------------------


def child(code: str, *arguments: object, flags: list[str] | None = None) -> list[str]:
    return [sys.executable, *(flags or []), "-c", textwrap.dedent(code), *map(str, arguments)]


def environment() -> dict[str, str]:
    root = str(Path(__file__).parents[2])
    return {**os.environ, "PYTHONPATH": root, "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}


def start(code: str, *arguments: object) -> subprocess.Popen:
    pipe = subprocess.PIPE
    return subprocess.Popen(child(code, *arguments), env=environment(), stdout=pipe, stderr=pipe, text=True)


SAVE_IN_A_LOOP = """
    import sys
    import numpy as np
    from jaxvision.engine.checkpoints import Checkpoints
    with Checkpoints(sys.argv[1]) as checkpoints:
        restored = checkpoints.restore(dict(step=np.int32(0), params=np.zeros(2_000_000, np.float32)))
        start = 0 if restored is None else restored[2]
        for step in range(start + 1, 10_000):
            params = np.random.default_rng(step).random(2_000_000, np.float32)
            checkpoints.save(step, dict(step=np.int32(step), params=params), extra=dict(step=step))
            if step > start + 1:
                print(step - 1, flush=True)  # `save` has waited for the one before
"""


def test_sigkill_at_any_time_leaves_the_last_complete_step(tmp_path):
    rng = np.random.default_rng()
    complete = killed_in_a_save = 0
    for attempt in range(3):
        process = start(SAVE_IN_A_LOOP, tmp_path)
        lines = [process.stdout.readline()]
        if attempt == 0:  # surely within a save
            until = time.monotonic() + 20
            while not list(tmp_path.glob("*.orbax-checkpoint-tmp")) and time.monotonic() < until:
                pass
        else:
            time.sleep(float(rng.uniform(0, 0.3)))
        process.send_signal(signal.SIGKILL)
        rest, errors = process.communicate()
        assert process.returncode == -signal.SIGKILL and errors == "", errors
        complete = max(int(line) for line in [*lines, *rest.splitlines()])
        killed_in_a_save += bool(list(tmp_path.glob("*.orbax-checkpoint-tmp")))

        variables, extra, step = restore_variables(tmp_path)
        assert step in (complete, complete + 1) and extra == {"step": step}
        np.testing.assert_array_equal(variables["params"], np.random.default_rng(step).random(2_000_000, np.float32))
    assert killed_in_a_save
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.wait()
        checkpoints.save(step + 1, {"params": jnp.ones(3)})
    assert not list(tmp_path.glob("*-tmp"))


FILL_THE_DISK = """
    import os, resource, sys, time
    import numpy as np
    from jaxvision.engine.checkpoints import CheckpointError, Checkpoints
    path, how = sys.argv[1:]
    small = dict(params=np.arange(1000, dtype=np.float32))
    big = dict(params=np.random.default_rng(0).random(4_000_000, np.float32))
    try:
        with Checkpoints(path) as checkpoints:
            checkpoints.save(1, small)
            checkpoints.wait()
            if how == "limit":
                resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))
            checkpoints.save(2, big)
            checkpoints.save(3, big)
    except CheckpointError as error:
        print(error, flush=True)
    with Checkpoints(path) as checkpoints:
        state, _, step = checkpoints.restore(small)
        assert (state["params"] == small["params"]).all()
        print("restored", step, checkpoints.all_steps(), [name for name in os.listdir(path) if name.isdigit()])
"""


def assert_stopped_by_the_disk(done: subprocess.CompletedProcess, reason: str) -> None:
    message, restored = done.stdout.splitlines()
    pattern = rf"cannot save step 2 in .*: {reason}.*\([\d.,]+ MB are free, a checkpoint needs 16\.0 MB\); "
    assert re.match(pattern + r"the checkpoint of step 1 is intact\. .*run the same command again to resume$", message)
    assert restored == "restored 1 [1] ['1']"
    assert (done.returncode, done.stderr) == (0, "")


def test_a_write_that_the_system_refuses_stops_with_a_clear_error_and_the_last_good_step_intact(tmp_path):
    done = subprocess.run(child(FILL_THE_DISK, tmp_path, "limit"), env=environment(), capture_output=True, text=True)
    assert_stopped_by_the_disk(done, "a file exceeds the size limit of this process")


def test_a_full_disk_stops_with_a_clear_error_and_the_last_good_step_intact(tmp_path):
    mount = ["unshare", "-Urm", "sh", "-c", f'mount -t tmpfs -o size=8m tmpfs {tmp_path} && exec "$@"', "sh"]
    try:
        able = subprocess.run([*mount, "true"], capture_output=True).returncode == 0
    except FileNotFoundError:
        able = False
    if not able:
        pytest.skip("this system lets no user mount a small disk in a namespace of their own")
    command = mount + child(FILL_THE_DISK, tmp_path, "disk")
    done = subprocess.run(command, env=environment(), capture_output=True, text=True)
    assert_stopped_by_the_disk(done, "the disk is full")


TWO_PROCESSES = """
    import sys
    import jax, jax.numpy as jnp, numpy as np
    from jax.sharding import Mesh, NamedSharding, PartitionSpec
    port, me, path = sys.argv[1:]
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"localhost:{port}", 2, int(me))
    from jaxvision.engine.checkpoint_io import checksums
    from jaxvision.engine.checkpoints import Checkpoints, restore_variables
    from jaxvision.trees import flatten

    replicated = NamedSharding(Mesh(np.array(jax.devices()), "batch"), PartitionSpec())
    def make(key):
        return dict(params=dict(w=jax.random.normal(key, (1000,)), none=jnp.zeros((0, 2))), rng=key, step=jnp.int32(1))
    state = jax.jit(make, out_shardings=replicated)(jax.random.key(3))
    want = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
    with Checkpoints(path, best_metric="top1") as checkpoints:
        for step in range(1, 5):
            checkpoints.save(step, state, extra=dict(step=step), metrics=dict(top1=-float(step)))
        checkpoints.wait()
        assert checkpoints.all_steps() == [1, 3, 4], checkpoints.all_steps()
        if me == "0":
            for file in __import__("pathlib").Path(path, "4", "state").rglob("d/*"):
                file.write_bytes(b"")
        from jax.experimental import multihost_utils
        multihost_utils.sync_global_devices("damaged")
        restored, extra, step = checkpoints.restore(want)
        assert (extra, step) == (dict(step=3), 3) and checkpoints.all_steps() == [1, 3]
        checkpoints.save(4, restored)
    before, after = checksums(flatten(state)), checksums(flatten(restored))
    assert before == after
    assert restored["params"]["w"].sharding == replicated
    draw = jax.jit(jax.random.uniform)
    assert jax.device_get(draw(restored["rng"])) == jax.device_get(draw(state["rng"]))
    restore_variables(path)
    print("checksums", sorted(before.items()))
"""


def test_two_processes_save_and_restore_together(tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    processes = [start(TWO_PROCESSES, port, me, tmp_path) for me in range(2)]
    try:
        results = [process.communicate(timeout=120) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], results
    sums = [out[out.index("checksums") :] for out, _ in results]  # after what gloo says about its connections
    assert sums[0] == sums[1]
    assert sorted(os.listdir(tmp_path)) == ["1", "3", "4", "4.damaged"]
