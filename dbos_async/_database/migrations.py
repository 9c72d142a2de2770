"""Migrations of the schema: the numbered files of ``schema/``, applied in order, each in its own transaction.

A file that older libraries cannot work with has the comment ``-- requires-library: 0.3.0`` at its top: libraries older than
that refuse to launch. A file without this comment only adds to the schema, so old and new releases run side by side.
"""

from __future__ import annotations

import re
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import asyncpg

from dbos_async.errors import ConfigurationError, LibraryTooOldError, MigrationNeededError

LOCK = "select pg_advisory_xact_lock(hashtextextended('dbos_async migrations', 0))"

FIND_SCHEMA = "select to_regnamespace('dbos_async') is not null"

MAKE_SCHEMA = "create schema dbos_async"

FIND_TABLE = "select to_regclass('dbos_async.migrations') is not null"

MAKE_TABLE = """
create table dbos_async.migrations (
    number integer primary key,
    name text not null,
    requires_library text,
    applied_at timestamptz not null default clock_timestamp()
);
comment on table dbos_async.migrations is
    'One applied file of schema/. requires_library is the oldest library that still works with it, null when every one does.';
"""

APPLIED = "select number, name, requires_library from dbos_async.migrations order by number"

CHANNEL = "select 'dbos_' || replace(secret::text, '-', '') from dbos_async.channels"

NOTE = "insert into dbos_async.migrations (number, name, requires_library) values ($1, $2, $3)"


class Migration(NamedTuple):
    """One file of ``schema/``."""

    number: int
    name: str
    requires_library: str | None
    sql: str


async def migrate(
    connection: asyncpg.Connection[asyncpg.Record], *, directory: Path | None = None, library: str | None = None
) -> list[str]:
    """Apply the missing migrations and return their names. Any number of processes may do this at once.

    An up-to-date database costs one query and no lock. If a file fails, it is rolled back and `ConfigurationError` names it;
    the files before it stay applied. A lost connection raises asyncpg's own error.
    """
    library = library or version("dbos_async")
    _check_encoding(connection)
    migrations = load(directory)
    if not await _missing(connection, migrations, library):
        return []
    return [migration.name for migration in migrations if await _apply(connection, migration, migrations, library)]


async def check(
    connection: asyncpg.Connection[asyncpg.Record], *, directory: Path | None = None, library: str | None = None
) -> None:
    """Raise `MigrationNeededError` if a migration is missing, `LibraryTooOldError` if the schema needs a newer library."""
    _check_encoding(connection)
    missing = await _missing(connection, load(directory), library or version("dbos_async"))
    if missing:
        raise MigrationNeededError(", ".join(migration.name for migration in missing))


async def channel(connection: asyncpg.Connection[asyncpg.Record]) -> str:
    """The first part of the names of the channels for notifications. Whoever knows it can tell readers what they believe."""
    try:
        found = await connection.fetchval(CHANNEL)
    except asyncpg.InsufficientPrivilegeError as error:
        raise ConfigurationError(
            f"This role may not read dbos_async.channels ({error.args[0]}), which names the channels for notifications: "
            "grant it select on that table, or connect as another role."
        ) from error
    if found is None:
        raise ConfigurationError(
            "The table dbos_async.channels is empty, so the channels for notifications have no names: "
            "execute 'insert into dbos_async.channels default values'."
        )
    return str(found)


def _check_encoding(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    encoding = getattr(connection.get_settings(), "server_encoding", "UTF8")
    if encoding != "UTF8":
        raise ConfigurationError(
            f"The database is encoded in {encoding}, which cannot store every text: "
            "create one with ENCODING 'UTF8' TEMPLATE template0."
        )


def load(directory: Path | None = None) -> list[Migration]:
    """Return the migrations in the order of their numbers."""
    directory = directory or find_directory()
    migrations = sorted(_read(path) for path in directory.glob("*.sql"))
    if not migrations or [m.number for m in migrations] != list(range(1, len(migrations) + 1)):
        raise ConfigurationError(
            f"The migrations in {directory.name}/ must be numbered 1, 2, 3 … without a gap, "
            f"and are {', '.join(migration.name for migration in migrations) or 'missing'}."
        )
    return migrations


def is_newer(required: str) -> bool:
    """Return whether a migration that requires this release of the library asks for a newer one than this."""
    return _release(required) > _release(version("dbos_async"))


def find_directory() -> Path:
    """Return the folder ``schema/``: it is inside the installed package, or beside the package in a checkout."""
    package = Path(__file__).parents[1]
    for directory in (package / "schema", package.parent / "schema"):
        if directory.is_dir():
            return directory
    raise ConfigurationError("This installation of dbos_async has no schema/ folder: install it again.")


async def _apply(
    connection: asyncpg.Connection[asyncpg.Record], migration: Migration, migrations: list[Migration], library: str
) -> bool:
    try:
        # At any stricter isolation the transaction would not see what another process committed while it waited for the lock.
        async with connection.transaction(isolation="read_committed"):
            # A second process waits here, and then finds the migration applied.
            await connection.execute(LOCK)
            await _make_table(connection)
            if migration not in await _missing(connection, migrations, library):
                return False
            await connection.execute(migration.sql)
            await connection.execute(NOTE, migration.number, migration.name, migration.requires_library)
    except (asyncpg.PostgresConnectionError, asyncpg.AdminShutdownError, asyncpg.CrashShutdownError):
        raise  # The migration is not at fault.
    except asyncpg.PostgresError as error:
        hint = ""
        if isinstance(error, asyncpg.InsufficientPrivilegeError):
            hint = "; run 'dbos-async migrate <url>' as a role that may create in this database"
        raise ConfigurationError(
            f"The migration {migration.name} failed and was rolled back: {type(error).__name__}: {error.args[0]}{hint}."
        ) from error
    return True


async def _make_table(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    # "create … if not exists" would need the privilege to create even where everything exists.
    if not await connection.fetchval(FIND_SCHEMA):
        await connection.execute(MAKE_SCHEMA)
    if not await connection.fetchval(FIND_TABLE):
        await connection.execute(MAKE_TABLE)


async def _missing(
    connection: asyncpg.Connection[asyncpg.Record], migrations: list[Migration], library: str
) -> list[Migration]:
    try:
        applied = {row["number"]: row for row in await connection.fetch(APPLIED)}
    except asyncpg.UndefinedTableError:
        return migrations
    except asyncpg.InsufficientPrivilegeError as error:
        raise ConfigurationError(
            f"This role may not read dbos_async.migrations ({error.args[0]}): "
            "grant it usage on the schema dbos_async and the rights on its tables, or connect as another role."
        ) from error
    known = {migration.number for migration in migrations}
    for number, row in applied.items():
        required = row["requires_library"]
        if number not in known and required is not None and _release(required) > _release(library):
            raise LibraryTooOldError(library, required, row["name"])
    return [migration for migration in migrations if migration.number not in applied]


def _read(path: Path) -> Migration:
    number = re.match(r"(\d+)_", path.name)
    if number is None:
        raise ConfigurationError(f"The migration {path.name} must begin with its number: 0001_….sql.")
    sql = path.read_text(encoding="utf-8")
    header = re.search(r"\A(?:--[^\n]*\n)*?-- requires-library: (\d+(?:\.\d+)*)[ \r]*(?:\n|\Z)", sql)
    # A header with a typing mistake must not pass as an ordinary comment, because it would admit older libraries.
    if header is None and re.search(r"--[^\n]*requires[ _-]?library", sql, re.IGNORECASE):
        raise ConfigurationError(
            f"The migration {path.name} names requires-library in a form that cannot be read: "
            "write '-- requires-library: 0.3.0' as a line of the comment at its top."
        )
    return Migration(int(number[1]), path.stem, header[1] if header else None, sql)


def _release(text: str) -> tuple[int, ...]:
    numbers = re.match(r"\d+(?:\.\d+)*", text)
    if numbers is None:
        raise ConfigurationError(f"{text!r} is not a version: write it as 0.3.0.")
    parts = [int(part) for part in numbers[0].split(".")]
    while parts and parts[-1] == 0:
        parts.pop()
    return tuple(parts)
