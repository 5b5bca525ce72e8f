"""The build: what a wheel holds, where it imports, and one sentence for each way it can fail."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

from tgi_llamacpp.native import cpu_features, missing_features, missing_gpu

ROOT = Path(__file__).parent.parent
CMAKE = Path(sys.executable).with_name("cmake")
BUILD_DIR = ROOT / "build/editable"  # what `make build` compiled is reused
COMPILE_TIMEOUT_S = 1500  # of all of llama.cpp on two busy cores, should nothing be reused
LIBRARIES = {"libllama.so", "libggml.so", "libggml-base.so", "libggml-cpu.so"}

pytestmark = pytest.mark.timeout(COMPILE_TIMEOUT_S + 100)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [
        *(sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "--no-index"),
        *("--wheel-dir", str(folder), "-C", f"build-dir={BUILD_DIR}", str(ROOT)),
    ]
    result = subprocess.run(command, capture_output=True, text=True, timeout=COMPILE_TIMEOUT_S)
    assert result.returncode == 0, result.stdout + result.stderr
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def unpacked(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def run_python(
    code: str, package_parent: Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run `code` with tgi_llamacpp from `package_parent`: -S leaves the editable install out."""
    paths = [str(package_parent), sysconfig.get_path("platlib")]
    prelude = f"import sys; sys.path[:0] = {paths!r}\n"
    return subprocess.run(
        [sys.executable, "-S", "-c", prelude + code],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=package_parent,
        env=os.environ | environment,
    )


def last_line(result: subprocess.CompletedProcess[str]) -> str:
    return result.stderr.strip().splitlines()[-1]


def test_a_wheel_holds_its_libraries_and_no_tools_headers_or_sources(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {Path(name).name for name in names if "/native/lib/" in name} == LIBRARIES
    roots = {name.split("/")[0] for name in names}
    assert roots == {"tgi_llamacpp", "tgi_llamacpp-0.1.0.dist-info"}
    unwanted = re.compile(r"\.(pyx|pxd|h|hpp|cpp|cxx|a|cmake|pc)$|llama-(server|cli|quantize)")
    assert [name for name in names if unwanted.search(name)] == []


def test_a_wheel_holds_the_demo_model_and_every_license(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert "tgi_llamacpp/demo/demo.gguf" in names
    assert "tgi_llamacpp/demo/tokenizer.json" in names
    licenses = {Path(name).name for name in names if ".dist-info/licenses/" in name}
    assert licenses == {"LICENSE", *(path.name for path in (ROOT / "licenses").iterdir())}


def test_a_wheel_imports_outside_the_source_tree_with_its_own_libraries(
    unpacked: Path, tmp_path: Path
) -> None:
    (tmp_path / "libllama.so").write_bytes(b"somebody else's")
    result = run_python(
        "import tgi_llamacpp.native, pathlib\n"
        "for line in pathlib.Path('/proc/self/maps').read_text().splitlines():\n"
        "    if any(name in line for name in ('libllama', 'libggml', '/_runner')):\n"
        "        print(line.split()[-1])",
        unpacked,
        LD_LIBRARY_PATH=str(tmp_path),
    )
    assert result.returncode == 0, result.stderr
    loaded = {Path(line) for line in result.stdout.splitlines()}
    assert {path.name for path in loaded} >= LIBRARIES
    assert all(path.is_relative_to(unpacked) for path in loaded)


def test_a_cpu_that_lacks_the_builds_instructions_is_named_in_one_sentence(unpacked: Path) -> None:
    info = unpacked / "tgi_llamacpp/native/_build_info.py"
    original = info.read_text()
    info.write_text(original + '\nCPU_FEATURES = ("avx1024", "fpu", "asimd")\n')
    result = run_python("import tgi_llamacpp.native", unpacked)
    info.write_text(original)
    assert result.returncode == 1
    assert last_line(result).startswith(
        "ImportError: tgi-llamacpp was built for a CPU with avx1024"
    )
    assert "llamacpp_native=OFF" in last_line(result)


def test_a_package_that_was_not_built_says_how_to_build_it() -> None:
    result = run_python("import tgi_llamacpp.native", ROOT / "src")
    assert result.returncode == 1
    assert "not built: run `make build`" in last_line(result)


def test_cpu_features_are_read_on_x86_64_and_arm64() -> None:
    assert cpu_features("processor\t: 0\nflags\t\t: fpu avx2\n") == {"fpu", "avx2"}
    assert cpu_features("processor\t: 0\nFeatures\t: asimd sve\n") == {"asimd", "sve"}
    assert cpu_features("") == frozenset()


def test_a_machine_that_does_not_list_its_features_is_not_refused() -> None:
    assert missing_features(("avx2",), frozenset()) is None
    assert missing_features(("avx2",), frozenset({"avx2", "fpu"})) is None


def test_a_build_with_cuda_that_finds_no_gpu_says_so_unless_none_was_asked_for() -> None:
    sentence = missing_gpu(True, "CPU", -1)
    assert sentence is not None
    assert "no GPU was found" in sentence
    assert "docker run --gpus all" in sentence
    assert missing_gpu(True, "CPU", 0) is None
    assert missing_gpu(True, "CUDA0 (NVIDIA H100)", -1) is None
    assert missing_gpu(False, "CPU", -1) is None


def configure(source: Path, build: Path, *options: str, **environment: str) -> str:
    """Everything that CMake prints until it gives up on this project, with its lines joined."""
    result = subprocess.run(
        [CMAKE, "-S", source, "-B", build, *options],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | environment,
    )
    assert result.returncode != 0
    return re.sub(r"\s+", " ", result.stderr)


def find_source(folder: Path, cmake_dir: Path, **environment: str) -> tuple[int, str]:
    """Run cmake/llamacpp.cmake alone in `folder`: exit status and what it printed, lines joined."""
    script = folder / "find.cmake"
    script.write_text(
        f'set(Python_EXECUTABLE "{sys.executable}")\nset(PROJECT_SOURCE_DIR "{folder}")\n'
        f'include("{cmake_dir}/llamacpp.cmake")\n'
    )
    settings = {"XDG_CACHE_HOME": str(folder / "cache"), "LLAMACPP_SOURCE_DIR": ""}
    result = subprocess.run(
        [CMAKE, "-P", script],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=folder,
        env=os.environ | settings | environment,
    )
    return result.returncode, re.sub(r"\s+", " ", result.stderr + result.stdout)


def make_archive(folder: Path) -> Path:
    """An archive that looks like the pinned one, and holds one header."""
    version = re.search(r"==([0-9.]+)", (ROOT / "cmake/llamacpp.txt").read_text())
    assert version is not None
    name = f"xllamacpp-{version[1]}"
    header = folder / name / "thirdparty/llama.cpp/include/llama.h"
    header.parent.mkdir(parents=True)
    header.write_text("// a header\n")
    (folder / name / "PKG-INFO").write_text(f"Name: xllamacpp\nVersion: {version[1]}\n")
    archive = folder / f"{name}.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder / name, name)
    return archive


def pin(cmake_dir: Path, sha256: str) -> Path:
    """A copy of cmake/ whose pin has another hash."""
    cmake_dir.mkdir()
    for path in (ROOT / "cmake").iterdir():
        text = path.read_text()
        (cmake_dir / path.name).write_text(re.sub(r"sha256:[0-9a-f]+", f"sha256:{sha256}", text))
    return cmake_dir


def test_another_system_is_refused_in_one_sentence(tmp_path: Path) -> None:
    options = ("-DCMAKE_SYSTEM_NAME=Darwin", "-DCMAKE_SYSTEM_PROCESSOR=arm64")
    text = configure(ROOT, tmp_path, *options)
    assert "builds on Linux x86_64 and aarch64 only, and this is Darwin arm64." in text


def test_an_arm_architecture_for_another_cpu_is_refused_in_one_sentence(tmp_path: Path) -> None:
    options = ("-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=x86_64")
    text = configure(ROOT, tmp_path, *options, "-Dllamacpp_cpu_arm_arch=armv8.2-a")
    assert "llamacpp_cpu_arm_arch=armv8.2-a has an effect on aarch64 with" in text


def test_no_network_is_one_sentence_that_names_the_remedy(tmp_path: Path) -> None:
    status, text = find_source(tmp_path, ROOT / "cmake", PIP_NO_INDEX="1", PIP_FIND_LINKS="")
    assert status != 0
    assert "cannot be downloaded" in text
    assert "check the network, or set LLAMACPP_SOURCE_DIR to a checkout of llama.cpp b11549" in text
    assert "Traceback" not in text


def test_an_archive_with_another_hash_is_refused_in_one_sentence(tmp_path: Path) -> None:
    archive = make_archive(tmp_path)
    status, text = find_source(
        tmp_path, ROOT / "cmake", PIP_NO_INDEX="1", PIP_FIND_LINKS=str(archive.parent)
    )
    assert status != 0
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    assert f"has SHA-256 {found}, not the one that cmake/llamacpp.txt pins" in text
    assert not list((tmp_path / "cache").rglob("*.gz"))


def test_a_cached_archive_is_checked_and_unpacked_without_a_network(tmp_path: Path) -> None:
    archive = make_archive(tmp_path)
    sha256 = hashlib.sha256(archive.read_bytes()).hexdigest()
    cmake_dir = pin(tmp_path / "cmake", sha256)
    cached = tmp_path / "cache/tgi-llamacpp" / sha256 / archive.name
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"cut off")
    offline = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": ""}
    assert find_source(tmp_path, cmake_dir, **offline)[0] != 0
    cached.write_bytes(archive.read_bytes())
    status, text = find_source(tmp_path, cmake_dir, **offline)
    assert status == 0, text
    assert (tmp_path / "llamacpp-source/include/llama.h").read_text() == "// a header\n"


def test_a_checkout_in_third_party_is_taken_and_one_named_by_the_environment_goes_first(
    tmp_path: Path,
) -> None:
    for folder in ("third_party/llama.cpp", "mine"):
        (tmp_path / folder / "include").mkdir(parents=True)
        (tmp_path / folder / "include/llama.h").touch()
    assert f"source: {tmp_path}/third_party/llama.cpp" in find_source(tmp_path, ROOT / "cmake")[1]
    status, text = find_source(tmp_path, ROOT / "cmake", LLAMACPP_SOURCE_DIR="mine")
    assert status == 0
    assert f"source: {tmp_path}/mine" in text


def test_a_source_folder_without_llama_cpp_is_refused_in_one_sentence(tmp_path: Path) -> None:
    status, text = find_source(tmp_path, ROOT / "cmake", LLAMACPP_SOURCE_DIR=str(tmp_path))
    assert status != 0
    assert f"{tmp_path} is no checkout of llama.cpp" in text


def test_what_an_isolated_build_asks_for_is_what_make_installs() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    group = project["dependency-groups"]["build"]
    extra = [
        requirement
        for requirement in group
        if requirement not in project["build-system"]["requires"]
    ]
    assert set(project["build-system"]["requires"]) <= set(group)
    assert [re.split("[>=]", requirement)[0] for requirement in extra] == ["cmake", "ninja"]
