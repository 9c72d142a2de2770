"""What stands in for notifications where there is no LISTEN: one statement that asks for all that a process waits for."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from typing import Any, get_args
from uuid import UUID, uuid4

import asyncpg
import pytest

from dbos_async import LaunchError
from dbos_async._database import polling, wakeups, watched
from dbos_async._database.access import Access
from dbos_async._database.change_keys import (
    DUE_KEY,
    LOCAL,
    UNOWNED_KEY,
    Kind,
    answer_key,
    end_key,
    event_key,
    message_key,
    stream_key,
)
from dbos_async._database.connection_kinds import SETTINGS
from dbos_async._database.database import Database
from dbos_async._database.polling import POLL, Polling
from dbos_async._database.watched import Rota
from tests.support.eventually import eventually

QUESTION = uuid4()

WORKFLOW = """
    insert into dbos_async.workflows (id, name, input, start_id, owner, attempt)
        values ('{}', 'f', '{{}}', gen_random_uuid(), {}, 1)
"""

SETTING = f"""
    {WORKFLOW.format("w", "'somebody'")};
    insert into dbos_async.messages (id, seq, destination_id, topic, payload, received_at)
        values ('{QUESTION}', nextval('dbos_async.message_seq'), 'w', 'quote', '1', now());
"""

SEND = """
    insert into dbos_async.messages (id, seq, destination_id, topic, payload)
        values (gen_random_uuid(), nextval('dbos_async.message_seq'), '{}', 't', '1')
"""

TAKE_ALL = "update dbos_async.messages set received_at = now()"

WRITE = """
    insert into dbos_async.stream_entries (workflow_id, key, "offset", value, step, attempt, act)
        select 'w', 'k', count(*), '1', '1', 1, 0 from dbos_async.stream_entries
"""

SET = """
    insert into dbos_async.events (workflow_id, key, seq, value, step, attempt, act)
        values ('w', 'k', nextval('dbos_async.event_seq'), '1', '1', 1, 0)
"""

CHANGES: dict[Kind, tuple[bytes, list[str]]] = {
    "message": (message_key("w", "t"), [SEND.format("w"), f"{TAKE_ALL}; {SEND.format('w')}"]),
    "event": (event_key("w", "k"), [SET] * 12),
    "stream": (stream_key("w", "k"), [WRITE] * 12),
    "answer": (
        answer_key(QUESTION),
        [f"update dbos_async.messages set answered_at = now(), answer = '1' where id = '{QUESTION}'"],
    ),
    "end": (
        end_key("w"),
        [
            "update dbos_async.workflows set status = 'REPLAY_MISMATCH', owner = null where id = 'w'",
            "update dbos_async.workflows set status = 'CANCELLED', ended_at = now() where id = 'w'",
            "delete from dbos_async.workflows where id = 'w'",
        ],
    ),
    "unowned": (
        UNOWNED_KEY,
        [
            WORKFLOW.format("u1", "null"),
            WORKFLOW.format("u2", "null"),
            "update dbos_async.workflows set owner = null where id = 'w'",
        ],
    ),
}
"""Of each kind of key that another process can change: a key, and what changes it, one after the other."""

TAKE = """
    update dbos_async.messages set received_at = now()
    where destination_id = $1 and topic = 't' and received_at is null returning seq
"""


def waits_of(database: Database) -> Rota:
    """What it asks for."""
    assert isinstance(database.listener, Polling)
    return database.listener._waits


@pytest.fixture
async def database(database_url: str, connection: Any) -> AsyncIterator[Database]:
    """A database that is asked for changes."""
    await connection.execute(SETTING)
    opened = Database(Access(database_url, listen=False))
    await opened.open(migrate=False)
    yield opened
    await opened.close()


def test_every_kind_of_key_that_another_process_can_change_is_polled() -> None:
    assert CHANGES.keys() == set(get_args(Kind)) - LOCAL, "a new kind needs a version in POLL, and changes here"


@pytest.mark.parametrize("kind", CHANGES)
async def test_d4_every_change_of_another_process_wakes_its_waiters(
    kind: Kind, database: Database, connection: Any
) -> None:
    key, statements = CHANGES[kind]
    # Made again, since keys know their names once something polls.
    key = {"message": message_key("w", "t"), "event": event_key("w", "k"), "stream": stream_key("w", "k"),
           "answer": answer_key(QUESTION), "end": end_key("w")}.get(kind, key)  # fmt: skip
    with database.changes(key) as changes:
        await anext(changes)
        for statement in statements:
            await connection.execute(statement)
            async with asyncio.timeout(5):
                await anext(changes)
    assert not waits_of(database).has_waits


async def test_nobody_is_woken_while_nothing_changes(database: Database, connection: Any) -> None:
    await connection.execute(SEND.format("w"))
    await connection.execute(SET)
    keys = message_key("w", "t"), event_key("w", "k"), stream_key("w", "k"), end_key("w"), UNOWNED_KEY
    with database.changes(*keys) as changes:
        await anext(changes)
        async with asyncio.timeout(5):
            await anext(changes)  # The first look cannot know whether the waiter has seen what is there.
        before = changes.wakes
        await asyncio.sleep(1.5)
        assert changes.wakes == before


async def test_local_keys_are_not_polled_and_others_must_know_their_names(database: Database) -> None:
    with database.changes(DUE_KEY) as changes:
        await anext(changes)
        database.wakeups.wake(DUE_KEY)
        await anext(changes)
        assert not waits_of(database).has_waits
    with pytest.raises(TypeError, match="made by a function of change_keys"), database.changes(b"12345678"):
        pass


async def test_d4_a_change_between_the_poll_of_a_waiter_and_the_first_look_is_not_lost(
    database: Database, connection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first version that a look finds is that after the change."""
    monkeypatch.setattr(polling, "BUSY_SECONDS", 0.3)
    for _ in range(3):
        with database.changes(message_key("w", "t"), end_key("w")) as changes:
            await anext(changes)
            assert not await connection.fetch(TAKE, "w"), "the waiter finds nothing"
            await connection.execute(SEND.format("w"))
            async with asyncio.timeout(5):
                await anext(changes)
            assert len(await connection.fetch(TAKE, "w")) == 1


@pytest.mark.parametrize("is_seen", [True, False], ids=["seen as taken", "not seen as taken"])
async def test_m4_a_message_that_is_committed_after_a_later_one_is_not_lost(
    is_seen: bool, database: Database, connection: Any, connect: Any
) -> None:
    slow, key = await connect(), message_key("w", "t")
    with database.changes(key) as changes:
        await anext(changes)
        transaction = slow.transaction()
        await transaction.start()
        await slow.execute(SEND.format("w"))
        await connection.execute(SEND.format("w"))
        async with asyncio.timeout(5):
            await anext(changes)
        assert len(await connection.fetch(TAKE, "w")) == 1
        if is_seen:
            await eventually(lambda: waits_of(database)._waits[key].seen is None)
        await transaction.commit()
        async with asyncio.timeout(5):
            await anext(changes)
        assert len(await connection.fetch(TAKE, "w")) == 1


@pytest.mark.parametrize("rest", [True, False])
async def test_m1_no_message_is_lost_among_many_quiet_queues(
    rest: bool, database: Database, connect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Old waits are asked for all at once. Transactions of two senders overlap with each other and with every look."""
    monkeypatch.setattr(watched, "FRESH_LOOKS", 1)
    monkeypatch.setattr(watched, "MOST", 7)
    monkeypatch.setattr(wakeups, "RECHECK_TICK_SECONDS", 1000.0)
    taken: Counter[str] = Counter()
    sent: Counter[str] = Counter()

    async def take(name: str) -> None:
        with database.changes(message_key(name, "t")) as changes:
            async for _ in changes:
                async with database.postgres.acquire() as connection:
                    taken[name] += len(await connection.fetch(TAKE, name))

    async def send(connection: Any, seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(60):
            name = f"w{chance.randrange(30)}"
            async with connection.transaction():
                await connection.execute(SEND.format(name))
                await asyncio.sleep(chance.choice((0, 0, 0.01, 0.05)))
            sent[name] += 1
            await asyncio.sleep(chance.choice((0, 0.01, 0.7 if rest and chance.random() < 0.1 else 0.02)))

    takers = [asyncio.create_task(take(f"w{n}")) for n in range(30)]
    await asyncio.gather(*[send(await connect(), seed) for seed in range(2)])
    await eventually(lambda: taken == sent, f"{sent} were sent, {taken} taken", give_up_after_seconds=5)
    for taker in takers:
        taker.cancel()
    await asyncio.wait(takers)


async def test_w7_ten_thousand_waits_are_asked_for_in_parts(
    database: Database, connection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    ask = Polling._poll

    async def poll(self: Polling, each: Sequence[watched.Watched]) -> Any:
        asked.append(len(each))
        return await ask(self, each)

    monkeypatch.setattr(Polling, "_poll", poll)
    async with AsyncExitStack() as stack:
        for n in range(10_000):
            await anext(stack.enter_context(database.changes(message_key(f"w{n}", "t"))))
        await eventually(lambda: not waits_of(database).fresh)
        assert 0 < max(asked) <= 1.25 * watched.MOST
        await eventually(lambda: asked[-3:] == [1, 1, 1], "one look is enough as long as nothing changes")
        with database.changes(message_key("w9999", "t")) as changes:
            await anext(changes)
            await connection.execute(SEND.format("w9999"))
            async with asyncio.timeout(5):
                await anext(changes)
    assert not waits_of(database).has_waits


async def test_d4_a_poll_that_fails_is_repeated_and_then_everybody_looks(
    database: Database, connection: Any, caplog: pytest.LogCaptureFixture
) -> None:
    listener = database.listener
    assert isinstance(listener, Polling)
    with database.changes(message_key("w", "t")) as changes:
        await anext(changes)
        await connection.execute("alter table dbos_async.events rename to hidden")
        await eventually(lambda: not listener.is_listening)
        assert 'relation "dbos_async.events" does not exist' in listener.last_error
        await connection.execute("alter table dbos_async.hidden rename to events")
        async with asyncio.timeout(5):
            await anext(changes)
        assert listener.is_listening
    assert len([each for each in caplog.messages if each.startswith("A poll for changes")]) == 1


async def test_a_wait_ends_when_the_database_is_closed(database_url: str) -> None:
    opened = Database(Access(database_url, listen=False))
    await opened.open(migrate=False)
    with opened.changes(UNOWNED_KEY) as changes:
        await anext(changes)
        waiting = asyncio.ensure_future(anext(changes))
        await asyncio.sleep(0)
        await opened.close()
        with pytest.raises(LaunchError):
            await waiting


async def test_the_statement_only_reads(connection: Any) -> None:
    """So it works on a standby, too."""
    await connection.execute(SETTING)
    kinds = ["message", "queues", "event", "stream", "answer", "end", "run", "runs", "unowned"]
    ids = [str(QUESTION) if kind == "answer" else "w" for kind in kinds]
    names = ["1" if kind == "run" else "t" for kind in kinds]
    async with connection.transaction(readonly=True):
        await connection.fetch(POLL.sql.batch, (), kinds, ids, names, ())
        assert await connection.fetchval("select pg_current_xact_id_if_assigned()") is None
        locks = "select distinct mode from pg_locks where pid = pg_backend_pid() and locktype in ('relation', 'tuple')"
        assert [row["mode"] for row in await connection.fetch(locks)] == ["AccessShareLock"]


MANY = """
    insert into dbos_async.workflows (id, name, input, start_id, owner, attempt, status)
        select 'f' || n, 'f', '{}', gen_random_uuid(), case when n % 100 = 0 then 'me' when n % 100 < 90 then 'somebody' end, 1,
               case when n % 3 = 0 then 'SUCCESS' else 'PENDING' end
        from generate_series(1, 30000) as n;
    insert into dbos_async.messages (id, seq, destination_id, topic, payload, received_at)
        select md5(n::text)::uuid, nextval('dbos_async.message_seq'), 'f' || n % 10000, 't', '1', case when n % 2 = 0 then now() end
        from generate_series(1, 50000) as n;
    insert into dbos_async.events (workflow_id, key, seq, value, step, attempt, act)
        select 'f' || n % 10000, 't', nextval('dbos_async.event_seq'), '1', '1', 1, 0 from generate_series(1, 50000) as n;
    insert into dbos_async.stream_entries (workflow_id, key, "offset", value, step, attempt, act)
        select 'f' || n % 100, 't', n / 100, '1', '1', 1, 0 from generate_series(0, 49999) as n;
"""


@pytest.mark.parametrize("analyzed", [True, False])
@pytest.mark.parametrize("settings", [SETTINGS, {"application_name": "behind a pooler"}], ids=["ours", "the server's"])
async def test_a_poll_reads_by_index_alone(
    settings: dict[str, str], analyzed: bool, database_url: str, connection: Any
) -> None:
    await connection.execute(MANY)
    if analyzed:
        await connection.execute("analyze")
    rows = [
        *((kind, f"f{n}", "t", None) for kind in ("message", "event", "stream", "end") for n in range(1, 200)),
        *(("run", f"f{n}", "1", None) for n in range(1, 200)),
        *(("answer", str(UUID(int=n)), "", None) for n in range(100)),
        ("queues", "", "", None), ("runs", "me", "", None), ("unowned", "", "", None),
    ]  # fmt: skip
    plain = await asyncpg.connect(database_url, server_settings=settings)
    try:
        answer = await plain.fetchval(
            f"explain (analyze, buffers, format json) {POLL.sql.batch}", (), *map(list, zip(*rows, strict=True))
        )
    finally:
        await plain.close()
    plan = json.loads(answer)[0]["Plan"]
    scans = [node for node in _nodes(plan) if "Relation Name" in node and node["Actual Loops"]]
    assert len(scans) >= 9
    for scan in scans:
        is_by_index = "Index" in scan["Node Type"] or scan["Node Type"] == "Bitmap Heap Scan"
        assert is_by_index, f"{scan['Node Type']} on {scan['Relation Name']}"
        assert scan.get("Rows Removed by Filter", 0) <= 1, scan
        # Without statistics the planner prefers to sort all messages that wait. Then the look is slow, and is given up.
        assert scan["Actual Rows"] <= 1001 or (scan["Node Type"] == "Bitmap Heap Scan" and not analyzed), scan
    if analyzed:
        assert plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] <= 8 * len(rows)


def _nodes(plan: dict[str, Any]) -> list[dict[str, Any]]:
    return [plan, *(node for child in plan.get("Plans", ()) for node in _nodes(child))]
