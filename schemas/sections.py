"""What every table of the configuration file has in common. Secrets are only named: `env:NAME`, `file:/path`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from schemas.errors import BadConfig


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


def _is_reference(value: str) -> str:
    if value.partition(":")[0] not in ("env", "file"):
        raise ValueError('expected a reference, "env:NAME" or "file:/path", not the secret itself')
    return value


ClientName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]
SecretReference = Annotated[str, AfterValidator(_is_reference)]
"""Names where a secret is, see `resolve_secret`."""
