"""The schema: applied in order, once, by the first process that comes, and refused where it must be."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from dbos_async import (
    DBOS,
    ConfigurationError,
    DBOSClient,
    LibraryTooOldError,
    MigrationNeededError,
    WorkflowNotFoundError,
)
from dbos_async._database import migrations
from dbos_async._database.outages import is_lost
from tests.support.eventually import eventually

NAMES = [migration.name for migration in migrations.load()]


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


@pytest.fixture
async def role(empty: Any) -> Any:
    """A role without any rights; the connections of a URL to which ``as_role`` adds it act as it."""
    name = f"app_{uuid4().hex[:12]}"
    await empty.execute(f"create role {name}")
    yield name
    await empty.execute(f"drop owned by {name}; drop role {name}")


def as_role(url: str, role: str) -> str:
    """The same database, in the rights of this role."""
    return f"{url}{'&' if '?' in url else '?'}role={role}"


async def tables(connection: Any) -> list[str]:
    rows = await connection.fetch("select tablename from pg_tables where schemaname = 'dbos_async' order by 1")
    return [row["tablename"] for row in rows]


async def test_from_empty_and_then_nothing(empty: Any) -> None:
    assert await migrations.migrate(empty) == NAMES
    assert await migrations.migrate(empty) == []
    await migrations.check(empty)
    assert {"workflows", "steps", "messages", "events", "stream_entries", "executors"} <= set(await tables(empty))


async def test_every_table_says_what_a_row_means(empty: Any) -> None:
    await migrations.migrate(empty)
    bare = await empty.fetch(
        "select relname from pg_class where relnamespace = 'dbos_async'::regnamespace and relkind = 'r' "
        "and obj_description(oid, 'pg_class') is null"
    )
    assert bare == []


async def test_what_is_new_is_added(empty: Any, directory: Path) -> None:
    (directory / "0002_second.sql").rename(directory / "later")
    assert await migrations.migrate(empty, directory=directory) == ["0001_first"]
    (directory / "later").rename(directory / "0002_second.sql")
    with pytest.raises(MigrationNeededError, match=r"0002_second: run 'dbos-async migrate"):
        await migrations.check(empty, directory=directory)
    assert await migrations.migrate(empty, directory=directory) == ["0002_second"]
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
        await migrations.migrate(empty, directory=directory)
    assert await tables(empty) == ["a", "migrations"]


async def test_a_migration_that_fails_at_its_commit_is_rolled_back_and_named(empty: Any, directory: Path) -> None:
    (directory / "0002_second.sql").write_text(
        "create table dbos_async.b (n integer unique deferrable initially deferred);"
        "insert into dbos_async.b values (1), (1);"
    )
    with pytest.raises(ConfigurationError, match="0002_second failed and was rolled back.*duplicate key") as caught:
        await migrations.migrate(empty, directory=directory)
    assert "\n" not in str(caught.value)
    assert await tables(empty) == ["a", "migrations"]


async def test_a_lost_connection_is_not_blamed_on_the_migration(empty: Any, directory: Path) -> None:
    (directory / "0002_second.sql").write_text("select pg_terminate_backend(pg_backend_pid());")
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError)) as caught:
        await migrations.migrate(empty, directory=directory)
    assert is_lost(caught.value)


async def test_additive_migrations_of_a_newer_release_are_no_hindrance(empty: Any, directory: Path) -> None:
    await migrations.migrate(empty, directory=directory)
    (directory / "0002_second.sql").unlink()
    await migrations.check(empty, directory=directory)
    assert await migrations.migrate(empty, directory=directory) == []


@pytest.mark.parametrize(("library", "works"), [("0.9.9", False), ("0.10", True), ("0.10.0", True), ("1.0", True)])
async def test_a_migration_that_requires_a_newer_library_is_refused(
    library: str, works: bool, empty: Any, directory: Path
) -> None:
    second = directory / "0002_second.sql"
    second.write_text("-- Why it is there.\n-- requires-library: 0.10\ncreate table dbos_async.b ();")
    await migrations.migrate(empty, directory=directory, library="0.10")
    if works:
        await migrations.check(empty, directory=directory, library=library)
    second.unlink()
    for act in (migrations.check, migrations.migrate):
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
        migrations.load(tmp_path)


def test_files_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for number in range(1, 12):
        (tmp_path / f"{number}_x.sql").write_text("select 1;")
    assert [migration.number for migration in migrations.load(tmp_path)] == list(range(1, 12))


@pytest.mark.parametrize(
    "header",
    ["--requires-library: 1.0", "-- Requires-Library: 1.0", "-- requires-library 1.0", "-- requires-library: soon",
     "select 1;\n-- requires-library: 1.0"],
)  # fmt: skip
def test_a_header_with_a_slip_in_it_is_not_taken_for_a_comment(header: str, tmp_path: Path) -> None:
    (tmp_path / "0001_first.sql").write_text(f"{header}\nselect 1;")
    with pytest.raises(ConfigurationError, match=r"0001_first.sql names requires-library .* '-- requires-library: 0"):
        migrations.load(tmp_path)


async def test_what_this_library_ships_itself_is_no_hindrance(empty: Any, directory: Path) -> None:
    (directory / "0002_second.sql").write_text("-- requires-library: 9.0\ncreate table dbos_async.b ();")
    assert await migrations.migrate(empty, directory=directory, library="8.0") == ["0001_first", "0002_second"]
    await migrations.check(empty, directory=directory, library="8.0")


async def test_launching_without_migrating_only_checks(empty_database_url: str, empty: Any) -> None:
    with pytest.raises(MigrationNeededError, match="dbos-async migrate"):
        async with DBOS(empty_database_url, migrate=False):
            pass
    with pytest.raises(MigrationNeededError):
        async with DBOSClient(empty_database_url):
            pass
    assert await tables(empty) == []
    await migrations.migrate(empty)
    async with DBOS(empty_database_url, migrate=False):
        pass


async def test_an_up_to_date_database_asks_for_no_rights_to_create(
    empty_database_url: str, empty: Any, role: str
) -> None:
    await migrations.migrate(empty)
    await empty.execute(
        f"grant usage on schema dbos_async to {role};"
        f"grant select, insert, update, delete on all tables in schema dbos_async to {role};"
        f"grant usage on all sequences in schema dbos_async to {role}"
    )
    url = as_role(empty_database_url, role)
    connection = await asyncpg.connect(url)
    try:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute("create table dbos_async.forbidden ()")
    finally:
        await connection.close()
    async with DBOS(url):
        with pytest.raises(WorkflowNotFoundError):
            await DBOS.send("nobody", 1)


async def test_a_role_that_may_not_create_or_read_is_told_what_to_do(
    empty_database_url: str, empty: Any, role: str
) -> None:
    connection = await asyncpg.connect(as_role(empty_database_url, role))
    try:
        with pytest.raises(ConfigurationError, match="0001_first_tables failed.*permission denied.*as a role that may"):
            await migrations.migrate(connection)
        await migrations.migrate(empty)
        for act in (migrations.check, migrations.migrate):
            with pytest.raises(
                ConfigurationError, match=r"lacks rights on the schema dbos_async \(usage; select on the table.*--grant"
            ):
                await act(connection)
    finally:
        await connection.close()


async def test_a_schema_that_was_made_beforehand_is_enough(empty_database_url: str, empty: Any, role: str) -> None:
    await empty.execute(f"create schema dbos_async authorization {role}")
    connection = await asyncpg.connect(as_role(empty_database_url, role))
    try:
        assert await migrations.migrate(connection) == NAMES
    finally:
        await connection.close()


async def test_an_up_to_date_database_is_asked_one_question_and_nothing_is_locked(
    empty_database_url: str, empty: Any
) -> None:
    await migrations.migrate(empty)
    connection = await asyncpg.connect(empty_database_url)
    asked: list[str] = []
    connection.add_query_logger(lambda record: asked.append(record.query))
    try:
        async with empty.transaction():
            await empty.execute(migrations.LOCK)
            async with asyncio.timeout(10):
                assert await migrations.migrate(connection) == []
        await eventually(lambda: bool(asked))
        assert asked == [migrations.APPLIED]
    finally:
        await connection.close()


@pytest.mark.parametrize("isolation", ["read committed", "repeatable read", "serializable"])
async def test_who_waited_for_the_lock_finds_the_work_done(isolation: str, empty_database_url: str, empty: Any) -> None:
    name = await empty.fetchval("select current_database()")
    await empty.execute(f"alter database {name} set default_transaction_isolation = '{isolation}'")
    first, second = [await asyncpg.connect(empty_database_url) for _ in range(2)]
    try:
        async with empty.transaction():
            await empty.execute(migrations.LOCK)
            racing = [asyncio.create_task(migrations.migrate(connection)) for connection in (first, second)]
            await eventually(lambda: waiting_for_the_lock(empty, 2))
        # Each migration has a transaction of its own, so either process may apply the next one.
        applied = await asyncio.gather(*racing)
        assert sorted(name for names in applied for name in names) == NAMES
    finally:
        await first.close()
        await second.close()


async def waiting_for_the_lock(connection: Any, number: int) -> bool:
    waiting = await connection.fetchval(
        "select count(*) from pg_locks where locktype = 'advisory' and not granted "
        "and database = (select oid from pg_database where datname = current_database())"
    )
    return bool(waiting == number)


async def test_a_process_killed_in_a_migration_leaves_nothing_made_and_nothing_locked(
    empty_database_url: str, empty: Any, directory: Path
) -> None:
    second = directory / "0002_second.sql"
    sql = second.read_text()
    second.write_text(f"{sql} select pg_advisory_xact_lock(77);")
    program = (
        "import asyncio, asyncpg, pathlib, sys\nfrom dbos_async._database import migrations\n"
        "async def main():\n"
        "    await migrations.migrate(await asyncpg.connect(sys.argv[1]), directory=pathlib.Path(sys.argv[2]))\n"
        "asyncio.run(main())"
    )
    async with empty.transaction():
        await empty.execute("select pg_advisory_xact_lock(77)")
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", program, empty_database_url, str(directory)
        )
        try:
            await eventually(lambda: waiting_for_the_lock(empty, 1))
        finally:
            process.kill()
            await process.wait()
    second.write_text(sql)
    async with asyncio.timeout(30):
        assert await migrations.migrate(empty, directory=directory) == ["0002_second"]
    assert await tables(empty) == ["a", "b", "migrations"]
