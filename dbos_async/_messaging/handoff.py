"""Hand-off: a sender gives its message to a receiver that waits in the same process. Without this file all is slower, nothing else.

The statement of such a send also completes the receiver's step, unless an older message waits or the step has taken another
one meanwhile: the step's row decides. So a round trip between two workflows of one process takes two commits instead of six.

Three parts belong together:

hand-off           a receiver that waits makes an offer, and a sender takes it up (decision 30)
grace period       after a hand-off the queue is known to be empty, and the next receive waits a moment before its first poll: the
                   answer to what was sent then may be just coming (decision 32)
no announcement    a message to a workflow that runs in the sender's process is not announced: no other process waits for it
                   (decision 31)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from dbos_async._database.calls import Call, Observer, Result, Row
from dbos_async._database.database import Database
from dbos_async._database.wakeups import LocalUpdate, Subscription
from dbos_async._runs.run import Run
from dbos_async._runs.step import Step, StepResult

HANDOFF_SECONDS = 0.1
GRACE_SECONDS = 0.003
MIN_TIMEOUT_SECONDS = 1.0
"""A receive with a shorter time limit has no grace period."""

NO_RECEIVER = None, None, None


class Receive(Observer):
    """What the calls of one receive have taken, so that an abandoned receive can put it back."""

    __slots__ = ("message_id",)

    def __init__(self) -> None:
        self.message_id: UUID | None = None
        """The message that the step has, or may have."""

    def on_result(self, call: Call, result: Result) -> None:
        if result[0]["outcome"] in ("done", "recorded"):
            self.message_id = result[0]["message_id"]


class Offer(Receive):
    """A receive that waits, as the senders of its process see it: the `Shortcut` of its wait."""

    __slots__ = ("_hopes", "_key", "_step", "_waits", "_wakes_before", "handoff", "has_grace")

    def __init__(self, step: Step, key: bytes, timeout_seconds: float | None) -> None:
        super().__init__()
        self._step, self._key = step, key
        self.handoff: Handoff | None = None
        """The send under way that may deliver the message."""
        may_wait = timeout_seconds is None or timeout_seconds >= MIN_TIMEOUT_SECONDS
        self.has_grace = may_wait and step.run.remove_listener(key)
        self._hopes = self._waits = False
        self._wakes_before = 0

    @property
    def columns(self) -> tuple[int, str, int]:
        """The receiver's step: its fence and its number."""
        return self._step.run.attempt, self._step.branch, self._step.number

    def delivered(self, subscription: Subscription) -> StepResult | None:
        """The message that a sender has delivered."""
        subscription.offer = None
        for payload, message_id in subscription.take_updates():
            if not subscription.changed:
                self._mark_empty()
            return self._step.result(payload, None, message_id)
        return None

    def postpone(self, subscription: Subscription) -> bool:
        """Wait for a send under way, or for the grace period, before the poll."""
        if self.handoff is not None and not self._hopes:
            self._hopes = True
            subscription.poll_within(HANDOFF_SECONDS)
            return True
        if self.has_grace:
            self.has_grace = False
            subscription.offer = self
            subscription.poll_within(GRACE_SECONDS)
            return True
        self._hopes = False
        if not self._waits:
            self._wakes_before = subscription.wakes
        return False

    def waits(self, subscription: Subscription) -> None:
        """Make the offer: the step is recorded as waiting, and the queue was empty."""
        self._waits = True
        subscription.offer = self

    def found(self, subscription: Subscription) -> None:
        """The queue is empty again if nothing was there before, and one wake-up brought one message."""
        if self._waits and subscription.wakes <= self._wakes_before + 1:
            self._mark_empty()

    async def withdraw(self) -> None:
        """Return when no send can deliver a message to this receive any more."""
        call = None if self.handoff is None else self.handoff.call
        if self.handoff is not None and call is not None:
            call.rows = self.handoff.rows_alone  # for a call that has not left yet
            await self._step.run.database.batches.flush(call.partition)

    def _mark_empty(self) -> None:
        self._step.run.add_listener(self._key, _EmptyQueue(self._step.run, self._key))


class _EmptyQueue:
    """Remembers that a queue is empty, until a message is announced or the run is over."""

    __slots__ = ("_key", "_run")

    def __init__(self, run: Run, key: bytes) -> None:
        self._run, self._key = run, key

    def changed(self) -> None:
        self._run.remove_listener(self._key)


class Handoff(Observer):
    """A send that takes up an offer. A send that is repeated because its result was lost delivers nothing."""

    __slots__ = ("_message_id", "_offer", "_subscription", "_update", "call", "rows", "rows_alone")

    def __init__(self, subscription: Subscription, columns: Row, message_id: UUID, payload: str) -> None:
        offer: Offer = subscription.offer
        subscription.offer = None
        offer.handoff = self
        self.call: Call | None = None
        """The call that this observes, until it has ended."""
        self.rows: Sequence[Row] = [(*columns, *offer.columns)]
        self.rows_alone: Sequence[Row] = [(*columns, *NO_RECEIVER)]
        self._subscription, self._offer, self._message_id = subscription, offer, message_id
        self._update = LocalUpdate((payload, message_id), len(payload))

    def on_result(self, call: Call, result: Result) -> None:
        self._end()
        offer = self._offer
        if result[0]["delivered"]:
            offer.message_id = self._message_id
            call.wakes = ()  # nobody needs to poll for this message
            self._subscription.wake(self._update)
        elif offer.message_id is None:
            offer.message_id = self._message_id  # an earlier execution, whose result was lost, may have delivered it

    def on_failure(self, error: BaseException | None) -> None:
        if error is not None:
            self._end()

    def on_lost_result(self, call: Call) -> None:
        # The receiver's step may have the message by now, or another one.
        call.rows = self.rows_alone

    def _end(self) -> None:
        self.call = None
        if self._offer.handoff is self:
            self._offer.handoff = None


def find_offer(database: Database, key: bytes) -> Subscription | None:
    """The subscription of a receiver that waits in this process behind the key and has made an offer, if there is one."""
    for subscription in database.wakeups.subscriptions(key):
        if subscription.offer is not None:
            return subscription
    return None


def executor_without_announcement(database: Database, connection: Any) -> str | None:
    """The executor to whose workflows a message need not be announced: that of this process.

    A message in the user's transaction is always announced: nobody is woken before the commit.
    """
    return None if connection is not None else database.local_executor_id
