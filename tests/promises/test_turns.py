"""``max_concurrent``: how many attempts of a step run at once in a process."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import anyio
import pytest

from dbos_async import DBOS, RetryAfter, SetWorkflowID, StepCancelledError, StepTimeoutError, WorkflowCancelledError
from dbos_async._cli.step_words import Line, words_of
from dbos_async._executor import launched
from dbos_async._operations.replay import replay_workflow
from dbos_async._workflows.registry import registered
from tests.support.eventually import eventually

BEGUN: list[Any] = []
"""What the attempts were given that have begun."""
GATES: dict[Any, asyncio.Event] = {}
AT_ONCE = [0, 0]
"""How many attempts run, and how many ran at most."""


@pytest.fixture(autouse=True)
def nothing_begun() -> Iterator[None]:
    BEGUN.clear()
    GATES.clear()
    AT_ONCE[:] = 0, 0
    yield
    for gate in GATES.values():
        gate.set()


async def run_until_let(what: Any) -> Any:
    BEGUN.append(what)
    AT_ONCE[0] += 1
    AT_ONCE[1] = max(AT_ONCE)
    try:
        await GATES.setdefault(what, asyncio.Event()).wait()
    finally:
        AT_ONCE[0] -= 1
    return what


def let(*whats: Any) -> None:
    for what in whats:
        GATES.setdefault(what, asyncio.Event()).set()


async def turns_of_the_loop() -> None:
    """Let everything go on that can."""
    for _ in range(20):
        await asyncio.sleep(0)


@DBOS.step(name="two at once", max_concurrent=2)
async def two(what: Any) -> Any:
    return await run_until_let(what)


@DBOS.step(name="one at once", max_concurrent=1)
async def one(what: Any) -> Any:
    return await run_until_let(what)


@DBOS.workflow(name="calls two")
async def call_two(what: Any) -> Any:
    return await two(what)


@DBOS.workflow(name="calls one")
async def call_one(what: Any) -> Any:
    return await one(what)


async def started(workflow: Any, *whats: Any) -> list[Any]:
    handles = []
    for what in whats:
        with SetWorkflowID(f"w{what}"):
            handles.append(await DBOS.start_workflow(workflow, what))
        await eventually(partial(_runs_a_step, f"w{what}"))
    return handles


def _runs_a_step(workflow_id: str) -> bool:
    return bool(launched.executor().runs[workflow_id].step_bodies)


def _have_begun(count: int) -> bool:
    return len(BEGUN) == count


@pytest.mark.usefixtures("dbos")
async def test_workflows_and_plain_calls_share_the_turns_and_take_them_in_order() -> None:
    handles = await started(call_two, 1, 2, 3, 4)
    plain = [asyncio.create_task(two(what)) for what in (5, 6)]
    await turns_of_the_loop()
    assert BEGUN == [1, 2]
    for what in (1, 2, 3, 4, 5, 6):
        let(what)
        await eventually(partial(_have_begun, min(what + 2, 6)))
    assert BEGUN == [1, 2, 3, 4, 5, 6]
    assert [await handle.get_result() for handle in handles] == [1, 2, 3, 4]
    assert await asyncio.gather(*plain) == [5, 6]
    assert AT_ONCE == [0, 2]


@pytest.mark.usefixtures("dbos")
async def test_a_step_that_waits_for_its_turn_says_so_and_takes_no_slot() -> None:
    await started(call_one, 1, 2)
    (step,) = await DBOS.list_workflow_steps("w2")
    assert (step.key, step.attempt, step.next_attempt_at, step.last_error) == ("one at once", None, None, None)
    described = await DBOS.describe_workflow("w2")
    assert [wait.what for wait in described.waits] == ["the end of step one at once, which waits for its turn"]
    assert words_of(Line(described.steps), 80).plain.endswith("one at once  waits for its turn")
    assert (await DBOS.list_workflow_steps("w1"))[0].attempt == 1
    assert launched.executor().slots.waiting == 1
    let(1)
    await eventually(lambda: BEGUN == [1, 2])
    assert (await DBOS.list_workflow_steps("w2"))[0].attempt == 1
    assert launched.executor().slots.waiting == 0
    let(2)


@pytest.mark.usefixtures("dbos")
async def test_w6_who_waits_for_a_turn_can_be_cancelled_and_leaves_the_line() -> None:
    first, second, third = await started(call_one, 1, 2, 3)
    await DBOS.cancel_workflow("w2")
    with pytest.raises(WorkflowCancelledError):
        await second.get_result()
    let(1, 3)
    assert await third.get_result() == 3
    assert await first.get_result() == 1
    assert BEGUN == [1, 3]


@pytest.mark.usefixtures("dbos")
async def test_c1_a_started_step_that_waits_for_its_turn_can_be_cancelled() -> None:
    @DBOS.workflow(name="cancels who waits for a turn")
    async def workflow() -> list[Any]:
        first, second, third = [await DBOS.start_step(one, what) for what in (1, 2, 3)]
        await second.cancel()
        await DBOS.recv("go on", 60)
        with pytest.raises(StepCancelledError):
            await second.get_result()
        return [await first.get_result(), await third.get_result()]

    handle = await DBOS.start_workflow(workflow)
    await eventually(lambda: BEGUN)
    await DBOS.send(handle.workflow_id, None, "go on")
    let(1, 3)
    assert await handle.get_result() == [1, 3]
    assert BEGUN == [1, 3]


async def test_a_turn_that_comes_at_the_moment_of_a_cancellation_goes_to_the_next() -> None:
    @DBOS.step(name="cancels the next in line", max_concurrent=1)
    async def limited(what: int) -> int:
        BEGUN.append(what)
        if what == 1:
            await asyncio.sleep(0)
            # This callback comes between the end of this turn and the begin of the next.
            asyncio.get_running_loop().call_soon(tasks[1].cancel)
        return what

    tasks = [asyncio.create_task(limited(what)) for what in (1, 2, 3)]
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert [found[0], type(found[1]), found[2]] == [1, asyncio.CancelledError, 3]
    assert BEGUN == [1, 3]
    assert await asyncio.wait_for(limited(4), 1) == 4, "no turn is lost"


@pytest.mark.usefixtures("dbos")
async def test_a_pause_holds_no_turn_and_the_wait_for_one_is_no_part_of_the_time_limit() -> None:
    order: list[str] = []

    @DBOS.step(
        name="limited and patient", max_concurrent=1, retries_allowed=True, interval_seconds=0.2, timeout_seconds=0.15
    )
    async def limited(name: str) -> str:
        order.append(f"{name}{DBOS.attempt}")
        await asyncio.sleep(0.1)
        if DBOS.attempt == 1:
            raise OSError("once")
        return name

    @DBOS.workflow(name="calls limited steps")
    async def workflow() -> list[str]:
        return list(await asyncio.gather(*[limited(name) for name in "abc"]))

    assert await workflow() == ["a", "b", "c"]
    assert order[:3] == ["a1", "b1", "c1"]
    assert sorted(order[3:]) == ["a2", "b2", "c2"]


@pytest.mark.usefixtures("dbos")
async def test_a_thread_that_was_abandoned_keeps_its_turn_until_it_ends() -> None:
    may_end = threading.Event()
    running: list[str] = []

    @DBOS.step(name="blocks", max_concurrent=1, timeout_seconds=0.05, retries_allowed=True, interval_seconds=0)
    def block() -> int | None:
        running.append("begins")
        if len(running) == 1:
            may_end.wait(20)
            running.append("ends")
        return DBOS.attempt

    @DBOS.workflow(name="abandons a thread")
    async def workflow() -> int | None:
        return await block()

    with SetWorkflowID("w"):
        handle = await DBOS.start_workflow(workflow)

    async def waits_for_its_turn() -> bool:
        return any(step.last_error for step in await DBOS.list_workflow_steps("w"))

    await eventually(waits_for_its_turn)
    (step,) = await DBOS.list_workflow_steps("w")
    assert step.attempt is None
    assert str(step.last_error).startswith("StepTimeoutError")
    assert running == ["begins"]
    may_end.set()
    assert await handle.get_result() == 2
    assert running == ["begins", "ends", "begins"]


async def test_a_plain_call_that_leaves_its_thread_behind_keeps_the_turn_as_well() -> None:
    may_end = threading.Event()
    running: list[str] = []

    @DBOS.step(name="blocks when called", max_concurrent=1)
    def block() -> None:
        running.append("begins")
        may_end.wait(20)

    with anyio.move_on_after(0.05):
        await block()
    again = asyncio.create_task(block())
    await asyncio.sleep(0.05)
    assert running == ["begins"]
    may_end.set()
    await again
    assert running == ["begins", "begins"]


@pytest.mark.usefixtures("dbos")
async def test_a_call_of_the_step_within_its_own_attempt_needs_no_turn_of_its_own() -> None:
    @DBOS.step(name="calls itself", max_concurrent=1)
    async def count_down(n: int) -> list[int]:
        return [n, *(await count_down(n - 1) if n else [])]

    @DBOS.step(name="calls itself in a thread", max_concurrent=1)
    def count_down_in_threads(n: int) -> list[int]:
        return [n, *(anyio.from_thread.run(count_down_in_threads, n - 1) if n else [])]

    @DBOS.workflow(name="counts down")
    async def workflow() -> list[list[int]]:
        return [await count_down(3), await count_down_in_threads(3)]

    async with asyncio.timeout(5):
        assert await workflow() == [[3, 2, 1, 0]] * 2
        assert await count_down(2) == [2, 1, 0]


async def test_a_task_that_outlives_its_attempt_needs_a_turn() -> None:
    left: list[asyncio.Task[Any]] = []

    @DBOS.step(name="leaves a task behind", max_concurrent=1)
    async def leave(what: Any) -> Any:
        if what == "outer":
            left.append(asyncio.create_task(after()))
            return None
        return await run_until_let(what)

    async def after() -> Any:
        await released.wait()
        return await leave("inner")

    released = asyncio.Event()
    await leave("outer")
    other = asyncio.create_task(leave("other"))
    await eventually(lambda: BEGUN == ["other"])
    released.set()
    await turns_of_the_loop()
    assert BEGUN == ["other"]
    let("other", "inner")
    assert await other == "other"
    assert await left[0] == "inner"


def test_each_event_loop_has_turns_of_its_own() -> None:
    async def run() -> Any:
        let(1)
        return await one(1)

    async def left_behind() -> None:
        task = asyncio.create_task(one(2))
        await eventually(lambda: 2 in BEGUN)
        del task  # the loop closes, and takes the turn with it

    asyncio.run(left_behind())
    GATES.clear()
    assert asyncio.run(run()) == 1


async def test_d4_a_shutdown_does_not_wait_for_pauses_and_turns(database_url: str, connection: Any) -> None:
    @DBOS.step(name="pauses at the end", retries_allowed=True)
    async def pause() -> None:
        raise RetryAfter(3600)

    @DBOS.workflow(name="pauses when all ends")
    async def pauses(_: int) -> None:
        await pause()

    async with DBOS(database_url, drain_seconds=20):
        await started(pauses, 0)
        held = asyncio.create_task(one("plain"))
        await eventually(lambda: BEGUN == ["plain"])
        await started(call_one, 1)
        began = time.monotonic()
    assert time.monotonic() - began < 10
    assert BEGUN == ["plain"]
    rows = await connection.fetch("select status, owner from dbos_async.workflows")
    assert [tuple(row) for row in rows] == [("PENDING", None)] * 2
    let("plain")
    assert await held == "plain"


async def test_d4_a_shutdown_begins_no_further_attempt(database_url: str, connection: Any) -> None:
    attempts: list[int | None] = []

    @DBOS.step(name="fails at the end", retries_allowed=True, interval_seconds=0.01)
    async def fails() -> None:
        attempts.append(DBOS.attempt)
        await failing.wait()
        raise OSError("once more")

    @DBOS.workflow(name="fails and works at the end")
    async def workflow(_: int) -> None:
        await asyncio.gather(fails(), one("works"))

    failing = asyncio.Event()
    async with DBOS(database_url, drain_seconds=20):
        await started(workflow, 0)
        await eventually(lambda: attempts and BEGUN)
        executor = launched.executor()

        async def end() -> None:
            await eventually(lambda: executor.closing)
            failing.set()
            await eventually(lambda: any(step.tries is not None for step in executor.runs["w0"].step_bodies))
            await asyncio.sleep(0.1)  # more than the pause
            assert attempts == [1]
            let("works")

        ending = asyncio.create_task(end())
    await ending
    assert attempts == [1]
    rows = await connection.fetch("select key, completed_at is null from dbos_async.steps")
    assert [tuple(row) for row in rows] == [("one at once", False)]


async def test_w4_limited_steps_of_one_workflow_replay_in_their_order(database_url: str) -> None:
    @DBOS.step(name="limited and quick", max_concurrent=2)
    async def quick(n: int) -> int:
        await asyncio.sleep(0.001 * (n % 3))
        return n

    @DBOS.workflow(name="races of limited steps")
    async def workflow() -> list[int]:
        return [await done for done in asyncio.as_completed([quick(n) for n in range(12)])]

    async with DBOS(database_url):
        with SetWorkflowID("w"):
            found = await workflow()
    report = await replay_workflow(database_url, "w", registered)
    assert (report.fits, report.frontier) == (True, None), report.says
    assert sorted(found) == list(range(12))


@pytest.mark.usefixtures("dbos")
async def test_the_time_out_of_a_coroutine_gives_its_turn_back() -> None:
    @DBOS.step(name="times out in its turn", max_concurrent=1, timeout_seconds=0.02)
    async def slow() -> None:
        await asyncio.sleep(30)

    @DBOS.workflow(name="times out twice")
    async def workflow() -> int:
        found = await asyncio.gather(slow(), slow(), return_exceptions=True)
        return sum(isinstance(each, StepTimeoutError) for each in found)

    assert await asyncio.wait_for(workflow(), 5) == 2
