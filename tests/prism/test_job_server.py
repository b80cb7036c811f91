"""The way to Flink with Prism in the job server's place: workers are processes of a pool, pages spread over them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rich.console import Console

from runners.fetch import build_prism
from runners.progress_bar import run_progress
from runners.run import run
from runners.targets import Runner, opened
from runners.worker_pool import start
from schemas.config import Config
from schemas.engines import Flink
from tests.fakes.serving import serve
from tests.runners.fake_flink import FakeFlink
from tests.runners.world import issue, rows_of, run_quietly, write_export
from transforms.postgres import Store

JAVA = """\
#!/bin/sh
if [ "$1" = -version ]; then echo 'openjdk version "17.0.15"' >&2; exit; fi
echo "$@" > {folder}/arguments
for argument; do case "$argument" in --job-port=*) port="${{argument#*=}}";; esac; done
exec {prism} --job_port="$port" --serve_http=false --log_kind=text
"""


@pytest.fixture
def cluster(tmp_path: Path, database: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[Flink]:
    """Settings of a cluster whose job server is Prism. Workers find the database as this process does."""
    monkeypatch.setenv("HEADRACE_TEST_RUN_DSN", database.dsn)
    java = tmp_path / "jdk" / "bin" / "java"
    java.parent.mkdir(parents=True)
    java.write_text(JAVA.format(folder=tmp_path, prism=build_prism()))
    java.chmod(0o755)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "jdk"))
    jar = tmp_path / "job-server.jar"
    jar.write_bytes(b"Prism")
    pool, server, port = start(tmp_path / "logs", share=2, host="127.0.0.1", port=0)
    with serve(FakeFlink()) as url:
        yield Flink(
            url=url,
            worker_pool=f"127.0.0.1:{port}",
            job_server_jar=jar,
            job_server_sha256=hashlib.sha256(b"Prism").hexdigest(),
        )
    server.stop(0).wait()
    pool.close()


def test_rows_counts_and_ledger_are_those_of_a_run_in_this_process(
    cluster: Flink, make_config: Callable[..., Config], database: Store, tmp_path: Path
) -> None:
    export = write_export(tmp_path / "a.jsonl", [issue(number) for number in range(60)])
    config = make_config(export, max_documents=40).model_copy(update={"flink": cluster})
    with (
        run_progress(Console(quiet=True), visible=False) as bar,
        opened(config, Runner.FLINK) as target,
    ):
        there = run(config, bar, target)
    rows = rows_of(database, config)
    with database.connect() as connection:
        connection.execute("TRUNCATE documents, source_cursors, ai_usage_tracking, runs CASCADE")
    here = run_quietly(config)
    assert rows["chunks"]
    assert rows == rows_of(database, config)
    assert there.totals == here.totals == {"new": 60}
    assert there.tokens_seen == here.tokens_seen
    assert there.usage.tokens == here.usage.tokens
    assert there.work.chunks == 0  # nothing was done in this process
    assert f"--flink-master={cluster.url.removeprefix('http://')}" in (tmp_path / "arguments").read_text()
