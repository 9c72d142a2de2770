"""What a database refuses for a while is waited for; only an error that concerns a value becomes an outcome (W10, D2, D4)."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import pytest

from dbos_async import (
    DBOS,
    DBOSClient,
    DBOSError,
    InvalidValueError,
    SetWorkflowID,
)
from tests.support.databases import execute
from tests.support.eventually import eventually
from tests.support.troubles import CODES, OURS, renamed, trigger

pytestmark = pytest.mark.usefixtures("quiet")

TABLES = ("workflows", "steps", "messages", "events", "stream_entries")

RAN: Counter[tuple[str | None, int]] = Counter()

ERRORS = """
    select (select count(*) from dbos_async.workflows where error is not null or status <> 'SUCCESS')
         + (select count(*) from dbos_async.steps where error is not null)
"""


@DBOS.step()
async def effect(n: int) -> int:
    RAN[DBOS.workflow_id, n] += 1
    return n + 1


@DBOS.step()
async def tell() -> None:
    """Writes from inside a step, which have no step of their own."""
    RAN[DBOS.workflow_id, 0] += 1
    await DBOS.send(str(DBOS.workflow_id), 0, "inside")
    await DBOS.set_event("inside", 0)
    await DBOS.write_stream("inside", 0)


@DBOS.workflow()
async def double(n: int) -> int:
    return 2 * n


@DBOS.workflow(name="everything refused")
async def everything() -> list[Any]:
    """Each verb once."""
    me = str(DBOS.workflow_id)
    n = await effect(1)
    await DBOS.set_event("e", n)
    await DBOS.write_stream("s", n)
    await DBOS.send(me, n, "t")
    await tell()
    return [
        n,
        await DBOS.recv("t", 20),
        await double(n),
        await DBOS.get_event(me, "e", 1),
        await DBOS.recv("inside", 0),
    ]


@DBOS.workflow()
async def go_on() -> int:
    """Steps and verbs until a message ends it; returns how many rounds it made."""
    n = 0
    while await DBOS.recv("end", 0) is None:
        assert await effect(n) == n + 1
        await DBOS.set_event("n", n)
        await DBOS.write_stream("n", n)
        n += 1
        await asyncio.sleep(0.01)
    return n


async def all_is_right(connection: Any, rounds: int, workflow_id: str) -> None:
    """Check what a run of `go_on` has left: each act once, nothing recorded as an error."""
    assert {n: count for (ran_in, n), count in RAN.items() if ran_in == workflow_id} == dict.fromkeys(range(rounds), 1)
    written = "select array_agg(value::text::int order by {}) from dbos_async.{} where workflow_id = $1"
    for table, column in (("stream_entries", '"offset"'), ("events", "seq")):
        assert await connection.fetchval(written.format(column, table), workflow_id) == list(range(rounds))
    assert await connection.fetchval(ERRORS) == 0


@pytest.mark.parametrize("table", TABLES)
async def test_d4_d2_w10_a_workflow_outlasts_what_is_refused_for_a_while(
    database_url: str, connection: Any, table: str
) -> None:
    """Each row that it writes to that table is refused with each of the codes before it is stored."""
    async with DBOS(database_url):
        async with trigger(connection, table, *CODES, lets_through=True) as refusing:
            handle = await DBOS.start_workflow(everything)
            assert await handle.get_result() == [2, 2, 4, 2, 0]
            assert await refusing.tries() > len(CODES)
        assert {RAN[handle.workflow_id, n] for n in (0, 1)} == {1}
        assert await connection.fetchval(ERRORS) == 0
        assert (await handle.get_status()).attempt == 1


async def test_d2_an_error_that_concerns_a_value_becomes_the_outcome(database_url: str, connection: Any) -> None:
    """As in a database whose encoding has not every character (22P05)."""

    @DBOS.workflow()
    async def say() -> list[str]:
        said = []
        for act in (lambda: effect(7), lambda: DBOS.set_event("e", 7), lambda: DBOS.send(str(DBOS.workflow_id), 7)):
            try:
                await act()
            except Exception as error:
                said.append(type(error).__name__)
                assert isinstance(error, DBOSError)
        return said

    async with DBOS(database_url), contextlib.AsyncExitStack() as stack:
        for table, column in (("steps", "output"), ("events", "value"), ("messages", "payload")):
            condition = f"new.{column}::text in ('7', '8')"
            await stack.enter_async_context(trigger(connection, table, "22P05", condition=condition))
        with SetWorkflowID("sayer"):
            handle = await DBOS.start_workflow(say)
        async with asyncio.timeout(5):
            first = await handle.get_result()
        assert len(first) == 3
        assert first[0] == InvalidValueError.__name__
        assert RAN["sayer", 7] == 1
        await connection.execute(
            "update dbos_async.workflows set status = 'REPLAY_MISMATCH', ended_at = null, output = null"
        )
        handle = await DBOS.resume_workflow("sayer")
        assert await handle.get_result() == first
        assert RAN["sayer", 7] == 1


async def go_on_through(connection: Any, url: str, faults: list[Callable[[], Awaitable[None]]]) -> None:
    """Let a workflow go on while each of these happens, and between them; then it ends well."""
    query = "select count(*) from dbos_async.stream_entries where workflow_id = $1"
    async with DBOS(url), DBOSClient(url) as client:
        handle = await DBOS.start_workflow(go_on)

        async def goes_on() -> None:
            now = await connection.fetchval(query, handle.workflow_id)

            async def more() -> bool:
                return bool(await connection.fetchval(query, handle.workflow_id) > now + 2)

            await eventually(more, "the workflow goes on", give_up_after_seconds=10)

        for fault in faults:
            await goes_on()
            await fault()
        await goes_on()
        await client.send(handle.workflow_id, "it", "end")
        rounds = await handle.get_result()
        await all_is_right(connection, rounds, handle.workflow_id)
        assert (await handle.get_status()).attempt == 1


async def test_d4_w10_a_workflow_outlasts_tables_that_are_renamed_for_a_while(
    database_url: str, connection: Any
) -> None:
    """As in a restore into other names."""

    def rename(table: str) -> Callable[[], Awaitable[None]]:
        async def rename_it() -> None:
            async with renamed(connection, table):
                await asyncio.sleep(0.4)

        return rename_it

    await go_on_through(connection, database_url, [rename(table) for table in TABLES])


@pytest.fixture
async def own_role(database_url: str, connection: Any) -> AsyncIterator[str]:
    """A role that may do what executors do, and nothing else."""
    role = f"app_{uuid4().hex[:12]}"
    await connection.execute(f"""
        create role {role} login password 'app';
        grant usage on schema dbos_async to {role};
        grant all on all tables in schema dbos_async to {role};
        grant all on all sequences in schema dbos_async to {role};
    """)
    yield role
    await connection.execute(f"drop owned by {role}; drop role {role}")


async def test_d4_w10_a_workflow_outlasts_rights_that_are_revoked_for_a_while(
    database_url: str, connection: Any, own_role: str
) -> None:
    parts = urlsplit(database_url)
    place = parts.netloc.rpartition("@")[2]
    url = urlunsplit(("postgresql", f"{own_role}:app@{place}", parts.path, parts.query, ""))

    def revoke(what: str) -> Callable[[], Awaitable[None]]:
        async def revoke_it() -> None:
            await connection.execute(f"revoke all on {what} from {own_role}")
            await asyncio.sleep(0.4)
            right = "usage" if what.startswith("schema") else "all"
            await connection.execute(f"grant {right} on {what} to {own_role}")

        return revoke_it

    whats = (
        "table dbos_async.steps",
        "all tables in schema dbos_async",
        "all sequences in schema dbos_async",
        "schema dbos_async",
    )
    await go_on_through(connection, url, [revoke(what) for what in whats])


async def test_d4_w10_a_workflow_outlasts_a_statement_timeout(database_url: str, connection: Any) -> None:
    """Statements take longer than the server lets them, for a while."""
    name = await connection.fetchval("select current_database()")
    await connection.execute(f'alter database "{name}" set statement_timeout = 200')

    async def slow_down() -> None:
        async with trigger(connection, "steps", seconds=0.5) as slowing:
            await eventually(slowing.tries)
            await asyncio.sleep(1)

    await go_on_through(connection, database_url, [slow_down])


async def test_d4_w10_a_workflow_outlasts_sessions_that_may_only_read(database_url: str, connection: Any) -> None:
    """As while an operator has the database copied: new sessions are read-only."""
    name = await connection.fetchval("select current_database()")

    async def only_read() -> None:
        await connection.execute(f'alter database "{name}" set default_transaction_read_only = on')
        await connection.execute(f"select pg_terminate_backend(pid) {OURS}")
        await asyncio.sleep(0.5)
        await execute(
            database_url,
            f'alter database "{name}" reset default_transaction_read_only',
            default_transaction_read_only="off",
        )

    await go_on_through(connection, database_url, [only_read])
