"""What the tests of the web layer have in common."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.support.web import serving
from tests.support.web_app import application


@pytest.fixture
async def site(database_url: str) -> AsyncIterator[str]:
    """The address of the application, served; DBOS is launched by it."""
    async with serving(application(database_url, heartbeat_seconds=0.1)) as address:
        yield address
