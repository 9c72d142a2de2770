"""What several files of promises share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from dbos_async import DBOS
from tests.support.transactions import SESSIONS, Kind, engine_of


@pytest.fixture(params=["asyncpg", "sqlalchemy"])
async def kind(request: pytest.FixtureRequest, database_url: str) -> AsyncIterator[Kind]:
    """Both kinds of transactional steps, one after the other."""
    engine = engine_of(database_url)
    SESSIONS.configure(bind=engine)
    yield Kind(request.param)
    await engine.dispose()


@pytest.fixture
async def notes(dbos: DBOS, connection: Any) -> Any:
    """A connection to a database with a table that transactions write."""
    await connection.execute("create table notes (what text)")
    return connection
