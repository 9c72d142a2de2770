"""The schema: applied in order, once, by whoever comes first, and refused where it must be."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from dbos_async import (
    DBOS,
    ConfigurationError,
    DBOSClient,
    LibraryTooOldError,
    MigrationNeededError,
    _migrations,
)
from tests.conftest import with_database

NAMES = [migration.name for migration in _migrations.load()]


@pytest.fixture
async def empty(empty_database_url: str) -> Any:
    connection = await asyncpg.connect(empty_database_url)
    yield connection
    await connection.close()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A schema of two files."""
    (tmp_path / "0001_first.sql").write_text("create table dbos_async.a ();")
    (tmp_path / "0002_second.sql").write_text("-- Why it is there.\ncreate table dbos_async.b ();")
    return tmp_path


async def tables(connection: Any) -> list[str]:
    rows = await connection.fetch("select tablename from pg_tables where schemaname = 'dbos_async' order by 1")
    return [row["tablename"] for row in rows]


async def test_from_empty_and_then_nothing(empty: Any) -> None:
    assert await _migrations.migrate(empty) == NAMES
    assert await _migrations.migrate(empty) == []
    await _migrations.check(empty)
    assert {"workflows", "steps", "messages", "events", "stream_entries", "executors"} <= set(await tables(empty))


async def test_every_table_says_what_a_row_means(empty: Any) -> None:
    await _migrations.migrate(empty)
    bare = await empty.fetch(
        "select relname from pg_class where relnamespace = 'dbos_async'::regnamespace and relkind = 'r' "
        "and obj_description(oid, 'pg_class') is null"
    )
    assert bare == []


async def test_what_is_new_is_added(empty: Any, directory: Path) -> None:
    (directory / "0002_second.sql").rename(directory / "later")
    assert await _migrations.migrate(empty, directory=directory) == ["0001_first"]
    (directory / "later").rename(directory / "0002_second.sql")
    with pytest.raises(MigrationNeededError, match=r"0002_second: run 'dbos-async migrate"):
        await _migrations.check(empty, directory=directory)
    assert await _migrations.migrate(empty, directory=directory) == ["0002_second"]
    assert await tables(empty) == ["a", "b", "migrations"]


async def test_two_processes_that_launch_at_once_on_an_empty_database_both_succeed(empty_database_url: str) -> None:
    program = (
        "import asyncio, sys\nfrom dbos_async import DBOS\n"
        "async def main():\n    async with DBOS(sys.argv[1]): print('launched')\nasyncio.run(main())"
    )
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", program, empty_database_url, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for _ in range(4)
    ]
    assert await asyncio.gather(*(process.communicate() for process in processes)) == [(b"launched\n", b"")] * 4


async def test_a_migration_that_fails_is_rolled_back_and_named(empty: Any, directory: Path) -> None:
    (directory / "0002_second.sql").write_text("create table dbos_async.b (); select 1 / 0;")
    with pytest.raises(ConfigurationError, match="0002_second failed and was rolled back.*division by zero"):
        await _migrations.migrate(empty, directory=directory)
    assert await tables(empty) == ["a", "migrations"]


async def test_additive_migrations_of_a_newer_release_are_no_hindrance(empty: Any, directory: Path) -> None:
    await _migrations.migrate(empty, directory=directory)
    (directory / "0002_second.sql").unlink()
    await _migrations.check(empty, directory=directory)
    assert await _migrations.migrate(empty, directory=directory) == []


@pytest.mark.parametrize(("library", "works"), [("0.9.9", False), ("0.10", True), ("0.10.0", True), ("1.0", True)])
async def test_a_migration_that_requires_a_newer_library_is_refused(
    library: str, works: bool, empty: Any, directory: Path
) -> None:
    second = directory / "0002_second.sql"
    second.write_text("-- Why it is there.\n-- requires-library: 0.10\ncreate table dbos_async.b ();")
    await _migrations.migrate(empty, directory=directory, library="0.10")
    if works:
        await _migrations.check(empty, directory=directory, library=library)
    second.unlink()
    for act in (_migrations.check, _migrations.migrate):
        if works:
            await act(empty, directory=directory, library=library)
        else:
            with pytest.raises(LibraryTooOldError, match="requires dbos_async 0.10 or newer, and this is 0.9.9"):
                await act(empty, directory=directory, library=library)


@pytest.mark.parametrize("names", [["0001_a", "0003_c"], ["0001_a", "0001_b"], ["a"], []])
async def test_files_are_numbered_without_a_gap(names: list[str], tmp_path: Path) -> None:
    for name in names:
        (tmp_path / f"{name}.sql").write_text("select 1;")
    with pytest.raises(ConfigurationError, match="number"):
        _migrations.load(tmp_path)


async def test_launching_without_migrating_only_checks(empty_database_url: str, empty: Any) -> None:
    with pytest.raises(MigrationNeededError, match="dbos-async migrate"):
        async with DBOS(empty_database_url, migrate=False):
            pass
    with pytest.raises(MigrationNeededError):
        async with DBOSClient(empty_database_url):
            pass
    assert await tables(empty) == []
    await _migrations.migrate(empty)
    async with DBOS(empty_database_url, migrate=False):
        pass


async def test_an_up_to_date_database_asks_for_no_rights_to_create(empty_database_url: str, empty: Any) -> None:
    await _migrations.migrate(empty)
    role = f"app_{os.getpid()}"
    await empty.execute(
        f"create role {role} login; grant usage on schema dbos_async to {role};"
        f"grant select, insert, update, delete on all tables in schema dbos_async to {role};"
        f"grant usage on all sequences in schema dbos_async to {role}"
    )
    try:
        url = empty_database_url.replace("//postgres", f"//{role}", 1)
        async with DBOS(url):
            with pytest.raises(Exception, match="no workflow"):
                await DBOS.send("nobody", 1)
    finally:
        await empty.execute(f"drop owned by {role}; drop role {role}")


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dbos_async", *arguments],
        capture_output=True, text=True, check=False, env={**os.environ, **environment},
    )  # fmt: skip


async def test_the_command_migrates_and_says_so(empty_database_url: str, server_url: str) -> None:
    checked = command("migrate", "--check", empty_database_url)
    assert (checked.returncode, checked.stdout) == (1, "")
    assert "lacks the migrations 0001_first_tables" in checked.stderr
    migrated = command("migrate", DBOS_DATABASE_URL=empty_database_url)
    assert (migrated.returncode, migrated.stdout.split()[:2]) == (0, ["applied", "0001_first_tables"]), migrated.stderr
    assert command("migrate", empty_database_url).stdout == "The schema is up to date.\n"
    nowhere = command("migrate", "postgresql://me:secret@127.0.0.1:1/x")
    assert nowhere.returncode == 1
    assert "secret" not in nowhere.stderr
    assert nowhere.stderr.startswith("postgresql://me@127.0.0.1:1/x cannot be used")
    missing = command("migrate", with_database(server_url, "no_such_database"))
    assert (missing.returncode, missing.stderr.count("\n")) == (1, 1)
