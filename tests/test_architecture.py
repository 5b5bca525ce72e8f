"""The walls of docs/architecture.md: who may import what, and how long a file may be."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src/tgi_llamacpp"
OURS = "tgi_llamacpp"
MAX_LINES = 400

# Beyond the standard library, and beyond the folder itself.
MAY_IMPORT = {
    "router": {
        "httptools", "huggingface_hub", "jinja2", "msgspec", "numpy", "starlette", "tokenizers",
        "transformers", "uvicorn", "uvloop",
        f"{OURS}.config", f"{OURS}.derive", f"{OURS}.errors", f"{OURS}.files", f"{OURS}.flags",
        f"{OURS}.histogram", f"{OURS}.logs", f"{OURS}.machine", f"{OURS}.messages",
        f"{OURS}.step_page",
    },
    "engine": {
        "msgspec", "numpy",
        f"{OURS}.config", f"{OURS}.errors", f"{OURS}.histogram", f"{OURS}.logs",
        f"{OURS}.messages", f"{OURS}.native", f"{OURS}.step_page",
    },
    "native": {
        "numpy", f"{OURS}.config", f"{OURS}.engine.runner", f"{OURS}.errors", f"{OURS}.messages",
    },
}  # fmt: skip


def imported_modules(path: Path) -> set[str]:
    """Every module that a file imports, `from package import module` as package.module."""
    modules = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            is_package = node.module in (OURS, f"{OURS}.router", f"{OURS}.engine")
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            modules |= set(names) if is_package else {node.module}
    return modules


def is_allowed(module: str, folder: str) -> bool:
    own = (f"{OURS}.{folder}", f"{OURS}.__version__")
    allowed = MAY_IMPORT[folder] | set(own)
    return module.split(".")[0] in sys.stdlib_module_names or any(
        module == name or module.startswith(name + ".") for name in allowed
    )


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_a_folder_imports_only_what_it_may(folder: str) -> None:
    broken = [
        f"{path.name} imports {module}"
        for pattern in ("*.py", "*.pyi")
        for path in sorted((PACKAGE / folder).glob(pattern))
        for module in sorted(imported_modules(path))
        if not is_allowed(module, folder)
    ]
    assert broken == []


def test_the_c_core_knows_no_python_and_prints_nothing() -> None:
    forbidden = re.compile(r"Python\.h|\b(f?printf|cout|cerr)\b")
    for path in (ROOT / "csrc").glob("*.*"):
        if path.suffix in (".h", ".cpp"):
            assert forbidden.findall(path.read_text()) == [], path.name


def test_no_source_file_grows_beyond_its_limit() -> None:
    sources = [path for path in PACKAGE.rglob("*") if path.suffix in (".py", ".pyx", ".pxd")]
    sources += [path for path in (ROOT / "csrc").glob("*.*") if path.suffix in (".h", ".cpp")]
    lengths = {path.name: len(path.read_text().splitlines()) for path in sources}
    assert {name: n for name, n in lengths.items() if n > MAX_LINES} == {}


def test_every_entry_of_the_file_tree_in_readme_exists() -> None:
    tree = (ROOT / "README.md").read_text().partition("## What is where")[2]
    entries = re.findall(r"^    (  )?(\S+)  +\S", tree, re.MULTILINE)
    assert len(entries) > 15
    for is_inner, name in entries:
        folder = PACKAGE if is_inner else ROOT
        assert (folder / name).exists(), name
