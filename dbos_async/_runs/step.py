"""A numbered step of a run: replayed if it is recorded, else executed and recorded in one statement.

The step's row decides whether its effect has happened. The statements of the verbs answer with the same five outcomes:

done      this call has recorded the step, together with its effect
recorded  the step was recorded before; this is the record
wait      the step waits: poll again when woken, or after seconds_left
again     another call was at the same step meanwhile: poll again now
lost      the run does not own its workflow any more, or the workflow has ended
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, NamedTuple, NoReturn, TypeVar
from uuid import UUID

import asyncpg

from dbos_async._database.calls import Call, Observer, Row
from dbos_async._database.database import Database
from dbos_async._database.sql import load
from dbos_async._database.statement import Statement
from dbos_async._runs.context import WorkflowContext, calling_context, next_number
from dbos_async._serialization.exceptions import decode_error, encode_error
from dbos_async._serialization.values import decode_value, encode_value
from dbos_async.errors import (
    DatabaseUnavailableError,
    DBOSError,
    InvalidValueError,
    ReplayMismatchError,
)

T = TypeVar("T")


with load(__name__) as sql:
    RECORD: Final = sql.statement("RECORD")
    RECORD_REJECTION: Final = sql.statement("RECORD_REJECTION")


class StepResult(NamedTuple):
    """The output or the error of a step; of a receive also the message that it took."""

    output: str | None
    error: str | None
    message_id: UUID | None = None
    of: str = ""
    """What this is the result of, for the case that its error cannot be read."""

    def value(self) -> str | None:
        """The output; a recorded error is raised."""
        if self.error is not None:
            raise decode_error(self.error, self.of)
        return self.output


class Step:
    """One numbered step of a run, about to be replayed or executed."""

    __slots__ = ("branch", "is_begun", "key", "number", "run", "verb", "waited")

    def __init__(self, context: WorkflowContext, verb: str, key: str) -> None:
        branch, self.number = next_number(context, verb)
        self.run, self.branch, self.verb, self.key = context.run, branch.name, verb, key
        self.is_begun = False
        self.waited = False
        """Whether an earlier run has begun to wait here."""

    @property
    def path(self) -> str:
        """The number as people write it: ``4``, or ``4.1.2`` in a branch."""
        return f"{self.branch}.{self.number}" if self.branch else str(self.number)

    @property
    def columns(self) -> tuple[str, int, str, int]:
        """What names a step in the statements: its workflow, the fence of its run, and its number."""
        return self.run.workflow_id, self.run.attempt, self.branch, self.number

    def call(
        self,
        statement: Statement,
        rows: Sequence[Row],
        *,
        size: int = 0,
        wakes: Sequence[bytes] = (),
        observer: Observer | None = None,
    ) -> Call:
        """A call of a statement in the name of this step, not executed yet."""
        return Call(statement, rows, self.run.partition, size, wakes, observer, retry_forever=True)

    async def perform(self, call: Call, invalid: InvalidValueError | None = None) -> StepResult:
        """Replay the step, or execute the call that records it together with its effect.

        An ``invalid`` value becomes the recorded error of the step. It does not when the step is replayed: the limits may be
        other ones now.
        """
        with self.run.inside(self.verb):
            result = await self.replay()
            if result is not None:
                return result
            if invalid is not None:
                return await self._record(None, encode_error(invalid), 0.0)
            result, _ = await self.attempt(call)
            assert result is not None, f"{call.statement.name} does not wait."
            return result

    async def run_once(self, find: Callable[[], Awaitable[tuple[str | None, str | None]]]) -> StepResult:
        """Replay the step, or find its output or error and record that."""
        result = await self.replay()
        if result is not None:
            return result
        self.is_begun = True
        self.run.begin_step()
        try:
            began = time.monotonic()
            output, error = await find()
            return await self._record(output, error, time.monotonic() - began)
        finally:
            self.run.end_step()

    async def replay(self) -> StepResult | None:
        """The recorded result; ``None`` when the step has to be executed, or its wait goes on."""
        run = self.run
        if run.stopped is not None or run.over or run.host.closing:
            await run.check_may_act(self.verb, is_begun=self.is_begun)
        if run.history is None:
            return None
        recorded = await run.history.find(self.branch, self.number)
        if recorded is None:
            return None
        await self.compare(recorded.verb, recorded.key)
        self.waited = not recorded.completed
        return self.result(recorded.output, recorded.error, recorded.message_id) if recorded.completed else None

    async def attempt(self, call: Call) -> tuple[StepResult | None, float | None]:
        """Execute a call of this step. Without a result, poll again after so many seconds; ``None``: when woken."""
        run = self.run
        first = (await run.database.execute(call))[0]
        outcome = first["outcome"]
        if outcome == "lost":
            await run.stop_as_lost()
        if run.stopped is not None:
            await run.halt(run.stopped)
        if first["recorded_verb"] is not None:
            await self.compare(first["recorded_verb"], first["recorded_key"])
        if outcome in ("done", "recorded"):
            return self.result(first["output"], first["error"], first.get("message_id")), None
        return None, first["seconds_left"] if outcome == "wait" else 0.0

    def result(self, output: str | None, error: str | None, message_id: UUID | None) -> StepResult:
        """A result of this step."""
        of = "" if error is None else f"step {self.path} of workflow {self.run.workflow_id!r}"
        return StepResult(output, error, message_id, of)

    async def decode_or_reject(self, result: StepResult, decode: Callable[[str | None], T]) -> T:
        """The decoded output. If it cannot be decoded, that error is recorded in its place before the caller sees it."""
        text = result.value()
        try:
            return decode(text)
        except InvalidValueError as invalid:
            await self.record_rejection(None, invalid)
            raise

    async def record_rejection(self, output: str | None, invalid: InvalidValueError) -> None:
        """Record that the output cannot be decoded, or only the part of it that is given here.

        If later steps are recorded, an earlier run could decode it and the code has changed: then the workflow is parked.
        """
        run = self.run
        if run.history is not None and not await run.history.is_last(self.branch, self.number):
            await self.park_undecodable(invalid)
        error = None if output is not None else encode_error(invalid)
        row = (*self.columns, output, error)
        await self.attempt(self.call(RECORD_REJECTION, [row], size=len(output or error or "")))

    async def park_undecodable(self, invalid: InvalidValueError) -> NoReturn:
        """Park the workflow: an earlier run could decode a value that the code as it is now cannot."""
        named = _named(self.verb, self.key)
        await self._park(f"{named} with a value that fit", f"a type that it does not fit ({invalid.problem})")

    async def compare(self, verb: str, key: str) -> None:
        """Park the workflow if the recorded step is another one than the code asks for now."""
        if verb == self.verb and key == self.key:
            return
        await self._park(_named(verb, key), _named(self.verb, self.key))

    async def _park(self, recorded: str, asked: str) -> NoReturn:
        run = self.run
        mismatch = ReplayMismatchError(run.workflow_id, self.path, recorded, asked)
        if run.stopped is None:
            await run.host.park(run, mismatch)
        await run.halt(str(mismatch))

    async def _record(self, output: str | None, error: str | None, took_seconds: float) -> StepResult:
        row = (*self.columns, self.verb, self.key)
        try:
            size = len(output or "") + len(error or "")
            return await self.perform(self.call(RECORD, [(*row, output, error, took_seconds)], size=size))
        except (asyncpg.PostgresError, asyncpg.InterfaceError) as refusal:
            problem = f"the database refused it: {refusal}"
            refused = InvalidValueError(f"The outcome of {_named(self.verb, self.key)}", problem)
            return await self.perform(self.call(RECORD, [(*row, None, encode_error(refused), took_seconds)]))


async def read(database: Database, verb: str, key: str, find: Callable[[], Awaitable[Any]], declared: Any = Any) -> Any:
    """Read something that may change. A workflow records what was read, or the error that dbos_async raised."""
    context = calling_context(database)
    if not isinstance(context, WorkflowContext):
        return await find()

    async def found() -> tuple[str | None, str | None]:
        while True:
            try:
                return encode_value(await find(), declared), None
            except DatabaseUnavailableError:
                continue  # a workflow outlasts an outage
            except DBOSError as error:
                return None, encode_error(error)

    step = Step(context, verb, key)
    text = (await step.run_once(found)).value()
    try:
        return decode_value(text, declared)
    except InvalidValueError as invalid:
        await step.park_undecodable(invalid)


def _named(verb: str, key: str) -> str:
    return f"{verb} {key!r}" if key else verb
