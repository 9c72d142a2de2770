"""Watching an event, and the next version of it: promise C3."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from dbos_async import (
    DBOS,
    DBOSClient,
    Event,
    EventTimeoutError,
    EventValue,
    InvalidArgumentError,
    InvalidEventValueError,
    SetWorkflowID,
)
from dbos_async._database.change_keys import end_key
from dbos_async._executor import launched
from tests.support.eventually import eventually

pytestmark = pytest.mark.usefixtures("dbos")

PRICE = Event("price", int)


@DBOS.workflow(name="says prices")
async def prices(first: list[Any]) -> None:
    """Sets what it is given, and then what it is told, until that is the end."""
    for price in first:
        await DBOS.set_event("price", price)
    while (price := await DBOS.recv("price", None)) != "the end":
        await DBOS.set_event("price", price)


@DBOS.workflow(name="watches prices")
async def watches(workflow_id: str, timeout_seconds: float | None = None, after: int = 0) -> list[Any]:
    """Says what it has seen as it sees it, and once more at its end."""
    seen: list[Any] = []
    try:
        async for price in DBOS.watch_event(workflow_id, PRICE, after=after, timeout_seconds=timeout_seconds):
            seen.append([price.value, price.version, price.set_at.isoformat()])
            await DBOS.write_stream("seen", seen[-1])
    except EventTimeoutError as error:
        seen.append(str(error))
    return seen


async def start(workflow_id: str, *first: Any) -> None:
    with SetWorkflowID(workflow_id):
        await DBOS.start_workflow(prices, list(first))


async def tell(workflow_id: str, *told: Any) -> None:
    for each in told:
        await DBOS.send(workflow_id, each, "price")


async def collect(workflow_id: str, **options: Any) -> list[EventValue[int]]:
    return [price async for price in DBOS.watch_event(workflow_id, PRICE, **options)]


@pytest.mark.parametrize("where", ["DBOS", "client", "step"])
async def test_c3_a_watcher_sees_the_current_version_each_later_one_and_the_end(where: str, database_url: str) -> None:
    seen: asyncio.Queue[EventValue[int] | None] = asyncio.Queue()

    async def watch(front: type[DBOS] | DBOSClient) -> None:
        async for price in front.watch_event("w", PRICE):
            seen.put_nowait(price)
        seen.put_nowait(None)

    @DBOS.step(name="watches in a step")
    async def step() -> None:
        await watch(DBOS)

    @DBOS.workflow(name="watches in a step")
    async def in_step() -> None:
        await step()

    began = datetime.now(UTC)
    await start("w", 1, 2)
    assert await DBOS.get_event("w", PRICE) is not None
    await eventually(lambda: _is("w", 2))
    async with DBOSClient(database_url) as client:
        ways: dict[str, Callable[[], Awaitable[None]]] = {
            "DBOS": lambda: watch(DBOS),
            "client": lambda: watch(client),
            "step": in_step,
        }
        watching = asyncio.ensure_future(ways[where]())
        versions = []
        for value in (2, 3, 4):
            if value > 2:
                await tell("w", value)
            price = await asyncio.wait_for(seen.get(), 10)
            assert price is not None
            assert (price.workflow_id, price.key, price.value) == ("w", "price", value)
            assert began - timedelta(minutes=1) < price.set_at < datetime.now(UTC) + timedelta(minutes=1)
            assert price.set_at.tzinfo is UTC
            versions.append(price.version)
        await tell("w", "the end")
        assert await asyncio.wait_for(seen.get(), 10) is None
        await watching
    assert versions == sorted(set(versions))
    assert [price.value for price in await collect("w")] == [4], "what has ended still tells its last version"
    assert await collect("w", after=versions[-1]) == []


async def _is(workflow_id: str, value: int) -> bool:
    return bool(await DBOS.get_event(workflow_id, PRICE) == value)


async def test_c3_versions_may_be_skipped_and_the_last_one_is_not(database_url: str) -> None:
    async with DBOSClient(database_url) as client, aclosing(client.watch_event("w", PRICE)) as watched:
        await start("w", 0)
        found = [(await anext(watched)).value]
        await tell("w", *range(1, 200), "the end")
        await (await DBOS.retrieve_workflow("w")).get_result()
        found += [price.value async for price in watched]
    assert found[0] == 0
    assert found[-1] == 199
    assert found == sorted(set(found))
    assert len(found) < 100, "what was set while nobody looked is skipped"


async def test_c3_a_workflow_records_each_version_and_its_replay_sees_the_same(connection: Any) -> None:
    await start("w", 1)
    handle = await DBOS.start_workflow(watches, "w")
    async with aclosing(DBOS.read_stream(handle.workflow_id, "seen")) as seen:
        first = await anext(seen)
        await tell("w", 2)
        second = await anext(seen)
    await tell("w", "the end")
    result = await handle.get_result()
    assert result == [first, second]
    assert [first[0], second[0]] == [1, 2]
    steps = [step for step in await DBOS.list_workflow_steps(handle.workflow_id) if step.verb == "watch_event"]
    assert [(step.output or {}).get("value") for step in steps] == [1, 2, None]
    assert {step.key for step in steps} == {"price of w"}
    await connection.execute(
        "update dbos_async.workflows set status = 'PENDING', owner = null, output = null, ended_at = null where id = $1",
        handle.workflow_id,
    )
    await eventually(lambda: _has(handle.workflow_id, "SUCCESS"))
    assert await handle.get_result() == result
    assert len(await DBOS.list_workflow_steps(handle.workflow_id)) == len(steps) + 2


async def _has(workflow_id: str, status: str) -> bool:
    return (await (await DBOS.retrieve_workflow(workflow_id)).get_status()).status == status


async def test_c3_a_watcher_that_waits_too_long_raises_a_timeout_error() -> None:
    await start("w", 1)
    ((value, version, _), sentence) = await watches("w", 0.1)
    assert value == 1
    assert f"got no version for 0.1 seconds: watch on with after={version}" in sentence
    found: list[Any] = []
    with pytest.raises(TimeoutError, match=f"after={version}"):
        async for price in DBOS.watch_event("w", PRICE, timeout_seconds=0.05):
            found.append(price.value)  # noqa: PERF401 - what came before the time-out counts
    assert found == [1]
    with pytest.raises(EventTimeoutError):
        await collect("nobody", timeout_seconds=0)


async def test_c3_a_workflow_that_has_not_started_is_waited_for_and_one_that_was_deleted_has_ended() -> None:
    watched = DBOS.watch_event("later", PRICE)
    waiting = asyncio.ensure_future(anext(watched))
    inside = await DBOS.start_workflow(watches, "later")
    await eventually(lambda: len(launched.database().wakeups) >= 2)
    await start("later", 7)
    first = await asyncio.wait_for(waiting, 10)
    assert first.value == 7
    await eventually(lambda: _saw(inside.workflow_id))
    await DBOS.cancel_workflow("later")
    await DBOS.delete_workflow("later")
    async with asyncio.timeout(10):
        assert [price async for price in watched] == []
        assert [seen[0] for seen in await inside.get_result()] == [7]
        assert await collect("later", after=first.version) == []
        assert await DBOS.get_event("later", PRICE, None, after=first.version) is None
        assert await watches("later", None, first.version) == []


async def _saw(workflow_id: str) -> bool:
    return any(step.verb == "write_stream" for step in await DBOS.list_workflow_steps(workflow_id))


async def test_c3_a_parked_workflow_is_watched_on(connection: Any) -> None:
    await start("w", 1)
    async with aclosing(DBOS.watch_event("w", PRICE)) as watched:
        assert (await anext(watched)).value == 1
        more = asyncio.ensure_future(anext(watched))
        await connection.execute(
            "update dbos_async.workflows set status = 'REPLAY_MISMATCH', owner = null, attempt = attempt + 1 where id = 'w'"
        )
        launched.database().wakeups.wake(end_key("w"))
        await asyncio.gather(*(DBOS.get_all_events("w") for _ in range(20)))
        assert not more.done()
        await DBOS.resume_workflow("w")
        await tell("w", 2)
        assert (await asyncio.wait_for(more, 10)).value == 2


@pytest.mark.parametrize("inside", [False, True])
async def test_c3_a_version_that_does_not_fit_raises_with_its_version_and_the_next_loop_goes_on(inside: bool) -> None:
    told: list[Any] = []

    async def through() -> list[Any]:
        found: list[Any] = []
        seen = 0
        while True:
            try:
                async for price in DBOS.watch_event("w", PRICE, after=seen):
                    found.append(price.value)
                    seen = price.version
                return found
            except InvalidEventValueError as error:
                assert error.version > seen
                seen = error.version
                found.append(str(error))
                told.append(error)

    @DBOS.workflow(name=f"watches a misfit {inside}")
    async def workflow() -> list[Any]:
        return await through()

    await start("w", "seven")
    reading = asyncio.ensure_future(workflow() if inside else through())
    await eventually(lambda: told)
    await tell("w", 8, "the end")
    (misfit, *found) = await asyncio.wait_for(reading, 10)
    assert "The value of event 'price' of workflow 'w' cannot be used" in misfit
    assert found == [8]


async def test_c3_get_event_waits_for_a_later_version() -> None:
    await start("w", 1)
    (first,) = [price async for price in _first("w")]
    assert await DBOS.get_event("w", PRICE, after=0) == 1
    assert await DBOS.get_event("w", PRICE, 0.05, after=first.version) is None

    @DBOS.workflow(name="wants the next price")
    async def in_workflow() -> Any:
        return await next_price()

    async def next_price() -> Any:
        return await DBOS.get_event("w", PRICE, None, after=first.version)

    handle = await DBOS.start_workflow(in_workflow)
    outside = asyncio.create_task(next_price())
    await eventually(lambda: len(launched.database().wakeups) >= 3)
    await tell("w", 2)
    async with asyncio.timeout(10):
        assert await outside == 2
        assert await handle.get_result() == 2
    (step,) = await DBOS.list_workflow_steps(handle.workflow_id)
    assert (step.verb, step.key, step.output) == ("get_event", "price of w", 2)
    await tell("w", "the end")
    last = (await collect("w"))[-1].version
    assert await DBOS.get_event("w", PRICE, None, after=last) is None, "it has ended without another"


async def _first(workflow_id: str) -> Any:
    async for price in DBOS.watch_event(workflow_id, PRICE):
        yield price
        break


@pytest.mark.parametrize("after", [-1, 1.5, "1", True, None, 2**63])
async def test_d5_a_bad_version_raises_at_once(after: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="after must be a whole number"):
        DBOS.watch_event("w", PRICE, after=after)
    with pytest.raises(InvalidArgumentError, match="after must be a whole number"):
        await DBOS.get_event("w", PRICE, after=after)


async def test_c3_values_of_every_kind_are_watched_as_they_were_set() -> None:
    kinds = Event[bytes | None]("kinds", bytes | None)

    @DBOS.workflow(name="sets kinds")
    async def sets(value: bytes | None) -> None:
        await DBOS.set_event(kinds, value)

    @DBOS.workflow(name="watches kinds")
    async def sees(workflow_id: str) -> list[bytes | None]:
        return [each.value async for each in DBOS.watch_event(workflow_id, kinds)]

    for value in (b"\xff\x00", None):
        handle = await DBOS.start_workflow(sets, value)
        assert [each.value async for each in DBOS.watch_event(handle.workflow_id, kinds)] == [value]
        assert await sees(handle.workflow_id) == [value]
