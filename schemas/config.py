"""The one TOML file, validated. Secrets are never in it: only references to them (`env:NAME`, `file:/path`)."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from schemas.errors import BadConfig, MissingFile
from schemas.spaces import Precision

DEFAULT_MODEL = "sentence-transformers/all-MiniLM-L6-v2"


class Section(BaseModel):
    """A table of the file: unknown keys are refused, values do not change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def resolve_secret(reference: str, setting: str) -> str:
    """The value behind `env:NAME` or `file:/path`.

    Raises:
        BadConfig: the variable is not set, or the file cannot be read. Names the setting, never a value.
    """
    scheme, _, name = reference.partition(":")
    if scheme == "env":
        value = os.environ.get(name)
        if not value:
            raise BadConfig(
                f"{setting}: environment variable {name} is not set: export it or change {setting}"
            )
        return value
    if scheme == "file":
        try:
            return Path(name).read_text(encoding="utf-8").strip()
        except OSError as error:
            raise BadConfig(f"{setting}: cannot read {name}: {error.strerror}") from None
    raise BadConfig(f'{setting}: expected a reference such as "env:NAME" or "file:/path/to/secret"')


class Postgres(Section):
    """Where the truth is stored.

    Args:
        dsn: reference to a libpq connection string; None starts the embedded server in the data folder.
        vector_type: `halfvec` halves the storage at 11 bits of mantissa.
        statement_timeout_s: longest a single statement may take; index builds are exempt.
    """

    dsn: str | None = None
    vector_type: Literal["vector", "halfvec"] = "vector"
    statement_timeout_s: int = Field(default=600, ge=1)

    @field_validator("dsn")
    @classmethod
    def _is_reference(cls, value: str | None) -> str | None:
        if value is not None and value.partition(":")[0] not in ("env", "file"):
            raise ValueError(
                'expected a reference, "env:NAME" or "file:/path", not the connection string itself'
            )
        return value


class Model(Section):
    """The embedding model.

    Args:
        name: of a model in the registry (`headrace models` lists them), or of any other in sentence-transformers'
            layout, in `folder` or on the Hugging Face hub.
        folder: a local copy, checked against the pinned digests where there are any; None looks in the usual places.
        precision: `exact` stays within a thousandth of fp32; `fast` may differ as long as retrieval does not.
        engine: None takes the fastest for this precision on this machine.
        dimensions: of a vector, fewer than the model's own only for models trained for it (Matryoshka).
        max_tokens: of one input, special tokens included; None takes the model's own limit.
        query_prefix: put before a query; None takes what the model's files say (e5: `query: `, often said nowhere).
        document_prefix: put before each chunk of a document; None takes what the model's files say.
        threads: of the engine; None takes the cores this process may use.
        max_batch_tokens: padded tokens of one call into the engine (rows times longest row); None takes the
            engine's own.
        max_buffer_tokens: tokens gathered before a buffer is sorted by length and embedded.
    """

    name: str = DEFAULT_MODEL
    folder: Path | None = None
    precision: Precision = "exact"
    engine: Literal["onnx", "vnni", "torch"] | None = None
    dimensions: int | None = Field(default=None, ge=1)
    max_tokens: int | None = Field(default=None, ge=16)
    query_prefix: str | None = None
    document_prefix: str | None = None
    threads: int | None = Field(default=None, ge=1)
    max_batch_tokens: int | None = Field(default=None, ge=16)
    max_buffer_tokens: int = Field(default=32_768, ge=512)


class Chunking(Section):
    """How documents are cut.

    Args:
        max_tokens: of a chunk, special tokens and context title included; None takes the model's limit.
        overlap_tokens: repeated from the end of the chunk before.
        context_title_tokens: of the document's title put before every later chunk; 0 for none.
        overflow: `split` loses nothing; `truncate` keeps the first chunk only and counts what it cut.
    """

    max_tokens: int | None = Field(default=None, ge=16)
    overlap_tokens: int = Field(default=32, ge=0)
    context_title_tokens: int = Field(default=32, ge=0)
    overflow: Literal["split", "truncate"] = "split"


class Cache(Section):
    """Vectors of inputs embedded before, looked up before the engine runs.

    Args:
        kind: `memory` serves this process; `postgres` (a table beside the truth) and `redis` serve other workers and
            later runs too; `none`.
        ttl_days: how long a vector is kept after it was computed.
        max_mib: of `memory`, or of the table; the least recently used go first. Redis has a limit of its own.
        dtype: `float16` takes half the room, at a cosine of at least 0.99999 to the vector computed.
        url: reference to a Redis URL, which may hold a password; for `redis` alone.
    """

    kind: Literal["memory", "postgres", "redis", "none"] = "memory"
    ttl_days: int = Field(default=30, ge=1, le=3650)
    max_mib: int = Field(default=128, ge=1)
    dtype: Literal["float32", "float16"] = "float32"
    url: str | None = None

    @field_validator("url")
    @classmethod
    def _is_reference(cls, value: str | None) -> str | None:
        if value is not None and value.partition(":")[0] not in ("env", "file"):
            raise ValueError('expected a reference, "env:NAME" or "file:/path", not the URL itself')
        return value

    @model_validator(mode="after")
    def _only_redis_has_a_url(self) -> Cache:
        if (self.kind == "redis") != (self.url is not None):
            raise ValueError(
                'kind "redis" needs url = "env:NAME" or "file:/path", and no other kind takes one'
            )
        return self


class Faiss(Section):
    """When the FAISS index changes shape, and when it is rebuilt.

    Args:
        flat_below: vectors up to which search is exhaustive (exact).
        hnsw_below: vectors up to which it is an HNSW graph; IVF beyond.
        rebuild_tombstone_share: share of dead entries that triggers a rebuild.
    """

    flat_below: int = Field(default=200_000, ge=0)
    hnsw_below: int = Field(default=2_000_000, ge=0)
    rebuild_tombstone_share: float = Field(default=0.2, gt=0, le=1)


class Slices(Section):
    """How a local run is cut: each slice is a bounded Beam pipeline, its cursor kept after its rows are durable."""

    max_documents: int = Field(default=4000, ge=1)
    max_payload_mib: int = Field(default=64, ge=1)


class SourceSettings(Section):
    """What every source has.

    Args:
        name: part of every identity: keep it when a path or URL changes.
        client: whose documents these are; None takes the file's.
        bots: globs of account names whose comments are dropped and counted.
        comments: False leaves comments and reviews out (and counts them as `excluded`).
    """

    name: str = Field(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]*$")
    client: str | None = None
    bots: tuple[str, ...] = ("*[[]bot]", "*-bot", "*bot-gh", "dependabot*", "codecov*")
    comments: bool = True


class GitSource(SourceSettings):
    """A local git repository.

    Args:
        path: work tree or bare repository.
        refs: globs of full ref names whose commits are read; empty means HEAD alone.
        web_url: prefix for links, such as `https://github.com/owner/repo`; None takes it from `origin`.
    """

    type: Literal["git"]
    path: Path
    refs: tuple[str, ...] = ()
    web_url: str | None = None


class ExportSource(SourceSettings):
    """Files of saved payloads: `.jsonl`, `.jsonl.gz`, or `.json` with one array.

    Args:
        paths: files or globs, read in the order given; relative to the configuration file.
        site_url: base of links to issues (`https://jira.example.com`), for Jira payloads without one.
        custom_fields: Jira field id -> label, for text custom fields to be read.
        repository: `owner/repo` for payloads that do not say.
    """

    type: Literal["export"]
    paths: tuple[str, ...] = Field(min_length=1)
    site_url: str | None = None
    custom_fields: dict[str, str] = Field(default_factory=dict)
    repository: str | None = None


Source = Annotated[GitSource | ExportSource, Field(discriminator="type")]


class Config(Section):
    """The whole file.

    Args:
        client: default owner of documents, searches and costs.
        data_dir: embedded Postgres, FAISS indexes; relative to the file.
    """

    client: str = Field(default="default", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)
    data_dir: Path = Path(".headrace")
    postgres: Postgres = Postgres()
    model: Model = Model()
    chunking: Chunking = Chunking()
    cache: Cache = Cache()
    faiss: Faiss = Faiss()
    slices: Slices = Slices()
    sources: tuple[Source, ...] = ()

    @model_validator(mode="after")
    def _names_are_unique(self) -> Config:
        names = [source.name for source in self.sources]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"source names must differ, {', '.join(twice)} stands twice")
        return self


def _say(error: ValidationError, path: Path) -> str:
    """One line for the first mistake: file, key, what is wrong, what else is allowed."""
    first = error.errors(include_url=False, include_input=False)[0]
    key = ".".join(str(part) for part in first["loc"] if part not in ("git", "export")) or "(top level)"
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        message = f"unknown option; {_allowed(first['loc'])}"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{path}: {key}: {message}{more}"


def _allowed(location: tuple[int | str, ...]) -> str:
    section: type[BaseModel] = Config
    tables: dict[str, type[BaseModel]] = {
        "postgres": Postgres, "model": Model, "chunking": Chunking, "cache": Cache, "faiss": Faiss, "slices": Slices,
        "git": GitSource, "export": ExportSource,
    }  # fmt: skip
    for part in location[:-1]:
        section = tables.get(str(part), section)
    return "options here are " + ", ".join(section.model_fields)


def load_config(path: Path) -> Config:
    """Read and validate a configuration file; relative paths in it are taken from its folder.

    Raises:
        MissingFile: there is no such file.
        BadConfig: it is not TOML, or a setting is unknown or wrong; one line naming file and key.
    """
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise MissingFile(
            f"{path}: {error.strerror}: give another with --config, or write one (see README)"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadConfig(f"{path}: not valid TOML: {error}") from None
    try:
        config = Config.model_validate(raw)
    except ValidationError as error:
        raise BadConfig(_say(error, path)) from None
    return _anchored(config, path.resolve().parent)


def _anchored(config: Config, base: Path) -> Config:
    sources: list[GitSource | ExportSource] = []
    for source in config.sources:
        if isinstance(source, GitSource):
            sources.append(source.model_copy(update={"path": base / source.path.expanduser()}))
        else:
            paths = tuple(str(base / Path(path).expanduser()) for path in source.paths)
            sources.append(source.model_copy(update={"paths": paths}))
    model = config.model
    if model.folder is not None:
        model = model.model_copy(update={"folder": base / model.folder.expanduser()})
    return config.model_copy(
        update={"data_dir": base / config.data_dir.expanduser(), "sources": tuple(sources), "model": model}
    )
