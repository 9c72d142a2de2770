"""Answering: the workflow that has received a question stores the answer in the row of its message, once and for all.

The step's row decides whether the answer is stored at all, and the row of the message, which is locked, which answer is the first.
"""

from __future__ import annotations

from typing import Any, Final
from uuid import UUID

from dbos_async._checks import check_instance, check_loop
from dbos_async._database.calls import Call, Observer, Result
from dbos_async._database.change_keys import answer_key
from dbos_async._database.sql import load
from dbos_async._received import answered_by
from dbos_async._runs.context import current, in_workflow_or_step
from dbos_async._runs.issue import call_by, caller_columns, caller_in, issue
from dbos_async._runs.own_ids import own_ids
from dbos_async._runs.run import Run
from dbos_async._serialization.exceptions import encode_error
from dbos_async._serialization.ids import copied_id
from dbos_async._serialization.values import encode_value, size_error
from dbos_async.envelope import Asked
from dbos_async.errors import RefusedError, WrongPlaceError

with load(__name__) as sql:
    ANSWER: Final = sql.statement("ANSWER")


class _Answerer:
    """How an `Asked` is answered: in the name of the run or step that calls."""

    async def answer(self, asked: Asked[Any, Any], value: Any) -> bool:
        """Store the answer, unless the question has one; return whether it was stored."""
        what = f"The answer to question {asked.topic!r}"
        arguments: tuple[Any, ...] = type(asked).__pydantic_generic_metadata__["args"]
        in_workflow_or_step(current.get(), "answer")
        text = encode_value(value, arguments[1] if len(arguments) > 1 else Any, what=what)
        return await _store(asked, "answer", what, text, None)

    async def refuse(self, asked: Asked[Any, Any], reason: str) -> bool:
        """Store that there will be no answer, unless the question has one; return whether it was stored."""
        what = f"The refusal of question {asked.topic!r}"
        check_instance(reason, str, "reason")
        reason = str.__str__(reason)
        encode_value(reason, str, what=what)
        context = in_workflow_or_step(current.get(), "refuse")
        error = encode_error(RefusedError(reason, context.run.workflow_id, str(asked.id)))
        return await _store(asked, "refuse", what, None, error)


async def _store(asked: Asked[Any, Any], verb: str, what: str, answer: str | None, refusal: str | None) -> bool:
    context = in_workflow_or_step(current.get(), verb)
    run = context.run
    check_loop(
        run.database.loop, f"{verb} was called in another event loop: call it in the one that runs the workflow."
    )
    if asked.destination_id != run.workflow_id and run.history is None:
        raise _not_asked(asked, run, verb)
    text = answer or refusal or ""
    invalid = size_error(text, run.database.max_payload_bytes, what)
    caller = caller_in(context, verb, str(asked.id))
    message_id = asked.id
    if asked.destination_id != run.workflow_id:
        with run.inside(verb):
            message_id = await _id_in_fork(asked, run, verb)
    row = (*caller_columns(caller), verb, str(asked.id), message_id, answer, refusal)
    call = call_by(caller, ANSWER, [row], run.workflow_id, len(text), observer=_WakeAsker())
    telemetry, asked_id = run.database.telemetry, str(message_id)
    act = None if telemetry is None else telemetry.answer(verb, asked.topic, caller, asked_id, asked.headers)
    told = (await issue(run.database, caller, call, verb=verb, invalid=invalid, act=act)).value()
    return told == "true" or (told == '"same"' and call.was_sent)


async def _id_in_fork(asked: Asked[Any, Any], run: Run, verb: str) -> UUID:
    """The id of the fork's copy of a message that an original has received."""
    ids = await own_ids(run)
    if asked.destination_id not in ids:
        raise _not_asked(asked, run, verb)
    message_id = asked.id
    for fork_id in reversed(ids[: ids.index(asked.destination_id)]):
        message_id = copied_id(fork_id, message_id)
    return message_id


def _not_asked(asked: Asked[Any, Any], run: Run, verb: str) -> WrongPlaceError:
    return WrongPlaceError(
        f"{verb} works in the workflow that was asked, {asked.destination_id!r}, and was called in workflow {run.workflow_id!r}: "
        "send the answer there, or let that workflow answer."
    )


class _WakeAsker(Observer):
    """Wakes those of this process who wait for the answer. The statement knows which message that is."""

    __slots__ = ()

    def on_result(self, call: Call, result: Result) -> None:
        question_id: UUID | None = result[0]["question_id"]
        if question_id is not None:
            call.wakes = (answer_key(question_id),)


answered_by(_Answerer())
