"""What a type checker sees of a wait for the first of several, and of steps that are started, as `surface.py` has it for the others."""

from __future__ import annotations

from typing import Any, assert_type

from dbos_async import (
    DBOS,
    Asked,
    DBOSClient,
    Envelope,
    EventEnd,
    EventOf,
    EventValue,
    Question,
    StepHandle,
    StreamEnd,
    StreamOf,
    StreamValue,
    WorkflowHandle,
)
from tests.typing.surface import PAID, PRICE, PROGRESS, Paid, Progress, charge, count


async def first(
    dbos: DBOS,
    client: DBOSClient,
    question: Question[str, int],
    child: WorkflowHandle[str],
    some: list[WorkflowHandle[int]],
) -> None:
    step = await DBOS.start_step(charge, 100, currency="EUR")
    assert_type(step, StepHandle[Paid])
    assert_type(await step.get_result(), Paid)
    assert_type(await step.cancel(), None)
    assert_type(await dbos.start_step(count, "one two"), StepHandle[int])
    await DBOS.start_step(charge, "100")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # no number
    await DBOS.start_step(charge)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]  # no cents

    assert_type(await DBOS.wait_first(PAID, step), Envelope[Paid] | StepHandle[Paid])
    assert_type(await DBOS.wait_first(PAID, step, timeout_seconds=5), Envelope[Paid] | StepHandle[Paid] | None)
    assert_type(
        await DBOS.wait_first(question, child, EventOf("w", PRICE), StreamOf("w", PROGRESS)),
        Asked[str, int] | WorkflowHandle[str] | EventValue[int] | EventEnd | StreamValue[Progress] | StreamEnd,
    )
    assert_type(await dbos.wait_first(*some, timeout_seconds=5), WorkflowHandle[int] | None)
    assert_type(await DBOS.wait_first("plain", PAID), Any)
    await DBOS.wait_first(PROGRESS)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]  # whose?
    await client.wait_first(PAID)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]  # workflows only
