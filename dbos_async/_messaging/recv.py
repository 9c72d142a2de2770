"""Receives: the workflow takes the oldest unreceived message of a queue, once and for all.

A receive is one statement. A sender in the same process hands its message to a receive that waits, and then its own
statement does all that.

``asyncio.timeout`` around a ``recv`` cancels it at any moment. A message that it has taken by then goes back to its place in the
queue, and its step is what it is when a wait is cancelled: begun, and not ended. The next receive of the run waits for that,
so the order stays. When the whole run is stopped nothing goes back: the replay returns what was taken.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Sequence
from typing import Any, Final
from uuid import UUID

from dbos_async._database.batches import Answer
from dbos_async._database.database import Database
from dbos_async._database.sql import load
from dbos_async._database.wakeups import LocalUpdate, Subscription, message_key
from dbos_async._runs.acting import Acting
from dbos_async._runs.context import Run, calling_context, in_workflow
from dbos_async._runs.step import Step, StepResult
from dbos_async._serialization import values
from dbos_async.envelope import Envelope
from dbos_async.errors import InvalidMessageError
from dbos_async.keys import Topic, check_seconds, key_and_type

with load(__name__) as sql:
    TAKE_WAITING: Final = sql.statement("TAKE_WAITING")
    TAKE: Final = sql.statement("TAKE", otherwise=TAKE_WAITING, when_waiting=TAKE_WAITING)
    PUT_BACK: Final = sql.statement("PUT_BACK")

NO_RECEIVER = None, None, None


class Receive:
    """One receive: its calls, and what was handed to it."""

    __slots__ = ("_abandoned", "_key", "_name", "_perhaps", "_run", "_taken", "handoff", "has_grace")

    def __init__(self, run: Run, name: tuple[str, int, str, int, str, str], key: bytes, *, has_grace: bool) -> None:
        self.handoff: Handoff | None = None
        """The send on its way that may bring it its message."""
        self.has_grace = has_grace
        """The queue was empty when the last message was handed over, so an answer to what was sent then may just be coming."""
        self._run, self._name, self._key = run, name, key
        self._taken: UUID | None = None
        self._perhaps: UUID | None = None
        self._abandoned = False

    @property
    def step(self) -> tuple[int, str, int]:
        """Which step of the workflow it is: under which fence, and its number."""
        return self._name[1:4]

    def answered(self, answer: Answer) -> None:
        """Hear what a call has taken, whether or not its caller is still there."""
        if answer[0]["outcome"] in ("done", "recorded"):
            self.took(answer[0]["message_id"])
        elif self._abandoned:
            self._undo()

    def took(self, message_id: UUID) -> None:
        """Hear which message it has, by a call of its own or by a send."""
        self._taken = message_id
        if self._abandoned:
            self._undo()

    def may_have(self, message_id: UUID) -> None:
        """Hear of a send that did not hand this over, unless it had done so before its first answer was lost."""
        self._perhaps = message_id
        if self._abandoned:
            self._undo()

    def abandon(self) -> None:
        """The caller has left."""
        self._abandoned = True
        if self._run.abandoned is None:
            self._run.abandoned = set()
        self._run.abandoned.add(self)
        self._undo()

    async def flush(self) -> None:
        """Return when nothing can be handed to it any more."""
        if self.handoff is not None:
            await self._run.database.batches.flush_handoff(self.handoff)

    def _undo(self) -> None:
        message_id = self._taken or self._perhaps
        if message_id is None or self._run.stopped is not None or self._run.over:
            return
        run = self._run
        row = *self._name, message_id  # goes back only if the step has this one
        call = run.database.call(PUT_BACK, [row], partition=run.partition, wakes=[self._key], retry_forever=True)
        if self._run.returning is None:
            self._run.returning = set()
        self._run.returning.add(call)
        call.add_done_callback(self._undone)

    def _undone(self, call: asyncio.Future[Answer]) -> None:
        if self._run.returning is not None:
            self._run.returning.discard(call)
        if not call.cancelled():
            call.exception()  # The database was closed: then the run has been stopped, too.


class Handoff:
    """A send whose message is for a receive that waits in this process.

    A send that is repeated, since its answer was lost, hands over nothing.
    """

    def __init__(self, subscription: Subscription, columns: tuple[Any, ...], message_id: UUID, payload: str) -> None:
        receive: Receive = subscription.receive
        subscription.receive = None
        receive.handoff = self
        self.rows: Sequence[tuple[Any, ...]] = [(*columns, *receive.step)]
        self.rows_alone: Sequence[tuple[Any, ...]] = [(*columns, *NO_RECEIVER)]
        self._look, self._receive, self._message_id = subscription, receive, message_id
        self._updates = LocalUpdate((payload, None, message_id), len(payload))

    def answered(self, answer: Answer) -> bool:
        """Tell the receive, if it has the message now."""
        if self._receive.handoff is self:
            self._receive.handoff = None
        delivered: bool = answer[0]["delivered"]
        if delivered:
            self._receive.took(self._message_id)
            self._look.wake(self._updates)
        else:
            self._receive.may_have(self._message_id)
        return delivered


async def cleanups_done(run: Run) -> None:
    """Return when nothing that this run has abandoned is on its way any more."""
    while run.abandoned or run.returning:
        if run.abandoned:
            on_their_way = set(run.abandoned)
            await run.database.batches.flush(run.partition)
            for receive in on_their_way:
                await receive.flush()
            run.abandoned -= on_their_way
        if run.returning:
            await asyncio.wait(set(run.returning))


async def recv(database: Database, topic: str | Topic[Any] | None, timeout_seconds: float | None) -> Any:
    """Take the oldest unreceived message of the topic, ``None`` when none came in time."""
    name, declared = topic_and_type(topic)
    step, done = await _take(database, "recv", name, timeout_seconds)
    return await step.decode_or_reject(done, lambda text: _read(text, declared, name, done))


async def recv_envelope(
    database: Database, topic: str | Topic[Any] | None, timeout_seconds: float | None
) -> Envelope[Any] | None:
    """Take the oldest unreceived message of the topic together with what is known of it."""
    name, declared = topic_and_type(topic)
    step, done = await _take(database, "recv_envelope", name, timeout_seconds)
    kind = Envelope.__class_getitem__(declared)
    envelope: Envelope[Any] | None = await step.decode_or_reject(done, lambda text: _read(text, kind, name, done))
    return envelope


async def _take(database: Database, verb: str, topic: str, timeout_seconds: float | None) -> tuple[Step, StepResult]:
    seconds = check_seconds(timeout_seconds)
    step = Step(in_workflow(calling_context(database), verb), verb, topic)
    run, name = step.run, (*step.columns, verb, topic)
    key = message_key(run.workflow_id, topic)
    has_grace = (seconds is None or seconds >= 1) and database.wakeups.take_known_empty(key)
    take = Receive(run, name, key, has_grace=has_grace)
    try:
        if run.abandoned or run.returning:
            with Acting(run, verb):
                await cleanups_done(run)
        return step, await step.perform(
            TAKE, [(*name, seconds)], watch=[key], answered=take.answered, receive=take if verb == "recv" else None
        )
    except asyncio.CancelledError:
        take.abandon()
        raise


def _read(text: str | None, declared: Any, topic: str, done: StepResult) -> Any:
    of_topic = f" of topic {topic!r}" if topic else ""
    message_id = str(done.message_id)
    error = functools.partial(InvalidMessageError, message_id=message_id)
    return values.decode(text, declared, what=f"The received message {message_id}{of_topic}", error=error)


def topic_and_type(topic: str | Topic[Any] | None) -> tuple[str, Any]:
    """The name of a topic, empty when there is none, and what it declares."""
    return ("", Any) if topic is None else key_and_type(topic, "A topic")
