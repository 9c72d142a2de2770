"""Workflows: promise W1, and D1, D5 and D6 as far as they are about them."""

from __future__ import annotations

import asyncio
import os
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from pydantic import BaseModel

from dbos_async import (
    DBOS,
    DBOSClient,
    DBOSError,
    InvalidArgumentError,
    LaunchError,
    RegistrationError,
    SetWorkflowID,
    WorkflowConflictError,
    WorkflowNotFoundError,
    WrongPlaceError,
)
from tests.support.eventually import eventually
from tests.support.workflows import echo, wait_for_ever


class Order(BaseModel):
    id: str
    total: Decimal
    due: datetime


@dataclass
class Receipt:
    order: Order
    paid: bool


pytestmark = pytest.mark.usefixtures("dbos")


async def test_w1_the_same_id_starts_one_workflow_and_its_first_arguments_count(database_url: str) -> None:
    handles = []
    for value in ("first", "second"):
        with SetWorkflowID("order-17"):
            handles.append(await DBOS.start_workflow(echo, value))
    async with DBOSClient(database_url) as client:
        with SetWorkflowID("order-17"):
            handles.append(await client.start_workflow("echo", "third"))
        assert [await handle.get_result() for handle in handles] == ["first"] * 3


async def test_w1_starts_of_one_id_at_the_same_time_are_one_workflow() -> None:
    async def start(n: int) -> Any:
        with SetWorkflowID("crowd"):
            return await (await DBOS.start_workflow(echo, n)).get_result()

    assert len(set(await asyncio.gather(*(start(n) for n in range(50))))) == 1


async def test_w1_the_same_id_for_another_function_raises() -> None:
    with SetWorkflowID("order-17"):
        await DBOS.start_workflow(echo, 1)
    with SetWorkflowID("order-17"), pytest.raises(WorkflowConflictError, match="was started as 'echo'"):
        await DBOS.start_workflow(wait_for_ever)


async def test_w1_an_id_is_a_one_use_ticket() -> None:
    with SetWorkflowID("order-17"):
        await DBOS.start_workflow(echo, 1)
        with pytest.raises(WrongPlaceError, match="already given its id"):
            await DBOS.start_workflow(echo, 2)


async def test_a_workflow_called_directly_runs_durably_and_as_a_child_inside_another() -> None:
    @DBOS.workflow()
    async def parent() -> list[Any]:
        direct = await echo(1)
        handle = await DBOS.start_workflow(echo, 2)
        return [direct, await handle.get_result()]

    with SetWorkflowID("parent"):
        assert await parent() == [1, 2]
    children = await DBOS.list_workflows(parent_id="parent")
    assert [(child.name, child.output) for child in children] == [("echo", 1), ("echo", 2)]


async def test_d1_arguments_and_results_travel_by_their_annotations() -> None:
    seen: list[Any] = []

    @DBOS.step()
    async def pay(order: Order) -> Receipt:
        return Receipt(order, True)

    @DBOS.workflow()
    async def buy(order: Order, *more: datetime, note: bytes = b"") -> Receipt:
        seen.extend([order, more, note])
        return await pay(order)

    now = datetime(2026, 11, 23, tzinfo=UTC)
    order = Order(id="o", total=Decimal("19.90"), due=now)
    handle = await DBOS.start_workflow(buy, order, now, note=b"\xff")
    assert await handle.get_result() == Receipt(order, True)
    assert seen == [order, (now,), b"\xff"]
    assert seen[0] is not order
    again = await DBOS.retrieve_workflow(handle.workflow_id)
    assert await again.get_result() == Receipt(order, True)


async def test_binding_errors_raise_before_anything_is_stored() -> None:
    with pytest.raises(TypeError, match="missing a required argument"):
        await DBOS.start_workflow(echo)  # type: ignore[call-overload]  # the mistake under test
    assert await DBOS.list_workflows() == []


async def test_handles_statuses_and_lists() -> None:
    for name in ("a-1", "a-2", "b-1"):
        with SetWorkflowID(name):
            await (await DBOS.start_workflow(echo, name)).get_result()
    assert [w.workflow_id for w in await DBOS.list_workflows(id_prefix="a-")] == ["a-1", "a-2"]
    assert [w.workflow_id for w in await DBOS.list_workflows(limit=2)] == ["a-1", "a-2"]
    assert [w.workflow_id for w in await DBOS.list_workflows(after="a-2")] == ["b-1"]
    assert await DBOS.list_workflows(status="ERROR") == []
    assert len(await DBOS.list_workflows(name="echo", until=datetime.now(UTC))) == 3
    handle = await DBOS.retrieve_workflow("a-1")
    status = await handle.get_status()
    assert (status.status, status.output, status.name) == ("SUCCESS", "a-1", "echo")
    with pytest.raises(WorkflowNotFoundError, match="'nobody'"):
        await DBOS.retrieve_workflow("nobody")
    with pytest.raises(InvalidArgumentError, match="status must be one of"):
        await DBOS.list_workflows(status="DONE")
    with pytest.raises(InvalidArgumentError, match="time zone"):
        await DBOS.list_workflows(since=datetime(2026, 1, 1))  # noqa: DTZ001 - the mistake under test


async def test_the_result_of_an_unknown_workflow_raises_inside_and_outside() -> None:
    @DBOS.workflow()
    async def ask() -> str:
        try:
            await DBOS.retrieve_workflow("nobody")
        except WorkflowNotFoundError as error:
            return error.workflow_id
        return ""

    assert await ask() == "nobody"


async def test_a_cancelled_caller_does_not_stop_the_workflow_it_started() -> None:
    for _ in range(20):
        starting = asyncio.ensure_future(DBOS.start_workflow(echo, "still runs"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
    await eventually(_nothing_pending)


async def _nothing_pending() -> bool:
    return await DBOS.list_workflows(status="PENDING") == []


async def test_a_client_starts_by_name_or_function_what_an_executor_knows(database_url: str) -> None:
    async with DBOSClient(database_url) as client:
        by_name = await client.start_workflow("echo", {"k": 1})
        by_function = await client.start_workflow(echo, value=2)
        assert [await by_name.get_result(), await by_function.get_result()] == [{"k": 1}, 2]
        with pytest.raises(RegistrationError):
            await client.start_workflow(print)  # type: ignore[call-overload]  # the mistake under test
    with pytest.raises(LaunchError, match="not open"):
        await client.send("x", 1)


async def test_registration_mistakes_raise_one_sentence() -> None:
    with pytest.raises(RegistrationError, match="async"):

        @DBOS.workflow()  # type: ignore[arg-type]  # the mistake under test
        def not_async() -> None: ...

    with pytest.raises(RegistrationError, match="which has no JSON"):

        @DBOS.workflow()
        async def odd(x: threading.Lock) -> None: ...

    with pytest.raises(RegistrationError, match="Two workflows are named 'echo'"):

        @DBOS.workflow(name="echo")
        async def another() -> None: ...

    with pytest.raises(InvalidArgumentError, match="parentheses"):
        DBOS.workflow(echo)  # type: ignore[arg-type]  # the mistake under test


async def test_d6_a_verb_from_another_event_loop_raises() -> None:
    def elsewhere() -> str:
        try:
            asyncio.run(DBOS.send("x", 1))
        except WrongPlaceError as error:
            return str(error)
        return ""

    assert "another event loop" in await asyncio.to_thread(elsewhere)


async def test_launching_twice_raises(database_url: str) -> None:
    with pytest.raises(LaunchError, match="launched already"):
        async with DBOS(database_url):
            pass


async def test_d5_every_error_derives_from_dbos_error_and_survives_a_copy() -> None:
    import copy
    import inspect

    from dbos_async import errors

    for name, kind in inspect.getmembers(errors, inspect.isclass):
        if kind.__module__ != errors.__name__:
            continue
        assert issubclass(kind, DBOSError), name
        parameters = list(inspect.signature(kind.__init__).parameters.values())[1:]
        values = {"float": 1.5, "float | timedelta": 1.5, "bool": True, "int": 2}
        args = [
            values.get(str(p.annotation), "x")
            for p in parameters
            if p.kind is p.POSITIONAL_OR_KEYWORD and p.default is p.empty
        ]
        error = kind(*args)
        again = copy.copy(error)
        assert type(again) is kind
        assert str(again) == str(error)
        assert os.linesep not in str(error)
