"""Background services whose statements are refused for a while go on, and `DBOS.health` tells of it (W10, D4, W6)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dbos_async import DBOS, DBOSClient, SetWorkflowID, SetWorkflowTimeout
from dbos_async._lifecycle import leases, periodic
from tests.support.databases import execute
from tests.support.eventually import eventually
from tests.support.processes import running
from tests.support.proxy import Proxy
from tests.support.troubles import CODES, OURS, REFUSAL, renamed, trigger

pytestmark = pytest.mark.usefixtures("quiet")

REFUSALS = {
    "lease": ("executors", "true"),
    "claims": ("workflows", "new.owner is distinct from old.owner"),
    "deadlines": ("workflows", "new.status = 'CANCELLED'"),
}

EXECUTORS = "select string_agg(e::text, ',') from dbos_async.executors as e"


@DBOS.workflow(name="served")
async def served(n: int) -> int:
    return n


@DBOS.workflow()
async def wait() -> Any:
    return await DBOS.recv("go", timeout_seconds=None)


async def begin_what_services_do(client: DBOSClient, name: str) -> None:
    """Start a workflow that has to be claimed, and one that only the service for deadlines can end."""
    with SetWorkflowID(f"{name} claimed"):
        await client.start_workflow("served", 1)
    with SetWorkflowID(f"{name} due"), SetWorkflowTimeout(0.1):
        await client.start_workflow("known to nobody")


async def all_services_work(connection: Any, client: DBOSClient, name: str) -> None:
    """Wait until each service has done its work since this was called."""
    ended = "select status from dbos_async.workflows where id = $1"
    executors = await connection.fetchval(EXECUTORS)
    if await connection.fetchval(ended, f"{name} due") is None:
        await begin_what_services_do(client, name)

    async def has(workflow_id: str, status: str) -> bool:
        return bool(await connection.fetchval(ended, workflow_id) == status)

    async def is_renewed() -> bool:
        return bool(await connection.fetchval(EXECUTORS) != executors)

    await eventually(lambda: has(f"{name} claimed", "SUCCESS"), "claims go on", give_up_after_seconds=10)
    await eventually(lambda: has(f"{name} due", "CANCELLED"), "deadlines go on", give_up_after_seconds=10)
    await eventually(is_renewed, "the lease goes on", give_up_after_seconds=10)


def refusals_told(caplog: pytest.LogCaptureFixture) -> int:
    """How many log lines tell of a refusal."""
    return sum(REFUSAL in each.getMessage() or REFUSAL in (each.exc_text or "") for each in caplog.records)


@pytest.mark.parametrize("service", REFUSALS)
async def test_w10_d4_w6_a_service_that_is_refused_again_and_again_goes_on(
    database_url: str, connection: Any, service: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Once with each kind of refusal."""
    table, condition = REFUSALS[service]
    async with DBOS(database_url), DBOSClient(database_url) as client:
        async with trigger(connection, table, *CODES, operation="update", condition=condition) as refusing:
            await begin_what_services_do(client, "refused")
            await refusing.met(len(CODES))
        await all_services_work(connection, client, "refused")
        await all_services_work(connection, client, "later")
    assert 1 <= refusals_told(caplog) <= 2, "it is told, and not each time"


@pytest.mark.parametrize("service", REFUSALS)
async def test_w10_health_tells_what_is_refused_until_it_works(
    database_url: str, connection: Any, service: str
) -> None:
    table, condition = REFUSALS[service]
    async with DBOS(database_url), DBOSClient(database_url) as client:
        handle = await DBOS.start_workflow(wait)
        await eventually(lambda: connection.fetchval("select count(*) from dbos_async.steps"))
        before = await DBOS.health()
        assert before.ok, before
        assert before.reasons == []
        assert (before.running, before.waiting) == (1, 1)
        async with trigger(connection, table, "54000", operation="update", condition=condition):
            await begin_what_services_do(client, "refused")
            await eventually(_is_ill, "health tells of the refusal", give_up_after_seconds=5)
            health = await DBOS.health()
            assert REFUSAL in " ".join(health.reasons), health
        await eventually(_is_well, "health tells that it is over")
        assert (await DBOS.health()).reasons == []
        await DBOS.send(handle.workflow_id, 1, "go")
        assert await handle.get_result() == 1
        assert (await DBOS.health()).running == 0


async def _is_ill() -> bool:
    return not (await DBOS.health()).ok


async def _is_well() -> bool:
    return (await DBOS.health()).ok


@pytest.mark.direct("the pooler keeps connections that the server refuses by now")
async def test_w10_health_tells_of_a_database_that_lets_nobody_in_and_the_listener_comes_back(
    server_url: str, database_url: str, connection: Any
) -> None:
    """The server refuses connections with an error that is not one of a lost connection (55000)."""
    name = database_url.partition("?")[0].rpartition("/")[2]
    async with DBOS(database_url):
        handle = await DBOS.start_workflow(wait)
        await eventually(lambda: connection.fetchval("select count(*) from dbos_async.steps"))
        await execute(server_url, f'alter database "{name}" with allow_connections false')
        await connection.execute(f"select pg_terminate_backend(pid) {OURS}")
        await eventually(_is_ill, "health tells that the database cannot be reached")
        assert (await DBOS.health()).reasons
        await execute(server_url, f'alter database "{name}" with allow_connections true')
        await eventually(_is_well, "health tells that it is over")
        async with DBOSClient(database_url) as client:
            await client.send(handle.workflow_id, "heard", "go")
            async with asyncio.timeout(5):
                assert await handle.get_result() == "heard"
            await all_services_work(connection, client, "later")


UNCLAIMABLE = """
    insert into dbos_async.workflows (id, name, input, start_id, attempt, created_at)
    values ('alone', 'known to nobody', '[]', gen_random_uuid(), 0, now() - interval '2 minutes')
"""


async def test_w10_services_outlast_a_table_that_is_renamed_for_a_while(
    database_url: str, connection: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The lease, the search for expired executors and the report of unclaimable workflows need it."""
    monkeypatch.setattr(periodic, "REPORT_EVERY_SECONDS", 0.5)
    async with DBOS(database_url), DBOSClient(database_url) as client:
        async with renamed(connection, "executors"):
            await eventually(lambda: caplog.text.count("executors") > 0, "somebody misses the table")
            await asyncio.sleep(1.5)  # longer than the services of the lease and of the report pause
        await all_services_work(connection, client, "later")
        await connection.execute(UNCLAIMABLE)
        await eventually(lambda: "'known to nobody'" in caplog.text, "the report goes on")


class Strange(logging.Filter):
    """A filter of the user's that raises once for a log line that has a certain text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text
        self.raised = 0

    def filter(self, record: logging.LogRecord) -> bool:
        if self.text in record.getMessage() and not self.raised:
            self.raised += 1
            raise ZeroDivisionError("the user's filter is wrong")
        return True


@pytest.fixture
def strange(request: pytest.FixtureRequest) -> Iterator[Strange]:
    added = Strange(request.param)
    logging.getLogger("dbos_async").addFilter(added)
    yield added
    logging.getLogger("dbos_async").removeFilter(added)


@pytest.mark.parametrize("strange", ["its deadline has passed", "No live executor can run 1 workflow"], indirect=True)
async def test_w10_a_service_goes_on_after_an_error_that_is_not_the_database_s(
    database_url: str,
    connection: Any,
    strange: Strange,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(periodic, "REPORT_EVERY_SECONDS", 0.5)
    async with DBOS(database_url), DBOSClient(database_url) as client:
        await connection.execute(UNCLAIMABLE)
        await begin_what_services_do(client, "first")
        await eventually(lambda: strange.raised)
        caplog.clear()
        await all_services_work(connection, client, "later")
        await eventually(lambda: "'known to nobody'" in caplog.text, "the report goes on")


GO = asyncio.Event()
BEGUN: list[str] = []


@DBOS.step()
async def be_long() -> str:
    BEGUN.append("begun")
    await GO.wait()
    return "done"


@DBOS.workflow()
async def long() -> str:
    return await be_long()


async def test_w10_an_executor_whose_lease_ran_out_says_so_and_goes_on_when_it_can(
    database_url: str, connection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody else is there who could have taken its workflow over."""
    monkeypatch.setattr(leases, "LEASE_SECONDS", 1.5)
    GO.clear()
    BEGUN.clear()
    async with Proxy(database_url) as proxy, DBOS(proxy.url):
        handle = await DBOS.start_workflow(long)
        await eventually(lambda: BEGUN)
        proxy.hold()
        await eventually(_has_no_lease, "health tells of the lease")
        GO.set()
        await proxy.heal()
        async with asyncio.timeout(10):
            assert await handle.get_result() == "done"
        await eventually(_is_well)
        async with DBOSClient(database_url) as client:
            await all_services_work(connection, client, "later")
    assert await connection.fetchval("select count(*) from dbos_async.executors") == 0


async def _has_no_lease() -> bool:
    health = await DBOS.health()
    return not health.ok and not health.lease


async def test_w10_w3_runs_stop_when_their_workflows_have_been_taken_over(
    database_url: str, connection: Any, tmp_path: Path
) -> None:
    """The executor lives, and was cut off for longer than its lease."""
    ledger = tmp_path / "ledger"
    arguments = ("--lease", 2, "--ledger", ledger, "--seconds", 4)
    async with (
        Proxy(database_url) as proxy,
        running("troubled", proxy.url, "cut", *arguments, "--start", "pausing") as cut,
        running("troubled", database_url, "other", *arguments) as other,
        DBOSClient(database_url) as client,
    ):
        await asyncio.gather(cut.says("ready"), other.says("ready"), eventually(ledger.exists))
        proxy.hold()
        await eventually(lambda: ledger.read_text() == "cut pausing\n" * 2, "the other runs it")
        await proxy.heal()
        await eventually(lambda: " stops" in cut.errors, "its run stops")
        handle = await client.retrieve_workflow("cut pausing")
        assert await handle.get_result() == "paused"
        assert (await handle.get_status()).attempt == 2
        assert ledger.read_text() == "cut pausing\n" * 2
        other.process.kill()
        with SetWorkflowID("later"):
            handle = await client.start_workflow("waiting")
        await client.send("later", "it serves again", "go")
        async with asyncio.timeout(10):
            assert await handle.get_result() == "it serves again"
