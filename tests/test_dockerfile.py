"""The steps of Dockerfile_llamacpp that hold logic, run here without a container."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCKERFILE = (ROOT / "Dockerfile_llamacpp").read_text().replace("\\\n", "")
RELEASES = "https://github.com/ggml-org/llama.cpp/archive/refs/tags/"
UNPACKED = "third_party/llama.cpp/include/llama.h"

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")


def argument(name: str) -> str:
    """The default of a build argument."""
    found = re.search(rf"^ARG {name}=(.*)$", DOCKERFILE, re.MULTILINE)
    assert found is not None, name
    return found[1].strip('"')


@pytest.fixture
def sha256(tmp_path: Path) -> str:
    """Of a release b1, which lies where the step will look."""
    (tmp_path / "llama.cpp-b1/include").mkdir(parents=True)
    (tmp_path / "llama.cpp-b1/include/llama.h").write_text("// of b1\n")
    with tarfile.open(tmp_path / "b1.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "llama.cpp-b1", "llama.cpp-b1")
    return hashlib.sha256((tmp_path / "b1.tar.gz").read_bytes()).hexdigest()


def fetch(folder: Path, **arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the step that takes another llama.cpp than the pin, with its releases in `folder`."""
    (step,) = re.findall(r"^RUN (if .*llamacpp_version.*)$", DOCKERFILE, re.MULTILINE)
    assert RELEASES in step
    names = ("llamacpp_version", "llamacpp_sha256")
    defaults = {name: argument(name) for name in names}
    return subprocess.run(
        ["/bin/sh", "-c", step.replace(RELEASES, f"file://{folder}/")],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin"} | defaults | arguments,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_the_version_of_the_image_is_the_pin() -> None:
    cmake = (ROOT / "cmake/llamacpp.cmake").read_text()
    pin = re.search(r"set\(llamacpp_build (\d+)\)", cmake)
    assert pin is not None
    assert argument("llamacpp_version") == f"b{pin[1]}"
    assert set(re.findall(r"b\d{4,}", DOCKERFILE)) == {f"b{pin[1]}"}


def test_the_pin_is_left_to_the_build(tmp_path: Path, sha256: str) -> None:
    assert fetch(tmp_path).returncode == 0
    assert not (tmp_path / "third_party").exists()


def test_another_version_is_unpacked_where_the_build_looks(tmp_path: Path, sha256: str) -> None:
    step = fetch(tmp_path, llamacpp_version="b1", llamacpp_sha256=sha256)
    assert step.returncode == 0, step.stderr
    assert (tmp_path / UNPACKED).read_text() == "// of b1\n"


def test_another_version_needs_its_sha256(tmp_path: Path, sha256: str) -> None:
    step = fetch(tmp_path, llamacpp_version="b1")
    assert step.returncode == 1
    assert step.stdout == (
        f"llamacpp_version=b1 is not the pin, {argument('llamacpp_version')}: "
        "give the sha256 of its release tarball as --build-arg llamacpp_sha256=...\n"
    )


def test_another_sha256_ends_the_build(tmp_path: Path, sha256: str) -> None:
    step = fetch(tmp_path, llamacpp_version="b1", llamacpp_sha256=sha256[::-1])
    assert step.returncode != 0
    assert "FAILED" in step.stdout
    assert not (tmp_path / "third_party").exists()


def test_a_version_that_does_not_exist_ends_the_build(tmp_path: Path, sha256: str) -> None:
    step = fetch(tmp_path, llamacpp_version="b2", llamacpp_sha256=sha256)
    assert step.returncode != 0
    assert not (tmp_path / "third_party").exists()
