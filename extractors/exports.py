"""Export files as a source: JSON Lines, plain or gzipped, and files that are one JSON document.

Lines are read one at a time with bounded memory; a document (an array, or an object over several lines) is read
whole, so that a torn one is refused before anything of it is used. What a file is, its content says, not its name.
One source should hold one Jira site: numeric ids of two sites may be equal.
"""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from glob import glob
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from extractors.base import Cursor, Page
from extractors.formats import Found, Gone, Item, Passed, Unreadable, is_error_answer, recognise
from schemas.documents import BEGINNING, DeadLetter, Format, Kind, SourceRecord, Tombstone
from schemas.errors import InvalidPayload, MissingFile, TornExport
from schemas.payloads import parse_json
from schemas.sources import ExportSource

MAX_LINE_BYTES = 256 * 1024**2
MAX_DOCUMENT_BYTES = 256 * 1024**2
PAGE_RECORDS = 500
PAGE_BYTES = 8 * 1024**2
PROBE_LINES = 100
ESTIMATE_BYTES = 64 * 1024**2
KEPT_OF_LONG_LINE_BYTES = 4096

_ESTIMATE_PIECE_BYTES = 1024**2
_GZIP_MAGIC = b"\x1f\x8b"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class _Line:
    """A line with its JSON values (several where the whole file is one array), or with what is wrong with it.

    Args:
        place: 1-based number for people.
        start: offset of its first byte, decompressed.
        end: offset just after it.
        raw: its bytes; None where `values` were cut out of a document.
    """

    place: int
    start: int
    end: int
    raw: bytes | None
    values: list[Any]
    error: str = ""


@dataclass(slots=True)
class _Draft:
    """A page in the making."""

    records: list[SourceRecord] = field(default_factory=list)
    tombstones: list[Tombstone] = field(default_factory=list)
    dead_letters: list[DeadLetter] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    read: int = 0
    payload_bytes: int = 0

    def add(self, outcome: SourceRecord | Tombstone | DeadLetter | Passed) -> None:
        self.read += 1
        match outcome:
            case SourceRecord():
                self.records.append(outcome)
                self.payload_bytes += len(outcome.payload)
            case Tombstone():
                self.tombstones.append(outcome)
            case DeadLetter():
                self.dead_letters.append(outcome)
                self.payload_bytes += len(outcome.record.payload)
            case Passed():
                self.skipped[outcome.reason] += 1

    def is_full(self) -> bool:
        return self.read >= PAGE_RECORDS or self.payload_bytes >= PAGE_BYTES

    def page(self, cursor: Cursor | None) -> Page:
        return Page(
            tuple(self.records), tuple(self.tombstones), tuple(self.dead_letters), dict(self.skipped), cursor
        )


class ExportFiles:
    """Records in export files, in the order of the files and of their lines.

    A cursor names a file, its size and modification time, a byte offset and how many records of the line there
    have been given out. When that file has changed, or is gone, reading starts again from the file's beginning,
    or from the first file.
    """

    def __init__(self, settings: ExportSource, client: str) -> None:
        self.name = settings.name
        self._settings = settings
        self._client = client

    def pages(self, cursor: Cursor | None) -> Iterator[Page]:
        """Yield pages of up to 500 records or 8 MiB; the last one's cursor is None, and it may be empty.

        Raises:
            MissingFile: a path matches no readable file; before the first page.
            TornExport: a file is torn or holds no record at all.
        """
        draft = _Draft()
        for path in self._files_from(cursor):
            start, place, given = _resume(path, cursor)
            status = path.stat()  # before reading, so that a change meanwhile is noticed
            for line in _lines(path, start, place):
                for part, outcome in enumerate(self._outcomes(path, line), start=1):
                    if part <= given:
                        continue
                    draft.add(outcome)
                    if draft.is_full():
                        yield draft.page(_cursor(path, status, line, part))
                        draft = _Draft()
                given = 0
        yield draft.page(None)

    def estimate(self, cursor: Cursor | None) -> int | None:
        """Lines after `cursor`, extrapolated from the first 64 MiB of a file; None if a file is unreadable."""
        try:
            return sum(
                max(0, _estimate_lines(path) - max(0, _resume(path, cursor)[1] - 1))
                for path in self._files_from(cursor)
            )
        except (MissingFile, TornExport):
            return None

    def stamp(self) -> str:
        """Names, sizes and times of the files.

        Raises:
            MissingFile: a path matches no readable file.
        """
        found = ((str(path), path.stat()) for path in _files(self._settings))
        return repr([(name, status.st_size, status.st_mtime_ns, status.st_ino) for name, status in found])

    def close(self) -> None:
        """Nothing is held open between pages."""

    def _files_from(self, cursor: Cursor | None) -> list[Path]:
        files = _files(self._settings)
        names = [str(path) for path in files]
        last = cursor.get("file") if cursor else None
        return files[names.index(last) :] if last in names else files

    def _outcomes(self, path: Path, line: _Line) -> Iterator[SourceRecord | Tombstone | DeadLetter | Passed]:
        locator = f"{path.name}:{line.place}"
        if line.error:
            yield self._dead_letter(line.raw or b"", locator, InvalidPayload("(line)", line.error))
        for index, value in enumerate(line.values):
            if line.raw is None and len(line.values) > 1:
                locator = f"{path.name}[{index}]"
            for item in recognise(value, self._settings.repository):
                whole = line.raw if isinstance(item, (Found, Unreadable)) and item.body is value else None
                yield self._outcome(item, whole, locator)

    def _outcome(
        self, item: Item, whole: bytes | None, locator: str
    ) -> SourceRecord | Tombstone | DeadLetter | Passed:
        """`whole` is the line, where the line is the record."""
        match item:
            case Found():
                return SourceRecord(
                    self._client,
                    self.name,
                    item.format,
                    item.kind,
                    item.native_id,
                    orjson.dumps(item.body) if whole is None else whole,
                    item.updated_at,
                    item.observed_at,
                    locator,
                )
            case Gone():
                return Tombstone(
                    self._client, self.name, item.kind, item.native_id, item.updated_at, item.reason
                )
            case Unreadable():
                payload = orjson.dumps(item.body) if whole is None else whole
                return self._dead_letter(payload, locator, InvalidPayload(item.path, item.expected))
            case Passed():
                return item

    def _dead_letter(self, payload: bytes, locator: str, error: InvalidPayload) -> DeadLetter:
        record = SourceRecord(
            self._client, self.name, Format.UNKNOWN, Kind.ISSUE, locator, payload, BEGINNING, locator=locator
        )
        return DeadLetter(record, "read", type(error).__name__, str(error), error.retriable)


def _files(settings: ExportSource) -> list[Path]:
    """The files that the source's paths and globs name, each once, a glob's in order of their names.

    Raises:
        MissingFile: one of them names no file.
    """
    files: dict[Path, None] = {}
    for pattern in settings.paths:
        path = Path(pattern)
        if path.is_dir():
            raise MissingFile(f"{path} is a folder: expected files, give a glob such as {path}/*.jsonl.gz")
        matches = [pattern] if path.is_file() else sorted(glob(pattern, recursive=True))  # noqa: PTH207 - absolute
        found = [Path(name) for name in matches if Path(name).is_file()]
        if not found:
            raise MissingFile(f"{pattern}: no such file: correct `paths` of source {settings.name}")
        files |= dict.fromkeys(found)
    return list(files)


def _resume(path: Path, cursor: Cursor | None) -> tuple[int, int, int]:
    """Where to go on in `path`: byte offset, number of the line there, records of that line already given out."""
    if cursor is None or cursor.get("file") != str(path):
        return 0, 1, 0
    status = path.stat()
    if (cursor["size"], cursor["mtime_ns"]) != (status.st_size, status.st_mtime_ns):
        return 0, 1, 0
    return cursor["offset"], cursor["line"], cursor["given"]


def _cursor(path: Path, status: os.stat_result, line: _Line, given: int) -> Cursor:
    return {
        "file": str(path),
        "size": status.st_size,
        "mtime_ns": status.st_mtime_ns,
        "offset": line.start,
        "line": line.place,
        "given": given,
    }


def _open(path: Path) -> BinaryIO | gzip.GzipFile:
    try:
        with path.open("rb") as file:
            zipped = file.read(2) == _GZIP_MAGIC
        return gzip.open(path, "rb") if zipped else path.open("rb", buffering=1024**2)
    except OSError as error:
        raise MissingFile(f"{path}: cannot be read: {error.strerror}") from None


def _lines(path: Path, start: int, place: int) -> Iterator[_Line]:
    """Non-blank lines from offset `start` on, which is the beginning of line `place`.

    Raises:
        TornExport: the file is torn, an error answer, or has lines of which the first hundred are no JSON object.
    """
    document = _document(path)
    if document is not None:
        lines: Iterator[_Line] = iter([document])
    else:
        lines = _read_lines(path, start, place)
    return lines if start else _that_begin_well(path, lines)


def _that_begin_well(path: Path, lines: Iterator[_Line]) -> Iterator[_Line]:
    """`lines`, held back until a JSON object shows that this is an export at all."""
    held: list[_Line] = []
    held_bytes = 0
    for line in lines:
        objects = (value for value in line.values if isinstance(value, dict))
        first = next(objects, None)
        if first is not None:
            if is_error_answer(first):
                raise TornExport(
                    f"{path}: line {line.place}: an API's error answer, not an export: fetch it again"
                )
            yield from held
            yield line
            yield from lines
            return
        held.append(line)
        held_bytes += len(line.raw or b"")
        if len(held) >= PROBE_LINES or held_bytes > PAGE_BYTES:
            break
    if any(line.error or line.values for line in held):
        raise TornExport(
            f"{path}: no JSON object in {len(held)} lines: expected JSON Lines or one JSON array of records"
        )


def _read_lines(path: Path, start: int, place: int) -> Iterator[_Line]:
    offset = start
    try:
        with _open(path) as file:
            file.seek(start)
            while raw := file.readline(MAX_LINE_BYTES + 1):
                if len(raw) > MAX_LINE_BYTES:
                    end = offset + len(raw) + _skip_line(file)
                    error = f"a line of at most {MAX_LINE_BYTES:,} bytes, this one has {end - offset:,}"
                    yield _Line(place, offset, end, raw[:KEPT_OF_LONG_LINE_BYTES], [], error)
                else:
                    end = offset + len(raw)
                    raw = raw.rstrip(b"\r\n")
                    if raw and not raw.isspace():
                        yield _parsed(raw, place, offset, end)
                offset, place = end, place + 1
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise TornExport(f"{path}: line {place}: the gzip stream is torn ({error}): fetch it again") from None


def _parsed(raw: bytes, place: int, start: int, end: int) -> _Line:
    try:
        return _Line(place, start, end, raw, [parse_json(raw)])
    except ValueError:
        return _Line(place, start, end, raw, [], "a JSON object on one line")


def _skip_line(file: BinaryIO | gzip.GzipFile) -> int:
    """Read on to the end of the line; how many bytes that were."""
    skipped = 0
    while piece := file.readline(1024**2):
        skipped += len(piece)
        if piece.endswith(b"\n"):
            break
    return skipped


def _document(path: Path) -> _Line | None:
    """The elements of a file that is one array, the object of one that is an object over several lines, else None.

    Raises:
        TornExport: it begins as an array but is none, or is too large for one.
    """
    try:
        with _open(path) as file:
            head = file.readline(MAX_LINE_BYTES + 1)
            while head and not head.removeprefix(_BYTE_ORDER_MARK).strip():
                head = file.readline(MAX_LINE_BYTES + 1)
            is_array = head.removeprefix(_BYTE_ORDER_MARK).lstrip().startswith(b"[")
            if not is_array and (len(head) > 1024 or _is_json(head)):
                return None
            raw = head + file.read(MAX_DOCUMENT_BYTES + 1 - len(head))
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise TornExport(f"{path}: the gzip stream is torn ({error}): fetch it again") from None
    if len(raw) > MAX_DOCUMENT_BYTES:
        if is_array:
            raise TornExport(
                f"{path}: an array of more than {MAX_DOCUMENT_BYTES:,} bytes: write it as JSON Lines"
            )
        return None
    try:
        value = parse_json(raw)
    except ValueError as error:
        if is_array:
            where = f"line {error.lineno}" if isinstance(error, json.JSONDecodeError) else "(whole file)"
            raise TornExport(f"{path}: {where}: expected one whole JSON array: fetch it again") from None
        return None
    return _Line(1, 0, len(raw), None, value if is_array else [value])


def _is_json(raw: bytes) -> bool:
    try:
        parse_json(raw)
    except ValueError:
        return False
    return True


def _estimate_lines(path: Path) -> int:
    document = _document(path)
    if document is not None:
        return len(document.values)
    newlines, last = 0, b""
    with path.open("rb") as file:
        zipped = file.read(2) == _GZIP_MAGIC
        file.seek(0)
        stream = gzip.GzipFile(fileobj=file) if zipped else file
        for _ in range(ESTIMATE_BYTES // _ESTIMATE_PIECE_BYTES):
            try:
                piece = stream.read(_ESTIMATE_PIECE_BYTES)
            except (OSError, EOFError, zlib.error):
                break  # reading for good will say what is torn
            if not piece:
                return newlines + (bool(last) and last != b"\n")
            newlines, last = newlines + piece.count(b"\n"), piece[-1:]
        return round(newlines * path.stat().st_size / max(1, file.tell()))
