"""The configuration file says what is wrong with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from schemas.config import Config, load_config
from schemas.errors import BadConfig, MissingFile
from schemas.sections import resolve_secret
from schemas.sources import ExportSource, GitSource


def _load(folder: Path, text: str) -> Config:
    path = folder / "headrace.toml"
    path.write_text(text, encoding="utf-8")
    return load_config(path)


def test_an_empty_file_is_a_configuration_with_defaults(tmp_path: Path) -> None:
    config = _load(tmp_path, "")
    assert config.client == "default"
    assert config.data_dir == tmp_path / ".headrace"


def test_relative_paths_are_taken_from_the_folder_of_the_file(tmp_path: Path) -> None:
    config = _load(
        tmp_path,
        """
        [[sources]]
        type = "git"
        name = "code"
        path = "repo"
        [[sources]]
        type = "export"
        name = "tickets"
        paths = ["*.jsonl", "/elsewhere/x.jsonl"]
        """,
    )
    git, export = config.sources
    assert isinstance(git, GitSource)
    assert isinstance(export, ExportSource)
    assert git.path == tmp_path / "repo"
    assert export.paths == (f"{tmp_path}/*.jsonl", "/elsewhere/x.jsonl")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("clinet = 'x'", "clinet: unknown option; options here are client, data_dir"),
        ("[postgres]\nuser = 'x'", "postgres.user: unknown option; options here are dsn, vector_type"),
        (
            "[[sources]]\ntype='git'\nname='a'\npath='.'\nulr='x'",
            "ulr: unknown option; options here are name",
        ),
        ("[model]\nthreads = 0", "model.threads: Input should be greater than or equal to 1"),
        ("[[sources]]\nname='a'", "sources.0: Unable to extract tag using discriminator 'type'"),
        ("[[sources]]\ntype='svn'\nname='a'", "'git', 'export'"),
        ("x = ", "not valid TOML"),
        ("[cache]\nttl = 3", "cache.ttl: unknown option; options here are kind, ttl_days"),
        ("[cache]\nkind = 'disk'", "cache.kind: Input should be 'memory', 'postgres', 'redis' or 'none'"),
        ("[cache]\nkind = 'redis'", 'cache: kind "redis" needs url'),
        ("[cache]\nurl = 'env:REDIS'", "no other kind takes one"),
        ("[cache]\nkind = 'redis'\nurl = 'redis://:hunter2@h'", "cache.url: expected a reference"),
        ("[postgres]\ndsn = 'postgresql://u:hunter2@h/db'", "postgres.dsn: expected a reference"),
        ("[[sources]]\ntype='git'\nname='a'", "needs either path, a folder, or url, to clone from"),
        ("[[sources]]\ntype='git'\nname='a'\npath='.'\nurl='/x'", "needs either path, a folder, or url"),
        ("[[sources]]\ntype='git'\nname='a'\nurl='ext::sh -c hunter2'", "sources.0.url: expected https://"),
        ("[[sources]]\ntype='git'\nname='a'\nurl='https://hunter2@h/x'", "put a secret into token"),
        (
            "[[sources]]\ntype='git'\nname='a'\nurl='https://h/x'\ntoken='hunter2'",
            "token: expected a reference",
        ),
        ("[[sources]]\ntype='git'\nname='a'\npath='.'\nrefs=['a..b']", "refs.0: expected a glob of branches"),
        (
            "[[sources]]\ntype='github'\nname='a'\nrepositories=['acme']",
            "repositories.0: expected owner/name",
        ),
        (
            "[[sources]]\ntype='github'\nname='a'\nrepositories=['a/b', 'a/..']",
            "repositories.1: expected owner",
        ),
        (
            "[[sources]]\ntype='github'\nname='a'\nrepositories=['https://github.com/a/b']",
            "without its address",
        ),
        (
            "[[sources]]\ntype='git'\nname='a'\npath='.'\n[[sources]]\ntype='git'\nname='a'\npath='.'",
            "source names must differ, a stands twice",
        ),
    ],
)
def test_a_mistake_is_one_line_that_names_file_and_key(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(BadConfig) as caught:
        _load(tmp_path, text)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path}/headrace.toml: ")
    assert said in message
    assert "\n" not in message
    assert "hunter2" not in message


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFile, match=r"none\.toml"):
        load_config(tmp_path / "none.toml")


def test_secrets_come_from_the_environment_or_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_TEST_SECRET", "s3cret")
    (tmp_path / "secret").write_text("other\n", encoding="utf-8")
    assert resolve_secret("env:HEADRACE_TEST_SECRET", "postgres.dsn") == "s3cret"
    assert resolve_secret(f"file:{tmp_path}/secret", "postgres.dsn") == "other"


@pytest.mark.parametrize("reference", ["env:HEADRACE_NOT_SET", "file:/not/there", "s3cret"])
def test_a_reference_that_leads_nowhere_names_the_setting_and_no_secret(reference: str) -> None:
    with pytest.raises(BadConfig, match=r"postgres\.dsn") as caught:
        resolve_secret(reference, "postgres.dsn")
    assert "s3cret" not in str(caught.value)
