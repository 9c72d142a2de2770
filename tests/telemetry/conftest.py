"""A launched DBOS that tells OpenTelemetry what happens."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from dbos_async import DBOS
from tests.support.telemetry import Exported, exporting


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> Iterator[Exported]:
    """The providers that the program has set before the launch."""
    with exporting(monkeypatch) as found:
        yield found


@pytest.fixture
async def told(exported: Exported, database_url: str) -> AsyncIterator[Exported]:
    """What a launched DBOS has told."""
    async with DBOS(database_url, executor_id="told", application_version="7"):
        yield exported
