"""The runs of one executor: claimed or started here, worked through in a context of their own, and finished.

A run belongs to the executor that claimed its workflow last: the row's attempt is the fence, and everything that is
written in the name of a run names it.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Callable, Mapping
from threading import get_ident
from typing import Any, Final, Protocol
from uuid import uuid4

from dbos_async._database.batches import Answer
from dbos_async._database.database import Database
from dbos_async._database.sql import load
from dbos_async._database.wakeups import DUE_KEY, UNOWNED_KEY, end_key
from dbos_async._executor import tracing
from dbos_async._executor.ending import RunCompletion, finish
from dbos_async._runs.context import SHUTTING_DOWN, Run, Slots, begin
from dbos_async._runs.history import History
from dbos_async._serialization import exceptions, values
from dbos_async._serialization.signature import Signature
from dbos_async.errors import InvalidValueError, ReplayMismatchError

log = logging.getLogger("dbos_async")

RUNS_OF_ONE = 1_000_000
"""The runs of a workflow are counted by the last digits of its attempt."""

SECOND_LOOK_SECONDS = 2.0

STUBBORN_SECONDS = 5.0
"""How long code that swallows its cancellation is cancelled again."""

with load(__name__) as sql:
    CLAIM: Final = sql.statement("CLAIM", parallelism=1)
    STILL_OWNED: Final = sql.statement("STILL_OWNED")
    OWNED: Final = sql.statement("OWNED", parallelism=1)

_left_behind: set[asyncio.Task[None]] = set()


class Runnable(Protocol):
    """What an executor must know of a workflow to run it."""

    function: Callable[..., Any]
    signature: Signature
    max_recovery_attempts: int


class Executor:
    """The runs of one launched DBOS."""

    def __init__(
        self,
        database: Database,
        executor_id: str,
        *,
        application_version: str | None,
        max_running: int,
        known: Mapping[str, Runnable],
    ) -> None:
        self.database = database
        self.id = f"{executor_id}:{uuid4().hex[:12]}"
        """Unique to this launch: what the workflows that run here have as their owner."""
        database.here = self.id
        self.executor_id = executor_id
        self.application_version = application_version
        self.known = known
        self.loop = asyncio.get_running_loop()
        self.thread = get_ident()
        """The one that the loop runs in."""
        self.runs: dict[str, Run] = {}
        self.closing = False
        self.lease: asyncio.Task[None] | None = None
        """The task that keeps the lease, as long as this executor lives."""
        self._max_running = max_running
        self._slots = Slots(self._on_slot_freed)
        self._more_unowned = False
        self._second_look: asyncio.TimerHandle | None = None
        self._reserved = 0
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def free_slots(self) -> int:
        """How many runs may begin now; those that only wait do not count."""
        return self._max_running - len(self.runs) + self._slots.waiting - self._reserved

    def reserve(self) -> str | None:
        """The owner of a workflow that is being started; ``None`` when there is no room and it is left to whoever has."""
        if self.closing or self.free_slots <= 0:
            return None
        self._reserved += 1
        return self.id

    def release(self, owner: str | None) -> None:
        """The start that was given this owner has begun its run, or has failed."""
        self._reserved -= owner is not None
        self._on_slot_freed()

    async def claim(self) -> bool:
        """Take workflows that nobody owns, as many as there is room for. True when there may be more."""
        most = min(self.free_slots, 100)
        names = list(self.known)
        self._more_unowned = most <= 0
        if self.closing or most <= 0 or not names:
            return False
        row = self.id, values.encode(names), self.application_version, most
        self._reserved += most
        try:
            answer = await self.database.call(CLAIM, [row], partition="", retry_forever=True, answered=self._claimed)
        finally:
            self._reserved -= most
        self._more_unowned = answer[0]["more"]
        return self._more_unowned

    async def reclaim(self) -> None:
        """Run what this executor owns and does not run: the answer to its start or claim was lost with a connection."""
        running = set(self.runs)  # before the look, so that what ends meanwhile is not begun again
        row = self.id, values.encode(list(running))
        for _, workflow_id, *rest in await self.database.call(OWNED, [row], partition="", retry_forever=True):
            if workflow_id not in self.runs:
                self.begin(workflow_id, *rest)

    def _on_slot_freed(self) -> None:
        if self._more_unowned and self.free_slots > 0:
            self.database.wakeups.wake(UNOWNED_KEY)

    def _claimed(self, answer: Answer) -> None:
        for _, _, workflow_id, name, text, attempt, *rest in answer:
            if workflow_id is not None:
                self.begin(workflow_id, name, text, attempt, *rest)
                if attempt % RUNS_OF_ONE > 1 and self._second_look is None:
                    self._second_look = self.loop.call_later(SECOND_LOOK_SECONDS, self._look_again)

    def _look_again(self) -> None:
        # What was sent in its old owner's process at the moment of the claim may not have been announced.
        self._second_look = None
        self.database.wakeups.wake_all()

    def begin(
        self,
        workflow_id: str,
        name: str,
        text: str,
        attempt: int,
        recoveries: int = 0,
        trace_parent: str | None = None,
        seconds_left: float | None = None,
    ) -> Run | None:
        """Run a workflow that this executor owns, in a context that has nothing of whoever caused it."""
        if self.closing:
            return None
        earlier = self.runs.get(workflow_id)
        if earlier is not None:
            if earlier.attempt >= attempt:
                return earlier
            earlier.stop("this executor has claimed its workflow anew")
        run = Run(self.database, workflow_id, attempt, end_key(workflow_id), self, slots=self._slots)
        if attempt % RUNS_OF_ONE > 1:
            run.history = History(self.database, workflow_id)
        self.runs[workflow_id] = run
        work = self._work(run, self.known[name], text, recoveries, trace_parent)
        task = self.loop.create_task(work, name=f"workflow {workflow_id}", context=contextvars.Context())
        self._tasks.add(task)
        self.database.wakeups.add_listener(run.key, run)
        if seconds_left is not None:
            run.timer = self.loop.call_later(seconds_left, self.database.wakeups.wake, DUE_KEY)
        return run

    def check_ownership_soon(self, run: Run) -> None:
        """See whether the workflow is still this run's."""
        if not run.over and run.stopped is None:
            task = self.loop.create_task(self.stop_if_not_owner(run), context=contextvars.Context())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def stop_if_not_owner(self, run: Run) -> None:
        """Stop the run if its workflow is not its own any more. Only what nobody has asked for is worth a warning."""
        row = run.workflow_id, run.attempt
        _, holds, status = (await self.database.call(STILL_OWNED, [row], partition=run.partition, retry_forever=True))[
            0
        ]
        if holds:
            run.told = False
        elif not run.over and run.stopped is None:
            cancelled = status == "CANCELLED"
            why = "it was cancelled" if cancelled else "another run has taken it over, or it has ended"
            level = logging.INFO if cancelled or run.told else logging.WARNING
            log.log(level, "A run of workflow %r stops: %s.", run.workflow_id, why)
            run.stop(why)

    async def drain(self, seconds: float) -> None:
        """Begin nothing more, let the steps that run now finish in that time, and stop every run without an outcome."""
        self.closing = True
        if self._second_look is not None:
            self._second_look.cancel()
        for run in list(self.runs.values()):
            run.drain()
        stop_at = self.loop.time() + seconds
        while (tasks := self._unfinished()) and (seconds_left := stop_at - self.loop.time()) > 0:
            await asyncio.wait(tasks, timeout=seconds_left)
        give_up_at = self.loop.time() + STUBBORN_SECONDS
        while (tasks := self._unfinished()) and self.loop.time() < give_up_at:
            for run in list(self.runs.values()):
                run.stop(SHUTTING_DOWN)
            # Code that swallows its cancellation is cancelled again, until it has had enough.
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=0.1)
        for task in [task for task in self._tasks if not task.done()]:
            # Kept, since a collected coroutine that swallows its end would run on in the context of whoever collects it.
            _left_behind.add(task)
            log.warning("%s swallows its cancellation and was left behind.", task.get_name())

    def _unfinished(self) -> list[asyncio.Future[Any]]:
        # One that is cancelled before its first turn ends without having been here.
        endings = [run.ending for run in self.runs.values() if run.ending is not None]
        return [future for future in (*self._tasks, *endings) if not future.done()]

    async def _work(self, run: Run, workflow: Runnable, text: str, recoveries: int, trace_parent: str | None) -> None:
        begin(run)
        tracing.attach(trace_parent)
        status, output, error = "ERROR", None, None
        try:
            if run.stopped is not None:
                return
            if recoveries > workflow.max_recovery_attempts:
                status = "MAX_RECOVERY_ATTEMPTS_EXCEEDED"
            else:
                try:
                    args, kwargs = workflow.signature.decode_call(text, f"workflow {run.workflow_id!r}")
                except InvalidValueError as unreadable:
                    if run.history is None:
                        raise
                    # An earlier run could read it, so the code has changed, and can be repaired.
                    recorded = "a call with arguments that fit"
                    asked = f"types that they do not fit ({unreadable})"
                    mismatch = ReplayMismatchError(run.workflow_id, "0", recorded, asked)
                    log.error("%s", mismatch)
                    status, error = "REPLAY_MISMATCH", exceptions.encode_error(mismatch)
                    return
                value = await workflow.function(*args, **kwargs)
                what = f"The result of workflow {run.workflow_id!r}"
                result = values.encode(value, workflow.signature.result_type, what=what)
                invalid = values.too_large(result, self.database.max_payload_bytes, what)
                if invalid is not None:
                    raise invalid
                status, output = "SUCCESS", result
        except Exception as failure:
            error = exceptions.encode_error(failure)
        except (SystemExit, KeyboardInterrupt):
            run.stop("the process was told to end")
            raise
        except BaseException as failure:
            if self.lease is not None and self.lease.cancelling():
                run.stop("the event loop closes without a shutdown of DBOS")
                raise
            # A cancellation that is not ours: the function let that of some task of its own pass.
            error = exceptions.encode_error(failure)
        finally:
            run.over = True
            if run.timer is not None:
                run.timer.cancel()
            try:
                if run.tasks_inside and run.stopped is None:
                    await self._end_what_outlived(run)
                if run.stopped is None:
                    RunCompletion(run).store(status, output, error)
            finally:
                if run.task is not None:
                    self._tasks.discard(run.task)
                    run.task = None
                if run.ending is None:
                    self.leave(run)

    def leave(self, run: Run) -> None:
        """The run is over, and everything that can be known of its end is known."""
        run.end(None)
        run.ending = None  # or they would keep each other
        if self.runs.get(run.workflow_id) is run:
            del self.runs[run.workflow_id]
            self.database.wakeups.add_listener(run.key, None)
        for key in run.known_empty or ():
            self.database.wakeups.take_known_empty(key)
        self._on_slot_freed()

    async def _end_what_outlived(self, run: Run) -> None:
        # Tasks that the function started and did not wait for: nothing of theirs may come after the end.
        for task in run.tasks_inside or ():
            task.cancel()
        await self.database.batches.flush(run.partition)

    async def park(self, run: Run, mismatch: ReplayMismatchError) -> None:
        log.error("%s", mismatch)
        await finish(run, "REPLAY_MISMATCH", None, exceptions.encode_error(mismatch))
