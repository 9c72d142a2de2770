"""A numbered step of a run: replayed when it is recorded, else performed and recorded in one statement.

Whatever a step does, its row decides whether it happened. The statements of the primitives answer with the same first words:

done      the step was recorded by this very call, together with its effect
recorded  it had been recorded before: this is what was recorded
wait      a wait has begun and goes on: look again when woken, or after seconds_left
again     another call was at the same step meanwhile: look again now
lost      the run does not own its workflow any more, or the workflow has ended
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn, TypeVar
from uuid import UUID

import asyncpg

from dbos_async._database.batches import Answer, Handoff
from dbos_async._database.database import Database
from dbos_async._database.sql import load
from dbos_async._database.statement import Statement
from dbos_async._database.wakeups import LocalUpdate
from dbos_async._runs.acting import Acting
from dbos_async._runs.context import StepContext, WorkflowContext, calling_context, check_live, next_number
from dbos_async._serialization import exceptions, values
from dbos_async.errors import (
    DatabaseUnavailableError,
    DBOSError,
    InvalidValueError,
    ReplayMismatchError,
    WorkflowEndedError,
)

if TYPE_CHECKING:
    from dbos_async._messaging.recv import Receive


with load(__name__) as sql:
    RECORD: Final = sql.statement("RECORD")
    RECORD_REJECTION: Final = sql.statement("RECORD_REJECTION")

HANDOFF_SECONDS = 0.1
GRACE_SECONDS = 0.003

T = TypeVar("T")


class StepResult(NamedTuple):
    """How a step ended: its output, or its error; of a receive, which message it took; and of what this is the end."""

    output: str | None
    error: str | None
    message_id: UUID | None = None
    of: str = ""

    def value(self) -> str | None:
        """The output; a recorded error is raised."""
        if self.error is not None:
            raise exceptions.decode_error(self.error, self.of)
        return self.output


class Step:
    """One numbered step of a run, about to be replayed or performed."""

    __slots__ = ("branch", "is_begun", "key", "number", "run", "verb", "waited")

    def __init__(self, context: WorkflowContext, verb: str, key: str) -> None:
        branch, self.number = next_number(context, verb)
        self.run, self.branch, self.verb, self.key = context.run, branch.name, verb, key
        self.is_begun = False
        self.waited = False
        """An earlier run has begun to wait here."""

    @property
    def path(self) -> str:
        """The number as a person writes it: ``4``, or ``4.1.2`` in a branch."""
        return f"{self.branch}.{self.number}" if self.branch else str(self.number)

    @property
    def columns(self) -> tuple[str, int, str, int]:
        """What the statements know a step by: whose it is, under which fence, and its number."""
        return self.run.workflow_id, self.run.attempt, self.branch, self.number

    async def replayed(self) -> StepResult | None:
        """The recorded outcome, ``None`` when the step has to be performed (or its wait goes on)."""
        run = self.run
        if run.stopped is not None:
            await run.halt(run.stopped)
        if run.over:
            raise WorkflowEndedError(run.workflow_id, self.verb)
        if run.draining and not self.is_begun:
            with Acting(run, self.verb):
                await asyncio.get_running_loop().create_future()  # until the run is stopped
        if run.history is None:
            return None
        past = await run.history.find(self.branch, self.number)
        if past is None:
            return None
        await self.compare(past.verb, past.key)
        self.waited = not past.completed
        return self._done(past.output, past.error, past.message_id) if past.completed else None

    async def perform(
        self,
        statement: Statement,
        rows: Sequence[tuple[Any, ...]],
        *,
        size: int = 0,
        wakes: Sequence[bytes] = (),
        watch: Sequence[bytes] | None = None,
        answered: Callable[[Answer], None] | None = None,
        news: Callable[[Answer], LocalUpdate | None] | None = None,
        receive: Receive | None = None,
        handoff: Handoff | None = None,
        invalid: InvalidValueError | None = None,
    ) -> StepResult:
        """Bring the step to its recorded end; with ``watch`` it may have to wait for a change behind one of these keys.

        A ``misfit`` is recorded as its end, unless it has one: what may be stored can be another matter in a replay.
        """
        with Acting(self.run, self.verb):
            done = await self.replayed()
            if done is not None:
                return done
            if invalid is not None:
                return await self._record(None, exceptions.encode_error(invalid), 0.0)
            if watch is None:
                while True:
                    done, _ = await self._try(statement, rows, size, wakes, answered, news, handoff)
                    if done is not None:
                        return done
            if self.waited:
                statement = statement.sql_when_waiting or statement
            wakeups = self.run.database.wakeups
            subscription = wakeups.enter(watch, takes_updates=receive is not None)
            waits = hopes = False
            wakes_before = 0
            try:
                while True:
                    subscription.reset()
                    subscription.receive = None
                    for delivered in subscription.take_updates():
                        if not subscription.changed:
                            self.run.mark_drained(watch[0])
                        return self._done(*delivered)
                    if receive is not None and receive.handoff is not None and not hopes:
                        # Somebody is about to say with what the step was completed.
                        hopes = True
                        subscription.poll_within(HANDOFF_SECONDS)
                    elif receive is not None and receive.has_grace:
                        receive.has_grace = False
                        subscription.receive = receive
                        subscription.poll_within(GRACE_SECONDS)
                    else:
                        hopes = False
                        if not waits:
                            wakes_before = subscription.wakes
                        done, seconds_left = await self._try(statement, rows, size, wakes, answered)
                        if done is not None:
                            if waits and receive is not None and subscription.wakes <= wakes_before + 1:
                                self.run.mark_drained(watch[0])  # Nothing was there before, and nothing came after it.
                            return done
                        statement = statement.sql_when_waiting or statement
                        subscription.poll_within(seconds_left)
                        subscription.receive = receive
                        if not waits:  # From now on it does not take a running one's place.
                            waits = True
                            self.run.begin_waiting()
                    await subscription.wait()
            finally:
                if waits:
                    self.run.end_waiting()
                wakeups.leave(subscription, watch)

    async def run_once(self, find: Callable[[], Awaitable[tuple[str | None, str | None]]]) -> StepResult:
        """Replay the step, or find out its output or error and record that."""
        done = await self.replayed()
        if done is not None:
            return done
        self.is_begun = True
        self.run.steps_running += 1
        try:
            began = time.monotonic()
            output, error = await find()
            return await self._record(output, error, time.monotonic() - began)
        finally:
            self.run.steps_running -= 1
            if self.run.draining:
                asyncio.get_running_loop().call_soon(self.run.stop_if_drained)

    async def _record(self, output: str | None, error: str | None, took_seconds: float) -> StepResult:
        row = (*self.columns, self.verb, self.key)
        try:
            size = len(output or "") + len(error or "")
            return await self.perform(RECORD, [(*row, output, error, took_seconds)], size=size)
        except (asyncpg.PostgresError, asyncpg.InterfaceError) as refusal:
            refused = InvalidValueError(
                f"The outcome of {_named(self.verb, self.key)}", f"the database refused it: {refusal}"
            )
            return await self.perform(RECORD, [(*row, None, exceptions.encode_error(refused), took_seconds)])

    async def decode_or_reject(self, done: StepResult, read: Callable[[str | None], T]) -> T:
        """The value of an output. That it cannot be read is recorded in its place before anybody hears of it."""
        text = done.value()
        try:
            return read(text)
        except InvalidValueError as invalid:
            await self.record_rejection(None, invalid)
            raise

    async def record_rejection(self, output: str | None, invalid: InvalidValueError) -> None:
        """Record that the output cannot be read. If more is recorded behind it, it could be read once, and the code has changed."""
        run = self.run
        if run.history is not None and not await run.history.is_last(self.branch, self.number):
            await self.park_unreadable(invalid)
        error = None if output is not None else exceptions.encode_error(invalid)
        await self._try(RECORD_REJECTION, [(*self.columns, output, error)], len(output or error or ""), (), None)

    async def park_unreadable(self, invalid: InvalidValueError) -> NoReturn:
        """Park the workflow, since a value that could be read when it was recorded cannot be read by the code as it is now."""
        named = _named(self.verb, self.key)
        await self._park(f"{named} with a value that fit", f"a type that it does not fit ({invalid.problem})")

    async def compare(self, verb: str, key: str) -> None:
        """Park the workflow when the recorded step is another one than the code asks for now."""
        if verb == self.verb and key == self.key:
            return
        await self._park(_named(verb, key), _named(self.verb, self.key))

    async def _park(self, recorded: str, asked: str) -> NoReturn:
        run = self.run
        mismatch = ReplayMismatchError(run.workflow_id, self.path, recorded, asked)
        if run.stopped is None:
            await run.host.park(run, mismatch)
        await run.halt(str(mismatch))

    def _done(self, output: str | None, error: str | None, message_id: UUID | None) -> StepResult:
        of = "" if error is None else f"step {self.path} of workflow {self.run.workflow_id!r}"
        return StepResult(output, error, message_id, of)

    async def _try(
        self,
        statement: Statement,
        rows: Sequence[tuple[Any, ...]],
        size: int,
        wakes: Sequence[bytes],
        answered: Callable[[Answer], None] | None,
        news: Callable[[Answer], LocalUpdate | None] | None = None,
        handoff: Handoff | None = None,
    ) -> tuple[StepResult | None, float | None]:
        run = self.run
        answer = await run.database.call(
            statement, rows, partition=run.partition, size=size, wakes=wakes, retry_forever=True, answered=answered, news=news,
            handoff=handoff,
        )  # fmt: skip
        first = answer[0]
        outcome = first["outcome"]
        if outcome == "lost":
            await run.stop_as_lost()
        if run.stopped is not None:
            await run.halt(run.stopped)
        if first["recorded_verb"] is not None:
            await self.compare(first["recorded_verb"], first["recorded_key"])
        if outcome in ("done", "recorded"):
            return self._done(first["output"], first["error"], first.get("message_id")), None
        return None, first["seconds_left"] if outcome == "wait" else 0.0


async def act(
    database: Database,
    caller: Step | StepContext,
    statement: Statement,
    rows: Sequence[tuple[Any, ...]],
    *,
    verb: str,
    size: int = 0,
    wakes: Sequence[bytes] = (),
    news: Callable[[Answer], LocalUpdate | None] | None = None,
    handoff: Handoff | None = None,
    invalid: InvalidValueError | None = None,
) -> None:
    """Write in the name of a workflow: as a step of its own, or as a part of the step that is under way."""
    if isinstance(caller, Step):
        done = await caller.perform(
            statement, rows, size=size, wakes=wakes, news=news, handoff=handoff, invalid=invalid
        )
        done.value()
        return
    check_live(caller, verb)
    if invalid is not None:
        raise invalid
    run = caller.run
    with Acting(run, verb):
        if run.stopped is not None:
            await run.halt(run.stopped)
        answer = await database.call(
            statement,
            rows,
            partition=run.partition,
            size=size,
            wakes=wakes,
            retry_forever=True,
            news=news,
            handoff=handoff,
        )
        if answer[0]["outcome"] == "lost":
            await run.stop_as_lost()
        if answer[0]["error"] is not None:
            raise exceptions.decode_error(answer[0]["error"])


def caller_columns(caller: Step | StepContext | None) -> tuple[str | None, int | None, str | None, int | None]:
    """Who writes: a step of its own, a part of one (then without a number), or nobody's workflow."""
    if isinstance(caller, Step):
        return caller.columns
    if caller is None:
        return None, None, None, None
    return caller.run.workflow_id, caller.run.attempt, None, None


async def read(database: Database, verb: str, key: str, find: Callable[[], Awaitable[Any]], declared: Any = Any) -> Any:
    """Read something that may change. In a workflow what was read is recorded, and so is an error of ours."""
    here = calling_context(database)
    if not isinstance(here, WorkflowContext):
        return await find()

    async def found() -> tuple[str | None, str | None]:
        while True:
            try:
                return values.encode(await find(), declared), None
            except DatabaseUnavailableError:
                continue  # a workflow outlasts that
            except DBOSError as error:
                return None, exceptions.encode_error(error)

    step = Step(here, verb, key)
    text = (await step.run_once(found)).value()
    try:
        return values.decode(text, declared)
    except InvalidValueError as invalid:
        await step.park_unreadable(invalid)


def _named(verb: str, key: str) -> str:
    return f"{verb} {key!r}" if key else verb
