"""The runs of one launched DBOS: begun in a context of their own, carried out, and ended.

A run belongs to the executor that claimed its workflow last. The ``attempt`` of the workflow's row is the fence: everything that
a run writes names its attempt, and the database refuses what names an older one.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import logging
import sys
from collections.abc import Coroutine, Mapping
from threading import get_ident
from typing import Any, Final
from uuid import uuid4

from dbos_async._database.change_keys import DUE_KEY, UNOWNED_KEY, end_key
from dbos_async._database.database import Database
from dbos_async._database.sql import load
from dbos_async._executor import tracing
from dbos_async._executor.calling import Runnable, failure, prepare, success
from dbos_async._executor.continuing import CONTINUED, NextGeneration, settle
from dbos_async._executor.ending import RunCompletion, store_end
from dbos_async._logs import shown
from dbos_async._runs import exits, threads
from dbos_async._runs.context import WorkflowContext, begin, current, of_workflow, run_of_body
from dbos_async._runs.continuation import is_only_continuing, without_continuing
from dbos_async._runs.end_request import EndRequest, ask_to_end
from dbos_async._runs.gate import Gate
from dbos_async._runs.history import History
from dbos_async._runs.patches import Patches
from dbos_async._runs.run import RUNS_OF_ONE, SHUTTING_DOWN, WAS_CANCELLED, Outcome, Run, Slots
from dbos_async._runs.run_task import TaskFactory
from dbos_async._runs.watchdog import follow
from dbos_async._serialization.exceptions import encode_error
from dbos_async.errors import ReplayMismatchError, SystemExitError

log = logging.getLogger("dbos_async")

STUBBORN_SECONDS = 5.0
"""How long the executor keeps cancelling code that swallows its cancellation, and waits for threads that cannot be stopped."""

_NO_OUTCOME = Outcome("ERROR", None, None)

_left_behind: set[asyncio.Task[None]] = set()


with load(__name__) as sql:
    STILL_OWNED: Final = sql.statement("STILL_OWNED")


class Executor:
    """Runs workflows in this process, at most ``max_running`` at a time besides those that wait."""

    def __init__(
        self,
        database: Database,
        executor_id: str,
        *,
        application_version: str | None,
        max_running: int,
        workflows: Mapping[str, Runnable],
    ) -> None:
        self.database = database
        self.id = f"{executor_id}:{uuid4().hex[:12]}"
        """Unique to this launch: the owner of the workflows that run here."""
        database.local_executor_id = self.id
        database.application_version = application_version
        self.executor_id = executor_id
        self.application_version = application_version
        self.workflows = workflows
        """The registered workflows, by their names."""
        self.loop = asyncio.get_running_loop()
        self.thread = get_ident()
        """The thread of the event loop."""
        self.runs: dict[str, Run] = {}
        """The runs of this executor, by the ids of their workflows."""
        self.only_replays = False
        """Whether its runs end where their recorded steps end, and store nothing."""
        self.closing = False
        """Set when the executor shuts down and begins nothing more."""
        self.suspended: str | None = None
        """Why this executor begins nothing until its lease is renewed: others may take its workflows over."""
        self.service: asyncio.Task[None] | None = None
        """A task that lasts as long as the executor: it is cancelled earlier only when the event loop closes."""
        self.slots = Slots(_do_nothing)
        self.gate = Gate(self.loop, run_of_body)
        self.task_factory = TaskFactory(self.loop, current, WorkflowContext, hides_tasks=not self.gate.view.can_see)
        self.reserved_slots = 0
        """Free slots that are promised to starts and claims under way."""
        self._max_running = max_running
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def counts_tasks(self) -> bool:
        """Whether runs know how many tasks they have."""
        return self.task_factory.is_installed

    @property
    def free_slots(self) -> int:
        """How many runs may begin now; runs that only wait take no slot."""
        return self._max_running - len(self.runs) + self.slots.waiting - self.reserved_slots

    def reserve(self) -> str | None:
        """The owner for a workflow that is being started; ``None`` when no slot is free, so that any executor may claim it."""
        if self.closing or self.suspended is not None or self.free_slots <= 0:
            return None
        self.reserved_slots += 1
        return self.id

    def release(self, owner: str | None) -> None:
        """Give back what `reserve` returned: the start has begun its run, or has failed."""
        self.reserved_slots -= owner is not None
        self.slots.on_slot_freed()

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
        """Run a workflow that this executor owns, in a fresh context that inherits nothing from the caller.

        ``is_new``: no earlier run of this generation has recorded anything.
        """
        if self.closing or self.suspended is not None:
            return None
        earlier = self.runs.get(workflow_id)
        if earlier is not None:
            if earlier.attempt >= attempt:
                return earlier
            earlier.stop("this executor has claimed its workflow anew")
        run = Run(self.database, workflow_id, attempt, end_key(workflow_id), self, self.gate, name)
        run.generation, run.losses = generation, self.database.batches.losses
        if attempt % RUNS_OF_ONE > 1 and not is_new:
            run.history = History(self.database, workflow_id, functools.partial(follow, run))
            run.patches = None if patches is None else Patches(patches)
        run.end_request = EndRequest() if may_clean_up else None
        self.runs[workflow_id] = run
        work = self._work(run, self.workflows[name], text, recoveries, trace_parent)
        task = self.task_factory.make_main_task(run, work, f"workflow {shown(workflow_id)}")
        self._tasks.add(task)
        self.database.wakeups.add_listener(run.end_key, run, (workflow_id, attempt))
        if seconds_left is not None:
            run.end.deadline_timer = self.loop.call_later(seconds_left, self.database.wakeups.wake, DUE_KEY)
        return run

    def suspend(self, reason: str) -> None:
        """Begin nothing until `go_on`. Runs go on: without the database none gets further than its present step."""
        self.suspended = reason

    def stop_runs(self, reason: str) -> None:
        """Stop every run without an outcome."""
        for run in list(self.runs.values()):
            if not run.over and run.stopped is None:
                log.warning("A run of workflow %r stops: %s.", run.workflow_id, reason)
            run.stop(reason)

    def go_on(self) -> None:
        """Begin runs again."""
        self.suspended = None
        self.database.wakeups.wake(UNOWNED_KEY)

    def check_ownership_soon(self, run: Run) -> None:
        """Check in the background whether the run still owns its workflow, and stop it if not."""
        if not run.over and run.stopped is None:
            self.spawn(self.stop_if_not_owner(run))

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Do this in the background, in no run's context."""
        task = self.loop.create_task(work, context=contextvars.Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def stop_if_not_owner(self, run: Run) -> None:
        """Stop the run if its workflow is not its own any more. That is a warning only if nobody asked for it."""
        row = run.workflow_id, run.attempt
        answer = await self.database.call(STILL_OWNED, [row], partition=run.partition, retry_forever=True)
        _, holds, status, may_clean_up = answer[0]
        if holds:
            run.ended_elsewhere = False
            if may_clean_up:
                ask_to_end(run)
        elif not run.over and run.stopped is None:
            cancelled = status == "CANCELLED"
            reason = WAS_CANCELLED if cancelled else "another run has taken it over, or it has ended"
            level = logging.INFO if cancelled or run.ended_elsewhere else logging.WARNING
            log.log(level, "A run of workflow %r stops: %s.", run.workflow_id, reason)
            run.stop(reason)

    def stop_cancelled(self, workflow_id: str, attempt: int) -> None:
        """Stop the run of a workflow that was cancelled. ``attempt`` is its fence since then: a later run goes on."""
        run = self.runs.get(workflow_id)
        if run is not None and run.attempt < attempt and not run.over and run.stopped is None:
            log.info("A run of workflow %r stops: it was cancelled.", workflow_id)
            run.stop(WAS_CANCELLED)

    def ask_to_end(self, workflow_id: str, attempt: int) -> None:
        """Tell the run of a workflow, if it has this fence, that the workflow was cancelled and may clean up."""
        run = self.runs.get(workflow_id)
        if run is not None and run.attempt == attempt:
            ask_to_end(run)

    async def drain(self, seconds: float) -> None:
        """Begin nothing more, give the running steps that time to finish, then stop every run without an outcome."""
        self.closing = True
        for run in list(self.runs.values()):
            run.stop_if_drained()
        stop_at = self.loop.time() + seconds
        while (tasks := self._unfinished()) and (seconds_left := stop_at - self.loop.time()) > 0:
            await asyncio.wait(tasks, timeout=seconds_left)
        give_up_at = self.loop.time() + STUBBORN_SECONDS
        while (tasks := self._unfinished()) and self.loop.time() < give_up_at:
            for run in list(self.runs.values()):
                run.stop(SHUTTING_DOWN)
            await asyncio.wait(tasks, timeout=0.1)
            # Code that swallows its cancellation is cancelled again.
            for task in self._unfinished():
                task.cancel()
        for task in [task for task in self._tasks if not task.done()]:
            # Keep a reference: a coroutine that is garbage-collected and swallows its GeneratorExit would run on in the
            # context of the code that happens to trigger the collection.
            _left_behind.add(task)
            log.warning("%s swallows its cancellation and was left behind.", task.get_name())
        for step in await threads.left_behind(give_up_at - self.loop.time()):
            log.warning(
                "The step %r%s still runs in a thread and was left behind.",
                step.name,
                of_workflow(step.context.get(current)),
            )

    def _unfinished(self) -> list[asyncio.Future[Any]]:
        # A task that is cancelled before its first turn never reaches _work, so it is still in _tasks, but done.
        completions = [run.end.completion for run in self.runs.values() if run.end.completion is not None]
        return [future for future in (*self._tasks, *completions) if not future.done()]

    async def _work(self, run: Run, workflow: Runnable, text: str, recoveries: int, trace_parent: str | None) -> None:
        begin(run)
        forks = exits.forks
        tracing.begin(run, trace_parent, self.application_version, recoveries)
        outcome = _NO_OUTCOME
        try:
            if run.stopped is not None:
                return
            call = await prepare(run, workflow, text, recoveries)
            if isinstance(call, Outcome):
                outcome = call
            else:
                args, kwargs = call
                try:
                    value = await workflow.function(*args, **kwargs)
                finally:
                    if exits.forks != forks:
                        exits.leave_child(sys.exception())
                # Code that swallows the exception of continue_as_new and returns has called it all the same.
                outcome = success(run, workflow, value) if run.continuation is None else CONTINUED
        except Exception as error:
            outcome = failure(run, error)
        except BaseException as error:
            outcome = self._end_of(run, error)
        finally:
            run.over = True
            try:
                if outcome is CONTINUED and run.stopped is None:
                    await settle(self, run)
                elif run.inside_verbs and run.stopped is None:
                    await self._cancel_tasks_inside(run)
            finally:
                self._end(run, outcome)

    def _end_of(self, run: Run, error: BaseException) -> Outcome:
        """The outcome of a function that raised this, which is no Exception. A run that was ended from outside is stopped."""
        if run.continuation is not None and is_only_continuing(error):
            return CONTINUED
        error = without_continuing(error)
        exit_error = exits.as_error(run.exit_of_a_task() or error, f"The workflow {run.workflow_id!r}")
        if isinstance(exit_error, SystemExitError):
            return failure(run, exit_error)
        if self.service is not None and self.service.cancelling():
            run.stop("the event loop closes without a shutdown of DBOS")
            return _NO_OUTCOME
        if not exits.is_outcome(error):
            exits.interrupt(run, error)
        if run.end_request is not None and isinstance(error, asyncio.CancelledError):
            return Outcome("CANCELLED", None, None)
        # The function let a cancellation pass that came from one of its own tasks: that is an error like any other.
        return failure(run, error)

    def _end(self, run: Run, outcome: Outcome) -> None:
        """Store the outcome of a run that is over; a stopped run has none."""
        if run.end.deadline_timer is not None:
            run.end.deadline_timer.cancel()
        if run.main_task is not None:
            self._tasks.discard(run.main_task)
            run.main_task = None
        tracing.end(run, outcome.status)
        if run.stopped is not None:
            self.leave(run)
        elif outcome is CONTINUED and run.continuation is not None:
            NextGeneration(self, run, run.continuation).store()
        else:
            RunCompletion(run).store(outcome)

    def leave(self, run: Run) -> None:
        """Forget a run that is over: either its outcome is stored, or it has none."""
        run.end.set(None)
        run.end.completion = run.order = run.history = run.last_step = None  # breaks reference cycles
        if self.runs.get(run.workflow_id) is run:
            del self.runs[run.workflow_id]
        self.database.wakeups.remove_listener(run.end_key, run)
        if run.listeners:
            run.remove_listeners()
        self.slots.on_slot_freed()

    async def _cancel_tasks_inside(self, run: Run) -> None:
        # The function started these tasks and did not wait for them. Nothing that they write may come after the outcome.
        run.cancel_tasks_inside()
        await self.database.batches.flush(run.partition)

    async def park(self, run: Run, mismatch: ReplayMismatchError) -> None:
        """Park the workflow of a run, so that it waits until it is resumed with repaired code."""
        log.error("%s", mismatch)
        tracing.note(run, mismatch, "REPLAY_MISMATCH")
        await store_end(run, Outcome("REPLAY_MISMATCH", None, encode_error(mismatch)))


def _do_nothing() -> None:
    """Stands in for the claiming of workflows until there is one."""
