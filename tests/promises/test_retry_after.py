"""`RetryAfter`: a step that is tried again when another side says so."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta
from typing import Any

import anyio
import pytest

from dbos_async import (
    DBOS,
    InvalidArgumentError,
    RetryAfter,
    SetWorkflowID,
    SetWorkflowTimeout,
    StepTimeoutError,
    WorkflowCancelledError,
)
from dbos_async._workflows import retries
from tests.support.eventually import eventually
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


async def test_retry_after_waits_as_long_as_asked_and_counts_as_no_attempt(
    pauses: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "dbos_async")
    RAISED.extend(
        [RetryAfter(7, "too many"), BusyError(), RetryAfter(timedelta(minutes=1)), RetryAfter(8), BusyError()]
    )
    with SetWorkflowID("w"):
        assert await outcome(max_attempts=3, interval_seconds=1, jitter=False) == 6
    assert pauses == [7, 1, 60, 8, 2]
    assert ATTEMPTS == [1, 1, 2, 2, 2, 3]
    lines = [f"{each.levelname} {each.getMessage()}" for each in caplog.records if "'tried'" in each.getMessage()]
    assert lines == [
        "INFO Step 'tried' of workflow 'w' waits for 7 s: RetryAfter: too many",
        "WARNING Step 'tried' of workflow 'w' failed in attempt 1 of 3 and is tried again in 1 s: BusyError: ",
        "INFO Step 'tried' of workflow 'w' waits for 60 s: RetryAfter: 60 s",
        "INFO Step 'tried' of workflow 'w' waits for 8 s: RetryAfter: 8 s",
        "WARNING Step 'tried' of workflow 'w' failed in attempt 2 of 3 and is tried again in 2 s: BusyError: ",
    ]


async def test_retry_after_counts_as_no_attempt_however_few_there_are(pauses: list[float]) -> None:
    RAISED.extend([RetryAfter(1)] * 100)
    assert await outcome(max_attempts=1) == 101
    assert set(ATTEMPTS) == {1}
    RAISED.append(BusyError())
    assert isinstance(await outcome(max_attempts=1), BusyError)


async def test_retry_after_nothing_makes_no_busy_loop(pauses: list[float]) -> None:
    RAISED.extend([RetryAfter(0), RetryAfter(0)])
    assert await outcome() == 3
    assert pauses == [retries.LEAST_WAIT_SECONDS] * 2


async def test_a_group_of_retry_afters_waits_for_the_longest(pauses: list[float]) -> None:
    inner = ExceptionGroup("inner", [RetryAfter(9), RetryAfter(2)])
    RAISED.append(ExceptionGroup("several", [RetryAfter(3), inner]))
    RAISED.append(ExceptionGroup("several", [RetryAfter(5), BusyError()]))
    assert await outcome(max_attempts=2) == 3
    assert pauses == [9, 5]
    assert ATTEMPTS == [1, 1, 2], "a group with another error counts"


async def test_a_predicate_may_raise_retry_after(pauses: list[float]) -> None:
    def as_asked(error: Exception) -> bool:
        if isinstance(error, ClosedError) and error.status == 429:
            raise RetryAfter(30)
        return False

    RAISED.extend([ClosedError(429), ClosedError(429), ClosedError(404)])
    found = await outcome(retry_on=as_asked, max_attempts=1)
    assert isinstance(found, ClosedError)
    assert found.status == 404
    assert pauses == [30, 30]


async def test_w2_retry_after_is_an_error_like_any_other_without_retries() -> None:
    @DBOS.step(name="asks without retries")
    async def ask() -> None:
        raise RetryAfter(timedelta(seconds=1.5), "slow down.") from BusyError("now")

    @DBOS.workflow(name="is asked without retries")
    async def workflow() -> Any:
        try:
            await ask()
        except RetryAfter as error:
            return [error.seconds, error.reason, str(error), repr(error.__cause__)]

    expected = [
        1.5,
        "slow down.",
        "slow down: try again in 1.5 seconds, which a step does by itself with @DBOS.step(retries_allowed=True).",
        "BusyError('now')",
    ]
    with SetWorkflowID("w"):
        assert await workflow() == expected
    copy = await DBOS.fork_workflow("w", 2)
    assert await copy.get_result() == expected, "a replay is told the same"


@pytest.mark.parametrize("seconds", [-1, "5", None, float("nan"), float("inf"), 10**400, True, timedelta(-1), object()])
def test_d5_retry_after_takes_a_time(seconds: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="RetryAfter takes a timedelta or a number of seconds, .* was given"):
        RetryAfter(seconds)
    with pytest.raises(InvalidArgumentError, match="reason of RetryAfter must be a str"):
        RetryAfter(1, seconds) if not isinstance(seconds, str) else RetryAfter(1, 5)  # type: ignore[arg-type]  # no text


async def test_w6_a_pause_ends_when_its_workflow_is_cancelled() -> None:
    @DBOS.step(name="asks for an hour", retries_allowed=True)
    async def ask() -> None:
        raise RetryAfter(3600)

    @DBOS.workflow(name="waits for an hour")
    async def workflow() -> None:
        await ask()

    with SetWorkflowID("w"):
        handle = await DBOS.start_workflow(workflow)
    await eventually(lambda: _pauses("w"))
    async with asyncio.timeout(2):
        await DBOS.cancel_workflow("w")
        with pytest.raises(Exception, match="was cancelled"):
            await handle.get_result()


async def _pauses(workflow_id: str) -> bool:
    steps = await DBOS.list_workflow_steps(workflow_id)
    return any(step.next_attempt_at is not None for step in steps)


async def test_c1_a_pause_ends_when_its_step_is_cancelled() -> None:
    @DBOS.step(name="asks for an hour when started", retries_allowed=True)
    async def ask() -> None:
        raise RetryAfter(3600, "come back later")

    @DBOS.workflow(name="cancels a pause")
    async def workflow() -> str:
        started = await DBOS.start_step(ask)
        await DBOS.recv("cancel", 60)
        await started.cancel()
        try:
            await started.get_result()
        except Exception as error:
            return type(error).__name__
        return ""

    with SetWorkflowID("w"):
        handle = await DBOS.start_workflow(workflow)
    await eventually(lambda: _pauses("w"))
    (step,) = [step for step in await DBOS.list_workflow_steps("w") if step.verb == "step"]
    assert (step.attempt, step.last_error) == (1, "RetryAfter: come back later")
    assert step.next_attempt_at is not None
    assert 3500 < (step.next_attempt_at - step.started_at).total_seconds() < 3700
    await DBOS.send("w", None, "cancel")
    assert await handle.get_result() == "StepCancelledError"


async def test_a_deadline_ends_a_step_that_is_tried_again_for_ever() -> None:
    @DBOS.step(name="asks for ever", retries_allowed=True)
    async def ask() -> None:
        raise_next()
        raise RetryAfter(0)

    @DBOS.workflow(name="is asked for ever")
    async def workflow() -> None:
        await ask()

    with SetWorkflowTimeout(0.5):
        handle = await DBOS.start_workflow(workflow)
    async with asyncio.timeout(5):
        with pytest.raises(WorkflowCancelledError):
            await handle.get_result()
    assert len(ATTEMPTS) > 1


async def test_a_late_retry_after_does_not_hide_a_timeout() -> None:
    @DBOS.step(name="asks too late", retries_allowed=True, max_attempts=2, interval_seconds=0, timeout_seconds=0.01)
    async def ask() -> None:
        try:
            await anyio.sleep(30)
        finally:
            raise RetryAfter(3600)

    @DBOS.workflow(name="is asked too late")
    async def workflow() -> None:
        await ask()

    with pytest.raises(StepTimeoutError):
        await workflow()
