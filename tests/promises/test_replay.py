"""Replays: what a run that takes over repeats, and what stops it (M6, E4, S6, W2 to W5, D1, D6)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest

from dbos_async import DBOS, SetWorkflowID, StepTimeoutError, StreamClosedError, WorkflowNotFoundError
from tests.support.eventually import eventually

RAN: list[str] = []
VERSION = {"code": "old"}


@pytest.fixture(autouse=True)
def _clean() -> None:
    RAN.clear()
    VERSION["code"] = "old"


@asynccontextmanager
async def launched(url: str) -> AsyncIterator[None]:
    """One life of the program."""
    async with DBOS(url, executor_id="program"):
        yield


@DBOS.step(name="noted")
async def note(what: str) -> datetime:
    RAN.append(what)
    return datetime(2026, 11, 23, tzinfo=UTC)


@DBOS.step()
async def fail(kind: str) -> None:
    RAN.append(kind)
    if kind == "lookup":
        raise LookupError("k", 7)
    raise StepTimeoutError("x", 1.5)


@DBOS.step()
async def put(value: int) -> None:
    await DBOS.write_stream("s", value)


async def reaches(workflow_id: str, step: str) -> None:
    """Wait until a step of the workflow is recorded, or has begun to wait."""

    async def there() -> bool:
        return step in {s.step for s in await DBOS.list_workflow_steps(workflow_id)}

    await eventually(there, f"step {step} of {workflow_id}")


@DBOS.workflow()
async def eventful() -> list[Any]:
    found: list[Any] = [await note("first"), await DBOS.recv("t", 0.02)]
    for kind in ("lookup", "timeout"):
        try:
            await fail(kind)
        except (LookupError, StepTimeoutError) as error:
            found.append(repr(error))
    try:
        await DBOS.send("nobody", 1)
    except WorkflowNotFoundError as error:
        found.append(error.workflow_id)
    found.append(await DBOS.get_event("nobody", "k", 0.01))
    await DBOS.write_stream("s", 1)
    await DBOS.close_stream("s")
    try:
        await DBOS.write_stream("s", 2)
    except StreamClosedError as error:
        found.append(error.key)
    with contextlib.suppress(TimeoutError):
        found += [value async for value in DBOS.read_stream(str(DBOS.workflow_id), "other", timeout_seconds=0.01)]
    found.append(await DBOS.recv("go", None))
    found.append(await note("last"))
    return found


async def test_w2_m6_d1_what_was_recorded_is_not_repeated_and_replays_as_the_same_values_and_types(
    database_url: str,
) -> None:
    with SetWorkflowID("w"):
        async with launched(database_url):
            await DBOS.start_workflow(eventful)
            await reaches("w", "11")
            before = await DBOS.list_workflow_steps("w")
    for _ in range(2):
        async with launched(database_url):
            await reaches("w", "11")
    async with launched(database_url):
        await DBOS.send("w", "go on", "go")
        result = await (await DBOS.retrieve_workflow("w")).get_result()
        after = await DBOS.list_workflow_steps("w")
    moment = "2026-11-23T00:00:00Z"
    assert result == [
        moment, None, "LookupError('k', 7)", "StepTimeoutError('x', 1.5)", "nobody", None, "s", "go on", moment,
    ]  # fmt: skip
    assert RAN == ["first", "lookup", "timeout", "last"]
    assert after[: len(before) - 1] == before[:-1]


@DBOS.workflow()
async def changing(swallows: bool) -> str:
    await note("same in both")
    await DBOS.recv("go", None)
    if VERSION["code"] == "new":
        try:
            await DBOS.set_event("k", "what the new code wants")
        except BaseException:
            if not swallows:
                raise
            for _ in range(3):
                with contextlib.suppress(BaseException):
                    await DBOS.write_stream("s", "swallowed")
            return "swallowed it"
    else:
        await note("what the old code did")
    await DBOS.recv("end", None)
    return "done"


@pytest.mark.parametrize("swallows", [False, True])
async def test_w4_a_replay_that_asks_for_another_step_is_parked_and_cannot_be_swallowed(
    swallows: bool, database_url: str, connection: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with launched(database_url):
        with SetWorkflowID("w"):
            await DBOS.start_workflow(changing, swallows)
        await DBOS.send("w", None, "go")
        await reaches("w", "4")
    before = await connection.fetch("select * from dbos_async.steps")
    VERSION["code"] = "new"
    async with launched(database_url):

        async def parked() -> bool:
            return (await (await DBOS.retrieve_workflow("w")).get_status()).status == "REPLAY_MISMATCH"

        await eventually(parked)
        assert "was recorded as step 'noted' and the code now asks for set_event 'k'" in caplog.text
        assert await DBOS.get_all_events("w") == {}
    assert await connection.fetch("select * from dbos_async.steps") == before
    status = await connection.fetchrow("select status, owner, output from dbos_async.workflows")
    assert tuple(status) == ("REPLAY_MISMATCH", None, None)
    # The code is repaired and the workflow given back to whoever claims it.
    VERSION["code"] = "old"
    await connection.execute("update dbos_async.workflows set status = 'PENDING', error = null")
    async with launched(database_url):
        await DBOS.send("w", None, "end")
        assert await (await DBOS.retrieve_workflow("w")).get_result() == "done"


SOMEBODY_ELSE = """
    insert into dbos_async.executors (id, executor_id, workflow_names, lease_until)
    values ('somebody else', 'somebody else', '{}', now() + interval '1 hour');
    select pg_advisory_lock_shared(hashtextextended('dbos_async executor somebody else', 0))
"""
"""Another executor that lives: what has no live owner is freed."""


@DBOS.workflow()
async def stubborn() -> str:
    swallowed = 0
    while swallowed < 5:
        try:
            await DBOS.recv("go", None)
            break
        except BaseException:
            swallowed += 1
    return "went on"


async def test_w3_a_run_that_lost_its_workflow_stops_even_if_it_swallows_everything(
    database_url: str, connection: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with launched(database_url):
        with SetWorkflowID("w"):
            await DBOS.start_workflow(stubborn)
        await eventually(lambda: _waits(connection))
        await connection.execute(SOMEBODY_ELSE)
        await connection.execute("update dbos_async.workflows set attempt = attempt + 1, owner = 'somebody else'")
        await DBOS.send("w", "for the new owner", "go")
        await eventually(lambda: "another run has taken it over" in caplog.text)
        assert await connection.fetchval("select count(*) from dbos_async.messages where received_at is null") == 1
        assert await connection.fetchval("select status from dbos_async.workflows") == "PENDING"


async def _waits(connection: Any) -> bool:
    return bool(await connection.fetchval("select true from dbos_async.workflows where attempt % 1000000 = 1"))


@DBOS.workflow()
async def tasks() -> list[Any]:
    async def branch(name: str) -> list[Any]:
        first = await note(name)
        return [str(first)[:4], await DBOS.recv(name, None), await note(f"{name} again")]

    async with asyncio.TaskGroup() as group:
        found = [group.create_task(branch(name)) for name in ("a", "b", "c")]
    return [task.result() for task in found]


async def test_w4_tasks_side_by_side_replay_exactly_whichever_is_first(database_url: str) -> None:
    async with launched(database_url):
        with SetWorkflowID("w"):
            await DBOS.start_workflow(tasks)
        await DBOS.send("w", 2, "b")
        await reaches("w", "0.2.3")
    async with launched(database_url):
        await DBOS.send("w", 3, "c")
        await reaches("w", "0.3.3")
    async with launched(database_url):
        await DBOS.send("w", 1, "a")
        result = await (await DBOS.retrieve_workflow("w")).get_result()
    assert result == [["2026", n, "2026-11-23T00:00:00Z"] for n in (1, 2, 3)]
    assert sorted(RAN) == ["a", "a again", "b", "b again", "c", "c again"]


@DBOS.workflow()
async def reader(workflow_id: str) -> list[Any]:
    found: list[Any] = []
    async for value in DBOS.read_stream(workflow_id, "s"):
        found.append(value)
        if len(found) == 3:
            await DBOS.recv("go", None)
    return found


@DBOS.workflow()
async def writer() -> None:
    for n in range(3):
        await put(n)
    await DBOS.recv("more", None)
    for n in range(3, 6):
        await put(n)


async def test_s6_a_replay_reads_the_same_values_and_goes_on_where_it_was(database_url: str) -> None:
    async with launched(database_url):
        with SetWorkflowID("writer"):
            await DBOS.start_workflow(writer)
        await reaches("writer", "4")
        with SetWorkflowID("reader"):
            await DBOS.start_workflow(reader, "writer")
        await reaches("reader", "2")
    async with launched(database_url):
        await DBOS.send("writer", None, "more")
        await (await DBOS.retrieve_workflow("writer")).get_result()
        await DBOS.send("reader", None, "go")
        assert await (await DBOS.retrieve_workflow("reader")).get_result() == list(range(6))


@DBOS.workflow()
async def asker() -> list[Any]:
    seen = await DBOS.get_event("writer", "k")
    return [seen, await DBOS.recv("go", None), await DBOS.get_event("writer", "k")]


@DBOS.workflow()
async def teller() -> None:
    await DBOS.set_event("k", "first")
    await DBOS.recv("go", None)
    await DBOS.set_event("k", "second")


async def test_e4_a_replay_sees_the_value_that_was_read_also_if_it_changed_since(database_url: str) -> None:
    async with launched(database_url):
        with SetWorkflowID("writer"):
            await DBOS.start_workflow(teller)
        with SetWorkflowID("asker"):
            await DBOS.start_workflow(asker)
        await reaches("asker", "2")
        await DBOS.send("writer", None, "go")
        await (await DBOS.retrieve_workflow("writer")).get_result()
    async with launched(database_url):
        await DBOS.send("asker", "go", "go")
        assert await (await DBOS.retrieve_workflow("asker")).get_result() == ["first", "go", "second"]


@DBOS.workflow()
async def retry_forever() -> list[Any]:
    return [await DBOS.recv("never", 3600), await DBOS.recv("go", None)]


async def test_m6_a_restart_waits_only_for_what_is_left(database_url: str, connection: Any) -> None:
    async with launched(database_url):
        with SetWorkflowID("w"):
            await DBOS.start_workflow(retry_forever)
        await reaches("w", "1")
    deadline = await connection.fetchval("select deadline from dbos_async.steps")
    async with launched(database_url):
        await eventually(lambda: connection.fetchval("select attempt % 1000000 = 2 from dbos_async.workflows"))
        assert await connection.fetchval("select deadline from dbos_async.steps") == deadline
    await connection.execute("update dbos_async.steps set deadline = now()")
    async with launched(database_url):
        await DBOS.send("w", "go", "go")
        async with asyncio.timeout(10):
            assert await (await DBOS.retrieve_workflow("w")).get_result() == [None, "go"]


@DBOS.workflow(max_recovery_attempts=2)
async def deadly() -> str:
    await DBOS.recv("go", None)
    return "done"


async def test_w5_a_workflow_under_which_executors_die_again_and_again_is_parked(
    database_url: str, connection: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with launched(database_url):
        with SetWorkflowID("w"):
            await DBOS.start_workflow(deadly)
        await eventually(lambda: _waits(connection))
    for recoveries, status in ((1, "PENDING"), (2, "PENDING"), (3, "MAX_RECOVERY_ATTEMPTS_EXCEEDED")):
        await connection.execute("update dbos_async.workflows set recoveries = $1, owner = null", recoveries)
        async with launched(database_url):

            async def settled(status: str = status) -> bool:
                found = await connection.fetchrow(
                    "select status, attempt % 1000000 as attempt from dbos_async.workflows"
                )
                return bool(found["status"] == status and found["attempt"] > recoveries)  # noqa: B023 - called at once

            await eventually(settled)
    assert caplog.text.count("Workflow 'w' is parked: 3 executors in a row died under it.") == 1


class Shop:
    """Steps may stand in classes."""

    name = "the shop"

    @DBOS.step()
    async def sell(self, item: str) -> str:
        return f"{self.name} sells {item}"

    @staticmethod
    @DBOS.step()
    def price(item: str) -> int:
        return len(item)


@DBOS.workflow()
async def buy() -> list[Any]:
    return [await Shop().sell("a pear"), await Shop.price("a pear")]


async def test_steps_may_be_methods(dbos: DBOS) -> None:
    assert await buy() == ["the shop sells a pear", 6]
