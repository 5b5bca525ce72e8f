"""What the sources promise about themselves: one version, declared imports, a quiet C++ core."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from pathlib import Path

import tgi_llamacpp

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src/tgi_llamacpp"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def third_party(path: Path) -> set[str]:
    """The packages, neither ours nor the standard library's, that a Python file imports."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names.add(node.module)
    return {name.split(".")[0] for name in names} - sys.stdlib_module_names - {"tgi_llamacpp"}


def pyx_imports(path: Path) -> set[str]:
    """The packages that a Cython file imports or cimports."""
    text = path.read_text()
    names = re.findall(r"^(?:from (\S+) c?import|c?import (\S+))", text, re.MULTILINE)
    return {(first or second).split(".")[0] for first, second in names}


def test_package_changelog_and_project_name_the_same_version() -> None:
    newest = re.search(r"^## \[([^]]+)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is not None
    assert newest[1] == PROJECT["version"] == tgi_llamacpp.__version__


def test_what_the_package_imports_is_what_it_depends_on() -> None:
    imported = set().union(*(third_party(path) for path in PACKAGE.rglob("*.py")))
    declared = {re.split("[<>=~!;[]", name)[0].strip() for name in PROJECT["dependencies"]}
    # uvicorn imports the one, because the router asks for it; of the other only files are read.
    by_name = {"httptools", "swagger_ui_py"}
    assert imported | by_name == {name.replace("-", "_") for name in declared}


def test_the_native_modules_use_nothing_beyond_cython_and_numpy() -> None:
    others = {"numpy", "cython", "cpython", "libc", "libcpp", "tgi_llamacpp"}
    allowed = sys.stdlib_module_names | others
    files = [*(PACKAGE / "native").glob("*.pyx"), *(PACKAGE / "native").glob("*.pxd")]
    assert len(files) > 3
    assert {
        path.name: pyx_imports(path) - allowed for path in files if pyx_imports(path) - allowed
    } == {}


def test_every_native_module_has_a_stub_for_the_type_checker() -> None:
    modules = {path.stem for path in (PACKAGE / "native").glob("*.pyx")}
    assert modules <= {path.stem for path in (PACKAGE / "native").glob("*.pyi")}


def test_every_module_opens_with_a_docstring() -> None:
    missing = [
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if ast.get_docstring(ast.parse(path.read_text())) is None
    ]
    assert missing == []


def test_the_c_core_lets_no_exception_out_and_ends_no_process() -> None:
    sources = [path for path in (ROOT / "csrc").iterdir() if path.suffix in (".h", ".cpp")]
    ends = re.compile(r"std::(terminate|abort|exit|puts)|\bassert\(|#include <(iostream|cstdio)>")
    assert {path.name for path in sources if ends.search(path.read_text())} == set()
    interface = re.sub(r"//.*", "", (ROOT / "csrc/sampler.h").read_text())
    declarations = re.findall(r"[^;{}]*\([^;{}]*;", interface)
    assert len(declarations) > 5
    leaking = [text for text in declarations if "noexcept" not in text and "= delete" not in text]
    assert leaking == []
