"""What the tests of the page have in common."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from dbos_async import DBOS
from tests.support.page_app import Visitor, mounted
from tests.support.page_seed import parked, seed


@pytest.fixture
async def visitor(dbos: DBOS) -> AsyncIterator[Visitor]:
    """Somebody at the page of a launched DBOS, on this machine."""
    async with Visitor(mounted()) as visitor:
        yield visitor


@pytest.fixture
async def seeded(database_url: str) -> AsyncIterator[Visitor]:
    """Somebody at the page of an application with every kind of trouble."""
    await seed(database_url)
    async with DBOS(database_url, executor_id="shop-2", application_version="2.1"), Visitor(mounted()) as visitor:
        await parked()
        yield visitor
