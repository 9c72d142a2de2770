"""The retries of steps: which errors are retried, how long the pauses are, and what an attempt knows."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from dbos_async import (
    DBOS,
    InvalidArgumentError,
    InvalidValueError,
    RetryAfter,
    SetWorkflowID,
    StepTimeoutError,
    SystemExitError,
    WrongPlaceError,
)
from dbos_async._workflows import retries
from tests.support.retrying import ATTEMPTS, RAISED, BusyError, ClosedError, outcome, raise_next

pytestmark = pytest.mark.usefixtures("dbos")


@pytest.fixture(autouse=True)
def nothing_tried() -> None:
    RAISED.clear()
    ATTEMPTS.clear()


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The lengths of all pauses, which take no time."""
    found: list[float] = []

    async def sleep(seconds: float) -> None:
        found.append(seconds)

    monkeypatch.setattr(retries, "sleep", sleep)
    return found


def busy_or_503(error: Exception) -> bool:
    return isinstance(error, BusyError) or (isinstance(error, ClosedError) and error.status == 503)


async def busy_in_a_while(error: Exception) -> bool:
    await asyncio.sleep(0)
    return isinstance(error, BusyError)


@pytest.mark.parametrize(
    ("retry_on", "raised", "attempts"),
    [
        (None, [BusyError(), ClosedError(1)], 3),
        (BusyError, [BusyError(), BusyError()], 3),
        (BusyError, [BusyError(), ClosedError(1)], 2),
        ((BusyError, ClosedError), [BusyError(), ClosedError(1)], 3),
        ([OSError], [ConnectionError(), BusyError()], 2),
        ({OSError}, [BusyError()], 1),
        ((), [BusyError()], 1),
        (Exception, [InvalidValueError("it", "is odd")], 2),
        (None, [InvalidValueError("it", "is odd")], 1),
        (TimeoutError, [StepTimeoutError("x", 1)], 2),
        (busy_or_503, [BusyError(), ClosedError(503)], 3),
        (busy_or_503, [ClosedError(503), ClosedError(404)], 2),
        (busy_in_a_while, [BusyError(), ClosedError(503)], 2),
        (lambda error: not error.args, [BusyError(), BusyError(1)], 2),
    ],
)
async def test_retry_on_says_after_which_errors_a_step_is_tried_again(
    retry_on: Any, raised: list[Exception], attempts: int
) -> None:
    RAISED.extend(raised)
    last = raised[attempts - 1] if attempts <= len(raised) else None
    found = await outcome(retry_on=retry_on)
    assert list(range(1, attempts + 1)) == ATTEMPTS
    assert found == attempts if last is None else type(found) is type(last)
    if last is not None and attempts > 1:
        assert found.__notes__ == [f"The step 'tried' was tried {attempts} times."]


@pytest.mark.parametrize(
    ("members", "is_retried"),
    [
        ([BusyError(), BusyError()], True),
        ([BusyError(), ExceptionGroup("inner", [BusyError()])], True),
        ([BusyError(), ClosedError(1)], False),
        ([BusyError(), RetryAfter(0)], True),
        ([ClosedError(1), RetryAfter(0)], False),
    ],
)
async def test_a_group_of_errors_is_retried_if_each_of_them_is(members: list[Exception], is_retried: bool) -> None:
    RAISED.append(ExceptionGroup("several", members))
    found = await outcome(retry_on=BusyError)
    assert found == 2 if is_retried else isinstance(found, ExceptionGroup)


async def test_retry_on_a_type_of_groups_is_retried() -> None:
    RAISED.append(ExceptionGroup("several", [ClosedError(1)]))
    assert await outcome(retry_on=ExceptionGroup) == 2


@pytest.mark.parametrize("answer", [None, 1, "yes", [], object()])
async def test_d5_a_predicate_that_does_not_answer_true_or_false_ends_the_step(answer: Any) -> None:
    RAISED.append(BusyError("now"))
    found = await outcome(retry_on=lambda _: answer)
    assert isinstance(found, InvalidArgumentError)
    assert str(found).startswith("The retry_on of the step 'tried' must answer True or False and has answered ")
    assert isinstance(found.__cause__, BusyError)
    assert ATTEMPTS == [1]


async def test_d5_what_a_predicate_raises_ends_the_step_and_has_the_error_as_its_cause() -> None:
    def broken(error: Exception) -> bool:
        raise KeyError(error.args[0])

    async def broken_later(error: Exception) -> bool:
        return broken(error)

    for retry_on in (broken, broken_later):
        RAISED.append(BusyError("now"))
        found = await outcome(retry_on=retry_on)
        assert isinstance(found, KeyError)
        assert found.__notes__ == ["The retry_on of the step 'tried' raised this."]
        assert isinstance(found.__cause__, BusyError)


async def test_a_predicate_that_raises_the_error_itself_ends_the_step_by_it() -> None:
    def again(error: Exception) -> bool:
        raise error

    RAISED.append(BusyError("now"))
    found = await outcome(retry_on=again)
    assert isinstance(found, BusyError)
    assert found.__cause__ is None


async def test_w5_a_predicate_that_calls_sys_exit_fails_the_step() -> None:
    RAISED.append(BusyError("now"))

    def leave(_: Exception) -> bool:
        raise SystemExit(3)

    found = await outcome(retry_on=leave)
    assert isinstance(found, SystemExitError)
    assert (found.what, found.code) == ("The retry_on of the step 'tried'", 3)


async def test_a_predicate_is_a_part_of_the_step() -> None:
    seen: list[Any] = []

    async def look(_: Exception) -> bool:
        seen.append((DBOS.workflow_id, DBOS.step_id, DBOS.attempt))
        await DBOS.set_event("failed", DBOS.attempt)
        return True

    RAISED.extend([BusyError(), BusyError()])
    with SetWorkflowID("w"):
        assert await outcome(retry_on=look) == 3
    assert seen == [("w", "1", 1), ("w", "1", 2)]
    assert await DBOS.get_event("w", "failed") == 2
    assert len(await DBOS.list_workflow_steps("w")) == 1


async def test_pauses_grow_up_to_their_maximum(pauses: list[float]) -> None:
    RAISED.extend([BusyError()] * 5)
    assert await outcome(max_attempts=6, interval_seconds=1, backoff_rate=3, max_interval_seconds=10) == 6
    assert pauses == [1, 3, 9, 10, 10]


async def test_jitter_makes_pauses_random_between_half_and_all_of_them(pauses: list[float]) -> None:
    RAISED.extend([BusyError()] * 200)
    assert await outcome(max_attempts=201, interval_seconds=2, max_interval_seconds=4, jitter=True) == 201
    assert all(1 <= pause <= 2 for pause in pauses[:1])
    assert all(2 <= pause <= 4 for pause in pauses[1:])
    assert len(set(pauses)) == 200
    assert min(pauses[1:]) < 2.4
    assert max(pauses[1:]) > 3.6


async def test_an_attempt_knows_its_number_also_in_threads_and_in_tasks() -> None:
    @DBOS.step(name="knows in a thread", retries_allowed=True, interval_seconds=0)
    def in_thread() -> int | None:
        raise_next()
        return DBOS.attempt

    @DBOS.step(name="knows in a task", retries_allowed=True, interval_seconds=0)
    async def in_task() -> int | None:
        async def child() -> int | None:
            return await nested()

        raise_next()
        return await asyncio.create_task(child())

    @DBOS.step(name="knows what the outer one knows")
    async def nested() -> int | None:
        return DBOS.attempt

    @DBOS.workflow(name="knows no attempt")
    async def workflow() -> list[Any]:
        return [DBOS.attempt, await in_thread(), await in_task(), await nested()]

    RAISED.extend([BusyError(), BusyError()])
    assert await workflow() == [None, 3, 1, 1]
    assert ATTEMPTS == [1, 2, 3, 1]
    assert DBOS.attempt is None
    assert await nested() is None, "outside of workflows"


async def test_a_timer_of_the_workflow_ends_a_pause() -> None:
    @DBOS.step(name="pauses for an hour", retries_allowed=True, interval_seconds=3600)
    async def fail() -> None:
        raise BusyError

    @DBOS.workflow(name="has a timer")
    async def workflow() -> str:
        try:
            async with asyncio.timeout(0.1):
                await fail()
        except TimeoutError:
            return "timed out"
        return ""

    async with asyncio.timeout(5):
        assert await workflow() == "timed out"


async def test_d6_a_step_in_another_event_loop_than_its_workflow_raises_one_sentence() -> None:
    @DBOS.step(name="is called in another loop")
    async def step() -> None: ...

    @DBOS.workflow(name="runs another loop")
    async def workflow() -> None:
        await asyncio.to_thread(lambda: asyncio.run(step()))

    async with asyncio.timeout(5):
        with pytest.raises(WrongPlaceError, match="A step works in the event loop of its workflow"):
            await workflow()


def test_d5_options_of_retries_without_retries_warn() -> None:
    several: list[dict[str, Any]] = [{"retry_on": OSError}, {"max_interval_seconds": 5}, {"jitter": True}]
    for options in several:
        with pytest.warns(UserWarning, match="add retries_allowed=True"):
            DBOS.step(**options)
    DBOS.step(max_concurrent=3)
