"""Steps: promises W4, D1 and D2 as far as they are about them."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

from dbos_async import (
    DBOS,
    InvalidValueError,
    SetWorkflowID,
    StepTimeoutError,
)

pytestmark = pytest.mark.usefixtures("dbos")


class CardDeclinedError(Exception):
    def __init__(self, code: int, *, retry: bool = False) -> None:
        super().__init__(code)
        self.code, self.retry = code, retry


async def test_d1_what_a_step_returns_first_is_what_a_replay_would_return() -> None:
    @DBOS.step()
    async def pair() -> Any:
        return (1, {"k": (2,)})

    @DBOS.workflow()
    async def workflow() -> list[str]:
        return [repr(await pair())]

    assert await workflow() == ["[1, {'k': [2]}]"]


async def test_exceptions_of_steps_and_workflows_keep_their_type_and_arguments() -> None:
    @DBOS.step()
    async def charge() -> None:
        raise CardDeclinedError(51, retry=True)

    @DBOS.workflow()
    async def buy() -> str:
        try:
            await charge()
        except CardDeclinedError as error:
            assert (error.code, error.retry, error.args) == (51, True, (51,))
            raise
        return "unreachable"

    handle = await DBOS.start_workflow(buy)
    with pytest.raises(CardDeclinedError) as raised:
        await handle.get_result()
    assert (raised.value.code, raised.value.retry) == (51, True)
    assert (await handle.get_status()).status == "ERROR"


async def test_w2_an_exception_of_a_local_class_is_caught_by_that_class_in_its_process() -> None:
    class LocalError(Exception):
        pass

    @DBOS.workflow()
    async def fail() -> None:
        raise LocalError("boom")

    with pytest.raises(LocalError, match=r"^boom$"):
        await fail()


async def test_d2_a_result_that_cannot_be_stored_is_the_error_of_the_step_which_is_not_run_again() -> None:
    ran: list[int] = []

    @DBOS.step()
    async def bad() -> Any:
        ran.append(1)
        return object()

    @DBOS.workflow()
    async def workflow() -> str:
        try:
            await bad()
        except InvalidValueError as error:
            return str(error)
        return ""

    assert "The result of step" in await workflow()
    assert ran == [1]


async def test_steps_retry_time_out_and_run_functions_in_threads() -> None:
    tried: list[float] = []

    @DBOS.step(retries_allowed=True, max_attempts=3, interval_seconds=0.01)
    async def flaky() -> int:
        tried.append(time.monotonic())
        if len(tried) < 3:
            raise OSError("not yet")
        return len(tried)

    @DBOS.step(retries_allowed=True, max_attempts=2, interval_seconds=0)
    async def hopeless() -> None:
        raise OSError("never")

    @DBOS.step(timeout_seconds=0.02)
    async def slow() -> None:
        await asyncio.sleep(30)

    @DBOS.step()
    def blocking(x: int) -> tuple[int, bool]:
        return x, threading.current_thread() is threading.main_thread()

    @DBOS.workflow()
    async def workflow() -> list[Any]:
        outcomes: list[Any] = [await flaky()]
        for step in (hopeless, slow):
            try:
                await step()
            except (OSError, StepTimeoutError) as error:
                outcomes.append(type(error).__name__)
        outcomes.append(await blocking(7))
        return outcomes

    assert await workflow() == [3, "OSError", "StepTimeoutError", [7, False]]
    assert await blocking(8) == (8, False), "outside of workflows a step is a plain call"


async def test_a_step_in_a_step_is_a_plain_call() -> None:
    @DBOS.step()
    async def inner() -> str | None:
        return DBOS.step_id

    @DBOS.step()
    async def outer() -> list[str | None]:
        return [DBOS.workflow_id, DBOS.step_id, await inner()]

    @DBOS.workflow()
    async def workflow() -> list[str | None]:
        return await outer()

    with SetWorkflowID("w"):
        assert await workflow() == ["w", "1", "1"]
    assert len(await DBOS.list_workflow_steps("w")) == 1
    assert DBOS.workflow_id is None
    assert DBOS.step_id is None


async def test_w4_steps_are_numbered_by_path_in_tasks() -> None:
    @DBOS.step()
    async def where(name: str) -> str | None:
        return DBOS.step_id

    @DBOS.workflow()
    async def workflow() -> list[Any]:
        async def branch(name: str) -> list[Any]:
            return [await where(name), await where(name)]

        found: list[Any] = [await where("first")]
        found += await asyncio.gather(branch("a"), branch("b"))
        async with asyncio.TaskGroup() as group:
            third = group.create_task(branch("c"))
        found += [third.result(), await where("last")]
        return found

    assert await workflow() == ["1", ["1.1.1", "1.1.2"], ["1.2.1", "1.2.2"], ["1.3.1", "1.3.2"], "2"]
