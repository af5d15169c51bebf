"""Files made to run code, to exhaust memory or time, or damaged at random: nothing happens but the documented error.

`JAXVISION_FUZZ=100000 pytest tests/pretrained/test_hostile_files.py -n 0` tries as many mutations.
"""

import contextlib
import copyreg
import os
import random
import resource
import struct
import sys
import time
import zipfile

import numpy as np
import pytest

from jaxvision.pretrained import pickle_reader
from jaxvision.pretrained.pickle_objects import CONSTRUCTORS
from jaxvision.pretrained.pickle_reader import CheckpointError
from jaxvision.pretrained.torch_file import load_torch
from tests.pretrained.writer import Call, Checkpoint, Name, Persistent, Raw, code, dumps, ordered, storage, tensor

MUTATIONS = int(os.environ.get("JAXVISION_FUZZ", 2000))


@pytest.fixture
def witness(tmp_path, monkeypatch):
    """A file that each attack would make, and a global that would be called if anything were imported."""
    target = tmp_path / "witness"
    monkeypatch.setitem(sys.modules, "evil", type(sys)("evil"))
    sys.modules["evil"].run = lambda *a, **k: target.write_text("called")
    yield target
    assert not target.exists()


def attacks(target):
    """Name -> (opcodes that leave one object, the names that are reported)."""
    shell, touch = Name("os.system"), (f"touch {target}",)
    return {
        "reduce": (Call(shell, touch), "os.system"),
        "posix": (Call(Name("posix.system"), touch), "posix.system"),
        "nt": (Call(Name("nt.system"), touch), "nt.system"),
        "eval": (Call(Name("builtins.eval"), (f"open({str(target)!r}, 'w')",)), "builtins.eval"),
        "exec": (Call(Name("__builtin__.exec"), (f"open({str(target)!r}, 'w')",)), "__builtin__.exec"),
        "popen": (Call(Name("subprocess.Popen"), (["touch", str(target)],)), "subprocess.Popen"),
        "getattr": (Call(Call(Name("builtins.getattr"), (Name("evil.x"), "run"))), "builtins.getattr"),
        "import": (Call(Name("importlib.import_module"), ("evil",)), "importlib.import_module"),
        "nested": (Call(Call(Name("functools.partial"), (shell, *touch))), "functools.partial"),
        "memo": (
            Raw(code(shell) + b"q\x630" + b"h\x63" + code(touch) + b"R"),
            "os.system",
        ),
        "stack_global": (Raw(code("os") + code("system") + b"\x93" + code(touch) + b"R"), "os.system"),
        "dotted": (Raw(code("os") + code("path.sys.exit") + b"\x93" + b")R"), "os.path.sys.exit"),
        "inst": (Raw(b"(" + code(touch[0]) + b"ios\nsystem\n"), "os.system"),
        "obj": (Raw(b"(" + code(shell) + code(touch[0]) + b"o"), "os.system"),
        "newobj": (Raw(code(Name("evil.run")) + code(touch) + b"\x81"), "evil.run"),
        "newobj_ex": (Raw(code(Name("evil.run")) + code(touch) + code({"a": 1}) + b"\x92"), "evil.run"),
        "build": (Raw(code(Name("evil.run")) + code({"__setstate__": 1}) + b"b"), "evil.run"),
        "build_setstate": (Raw(code(Call(Name("evil.run"))) + code({"x": 1}) + b"b"), "evil.run"),
        "extension": (Raw(b"\x82\x07" + code(touch) + b"R"), "copyreg.extension 7"),
        "subclass": (
            Call(Name("torch._tensor._rebuild_from_type_v2"), (shell, Name("torch.Tensor"), touch, {})),
            "os.system",
        ),
        "default_factory": (Call(Name("collections.defaultdict"), (shell,)), "os.system"),
        "load": (Call(Name("torch.storage._load"), (dumps(Call(shell, touch)),)), "torch.storage._load"),
        "hooks": (
            Call(Name("torch._utils._rebuild_parameter"), (1, True, Call(shell, touch))),
            "os.system",
        ),
        "key": (Raw(b"}" + code(Call(shell, touch)) + b"Ns"), "os.system"),
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["zip", "legacy"])
@pytest.mark.parametrize("name", attacks("x"))
def test_a_pickle_that_would_run_code_does_nothing_and_is_reported(tmp_path, witness, kind, name, monkeypatch):
    monkeypatch.setitem(copyreg._inverted_registry, 7, ("evil", "run"))
    monkeypatch.setitem(copyreg._extension_cache, 7, sys.modules["evil"].run)
    opcodes, reported = attacks(witness)[name]
    c = Checkpoint()
    path = getattr(c, kind)(tmp_path / "a.pth", {"state_dict": ordered({"w": c.array([1.0])}), "x": opcodes})
    before = set(sys.modules)
    loaded = load_torch(path)
    assert reported in loaded.unknown_globals
    assert set(loaded.state_dict) == {"w"}
    assert reported.rpartition(".")[0] not in set(sys.modules) - before


@pytest.mark.parametrize(
    "pid",
    [
        "os.system", ("storage",), ("storage", Name("os.system"), "0", "cpu", 1), ("module", Name("os.system"), "", ""),
        ("storage", Name("torch.FloatStorage"), ["0"], "cpu", 1), None, Call(Name("os.system"), ("x",)),
        ("storage", Name("torch.FloatStorage"), "0", "cpu", -1),
        ("storage", Name("torch.FloatStorage"), "../../etc/passwd", "cpu", 1),
        ("storage", Name("torch.FloatStorage"), "0", "cpu", 1 << 70), ("storage", "FloatStorage", "0", "cpu", 1),
    ],
)  # fmt: skip
def test_persistent_ids_only_name_storages(tmp_path, pid):
    c = Checkpoint()
    tree = {"w": c.array([1.0]), "x": Call(Name("torch._utils._rebuild_tensor_v2"), (Persistent(pid), 0, (1,), (1,)))}
    with contextlib.suppress(CheckpointError):
        assert "x" not in load_torch(c.zip(tmp_path / "a.pth", tree)).state_dict


def test_every_constructor_withstands_any_arguments():
    """No exception but the expected ones, whatever a pickle passes."""
    nasty = [
        None,
        True,
        -1,
        1 << 80,
        0.5,
        "x",
        "latin1",
        b"x",
        (),
        (1, 2),
        [[1]],
        {},
        {"a": 1},
        pickle_reader.Opaque("a"),
    ]
    state, rng = pickle_reader.State(lambda amount: None), random.Random(0)
    allowed = (CheckpointError, TypeError, ValueError)
    for name, constructor in CONSTRUCTORS.items():
        for _ in range(300):
            arguments = [rng.choice(nasty) for _ in range(rng.randrange(7))]
            with contextlib.suppress(*allowed):
                made = constructor(state, *arguments)
                if hasattr(made, "restore"):
                    made.restore(state, tuple(rng.choice(nasty) for _ in range(rng.randrange(9))))
        assert name.module.split(".")[0] in ("torch", "collections", "numpy", "_codecs", "builtins", "__builtin__")


# Memory and time


@contextlib.contextmanager
def bounded(seconds, megabytes):
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    yield
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert time.monotonic() - start < seconds, f"{time.monotonic() - start:.1f} s"
    assert grown < megabytes, f"{grown:.0f} MB"


def nested(count, opcode=b"\x86"):
    """x = (x, x), `count` times: 2^count leaves in a few bytes."""
    return Raw(b")" + (b"q\x01h\x01" + opcode) * count)


def wrapper(index):
    """Puts what is on the stack under each of five names of a new dict."""
    names = (code(name) + b"h" + bytes([index]) for name in ("model", "state_dict", "ema", "module", "params"))
    return b"q" + bytes([index]) + b"0}(" + b"".join(names) + b"u"


def bombs():
    huge, deep = 1 << 61, 50_000
    pairs = code([(n, 0) for n in range(2000)])
    encode = code(Name("_codecs.encode")) + b"h\x02" + code("latin1") + b"\x86R0"
    make = code(Name("collections.OrderedDict")) + b"h\x02\x85R0"
    weights = tensor("float32", "0", 1, 0, (1,), (1,))
    return {
        "memo index": Raw(b"Nr\xff\xff\xff\xff0N"),
        "key of shared tuples": Raw(b"}" + nested(200).opcodes + b"Ns"),
        "value of shared tuples": nested(200),
        "shape of shared tuples": tensor("float32", "0", 1, 0, (nested(60),), (1,)),
        "class of shared tuples": Call(Name("torch._tensor._rebuild_from_type_v2"), (nested(60), nested(60), ())),
        "device of shared tuples": Call(Name("torch.device"), (nested(60),)),
        "deep list": Raw(b"]" * deep + b"a" * (deep - 1)),
        "deep tuple": Raw(b")" + b"\x85" * deep),
        "many marks": Raw(b"(" * 100_000 + b"t" * 100_000),
        "itself": Raw(b"]q\x05h\x05h\x05ee"[:-1].replace(b"h\x05h\x05", b"(h\x05h\x05")),
        "expanded": tensor("float32", "0", 1, 0, (1 << 20, 1 << 20), (0, 0)),
        "overflowing": tensor("float32", "0", huge, huge, (huge, huge), (huge, huge)),
        "huge and empty": tensor("float32", "0", 1, 0, (0, huge, huge), (1, 1, 1)),
        "many dimensions": tensor("float32", "0", 1, 0, (1,) * 40, (1,) * 40),
        "long string": Raw(b"\x8d" + struct.pack("<Q", 1 << 62)),
        "long integer": Raw(b"\x8b" + struct.pack("<i", 1 << 30) + b"\0" * 100),
        "negative length": Raw(b"T" + struct.pack("<i", -5)),
        "encoded again and again": Raw(
            code("x" * 100_000) + b"q\x020" + encode * 20_000 + b"N"
        ),
        "dicts of pairs": Raw(pairs + b"q\x020" + make * 100_000 + b"N"),
        "colliding keys": Raw(b"}(" + b"".join(code(k * ((1 << 61) - 1)) + b"N" for k in range(20_000)) + b"u"),
        "wrappers of wrappers": {"model": Raw(b"}" + b"".join(map(wrapper, range(10, 200))))},
        "the weights": weights,
    }  # fmt: skip


@pytest.mark.parametrize("name", bombs())
def test_files_that_would_exhaust_memory_or_time_do_not(tmp_path, name):
    c = Checkpoint()
    c.storages["0"] = np.zeros(1, np.float32)
    path = c.zip(tmp_path / "a.pth", {"w": tensor("float32", "0", 1, 0, (1,), (1,)), "x": bombs()[name]})
    with bounded(seconds=20, megabytes=400), contextlib.suppress(CheckpointError):
        loaded = load_torch(path)
        assert all(array.nbytes < 1 << 27 for array in loaded.state_dict.values())
        assert repr(loaded) and str(loaded)


def test_modules_that_share_parts_have_a_bound(tmp_path):
    def module(children):
        state = b"}(" + code("_parameters") + code({}) + code("_modules") + children + b"u"
        return code(Name("my.Net")) + b")\x81" + state + b"b"

    opcodes = module(code({}))
    for _ in range(60):
        opcodes += b"q\x010" + module(b"}(" + code("a") + b"h\x01" + code("b") + b"h\x01u")
    path = tmp_path / "a.pth"
    Checkpoint().zip(path, Raw(opcodes))
    with bounded(seconds=20, megabytes=400), pytest.raises(CheckpointError, match="200,000 parameters"):
        load_torch(path)


def test_a_pickle_of_too_many_opcodes_stops(tmp_path, monkeypatch):
    monkeypatch.setattr(pickle_reader, "MAX_OPCODES", 10_000)
    path = Checkpoint().zip(tmp_path / "a.pth", Raw(b"N0" * 10_000 + b"N"))
    with pytest.raises(CheckpointError, match="more than 10,000 opcodes"):
        load_torch(path)


def test_archives_that_lie_are_refused(tmp_path):
    path = tmp_path / "a.pth"
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(path, "w") as archive:
        for content in (dumps({"a": 1}), dumps({"a": 2})):
            archive.writestr("archive/data.pkl", content)
    with pytest.raises(CheckpointError, match="two records"):
        load_torch(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * (1 << 24))  # a zip bomb is not inflated
    with bounded(5, 50), pytest.raises(CheckpointError, match="compressed"):
        load_torch(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", dumps({}))
        archive.writestr("b/data.pkl", dumps({}))
    with pytest.raises(CheckpointError, match="2 data.pkl"):
        load_torch(path)


def seeds(folder):
    """Small files of both formats with a bit of everything."""
    for kind in ("zip", "legacy"):
        c = Checkpoint()
        raw = Call(Name("_codecs.encode"), (np.float64(2.5).tobytes().decode("latin1"), "latin1"))
        double = Call(Name("numpy.dtype"), ("f8", False, True), (3, "<", None, None, None, -1, -1, 0))
        tree = {
            "state_dict": ordered(
                {"conv.weight": c.array(np.ones((2, 3, 1, 1), np.float32)), "n": c.array(np.int64(3))}
            ),
            "view": storage("float32", "0", 6, view=((("v", 1, 2),) if kind == "legacy" else ())),
            "best": Call(Name("numpy.core.multiarray.scalar"), (double, raw)),
            "args": Raw(code(Call(Name("argparse.Namespace"))) + code({"lr": 0.1}) + b"b"),
            "list": [1, 2.5, "three", b"four", None, True, (1, [2, {"x": 3}])],
        }
        yield kind, getattr(c, kind)(folder / f"seed.{kind}", tree).read_bytes()


def mutate(content, rng):
    """Flipped, overwritten, removed, doubled and moved bytes; mostly near the pickle."""
    content = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        at, size = rng.randrange(len(content)), rng.choice((1, 1, 2, 4, 8, 32))
        kind = rng.randrange(6)
        if kind == 0:
            content[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            content[at] = rng.choice(b"\x00\x01\x7f\x80\xff().tqhjRbQcsueod}]\x81\x82\x85\x86\x87\x8a\x8b\x92\x93")
        elif kind == 2:
            del content[at : at + size]
        elif kind == 3:
            content[at:at] = content[at : at + size]
        elif kind == 4:
            other = rng.randrange(len(content))
            content[at : at + size] = content[other : other + size]
        else:
            content[at : at + 4] = rng.choice(
                (b"\xff" * 4, b"\0" * 4, b"\xff\xff\xff\x7f", struct.pack("<I", rng.randrange(300)))
            )
        if not content:
            break
    return bytes(content)


def test_mutated_files_load_or_give_the_documented_error(tmp_path):
    rng, path = random.Random(0), tmp_path / "mutant.pth"
    files, loaded, slowest = list(seeds(tmp_path)), 0, 0.0
    with bounded(seconds=max(60, MUTATIONS / 100), megabytes=300):
        for count in range(MUTATIONS):
            path.write_bytes(mutate(files[count % len(files)][1], rng))
            start = time.monotonic()
            with contextlib.suppress(CheckpointError):
                result = load_torch(path)
                loaded += 1
                assert all(array.nbytes < 1 << 27 for array in result.state_dict.values())
                for array in result.state_dict.values():
                    array.sum()  # every element can be read
            slowest = max(slowest, time.monotonic() - start)
    print(f"{MUTATIONS:,} mutations: {loaded:,} loaded, the slowest took {slowest:.2f} s")
    assert slowest < 5 and loaded > 0.02 * MUTATIONS
