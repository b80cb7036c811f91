"""The progress bar of a local run."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeRemainingColumn

from transforms import progress

REFRESH_S = 0.25


class RunProgress:
    """Shows the live counters of this process against the documents expected of the source being read."""

    def __init__(self, display: Progress) -> None:
        self._display = display
        self._task: TaskID | None = None
        self._started = time.monotonic()
        self._before = progress.current()

    def source(self, name: str, expected: int | None) -> None:
        """A source begins; `expected` documents are thought to come from it."""
        self.refresh()
        if self._task is not None:
            self._display.update(self._task, total=self._display.tasks[self._task].completed)
        self._started, self._before = time.monotonic(), progress.current()
        self._task = self._display.add_task(name, total=expected, work="")

    def expect(self, expected: int | None) -> None:
        """So many documents are thought to come from the source that began."""
        if self._task is not None:
            self._display.update(self._task, total=expected)

    def step(self, name: str, done: float | None = None) -> None:
        """A step after the sources; `done` is its share from 0 to 1, None when it cannot be known."""
        if self._task is None or self._display.tasks[self._task].description != name:
            self.source(name, None)
        if self._task is not None and done is not None:
            self._display.update(self._task, total=100, completed=round(100 * done))

    def note(self, work: str) -> None:
        """How a job elsewhere stands; shown instead of this process's own counters."""
        if self._task is not None:
            self._display.update(self._task, work=work)

    def reading(self, name: str, read: int, expected: int | None) -> None:
        """So many records of a source were read for a plan, of so many that are thought to come."""
        self.step(f"planning {name}")
        if self._task is not None:
            self._display.update(self._task, total=expected, completed=read, work=f"{read:,} records read")

    def say(self, line: str) -> None:
        """A line for people, above the bar."""
        self._display.console.print(f"headrace: {line}", markup=False, highlight=False, soft_wrap=True)

    def waiting(self, reason: str, duration_s: float) -> None:
        """The source waits, for a rate limit say; shown until something is read again."""
        if self._task is not None:
            self._display.update(self._task, work=f"waiting {duration_s:,.0f} s: {reason}")

    def refresh(self) -> None:
        """Show what happened since the source began."""
        if self._task is None:
            return
        now, before = progress.current(), self._before
        documents = now.documents - before.documents
        chunks, tokens = now.chunks - before.chunks, now.tokens - before.tokens
        rate = chunks / max(time.monotonic() - self._started, 1e-3)
        if documents or chunks:
            total = self._display.tasks[self._task].total
            read = f"{documents:,} of {total:,.0f}" if total else f"{documents:,}"
            work = f"{read} documents  {chunks:,} chunks  {rate:,.0f} embeddings/s  {tokens:,} tokens"
            self._display.update(self._task, completed=documents, work=work)


@contextmanager
def run_progress(console: Console, visible: bool) -> Iterator[RunProgress]:
    """A bar that refreshes itself from a thread of its own until the block ends."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[work]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not visible) as display:
        bar = RunProgress(display)
        stop = threading.Event()

        def keep_fresh() -> None:
            while not stop.wait(REFRESH_S):
                bar.refresh()

        thread = threading.Thread(target=keep_fresh, name="progress-bar", daemon=True)
        thread.start()
        try:
            yield bar
        finally:
            stop.set()
            thread.join()
            bar.refresh()
