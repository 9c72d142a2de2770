"""The suite in a schema of another name: ``DBOS_TEST_SCHEMA=shop pytest …``.

Every program takes the schema from ``$DBOS_SCHEMA``. What the tests themselves read and write, as ``dbos_async.workflows``, is
translated on its way to the server. Tests of the name itself, and of what the doctor and migrations say, are for the usual name.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any, Final

import asyncpg

from dbos_async._database.access import SCHEMA_VARIABLE
from dbos_async._database.names import Names

TEST_VARIABLE: Final = "DBOS_TEST_SCHEMA"


def use_other_schema() -> None:
    """Use the schema of the variable, here and in the programs that are started from here."""
    schema = os.environ.get(TEST_VARIABLE)
    if schema is None:
        return
    os.environ[SCHEMA_VARIABLE] = schema
    names = Names(schema)
    for name in ("execute", "executemany", "fetch", "fetchrow", "fetchval", "cursor", "prepare"):
        setattr(asyncpg.Connection, name, _translating(getattr(asyncpg.Connection, name), names))


def _translating(method: Callable[..., Any], names: Names) -> Callable[..., Any]:
    @functools.wraps(method)
    def translated(connection: object, query: str, *args: Any, **options: Any) -> Any:
        query = query.replace("schema dbos_async", f"schema {names.quoted_schema}")
        return method(connection, names(query), *args, **options)

    return translated
