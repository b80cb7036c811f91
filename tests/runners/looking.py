"""A watcher that looks when it is told to, not when it is due: the looks are those of `headrace watch`."""

from __future__ import annotations

from datetime import UTC, datetime

from runners.reading import Look
from runners.watch import _Watch
from transforms.source_states import Work


class Watcher(_Watch):
    """Its looks come one after the other."""

    failures: list[BaseException]

    def look(self, work: Work) -> list[BaseException]:
        """One look at each source, then the index refreshed where something changed; gives what failed."""
        self.failures = []
        try:
            for watched in self._watched:
                self._begin(watched, work, datetime.now(UTC))
                while watched.look is not None:
                    self._handle_events(0.1)
            if self._indexes.lacks:
                self._refresh()
        finally:
            for watched in self._watched:
                look, watched.look = watched.look, None
                if look is not None and look.thread is not None:  # cut off: its thread ends, too
                    look.stored.put(RuntimeError("cut off"))
                    look.thread.join(10)
        return self.failures

    def _tell(self, look: Look, error: BaseException | None, now: datetime) -> None:
        super()._tell(look, error, now)
        self.failures += [error] if error else []
