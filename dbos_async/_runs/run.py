"""A run: one attempt of one executor to bring one workflow to its end."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn, Protocol

from dbos_async._database.database import Database
from dbos_async._database.wakeups import ChangeListener, Subscription
from dbos_async._logs import without_stop
from dbos_async._runs.continuation import Continuation
from dbos_async._runs.gate import Gate
from dbos_async._runs.history import History
from dbos_async._runs.order import GAP, Order
from dbos_async._runs.patches import Patches
from dbos_async._runs.quiet import is_ready
from dbos_async._runs.run_tasks import RunTasks
from dbos_async._runs.run_writes import RunWrites
from dbos_async.errors import ReplayMismatchError, WorkflowEndedError

if TYPE_CHECKING:
    from dbos_async._telemetry.run_span import RunSpan

log = logging.getLogger("dbos_async")

SHUTTING_DOWN = "this executor shuts down"
WAS_CANCELLED: Final = "it was cancelled"

RUNS_OF_ONE: Final = 1_000_000
"""The last six digits of a workflow's ``attempt`` count its runs."""


class Outcome(NamedTuple):
    """How a workflow ended, as it is stored."""

    status: str
    output: str | None
    error: str | None


@dataclass(slots=True, eq=False)
class Slots:
    """How many runs of one executor only wait. A waiting run takes no slot of ``max_running``."""

    on_slot_freed: Callable[[], None]
    waiting: int = 0


class RunHost(Protocol):
    """What a run asks of the executor that it belongs to."""

    closing: bool
    """The executor shuts down, and its runs begin no further step."""
    only_replays: bool
    """Its runs end where their recorded steps end, and store nothing."""
    slots: Slots
    gate: Gate

    @property
    def counts_tasks(self) -> bool:
        """Whether its runs know how many tasks they have."""
        ...

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Do this in the background, in no run's context."""

    def check_ownership_soon(self, run: Run) -> None:
        """Soon stop the run if its workflow is not its own any more."""

    async def stop_if_not_owner(self, run: Run) -> None:
        """Stop the run if its workflow is not its own any more, and log why."""

    async def park(self, run: Run, mismatch: ReplayMismatchError) -> None:
        """Park the workflow until somebody has repaired the code."""

    def leave(self, run: Run) -> None:
        """Forget the run, which is over."""


class RunEnd:
    """The end of a run, for those who wait for its outcome in this process: they need not ask the database."""

    __slots__ = ("_waiters", "completion", "deadline_timer", "is_known", "outcome")

    def __init__(self) -> None:
        self.outcome: Outcome | None = None
        """``None`` while the run goes on, and when another run will end the workflow."""
        self.is_known: bool = False
        self.deadline_timer: asyncio.TimerHandle | None = None
        self.completion: asyncio.Future[Any] | None = None
        """The call that stores the outcome, as long as it is under way."""
        self._waiters: list[asyncio.Future[None]] | None = None

    def set(self, outcome: Outcome | None) -> None:
        """Wake all who wait. The first outcome counts; ``None`` means that this run will not bring one."""
        if self.outcome is None:
            self.outcome = outcome
        self.is_known = True
        for waiter in self._waiters or ():
            if not waiter.done():
                waiter.set_result(None)

    async def wait(self) -> Outcome | None:
        """The outcome, once it is known that there is one or none."""
        if self.is_known:
            return self.outcome
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._waiters is None:
            self._waiters = []
        self._waiters.append(waiter)
        try:
            await waiter
        finally:
            self._waiters.remove(waiter)
        return self.outcome


@dataclass(slots=True, eq=False)
class Run(RunTasks):
    """One attempt of one executor to bring one workflow to its end. ``attempt`` is its fence."""

    database: Database
    workflow_id: str
    attempt: int
    end_key: bytes
    """Changes when the workflow ends."""
    host: RunHost
    gate: Gate
    """What gives its order turns."""
    name: str = ""
    """The name of the workflow."""
    partition: int = field(default_factory=itertools.count().__next__)
    """What keeps its calls in order, and tells them from those of other runs."""
    history: History | None = None
    """What earlier runs of the workflow have recorded; ``None`` in the first run."""
    order: Order | None = None
    """In which order its tasks receive results; ``None`` while one task alone calls verbs."""
    stopped: str | None = None
    """Why this run must not go on: it was taken over, cancelled, parked or given back."""
    ended_elsewhere: bool = False
    """Whether the end of the workflow was announced."""
    over: bool = False
    """Whether the function has returned or raised."""
    end: RunEnd = field(default_factory=RunEnd)
    frontier: str | None = None
    """The step at which it stopped because no earlier run has its result, if it only replays."""
    writes: RunWrites | None = None
    patches: Patches | None = None
    """What `DBOS.patched` has answered, ``None`` before the first call."""
    generation: int = 1
    """How often its workflow was continued as new, and one more."""
    losses: int = 0
    """How many connections with calls under way this process had lost when it began."""
    continuation: Continuation | None = None
    """How the workflow begins anew when this run is over, once `continue_as_new` was called."""
    listeners: dict[bytes, ChangeListener] | None = None
    """Listeners that leave with the run."""
    span: RunSpan | None = None
    """What OpenTelemetry is told of it."""

    @property
    def count(self) -> int:
        """1 in the first run of the workflow, and more in each later one: a cancellation counts, too."""
        return self.attempt % RUNS_OF_ONE

    @property
    def is_replaying(self) -> bool:
        """Whether all that it has asked for so far is recorded."""
        return self.history is not None and not self.history.is_used_up

    @property
    def may_put_back(self) -> bool:
        """Whether what an abandoned wait has taken can go back: not when the run was stopped, or the workflow ends."""
        return self.stopped is None and (not self.over or self.continuation is not None)

    @property
    def has_one_task(self) -> bool:
        """Whether it surely has started no task besides its main task."""
        return not self.tasks_started and self.host.counts_tasks

    @property
    def is_unwinding(self) -> bool:
        """Whether a step was cancelled and its body has not come to its end."""
        return bool(self.step_bodies) and self.has_cancelled_body()

    @property
    def is_reading(self) -> bool:
        """Whether it waits for a page of its history."""
        return self.history is not None and self.history.reading > 0

    @property
    def has_ready_task(self) -> bool:
        """Whether a task goes on in this turn of the event loop or the next, as far as that is known."""
        main = self.main_task
        return (main is not None and is_ready(main)) or any(map(is_ready, self.tasks_live or ()))

    def make_order(self) -> Order:
        """The order of this run, which is made when it is needed first."""
        if self.order is None:
            # What an earlier run has sent may be committed late, with places before those of this run.
            self.order = Order(self, 0 if self.history is None else GAP)
        return self.order

    def begin_concurrency(self) -> None:
        """A second task calls a verb: from now on results have places."""
        step = self.last_step
        in_flight = () if step is None else (step.ticket, step.handed)
        has_arrived = any(ticket is not None and ticket.waiter is not None for ticket in in_flight)
        sleeps = bool(self.inside_verbs) and not has_arrived and not self.is_reading
        sleeps = sleeps and not (self.end_request is not None and self.end_request.is_ending(step))
        sleep = step.number if step is not None and step.verb == "sleep" and sleeps else 0
        self.make_order().begin_concurrency(sleep=sleep, in_flight=in_flight)
        self.last_step = None

    def inside(self, verb: str, task: asyncio.Task[object] | None = None) -> _Inside:
        """``with run.inside(verb):`` marks the current task, which the caller may know, as inside a verb."""
        return _Inside(self, verb, task or asyncio.current_task(self.database.loop))

    def stop(self, reason: str) -> None:
        """Let nothing more happen in the name of this run, and cancel its tasks."""
        if self.stopped is None:
            self.stopped = reason
        self.end.set(None)
        self.cancel_tasks(reason)

    def changed(self) -> None:
        """The end of the workflow is announced: check whether it is still this run's."""
        self.ended_elsewhere = True
        self.host.check_ownership_soon(self)

    async def stop_as_lost(self) -> NoReturn:
        """Stop the run from inside one of its tasks, after the fence has refused a write."""
        if self.stopped is None:
            await self.host.stop_if_not_owner(self)
        await self.halt("another run has taken it over, or it has ended")

    async def halt(self, reason: str) -> NoReturn:
        """Stop the run from inside one of its tasks. Code that swallows the cancellation gets no further than the next verb."""
        if self.stopped is None:
            log.warning("A run of workflow %r stops: %s.", self.workflow_id, without_stop(reason))
            self.stop(reason)
        self.cancel_current_once(reason)
        await self.database.loop.create_future()
        raise AssertionError("A halted task was resumed.")

    async def stop_at_frontier(self, step: str) -> NoReturn:
        """End a run that only replays, at a step whose result is not recorded."""
        self.frontier = self.frontier or step
        self.stop("all that is recorded was replayed")
        await self.halt("")

    async def check_may_act(self, verb: str, *, is_begun: bool) -> None:
        """Return if a task of the run may act now; a run that is stopped, over or draining does not."""
        if self.stopped is not None:
            await self.halt(self.stopped)
        if self.over:
            raise WorkflowEndedError(self.workflow_id, verb)
        if self.host.closing and not is_begun:
            with self.inside(verb):
                await self.database.loop.create_future()  # until the run is stopped

    def stop_if_drained(self) -> None:
        """Stop a draining run once no step is under way. A run whose function has just returned may end."""
        if self.host.closing and not self.steps_running and not self.over:
            self.stop(SHUTTING_DOWN)

    def begin_step(self) -> None:
        """A task begins a step of which only the whole is recorded: a shutdown waits for it."""
        self.steps_running += 1

    def end_step(self) -> None:
        """That step has ended. The task may still use its result before a draining run is stopped."""
        self.steps_running -= 1
        if self.host.closing:
            self.database.loop.call_soon(self.stop_if_drained)

    def end_cancelled_body(self) -> bool:
        """The body of a cancelled step has ended. True if other tasks of the run may know of the cancellation."""
        if self.order is None or not self.order.is_concurrent:
            return False
        self.order.moved()
        return True

    def begin_waiting(self) -> None:
        """One more task of this run only waits."""
        self.tasks_waiting += 1
        if self.tasks_waiting == 1:
            self.host.slots.waiting += 1
            if self.span is not None:
                self.span.wait()
            self.host.slots.on_slot_freed()

    def end_waiting(self) -> None:
        """A task of this run goes on."""
        self.tasks_waiting -= 1
        if self.tasks_waiting == 0:
            self.host.slots.waiting -= 1
            if self.span is not None:
                self.span.go_on()

    def next_write_seq(self) -> int:
        """The number of an event or stream value among all that this run writes."""
        self.writes = self.writes or RunWrites()
        self.writes.seq += 1
        return self.writes.seq

    def add_listener(self, key: bytes, listener: ChangeListener) -> None:
        """Let the listener hear of every change of the key until this run is over."""
        self.listeners = self.listeners or {}
        self.listeners[key] = listener
        self.database.wakeups.add_listener(key, listener)

    def remove_listener(self, key: bytes) -> ChangeListener | None:
        """End that. The listener, if the run had one there and the register had it still."""
        listener = None if self.listeners is None else self.listeners.pop(key, None)
        return listener if listener is not None and self.database.wakeups.remove_listener(key, listener) else None

    def remove_listeners(self) -> None:
        """End all of them."""
        for key in list(self.listeners or ()):
            self.remove_listener(key)


class _Inside:
    """The current task inside a verb. A cancellation by the run's end becomes the error that says so."""

    __slots__ = ("_run", "_verb", "changes", "task")

    def __init__(self, run: Run, verb: str, task: asyncio.Task[object] | None) -> None:
        self._run, self._verb, self.task = run, verb, task
        self.changes: Subscription | None = None

    def __enter__(self) -> None:
        run = self._run
        if run.inside_verbs is None:
            run.inside_verbs = set()
        run.inside_verbs.add(self)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._run.inside_verbs is not None:
            self._run.inside_verbs.discard(self)
        if kind is asyncio.CancelledError and self._run.over and self._run.stopped is None:
            if self.task is not None and self.task.cancelling() > 1:
                return  # the code that started it has cancelled it, too
            raise WorkflowEndedError(self._run.workflow_id, self._verb) from None
