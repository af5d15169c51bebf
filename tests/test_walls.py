"""The walls of the house: who imports whom, one door for layers, nothing that rots unimported."""

import ast
import importlib
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import jaxvision

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "jaxvision"
LEVELS = (
    {"errors"},
    {"registry", "config", "structures", "trees", "ops"},
    {"layers", "losses", "augment"},
    {"backbones", "necks", "pretrained"},
    {"engine", "data", "visualization"},
    {"classification", "detection", "segmentation"},
    {
        "experiment",
        "training",
        "benchmark",
        "model_index",
        "model_speed",
        "inference",
        "loading",
        "recording",
        "deploy",
        "checking",
        "browsing",
        "starter",
        "features",
        "retrieval",
        "proposing",
        "analysis",
    },
    {"experiments"},
)
"""Each part imports only from the parts before its own level (and from itself)."""
DIRECTIONS = LEVELS[5]
SAME_LEVEL = LEVELS[6]
"""Parts of the composition level may use each other."""


def python_files(*folders):
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def part_of(path):
    relative = path.relative_to(ROOT)
    return relative.parts[0] if relative.parts[0] != "jaxvision" else Path(relative.parts[1]).stem


def imported(path):
    """(module, whether at import time) of every import statement."""
    tree = ast.parse(path.read_text())
    top = {id(node) for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))}
    lazy = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef))
        for node in ast.walk(function)
        if id(node) in top
    }
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module] + [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            yield name, id(node) not in lazy


def level(part):
    for number, parts in enumerate(LEVELS):
        if part in parts:
            return number
    raise AssertionError(f"{part} has no level: add it to LEVELS")


@pytest.mark.parametrize("path", python_files("jaxvision", "experiments"), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_run_one_way(path):
    part = part_of(path)
    if part in ("__init__", "__main__"):
        return
    for name, _ in imported(path):
        if not name.startswith("jaxvision."):
            continue
        other = name.split(".")[1]
        if other == part or not ((PACKAGE / other).is_dir() or (PACKAGE / f"{other}.py").exists()):
            continue
        composing = part in SAME_LEVEL and other in SAME_LEVEL
        lower = level(part) == level(other) and part == "config"
        assert level(other) < level(part) or composing or lower, f"{path.relative_to(ROOT)} imports jaxvision.{other}"


@pytest.mark.parametrize(
    "module,allowed",
    [
        (r"tensorflow(_datasets)?", ("jaxvision/data/", "jaxvision/deploy/tensorflow.py")),
        (r"torch(vision)?|timm|transformers|segmentation_models_pytorch", ()),
    ],
)
def test_foreign_frameworks_stay_where_they_belong(module, allowed):
    for path in python_files("jaxvision", "experiments", "configs"):
        for name, at_import in imported(path):
            if re.fullmatch(module, name.split(".")[0]):
                relative = str(path.relative_to(ROOT))
                assert relative.startswith(allowed) if allowed else False, f"{relative} imports {name}"
                assert not at_import, f"{relative} imports {name} before it is needed"


FORBIDDEN = {
    r"\bnn\.(Conv|ConvTranspose|BatchNorm|GroupNorm|LayerNorm|Dense)\b": "layers",
    r"\bnn\.(avg_pool|max_pool|pool)\b": "ops.pool",
    r"\bjax\.image\.(resize|scale_and_translate)\b": "ops.interpolate",
    r"\blax\.(conv\w*|reduce_window)\b": "layers.Conv or ops.pool",
    r"\bjax\.pmap\b|\bshard_map\(": "engine.parallel",
}


def test_models_go_through_the_one_door():
    for path in python_files("jaxvision"):
        if path.is_relative_to(PACKAGE / "layers") or path.is_relative_to(PACKAGE / "ops"):
            continue
        if path == PACKAGE / "engine" / "parallel.py":
            continue
        code = "\n".join(line.split("#")[0] for line in path.read_text().splitlines())
        code = re.sub(r'"""[\s\S]*?"""', "", code)
        for pattern, door in FORBIDDEN.items():
            found = re.search(pattern, code)
            assert not found, f"{path.relative_to(ROOT)} uses {found.group()}: the door is {door}"


def test_every_module_imports():
    for module in pkgutil.walk_packages(jaxvision.__path__, "jaxvision."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)


def test_the_library_works_where_tensorflow_is_not_installed():
    code = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("tensorflow", "tensorflow_datasets", "torch"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Blocker())
import jaxvision as jv
from jaxvision import registry, training, inference
for kind in registry.KINDS:
    for name in registry.names(kind):
        registry.lookup(kind, name).load()
assert "resnet50" in jv.list_models("resnet*")
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_command_line_faces_stay_thin():
    for path in python_files("experiments"):
        lines = len(path.read_text().splitlines())
        assert lines <= 100, f"{path.relative_to(ROOT)} has {lines} lines"


def test_the_top_level_holds_nothing_else():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode or not tracked.stdout:
        return
    known = {
        "pyproject.toml",
        "README.md",
        "LICENSE",
        ".gitignore",
        ".ci",
        "jaxvision",
        "configs",
        "experiments",
        "tests",
    }
    assert {line.split("/")[0] for line in tracked.stdout.splitlines()} <= known
