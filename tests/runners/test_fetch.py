"""What is fetched is the pinned thing or nothing."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import pytest

from runners import fetch
from runners.fetch import BEAM_MODULE, BEAM_RELEASE, BEAM_SUM
from schemas.errors import DigestMismatch, MissingTool, SetupError

BUILT = "prism: go1.26.8\n\tmod\t{}\t{}\t{}\n\tdep\tx\tv1\th1:a=\n"


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes packages from, and from nowhere else."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def _wheel(folder: Path) -> Path:
    wheel = folder / f"apache_flink_libraries-{fetch.FLINK_RELEASE}-py2.py3-none-any.whl"
    info = f"apache_flink_libraries-{fetch.FLINK_RELEASE}.dist-info"
    with zipfile.ZipFile(wheel, "w") as parts:
        parts.writestr("pyflink/lib/flink-dist-2.2.1.jar", b"flink")
        parts.writestr("pyflink/lib/log4j-core-2.24.3.jar", b"log4j")
        parts.writestr("pyflink/lib/flink-table-planner-loader-2.2.1.jar", b"SQL")
        parts.writestr("pyflink/opt/flink-dist-2.2.1.jar", b"elsewhere")
        parts.writestr(
            f"{info}/METADATA",
            f"Metadata-Version: 2.1\nName: apache-flink-libraries\nVersion: {fetch.FLINK_RELEASE}\n",
        )
        parts.writestr(
            f"{info}/WHEEL",
            "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py2-none-any\nTag: py3-none-any\n",
        )
        parts.writestr(f"{info}/RECORD", "")
    return wheel


def test_a_package_with_another_digest_is_refused_and_nothing_is_kept(index: Path, tmp_path: Path) -> None:
    _wheel(index)
    with pytest.raises(
        DigestMismatch, match=r"apache-flink-libraries==2.2.1 .*its digest is not the pinned one"
    ):
        fetch.fetch_flink(tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []
    with pytest.raises(MissingTool, match=r"run `make flink`"):
        fetch.flink_lib(tmp_path / "cache")


def test_of_the_pinned_package_the_jars_of_a_session_cluster_are_kept(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "FLINK_SHA256", hashlib.sha256(_wheel(index).read_bytes()).hexdigest())
    folder = fetch.fetch_flink(tmp_path / "cache")
    kept = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert kept == {"flink-dist-2.2.1.jar": b"flink", "log4j-core-2.24.3.jar": b"log4j"}
    assert fetch.flink_lib(tmp_path / "cache") == folder
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [folder.name]
    index.rename(tmp_path / "away")
    assert fetch.fetch_flink(tmp_path / "cache") == folder


def test_a_package_that_is_not_to_be_had_is_one_line(index: Path, tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"could not be fetched from the Python package index: \S.*"):
        fetch.fetch_flink(tmp_path / "cache")


def test_prism_built_from_the_pinned_source_is_taken() -> None:
    fetch.check_sum(BUILT.format(BEAM_MODULE, BEAM_RELEASE, BEAM_SUM))


@pytest.mark.parametrize(
    "said",
    [
        BUILT.format(BEAM_MODULE, BEAM_RELEASE, "h1:AAAA="),
        BUILT.format(BEAM_MODULE, "v2.76.0", BEAM_SUM),
        BUILT.format("example.org/prism", BEAM_RELEASE, BEAM_SUM),
        BUILT.format(BEAM_MODULE, "(devel)", ""),
        "",
    ],
)
def test_prism_built_from_anything_else_is_refused(said: str) -> None:
    with pytest.raises(DigestMismatch):
        fetch.check_sum(said)


def test_without_go_the_line_says_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingTool, match=r"go is not on the PATH"):
        fetch.build_prism(tmp_path / "cache")
    with pytest.raises(MissingTool, match=r"run `make prism`, or set prism.binary"):
        fetch.prism_binary(tmp_path / "cache")


def test_what_cannot_be_fetched_is_said_on_stderr(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("HEADRACE_TOOLS", str(tmp_path / "cache"))
    assert fetch.main(["prism"]) == 1
    assert capsys.readouterr().err.startswith("headrace: go is not on the PATH")
    assert fetch.main(["spark"]) == 2
