"""A numbered step of a run: replayed if it is recorded, else executed and recorded in one statement.

The step's row decides whether its effect has happened. The statements of the verbs answer with the same five outcomes:

done      this call has recorded the step, together with its effect
recorded  the step was recorded before; this is the record
wait      the step waits: poll again when woken, or after seconds_left
again     another call was at the same step meanwhile: poll again now
lost      the run does not own its workflow any more, or the workflow has ended
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, NoReturn, TypeVar
from uuid import UUID

from dbos_async._database.calls import Call
from dbos_async._database.database import Database
from dbos_async._database.sql import load
from dbos_async._runs import patience
from dbos_async._runs.context import WorkflowContext, calling_context
from dbos_async._runs.end_request import CANCELLED, EndRequest, run_body
from dbos_async._runs.history import Recorded, named
from dbos_async._runs.numbered_step import NumberedStep
from dbos_async._runs.order import Order, Ticket
from dbos_async._runs.own_ids import are_same, own_ids
from dbos_async._runs.step_result import StepResult
from dbos_async._serialization.exceptions import encode_error
from dbos_async._serialization.values import decode_value, encode_value
from dbos_async.errors import DatabaseUnavailableError, DBOSError, InvalidValueError, ReplayMismatchError

T = TypeVar("T")


log = logging.getLogger("dbos_async")

with load(__name__) as sql:
    RECORD: Final = sql.statement("RECORD")
    RECORD_REJECTION: Final = sql.statement("RECORD_REJECTION")


class Step(NumberedStep):
    """One numbered step of a run, about to be replayed or executed."""

    __slots__ = ()

    async def perform(self, call: Call | Callable[[], Call], invalid: InvalidValueError | None = None) -> StepResult:
        """Replay the step, or execute the call that records it together with its effect. The call may be made only then.

        An ``invalid`` value becomes the recorded error of the step. It does not when the step is replayed: the limits may be
        other ones now.
        """
        result = self.replay_at_once()
        if result is not None:
            return result
        try:
            with self.run.inside(self.verb, self.task):
                result = await self.replay()
                if result is not None:
                    return result
                if invalid is not None:
                    return await self._record(None, encode_error(invalid), 0.0)
                if not isinstance(call, Call):
                    call = call()
                try:
                    result, _ = await self.attempt(call)
                except InvalidValueError as refusal:
                    if call.statement is RECORD:
                        raise
                    return await self._record(None, encode_error(refusal), 0.0)
                assert result is not None, f"{call.statement.name} does not wait."
                return result
        except asyncio.CancelledError:
            await self.wait_for_cancellation()
            raise

    async def run_once(self, find: Callable[[], Awaitable[tuple[str | None, str | None]]]) -> StepResult:
        """Replay the step, or find its output or error and record that."""
        run = self.run
        result = self.replay_at_once()
        if result is not None:
            return result
        try:
            if run.history is None:
                result = await self.replay()
            else:
                with run.inside(self.verb, self.task):
                    result = await self.replay()
            if result is not None:
                return result
            self.is_begun = True
            run.begin_step()
            try:
                output, error = await run_body(self, find)
                return await self._record(output, error, time.monotonic() - self.began)
            finally:
                run.end_step()
        except asyncio.CancelledError:
            await self.wait_for_cancellation()
            raise

    def replay_at_once(self) -> StepResult | None:
        """The recorded result, if it is at hand and nothing else can happen before it is used; else `replay` finds it."""
        run = self.run
        if run.history is None or run.order is not None or run.stopped is not None or run.over or run.host.closing:
            return None
        if run.open_receive is not None:
            return None
        if self.task.cancelling() or not run.gate.is_quiet_still(run):
            return None
        recorded = run.history.take_at_hand(self.branch, self.number, self.verb, self.key)
        return None if recorded is None else self._recorded_result(recorded)

    async def replay(self) -> StepResult | None:
        """The recorded result; ``None`` when the step has to be executed, or its wait goes on."""
        run = self.run
        if run.stopped is not None or run.over or run.host.closing:
            await run.check_may_act(self.verb, is_begun=self.is_begun)
        if run.open_receive is not None and run.open_receive.step is not self:
            await run.open_receive.give_way()
        if run.history is None or self.is_asked:
            if run.patches is not None:
                await run.patches.store(run, self)
            return None if run.end_request is None else await self._end_if_asked(run.end_request)
        self.is_asked = True
        recorded = await run.history.find(self.branch, self.number)
        order = run.order
        if order is not None:
            order.moved()
        if order is not None and order.is_concurrent:
            result = await self._follow(order, recorded)
        elif recorded is None:
            result = None
        else:
            await self.compare(recorded.verb, recorded.key)
            self.waited = not recorded.completed
            result = None if self.waited else self._recorded_result(recorded)
            if result is not None and (self.task.cancelling() or not run.gate.is_quiet(run)):
                await self.release_recorded(run.make_order(), Ticket(run, self.id, None))
        if result is None:
            run.history.is_used_up = True
            if not await run.history.is_last(*self.id):
                await self._wait_to_be_left()
            if run.host.only_replays:
                await run.stop_at_frontier(self.name)
            if run.patches is not None:
                await run.patches.store(run, self)
            if run.end_request is not None:
                result = await self._end_if_asked(run.end_request)
        return result

    async def _end_if_asked(self, request: EndRequest) -> StepResult | None:
        """The outcome of a step that is not begun, because the workflow was asked to end."""
        result = None
        while result is None and request.reaches(self):
            result = await request.end(self)
        return result

    async def _wait_to_be_left(self) -> NoReturn:
        """Without a result an earlier run went on to later steps: it was cancelled here. Wait for the same cancellation."""
        run, stand, is_named = self.run, patience.Patience(self.run), False
        most = patience.PARK_AFTER_SECONDS if run.gate.view.can_see else patience.PARK_BLINDLY_AFTER_SECONDS
        while stand.seconds < most:
            await run.gate.pause(patience.LOOK_EVERY_SECONDS)
            if stand.look() >= patience.WARN_AFTER_SECONDS and not is_named:
                is_named = True
                log.warning("The replay of workflow %r waits for the cancellation of %s.", run.workflow_id, self.name)
        name = named(self.verb, self.key)
        await self._park(f"{name}, cancelled before it had a result", f"{name} without a cancellation")

    async def _follow(self, order: Order, recorded: Recorded | None) -> StepResult | None:
        """Return the recorded result when its turn comes; ``None`` when all that is recorded was released before this step."""
        run, replayed = self.run, order.recorded
        assert run.history is not None
        if self.asked_after is None:
            self.asked_after = order.released
        if recorded is not None and recorded.asked_after is not None and replayed is not None:
            await replayed.read_until(recorded.asked_after)
        is_known = replayed is not None and replayed.knows(*self.id)
        if recorded is None and is_known:
            recorded = await run.history.find(self.branch, self.number, again=True)
        if recorded is None:
            self.is_followed = self.may_be_late = True
            await order.wait_for_frontier(self.name)
            return None
        await self.compare(recorded.verb, recorded.key)
        self.is_deferred = self.is_deferred and recorded.error != CANCELLED
        self.ticket = ticket = Ticket(run, self.id, self.asked_after)
        if replayed is not None:
            after = recorded.asked_after
            if after is not None and not replayed.is_due(after, self.asked_after):
                await self._park_asked_at_another_moment(after, self.asked_after)
            if is_known:
                self.is_followed = True
                ticket.place = replayed.ask(*self.id)
                order.moved()
        if not self.was_received(recorded, order):
            self.waited = True
            if self.verb == "sleep" and recorded.asked_after is None:
                self.forget_place()  # an older release began this sleep: note that it was not over before all places
            ticket.void()
            await order.wait_for_frontier(self.name)
            return None
        self.message_id = recorded.message_id
        if ticket.place is None and recorded.place is not None:
            # It was in flight when this run began, and no run has received it yet. Its place is forgotten before anything else is
            # released, since this step may be cancelled before its turn.
            await asyncio.shield(self.forget_place())
            await order.wait_for_frontier(self.name)
            await self.record_place(order, ticket)
        await self.release_recorded(order, ticket)
        return self._recorded_result(recorded)

    async def attempt(self, call: Call) -> tuple[StepResult | None, float | None]:
        """Execute a call of this step. Without a result, poll again after so many seconds; ``None``: when woken."""
        run = self.run
        if call.statement.is_ordered:
            call.ticket = ticket = self.ticket = Ticket(run, self.id, self.asked_after)
            ticket.rival, ticket.is_deferred = self.handed, self.is_deferred
        lost = self.handed if self.handed is not None and self.handed.is_lost else None
        first = (await run.database.execute(call))[0]
        outcome = first["outcome"]
        if lost is not None and outcome != "recorded":
            lost.void()
        if outcome == "recorded":
            await self.take_place()
        if outcome == "lost":
            await run.stop_as_lost()
        if run.stopped is not None:
            await run.halt(run.stopped)
        if first["recorded_verb"] is not None:
            await self.compare(first["recorded_verb"], first["recorded_key"])
        if outcome in ("done", "recorded"):
            return self.result(first["output"], first["error"], first.get("message_id")), None
        return None, first["seconds_left"] if outcome == "wait" else 0.0

    def _recorded_result(self, recorded: Recorded) -> StepResult:
        return self.result(recorded.output, recorded.error, recorded.message_id)

    def result(self, output: str | None, error: str | None, message_id: UUID | None) -> StepResult:
        """A result of this step."""
        if error is None:
            return StepResult(output, error, message_id)
        if error == CANCELLED:
            self.run.end_request = self.run.end_request or EndRequest()
            self.run.end_request.note(self)
        return StepResult(output, error, message_id, f"step {self.path} of workflow {self.run.workflow_id!r}")

    async def decode_or_reject(self, result: StepResult, decode: Callable[[str | None], T]) -> T:
        """The decoded output. If it cannot be decoded, that error is recorded in its place before the caller sees it."""
        text = result.value()
        try:
            return decode(text)
        except InvalidValueError as invalid:
            await self.record_rejection(None, invalid)
            raise

    async def record_rejection(self, output: str | None, invalid: DBOSError) -> None:
        """Record that the output cannot be read, or only the part of it that is given here.

        If later steps are recorded, an earlier run could decode it and the code has changed: then the workflow is parked.
        """
        run = self.run
        if run.history is not None and (
            run.host.only_replays or not await run.history.is_last(self.branch, self.number)
        ):
            await self.park_undecodable(invalid)
        if run.order is not None:
            self.void()
            await run.order.wait_for_frontier(f"the error of {self.name}")
        error = None if output is not None else encode_error(invalid)
        row = (*self.columns, output, error)
        await self.attempt(self.call(RECORD_REJECTION, [row], size=len(output or error or "")))
        log.warning("Workflow %r cannot read what %s has brought: %s", run.workflow_id, self.name, invalid)

    async def park_undecodable(self, invalid: DBOSError) -> NoReturn:
        """Park the workflow: an earlier run could decode a value that the code as it is now cannot."""
        problem = invalid.problem if isinstance(invalid, InvalidValueError) else str(invalid).removesuffix(".")
        await self.park_changed("a value that fit", f"a type that it does not fit ({problem})")

    async def park_changed(self, recorded: str, now: str) -> NoReturn:
        """Park the workflow: the step has recorded a result that it cannot have any more."""
        await self._park(f"{named(self.verb, self.key)} with {recorded}", now)

    async def compare(self, verb: str, key: str) -> None:
        """Park the workflow if the recorded step is another one than the code asks for now."""
        if verb == self.verb and (key == self.key or await self._has_recorded(key)):
            return
        if self.run.patches is not None and await self.run.patches.take_back(self.run, self):
            await self.run.stop_as_lost()
        await self._park(named(verb, key), named(self.verb, self.key))

    async def _has_recorded(self, key: str) -> bool:
        """Whether this step has that key when it is compared relative to the ids of the workflow (`own_ids.py`)."""
        ids = await own_ids(self.run)
        if self.matcher is not None:
            return await self.matcher.is_same(self, key, ids)
        return are_same([key], [self.key], ids)

    async def _park_asked_at_another_moment(self, recorded: int, now: int) -> NoReturn:
        name = named(self.verb, self.key)
        await self._park(f"{name} after result {max(recorded, 0)}", f"the same after result {max(now, 0)}")

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
        except InvalidValueError as refusal:
            refused = InvalidValueError(f"The outcome of {named(self.verb, self.key)}", refusal.problem)
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
