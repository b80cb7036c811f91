"""The end of `benchmarks.worker` that tells: a contender's process, asked over its pipes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.hardware import ROOT

LOAD_TIMEOUT_S = 600
ANSWER_TIMEOUT_S = 1800


@dataclass(frozen=True, slots=True)
class Contender:
    """Something that embeds.

    Args:
        name: in tables.
        spec: how `benchmarks.worker` loads it; JSON-able.
        batch_size: asked of it; None leaves its own default.
        python: interpreter of an environment it needs for itself; None takes this one.
        limit: most texts of a corpus that it is given; None takes all.
    """

    name: str
    spec: dict[str, Any]
    batch_size: int | None = None
    python: str | None = None
    limit: int | None = None


class Worker:
    """A running contender. It waits idle between two requests.

    Attributes:
        facts: what it said of itself when it had loaded.
        failure: why it cannot be measured; empty while it can.
    """

    def __init__(self, contender: Contender, log: Path) -> None:
        self.contender = contender
        self.facts: dict[str, Any] = {}
        self.failure = ""
        self._log = log.open("ab")
        environment = os.environ | {
            "PYTHONPATH": str(ROOT),
            "HF_HUB_OFFLINE": "1",
            "TRANSFORMERS_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "true",
        }
        try:
            self._process = subprocess.Popen(
                [contender.python or sys.executable, "-m", "benchmarks.worker", json.dumps(contender.spec)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                cwd=ROOT,
                env=environment,
            )
        except OSError as error:
            self._log.close()
            self.failure = f"{contender.python}: {error.strerror}"
            return
        first = self._read(LOAD_TIMEOUT_S)
        self.failure = first.get("error", "")
        self.facts = first.get("facts", {})

    def ask(self, texts: Path, **request: Any) -> dict[str, Any]:
        """Embed the texts of a JSON file.

        Args:
            request: further keys of a request, as `benchmarks.worker` describes them.
        Returns:
            Its answer; `error` is in it when there is none, and the worker is of no more use if it died.
        """
        if self.failure:
            return {"error": self.failure}
        told = {"texts": str(texts), "batch_size": self.contender.batch_size, "limit": self.contender.limit}
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(told | request).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            self.failure = "its process ended"
            return {"error": self.failure}
        found = self._read(ANSWER_TIMEOUT_S)
        if self._process.poll() is not None:
            self.failure = str(found.get("error", ""))
        return found

    def close(self) -> None:
        """End the process."""
        if self._log.closed:
            return
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._log.close()

    def _read(self, timeout_s: float) -> dict[str, Any]:
        assert self._process.stdout is not None
        timer = threading.Timer(timeout_s, self._process.kill)
        timer.start()
        try:
            line = self._process.stdout.readline()
        finally:
            timer.cancel()
        if not line:
            code = self._process.wait()
            return {
                "error": f"its process ended with {code} (or took over {timeout_s:.0f} s); see {self._log.name}"
            }
        found: dict[str, Any] = json.loads(line)
        return found
