"""The end of a generation: `continue_as_new` was called, and the function has returned or let the exception pass.

First everything is over that this generation has under way. Then one call ends it and begins the next one. The run of that begins
here with the answer, or in another process if this one cannot have it.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final, Protocol
from uuid import UUID

from dbos_async._database.calls import Call, Observer, Result
from dbos_async._database.change_keys import UNOWNED_KEY
from dbos_async._database.sql import load
from dbos_async._executor.ending import RunCompletion
from dbos_async._runs.context import WorkflowContext, current
from dbos_async._runs.continuation import Continuation
from dbos_async._runs.history import named
from dbos_async._runs.run import SHUTTING_DOWN, Outcome, Run, RunHost
from dbos_async._serialization.exceptions import encode_error
from dbos_async._serialization.values import encode_value
from dbos_async.errors import InvalidValueError, LaunchError, ReplayMismatchError

log = logging.getLogger("dbos_async")

CONTINUED: Final = Outcome("CONTINUED", None, None)
"""How a run ends whose workflow goes on as the next generation. No workflow has this status."""

LOOK_EVERY_SECONDS: Final = 0.01

with load(__name__) as sql:
    CONTINUE: Final = sql.statement("CONTINUE")
    WRITERS_NOW: Final = sql.statement("WRITERS_NOW", parallelism=1)


class Generations(RunHost, Protocol):
    """What the end of a generation asks of its executor."""

    id: str
    application_version: str | None
    suspended: str | None

    def begin(
        self,
        workflow_id: str,
        name: str,
        text: str,
        attempt: int,
        recoveries: int = 0,
        trace_parent: str | None = None,
        seconds_left: float | None = None,
        generation: int = 1,
        may_clean_up: bool = False,
        patches: str | None = None,
        *,
        is_new: bool = False,
    ) -> Run | None:
        """Run a workflow that this executor owns."""
        ...


async def settle(executor: Generations, run: Run) -> None:
    """Return when nothing can be recorded any more for the steps of this generation, or the run is stopped.

    The next generation has steps of the same numbers, so nothing may come late. Messages that abandoned receives have taken are
    back in their queues then.
    """
    try:
        if run.history is not None and await _has_left_steps(executor, run):
            return
        await _leave_verbs(run)
        await run.cleanups_done()
        await run.database.batches.flush(run.partition)
        # An earlier run, or a call whose connection was lost, may have a statement at the server that began before this run knew.
        if not executor.only_replays and (run.history is not None or run.losses != run.database.batches.losses):
            unseen = await _outlast_writers(run)
            if run.continuation is not None:
                run.continuation = run.continuation._replace(unseen=unseen)
    except LaunchError:
        run.stop(SHUTTING_DOWN)  # the database was closed
    except BaseException as error:
        run.stop(f"it was interrupted before it could continue as new ({type(error).__name__})")
        raise


async def _has_left_steps(executor: Generations, run: Run) -> bool:
    """Whether an earlier run of this code, which has changed since, went on to steps that this run has not asked for."""
    context = current.get()
    assert isinstance(context, WorkflowContext)
    assert run.history is not None
    recorded = await run.history.find("", context.number + 1)
    if recorded is None or run.stopped is not None:
        return False
    mismatch = ReplayMismatchError(
        run.workflow_id, str(recorded.number), named(recorded.verb, recorded.key), "continue_as_new"
    )
    await executor.park(run, mismatch)
    run.stop(str(mismatch))
    return True


async def _leave_verbs(run: Run) -> None:
    turns = 0
    while run.inside_verbs:
        run.cancel_tasks_inside()
        turns += 1
        await asyncio.sleep(0 if turns < 100 else LOOK_EVERY_SECONDS)


async def _outlast_writers(run: Run) -> list[UUID]:
    """Return when every transaction has ended that is writing now. Which messages were received meanwhile, so that no run knows."""
    _, before = await _writers(run)
    earlier, _ = await _writers(run)
    while earlier:
        await asyncio.sleep(LOOK_EVERY_SECONDS)
        earlier &= (await _writers(run))[0]
    _, received = await _writers(run)
    return sorted(received - before)


async def _writers(run: Run) -> tuple[set[str], set[UUID]]:
    row = (run.workflow_id,)
    ((_, writers, received),) = await run.database.call(WRITERS_NOW, [row], partition="", retry_forever=True)
    return set(writers), set(received)


class NextGeneration(Observer):
    """Ends the generation of a run, and begins the next one. No task waits for that."""

    __slots__ = ("_continuation", "_executor", "_owner", "_run")

    def __init__(self, executor: Generations, run: Run, continuation: Continuation) -> None:
        self._executor, self._run, self._continuation = executor, run, continuation
        self._owner: str | None = None

    def store(self) -> None:
        """Store that the workflow goes on with its new arguments, unless the database was closed."""
        executor, run, (text, version, unseen) = self._executor, self._run, self._continuation
        runs_version = version is None or executor.application_version in (None, version)
        may_begin = runs_version and not executor.closing and executor.suspended is None
        self._owner = executor.id if may_begin else None
        key = None if may_begin else UNOWNED_KEY
        row = (
            run.workflow_id,
            run.attempt,
            run.generation,
            text,
            self._owner,
            version,
            encode_value([*map(str, unseen)]),
            key,
        )
        wakes = () if key is None else (key,)
        call = Call(CONTINUE, (row,), run.partition, len(text), wakes, self, retry_forever=True)
        try:
            run.end.completion = run.database.execute(call)
        except LaunchError:
            executor.leave(run)

    def on_result(self, call: Call, result: Result) -> None:
        executor, run, found = self._executor, self._run, result[0]
        executor.leave(run)
        if found["attempt"] is not None and self._owner is not None:
            begun = executor.begin(
                run.workflow_id, run.name, self._continuation.text, found["attempt"], 0, found["trace_parent"],
                found["seconds_left"], run.generation + 1, found["may_clean_up"], is_new=True,
            )  # fmt: skip
            if begun is not None and run.ended_elsewhere:  # a cancel has been announced, perhaps of the next generation
                executor.check_ownership_soon(begun)

    def on_failure(self, error: BaseException | None) -> None:
        # Refused arguments end the workflow. After any other failure its next run comes to the same call.
        if isinstance(error, InvalidValueError):
            refused = InvalidValueError(f"A new argument of workflow {self._run.workflow_id!r}", error.problem)
            log.warning("Workflow %r ends in ERROR.", self._run.workflow_id, exc_info=refused)
            return RunCompletion(self._run).store(Outcome("ERROR", None, encode_error(refused)))
        if error is not None and not isinstance(error, LaunchError):
            log.error("Workflow %r could not continue as new.", self._run.workflow_id, exc_info=error)
        self._executor.leave(self._run)
