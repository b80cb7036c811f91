"""What the cluster runners need beside Python packages: fetched or built once, checked, kept in the user's cache.

`python -m runners.fetch flink` and `... prism`, as `make flink` and `make prism` call it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import platformdirs

from schemas.errors import DigestMismatch, MissingTool, SetupError

FLINK_RELEASE = "1.19.3"
FLINK_JARS = Path(__file__).parent / "flink_jars"
"""What Maven is to copy, and what that must be: a digest for each jar."""
COPY_JARS = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"
UNSENT = Path("gradle", "wrapper")
"""Beam's job server sends its whole class path with every job, save what lies in a folder of this name. The clusters
of `make flink-up` have these jars on their own class path: 150 MB less, and no classes loaded anew, for each job."""

BEAM_MODULE = "github.com/apache/beam/sdks/v2"
BEAM_RELEASE = "v2.77.0"
BEAM_SUM = "h1:RsC61pHEvtySEHAURQyP/+CVOJm/hy5hewuG9JF0+Ow="
"""Go's checksum of the module; a binary carries that of the source it was built from."""

FETCH_TIMEOUT_S = 1800


def cache_folder() -> Path:
    """Where fetched parts are kept: HEADRACE_TOOLS, or below the user's cache."""
    configured = os.environ.get("HEADRACE_TOOLS")
    return Path(configured) if configured else platformdirs.user_cache_path("headrace") / "tools"


def flink_lib(cache: Path | None = None) -> Path:
    """Folder of Flink's and Beam's jars, each as it was pinned.

    Raises:
        MissingTool: they were not fetched.
        DigestMismatch: they are others.
    """
    folder = _flink_folder(cache) / UNSENT
    if not folder.is_dir():
        raise MissingTool(f"Flink {FLINK_RELEASE} is not in {folder}: run `make flink`")
    check_jars(folder)
    return folder


def _flink_folder(cache: Path | None) -> Path:
    return (cache or cache_folder()) / f"flink-{FLINK_RELEASE}"


def prism_binary(cache: Path | None = None) -> Path:
    """Prism, as it was built.

    Raises:
        MissingTool: it was not.
    """
    binary = (cache or cache_folder()) / f"prism-{BEAM_RELEASE}"
    if not binary.is_file():
        raise MissingTool(f"Prism is not at {binary}: run `make prism`, or set prism.binary")
    return binary


def fetch_flink(cache: Path | None = None) -> Path:
    """Have Maven copy the jars of Flink, and of Beam's job server for it.

    Returns:
        Their folder.
    Raises:
        MissingTool: there is no Maven.
        DigestMismatch: what it copied is not what was pinned.
        SetupError: they cannot be had, or there is no room.
    """
    folder = _flink_folder(cache)
    if folder.is_dir():
        return flink_lib(cache)
    maven = shutil.which("mvn")
    if maven is None:
        raise MissingTool("mvn is not on the PATH, which fetches Flink: install Maven 3.6 or newer")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        jars = Path(scratch) / "flink" / UNSENT
        pom = str(FLINK_JARS / "pom.xml")
        command = [maven, "--batch-mode", "--quiet", "--file", pom, COPY_JARS, f"-DoutputDirectory={jars}"]
        _run(command, "Flink's jars could not be fetched with Maven")
        check_jars(jars)
        (Path(scratch) / "flink").rename(
            folder
        )  # at once: a fetch that is cut off leaves nothing that looks whole
    return flink_lib(cache)


def check_jars(folder: Path) -> None:
    """See that a folder has the pinned jars and no others.

    Raises:
        DigestMismatch: it has not; names one jar.
    """
    lines = (FLINK_JARS / "sha256sums.txt").read_text(encoding="utf-8").splitlines()
    pinned = {name: digest for digest, name in map(str.split, lines)}
    found = {jar.name: sha256_of(jar) for jar in folder.glob("*")}
    wrong = sorted(name for name in pinned.keys() | found.keys() if pinned.get(name) != found.get(name))
    if wrong:
        name = wrong[0]
        raise DigestMismatch(
            f"{folder / name} has sha256 {found.get(name, 'of no file')}, pinned is {pinned.get(name, 'none')}"
            f" ({len(wrong)} of {len(pinned)} jars differ): delete the folder and run `make flink`"
        )


def sha256_of(file: Path) -> str:
    """Hexadecimal digest."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def build_prism(cache: Path | None = None) -> Path:
    """Build Prism with Go from the module proxy; some minutes the first time.

    Returns:
        The binary.
    Raises:
        MissingTool: there is no Go.
        DigestMismatch: it was built from another source than the pinned one.
        SetupError: it cannot be built.
    """
    binary = (cache or cache_folder()) / f"prism-{BEAM_RELEASE}"
    if binary.is_file():
        return binary
    go = shutil.which("go")
    if go is None:
        raise MissingTool("go is not on the PATH, which builds Prism: install Go 1.24 or newer")
    binary.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=binary.parent) as scratch:
        environment = {**os.environ, "GOBIN": scratch, "CGO_ENABLED": "0"}
        package = f"{BEAM_MODULE}/go/cmd/prism@{BEAM_RELEASE}"
        _run([go, "install", "-trimpath", package], "Prism could not be built", environment)
        built = Path(scratch) / "prism"
        check_sum(_run([go, "version", "-m", str(built)], "go does not know what it built"))
        built.rename(binary)
    return binary


def check_sum(build_info: str) -> None:
    """See that a Go binary was built from the pinned module.

    Args:
        build_info: what `go version -m` says of it.
    Raises:
        DigestMismatch: it was not.
    """
    for line in build_info.splitlines():
        match line.split():
            case ["mod", module, version, found] if module == BEAM_MODULE:
                if (version, found) == (BEAM_RELEASE, BEAM_SUM):
                    return
                raise DigestMismatch(
                    f"{BEAM_MODULE} {version} has {found}, pinned is {BEAM_RELEASE} with {BEAM_SUM}"
                )
    raise DigestMismatch(f"the binary does not say that it was built from {BEAM_MODULE} {BEAM_RELEASE}")


def _run(command: Sequence[str], what: str, environment: dict[str, str] | None = None) -> str:
    try:
        done = subprocess.run(  # noqa: S603  (Maven or Go)
            command, env=environment, capture_output=True, text=True, timeout=FETCH_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise SetupError(f"{what} within {FETCH_TIMEOUT_S} s: try again") from None
    if done.returncode == 0:
        return done.stdout
    # Maven says on its standard output what went wrong first, Go on standard error what did last.
    errors = [
        line.removeprefix("[ERROR] ") for line in done.stdout.splitlines() if line.startswith("[ERROR] ")
    ]
    said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    reason = errors[0][:300] if errors else said[-1] if said else f"exit code {done.returncode}"
    raise SetupError(f"{what}: {reason}")


def main(arguments: Sequence[str]) -> int:
    """Fetch what is named; 1 and one line on stderr where that fails."""
    fetch = {"flink": fetch_flink, "prism": build_prism}
    if len(arguments) != 1 or arguments[0] not in fetch:
        print("usage: python -m runners.fetch flink|prism", file=sys.stderr)
        return 2
    try:
        print(fetch[arguments[0]]())
    except SetupError as error:
        print(f"headrace: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
