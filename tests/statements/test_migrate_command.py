"""``dbos-async migrate``: what it does, what it says, and what it never shows."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version

import pytest
from typer.testing import CliRunner

from dbos_async._database import migrations
from dbos_async.cli import app
from tests.support.databases import with_database

NAMES = [migration.name for migration in migrations.load()]


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dbos_async", *arguments],
        capture_output=True, text=True, check=False, env={**os.environ, **environment},
    )  # fmt: skip


async def test_the_command_migrates_and_says_so(empty_database_url: str, server_url: str) -> None:
    checked = command("migrate", "--check", empty_database_url)
    assert (checked.returncode, checked.stdout) == (1, "")
    assert "There are no tables in the schema dbos_async: run 'dbos-async migrate" in checked.stderr
    migrated = command("migrate", DBOS_DATABASE_URL=empty_database_url)
    assert (migrated.returncode, migrated.stdout.split()[:2]) == (0, ["applied", "0001_first_tables"]), migrated.stderr
    assert command("migrate", empty_database_url).stdout == "The schema is up to date.\n"
    nowhere = command("migrate", "postgresql://me:secret@127.0.0.1:1/x")
    assert nowhere.returncode == 1
    assert "secret" not in nowhere.stderr
    assert nowhere.stderr.startswith("postgresql://me@127.0.0.1:1/x cannot be used")
    missing = command("migrate", with_database(server_url, "no_such_database"))
    assert (missing.returncode, missing.stderr.count("\n")) == (1, 1)


@pytest.mark.parametrize(
    "url",
    [
        "host=127.0.0.1 port=1 user=me password=s3cret",
        "mysql://me:s3cret@127.0.0.1:1/x",
        "postgresql://me:s3cret",
        "postgresql://me:s3cret@127.0.0.1:1/x",
        "postgresql://me:s3cret@127.0.0.1:99999/x",
        "postgresql://me:s3cret@127.0.0.1:1/x?sslmode=bogus",
        "postgresql://me:s3cret@[::1/x",
        "postgresql://me:s3cret/more@127.0.0.1:1/x",
        "postgresql://me:s3cret?more@127.0.0.1:1/x",
        "postgresql://me:s3cret#more@127.0.0.1:1/x",
        "postgresql://me:p@s3cret@127.0.0.1:1/x",
        "postgresql://127.0.0.1:1/s3cret@more/x",
        "postgresql://127.0.0.1:1/x?user=me&password=s3cret",
        "postgresql://127.0.0.1:1/x?user=me&password=p&s3cret",
    ],
)
def test_d5_the_command_never_shows_a_password(url: str) -> None:
    done = CliRunner().invoke(app, ["migrate", url])
    assert done.exit_code == 1
    assert isinstance(done.exception, SystemExit)
    assert "cannot be used" in done.output or "must have ports from 1 to 65535" in done.output
    assert done.output.count("\n") == 1
    assert "s3cret" not in done.output


def test_the_command_without_a_database_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DBOS_DATABASE_URL", raising=False)
    done = CliRunner().invoke(app, ["migrate"])
    assert (done.exit_code, done.output) == (1, "No database: name its URL, or set DBOS_DATABASE_URL.\n")


def test_the_command_tells_its_version() -> None:
    assert CliRunner().invoke(app, ["version"]).output == f"{version('dbos_async')}\n"


def test_without_its_extra_the_command_names_it() -> None:
    code = "import sys; sys.modules['typer'] = None; from dbos_async.__main__ import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "pip install 'dbos_async[cli]'" in done.stderr
