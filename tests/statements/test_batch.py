"""Batches, wake-ups and the listener by themselves: what holds the primitives up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final

import asyncpg
import pytest

from dbos_async import DBOS, ConfigurationError, DatabaseUnavailableError, DBOSClient, InvalidValueError, LaunchError
from dbos_async._database.access import Access
from dbos_async._database.batches import MAX_BYTES, MAX_CALLS, Batches
from dbos_async._database.calls import Call, Observer, Result
from dbos_async._database.change_keys import digest
from dbos_async._database.connections import Postgres
from dbos_async._database.sql import parse
from dbos_async._database.urls import shown_url
from dbos_async._database.wakeups import Wakeups
from tests.support.databases import with_database
from tests.support.eventually import eventually

with parse(
    "test_batch",
    """
-- name: ECHO (value text)
select n, value, count(*) over () as together, pg_backend_pid() as backend from :rows

-- name: DIVIDE (value int)
select n, 100 / value from :rows

-- name: SLOW (value float8)
select n, pg_sleep(value) from :rows
""",
) as sql:
    ECHO: Final = sql.statement("ECHO", parallelism=1)
    DIVIDE: Final = sql.statement("DIVIDE", parallelism=1)
    SLOW: Final = sql.statement("SLOW", parallelism=1)

IS_SLEEPING = "select true from pg_stat_activity where datname = current_database() and wait_event = 'PgSleep'"


class Made(Observer):
    """Notes which calls were committed."""

    def __init__(self, made: list[Any]) -> None:
        self._made = made

    def on_result(self, call: Call, result: Result) -> None:
        self._made.append(result)


@pytest.fixture
async def wakeups() -> Wakeups:
    return Wakeups()


@pytest.fixture
async def batches(database_url: str, wakeups: Wakeups) -> AsyncIterator[Batches]:
    postgres = Postgres(Access(database_url))
    batches = Batches(postgres, wakeups)
    yield batches
    await batches.close()
    await postgres.close()


async def test_concurrent_calls_ride_together_and_a_lone_one_goes_at_once(batches: Batches) -> None:
    (lone,) = await batches.call(ECHO, [("x",)], partition="")
    assert lone["together"] == 1
    answers = await asyncio.gather(*(batches.call(ECHO, [(str(n),)], partition="") for n in range(100)))
    assert [answer[0]["value"] for answer in answers] == [str(n) for n in range(100)]
    assert {answer[0]["together"] for answer in answers} == {100}


async def test_a_batch_ends_at_500_calls_or_a_mebibyte(batches: Batches) -> None:
    answers = await asyncio.gather(*(batches.call(ECHO, [("x",)], partition="") for _ in range(MAX_CALLS + 1)))
    assert [answer[0]["together"] for answer in answers] == [MAX_CALLS] * MAX_CALLS + [1]
    calls = (batches.call(ECHO, [("x",)], partition="", size=MAX_BYTES // 3 + 1) for _ in range(4))
    assert [answer[0]["together"] for answer in await asyncio.gather(*calls)] == [2, 2, 2, 2]
    (large,) = await asyncio.gather(batches.call(ECHO, [("x",)] * 2000, partition="", size=5 * MAX_BYTES))
    assert len(large) == 2000


async def test_a_bad_call_fails_alone(batches: Batches) -> None:
    calls = (batches.call(DIVIDE, [(value,)], partition="") for value in (1, 2, 0, 4, 0))
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(o) if isinstance(o, BaseException) else o[0][1] for o in outcomes] == [
        100, 50, InvalidValueError, 25, InvalidValueError,
    ]  # fmt: skip
    assert isinstance(outcomes[2], InvalidValueError)
    assert isinstance(outcomes[2].__cause__, asyncpg.DivisionByZeroError)
    odd: list[Any] = [1, "one", 4]
    outcomes = await asyncio.gather(
        *(batches.call(DIVIDE, [(value,)], partition="") for value in odd), return_exceptions=True
    )
    assert [isinstance(o, BaseException) for o in outcomes] == [False, True, False]


async def test_calls_of_one_lane_keep_their_order(batches: Batches) -> None:
    done: list[int] = []

    async def call(n: int) -> None:
        await batches.call(ECHO, [(str(n),)], partition="")
        done.append(n)

    tasks = []
    for n in range(50):
        tasks.append(asyncio.create_task(call(n)))
        await asyncio.sleep(0)
    await asyncio.gather(*tasks)
    assert done == list(range(50))


async def test_a_call_that_is_cancelled_before_it_left_is_not_made(batches: Batches, connection: Any) -> None:
    made: list[Any] = []
    slow = batches.call(SLOW, [(0.5,)], partition="")
    await eventually(lambda: connection.fetchval(IS_SLEEPING), "the first call has been sent")
    late = batches.call(SLOW, [(0.0,)], partition="", observer=Made(made))
    late.cancel()
    await slow
    await batches.call(SLOW, [(0.0,)], partition="")
    assert made == []


async def test_what_follows_from_a_commit_happens_also_when_the_caller_has_left(
    batches: Batches, wakeups: Wakeups, connection: Any
) -> None:
    made: list[Any] = []
    with wakeups.changes(b"key") as looks:
        await anext(looks)
        call = batches.call(SLOW, [(0.5,)], partition="", wakes=[b"key"], observer=Made(made))
        await eventually(lambda: connection.fetchval(IS_SLEEPING), "the call has been sent")
        call.cancel()
        async with asyncio.timeout(5):
            await anext(looks)
    assert len(made) == 1


async def test_calls_are_repeated_when_their_connection_breaks(batches: Batches, connection: Any) -> None:
    (answer,) = await batches.call(ECHO, [("x",)], partition="")
    slow = batches.call(SLOW, [(0.3,)], partition="")
    await eventually(lambda: connection.fetchval(IS_SLEEPING))
    await connection.execute("select pg_terminate_backend($1)", answer["backend"])
    await slow
    (again,) = await batches.call(ECHO, [("x",)], partition="")
    assert again["backend"] != answer["backend"]


async def test_d4_outside_of_workflows_a_call_gives_up_in_time(wakeups: Wakeups) -> None:
    postgres = Postgres(Access("postgresql://nobody@127.0.0.1:1/nothing"))
    batches = Batches(postgres, wakeups, give_up_after_seconds=0.2)
    with pytest.raises(DatabaseUnavailableError, match=r"did not do this within 0.2 seconds .*; nothing was committed"):
        await batches.call(ECHO, [("x",)], partition="")
    retry_forever = batches.call(ECHO, [("x",)], partition="", retry_forever=True)
    await asyncio.sleep(0.5)
    assert not retry_forever.done()
    await batches.close()
    with pytest.raises(LaunchError):
        await retry_forever
    with pytest.raises(LaunchError):
        batches.call(ECHO, [("x",)], partition="")


async def test_a_change_during_a_look_is_not_lost(wakeups: Wakeups) -> None:
    looked = 0
    with wakeups.changes(b"a", b"b") as looks:
        async for look in looks:
            looked += 1
            if looked < 5:
                wakeups.wake(b"a" if looked % 2 else b"b")
            elif looked == 5:
                look.poll_within(0.01)
            elif looked == 6:
                wakeups.wake_all()
            else:
                break
    assert looked == 7
    assert len(wakeups) == 0


async def test_two_digests_of_like_names_differ() -> None:
    names = [
        ("a", "bc"),
        ("ab", "c"),
        ("abc",),
        ("a", "b", "c"),
        ("a\0", "bc"),
        ("a", "\0bc"),
        ("", "abc"),
        ("abc", ""),
    ]
    digests = {digest(kind, *parts) for kind in ("message", "event") for parts in names}
    assert len(digests) == 2 * len(names)
    assert {len(d) for d in digests} == {8}


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://me:secret@host:5432/db?sslpassword=x", "postgresql://me@host:5432/db"),
        ("postgresql://me:s@cr@t@host/db", "a URL that cannot be shown"),
        ("postgresql://host/db", "postgresql://host/db"),
    ],
)
async def test_d5_a_url_is_shown_without_its_password(url: str, shown: str) -> None:
    assert shown_url(url) == shown


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:se/cret@127.0.0.1:1/x",
        "host=127.0.0.1 password=my secret",
        "postgresql://me:secret",
        "mysql://secret",
    ],
)
async def test_d5_a_url_that_cannot_be_used_is_explained_without_its_password(url: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot be used") as raised:
        async with DBOSClient(url, connect_timeout_seconds=1):
            pass
    assert "cret" not in str(raised.value)
    assert raised.value.__suppress_context__


@pytest.mark.direct("a pooler tries again for a while before it says so")
@pytest.mark.parametrize("front", [DBOS, DBOSClient])
async def test_d5_a_database_that_does_not_exist_is_named_at_once(
    server_url: str, front: type[DBOS | DBOSClient]
) -> None:
    with pytest.raises(ConfigurationError, match="no_such_database"):
        async with asyncio.timeout(10), front(with_database(server_url, "no_such_database")):
            pass
