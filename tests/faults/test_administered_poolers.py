"""What an administrator does to a pooler while an application runs: it pauses, and it changes its mode."""

from __future__ import annotations

import asyncio
import signal
import time
from typing import Any

import asyncpg
import pytest

from dbos_async import DBOS, ConfigurationError, DatabaseUnavailableError, DBOSClient
from tests.support.eventually import eventually
from tests.support.pgbouncer import needs_pgbouncer, running

pytestmark = [needs_pgbouncer, pytest.mark.direct("each test has a pooler of its own")]


@pytest.mark.listens("it is refused to listen")
async def test_d7_a_pooler_in_statement_mode_is_named_at_launch(database_url: str) -> None:
    async with running(database_url, pool_mode="statement") as pooler:
        url = pooler.url_of(database_url)
        several: tuple[Any, ...] = ({}, {"listen_url": database_url}, {"listen": False})
        for options in several:
            with pytest.raises(ConfigurationError, match="a pooler in statement mode.*set its pool_mode"):
                async with DBOSClient(url, **options):
                    pass


@DBOS.transaction(name="adds behind a pooler")
async def adds(connection: asyncpg.Connection[Any]) -> int:
    return int(await connection.fetchval("select 1"))


@DBOS.workflow(name="adds behind a pooler for ever")
async def adds_for_ever() -> None:
    while True:
        await adds()


@pytest.mark.parametrize("listens", [True, False])
async def test_d4_w5_while_a_pooler_is_paused_calls_and_the_shutdown_end_in_time(
    database_url: str, connection: Any, listens: bool, caplog: pytest.LogCaptureFixture
) -> None:
    options: Any = {"listen_url": database_url} if listens else {"listen": False}
    async with running(database_url) as pooler:
        async with DBOS(pooler.url_of(database_url), drain_seconds=0, connect_timeout_seconds=2, **options):
            await DBOS.start_workflow(adds_for_ever)
            assert await adds() == 1
            await eventually(lambda: connection.fetchval("select count(*) > 10 from dbos_async.steps"))
            pooler.signal(signal.SIGUSR1)  # PAUSE
            began = time.monotonic()
            with pytest.raises(DatabaseUnavailableError, match="nothing was committed"):
                while True:  # the pooler takes a moment to pause
                    await adds()
            assert time.monotonic() - began < 20, "not as long as the pooler lets it wait, which is two minutes"
            await eventually(lambda: "The database is unavailable" in caplog.text, "the log tells of it")
            began = time.monotonic()
        assert time.monotonic() - began < 40
        async with DBOS(database_url):  # the others do not wait for the pooler
            await eventually(lambda: connection.fetchval("select attempt > 1 from dbos_async.workflows"))


@DBOS.workflow(name="adds what it hears")
async def adds_what_it_hears() -> list[int]:
    heard = []
    while (number := await DBOS.recv("in", timeout_seconds=None)) != "end":
        await adds()
        heard.append(number)
    return heard


@pytest.mark.parametrize("listens", [True, False])
async def test_d2_w10_no_step_fails_when_a_pooler_changes_from_session_to_transaction_mode(
    database_url: str, listens: bool
) -> None:
    options: Any = {"listen_url": database_url} if listens else {"listen": False}
    async with (
        running(database_url, pool_mode="session", default_pool_size="30") as pooler,
        DBOS(pooler.url_of(database_url), **options),
    ):
        handles = [await DBOS.start_workflow(adds_what_it_hears) for _ in range(10)]
        for number in range(30):
            if number == 10:
                pooler.reload(pool_mode="transaction")
            await asyncio.gather(*(DBOS.send(handle.workflow_id, number, "in") for handle in handles))
            await asyncio.sleep(0.05)
        await asyncio.gather(*(DBOS.send(handle.workflow_id, "end", "in") for handle in handles))
        for handle in handles:
            assert await handle.get_result() == list(range(30))
        await eventually(_is_well)


async def _is_well() -> bool:
    return (await DBOS.health()).ok
