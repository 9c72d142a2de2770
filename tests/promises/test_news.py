"""What a notification tells is what a read would have found (S1, S3, S5, E1, E3, D2, D4)."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from dbos_async import DBOS, DBOSClient, SetWorkflowID, StreamTimeoutError
from dbos_async._database import migrations
from dbos_async._database.batches import Batches
from dbos_async._database.calls import Call
from dbos_async._database.change_keys import end_key, event_key, stream_key
from dbos_async._database.listener import Listener
from dbos_async._database.names import Names
from dbos_async._database.news import StreamNews, read_news
from dbos_async._database.wakeups import MAX_UPDATES
from dbos_async._executor import launched
from dbos_async._messaging.streams import WRITE
from tests.support.channels import announcements
from tests.support.eventually import eventually
from tests.support.statements import forms, step

STRANGE = ["", "\n=:,.-", "ä€😀\u0000", {"a": [1, None, "😀"]}, None, 1.5, "x" * 1990, "y" * 2500, "ä" * 1500]


@DBOS.workflow(name="news: does as it is told")
async def obeys() -> str:
    while order := await DBOS.recv("order", timeout_seconds=60):
        verb, *values = order
        if verb == "write":
            for value in values:
                await DBOS.write_stream("s", value)
        elif verb == "many":
            await DBOS.write_stream_many("s", values)
        elif verb == "close":
            await DBOS.close_stream("s")
        elif verb == "set":
            await DBOS.set_event("e", values[0])
        elif verb == "fail":
            raise ValueError(values[0])
        elif verb == "retry":
            await writes_twice(values)
        else:
            return str(values[0])
    return ""


@DBOS.step(name="news: writes twice", retries_allowed=True, max_attempts=2, interval_seconds=0.0)
async def writes_twice(values: list[Any]) -> None:
    async with DBOS.stream_writer("s") as writer:
        for value in values:
            await writer.write(value)
            await writer.flush()
        attempts["news"] += 1
        if attempts["news"] % 2:
            raise ConnectionError("it is tried again")


attempts: Counter[str] = Counter()


@pytest.fixture
def polls(monkeypatch: pytest.MonkeyPatch) -> Callable[[DBOSClient], Counter[str]]:
    """How often a client has executed each statement."""
    counts: dict[int, Counter[str]] = {}
    execute = Batches.execute

    def counted(self: Batches, call: Call) -> Call:
        counts.setdefault(id(self), Counter())[call.statement.name] += 1
        return execute(self, call)

    monkeypatch.setattr(Batches, "execute", counted)
    return lambda client: counts.setdefault(id(client._database.batches), Counter())


async def tell(*order: Any) -> None:
    await DBOS.send("w", list(order), "order")


async def begin() -> None:
    with SetWorkflowID("w"):
        await DBOS.start_workflow(obeys)


@pytest.mark.listens("it counts polls in the place of notifications")
async def test_s1_s3_s4_what_is_told_is_what_is_read(
    dbos: DBOS, database_url: str, polls: Callable[[DBOSClient], Counter[str]]
) -> None:
    await begin()
    async with DBOSClient(database_url) as client:
        found: list[Any] = []
        entries: list[Any] = []

        async def read() -> None:
            nonlocal found
            async for value in client.read_stream("w", "s"):
                found += [value]

        async def read_entries() -> None:
            nonlocal entries
            async for entry in client.read_stream_entries("w", "s"):
                entries += [entry]

        async with asyncio.TaskGroup() as group:
            group.create_task(read())
            group.create_task(read_entries())
            await tell("write", "first")
            await eventually(lambda: found and entries)
            before = polls(client)["READ"]
            for number, value in enumerate(STRANGE[:-2]):
                await tell("write", value)
                await eventually(lambda count=number + 2: len(found) == count == len(entries))  # type: ignore[misc]
            await tell("many", *STRANGE[:-3])
            await eventually(lambda: len(found) == 1 + len(STRANGE[:-2]) + len(STRANGE[:-3]) == len(entries))
            assert polls(client)["READ"] == before, "nothing was read"
            for value in STRANGE[-2:]:
                await tell("write", value)
            await tell("many", *STRANGE)
            await tell("retry", "a", "b")
            await tell("write", "after")
            await tell("many", *map(str, range(3000)))
            await tell("close")
        again = [value async for value in client.read_stream("w", "s")]
        assert [value for value in found if value not in ("a", "b")] == [
            value for value in again if value not in ("a", "b")
        ]
        assert found[-3001] == "after"
        told_again = [entry async for entry in client.read_stream_entries("w", "s")]
        # What was taken back, and the rewind, are what a reader that came later does not see.
        assert [entry for entry in entries if entry in told_again] == told_again


@pytest.mark.listens("it counts polls in the place of notifications")
async def test_e1_e3_c3_what_is_told_of_an_event_is_what_is_read(
    dbos: DBOS, database_url: str, polls: Callable[[DBOSClient], Counter[str]]
) -> None:
    await begin()
    async with DBOSClient(database_url) as client:
        watched: list[Any] = []

        async def watch() -> None:
            nonlocal watched
            async for version in client.watch_event("w", "e"):
                watched += [version]

        watching = asyncio.create_task(watch())
        getting = asyncio.create_task(client.get_event("w", "e", timeout_seconds=60))

        def both_wait() -> bool:
            waiters = client._database.wakeups.subscriptions(event_key("w", "e"))
            return len(waiters) == 2 and all(one._waiter is not None for one in waiters)

        await eventually(both_wait, "both have looked")
        for number, value in enumerate([*STRANGE[-4:], *STRANGE[:-4]]):
            await tell("set", value)
            await eventually(lambda count=number + 1: len(watched) == count)  # type: ignore[misc]
            if number == 0:
                assert await getting == value
                assert polls(client)["READ_EVENT"] == 2, "nothing was read"
            (latest,) = [version async for version in _first(client)]
            assert watched[-1] == latest
        await tell("end", 1)
        await watching


async def _first(client: DBOSClient) -> Any:
    async for version in client.watch_event("w", "e"):
        yield version
        return


@pytest.mark.listens("it counts polls in the place of notifications")
@pytest.mark.parametrize(("order", "expected"), [(("end", "ä"), "ä"), (("end", "x" * 3000), "x" * 3000)])
async def test_w2_what_is_told_of_a_result_is_what_is_read(
    dbos: DBOS,
    database_url: str,
    polls: Callable[[DBOSClient], Counter[str]],
    order: tuple[str, str],
    expected: str,
) -> None:
    await begin()
    async with DBOSClient(database_url) as client:
        handle = await client.retrieve_workflow("w")
        waiting = asyncio.create_task(handle.get_result())
        await eventually(lambda: polls(client)["RESULT"] == 1)
        await tell(*order)
        assert await waiting == expected == await handle.get_result()
        assert polls(client)["RESULT"] == (2 if len(expected) < 1000 else 3)


@pytest.mark.listens("it counts polls in the place of notifications")
async def test_w2_an_error_is_told(dbos: DBOS, database_url: str, polls: Callable[[DBOSClient], Counter[str]]) -> None:
    await begin()
    async with DBOSClient(database_url) as client:
        waiting = asyncio.create_task((await client.retrieve_workflow("w")).get_result())
        await eventually(lambda: polls(client)["RESULT"] == 1)
        await tell("fail", "it failed")
        with pytest.raises(Exception, match="it failed"):
            await waiting
        assert polls(client)["RESULT"] == 1


@pytest.mark.listens("it counts polls in the place of notifications")
async def test_what_is_told_late_of_an_earlier_workflow_or_run_is_not_believed(
    dbos: DBOS, database_url: str, connection: Any, polls: Callable[[DBOSClient], Counter[str]]
) -> None:
    """A workflow of this id was deleted and started again, and what its first life has announced comes now."""
    await begin()
    channel = await migrations.channel(connection, Names())
    attempt = await connection.fetchval("select attempt from dbos_async.workflows")

    async def announce(key: bytes, news: str) -> None:
        await connection.execute("select pg_notify($1, $2)", f"{channel}_{key.hex()[0]}", f"={key.hex()}{news}")

    earlier_life, earlier_run = attempt - 1_000_000, attempt - 1
    async with DBOSClient(database_url) as client:
        reading = asyncio.create_task(anext(client.read_stream("w", "s", timeout_seconds=60)))
        getting = asyncio.create_task(client.get_event("w", "e", timeout_seconds=60))
        ending = asyncio.create_task((await client.retrieve_workflow("w")).get_result())
        await eventually(lambda: polls(client).keys() >= {"READ", "READ_EVENT", "RESULT"}, "all have looked")
        before = polls(client).copy()
        await announce(stream_key("w", "s"), f'v{earlier_life},0:5:"old"')
        await announce(event_key("w", "e"), f'e{earlier_life},{1 << 40},0:5:"old"')
        await announce(end_key("w"), f'r{earlier_run}:7,5,-:SUCCESS"old"')
        await eventually(
            lambda: all(polls(client)[name] > before[name] for name in ("READ", "READ_EVENT", "RESULT")),
            "all look again",
        )
        await tell("write", "new")
        await tell("set", "new")
        await tell("end", "new")
        assert (await reading, await getting, await ending) == ("new", "new", "new")


@pytest.mark.listens("it is about what is heard")
async def test_d4_what_is_no_news_is_ignored_with_one_warning(
    dbos: DBOS, database_url: str, connection: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "dbos_async")
    await begin()
    channel, key = await migrations.channel(connection, Names()), stream_key("w", "s")
    async with DBOSClient(database_url) as client:
        reading = asyncio.create_task(anext(client.read_stream("w", "s", timeout_seconds=60)))
        await eventually(lambda: client._database.wakeups.subscriptions(key))
        await eventually(lambda: isinstance(listener := client._database.listener, Listener) and listener._heard)
        for news in (
            "",
            "q",
            "v1",
            "v1,2:3:",
            "v1,2:x:abc",
            "v1:1:a",
            "e1,2:1:a",
            "r1:1:a",
            "v1,2:9:ab",
            f"e1,1,{10**30}:1:a",
        ):
            payload = f"={key.hex()}{news}"
            await connection.execute("select pg_notify($1, $2)", f"{channel}_{key.hex()[0]}", payload)
        await tell("write", "true")
        assert await reading == "true"
    assert len([record for record in caplog.records if "not from dbos_async" in record.getMessage()]) == 1


async def test_s5_a_slow_reader_of_another_process_keeps_little_and_misses_nothing(
    dbos: DBOS, database_url: str
) -> None:
    await begin()
    async with DBOSClient(database_url) as client:
        reading = client.read_stream("w", "s")
        await tell("write", 0)
        assert await anext(reading) == 0
        (subscription,) = client._database.wakeups.subscriptions(stream_key("w", "s"))
        for number in range(1, 3 * MAX_UPDATES):
            await tell("write", number)
        run = launched.executor().runs["w"]
        await eventually(lambda: run.writes is not None and run.writes.stream_ends["s"] == 3 * MAX_UPDATES - 1)
        assert len(subscription._updates or ()) <= MAX_UPDATES
        for number in range(1, 3 * MAX_UPDATES):
            assert await anext(reading) == number
        with pytest.raises(StreamTimeoutError):
            await anext(client.read_stream("w", "s", offset=3 * MAX_UPDATES, timeout_seconds=0.01))


async def test_own_notifications_that_come_back_are_harmless(dbos: DBOS, connection: Any) -> None:
    """As behind a pooler, where the server does not tell which process of it serves a connection."""
    database = launched.executor().database
    database.postgres.backends = _Nothing()
    await begin()
    found: list[Any] = []

    async def read() -> None:
        nonlocal found
        async for value in DBOS.read_stream("w", "s"):
            found += [value]

    reading = asyncio.create_task(read())
    for number in range(200):
        await tell("write", number)
        if number % 20 == 0:
            await eventually(lambda count=number + 1: len(found) == count)  # type: ignore[misc]
    await tell("set", "x")
    assert await DBOS.get_event("w", "e") == "x"
    await tell("end", "over")
    assert await (await DBOS.retrieve_workflow("w")).get_result() == "over"
    await reading
    assert found == [*range(200)]


class _Nothing(set[int]):
    def add(self, element: int) -> None:
        """Nothing is known of any connection."""


async def test_s1_news_of_a_batch_is_parted_as_notifications_allow(one: Any) -> None:
    """Each of sixteen channels gets few notifications, of less than 8,000 bytes each, and all news in its order."""
    told = await announcements(one)
    keys = [bytes([number % 3 << 4, *bytes(7)]) for number in range(60)]
    values = [f'"{"ä" * 900}{number}"' if number % 2 else f'"{"x" * 5000}{number}"' for number in range(60)]
    rows = [
        (*step(number + 1), "1", "write_stream", f"k{number % 3}", values[number], number, -1, keys[number])
        for number in range(60)
    ]
    columns = [list(column) for column in zip(*[(*row, None, None) for row in rows], strict=True)]
    sql = forms(WRITE)["new"].replace("__channel__", await migrations.channel(one, Names()))
    await one.fetch(sql, list(range(60)), *columns)
    payloads = await told.end()
    assert all(len(payload.encode()) < 8000 for _, payload in payloads)
    assert len(payloads) < 15
    news = [piece for _, payload in payloads for piece in read_news(payload)]
    for which in range(3):
        of_one = [piece.news for piece in news if piece.key == keys[which]]
        assert len(of_one) == 20
        expected = [(place, values[which + 3 * place]) for place in range(20) if (which + 3 * place) % 2]
        assert [(each.offset, each.values) for each in of_one if isinstance(each, StreamNews)] == [
            (place, (value,)) for place, value in expected
        ]
        assert of_one.count(None) == 10, "what is long is not told"
