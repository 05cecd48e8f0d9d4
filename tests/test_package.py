"""The package as a whole: which way imports point, how light it is to import, and what is installed."""

import ast
import inspect
import json
import os
import re
import socket
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest

import viewaug

ROOT = Path(__file__).parents[1]
FOLDERS = {"viewaug": "viewaug", "adapters": "viewaug.adapters", "examples": "viewaug.examples"}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

# Lightning goes by two import names; an adapter may serve both.
FRAMEWORKS = {
    "lightning": "lightning",
    "pytorch_lightning": "lightning",
    "lightly": "lightly",
    "solo": "solo",
    "timm": "timm",
    "torchvision": "torchvision",
    "torchaudio": "torchaudio",
}
HEAVY = {
    "lightning",
    "pytorch_lightning",
    "lightly",
    "hydra",
    "torchvision",
    "torchaudio",
    "timm",
    "matplotlib",
    "sklearn",
    "skimage",
    "torchmetrics",
}


def sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def package(file: Path) -> str:
    """The installed name of the package that a file lies in."""
    folder, *parents = file.parent.relative_to(ROOT).parts
    return ".".join([FOLDERS[folder], *parents])


def imports(source: str, package: str) -> set[str]:
    """Every name that `source` imports anywhere; of `from a import b` both `a` and `a.b`, as `b` may be a module."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join(parents + ([node.module] if node.module else []))
            names |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return names


def within(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(package + ".") for package in packages)


def imported(folder: str) -> list[tuple[str, str]]:
    """Pairs of (file, imported name) for all files of a folder."""
    files = sources(folder)
    assert files, f"there is no source under {folder}/"
    return [
        (str(file.relative_to(ROOT)), name)
        for file in files
        for name in sorted(imports(file.read_text(encoding="utf-8"), package(file)))
    ]


def test_imports_finds_every_kind_of_import():
    source = """
import os.path
def f():
    import timm.models as models
    from torchvision import ops
from . import a
from .b import c
from .. import adapters
from ..adapters.kornia import d
"""
    names = imports(source, "viewaug.examples")
    assert names >= {"os.path", "timm.models", "torchvision", "torchvision.ops", "viewaug.examples.a"}
    assert names >= {"viewaug.examples.b", "viewaug.adapters", "viewaug.adapters.kornia"}


# The one part of the library that stands above adapters, and the commands above it.
ABOVE = ("viewaug/comparison/", "viewaug/commands/")


def test_library_imports_no_framework_adapter_or_example():
    forbidden = [*FRAMEWORKS, "viewaug.adapters", "viewaug.examples", "viewaug.comparison"]
    assert [pair for pair in imported("viewaug") if within(pair[1], *forbidden) and not pair[0].startswith(ABOVE)] == []


def test_what_stands_above_imports_no_example_and_few_frameworks():
    above = [pair for pair in imported("viewaug") if pair[0].startswith(ABOVE)]
    assert [pair for pair in above if within(pair[1], "viewaug.examples", "solo", "torchvision")] == []
    adapters = {name.split(".")[2] for _, name in above if name.count(".") >= 2 and within(name, "viewaug.adapters")}
    assert adapters == {"lightning"}


def test_adapters_import_no_example():
    assert [pair for pair in imported("adapters") if within(pair[1], "viewaug.examples")] == []


def test_adapter_imports_at_most_one_framework():
    used: dict[str, set[str]] = {}
    for file, name in imported("adapters"):
        if framework := FRAMEWORKS.get(name.split(".")[0]):
            used.setdefault(file, set()).add(framework)
    assert {file: frameworks for file, frameworks in used.items() if len(frameworks) > 1} == {}


@pytest.mark.parametrize("folder", FOLDERS)
def test_folders_are_imported_by_their_installed_names(folder):
    assert [pair for pair in imported(folder) if within(pair[1], "adapters", "examples")] == []


def loaded_by(module: str, folder: Path) -> set[str]:
    """Top-level modules in memory after `import module` in a fresh interpreter."""
    code = f"import json, sys, {module}; print(json.dumps(sorted(sys.modules)))"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code]
    output = subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
    return {name.split(".")[0] for name in json.loads(output.splitlines()[-1])}


def test_import_is_light(tmp_path):
    loaded = loaded_by("viewaug", tmp_path)
    heavy = HEAVY & loaded
    if heavy and "kornia" in loaded:  # what a core dependency brings in by itself is not ours
        heavy -= loaded_by("kornia", tmp_path)
    assert heavy == set()


def test_every_folder_with_code_is_installed():
    found = {package(file) for folder in FOLDERS for file in sources(folder)}
    assert found == set(PROJECT["tool"]["setuptools"]["packages"])
    assert all((file.parent / "__init__.py").is_file() for folder in FOLDERS for file in sources(folder))
    assert (ROOT / "viewaug" / "py.typed").is_file()


def test_version_comes_from_one_place():
    assert viewaug.__version__ == version("viewaug"), "after a new version number, install again (touch pyproject.toml)"
    assert "version" in PROJECT["project"]["dynamic"]


def test_core_dependencies():
    names = [re.match(r"[\w.-]+", requirement)[0] for requirement in PROJECT["project"]["dependencies"]]
    assert sorted(names) == ["kornia", "safetensors", "torch"]


def test_extras():
    extras = PROJECT["project"]["optional-dependencies"]
    assert set(extras) >= {"metrics", "plots", "lightly", "solo", "audio", "examples", "dev"}
    requirements = PROJECT["project"]["dependencies"] + [r for extra in extras.values() for r in extra]
    forbidden = r"git\+|://|@|solo[-_.]learn"
    assert [requirement for requirement in requirements if re.search(forbidden, requirement, re.IGNORECASE)] == []


@pytest.mark.parametrize("name", viewaug.__all__)
def test_public_names_are_documented(name):
    public = getattr(viewaug, name)
    assert public.__doc__
    if inspect.isclass(public) or inspect.isroutine(public):
        assert "Examples:\n" in public.__doc__


def test_no_test_reaches_the_network():
    with pytest.raises(RuntimeError, match=r"tried to connect to 192\.0\.2\.1"):
        socket.create_connection(("192.0.2.1", 80), timeout=1)
