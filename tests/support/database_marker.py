"""The marker ``database``: it is derived from what a test uses, and a test without it cannot reach a server.

Every fixture through which a test reaches Postgres depends on the fixture ``postgres``, and each test that uses one is marked.
While any other test runs, connecting to Postgres or starting one fails, and so does the test, also if its code swallows that.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

SERVER = "DBOS_TEST_SERVER_OF_THIS_RUN"
"""The environment variable with the URL of the shared server; a test without the marker does not see it, nor do its programs."""

HIDDEN = SERVER, "DBOS_TEST_DATABASE_URL", "DBOS_TEST_POOLER", "DBOS_TEST_POOLER_PORT", "DBOS_TEST_PGBOUNCER"

PROGRAMS = {"postgres", "pg_ctl", "initdb"}

_tried: list[str] | None = None
"""What was tried although it is forbidden now; None while it is allowed."""

_ports: set[int] = {5432}


def mark(items: list[pytest.Item]) -> None:
    """Mark each test that reaches a server."""
    for item in items:
        if "postgres" in getattr(item, "fixturenames", ()):
            item.add_marker("database")


@contextmanager
def without_database() -> Iterator[list[str]]:
    """Let nothing in this process reach Postgres; the list gets what was tried."""
    global _tried
    before, _tried = _tried, []
    hidden = {name: os.environ.pop(name) for name in HIDDEN if name in os.environ}
    _ports.update(urlsplit(url).port or 5432 for url in hidden.values() if "://" in url)
    try:
        yield _tried
    finally:
        _tried = before
        os.environ.update(hidden)


@contextmanager
def guarded(item: pytest.Item) -> Iterator[None]:
    """Fail the test at the end of the block if it has not the marker and tried to reach Postgres."""
    if item.get_closest_marker("database") is not None:
        yield
        return
    with without_database() as tried:
        yield
    assert not tried, tried


def watch(event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook of the interpreter: refuses what reaches Postgres while that is forbidden."""
    if _tried is None:
        return
    if event == "socket.connect" and _is_postgres(arguments[1]):
        _tried.append(f"it connected to {arguments[1]}")
    elif event == "subprocess.Popen" and PROGRAMS & {Path(os.fsdecode(word)).name for word in arguments[1]}:
        _tried.append(f"it started {arguments[1][0]}")
    else:
        return
    raise PermissionError(f"{_tried[-1]}, and has not the marker database: use a fixture that depends on `postgres`")


def _is_postgres(address: Any) -> bool:
    if isinstance(address, str | bytes):
        return ".s.PGSQL." in os.fsdecode(address)
    return isinstance(address, tuple) and address[1] in _ports


sys.addaudithook(watch)
