"""Migrations of the schema: the numbered files of ``schema/``, applied in order, each in its own transaction.

A file that older libraries cannot work with has the comment ``-- requires-library: 0.3.0`` at its top: libraries older than
that refuse to launch. A file without this comment only adds to the schema, so old and new releases run side by side.
"""

from __future__ import annotations

import re
import shlex
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import asyncpg

from dbos_async._database.expected import expected
from dbos_async._database.names import Names
from dbos_async._database.rights import WRITES, Rights, check_rights, grant, grants
from dbos_async.errors import ConfigurationError, LibraryTooOldError, MigrationNeededError

LOCK = "select pg_advisory_xact_lock(hashtextextended('dbos_async migrations', 0))"

FIND_SCHEMA = "select to_regnamespace('dbos_async') is not null"


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
    connection: asyncpg.Connection[asyncpg.Record],
    names: Names | None = None,
    *,
    rights: Rights | None = None,
    grant_to: str | None = None,
    directory: Path | None = None,
    library: str | None = None,
) -> list[str]:
    """Apply the missing migrations and return their names. Any number of processes may do this at once.

    An up-to-date database costs one query and no lock. If a file fails, it is rolled back and `ConfigurationError` names it;
    the files before it stay applied. A lost connection raises asyncpg's own error. ``rights`` are checked as by `check`;
    ``grant_to`` is a role that is given all that an executor needs.
    """
    names, library = names or Names(), library or version("dbos_async")
    _check_encoding(connection)
    migrations = load(directory)
    applied: list[str] = []
    if await _missing(connection, names, migrations, library):
        applied = [one.name for one in migrations if await _apply(connection, names, one, migrations, library)]
    if rights is not None:
        await check_rights(connection, names, expected(migrations), rights)
    if grant_to is not None:
        await grant(connection, names, expected(migrations), grant_to)
    return applied


async def check(
    connection: asyncpg.Connection[asyncpg.Record],
    names: Names | None = None,
    *,
    rights: Rights | None = None,
    directory: Path | None = None,
    library: str | None = None,
) -> None:
    """Raise `MigrationNeededError` if a migration is missing, `LibraryTooOldError` if the schema needs a newer library.

    If the role of the connection lacks some of these ``rights``, `ConfigurationError` names them.
    """
    names = names or Names()
    _check_encoding(connection)
    migrations = load(directory)
    missing = await _missing(connection, names, migrations, library or version("dbos_async"))
    if missing:
        raise MigrationNeededError(", ".join(migration.name for migration in missing), names.schema)
    if rights is not None:
        await check_rights(connection, names, expected(migrations), rights)


async def script(
    connection: asyncpg.Connection[asyncpg.Record] | None, names: Names, *, grant_to: str | None = None
) -> str:
    """The SQL that `migrate` would execute, as one transaction for psql; without a connection that for an empty database."""
    migrations, library = load(), version("dbos_async")
    missing, has_table = migrations, False
    if connection is not None:
        _check_encoding(connection)
        missing = await _missing(connection, names, migrations, library)
        has_table = await connection.fetchval(names(FIND_TABLE))
    parts = []
    if missing:
        parts = [f"{names(LOCK)};\n"]
        if not has_table:
            parts.append(f"create schema if not exists {names.quoted_schema};\n{names(MAKE_TABLE).strip()}\n")
        parts += [_as_script(names, migration) for migration in missing]
    if grant_to is not None:
        parts.append(f"-- The rights of an executor\n{grants(expected(migrations), names, grant_to)}")
    what = f"{missing[0].name} to {missing[-1].name}" if missing else "the schema is up to date"
    head = (
        f"-- dbos_async {library}, schema {names.schema}: {what}. To be executed as a whole: it is one transaction.\n"
    )
    settings = "set local client_encoding = 'UTF8';\nset local standard_conforming_strings = on;\n"
    return "\n".join([f"{head}\nbegin;\n{settings}", *parts, "commit;\n"])


def _as_script(names: Names, migration: Migration) -> str:
    required = "null" if migration.requires_library is None else f"'{migration.requires_library}'"
    note = NOTE.replace("$1", str(migration.number)).replace("$2", f"'{migration.name}'").replace("$3", required)
    return f"-- {migration.name}\n{names(migration.sql).strip()}\n{names(note)};\n"


async def channel(connection: asyncpg.Connection[asyncpg.Record], names: Names) -> str:
    """The first part of the names of the channels for notifications. Whoever knows it can tell readers what they believe."""
    try:
        found = await connection.fetchval(names(CHANNEL))
    except asyncpg.InsufficientPrivilegeError as error:
        raise ConfigurationError(
            f"This role may not read {names.schema}.channels ({error.args[0]}), which names the channels for notifications: "
            "grant it select on that table, or connect as another role."
        ) from error
    if found is None:
        raise ConfigurationError(
            f"The table {names.schema}.channels is empty, so the channels for notifications have no names: "
            f"execute 'insert into {names.schema}.channels default values'."
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
    connection: asyncpg.Connection[asyncpg.Record],
    names: Names,
    migration: Migration,
    migrations: list[Migration],
    library: str,
) -> bool:
    try:
        # At any stricter isolation the transaction would not see what another process committed while it waited for the lock.
        async with connection.transaction(isolation="read_committed"):
            # A second process waits here, and then finds the migration applied.
            await connection.execute(names(LOCK))
            await connection.execute("set local standard_conforming_strings = on")
            await _make_table(connection, names)
            if migration not in await _missing(connection, names, migrations, library):
                return False
            await connection.execute(names(migration.sql))
            await connection.execute(names(NOTE), migration.number, migration.name, migration.requires_library)
    except (asyncpg.PostgresConnectionError, asyncpg.AdminShutdownError, asyncpg.CrashShutdownError):
        raise  # The migration is not at fault.
    except asyncpg.PostgresError as error:
        raise ConfigurationError(
            f"The migration {migration.name} failed and was rolled back: {type(error).__name__}: {error.args[0]}"
            f"{await _hint(connection, names, error)}."
        ) from error
    return True


async def _hint(connection: asyncpg.Connection[asyncpg.Record], names: Names, error: asyncpg.PostgresError) -> str:
    if isinstance(error, asyncpg.InsufficientPrivilegeError):
        role = shlex.quote(await connection.fetchval("select current_user"))
        command = f"dbos-async migrate <url>{names.options} --grant {role}"
        return f"; run '{command}' as a role that may create in this database"
    if isinstance(error, _THERE_ALREADY):
        return f"; if that of the schema {names.schema} belongs to another program, choose another schema (schema=...)"
    return ""


_THERE_ALREADY = asyncpg.DuplicateTableError, asyncpg.DuplicateObjectError, asyncpg.DuplicateFunctionError


async def _make_table(connection: asyncpg.Connection[asyncpg.Record], names: Names) -> None:
    # "create … if not exists" would need the privilege to create even where everything exists.
    if not await connection.fetchval(names(FIND_SCHEMA)):
        await connection.execute(f"create schema {names.quoted_schema}")
    if not await connection.fetchval(names(FIND_TABLE)):
        await connection.execute(names(MAKE_TABLE))


async def _missing(
    connection: asyncpg.Connection[asyncpg.Record], names: Names, migrations: list[Migration], library: str
) -> list[Migration]:
    try:
        applied = {row["number"]: row for row in await connection.fetch(names(APPLIED))}
    except asyncpg.UndefinedTableError:
        return migrations
    except asyncpg.UndefinedColumnError:
        raise ConfigurationError(
            f"The schema {names.schema} has a table migrations of another program: choose another schema (schema=...)."
        ) from None
    except asyncpg.InsufficientPrivilegeError as error:
        await check_rights(connection, names, expected(migrations), WRITES)
        raise ConfigurationError(
            f"This role may not read {names.schema}.migrations ({error.args[0]}): connect as another role."
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
