"""The base of steps that talk to Postgres."""

from __future__ import annotations

import apache_beam as beam

from transforms.postgres import Session, Store


class SessionFn(beam.DoFn):  # type: ignore[misc]
    """A DoFn with a session of its own, for as long as its worker keeps it."""

    def __init__(self, store: Store) -> None:
        super().__init__()
        self._store = store

    def setup(self) -> None:
        self._session = Session(self._store)

    def teardown(self) -> None:
        self._session.close()
