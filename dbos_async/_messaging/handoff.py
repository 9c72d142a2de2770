"""Hand-off: a sender gives its message to a receiver that waits in the same process. Without this file all is slower, nothing else.

The statement of such a send also completes the receiver's step, unless an older message waits or the step has taken another
one meanwhile: the step's row decides. So a round trip between two workflows of one process takes two commits instead of six.

Three parts belong together:

hand-off           a receiver that waits makes an offer, and a sender takes it up (decision 30)
grace period       after a hand-off the queue is known to be empty, as after one message for a receive that waited, and the next
                   receive waits a moment before its first poll: the answer to what was sent then may be just coming
                   (decision 32)
no announcement    a message to a workflow that runs in the sender's process is not announced: no other process waits for it
                   (decision 31)
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from dbos_async._database.calls import Call, Observer, Result, Row
from dbos_async._database.database import Database
from dbos_async._database.news import HandedNews
from dbos_async._database.wakeups import LocalUpdate, Subscription, now
from dbos_async._runs.order import Ticket
from dbos_async._runs.run import Run
from dbos_async._runs.step import Step
from dbos_async._runs.step_result import StepResult
from dbos_async._serialization.values import encode_value
from dbos_async.errors import DatabaseUnavailableError, InvalidValueError

if TYPE_CHECKING:
    from dbos_async._telemetry.acts import Receipt

HANDOFF_SECONDS = 0.1
GRACE_SECONDS = 0.003
MIN_TIMEOUT_SECONDS = 1.0
"""A receive with a shorter time limit has no grace period."""

NO_RECEIVER = None, None, None, None


class Receive(Observer):
    """What the calls of one receive have taken, so that an abandoned receive can put it back."""

    __slots__ = ("message_id", "receipt")

    def __init__(self, receipt: Receipt | None = None) -> None:
        self.receipt = receipt
        """What telemetry is told of it."""
        self.message_id: UUID | None = None
        """The message that the step has, or may have."""

    def on_result(self, call: Call, result: Result) -> None:
        if result[0]["outcome"] in ("done", "recorded"):
            self.message_id = result[0]["message_id"]
            if self.receipt is not None:
                self.receipt.took(result[0].get("headers"), result[0].get("age"))


class Offer(Receive):
    """A receive that waits, as the senders of its process see it: the `Shortcut` of its wait."""

    __slots__ = (
        "_empty_since", "_hopes", "_sent_at", "_step", "_wakes_before",
        "_was_empty", "handoff", "has_grace", "keys",
    )  # fmt: skip

    def __init__(
        self, step: Step, keys: Sequence[bytes], timeout_seconds: float | None, receipt: Receipt | None = None
    ) -> None:
        super().__init__(receipt)
        self._step = step
        self.keys = keys
        """The queues of which it takes a message from a sender."""
        self.handoff: Handoff | None = None
        """The send under way that may deliver the message."""
        may_wait = timeout_seconds is None or timeout_seconds >= MIN_TIMEOUT_SECONDS
        known_empty = [queue for key in keys if isinstance(queue := step.run.remove_listener(key), _EmptyQueue)]
        self.has_grace = may_wait and bool(known_empty)
        self._empty_since = max([queue.since for queue in known_empty], default=0.0)
        self._sent_at = float("-inf")
        """When the message was sent that a poll has found, by the clock of the event loop."""
        self._hopes = False
        self._was_empty = False
        """Whether nothing was in its queues after the wake-ups before."""
        self._wakes_before = 0

    def on_result(self, call: Call, result: Result) -> None:
        super().on_result(call, result)
        age = result[0].get("age")
        if age is not None:
            self._sent_at = now() - age

    @property
    def step_columns(self) -> tuple[int, str, int]:
        """The receiver's step: its fence and its number."""
        return self._step.run.attempt, *self._step.id

    def columns(self, key: bytes) -> Row:
        """What the statement of a sender to this queue must know of the receiver, but for the place."""
        return self.step_columns

    def delivery(self, result: Result, payload: str) -> str:
        """The output of the receiver's step, when the statement of the sender has recorded it."""
        return payload

    def make_ticket(self) -> Ticket:
        """The ticket of a hand-off to this receive."""
        step = self._step
        ticket = step.handed = Ticket(step.run, step.id, step.asked_after)
        if step.ticket is not None:
            step.ticket.rival = ticket
        return ticket

    def accept(self, update: LocalUpdate) -> LocalUpdate | None:
        """What to deliver of news that a sender of another process has completed this very step; ``None``: poll instead."""
        news, step = update.value, self._step
        if not isinstance(news, HandedNews) or self.handoff is not None or step.branch:
            return None
        if (news.attempt, news.number) != (step.run.attempt, step.number):
            return None
        if step.run.order is not None and step.run.order.is_concurrent:
            return None  # its place is to be recorded
        self.message_id = news.message_id
        message = news.payload, news.message_id, self.make_ticket(), news.key, news.headers
        return LocalUpdate(message, update.size)

    def delivered(self, subscription: Subscription) -> StepResult | None:
        """The message that a sender has delivered."""
        subscription.offer = None
        for output, message_id, ticket, key, headers in subscription.take_updates():
            if not subscription.changed:
                self._mark_empty(key)
            if self.receipt is not None:
                self.receipt.took(headers, None)
            self._step.ticket = ticket
            return self._step.result(output, None, message_id)
        return None

    def postpone(self, subscription: Subscription) -> bool:
        """Wait for a send under way, or for the grace period, before the poll."""
        if self.handoff is not None and not self._hopes:
            self._hopes = True
            subscription.poll_within(HANDOFF_SECONDS)
            return True
        if self.has_grace:
            self.has_grace, self._was_empty = False, True
            self._wakes_before = subscription.wakes
            subscription.offer = self
            subscription.poll_within(GRACE_SECONDS)
            return True
        self._hopes = False
        if not self._was_empty:
            self._wakes_before = subscription.wakes
        return False

    def waits(self, subscription: Subscription) -> None:
        """Make the offer: the step is recorded as waiting, and the queue was empty."""
        self._was_empty, self._empty_since = True, float("-inf")
        if self.handoff is None:  # one at a time, or an abandoned receive could not withdraw all of them
            subscription.offer = self

    def found(self, subscription: Subscription, result: StepResult) -> None:
        """The queue is empty again if nothing was there before, and one wake-up brought one message.

        A wake-up may bring several. Then the queue counts as empty once, and the next one found is older than that.
        """
        is_alone = (
            self._was_empty and subscription.wakes == self._wakes_before + 1 and self._sent_at >= self._empty_since
        )
        if is_alone and result.message_id is not None:
            key = self.key_of(result)
            if key is not None:
                self._mark_empty(key)

    def key_of(self, result: StepResult) -> bytes | None:
        """The queue whose message a poll has found; ``None`` if senders of this process hand over nothing there."""
        return self.keys[0]

    def may_have(self, message_id: UUID) -> None:
        """Note a message that was perhaps delivered, for lack of one that was."""
        if self.message_id is None:
            self.message_id = message_id

    async def withdraw(self) -> None:
        """Return when no send can deliver a message to this receive any more."""
        call = None if self.handoff is None else self.handoff.call
        if self.handoff is not None and call is not None:
            call.rows = self.handoff.rows_alone  # for a call that has not left yet
            await self._step.run.database.batches.flush(call.partition)

    def _mark_empty(self, key: bytes) -> None:
        self._step.run.add_listener(key, _EmptyQueue(self._step.run, key))


_WON: Final = re.compile(r'\{"index" ?: ?(\d+), ?"value" ?: ?')


def index_of(output: str) -> int:
    """Which of several waits has won, by the output of the step."""
    found = _WON.match(output)
    if found is None:
        raise InvalidValueError("The recorded result of wait_first", "it names no winner")
    return int(found[1])


def value_of(output: str) -> str | None:
    """What it has brought; ``None`` for nothing."""
    found = _WON.match(output)
    value = None if found is None else output[found.end() : -1]
    return None if value == "null" else value


class OfferOfSeveral(Offer):
    """The offer of a wait for the first of several: for the topics before which nothing but topics comes."""

    __slots__ = ("_keys_in_order", "_topics")

    def __init__(
        self,
        step: Step,
        topics: Sequence[str],
        keys: Sequence[bytes],
        timeout_seconds: float | None,
        receipt: Receipt | None = None,
    ) -> None:
        self._topics, self._keys_in_order = topics, keys
        keys = keys if len(set(keys)) == len(keys) else list(dict.fromkeys(keys))
        super().__init__(step, keys, timeout_seconds, receipt)

    def columns(self, key: bytes) -> Row:
        index = self._keys_in_order.index(key)
        return *self.step_columns, self._step.key, index, encode_value(self._topics[: index + 1])

    def delivery(self, result: Result, payload: str) -> str:
        output: str = result[0]["delivered_output"]
        return output

    def key_of(self, result: StepResult) -> bytes | None:
        index = index_of(result.output or "")
        return self._keys_in_order[index] if index < len(self._keys_in_order) else None


class _EmptyQueue:
    """Remembers that a queue is empty, until a message is announced or the run is over."""

    __slots__ = ("_key", "_run", "since")

    def __init__(self, run: Run, key: bytes) -> None:
        self._run, self._key, self.since = run, key, now()

    def changed(self) -> None:
        self._run.remove_listener(self._key)


class Handoff(Observer):
    """A send that takes up an offer. A send that is repeated because its result was lost delivers nothing."""

    __slots__ = (
        "_headers", "_key", "_message_id", "_offer", "_payload",
        "_subscription", "_ticket", "call", "rows", "rows_alone",
    )  # fmt: skip

    def __init__(
        self,
        subscription: Subscription,
        columns: Row,
        message_id: UUID,
        payload: str,
        headers: str | None,
        key: bytes,
    ) -> None:
        offer: Offer = subscription.offer
        subscription.offer = None
        offer.handoff = self
        receiver = offer.columns(key)
        self.call: Call | None = None
        """The call that this observes, until it has ended."""
        self.rows: Sequence[Row] = [(*columns, *receiver, None)]
        self.rows_alone: Sequence[Row] = [(*columns, *[None] * len(receiver), None)]
        self._subscription, self._offer = subscription, offer
        self._message_id, self._payload, self._headers, self._key = message_id, payload, headers, key
        self._ticket = offer.make_ticket()

    def on_departure(self, call: Call, departure: int) -> None:
        if call.rows is self.rows:
            self._ticket.depart(departure)
            (row,) = self.rows
            self.rows = call.rows = [(*row[:-1], self._ticket.number)]

    def on_result(self, call: Call, result: Result) -> None:
        self._end()
        offer = self._offer
        if result[0]["delivered"]:
            offer.message_id = self._message_id
            call.wakes = ()  # nobody needs to poll for this message
            output = offer.delivery(result, self._payload)
            update = output, self._message_id, self._ticket, self._key, self._headers
            self._subscription.deliver(LocalUpdate(update, len(output)))
            return
        if call.was_sent:
            self._ticket.is_lost = True
        else:
            self._ticket.void()
        offer.may_have(self._message_id)  # an earlier execution, whose result was lost, may have delivered it

    def on_failure(self, error: BaseException | None) -> None:
        # A sender that was cancelled or has given up leaves a call behind that the server may still commit.
        if isinstance(error, DatabaseUnavailableError):
            self._offer.may_have(self._message_id)
        elif error is not None:
            self._end()
            self._ticket.is_lost = True
            self._subscription.wake()
        elif not self._ticket.departure:
            self._ticket.void()

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
        if subscription.offer is not None and key in subscription.offer.keys:
            return subscription
    return None


def executor_without_announcement(database: Database, connection: Any) -> str | None:
    """The executor to whose workflows a message need not be announced: that of this process.

    A message in the user's transaction is announced to all executors (``""``): nobody is woken before the commit, and who runs
    the receiver then is not known.
    """
    return "" if connection is not None else database.local_executor_id
