"""A repository under construction, and a server of repositories: real git at both ends."""

from __future__ import annotations

import asyncio
import base64
import os
import shutil
import subprocess
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

from tests.fakes.serving import Receive, Send

GIT = shutil.which("git") or "git"


class Repo:
    """A repository under construction: every commit has its own, fixed date."""

    def __init__(self, path: Path, *options: str) -> None:
        self.path = path
        self.clock = 1_700_000_000
        self.empty_tree = ""
        path.mkdir(parents=True, exist_ok=True)
        self("init", "-q", "-b", "main", *options, ".")

    def __call__(self, *arguments: str, stdin: bytes = b"", env: dict[str, str] | None = None) -> str:
        date = f"{self.clock} +0100"
        clean = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
        identity = {
            "GIT_AUTHOR_NAME": "Ada", "GIT_AUTHOR_EMAIL": "ada@example.org", "GIT_AUTHOR_DATE": date,
            "GIT_COMMITTER_NAME": "Bob", "GIT_COMMITTER_EMAIL": "bob@example.org", "GIT_COMMITTER_DATE": date,
            "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1",
        }  # fmt: skip
        done = subprocess.run(
            [GIT, "-C", str(self.path), *arguments],
            input=stdin,
            capture_output=True,
            env=clean | identity | (env or {}),
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.decode("utf-8", "replace").strip()

    def commit(
        self, message: str = "Dig", *options: str, env: dict[str, str] | None = None, **files: str
    ) -> str:
        """Commit `files`, and one more that makes the commit differ from all others."""
        self.clock += 60
        for name, text in ({"count": str(self.clock)} | files).items():
            target = self.path / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)
        self("add", "-A")
        self("commit", "-q", "--allow-empty-message", "-m", message, *options, env=env)
        return self("rev-parse", "HEAD")

    def bare_commit(self, *parents: str, tree: str = "") -> str:
        """A commit of a tree, else of the empty one, on no branch."""
        self.clock += 60
        self.empty_tree = self.empty_tree or self("mktree")
        parent_options = [part for sha in parents for part in ("-p", sha)]
        return self("commit-tree", tree or self.empty_tree, "-m", f"At {self.clock}", *parent_options)

    def reachable(self, *revisions: str) -> set[str]:
        return set(self("rev-list", *(revisions or ("HEAD",))).split())


class GitServer:
    """Smart HTTP over the repositories in a folder: `<url>/<path of the repository>`.

    Args:
        password: what has to come as Basic authorization, user and password; empty for anyone.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.password = ""

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        headers = {name.decode().lower(): value.decode("latin-1") for name, value in scope["headers"]}
        expected = "Basic " + base64.b64encode(self.password.encode()).decode()
        if self.password and headers.get("authorization") != expected:
            status, answer = 401, b"WWW-Authenticate: Basic realm=mill\r\n\r\nno"
        else:
            status, answer = await asyncio.to_thread(self._answer, scope, headers, body)
        head, _, content = answer.partition(b"\r\n\r\n")
        pairs = [line.split(b": ", 1) for line in head.split(b"\r\n")]
        sent = [(name.lower(), value) for name, value in pairs if name != b"Status"]
        status = next((int(value[:3]) for name, value in pairs if name == b"Status"), status)
        sent.append((b"content-length", str(len(content)).encode()))
        await send({"type": "http.response.start", "status": status, "headers": sent})
        await send({"type": "http.response.body", "body": content})

    def _answer(
        self, scope: MutableMapping[str, Any], headers: dict[str, str], body: bytes
    ) -> tuple[int, bytes]:
        env = {
            "PATH": os.environ["PATH"], "GIT_PROJECT_ROOT": str(self.root), "GIT_HTTP_EXPORT_ALL": "1",
            "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", "REQUEST_METHOD": scope["method"],
            "PATH_INFO": scope["path"], "QUERY_STRING": scope["query_string"].decode(),
            "CONTENT_TYPE": headers.get("content-type", ""), "CONTENT_LENGTH": str(len(body)),
            "HTTP_CONTENT_ENCODING": headers.get("content-encoding", ""),
            "GIT_PROTOCOL": headers.get("git-protocol", ""), "REMOTE_ADDR": "127.0.0.1",
        }  # fmt: skip
        done = subprocess.run([GIT, "http-backend"], input=body, capture_output=True, env=env)
        return 200, done.stdout
