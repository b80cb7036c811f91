"""What is fetched is the pinned thing or nothing."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

from runners import fetch
from runners.fetch import BEAM_MODULE, BEAM_RELEASE, BEAM_SUM
from schemas.errors import DigestMismatch, MissingTool, SetupError

BUILT = "prism: go1.26.8\n\tmod\t{}\t{}\t{}\n\tdep\tx\tv1\th1:a=\n"


MAVEN = """\
#!/bin/sh
for argument; do case "$argument" in -DoutputDirectory=*) folder="${{argument#*=}}";; esac; done
mkdir -p "$folder" && cp {jars}/* "$folder"
"""


@pytest.fixture
def jars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What Maven copies; it is what is pinned, for now."""
    folder = tmp_path / "central"
    folder.mkdir()
    (folder / "flink-core-1.jar").write_bytes(b"flink")
    (folder / "beam-core-1.jar").write_bytes(b"beam")
    pins = tmp_path / "pins"
    pins.mkdir()
    digests = [f"{hashlib.sha256(jar.read_bytes()).hexdigest()}  {jar.name}\n" for jar in folder.iterdir()]
    (pins / "sha256sums.txt").write_text("".join(digests))
    monkeypatch.setattr(fetch, "FLINK_JARS", pins)
    _maven(tmp_path, monkeypatch, MAVEN.format(jars=folder))
    return folder


def _maven(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    program = folder / "bin" / "mvn"
    program.parent.mkdir(exist_ok=True)
    program.write_text(script)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")


def test_the_pinned_jars_are_kept_and_need_no_network_later(jars: Path, tmp_path: Path) -> None:
    folder = fetch.fetch_flink(tmp_path / "cache")
    assert {path.name for path in folder.iterdir()} == {"flink-core-1.jar", "beam-core-1.jar"}
    jars.rename(tmp_path / "away")
    assert fetch.fetch_flink(tmp_path / "cache") == fetch.flink_lib(tmp_path / "cache") == folder


@pytest.mark.parametrize("wrong", ["changed", "missing", "added"])
def test_other_jars_are_refused_and_nothing_is_kept(jars: Path, tmp_path: Path, wrong: str) -> None:
    jar = jars / ("extra-1.jar" if wrong == "added" else "beam-core-1.jar")
    jar.unlink() if wrong == "missing" else jar.write_bytes(b"another")
    with pytest.raises(
        DigestMismatch, match=rf"{jar.name} has sha256 .*, pinned is .* \(1 of 2 jars differ\)"
    ):
        fetch.fetch_flink(tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []
    with pytest.raises(MissingTool, match=r"run `make flink`"):
        fetch.flink_lib(tmp_path / "cache")


def test_a_jar_that_is_changed_later_is_not_used(jars: Path, tmp_path: Path) -> None:
    (fetch.fetch_flink(tmp_path / "cache") / "flink-core-1.jar").write_bytes(b"another")
    with pytest.raises(DigestMismatch, match=r"flink-core-1.jar has sha256"):
        fetch.flink_lib(tmp_path / "cache")


def test_every_jar_of_the_list_has_a_digest_and_is_listed_once() -> None:
    lines = (fetch.FLINK_JARS / "sha256sums.txt").read_text().splitlines()
    assert all(re.fullmatch(r"[0-9a-f]{64}  \S+\.jar", line) for line in lines)
    assert len({line.split()[1] for line in lines}) == len(lines)
    assert any(line.endswith(f"  flink-runtime-{fetch.FLINK_RELEASE}.jar") for line in lines)


def test_what_maven_says_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _maven(
        tmp_path, monkeypatch, "#!/bin/sh\necho '[ERROR] Could not find it'; echo '[ERROR] Help'; exit 1\n"
    )
    with pytest.raises(
        SetupError, match=r"^Flink's jars could not be fetched with Maven: Could not find it$"
    ):
        fetch.fetch_flink(tmp_path / "cache")


def test_without_maven_the_line_says_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingTool, match=r"mvn is not on the PATH"):
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
