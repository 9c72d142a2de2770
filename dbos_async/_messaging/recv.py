"""Receiving: the workflow takes the oldest unreceived message of a queue, once and for all.

A receive is one statement. ``asyncio.timeout`` around a ``recv`` cancels it at any moment. A message that it has taken by then
goes back to its place in the queue, and its step is what a cancelled wait leaves: begun, and not ended. The next receive of the
run waits for that, so the order stays. When the whole run is stopped nothing goes back: the replay returns what was taken.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any, Final

from dbos_async._checks import check_seconds
from dbos_async._database.calls import Row
from dbos_async._database.change_keys import message_key
from dbos_async._database.database import Database
from dbos_async._database.sql import load
from dbos_async._database.statement import Statement
from dbos_async._messaging.handoff import Offer, Receive
from dbos_async._messaging.open_receive import OpenReceive
from dbos_async._runs.context import calling_context, in_workflow
from dbos_async._runs.step import Step
from dbos_async._runs.step_result import StepResult
from dbos_async._runs.waiting import wait
from dbos_async._serialization.values import decode_value
from dbos_async.envelope import Asked, Envelope
from dbos_async.errors import InvalidMessageError, LaunchError
from dbos_async.keys import Question, Topic, topic_and_type


def _is_usual(row: Row) -> bool:
    """Whether it is a recv that may wait."""
    verb, seconds = row[4], row[6]
    return verb == "recv" and (seconds is None or seconds > 0)


with load(__name__) as sql:
    TAKE_WAITING: Final = sql.statement("TAKE_WAITING")
    TAKE: Final = sql.statement("TAKE", otherwise=TAKE_WAITING, when_waiting=TAKE_WAITING, is_usual=_is_usual)
    PUT_BACK: Final = sql.statement("PUT_BACK")
    CLOSE: Final = sql.statement("CLOSE")


async def recv(database: Database, topic: str | Topic[Any] | None, timeout_seconds: float | None) -> Any:
    """Take the oldest unreceived message of the topic, ``None`` when none came in time."""
    name, declared = topic_and_type(topic)
    return await _take(
        database, "recv", name, timeout_seconds, lambda text, result: _read(text, declared, name, result)
    )


async def recv_envelope(
    database: Database, topic: str | Topic[Any] | None, timeout_seconds: float | None
) -> Envelope[Any] | None:
    """Take the oldest unreceived message of the topic in its envelope, ``None`` when none came in time."""
    name, _ = topic_and_type(topic)
    envelope: Envelope[Any] | None = await _take(
        database, "recv_envelope", name, timeout_seconds,
        lambda text, result: None if text is None else read_envelope(text, topic, result),
    )  # fmt: skip
    return envelope


def read_envelope(text: str | None, topic: str | Topic[Any] | None, result: StepResult) -> Envelope[Any]:
    """The message that a step has received, decoded in its envelope."""
    name, declared = topic_and_type(topic)
    envelope: Envelope[Any] = _read(text, envelope_type(topic, declared), name, result)
    return envelope


def envelope_type(topic: str | Topic[Any] | None, declared: Any) -> Any:
    """What a message of this topic is received as: an `Envelope`, or an `Asked` if the topic is a `Question`."""
    if isinstance(topic, Question):
        return Asked.__class_getitem__((declared, topic.answer_type))
    return Envelope.__class_getitem__(declared)


async def _take(
    database: Database,
    verb: str,
    topic: str,
    timeout_seconds: float | None,
    decode: Callable[[str | None, StepResult], Any],
) -> Any:
    seconds = check_seconds(timeout_seconds)
    step = Step(in_workflow(calling_context(database), verb), verb, topic)
    key = message_key(step.run.workflow_id, topic)
    receipt = None if database.telemetry is None else database.telemetry.receive(verb, topic, step)
    receive = Offer(step, (key,), seconds, receipt) if verb == "recv" else Receive(receipt)
    # Polls look for messages that wait, and would not see one that was handed over.
    is_heard = database.access.listen and verb == "recv" and not step.branch
    opened = OpenReceive(step, CLOSE) if is_heard else None

    def row() -> Row:
        may_be_handed = opened is not None and _has_no_order(step)
        if may_be_handed:
            step.run.open_receive = opened
        return (*step.columns, verb, topic, seconds, may_be_handed)

    try:
        result = await take(step, TAKE, row, (key,), receive, puts_back=(key,), opened=opened)
    finally:
        if opened is not None:
            opened.end()
    error: Exception | None = None
    try:
        return await step.decode_or_reject(result, lambda text: decode(text, result))
    except Exception as raised:
        error = raised
        raise
    finally:
        if receipt is not None and result.message_id is not None:
            receipt.make(result.message_id, error)
        error = None  # a reference cycle else


async def take(
    step: Step,
    statement: Statement,
    row: Row | Callable[[], Row],
    keys: Sequence[bytes],
    receive: Receive,
    *,
    puts_back: Sequence[bytes],
    opened: OpenReceive | None = None,
) -> StepResult:
    """Wait for what may be a message. One that an abandoned wait has taken goes back, behind the keys of ``puts_back``."""
    run = step.run
    offer = receive if isinstance(receive, Offer) else None

    def on_cancel() -> None:
        if run.may_put_back:
            receive.message_id = receive.message_id or step.message_id
            is_open = opened is not None and run.open_receive is opened
            run.add_cleanup(_begin(_put_back(step, puts_back, receive, offer, opened if is_open else None)))

    if run.cleanups:
        try:
            with run.inside(step.verb, step.task):
                await run.cleanups_done()
        except asyncio.CancelledError:
            await step.wait_for_cancellation()
            raise
    return await wait(
        step, statement, row, keys, observer=receive, shortcut=offer, on_cancel=on_cancel, receipt=receive.receipt
    )


def _has_no_order(step: Step) -> bool:
    """Whether no other task of the run can receive a result before this step has one."""
    run = step.run
    return run.has_one_task and step.asked_after is None and (run.order is None or not run.order.is_concurrent)


async def _put_back(
    step: Step, keys: Sequence[bytes], receive: Receive, offer: Offer | None, opened: OpenReceive | None
) -> None:
    """Put back the message that an abandoned receive has taken, or is taking at this moment."""
    run = step.run
    with suppress(LaunchError):  # the database was closed, and so the run was stopped
        await run.database.batches.flush(run.partition)
        if offer is not None:
            await offer.withdraw()
        if opened is not None:
            received = await opened.close()
            receive.message_id = receive.message_id or received
        if receive.message_id is not None and run.may_put_back:
            # The statement puts it back only if the step has this very message.
            row = (*step.columns, step.verb, step.key, receive.message_id)
            await run.database.execute(step.call(PUT_BACK, [row], wakes=keys))


def _begin(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """Do this in the background, as no task of the run."""
    return asyncio.get_running_loop().create_task(work, context=contextvars.Context())


def _read(text: str | None, declared: Any, topic: str, result: StepResult) -> Any:
    of_topic = f" of topic {topic!r}" if topic else ""
    message_id = str(result.message_id)
    error = functools.partial(InvalidMessageError, message_id=message_id)
    return decode_value(text, declared, what=f"The received message {message_id}{of_topic}", error=error)
