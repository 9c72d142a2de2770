"""The order in which the tasks of one run receive the results of their calls, live and in a replay.

A workflow may have several tasks, and its path depends on which of them receives a result first. So that order is recorded
before any task knows it:

place    A call draws its place when its batch leaves; the calls of one run in one batch share it. The row of the step records
         the place in the same commit as the result.
release  A run releases results place by place, and none while a call with an earlier place is unanswered. So the rows tell the
         order in which results were received. Those of one place are released together, sorted by the numbers of their steps.
quiet    A place is released when no callback of the run is ready in the event loop. So the order alone decides what the tasks
         do next, and the number of turns of the loop does not matter.
asked    The row also records which place was released last when the step was asked for. A replay that asks for a step at another
         moment is parked (`recorded_order.py`).

As long as one task alone calls verbs there are no places, and nothing of this is recorded. A cancellation that reaches a verb is
released like a result: when the run is quiet, and those of one moment in the order of their steps, since asyncio cancels the
tasks of a group in the order of their addresses (decision 49).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, Protocol

from dbos_async._database.calls import Call, Result
from dbos_async._runs.gate import Gate, Uncancelled
from dbos_async._runs.recorded_order import Place, RecordedOrder

MAX_BUSY_TURNS: Final = 2000
"""After so many turns the next place is released to a run that is not quiet: it may wait for the result in a loop of its own."""

GAP: Final = 1 << 16
"""So far behind the recorded places begin those of a new run. What was in flight when it began has places between them."""


class OrderedRun(Protocol):
    """What an order must know of its run."""

    order: Order | None
    stopped: str | None
    over: bool

    @property
    def has_one_task(self) -> bool: ...

    @property
    def has_ready_task(self) -> bool: ...

    @property
    def gate(self) -> Gate: ...

    @property
    def is_unwinding(self) -> bool:
        """Whether a step was cancelled and has not come to its end."""
        ...

    @property
    def is_reading(self) -> bool:
        """Whether a task waits for a page of the history, and may soon ask for more."""
        ...

    def make_order(self) -> Order:
        """The order, which is made when it is needed first."""
        ...


class Ticket:
    """The place of one call of a step, and the result that waits for its release."""

    __slots__ = (
        "asked_after", "departure", "is_deferred", "is_lost", "is_over", "place", "result", "rival", "run", "step", "waiter",
    )  # fmt: skip

    def __init__(self, run: OrderedRun, step: tuple[str, int], asked_after: int | None) -> None:
        self.run, self.step, self.asked_after = run, step, asked_after
        self.place: Place | None = None
        self.is_over: bool = False
        """Whether it has arrived, or never will."""
        self.is_deferred: bool = False
        """Whether the verb has something left to do before its result may be released."""
        self.is_lost: bool = False
        """Whether only another poll can tell if the call has completed the step."""
        self.rival: Ticket | None = None
        """The ticket of a hand-off that may complete the same step."""
        self.departure = 0
        self.waiter: asyncio.Future[Any] | None = None
        self.result: Any = None

    @property
    def number(self) -> int | None:
        """The place that the row records."""
        return None if self.place is None else self.place.number or None

    @property
    def columns(self) -> tuple[int | None, int | None]:
        """What the row of the step records of the order."""
        return self.number, self.asked_after

    def depart(self, departure: int) -> None:
        """Draw the place, since the batch of the call leaves now. A batch that is repeated keeps the places of its calls."""
        self.departure = departure
        order = self.run.order
        if order is not None and order.is_concurrent and self.place is None and not self.is_over:
            self.place = order.draw(departure)

    def hold(self, call: Call, result: Result) -> bool:
        """Whether the ticket keeps the result of the call, and gives it to the caller when its turn comes."""
        outcome = result[0]["outcome"]
        if outcome != "done":
            # A run that lost its workflow is stopped, and receives nothing more.
            if outcome not in ("recorded", "lost"):
                self.void()
            return False
        if self.is_over:
            return False
        if self.rival is not None:
            self.rival.void()  # this call has completed the step, so no hand-off can
        if self.is_deferred:
            return False
        order, place = self.run.order, self.place
        if place is not None and place.pending > 1 and order is not None:
            self.waiter, self.result = call, result
            order.arrive(self, is_quiet=False)
            return True
        is_quiet = self.run.gate.was_quiet(self.run, self.departure)
        if is_quiet and (order is None or not order.is_concurrent):
            self.void()
            return False
        self.waiter, self.result = call, result
        self.run.make_order().arrive(self, is_quiet=is_quiet)
        return True

    def void(self) -> None:
        """Nothing will be released at this place, as far as this call goes."""
        if not self.is_over:
            self.is_over = True
            if self.place is not None:
                self.place.pending -= 1
                if self.run.order is not None:
                    self.run.order.moved()

    def release(self) -> None:
        """Let the caller go on."""
        waiter, result = self.waiter, self.result
        self.waiter = self.result = None
        if waiter is not None and not waiter.done():
            waiter.set_result(result)


class Order:
    """The order of one run. A run has one as soon as it needs it: see `OrderedRun.order`."""

    __slots__ = (
        "_cancelled", "_departure", "_drawn", "_on_held_up", "_places", "_turns", "_zero", "frontier", "idle_turns",
        "is_concurrent", "moves", "recorded", "released", "run",
    )  # fmt: skip

    def __init__(self, run: OrderedRun, drawn: int = 0) -> None:
        self.run = run
        self.is_concurrent: bool = False
        """Whether more than one task has called a verb, in this run or in an earlier one."""
        self.released: int = 0
        """The place that was released last. Not above 0 if there was none: then the negative number of the sleep in which the main
        task was when the second one called its first verb. The row of a sleep does not tell whether the sleep is over."""
        self.recorded: RecordedOrder | None = None
        self.frontier: list[tuple[asyncio.Future[None], str]] = []
        """The steps that wait until all that is recorded was released, and what they are."""
        self.moves: int = 0
        """How often something happened."""
        self.idle_turns: int = 0
        self._drawn = drawn
        self._departure: int | None = None
        self._places: dict[int, Place] = {}
        self._zero: Place | None = None
        self._cancelled: list[Ticket] = []
        self._turns = 0
        self._on_held_up: Callable[[], None] = _do_nothing

    def begin_concurrency(self, *, sleep: int, in_flight: tuple[Ticket | None, ...]) -> None:
        """A second task calls a verb. A call in flight that has no place comes before all places."""
        self.is_concurrent = True
        if self.released == 0:
            self.released = -sleep
        for ticket in in_flight:
            if ticket is not None and not ticket.is_over and ticket.place is None:
                self.join_zero(ticket)

    def follow(self, recorded: RecordedOrder, on_held_up: Callable[[], None]) -> None:
        """Release what is recorded in the order in which it is recorded."""
        self.recorded, self._on_held_up = recorded, on_held_up
        recorded.on_page = self.moved
        self.is_concurrent = True
        self.moved()

    def draw(self, departure: int | None) -> Place:
        """The place of one more call that leaves with this batch; ``None``: a place for this result alone."""
        if departure is None or self._departure != departure:
            self._departure = departure
            if self.recorded is not None:
                self._drawn = max(self._drawn, self.recorded.last + GAP)
            self._drawn += 1
            self._places[self._drawn] = Place(self._drawn)
        place = self._places[self._drawn]
        place.pending += 1
        return place

    def join_zero(self, ticket: Ticket) -> Place:
        """Give the ticket the place before all others: that of results without a recorded place."""
        if self._zero is None:
            self._zero = Place(0)
        self._zero.pending += 1
        ticket.place = self._zero
        return self._zero

    def arrive(self, ticket: Ticket, *, is_quiet: bool) -> None:
        """The result has come. Release it now if its turn is now, else when its turn comes."""
        place = ticket.place
        if place is None:
            place = self.join_zero(ticket)
        ticket.is_over = True
        place.pending -= 1
        place.arrived.append(ticket)
        self.idle_turns = 0
        if place.pending:
            return  # nothing can be released before the others of this place have come
        if is_quiet and not self._cancelled and not self.is_waiting and self._next_place() is place:
            self._release(place)
        self.moved()

    async def wait_for_release(self, ticket: Ticket) -> None:
        """Return when the turn of a result has come that is there already."""
        if not ticket.is_over:
            ticket.waiter = asyncio.get_running_loop().create_future()
            waiter = ticket.waiter
            is_alone = ticket.place is None or not ticket.place.arrived
            self.arrive(ticket, is_quiet=is_alone and self.run.gate.is_quiet(self.run))
            if not waiter.done():
                await waiter

    async def wait_for_cancellation(self, ticket: Ticket) -> None:
        """Return when a cancellation that has reached a verb may be raised. A second one meanwhile is the same one."""
        ticket.waiter = Uncancelled(self.run)
        self._cancelled.append(ticket)
        self.idle_turns = 0
        self.moved()
        try:
            await ticket.waiter
        finally:
            if ticket in self._cancelled:  # the run is stopped
                self._cancelled.remove(ticket)

    async def wait_for_frontier(self, name: str) -> None:
        """Return when all that is recorded was released: a step that is not recorded begins then."""
        if self.recorded is not None and self.recorded.is_left:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self.frontier.append((future, name))
            self.moved()
            await future

    def moved(self) -> None:
        """Something happened: soon look what may be released."""
        self.moves += 1
        self.run.gate.want(self)

    def turn(self, is_quiet: bool) -> bool:
        """Release what may be released; true when another turn is wanted."""
        self.idle_turns += 1
        if self.is_waiting:
            return False
        place = None if self._cancelled else self._next_place()
        if place is None and not self._cancelled and not self._may_open_frontier():
            return False
        if not is_quiet and self._turns < MAX_BUSY_TURNS:
            self._turns += 1
            return True
        self._turns = self.idle_turns = 0
        if place is not None:
            self._release(place)
        elif not self._cancelled:
            self._open_frontier()
        else:
            cancelled, self._cancelled = self._cancelled, []
            _release_all(cancelled)
        self.moves += 1
        return True

    @property
    def is_waiting(self) -> bool:
        """Whether a task does something whose end gives this order its next turn."""
        return self.run.is_unwinding or self.run.is_reading or (self.recorded is not None and self.recorded.is_reading)

    @property
    def is_held_up(self) -> bool:
        """Whether the recorded order keeps something from being released."""
        recorded = self.recorded
        if recorded is None:
            return False
        head = self._head()
        return recorded.is_left or (head is not None and not head.pending and not recorded.may_release(head))

    def _head(self) -> Place | None:
        if self._zero is not None:
            return self._zero
        if self.recorded is not None and self.recorded.open:
            return next(iter(self.recorded.open.values()))
        return next(iter(self._places.values()), None)

    def _next_place(self) -> Place | None:
        """The first open place, if it may be released once the run is quiet."""
        while (place := self._head()) is not None and not place.pending:
            if place.has_waiters:
                return place if self.recorded is None or self.recorded.may_release(place) else None
            self._remove(place)  # everybody who waited there was cancelled
        return None

    def _remove(self, place: Place) -> None:
        if place is self._zero:
            self._zero = None
        elif self.recorded is None or self.recorded.open.pop(place.number, None) is None:
            del self._places[place.number]

    def _release(self, place: Place) -> None:
        self._remove(place)
        if place.number:
            self.released = place.number
        _release_all(place.arrived)
        self.run.gate.busy.add(self.run)  # what this batch brings besides waits for its own turn

    def _may_open_frontier(self) -> bool:
        if self.is_held_up:
            self._on_held_up()
        return bool(self.frontier) and self.recorded is not None and not self.recorded.is_left

    def _open_frontier(self) -> None:
        for future, _ in self.frontier:
            if not future.done():
                future.set_result(None)
        self.frontier.clear()


def _release_all(tickets: list[Ticket]) -> None:
    if len(tickets) > 1:
        tickets.sort(key=lambda ticket: ticket.step)
    for ticket in tickets:
        ticket.release()


def _do_nothing() -> None:
    """Nothing is recorded, so nothing is held up."""
