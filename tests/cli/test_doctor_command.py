"""``dbos-async doctor``: what it prints, and its exit codes."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from dbos_async._cli.doctor import show
from dbos_async._operations.doctor import Finding, settings
from dbos_async.cli import app
from tests.support.databases import execute


def run(*arguments: str, url: str | None = None) -> Result:
    return CliRunner().invoke(app, ["doctor", *arguments], env={"DBOS_DATABASE_URL": url, "COLUMNS": "100"})


def test_a_database_without_a_schema(empty_database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "CORRUPTS", {})  # the server of the tests has fsync off
    done = run(empty_database_url)
    assert done.exit_code == 1
    lines = done.stdout.splitlines()
    assert lines[0].startswith("✗ ")
    assert "has no schema dbos_async." in done.stdout
    assert "→ Launch DBOS, which makes it" in done.stdout
    assert max(map(len, lines)) <= 100
    assert lines[-1].startswith("1 problem")


def test_as_json(database_url: str) -> None:
    done = run("--json", url=database_url)
    findings = [Finding.model_validate(each) for each in json.loads(done.stdout)]
    assert {finding.check for finding in findings} >= {"connection", "pooler", "sequences"}
    assert done.exit_code == (1 if any(finding.level == "problem" for finding in findings) else 0)


async def test_warnings_alone_are_no_failure(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "CORRUPTS", {})  # the server of the tests has fsync off
    await execute(
        database_url,
        "insert into dbos_async.messages (id, seq, destination_id, topic, payload, rejected) "
        "values (gen_random_uuid(), nextval('dbos_async.message_seq'), 'w', 'paid', '1', '{}')",
    )
    done = await asyncio.to_thread(run, database_url)
    assert done.exit_code == 0, done.stdout
    assert done.stdout.startswith("! ")
    assert "\n1 warning (" in done.stdout


def test_no_database_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = run()
    assert done.exit_code == 1
    assert "No database: pass --url, set DBOS_DATABASE_URL, or run this where" in " ".join(done.stderr.split())


def test_a_database_that_is_away() -> None:
    done = run("postgresql://app:secret@127.0.0.1:1/shop")
    assert done.exit_code == 1
    assert "Traceback" not in done.output
    assert "secret" not in done.output
    assert "cannot be used" in done.stdout.replace("\n", " ")


def test_a_terminal_without_our_marks() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "dbos_async", "doctor", "postgresql://app@127.0.0.1:1/shop"],
        env=os.environ | {"PYTHONIOENCODING": "ascii"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.startswith("\\u2717 connection")


def test_texts_of_others_break_no_terminal() -> None:
    hostile = "[bold]x[/bold] [/] \x1b[2J\r\n✗ all is lost :smile: \u202e"
    findings = [Finding(check="parked", level="warning", says=hostile, advice=hostile * 20)]
    printed = StringIO()
    show(findings, Console(file=printed, width=60, force_terminal=False))
    text = printed.getvalue()
    assert "[bold]x[/bold] [/]" in text
    assert ":smile:" in text
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert [line for line in text.splitlines() if line.startswith("✗")] == []
    assert max(map(len, text.splitlines())) <= 60
