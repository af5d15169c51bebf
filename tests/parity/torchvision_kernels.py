"""torchvision's compiled operators beside the CPU build of torch.

Its published wheels hold the CPU kernels (RoI align and pooling, deformable convolution, NMS), but load only where CUDA
libraries lie beside them. Empty libraries of these names, built here with the C compiler, satisfy the loader; what is
in them is never called on a CPU. Unlike torchvision's own Python form of `roi_align`, the kernels know the zeros
outside of the map, and their times are what users of torchvision see.
"""

import ctypes
import functools
import importlib.util
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.parity.torch_weights import load_tool

LIBRARIES = {"libcudart": "_*cuda", "libc10_cuda": "_ZNK?3c104cuda|_ZN2at4cuda", "libtorch_cuda": "(?!)"}
"""And the symbols that the extension takes from each."""


def load():
    """The module torchvision with its operators.

    Raises:
      RuntimeError: they could not be loaded.
    """
    prepare()
    torchvision = load_tool("torchvision_cpu").torchvision
    if not torchvision.extension._has_ops():
        raise RuntimeError(
            "torchvision was loaded without its compiled operators: beside the CPU build of torch they need `cc`, "
            "`objdump` and `nm`, and `prepare()` before the first import of torchvision"
        )
    return torchvision


@functools.cache
def prepare():
    """Lets the first import of torchvision find its operators."""
    import torch

    spec = importlib.util.find_spec("torchvision")
    if "torchvision" in sys.modules or torch.version.cuda or spec is None or spec.origin is None:
        return
    extension = Path(spec.origin).parent / "_C.so"
    try:
        needed = _lines("objdump", "-p", extension)
        symbols = {line.split()[-1] for line in _lines("nm", "-D", "--undefined-only", extension)}
    except (OSError, subprocess.CalledProcessError):
        return
    names = [line.split()[-1] for line in needed if line.strip().startswith("NEEDED")]
    with tempfile.TemporaryDirectory() as folder:
        for library, pattern in LIBRARIES.items():
            for name in (n for n in names if n.startswith(library)):
                _build(Path(folder) / name, [symbol for symbol in symbols if re.match(pattern, symbol)])


def _build(path, symbols):
    """A shared library of functions that return the address of zeros, loaded for all that come later."""
    names = sorted(symbol.partition("@")[0] for symbol in symbols)
    source = ["static char zeros[4096];"] + [f"void *{name}(void) {{ return zeros; }}" for name in names]
    path.with_suffix(".c").write_text("\n".join(source) + "\n")
    command = ["cc", "-w", "-shared", "-fPIC", "-o", str(path), str(path.with_suffix(".c")), f"-Wl,-soname,{path.name}"]
    if any("@" in symbol for symbol in symbols):
        path.with_suffix(".map").write_text(f"{path.name} {{ global: *; }};\n")
        command.append(f"-Wl,--version-script={path.with_suffix('.map')}")
    subprocess.run(command, check=True, capture_output=True)
    ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)


def _lines(*command):
    return subprocess.run([str(c) for c in command], check=True, capture_output=True, text=True).stdout.splitlines()
