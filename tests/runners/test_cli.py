"""What a person at the command line gets: answers, or one line that says what to change."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from pydantic import BaseModel
from typer.main import get_command

from runners import cli
from schemas.config import Model
from schemas.engines import Dataflow, Flink, Prism
from tests.fakes.git_repo import Repo
from tests.runners.world import DSN, Headrace, issue, write_export
from tests.transforms.embedders.tiny_models import write_model
from transforms import runs
from transforms.embedders.models import default_cache_dir, locate_model, space_of
from transforms.postgres import Store

EXPORT = '[[sources]]\ntype = "export"\nname = "tickets"\npaths = ["a.jsonl"]\n'


def test_a_run_then_a_search_then_every_look_at_it(
    headrace: Headrace, write_config: Callable[[str], Path], tmp_path: Path
) -> None:
    texts = ["The mobile app logs operators out every hour", "Login fails after the certificate expired"]
    issues = [issue(n, comments=0) for n in range(8)]
    for one, text in zip(issues, texts, strict=False):
        one["fields"]["summary"] = one["fields"]["description"] = text
    write_export(tmp_path / "a.jsonl", issues)
    config = write_config(EXPORT)

    code, out, _ = headrace("run", "--config", config, "--json")
    summary = json.loads(out)
    assert (code, summary["total"]["read"], summary["total"]["new"]) == (0, 8, 8)
    assert summary["tokens_truncated"] == 0

    for mode, index in (("hybrid", "pgvector"), ("vector", "faiss"), ("text", "pgvector")):
        code, out, _ = headrace(
            "search",
            "operators are signed out of the app",
            "-c",
            config,
            "--json",
            "--mode",
            mode,
            "--index",
            index,
        )
        assert (code, json.loads(out)[0]["key"]) == (0, "MILL-0")
    code, out, _ = headrace("search", "gate", "-c", config, "--project", "OTHER")
    assert (code, out.strip()) == (0, "Nothing found.")

    code, out, _ = headrace("status", "-c", config, "--json")
    status = json.loads(out)
    assert (code, status["documents"][0]["documents"], status["last_run"]["status"]) == (0, 8, "done")
    assert status["last_run_outcomes"] == [{"source": "tickets", "new": 8}]

    code, out, _ = headrace("usage", "-c", config, "--json")
    operations = {row["operation"]: row["inputs"] for row in json.loads(out)["rows"]}
    assert (code, operations) == (0, {"embed_documents": 8, "embed_query": 3})

    code, out, _ = headrace("quality", "-c", config, "--json")
    assert (code, json.loads(out)[0]["quality_score"]) == (0, 1.0)
    assert headrace("verify", "-c", config)[0] == 0
    assert headrace("check", "-c", config)[0] == 0
    assert "No dead letters." in headrace("dead-letters", "list", "-c", config)[1]
    assert "No open dead letters." in headrace("dead-letters", "retry", "-c", config)[1]
    code, out, _ = headrace("export", tmp_path / "v.parquet", "-c", config)
    assert (code, out.startswith("8 chunks written")) == (0, True)
    for command in ("status", "usage", "quality", "models"):
        assert headrace(command, "-c", config)[0] == 0


def test_beam_options_follow_two_dashes(
    headrace: Headrace, write_config: Callable[[str], Path], tmp_path: Path
) -> None:
    write_export(tmp_path / "a.jsonl", [issue(1)])
    config = write_config(EXPORT)
    code, out, _ = headrace("run", "-c", config, "--json", "--", "--direct_runner_bundle_repeat=1")
    assert (code, json.loads(out)["total"]["read"]) == (0, 1)
    assert headrace("run", "-c", config, "--no-such-option")[0] == 2


@pytest.mark.parametrize(
    "wrong", [("--kind", "email"), ("--mode", "psychic"), ("--limit", "0"), ("--since", "soon")]
)
def test_a_search_option_that_means_nothing_is_refused(
    wrong: tuple[str, str], headrace: Headrace, write_config: Callable[[str], Path]
) -> None:
    code, _, err = headrace("search", "gate", "-c", write_config(""), *wrong)
    assert (code, wrong[0] in err) == (2, True)


def test_verify_fails_when_the_index_lost_a_row(
    headrace: Headrace, write_config: Callable[[str], Path], tmp_path: Path, database: Store
) -> None:
    write_export(tmp_path / "a.jsonl", [issue(1), issue(2)])
    config = write_config(EXPORT)
    assert headrace("run", "-c", config)[0] == 0
    with database.connect() as connection:
        table = f"chunks_{space_of(Model()).space_id}"
        connection.execute(f"DELETE FROM {table} WHERE row_id = (SELECT min(row_id) FROM {table})")
    code, out, _ = headrace("verify", "-c", config, "--json")
    assert (code, json.loads(out)["ok"]) == (3, False)


def _no_document(database: Store) -> bool:
    with database.connect() as connection:
        return connection.execute("SELECT count(*) FROM documents").fetchone() == (0,)


TORN = b'[\n{"id": 1, "number": 1, "title": "a"},\n{"id": 2, "num{"message": "API rate limit exceeded"}'


@pytest.mark.parametrize(
    ("toml", "files", "said"),
    [
        (EXPORT, {}, "a.jsonl"),
        (EXPORT, {"a.jsonl": TORN}, "a.jsonl: line 3"),
        (EXPORT, {"a.jsonl": b"not json\n" * 3}, "a.jsonl"),
        (EXPORT, {"a.jsonl": b'{"message": "API rate limit exceeded"}'}, "error answer"),
        ('[[sources]]\ntype = "git"\nname = "code"\npath = "."\n', {}, "not a git repository"),
        ('[[sources]]\ntype = "git"\nname = "code"\npath = "gone"\n', {}, "gone"),
        (
            "[model]\nbatch = 3\n",
            {},
            "model.batch: unknown option; options here are name, integration, folder",
        ),
        ('[model]\nname = "no/such-model"\n' + EXPORT, {}, "no/such-model"),
        ("", {}, "no sources are configured"),
        ('[model]\nfolder = "empty"\n' + EXPORT, {"empty/.keep": b"", "a.jsonl": b""}, "model.safetensors"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(
    toml: str,
    files: dict[str, bytes],
    said: str,
    headrace: Headrace,
    write_config: Callable[[str], Path],
    tmp_path: Path,
    database: Store,
) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    code, out, err = headrace("run", "-c", write_config(toml))
    assert code == 1
    assert out == ""
    assert err.startswith("headrace: ")
    assert said in err
    assert len(err.strip().splitlines()) == 1
    assert _no_document(database)


def test_a_model_whose_digest_differs_is_refused(
    headrace: Headrace, write_config: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(locate_model(Model(), default_cache_dir()), folder)
    with (folder / "model.safetensors").open("r+b") as weights:
        weights.seek(-1, 2)
        weights.write(b"\xff")
    write_export(tmp_path / "a.jsonl", [issue(1)])
    code, _, err = headrace("run", "-c", write_config('[model]\nfolder = "model"\n' + EXPORT))
    assert code == 1
    assert "model.safetensors" in err
    assert "53aa5117" in err


def test_a_table_of_another_dimension_is_refused(
    headrace: Headrace, write_config: Callable[[str], Path], tmp_path: Path, database: Store
) -> None:
    with database.connect() as connection:
        table = f"chunks_{space_of(Model()).space_id}"
        connection.execute(f"CREATE TABLE {table} (embedding vector(768) NOT NULL)")
    write_export(tmp_path / "a.jsonl", [issue(1)])
    code, _, err = headrace("run", "-c", write_config(EXPORT))
    assert code == 1
    assert "384" in err
    assert "768" in err


@pytest.mark.parametrize(
    ("dsn", "said"),
    [
        ("host=/not/a/socket/folder dbname=nope", "/not/a/socket/folder"),
        ("postgresql://u:hunter2@127.0.0.1:1/db", "127.0.0.1"),
        ("this is no dsn", "no connection string"),
    ],
)
def test_a_wrong_dsn_is_named_without_its_password(
    dsn: str,
    said: str,
    headrace: Headrace,
    write_config: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    write_export(tmp_path / "a.jsonl", [issue(1)])
    config = write_config(EXPORT)
    monkeypatch.setenv(DSN, dsn)
    code, _, err = headrace("run", "-c", config)
    assert code == 1
    assert "postgres.dsn" in err
    assert said in err
    assert "hunter2" not in err
    assert len(err.strip().splitlines()) == 1


def test_a_database_that_goes_away_in_mid_run_is_one_line(
    headrace: Headrace,
    write_config: Callable[[str], Path],
    tmp_path: Path,
    database: Store,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def cut_off(*given: Any) -> None:
        with database.connect() as other:
            other.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        commit(*given)

    commit = runs.commit_slice
    monkeypatch.setattr(runs, "commit_slice", cut_off)
    write_export(tmp_path / "a.jsonl", [issue(1)])
    config = write_config(EXPORT)
    code, out, err = headrace("run", "-c", config)
    assert (code, out, err.count("\n")) == (1, "", 1), err
    assert "the database went away" in err
    monkeypatch.setattr(runs, "commit_slice", commit)
    assert headrace("run", "-c", config)[0] == 0


def test_a_search_before_any_run_says_what_to_do(
    headrace: Headrace, write_config: Callable[[str], Path]
) -> None:
    code, _, err = headrace("search", "gate", "-c", write_config(""))
    assert (code, err.startswith("headrace: ")) == (1, True)
    assert "headrace run" in err


def test_check_names_each_thing_that_is_not_ready(
    headrace: Headrace, write_config: Callable[[str], Path]
) -> None:
    code, out, _ = headrace("check", "-c", write_config(EXPORT), "--json")
    results = {row["name"]: row["ok"] for row in json.loads(out)}
    assert (code, results) == (3, {"database": True, "model": True, "source tickets": False})


def test_a_check_clones_nothing(
    headrace: Headrace, write_config: Callable[[str], Path], tmp_path: Path
) -> None:
    repo = Repo(tmp_path / "code")
    repo.commit("Dig the race")
    more = f'[[sources]]\ntype = "git"\nname = "code"\nurl = "{repo.path}"\n'
    code, out, _ = headrace("check", "-c", write_config(more), "--json")
    (result,) = [row for row in json.loads(out) if row["name"] == "source code"]
    assert (code, result["detail"]) == (0, "readable, 1 of its refs match HEAD")
    assert not (tmp_path / ".headrace" / "mirrors").exists()


def _commands() -> list[tuple[str, ...]]:
    root = get_command(cli.app)
    assert isinstance(root, typer.core.TyperGroup)
    found: list[tuple[str, ...]] = []
    for name, command in root.commands.items():
        inner = getattr(command, "commands", None)
        found += [(name, deeper) for deeper in inner] if inner else [(name,)]
    return found


@pytest.mark.parametrize("command", _commands(), ids=" ".join)
def test_every_command_has_help_that_ends_in_an_example(command: tuple[str, ...], headrace: Headrace) -> None:
    code, out, _ = headrace(*command, "--help")
    assert code == 0
    assert f"Example: headrace {' '.join(command)}" in out


TUNED: dict[type[BaseModel], set[str]] = {
    Prism: {"parallelism"},
    Flink: {"url", "worker_pool", "parallelism", "checkpoint_interval_s"},
    Dataflow: {"worker_image", "machine_type", "max_workers", "parallelism", "embed_accelerator"},
}


@pytest.mark.parametrize("command", ["run", "backfill", "watch"])
def test_help_names_what_people_tune_of_a_runner_as_the_file_does(
    command: str, headrace: Headrace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "240")
    _, out, _ = headrace(command, "--help")
    said = " ".join(re.sub(r"[^\w,()]", " ", out).split())
    for table, options in TUNED.items():
        assert options <= set(table.model_fields)
        (listed,) = re.findall(rf"{table.__name__.lower()} \(([\w, ]+)\)", said)
        assert set(listed.replace(",", "").split()) == options


def test_nothing_in_brackets_is_lost_from_help() -> None:
    waiting: list[Any] = [get_command(cli.app)]
    texts: list[str] = []
    while waiting:
        command = waiting.pop()
        waiting += getattr(command, "commands", {}).values()
        texts += [one.help for one in (command, *command.params) if getattr(one, "help", None)]
    assert len(texts) > 50
    assert [text for text in texts if re.search(r"\[[a-z]", text)] == [], "it is taken for markup"


def test_a_word_that_is_no_option_is_refused_instead_of_passed_on(
    headrace: Headrace, write_config: Callable[[str], Path]
) -> None:
    config = write_config("")
    for command in ("run", "backfill", "watch"):
        code, out, err = headrace(command, "-c", config, "other.toml")
        assert (code, out) == (1, "")
        assert err == (
            "headrace: 'other.toml' is no option of Beam's, which begin with two dashes and follow --: the file is"
            " named by --config\n"
        )


@pytest.mark.parametrize("command", _commands(), ids=" ".join)
def test_every_command_stands_in_the_readme(command: tuple[str, ...]) -> None:
    readme = Path(cli.__file__).resolve().parent.parent / "README.md"
    assert f"headrace {' '.join(command)}" in readme.read_text(encoding="utf-8")


def test_ctrl_c_ends_with_130_and_an_interrupted_run(
    write_config: Callable[[str], Path], tmp_path: Path, database: Store
) -> None:
    import signal
    import time

    write_export(tmp_path / "a.jsonl", [issue(n, words=80) for n in range(400)])
    config = write_config("model.max_buffer_tokens = 1024\n" + EXPORT)
    process = subprocess.Popen(
        [sys.executable, "-m", "runners.cli", "run", "-c", str(config)], stderr=subprocess.PIPE, text=True
    )
    with database.connect() as connection:
        deadline = time.monotonic() + 120
        while connection.execute("SELECT count(*) FROM documents").fetchone() == (0,):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 130
        assert err == "headrace: interrupted; what was stored is consistent, run again to go on\n"
        assert connection.execute("SELECT status FROM runs").fetchall() == [("interrupted",)]
        half = connection.execute(
            "SELECT count(*) FROM indexed_documents AS i WHERE chunks <>"
            f" (SELECT count(*) FROM chunks_{space_of(Model()).space_id} AS c WHERE c.document_id = i.document_id)"
        ).fetchone()
    assert half == (0,)


def test_the_database_is_never_reached_by_a_typo(headrace: Headrace, tmp_path: Path) -> None:
    code, _, err = headrace("run", "-c", tmp_path / "gone.toml")
    assert (code, "gone.toml" in err) == (1, True)
    assert not (tmp_path / ".headrace").exists()


def test_a_model_of_ones_own_is_indexed_searched_and_described(
    headrace: Headrace, write_config: Callable[[str], Path], tmp_path: Path
) -> None:
    texts = ["pump stall", "gate water"]
    issues = [issue(n, comments=0) for n in range(2)]
    for one, text in zip(issues, texts, strict=True):
        one["fields"]["summary"] = one["fields"]["description"] = text
    write_export(tmp_path / "a.jsonl", issues)
    write_model(tmp_path / "tiny", "mpnet", prompts={"query": "query: ", "passage": "passage: "})
    config = write_config(
        '[model]\nname = "tiny/mpnet"\nfolder = "tiny"\nengine = "onnx"\ndimensions = 16\n' + EXPORT
    )

    code, out, err = headrace("run", "--config", config, "--json")
    assert (code, json.loads(out)["total"]["new"]) == (0, 2), err
    code, out, _ = headrace("search", "gate", "-c", config, "--mode", "vector", "--json")
    assert (code, len(json.loads(out))) == (0, 2)
    assert all("passage" not in hit["text"] for hit in json.loads(out))

    code, out, _ = headrace("models", "-c", config, "--json")
    row = json.loads(out)[0]
    assert (code, row["name"], row["found"]) == (0, "tiny/mpnet", str(tmp_path / "tiny"))
    assert (row["dimensions"], row["max_tokens"], row["engine"], row["arithmetic"]) == (
        16,
        32,
        "onnx",
        "fp32",
    )
    assert (row["query_prefix"], row["document_prefix"]) == ("query: ", "passage: ")
    code, out, _ = headrace("models", "-c", config)
    assert code == 0
    assert "tiny/mpnet" in out
    assert row["space_id"] in out


@pytest.mark.parametrize("command", [["run"], ["models"], ["search", "gate"]])
@pytest.mark.parametrize(
    ("model", "said"),
    [
        ('name = "tiny/none"\nfolder = "nowhere"', "lacks config.json, tokenizer.json, model.safetensors"),
        (
            'name = "tiny/bert"\nfolder = "tiny"\nmax_tokens = 600',
            "model.max_tokens: 600 asked, tiny/bert has 40",
        ),
        (
            'name = "tiny/bert"\nfolder = "tiny"\ndimensions = 25',
            "model.dimensions: 25 asked, tiny/bert gives 24",
        ),
        ('folder = "pinned"', "it is not the pinned sentence-transformers/all-MiniLM-L6-v2; set model.name"),
    ],
)
def test_a_bad_model_is_one_line_and_nothing_is_written(
    headrace: Headrace,
    write_config: Callable[[str], Path],
    tmp_path: Path,
    database: Store,
    command: list[str],
    model: str,
    said: str,
) -> None:
    write_export(tmp_path / "a.jsonl", [issue(0)])
    write_model(tmp_path / "tiny")
    write_model(tmp_path / "pinned")
    if command[0] == "search":
        assert headrace("run", "-c", write_config(EXPORT))[0] == 0
    config = write_config(f"[model]\n{model}\n{EXPORT}")
    code, out, err = headrace(*command, "-c", config)
    assert (code, out, err.count("\n")) == (1, "", 1), err
    assert said in err
    with database.connect() as connection:
        spaces = connection.execute("SELECT count(*) FROM embedding_spaces").fetchone()
    assert spaces == (1 if command[0] == "search" else 0,)


def _read(repo: Repo, headrace: Headrace, write_config: Callable[[str], Path]) -> Path:
    repo.commit("Dig the race")
    more = '[[sources]]\ntype = "git"\nname = "code"\npath = "code"\npoll_interval_s = 0.5\n'
    config = write_config(more)
    assert headrace("run", "-c", config)[0] == 0
    return config


def test_status_shows_the_lag_of_each_source(
    headrace: Headrace, write_config: Callable[[str], Path], tmp_path: Path
) -> None:
    repo = Repo(tmp_path / "code")
    config = _read(repo, headrace, write_config)
    (source,) = json.loads(headrace("status", "-c", config, "--json")[1])["sources"]
    assert (source["source"], source["condition"], source["consecutive_failures"]) == ("code", "ok", 0)
    assert 0 <= source["lag_s"] < 60
    assert source["newest_change"] is not None
    shutil.rmtree(tmp_path / "code")
    assert headrace("run", "-c", config)[0] == 1
    (source,) = json.loads(headrace("status", "-c", config, "--json")[1])["sources"]
    assert (source["condition"], source["consecutive_failures"]) == ("failing", 1)
    assert "no such folder" in source["last_error"]
    assert "failing" in headrace("status", "-c", config)[1]


@pytest.mark.alone
def test_watch_ends_within_seconds_of_a_signal_and_says_what_it_did(
    headrace: Headrace, write_config: Callable[[str], Path], tmp_path: Path
) -> None:
    repo = Repo(tmp_path / "code")
    config = _read(repo, headrace, write_config)
    repo.commit("Repair the penstock")
    command = [sys.executable, "-m", "runners.cli", "watch", "-c", str(config)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = [process.stderr.readline() for _ in range(2)]
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=10)
        said += process.stderr.read().splitlines()  # communicate() would skip what is buffered
    assert (process.returncode, time.monotonic() - began < 5) == (0, True)
    assert "watching code" in said[0]
    # A signal that comes while a line is being printed has the console print it again.
    assert all("code: 1 new" in line for line in said[1:-1])
    assert "stopped; what was stored" in said[-1]
    (source,) = json.loads(headrace("status", "-c", config, "--json")[1])["sources"]
    assert (source["busy_with"], source["next_poll_at"]) == (None, None)


def test_watch_ends_by_itself_after_the_time_given(
    headrace: Headrace, write_config: Callable[[str], Path], tmp_path: Path
) -> None:
    repo = Repo(tmp_path / "code")
    config = _read(repo, headrace, write_config)
    assert headrace("watch", "-c", config, "--for", "1s")[0] == 0
    code, _, said = headrace("watch", "-c", config, "--for", "soon")
    assert (code, "'soon'" in said) == (2, True)


def test_exports_are_passed_over_by_a_reconciliation_and_it_says_why(
    headrace: Headrace, write_config: Callable[[str], Path], tmp_path: Path
) -> None:
    write_export(tmp_path / "a.jsonl", [issue(1)])
    config = write_config(EXPORT)
    assert headrace("run", "-c", config)[0] == 0
    code, out, _ = headrace("reconcile", "-c", config)
    assert (code, "tickets: not asked: export files" in out) == (0, True)
    code, out, _ = headrace("reconcile", "-c", config, "--dry-run", "--json")
    assert (code, json.loads(out)["ok"], json.loads(out)["run_id"]) == (0, True, None)
    assert headrace("reconcile", "-c", config, "--source", "nobody")[0] == 1
    code, out, _ = headrace("verify", "-c", config, "--sources", "--json")
    assert (code, json.loads(out)["sources"][0]["not_asked"] != "") == (0, True)
    assert headrace("verify", "-c", config, "--sources")[0] == 0
