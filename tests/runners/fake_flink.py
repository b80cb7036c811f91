"""The part of Flink's REST API that headrace asks, with the answers of a Flink 1.19.3 that was asked."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import orjson

from tests.fakes.serving import Message, MutableMapping, Receive, Send

JOB = "82f85ebc70a8140e95cae0d9114a65b8"
UNKNOWN = "0" * 32
OVERVIEW = {
    "taskmanagers": 2,
    "slots-total": 4,
    "slots-available": 4,
    "jobs-running": 0,
    "flink-version": "1.19.3",
    "flink-commit": "1a1a1a1",
}


class FakeFlink:
    """One job; tests change what it answers.

    Args:
        answers: path -> answers, given in turn, the last for ever; (status, body).
    """

    def __init__(self, **overview: Any) -> None:
        self.asked: list[tuple[str, str, Any]] = []
        self.answers: dict[str, list[tuple[int, Any]]] = defaultdict(list)
        self.answers["/overview"] = [(200, {**OVERVIEW, **overview})]
        self.answers["/jobs/overview"] = [(200, {"jobs": []})]

    def job(self, state: str, running: int = 0, finished: int = 0, name: str = "job") -> None:
        """The job from now on."""
        counts = {"running": running, "finished": finished, "failed": 0, "created": 0}
        listed = {
            "jid": JOB,
            "name": name,
            "start-time": 1795292464005,
            "end-time": -1,
            "duration": 18552,
            "state": state,
            "tasks": {"total": 3, **counts},
        }
        details = {
            "jid": JOB,
            "name": name,
            "state": state,
            "start-time": 1795292464005,
            "duration": 18552,
            "status-counts": {"RUNNING": running, "FINISHED": finished, "CREATED": 3 - running - finished},
            "vertices": [{"metrics": {"read-records": 5}}, {"metrics": {"read-records": 7}}],
        }
        self.answers["/jobs/overview"] = [(200, {"jobs": [listed]})]
        self.answers[f"/jobs/{JOB}"].append((200, details))
        self.answers[f"/jobs/{JOB}/metrics"] = [(200, [{"id": "numRestarts", "value": "2"}])]
        self.answers[f"/jobs/{JOB}/exceptions"] = [(200, {"exceptionHistory": {"entries": []}})]
        self.answers[f"/jobs/{JOB}/checkpoints"] = [
            (
                200,
                {
                    "counts": {"restored": 0, "total": 3, "in_progress": 0, "completed": 2, "failed": 1},
                    "latest": {
                        "completed": {
                            "trigger_timestamp": 1795292474014,
                            "state_size": 265,
                            "external_path": "file:/state/checkpoints/chk-2",
                        }
                    },
                },
            )
        ]

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        body = b""
        while True:
            message: Message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        path = scope["path"]
        self.asked.append((scope["method"], path, orjson.loads(body) if body else None))
        waiting = self.answers.get(path) or [(404, {"errors": ["Not found: " + path]})]
        status, answer = waiting.pop(0) if len(waiting) > 1 else waiting[0]
        content = answer if isinstance(answer, bytes) else orjson.dumps(answer)
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": content})
