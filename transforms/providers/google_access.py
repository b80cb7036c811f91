"""Access tokens of Google Cloud: as they are written in a file, or from a service account by google-auth."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import orjson

from schemas.errors import AccessRefused, MissingTool, PipelineError, ProviderUnavailable
from schemas.integrations import Integration
from transforms.providers.exchange import key_of

SCOPES = ("https://www.googleapis.com/auth/cloud-platform",)


class GoogleAccess:
    """Headers for requests to Google Cloud; may be used by several threads.

    What `api_key` names is a token, read again for each request since something else has to renew it, or JSON as
    Google writes it for a service account (or workload identity), whose tokens are renewed here. Without `api_key`
    they are those of the machine: application default credentials.
    """

    def __init__(self, integration: Integration) -> None:
        self._integration = integration
        self._lock = threading.Lock()
        self._credentials: Any = None
        self._made_from: str | None = None

    def headers(self) -> Mapping[str, str]:
        """A bearer token that is valid now.

        Raises:
            AccessRefused: Google does not know the account, or the JSON is none of its credentials.
            ProviderUnavailable: nobody gives out tokens for now.
            MissingTool: google-auth is not installed.
        """
        key = key_of(self._integration) if self._integration.api_key is not None else None
        if key is None or key.startswith("{"):
            key = self._renewed(key)
        return {"authorization": f"Bearer {key}"}

    def _renewed(self, written: str | None) -> str:
        with self._lock:
            if self._credentials is None or written != self._made_from:
                self._credentials, self._made_from = self._load(written), written
            if not self._credentials.valid:
                self._refresh()
            return str(self._credentials.token)

    def _load(self, written: str | None) -> Any:
        try:
            import google.auth
            from google.auth import exceptions
        except ModuleNotFoundError as error:
            raise MissingTool(f"{error.name} is not installed: run pip install 'headrace[vertex]'") from None
        try:
            if written is None:
                return google.auth.default(scopes=SCOPES)[0]
            return google.auth.load_credentials_from_dict(orjson.loads(written), scopes=SCOPES)[0]
        except (exceptions.GoogleAuthError, ValueError):
            pass
        raise AccessRefused(
            f'integration "{self._integration.name}": api_key holds no credentials of Google, or this machine has '
            "none: give a service account's JSON, or a file with an access token"
        )

    def _refresh(self) -> None:
        from google.auth import exceptions
        from google.auth.transport.requests import Request

        who = f'integration "{self._integration.name}"'
        try:
            self._credentials.refresh(Request())
            return
        except exceptions.TransportError:
            problem: PipelineError = ProviderUnavailable(
                f"{who}: Google's tokens cannot be had for now", False
            )
        except exceptions.GoogleAuthError as error:
            problem = (
                ProviderUnavailable(f"{who}: Google's tokens cannot be had for now", False)
                if error.retryable
                else AccessRefused(f"{who}: Google gives this account no token: check api_key, and the clock")
            )
        raise problem
