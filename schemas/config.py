"""The one TOML file, validated. Its `[[sources]]` are in `schemas/sources.py`."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, Field, ValidationError, model_validator

from schemas.allowances import AllowanceSettings, Budget, RateLimit
from schemas.engines import Dataflow, Flink, Prism
from schemas.errors import BadConfig, MissingFile
from schemas.integrations import Integration, IntegrationName, Limits, Performance
from schemas.moderation import Moderation
from schemas.sections import ClientName, SecretReference, Section
from schemas.sources import SOURCE_TYPES, ExportSource, GitSource, Source
from schemas.spaces import Precision

AnySection = TypeVar("AnySection", bound=Section)

DEFAULT_MODEL = "sentence-transformers/all-MiniLM-L6-v2"


class Postgres(Section):
    """Where the truth is stored.

    Args:
        dsn: reference to a libpq connection string; None starts the embedded server in the data folder.
        vector_type: `halfvec` halves the storage at 11 bits of mantissa.
        statement_timeout_s: longest a single statement may take; index builds are exempt.
    """

    dsn: SecretReference | None = None
    vector_type: Literal["vector", "halfvec"] = "vector"
    statement_timeout_s: int = Field(default=600, ge=1)


class Model(Section):
    """The embedding model.

    Args:
        name: of a model in the registry (`headrace models` lists them), or of any other in sentence-transformers'
            layout, in `folder` or on the Hugging Face hub. With `integration`, the weights that it must serve.
        integration: name of the endpoint that embeds; None embeds here. Name, dimensions and max_tokens must then
            be given: they are the space, whichever endpoint serves it.
        folder: a local copy, checked against the pinned digests where there are any; None looks in the usual places.
        precision: `exact` stays within a thousandth of fp32; `fast` may differ as long as retrieval does not.
        engine: None takes the fastest for this precision on this machine.
        dimensions: of a vector, fewer than the model's own only for models trained for it (Matryoshka).
        max_tokens: of one input, special tokens included; None takes the model's own limit.
        query_prefix: put before a query; None takes what the model's files say (e5: `query: `, often said nowhere).
        document_prefix: put before each chunk of a document; None takes what the model's files say.
        threads: of the engine; None takes the cores this process may use, divided by the workers that share them
            where the environment variable HEADRACE_WORKERS says how many.
        max_batch_tokens: tokens that one call into the engine computes, padding included; None takes the
            engine's own.
        max_buffer_tokens: tokens gathered before a buffer is sorted by length and embedded.
    """

    name: str = DEFAULT_MODEL
    integration: IntegrationName | None = None
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

    @property
    def is_local(self) -> bool:
        """Whether texts stay in this program. An endpoint on this very machine may pass them on: it is not local."""
        return self.integration is None

    @model_validator(mode="after")
    def _a_remote_space_is_all_said(self) -> Model:
        if self.integration is None:
            return self
        missing = [key for key in ("name", "dimensions", "max_tokens") if key not in self.model_fields_set]
        if missing:
            raise ValueError(f"with an integration the space must be said in full: give {', '.join(missing)}")
        local = [key for key in ("folder", "engine", "threads") if getattr(self, key) is not None]
        if local or self.precision != "exact":
            raise ValueError(
                f"{', '.join(local) or 'precision'} is of engines that run here: remove it, or the integration"
            )
        return self


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
    url: SecretReference | None = None

    @model_validator(mode="after")
    def _only_redis_has_a_url(self) -> Cache:
        if (self.kind == "redis") != (self.url is not None):
            raise ValueError(
                'kind "redis" needs url = "env:NAME" or "file:/path", and no other kind takes one'
            )
        return self


Redaction = Literal["off", "external_only", "always"]


class Privacy(Section):
    """Whether secrets and personal data are replaced by placeholders such as `[EMAIL]` before anything is embedded.

    Args:
        redact: `external_only` does so where texts leave for an engine that does not run here; `always` keeps them
            out of the store, too; `off`.
        clients: client -> the same, where a client differs.
    """

    redact: Redaction = "external_only"
    clients: dict[ClientName, Redaction] = Field(default_factory=dict)

    def policy_of(self, client: str) -> Redaction:
        """What holds for a client."""
        return self.clients.get(client, self.redact)

    def redacts(self, client: str, model: Model, moderation: Moderation | None = None) -> bool:
        """Whether a client's documents, and queries over them, are redacted before anybody sees them."""
        policy = self.policy_of(client)
        leaves = not model.is_local or moderation is not None
        return policy == "always" or (policy == "external_only" and leaves)


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


class Reconcile(Section):
    """How the index is compared with what its sources hold.

    Args:
        interval_h: how often `headrace watch` does so.
        max_share: of a source's documents; more are not deleted at once unless a person says `--force`.
    """

    interval_h: float = Field(default=24, gt=0)
    max_share: float = Field(default=0.1, ge=0, le=1)


class Backfill(Section):
    """What `headrace plan` reckons with, and what `headrace backfill` holds to.

    Args:
        max_over_plan: share by which more tokens than planned may be embedded before it stops.
        usd_per_machine_hour: what this machine costs; without it, hours alone are said.
        max_index_memory_mib: that building an index may take; None takes four fifths of what is free where Postgres
            runs on this machine, 2048 where it does not.
    """

    max_over_plan: float = Field(default=0.1, ge=0)
    usd_per_machine_hour: float | None = Field(default=None, gt=0)
    max_index_memory_mib: int | None = Field(default=None, ge=64)


class Webhooks(Section):
    """Where `headrace webhooks` listens. Put a server that speaks TLS before it where it faces the internet."""

    host: str = "127.0.0.1"
    port: int = Field(default=8787, ge=0, le=65535)


class Config(Section):
    """The whole file.

    Args:
        client: default owner of documents, searches and costs.
        data_dir: embedded Postgres, FAISS indexes; relative to the file.
    """

    client: ClientName = "default"
    data_dir: Path = Path(".headrace")
    postgres: Postgres = Postgres()
    model: Model = Model()
    chunking: Chunking = Chunking()
    cache: Cache = Cache()
    privacy: Privacy = Privacy()
    faiss: Faiss = Faiss()
    slices: Slices = Slices()
    reconcile: Reconcile = Reconcile()
    backfill: Backfill = Backfill()
    webhooks: Webhooks = Webhooks()
    allowance: AllowanceSettings = AllowanceSettings()
    prism: Prism = Prism()
    flink: Flink | None = None
    dataflow: Dataflow | None = None
    integrations: tuple[Integration, ...] = ()
    moderation: Moderation | None = None
    sources: tuple[Source, ...] = ()

    def sources_of(self, client: str) -> tuple[Source, ...]:
        """The sources whose documents are a client's."""
        return tuple(source for source in self.sources if (source.client or self.client) == client)

    @model_validator(mode="after")
    def _names_are_unique(self) -> Config:
        names = [source.name for source in self.sources]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"source names must differ, {', '.join(twice)} stands twice")
        return self

    @model_validator(mode="after")
    def _the_integration_serves_the_space(self) -> Config:
        names = [integration.name for integration in self.integrations]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"integration names must differ, {', '.join(twice)} stands twice")
        for integration in self.integrations:
            if integration.name == self.model.integration:
                reason = integration.differs_from(self.model.name, self.model.dimensions)
                if reason is not None:
                    raise ValueError(f"model.integration: {reason}")
        return self


def _say(error: ValidationError, path: Path) -> str:
    """One line for the first mistake: file, key, what is wrong, what else is allowed."""
    first = error.errors(include_url=False, include_input=False)[0]
    key = ".".join(str(part) for part in first["loc"] if part not in SOURCE_TYPES) or "(top level)"
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        message = f"unknown option; {_allowed(first['loc'])}"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{path}: {key}: {message}{more}"


def _allowed(location: tuple[int | str, ...]) -> str:
    section: type[BaseModel] = Config
    tables: dict[str, type[BaseModel]] = {
        "postgres": Postgres, "model": Model, "chunking": Chunking, "cache": Cache, "privacy": Privacy,
        "faiss": Faiss, "slices": Slices,
        "reconcile": Reconcile, "backfill": Backfill, "webhooks": Webhooks, "prism": Prism, "flink": Flink,
        "dataflow": Dataflow, "allowance": AllowanceSettings, "rates": RateLimit, "budgets": Budget,
        "integrations": Integration, "limits": Limits, "performance": Performance, "moderation": Moderation,
        **SOURCE_TYPES,
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
    model = config.model
    if model.folder is not None:
        model = model.model_copy(update={"folder": base / model.folder.expanduser()})
    return config.model_copy(
        update={
            "data_dir": base / config.data_dir.expanduser(),
            "sources": tuple(_anchored_source(source, base) for source in config.sources),
            "model": model,
            "prism": _anchored_paths(config.prism, base, "binary"),
            "flink": config.flink and _anchored_paths(config.flink, base, "job_server_jar", "spool_dir"),
        }
    )


def _anchored_paths(section: AnySection, base: Path, *names: str) -> AnySection:
    paths = {name: path for name in names if (path := getattr(section, name)) is not None}
    return section.model_copy(update={name: base / path.expanduser() for name, path in paths.items()})


def _anchored_source(source: Source, base: Path) -> Source:
    if isinstance(source, GitSource) and source.path is not None:
        return source.model_copy(update={"path": base / source.path.expanduser()})
    if isinstance(source, ExportSource):
        paths = tuple(str(base / Path(path).expanduser()) for path in source.paths)
        return source.model_copy(update={"paths": paths})
    return source
