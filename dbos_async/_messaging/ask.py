"""Asking: a message whose sender waits for an answer. The answer lies in the row of the message.

In a workflow a question is one step. Its first statement stores the message and begins the wait in one commit, so no crash asks
twice; the wait goes on with AWAIT_ANSWER. From then on the step says which message it waits for. Elsewhere the question is a send,
and the wait reads.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from dbos_async._checks import check_instance, check_key, check_seconds
from dbos_async._database.calls import Call, Observer, Result
from dbos_async._database.change_keys import answer_key, end_key
from dbos_async._database.database import Database
from dbos_async._database.sql import load
from dbos_async._database.statement import Statement
from dbos_async._database.wakeups import Subscription, now
from dbos_async._messaging.handoff import executor_without_announcement
from dbos_async._messaging.mailbox import check_message_id
from dbos_async._messaging.send import OutgoingMessage, outgoing_message, store, too_large
from dbos_async._messaging.send_keys import SendMatcher, send_key
from dbos_async._runs.context import StepContext, WorkflowContext, calling_context
from dbos_async._runs.start_options import assigned
from dbos_async._runs.step import Step
from dbos_async._runs.step_result import StepResult
from dbos_async._runs.waiting import wait
from dbos_async._serialization.exceptions import decode_error, encode_error
from dbos_async._serialization.values import decode_value
from dbos_async.envelope import SendMessage
from dbos_async.errors import (
    AskTimeoutError,
    InvalidAnswerError,
    InvalidValueError,
    MessageNotFoundError,
    NotAnsweredError,
    WorkflowNotFoundError,
)
from dbos_async.keys import Question

if TYPE_CHECKING:
    from dbos_async._telemetry.acts import Act
    from dbos_async._telemetry.telemetry import Telemetry

with load(__name__) as sql:
    ASK: Final = sql.statement("ASK")
    AWAIT_ANSWER: Final = sql.statement("AWAIT_ANSWER")
    GET_ANSWER: Final = sql.statement("GET_ANSWER")
    READ_ANSWER: Final = sql.statement("READ_ANSWER")
    READ_ANSWER_OF: Final = sql.statement("READ_ANSWER_OF")


async def ask(
    database: Database,
    workflow_id: str,
    question: Question[Any, Any],
    request: Any,
    timeout_seconds: float | None,
    idempotency_key: str | None,
) -> Any:
    """Send a question and wait for the answer."""
    workflow_id = check_key(workflow_id, "workflow_id")
    check_instance(question, Question, "question")
    seconds = check_seconds(timeout_seconds)
    message = outgoing_message(
        SendMessage(workflow_id, request, question, idempotency_key),
        "ask",
        executor_without_announcement(database, None),
    )
    context = calling_context(database)
    if isinstance(context, WorkflowContext):
        return await _ask_in_workflow(context, message, seconds, question.answer_type)
    ticket = assigned.get()
    if context is None and ticket is not None and message.idempotency_key is None:
        message = message._replace(idempotency_key=ticket.key_of_send(0))
    is_new = message.idempotency_key is None
    telemetry = database.telemetry
    if telemetry is None:
        return await _ask_outside(database, context, message, seconds, question.answer_type, is_new=is_new)
    with _act(telemetry, message, context) as act:
        act.begin()
        stamped = message._replace(headers=act.stamp(message.headers))
        return await _ask_outside(database, context, stamped, seconds, question.answer_type, is_new=is_new)


async def _ask_outside(
    database: Database,
    context: StepContext | None,
    message: OutgoingMessage,
    seconds: float | None,
    declared: Any,
    *,
    is_new: bool,
) -> Any:
    workflow_id = message.destination_id
    reader = _Reader(database, workflow_id, message.id, seconds, retry_forever=context is not None)
    with database.changes(answer_key(message.id), end_key(workflow_id)) as changes:
        is_sent = False
        async for subscription in changes:
            if not is_sent:
                is_sent = True
                has_ended = await store(database, "ask", [message], None) is not None
                if is_new and not has_ended:  # nobody can have answered before this process hears of it
                    subscription.poll_within(reader.left)
                    continue
            row = message.id, workflow_id, message.idempotency_key
            if await reader.poll(subscription, READ_ANSWER_OF, row):
                break
    return reader.value(declared)


async def get_answer(
    database: Database,
    message_id: UUID | str,
    question: Question[Any, Any] | None,
    timeout_seconds: float | None,
) -> Any:
    """The answer to a question that was asked before."""
    asked_id = check_message_id(message_id)
    if question is not None:
        check_instance(question, Question, "question")
    declared = Any if question is None else question.answer_type
    seconds = check_seconds(timeout_seconds)
    context = calling_context(database)
    if isinstance(context, WorkflowContext):
        step = Step(context, "get_answer", str(asked_id))
        row = (*step.columns, step.key, asked_id, seconds)
        watch = _Watch()
        result = await wait(step, GET_ANSWER, row, (answer_key(asked_id),), observer=watch, shortcut=watch)
        return await step.decode_or_reject(result, lambda text: _decoded(text, declared, asked_id))
    reader = _Reader(database, None, asked_id, seconds, retry_forever=context is not None)
    with database.changes(answer_key(asked_id)) as changes:
        async for subscription in changes:
            if await reader.poll(subscription, READ_ANSWER, (asked_id,)):
                break
    return reader.value(declared)


async def _ask_in_workflow(
    context: WorkflowContext, message: OutgoingMessage, seconds: float | None, declared: Any
) -> Any:
    step, database = Step(context, "ask", send_key(message.target)), context.run.database
    step.matcher = SendMatcher(message.target)
    act = None if database.telemetry is None else _act(database.telemetry, message, step)
    watch = _Watch(message.digest, act)
    row = (*step.columns, step.key, message.destination_id, seconds)
    keys = answer_key(message.id), end_key(message.destination_id)

    async def asked(invalid: InvalidValueError | None) -> StepResult:
        if act is None:
            first: Call | Callable[[], Call] = _first_call(step, message, None, seconds, invalid, watch)
        else:
            begun = act

            def make() -> Call:
                return _first_call(step, message, begun.stamp(message.headers), seconds, invalid, watch)

            first = act.starting(make)
        return await wait(step, AWAIT_ANSWER, row, keys, observer=watch, shortcut=watch, first=first)

    try:
        result = await asked(too_large(message, database.max_payload_bytes))
    except InvalidValueError as refusal:  # the database refused the value
        result = await asked(refusal)
    return await step.decode_or_reject(result, lambda text: _decoded(text, declared, result.message_id))


def _act(telemetry: Telemetry, message: OutgoingMessage, caller: Step | StepContext | None) -> Act:
    return telemetry.send("ask", message.topic, caller, to=message.destination_id, message_id=str(message.id))


def _first_call(
    step: Step,
    message: OutgoingMessage,
    headers: str | None,
    seconds: float | None,
    invalid: InvalidValueError | None,
    watch: _Watch,
) -> Call:
    refused = None if invalid is None else encode_error(invalid)
    payload = message.payload if refused is None else None
    row = (
        *step.columns, step.key, message.id, *message.target, payload, message.digest, message.local_executor_id,
        message.idempotency_key, seconds, refused, headers,
    )  # fmt: skip
    return step.call(ASK, [row], size=len(payload or refused or ""), observer=watch)


class _Watch(Observer):
    """Learns from the polls of a step which message it waits for and who was asked, and watches those: a `Shortcut`."""

    __slots__ = ("_act", "_digest", "_keys")

    def __init__(self, digest: bytes | None = None, act: Act | None = None) -> None:
        self._digest, self._act = digest, act
        self._keys: tuple[bytes, ...] = ()

    def on_result(self, call: Call, result: Result) -> None:
        if call.statement is ASK and self._digest is not None and result[0]["outcome"] in ("wait", "done"):
            call.wakes = (self._digest,)
        if self._act is not None:
            error = result[0]["error"] if call.statement is ASK else None
            self._act.end(None if error is None else decode_error(error))
        message_id: UUID | None = result[0]["message_id"]
        if message_id is not None:
            self._keys = answer_key(message_id), end_key(result[0]["asked_workflow_id"])

    def on_failure(self, error: BaseException | None) -> None:
        if self._act is not None:
            self._act.end(error or asyncio.CancelledError())

    def delivered(self, subscription: Subscription) -> StepResult | None:
        """Nothing is delivered: the step has to be recorded."""
        return None

    def postpone(self, subscription: Subscription) -> bool:
        """Every turn polls."""
        return False

    def waits(self, subscription: Subscription) -> None:
        """Watch what the poll has found."""
        for key in self._keys:
            subscription.also(key)

    def found(self, subscription: Subscription, result: StepResult) -> None:
        """There is nothing left to do."""


class _Reader:
    """The wait of a caller outside of workflows, or in a step."""

    __slots__ = ("_asked", "_database", "_give_up_at", "_message_id", "_output", "_retry_forever", "_seconds")

    def __init__(
        self, database: Database, asked: str | None, message_id: UUID, seconds: float | None, *, retry_forever: bool
    ) -> None:
        self._database, self._asked, self._message_id, self._seconds = database, asked, message_id, seconds
        self._give_up_at = float("inf") if seconds is None else now() + seconds
        self._retry_forever = retry_forever
        self._output: StepResult | None = None

    @property
    def left(self) -> float:
        """For how many seconds it waits yet."""
        return self._give_up_at - now()

    async def poll(self, subscription: Subscription, statement: Statement, row: tuple[Any, ...]) -> bool:
        """Read once; whether the wait is over."""
        records = await self._database.call(
            statement, [row], partition=self._asked or "", retry_forever=self._retry_forever
        )
        found = records[0]
        if found["message_id"] is None:
            if self._asked is None:
                raise MessageNotFoundError(str(self._message_id))
            if found["has_ended"] is None:
                raise WorkflowNotFoundError(self._asked)
            raise NotAnsweredError(self._asked, str(self._message_id))
        self._message_id, asked = found["message_id"], found["asked_workflow_id"]
        if found["is_answered"]:
            self._output = StepResult(found["answer"], found["answer_error"], of=f"question {str(self._message_id)!r}")
            return True
        if found["has_ended"]:
            raise NotAnsweredError(asked, str(self._message_id))
        if self._seconds is not None and self.left <= 0:
            raise AskTimeoutError(asked, str(self._message_id), self._seconds)
        subscription.poll_within(self.left)
        subscription.also(answer_key(self._message_id))
        subscription.also(end_key(asked))
        return False

    def value(self, declared: Any) -> Any:
        """The answer; a refusal is raised."""
        assert self._output is not None, "The changes of a subscription do not end."
        return _decoded(self._output.value(), declared, self._message_id)


def _decoded(text: str | None, declared: Any, message_id: UUID | None) -> Any:
    question = None if message_id is None else str(message_id)
    what = "The answer" if question is None else f"The answer to question {question!r}"
    return decode_value(text, declared, what=what, error=functools.partial(InvalidAnswerError, message_id=question))
