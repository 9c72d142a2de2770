"""What a type checker sees of waits for the first of several things, as `surface.py` has it for the other verbs."""

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
from tests.typing.surface import LINES, PAID, PRICE, Paid

QUOTE = Question("quote", str, int)


@DBOS.step()
async def think(question: str, *, depth: int = 1) -> float:
    return len(question) * depth


@DBOS.step()
def blocking(question: str) -> bytes:
    return question.encode()


async def steps() -> None:
    thought = await DBOS.start_step(think, "why", depth=2)
    assert_type(thought, StepHandle[float])
    assert_type(await thought.get_result(), float)
    assert_type(thought.done, bool)
    assert_type(await thought.cancel(), None)
    assert_type(await DBOS.start_step(blocking, "why"), StepHandle[bytes])
    await DBOS.start_step(think, 3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # a wrong argument
    await DBOS.start_step(think, "why", deep=2)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]  # a typo


async def waits(handle: WorkflowHandle[bool], thought: StepHandle[float], client: DBOSClient) -> None:
    assert_type(await DBOS.wait_first(PAID), Envelope[Paid])
    assert_type(await DBOS.wait_first(PAID, timeout_seconds=5), Envelope[Paid] | None)
    assert_type(await DBOS.wait_first(PAID, QUOTE), Envelope[Paid] | Asked[str, int])
    assert_type(await DBOS.wait_first(handle, thought), WorkflowHandle[bool] | StepHandle[float])
    assert_type(
        await DBOS.wait_first(EventOf("w", PRICE), StreamOf("w", LINES), timeout_seconds=1),
        EventValue[int] | EventEnd | StreamValue[str | None] | StreamEnd | None,
    )
    assert_type(
        await DBOS.wait_first(PAID, QUOTE, handle, thought, timeout_seconds=None),
        Envelope[Paid] | Asked[str, int] | WorkflowHandle[bool] | StepHandle[float],
    )
    assert_type(await DBOS.wait_first(*[handle, handle]), WorkflowHandle[bool] | None)
    plain: Any = await DBOS.wait_first("plain", PAID)
    match await DBOS.wait_first(PAID, thought, timeout_seconds=5):
        case Envelope(payload=payload):
            assert_type(payload, Paid)
        case StepHandle():
            assert_type(await thought.get_result(), float)
        case None:
            assert plain
    await DBOS.wait_first(PRICE)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]  # EventOf says whose
    await DBOS.wait_first(3)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]  # nothing to wait for
    await client.wait_first(PAID)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]  # workflows only
