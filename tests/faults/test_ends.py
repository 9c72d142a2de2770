"""Who hears of an end, and how soon: those who wait, runs that are cancelled, and steps that call sys.exit."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from dbos_async import DBOS, DBOSClient, LaunchError, SetWorkflowID, SetWorkflowTimeout, SystemExitError
from dbos_async._database.change_keys import end_key
from dbos_async._executor import launched
from tests.support.eventually import eventually
from tests.support.processes import running
from tests.support.workflows import wait_for_ever

AT_ONCE_SECONDS = 1.0

# sys.exit


@DBOS.step(name="exits")
async def exits(code: Any) -> None:
    sys.exit(code)


@DBOS.step(name="exits in a thread")
def exits_in_a_thread(code: Any) -> None:
    sys.exit(code)


TRIED: list[str] = []


@DBOS.step(name="exits once", retries_allowed=True, interval_seconds=0.01)
async def exits_once() -> str:
    TRIED.append("")
    if len(TRIED) == 1:
        sys.exit(1)
    return "the second attempt"


@DBOS.step(name="exits always", retries_allowed=True, max_attempts=2, interval_seconds=0.01, timeout_seconds=5)
def exits_always() -> None:
    sys.exit("no license\nCRITICAL forged")


@DBOS.step(name="exits in a group")
async def exits_in_a_group() -> None:
    raise BaseExceptionGroup("two", [ValueError("one"), SystemExit(3)])


@DBOS.workflow(name="exits in a group alone")
async def exits_in_a_group_alone() -> None:
    await exits_in_a_group()


class OwnEnd(BaseException):
    """What an application may raise to end a step."""


@DBOS.step(name="ends its own way")
async def ends_its_own_way() -> None:
    raise OwnEnd("enough")


WAYS: dict[str, tuple[Callable[[], Awaitable[Any]], str]] = {
    "a number": (lambda: exits(2), "SystemExitError(\"The step 'exits'\", 2)"),
    "nothing": (lambda: exits(None), "SystemExitError(\"The step 'exits'\", None)"),
    "an object": (lambda: exits_in_a_thread([1]), "SystemExitError(\"The step 'exits in a thread'\", '[1]')"),
    "retries": (exits_once, "'the second attempt'"),
    "retries in vain": (
        exits_always,
        "SystemExitError(\"The step 'exits always'\", 'no license\\nCRITICAL forged')",
    ),
    "a group": (exits_in_a_group, "SystemExitError(\"The step 'exits in a group'\", 3)"),
    "an end of its own": (ends_its_own_way, "RecordedError('tests.faults.test_ends:OwnEnd', 'enough')"),
}


@DBOS.workflow(name="sees an exit")
async def sees_an_exit(way: str) -> list[str]:
    try:
        seen = repr(await WAYS[way][0]())
    except Exception as error:
        seen = repr(error)
    return [seen, await DBOS.recv("go", None)]


@pytest.mark.parametrize("way", WAYS)
async def test_w5_w2_sys_exit_is_the_error_of_its_step_and_replays_as_the_same(database_url: str, way: str) -> None:
    TRIED.clear()
    async with DBOS(database_url, drain_seconds=0):
        with SetWorkflowID("w"):
            await DBOS.start_workflow(sees_an_exit, way)
        await eventually(lambda: launched.executor().runs["w"].tasks_waiting)
    async with DBOS(database_url):
        await DBOS.send("w", "on", "go")
        assert await (await DBOS.retrieve_workflow("w")).get_result() == [WAYS[way][1], "on"]
    assert len(TRIED) == (2 if way == "retries" else 0)


async def test_d5_sys_exit_in_a_group_keeps_the_errors_beside_it(dbos: DBOS) -> None:
    with pytest.raises(SystemExitError) as caught:
        await exits_in_a_group_alone()
    assert "two" in str(caught.value.__cause__)


async def test_d5_the_error_of_sys_exit_is_one_sentence() -> None:
    error = SystemExitError("The step 'x'", "no\nlicense" + "!" * 200)
    assert "\n" not in str(error)
    assert len(str(error)) < 250
    assert str(SystemExitError("The step 'x'", 2)) == (
        "The step 'x' called sys.exit(2): raise an exception, and end the program elsewhere."
    )


@DBOS.workflow(name="exits itself")
async def exits_itself() -> None:
    sys.exit(4)


async def test_w5_sys_exit_in_a_workflow_is_its_error_for_parent_and_handle(dbos: DBOS) -> None:
    with pytest.raises(SystemExitError, match=r"The workflow '.*' called sys.exit\(4\)"):
        await exits_itself()
    with SetWorkflowID("w"):
        handle = await DBOS.start_workflow(exits_itself)
    with pytest.raises(SystemExitError) as caught:
        await (await DBOS.retrieve_workflow("w")).get_result()
    assert caught.value.code == 4
    assert (await handle.get_status()).status == "ERROR"


# Waiting in what is closed


async def _read(opened: Any) -> None:
    async for _ in opened.read_stream("w", "nothing"):
        pass


async def _result(opened: Any) -> None:
    await (await opened.retrieve_workflow("w")).get_result()


WAITS: dict[str, Callable[[Any], Awaitable[Any]]] = {
    "get_event": lambda opened: opened.get_event("nobody", "key", None),
    "get_event with a limit": lambda opened: opened.get_event("w", "key", 3600),
    "read_stream": _read,
    "read_stream with a limit": lambda opened: anext(opened.read_stream("w", "nothing", timeout_seconds=3600)),
    "get_result": _result,
}


@asynccontextmanager
async def dbos_at(url: str) -> AsyncIterator[Any]:
    async with DBOS(url, drain_seconds=0):
        yield DBOS


@asynccontextmanager
async def client_at(url: str) -> AsyncIterator[Any]:
    async with DBOSClient(url) as client:
        yield client


@pytest.mark.parametrize("opener", [dbos_at, client_at])
async def test_d5_whoever_waits_hears_at_once_that_its_dbos_or_client_was_closed(
    database_url: str, opener: Any
) -> None:
    async with dbos_at(database_url):
        with SetWorkflowID("w"):
            started = await DBOS.start_workflow(wait_for_ever)
        handles = [asyncio.create_task(started.get_result())]
        await _all_wait(DBOS, 1)
    async with opener(database_url) as opened:
        waiting = [asyncio.ensure_future(wait(opened)) for wait in WAITS.values()]
        await _all_wait(opened, len(waiting))
    began = time.monotonic()
    for name, ended in zip(["a handle of the start", *WAITS], [*handles, *waiting], strict=True):
        with pytest.raises(LaunchError, match=r"^This DBOS or DBOSClient was closed.*: launch or open one"):
            await ended
        assert time.monotonic() - began < AT_ONCE_SECONDS, name


async def _all_wait(opened: Any, count: int) -> None:
    wakeups = opened._database.wakeups if isinstance(opened, DBOSClient) else launched.database().wakeups
    services = 1 if not isinstance(opened, DBOSClient) else 0

    def waits() -> bool:
        found = {one for each in wakeups._subscriptions.values() for one in each}
        return sum(one._waiter is not None for one in found) >= count + services

    await eventually(waits, "all of them wait")


async def test_d5_a_wait_that_begins_after_the_close_raises_as_well(database_url: str) -> None:
    async with DBOSClient(database_url) as client:
        database = client._database
    with database.changes(end_key("w")) as changes:
        assert await anext(changes) is changes, "the first turn comes at once, and its poll raises"
        with pytest.raises(LaunchError, match="was closed"):
            await anext(changes)
    assert not len(database.wakeups)


# Cancelling

STEPS: list[str] = []
GO: list[asyncio.Event] = []


@DBOS.step(name="charge before the end")
async def charge() -> None:
    STEPS.append("charged")


async def _waits_outside() -> None:
    await GO[0].wait()


async def _waits_in_a_step() -> None:
    await long_step()


async def _waits_in_a_thread() -> None:
    await anyio.to_thread.run_sync(lambda: anyio.from_thread.run(GO[0].wait), abandon_on_cancel=True)


async def _waits_in_a_task() -> None:
    await asyncio.gather(GO[0].wait(), DBOS.recv("never", None))


async def _swallows() -> None:
    try:
        await GO[0].wait()
    except asyncio.CancelledError:
        await asyncio.shield(GO[0].wait())


@DBOS.step(name="long step")
async def long_step() -> None:
    await GO[0].wait()


PLACES: dict[str, Callable[[], Awaitable[None]]] = {
    "outside of verbs": _waits_outside,
    "a step": _waits_in_a_step,
    "a thread": _waits_in_a_thread,
    "a task": _waits_in_a_task,
    "code that swallows": _swallows,
}


@DBOS.workflow(name="charges")
async def charges(place: str) -> None:
    STEPS.append("here")
    await PLACES[place]()
    await charge()


@DBOS.workflow(name="cancels")
async def cancels(workflow_id: str) -> None:
    await DBOS.cancel_workflow(workflow_id)


@DBOS.workflow(name="cancels itself")
async def cancels_itself() -> None:
    await DBOS.cancel_workflow(str(DBOS.workflow_id))
    await charge()


async def _by_a_client(url: str) -> None:
    async with DBOSClient(url) as client:
        await client.cancel_workflow("w")
        run = launched.executor().runs.get("w")
        assert run is None or run.stopped == "it was cancelled"


async def _twice_at_once(_: str) -> None:
    await asyncio.gather(DBOS.cancel_workflow("w"), DBOS.cancel_workflow("w"))


async def _and_deleted(_: str) -> None:
    await DBOS.cancel_workflow("w")
    await DBOS.delete_workflow("w")


CANCELS: dict[str, Callable[[str], Awaitable[Any]]] = {
    "outside": lambda _: DBOS.cancel_workflow("w"),
    "a workflow": lambda _: cancels("w"),
    "a client": _by_a_client,
    "twice": _twice_at_once,
    "deleted": _and_deleted,
}


@pytest.fixture
def go() -> asyncio.Event:
    STEPS.clear()
    GO[:] = [asyncio.Event()]
    return GO[0]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("way", CANCELS)
async def test_w6_when_cancel_workflow_has_returned_a_run_here_begins_no_step(
    dbos: DBOS, database_url: str, go: asyncio.Event, way: str, place: str
) -> None:
    with SetWorkflowID("w"):
        await DBOS.start_workflow(charges, place)
    await eventually(lambda: STEPS == ["here"])
    run = launched.executor().runs["w"]
    await CANCELS[way](database_url)
    assert run.stopped == "it was cancelled"
    go.set()
    await eventually(lambda: run.over and not launched.executor().runs)
    assert STEPS == ["here"]


async def test_w6_a_workflow_that_cancels_itself_begins_no_step(dbos: DBOS, go: asyncio.Event) -> None:
    handle = await DBOS.start_workflow(cancels_itself)
    await eventually(lambda: not launched.executor().runs)
    assert (await handle.get_status()).status == "CANCELLED"
    assert not STEPS


async def test_w6_when_a_deadline_has_cancelled_a_run_here_it_begins_no_step(dbos: DBOS, go: asyncio.Event) -> None:
    with SetWorkflowID("w"), SetWorkflowTimeout(0.3):
        await DBOS.start_workflow(charges, "outside of verbs")
    run = launched.executor().runs["w"]
    await eventually(lambda: run.stopped)  # the answer of the statement that has cancelled it has come
    go.set()
    await eventually(lambda: run.over)
    assert STEPS == ["here"]


async def test_w6_a_run_that_was_resumed_meanwhile_is_not_stopped(dbos: DBOS, go: asyncio.Event) -> None:
    with SetWorkflowID("w"):
        handle = await DBOS.start_workflow(charges, "outside of verbs")
    await eventually(lambda: STEPS == ["here"])
    executor = launched.executor()
    first = executor.runs["w"]
    await DBOS.cancel_workflow("w")
    await DBOS.resume_workflow("w")
    await eventually(lambda: executor.runs.get("w") not in (None, first))
    executor.stop_cancelled("w", first.attempt + 1)  # an answer that comes late
    go.set()
    await handle.get_result()
    assert STEPS == ["here", "here", "charged"]


async def test_w6_another_process_stops_a_cancelled_run_within_a_second(database_url: str, go: asyncio.Event) -> None:
    async with (
        running("executor", database_url, "other", 1, "--kinds", "stepping") as other,
        DBOSClient(database_url) as client,
    ):
        await other.says("ready")
        await client.cancel_workflow("other stepping 0")
        before = len(await client.list_workflow_steps("other stepping 0"))
        await asyncio.sleep(1)
        assert len(await client.list_workflow_steps("other stepping 0")) <= before + 1
