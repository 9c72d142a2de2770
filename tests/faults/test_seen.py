"""What failed is seen: in the log, in the status of workflows and in the list of their steps."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest

from dbos_async import DBOS, DBOSClient, InvalidMessageError, SendMessage, SetWorkflowID, Topic, WorkflowStep
from dbos_async._executor import launched, running_steps
from dbos_async._executor.running_steps import RunningSteps
from tests.support.eventually import eventually
from tests.support.proxy import Proxy
from tests.support.workflows import echo, wait_for_ever

NUMBER = Topic("number", int)
TRIED: list[int] = []


@DBOS.step(name="fragile", retries_allowed=True, max_attempts=3, interval_seconds=0.01)
async def fragile() -> str:
    TRIED.append(1)
    if len(TRIED) < 3:
        raise ConnectionError("the shop is closed.\nCRITICAL:root:forged")
    return "done"


@DBOS.workflow()
async def call_fragile() -> str:
    return await fragile()


@DBOS.workflow()
async def read_number() -> Any:
    try:
        return await DBOS.recv(NUMBER)
    except InvalidMessageError:
        return await DBOS.recv("number")


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Any:
    """The lines of the log that have a text in them, as ``LEVEL text``."""
    caplog.set_level(logging.INFO, "dbos_async")
    return lambda text: [f"{r.levelname} {r.getMessage()}" for r in caplog.records if text in r.getMessage()]


async def test_d5_a_retried_step_tells_its_error_attempt_and_pause(dbos: DBOS, lines: Any) -> None:
    TRIED.clear()
    with SetWorkflowID("w"):
        assert await call_fragile() == "done"
    assert lines("fragile") == [
        f"WARNING Step 'fragile' of workflow 'w' failed in attempt {n} of 3 and is tried again in {pause} s: "
        "ConnectionError: the shop is closed.\\nCRITICAL:root:forged"
        for n, pause in ((1, "0.01"), (2, "0.02"))
    ]


async def test_d2_a_rejected_message_is_logged_once(dbos: DBOS, lines: Any) -> None:
    with SetWorkflowID("w"):
        handle = await DBOS.start_workflow(read_number)
    await DBOS.send("w", "seven", "number")
    await eventually(lambda: lines("cannot read"))
    (message,) = await DBOS.list_messages("w", status="rejected")
    await DBOS.cancel_workflow("w")
    await DBOS.resume_workflow("w")
    await DBOS.send("w", 7, NUMBER)
    assert await handle.get_result() == 7
    (line,) = lines("cannot read")
    assert line.startswith("WARNING Workflow 'w' cannot read what recv 'number' (1) has brought: The received message")
    assert str(message.id) in line
    assert not line.endswith("..")


async def test_d5_launch_and_the_return_of_the_database_are_one_line_each(database_url: str, lines: Any) -> None:
    async with Proxy(database_url) as proxy:
        async with DBOS(proxy.url, executor_id="till", application_version="7"):
            (line,) = lines("is launched")
            assert line.startswith("INFO DBOS ")
            assert "as executor 'till' of version '7' on postgresql://" in line
            assert "workflows registered, lease of 15 s." in line
            proxy.refuse()
            proxy.cut()
            waiting = asyncio.create_task(DBOS.list_workflows())
            await eventually(lambda: lines("unavailable") + lines("lost the database"))
            assert not lines("is back")
            await proxy.heal()
            await waiting
            await eventually(lambda: lines("is back"))
            await eventually(_is_well)
        (line,) = lines("is back")
        assert line.startswith("INFO The database is back after ")


async def _is_well() -> bool:
    return (await DBOS.health()).ok


async def test_d5_no_password_is_in_the_line_of_the_launch(database_url: str, lines: Any) -> None:
    scheme, _, rest = database_url.partition("://")
    user, at, host = rest.rpartition("@")
    url = f"{scheme}://{user.partition(':')[0] or 'postgres'}:sesam{at or '@'}{host}"
    async with DBOS(url):
        (line,) = lines("is launched")
    assert "sesam" not in line


async def test_w2_the_executor_of_a_workflow_is_seen_after_its_end(dbos: DBOS) -> None:
    me = launched.executor().id
    handle = await DBOS.start_workflow(echo, 1)
    await handle.get_result()
    assert (await handle.get_status()).executor_id == me
    handle = await DBOS.start_workflow(wait_for_ever)
    await DBOS.cancel_workflow(handle.workflow_id)
    assert (await handle.get_status()).executor_id == me
    await DBOS.resume_workflow(handle.workflow_id)
    await eventually(lambda: handle.workflow_id in launched.executor().runs)
    assert (await handle.get_status()).executor_id == me


GO: list[asyncio.Event] = []
"""What the steps of the present test wait for."""


@pytest.fixture
def go() -> asyncio.Event:
    GO[:] = [asyncio.Event()]
    return GO[0]


@DBOS.step(name="patient", retries_allowed=True, max_attempts=2, interval_seconds=60)
async def patient() -> str:
    raise ConnectionError("the shop is closed")


@DBOS.workflow()
async def call_patient() -> str:
    return await patient()


@DBOS.step(name="rare", retries_allowed=True, max_attempts=9, interval_seconds=1e-10, backoff_rate=1e308)
async def rare() -> None:
    raise ConnectionError("the shop is closed")


@DBOS.workflow()
async def call_rare() -> None:
    await rare()


@DBOS.step(name="endless and seen")
async def endless() -> str:
    await GO[0].wait()
    return "done"


@DBOS.workflow()
async def parent() -> str:
    handle = await DBOS.start_workflow(child)
    mine = asyncio.create_task(endless())
    other: str = await handle.get_result()
    return f"{other} {await mine}"


@DBOS.workflow(name="child that is seen")
async def child() -> str:
    return await endless()


Steps = Callable[[str], Awaitable[list[WorkflowStep]]]


async def _shows(steps: Steps, workflow_id: str, *expected: tuple[str, int | None]) -> bool:
    found = [step for step in await steps(workflow_id) if step.completed_at is None]
    return [(step.verb, step.attempt) for step in found] == list(expected)


async def test_d5_the_pause_before_an_attempt_is_one_that_can_be_told(dbos: DBOS, database_url: str) -> None:
    with SetWorkflowID("rare"):
        await DBOS.start_workflow(call_rare)
    async with DBOSClient(database_url) as client:
        both: tuple[Steps, ...] = DBOS.list_workflow_steps, client.list_workflow_steps
        for steps in both:
            await eventually(partial(_shows, steps, "rare", ("step", 3)))
            (step,) = await steps("rare")
            assert step.next_attempt_at is not None
            assert step.next_attempt_at - datetime.now(UTC) < timedelta(days=101 * 365)


@pytest.mark.parametrize("where", ["here", "elsewhere"])
async def test_d5_what_runs_and_waits_is_in_the_list_of_steps(
    dbos: DBOS, database_url: str, where: str, go: asyncio.Event
) -> None:
    began = datetime.now(UTC)
    with SetWorkflowID("w"):
        handle = await DBOS.start_workflow(parent)
    with SetWorkflowID("tried"):
        await DBOS.start_workflow(call_patient)
    async with DBOSClient(database_url) as client:
        steps: Steps = DBOS.list_workflow_steps if where == "here" else client.list_workflow_steps
        await eventually(lambda: _shows(steps, "w", ("get_result", None), ("step", 1)))
        await eventually(lambda: _shows(steps, "tried", ("step", 2)))
        (step,) = await steps("tried")
        assert (step.step, step.key, step.last_error) == ("1", "patient", "ConnectionError: the shop is closed")
        assert step.next_attempt_at is not None
        assert timedelta(seconds=50) < step.next_attempt_at - began < timedelta(seconds=75)
        waits = [step for step in await steps("w") if step.verb == "get_result"]
        (started,) = [step for step in await steps("w") if step.verb == "start_workflow"]
        assert waits[0].key == started.output
        assert timedelta(seconds=-1) < waits[0].started_at - began < timedelta(seconds=10)
        go.set()
        assert await handle.get_result() == "done done"
        assert [step.step for step in await steps("w") if step.completed_at is None] == []
        assert [step.attempt for step in await steps("w")] == [None] * len(await steps("w"))
        await DBOS.cancel_workflow("tried")
        assert await steps("tried") == []


async def test_d5_pages_of_steps_have_what_runs_in_its_place(dbos: DBOS, go: asyncio.Event) -> None:
    with SetWorkflowID("w"):
        handle = await DBOS.start_workflow(parent)
    await eventually(lambda: _shows(DBOS.list_workflow_steps, "w", ("get_result", None), ("step", 1)))
    for newest_first in (False, True):
        paths: list[str] = []
        options: dict[str, Any] = {"limit": 1, "newest_first": newest_first}
        while page := await DBOS.list_workflow_steps("w", **options):
            paths += [step.step for step in page]
            options["after"] = paths[-1]
        assert paths == (["1.1.1", "2", "1"] if newest_first else ["1", "2", "1.1.1"])
    go.set()
    await handle.get_result()


async def test_d5_a_step_that_is_soon_over_is_told_to_nobody(
    dbos: DBOS, connection: Any, monkeypatch: pytest.MonkeyPatch, go: asyncio.Event
) -> None:
    with SetWorkflowID("w"):
        handle = await DBOS.start_workflow(child)
    teller = RunningSteps(launched.executor())
    await eventually(lambda: launched.executor().runs["w"].step_bodies)
    told = "select running_steps -> 'steps' -> 'w' is not null from dbos_async.executors"
    await teller._look()
    assert not await connection.fetchval(told)
    monkeypatch.setattr(running_steps, "TELL_AFTER_SECONDS", 0.0)
    await teller._look()
    assert await connection.fetchval(told)
    before = await connection.fetchval("select running_steps ->> 'at' from dbos_async.executors")
    await teller._look()
    assert await connection.fetchval("select running_steps ->> 'at' from dbos_async.executors") == before
    go.set()
    await handle.get_result()
    await teller._look()
    assert not await connection.fetchval(told)


@DBOS.step(name="send_inside")
async def send_inside(destination_id: str) -> bool:
    return await DBOS.send(destination_id, 1)


@DBOS.workflow()
async def tell_all(live: str, ended: str) -> list[Any]:
    told: list[Any] = [await DBOS.send(ended, 1), await DBOS.send(live, 1), await send_inside(ended)]
    told.append(await DBOS.send(ended, 1, idempotency_key="k"))
    bulks = [[SendMessage(each, 1) for each in several] for several in ((ended, live, ended), (ended,), (live,))]
    told += [await DBOS.send_bulk(bulk) for bulk in bulks]
    told += [await DBOS.cancel_workflow(ended), await DBOS.cancel_workflow(live)]
    await DBOS.recv("go", timeout_seconds=None)
    return told


async def test_m9_who_sends_to_or_cancels_an_ended_workflow_is_told(dbos: DBOS, connection: Any) -> None:
    for ended in ("SUCCESS", "CANCELLED"):
        handle = await DBOS.start_workflow(
            echo if ended == "SUCCESS" else wait_for_ever, *([1] if ended == "SUCCESS" else [])
        )
        live = (await DBOS.start_workflow(wait_for_ever)).workflow_id
        if ended == "SUCCESS":
            await handle.get_result()
        else:
            assert await DBOS.cancel_workflow(handle.workflow_id) is True
        gone = handle.workflow_id
        assert await DBOS.cancel_workflow(gone) is False
        assert await DBOS.send(gone, 1) is False
        assert await DBOS.send(live, 1) is True
        for _ in range(2):
            assert await DBOS.send(gone, 1, idempotency_key="key") is False, "the repeated send is told, too"
            assert await DBOS.send(live, 1, idempotency_key="key") is True
        assert await DBOS.send_bulk([SendMessage(live, 1), SendMessage(gone, 1)]) == [gone]
        for alone, of_alone in ((gone, [gone]), (live, []), (gone, [gone])):
            assert await DBOS.send_bulk([SendMessage(alone, 1, idempotency_key="key")]) == of_alone
        assert await DBOS.send_bulk([]) == []
        async with connection.transaction():
            assert await DBOS.send(gone, 1, connection=connection) is False
        assert len(await DBOS.list_messages(gone)) == 4
        assert await DBOS.send_bulk([SendMessage(gone, 1)]) == [gone]
        assert await DBOS.send_bulk([SendMessage(live, 1)]) == []
        teller = await DBOS.start_workflow(tell_all, live, gone)
        told = [False, True, False, False, [gone], [gone], [], False, True]
        await eventually(partial(_waits_in_recv, teller.workflow_id))
        await DBOS.cancel_workflow(teller.workflow_id)
        await DBOS.resume_workflow(teller.workflow_id)
        await DBOS.send(teller.workflow_id, 1, "go")
        assert await teller.get_result() == told, "a replay is told the same"


async def _waits_in_recv(workflow_id: str) -> bool:
    return any(step.verb == "recv" for step in await DBOS.list_workflow_steps(workflow_id))


async def test_m9_a_parked_workflow_has_not_ended(dbos: DBOS, connection: Any) -> None:
    handle = await DBOS.start_workflow(wait_for_ever)
    await DBOS.cancel_workflow(handle.workflow_id)
    await connection.execute(
        "update dbos_async.workflows set status = 'REPLAY_MISMATCH', ended_at = null, owner = null"
    )
    assert await DBOS.send(handle.workflow_id, 1) is True
    assert await DBOS.cancel_workflow(handle.workflow_id) is True
