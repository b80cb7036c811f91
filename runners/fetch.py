"""What the cluster runners need beside Python packages: fetched or built once, checked, kept in the user's cache.

`python -m runners.fetch flink` and `... prism`, as `make flink` and `make prism` call it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import platformdirs

from schemas.errors import DigestMismatch, MissingTool, SetupError

FLINK_RELEASE = "2.2.1"
FLINK_WHEEL = f"apache-flink-libraries=={FLINK_RELEASE}"
FLINK_SHA256 = "74dc5546fbd9add8fbcdf1222a237e09491f9b80296241aef8676ec56f8e686e"
FLINK_JARS = ("flink-dist-", "log4j-")
"""Of the 280 MB of the distribution, what a session cluster without SQL needs."""

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
    """Folder of Flink's jars.

    Raises:
        MissingTool: they were not fetched.
    """
    folder = (cache or cache_folder()) / f"flink-{FLINK_RELEASE}"
    if not folder.is_dir():
        raise MissingTool(f"Flink {FLINK_RELEASE} is not in {folder}: run `make flink`")
    return folder


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
    """Fetch Flink's jars from the Python package index; pip refuses another digest.

    Returns:
        Their folder.
    Raises:
        DigestMismatch: the package is not the pinned one.
        SetupError: it cannot be had, or there is no room.
    """
    folder = (cache or cache_folder()) / f"flink-{FLINK_RELEASE}"
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        wheel = _download(FLINK_WHEEL, FLINK_SHA256, Path(scratch))
        jars = Path(scratch) / "jars"
        jars.mkdir()
        with zipfile.ZipFile(wheel) as parts:
            for part in parts.infolist():
                name = Path(part.filename).name
                if part.filename.startswith("pyflink/lib/") and name.startswith(FLINK_JARS):
                    with parts.open(part) as packed, (jars / name).open("wb") as jar:
                        shutil.copyfileobj(packed, jar)
        jars.rename(folder)  # at once: a fetch that is cut off leaves nothing that looks whole
    return folder


def _download(requirement: str, sha256: str, folder: Path) -> Path:
    pinned = folder / "requirements.txt"
    pinned.write_text(f"{requirement} --hash=sha256:{sha256}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += [
        "--only-binary=:all:",
        "--require-hashes",
        "--dest",
        str(folder),
        "--requirement",
        str(pinned),
    ]
    said = _run(command, f"{requirement} could not be fetched from the Python package index")
    wheels = sorted(folder.glob("*.whl"))
    if len(wheels) != 1:
        raise SetupError(f"{requirement}: expected one wheel, pip gave {len(wheels)}: {said}")
    return wheels[0]


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
        done = subprocess.run(  # noqa: S603  (pip of this interpreter, or Go)
            command, env=environment, capture_output=True, text=True, timeout=FETCH_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise SetupError(f"{what} within {FETCH_TIMEOUT_S} s: try again") from None
    if done.returncode == 0:
        return done.stdout
    said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    if any("DO NOT MATCH THE HASHES" in line for line in said):
        raise DigestMismatch(f"{what}: its digest is not the pinned one")
    raise SetupError(f"{what}: {said[-1] if said else f'exit code {done.returncode}'}")


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
