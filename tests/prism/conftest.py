"""The same configurations as for runs in this process."""

from __future__ import annotations

from tests.runners.conftest import headrace, make_config

__all__ = ["headrace", "make_config"]
