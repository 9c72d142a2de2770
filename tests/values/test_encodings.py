"""A database whose encoding cannot store every text is refused by a launch, in one sentence: promises D1, D3 and D5."""

from __future__ import annotations

import pytest

from dbos_async import DBOS, ConfigurationError, DBOSClient
from tests.support.databases import execute, with_database


@pytest.mark.parametrize("encoding", ["EUC_JP", "SQL_ASCII", "LATIN1"])
async def test_d5_a_launch_refuses_a_database_that_cannot_store_every_text(database_url: str, encoding: str) -> None:
    name = f"encoded_in_{encoding.lower()}"
    await execute(
        database_url,
        f"drop database if exists {name}",
        f"create database {name} encoding '{encoding}' locale 'C' template template0",
    )
    url = with_database(database_url, name)
    try:
        for opened in (DBOS(url), DBOS(url, migrate=False), DBOSClient(url)):
            with pytest.raises(ConfigurationError, match=f"encoded in {encoding}, .*: create one with ENCODING 'UTF8'"):
                async with opened:
                    pass
    finally:
        await execute(database_url, f"drop database {name} with (force)")
