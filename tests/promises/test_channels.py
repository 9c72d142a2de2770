"""What is announced is heard by whom it concerns, from the moment at which he first looks (D4, M1, W6)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from dbos_async import DBOS, DBOSClient, SetWorkflowID
from dbos_async._database import listener as listening
from dbos_async._database import migrations
from dbos_async._database.change_keys import UNOWNED_KEY, event_key, message_key
from dbos_async._database.listener import Listener
from dbos_async._database.names import Names
from dbos_async._messaging.send import SEND_EXTERNAL
from dbos_async._serialization.ids import ordered_id
from dbos_async.errors import ConfigurationError
from tests.conftest import Connect
from tests.support.channels import announcements
from tests.support.eventually import eventually

SOON = 8.0
"""Less than the slow interval, in which all is found anyway."""

SET_BY_HAND = """
    insert into dbos_async.events (workflow_id, key, seq, value, step, attempt, act)
    values ('w', $1, nextval('dbos_async.event_seq'), '1', '1', 1, 1)
"""

MADE_BY_HAND = """
    insert into dbos_async.workflows (id, name, input, start_id, attempt, owner)
    values ('w', 'hears', '{"args":[],"kwargs":{}}', gen_random_uuid(), 1000001, 'executor that is gone')
"""


WAITS = "select count(*) = 1 from dbos_async.steps where workflow_id = 'w' and completed_at is null"


@DBOS.workflow(name="hears")
async def hears() -> Any:
    return await DBOS.recv("t", timeout_seconds=60)


@DBOS.workflow(name="sets when asked")
async def sets_when_asked() -> None:
    while key := await DBOS.recv("key", timeout_seconds=60):
        await DBOS.set_event(key, key)


class Gate:
    """Holds up every LISTEN for a group while it is shut."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()
        self.opened.set()
        self.held: list[str] = []


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate, listen = Gate(), Listener._listen

    async def held_up(self: Listener, connection: Any, suffix: str) -> None:
        if len(suffix) == 2 and suffix != listening.EXECUTORS and not gate.opened.is_set():
            gate.held.append(suffix)
            await gate.opened.wait()
        await listen(self, connection, suffix)

    monkeypatch.setattr(Listener, "_listen", held_up)
    monkeypatch.setattr(listening, "ANSWER_WITHIN_SECONDS", 60.0)
    yield gate
    gate.opened.set()


async def set_elsewhere(connection: Any, key: str) -> None:
    """As an older release does."""
    await connection.execute(SET_BY_HAND, key)
    await connection.execute("select dbos_async.announce($1)", event_key("w", key))


@pytest.mark.listens("it holds up a LISTEN")
async def test_d4_a_wait_looks_first_when_it_hears_what_comes(
    dbos: DBOS, database_url: str, connection: Any, gate: Gate
) -> None:
    """A value that comes after the first look and before the LISTEN would be found by the slow interval only."""
    with SetWorkflowID("w"):
        await DBOS.start_workflow(sets_when_asked)
    async with DBOSClient(database_url) as client:
        gate.opened.clear()
        waiting = asyncio.create_task(client.get_event("w", "k", timeout_seconds=60))
        await eventually(lambda: gate.held, "it waits for the LISTEN")
        await DBOS.send("w", "k", "key")
        await eventually(lambda: connection.fetchval("select count(*) from dbos_async.events"), "the value is there")
        gate.opened.set()
        async with asyncio.timeout(SOON):
            assert await waiting == "k"


@pytest.mark.listens("its listener is terminated")
async def test_d4_what_comes_while_the_listener_connects_again_is_found(
    dbos: DBOS, database_url: str, connection: Any, gate: Gate
) -> None:
    with SetWorkflowID("w"):
        await DBOS.start_workflow(sets_when_asked)
    async with DBOSClient(database_url) as client:
        other = asyncio.create_task(client.get_event("w", "other", timeout_seconds=60))
        await eventually(lambda: any(client._database.wakeups.waiting))
        listener = client._database.listener
        assert isinstance(listener, listening.Listener)
        await eventually(lambda: listener._heard, "it listens")
        gate.opened.clear()
        # The last query of a listener is its LISTEN, and later its ping; this client has just begun.
        await connection.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where query like 'LISTEN%' and datname = current_database()"
        )
        await eventually(lambda: gate.held and not listener.is_listening, "it connects again")
        waiting = asyncio.create_task(client.get_event("w", "k", timeout_seconds=60))
        await eventually(lambda: client._database.wakeups.subscriptions(event_key("w", "k")))
        await asyncio.sleep(0.05)  # it may have looked once by now; the outcome is the same if it has not
        await DBOS.send("w", "k", "key")
        await DBOS.send("w", "other", "key")
        await eventually(lambda: connection.fetchval("select count(*) = 2 from dbos_async.events"), "they are there")
        gate.opened.set()
        async with asyncio.timeout(SOON):
            assert await waiting == "k"
            assert await other == "other"


@pytest.mark.listens("it looks at the channels of a listener")
async def test_a_channel_is_left_when_nobody_waits_there_and_heard_again(
    dbos: DBOS, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listening, "ASK_EVERY_SECONDS", 0.05)
    monkeypatch.setattr(listening, "UNLISTEN_AFTER_SECONDS", 0.1)
    with SetWorkflowID("w"):
        await DBOS.start_workflow(sets_when_asked)
    async with DBOSClient(database_url) as client:
        listener = client._database.listener
        assert isinstance(listener, listening.Listener)
        for key in ("a", "b"):
            waiting = asyncio.create_task(client.get_event("w", key, timeout_seconds=60))
            await eventually(lambda: listener._heard, "it listens")
            await DBOS.send("w", key, "key")
            async with asyncio.timeout(SOON):
                assert await waiting == key
            await eventually(lambda: not listener._heard, "it has left the channels")


async def test_d4_what_an_older_release_announces_is_heard(database_url: str, connection: Any) -> None:
    async with DBOSClient(database_url) as client:
        with SetWorkflowID("w"):
            await client.start_workflow("nobody has this")
        waiting = asyncio.create_task(client.get_event("w", "k", timeout_seconds=60))
        await eventually(lambda: client._database.wakeups.subscriptions(event_key("w", "k")))
        await set_elsewhere(connection, "k")
        async with asyncio.timeout(SOON):
            assert await waiting == 1


async def test_m1_w2_a_message_is_found_soon_whose_sender_saw_the_former_owner(
    database_url: str, connection: Any, connect: Connect
) -> None:
    """The sender's statement has read the owner, the workflow is taken over and looks, and then the sender commits."""
    await connection.execute(MADE_BY_HAND)
    sender = await connect()
    sent = sender.transaction()
    await sent.start()
    row = ordered_id(), "w", "t", '"late"', None, message_key("w", "t"), None
    (answer,) = await sender.fetch(SEND_EXTERNAL.sql.one_row, 0, *row)
    assert answer["error"] is None
    async with DBOS(database_url, executor_id="new"):
        await connection.execute("update dbos_async.workflows set owner = null where id = 'w'")
        await connection.execute("select dbos_async.announce($1)", UNOWNED_KEY)
        await eventually(lambda: connection.fetchval(WAITS), "the new owner has looked, and waits")
        result = asyncio.create_task((await DBOS.retrieve_workflow("w")).get_result())
        await sent.commit()
        async with asyncio.timeout(SOON):
            assert await result == "late"


@pytest.mark.listens("it is about what is heard")
async def test_who_does_not_know_the_secret_is_not_heard(
    dbos: DBOS, database_url: str, connection: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "dbos_async")
    channel = await migrations.channel(connection, Names())
    assert len(channel) == 37
    assert channel not in await connection.fetchval("select string_agg(prosrc, ' ') from pg_proc")
    for payload in ("", "no hex", "abc", "=" * 20):
        await connection.execute("select pg_notify('dbos_async', $1)", payload)
    with SetWorkflowID("w"):
        handle = await DBOS.start_workflow(hears)
    assert not caplog.records
    for payload in ("no hex", "abc", "=" * 20):
        await connection.execute("select pg_notify($1, $2)", channel, payload)
    async with DBOSClient(database_url) as client:
        await client.send("w", 1, "t")
    assert await handle.get_result() == 1
    assert [record.getMessage() for record in caplog.records] == [
        "A notification has a payload that is not from dbos_async and was ignored, as are all such."
    ]


@pytest.mark.direct("the pooler of the tests connects as one role")
async def test_d7_a_role_that_may_not_read_the_secret_is_told_so_and_an_older_release_goes_on(
    database_url: str, connection: Any
) -> None:
    role = f"role_{database_url.rpartition('/')[2].partition('?')[0]}"
    await connection.execute(f"""
        create role {role} login;
        grant usage on schema dbos_async to {role};
        grant select, insert, update, delete on all tables in schema dbos_async to {role};
        grant usage on all sequences in schema dbos_async to {role};
        revoke all on dbos_async.channels from {role};
    """)
    try:
        url = database_url.replace("postgres@", f"{role}@")
        with pytest.raises(
            ConfigurationError, match="lacks rights on the schema dbos_async .select on the table channels.*--grant"
        ):
            await DBOSClient(url).__aenter__()
        heard = await announcements(connection)
        await connection.execute(f"set role {role}")
        await connection.execute("select dbos_async.announce($1)", b"12345678")
        await connection.execute("reset role")
        assert await heard.of(b"12345678") == {""}
    finally:
        await connection.execute(f"drop owned by {role}; drop role {role}")
