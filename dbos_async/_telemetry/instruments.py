"""The instruments of a meter. A meter has each once, however often `DBOS` is launched.

Observable instruments are read by another thread, at each scrape. What would need a query they take from the answer to the last
one, and ask for the next.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Final, Protocol
from weakref import WeakKeyDictionary

from opentelemetry.metrics import CallbackOptions, Counter, Histogram, Meter, MeterProvider, Observation

from dbos_async._telemetry import names

Measurement = tuple[float, Mapping[str, str | bool]]

SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
LONG: Final = (0.01, 0.05, 0.25, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 21600.0, 86400.0)
CALLS: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500)


class Measured(Protocol):
    """What an executor tells when it is asked. Another thread asks."""

    def runs(self) -> Iterable[Measurement]: ...

    def listener_connected(self) -> Iterable[Measurement]: ...

    def lease_seconds_left(self) -> Iterable[Measurement]: ...

    def connections(self) -> Iterable[Measurement]: ...

    def loop_blocked(self) -> Iterable[Measurement]: ...

    def messages_waiting(self) -> Iterable[Measurement]: ...

    def messages_oldest_age(self) -> Iterable[Measurement]: ...

    def messages_rejected(self) -> Iterable[Measurement]: ...

    def workflows(self) -> Iterable[Measurement]: ...


class Operation:
    """A verb of messages with its topic: its labels, and how many messages it has sent and consumed."""

    __slots__ = ("consumed", "labels", "sent")

    def __init__(self, verb: str, topic: str) -> None:
        self.labels: Final[dict[str, str]] = {names.SYSTEM: "dbos_async", names.OPERATION: verb}
        if topic:
            self.labels[names.TOPIC] = topic
        self.sent: int = 0
        self.consumed: int = 0


class Instruments:
    """The instruments of one meter."""

    def __init__(self, meter: Meter) -> None:
        self.measured: list[Measured] = []
        """The launched executors."""
        self.blocked_before: float = 0.0
        """For how many seconds the event loops of those before were blocked."""
        self.topics: Final = names.Labels()
        self._operations: dict[tuple[str, str], Operation] = {}
        self._add_messaging(meter)
        self._add_runs(meter)
        self._add_database(meter)
        for name, unit, description, ask in _GAUGES:
            meter.create_observable_gauge(name, [functools.partial(self._observe, ask)], unit, description)
        meter.create_observable_counter(
            "dbos_async.event_loop.blocked",
            [functools.partial(self._observe, lambda each: each.loop_blocked())],
            "s",
            "For how long code has blocked the event loop, without blocks of less than a second.",
        )

    def _add_messaging(self, meter: Meter) -> None:
        self.operation_duration: Histogram = meter.create_histogram(
            "messaging.client.operation.duration", "s",
            "How long sends, receives, questions and answers took; of a receive the poll that brought the message.",
            explicit_bucket_boundaries_advisory=SECONDS,
        )  # fmt: skip
        # Counted here and read at each scrape: a counter of the SDK takes thirty times as long.
        meter.create_observable_counter(
            "messaging.client.sent.messages", [self._observe_sent], "{message}", "Messages that were sent."
        )
        meter.create_observable_counter(
            "messaging.client.consumed.messages", [self._observe_consumed], "{message}",
            "Messages that workflows have received.",
        )  # fmt: skip
        self.wakeup_latency: Histogram = meter.create_histogram(
            "dbos_async.wakeup.latency", "s", "From the storing of a message to its receipt by a workflow that waited.",
            explicit_bucket_boundaries_advisory=SECONDS,
        )  # fmt: skip

    def _add_runs(self, meter: Meter) -> None:
        self.workflow_duration: Histogram = meter.create_histogram(
            "dbos_async.workflow.duration", "s", "How long runs of workflows took, with their waits.",
            explicit_bucket_boundaries_advisory=LONG,
        )  # fmt: skip
        self.step_duration: Histogram = meter.create_histogram(
            "dbos_async.step.duration", "s", "How long steps took, with all attempts.",
            explicit_bucket_boundaries_advisory=LONG,
        )  # fmt: skip
        self.takeovers: Counter = meter.create_counter(
            "dbos_async.takeovers", "{workflow}", "Workflows that were taken over from an executor that was gone."
        )
        self.parked: Counter = meter.create_counter("dbos_async.parked", "{workflow}", "Workflows that were parked.")

    def _add_database(self, meter: Meter) -> None:
        self.batch_size: Histogram = meter.create_histogram(
            "dbos_async.batch.size", "{call}", "How many calls shared a batch: of one batch in eight.",
            explicit_bucket_boundaries_advisory=CALLS,
        )  # fmt: skip
        self.batch_duration: Histogram = meter.create_histogram(
            "dbos_async.batch.duration", "s", "How long the database took to execute a batch: of one in eight.",
            explicit_bucket_boundaries_advisory=SECONDS,
        )  # fmt: skip

    def operation(self, verb: str, topic: str) -> Operation:
        """What is counted of a verb and a topic."""
        label = self.topics.of(topic) if topic else ""
        found = self._operations.get((verb, label))
        if found is None:
            found = self._operations[verb, label] = Operation(verb, label)
        return found

    def _observe_sent(self, _: CallbackOptions) -> Iterable[Observation]:
        return [Observation(each.sent, each.labels) for each in list(self._operations.values()) if each.sent]

    def _observe_consumed(self, _: CallbackOptions) -> Iterable[Observation]:
        return [Observation(each.consumed, each.labels) for each in list(self._operations.values()) if each.consumed]

    def _observe(self, ask: Callable[[Measured], Iterable[Measurement]], _: CallbackOptions) -> Iterable[Observation]:
        return [Observation(value, labels) for each in list(self.measured) for value, labels in ask(each)]


_GAUGES: Final[tuple[tuple[str, str, str, Callable[[Measured], Iterable[Measurement]]], ...]] = (
    ("dbos_async.runs", "{run}", "Runs of workflows in this process, running or waiting.", lambda each: each.runs()),
    (
        "dbos_async.listener.connected", "1", "Whether changes are heard of: by notifications, or by polls in their place.",
        lambda each: each.listener_connected(),
    ),
    (
        "dbos_async.lease.seconds_left", "s", "For how long the lease lasts if it is not renewed.",
        lambda each: each.lease_seconds_left(),
    ),
    ("dbos_async.connections", "{connection}", "Connections for statements, used or idle.", lambda each: each.connections()),
    (
        "dbos_async.messages.waiting", "{message}", "Messages that wait for live workflows, in the whole database.",
        lambda each: each.messages_waiting(),
    ),
    (
        "dbos_async.messages.oldest_age", "s", "For how long the oldest of those waits.",
        lambda each: each.messages_oldest_age(),
    ),
    (
        "dbos_async.messages.rejected", "{message}", "Messages that their receivers could not read, in the whole database.",
        lambda each: each.messages_rejected(),
    ),
    ("dbos_async.workflows", "{workflow}", "Workflows in the whole database.", lambda each: each.workflows()),
)  # fmt: skip

_of_providers: WeakKeyDictionary[MeterProvider, Instruments] = WeakKeyDictionary()


def instruments_of(provider: MeterProvider, meter: Meter) -> Instruments:
    """The instruments of the meter of this provider."""
    found = _of_providers.get(provider)
    if found is None:
        found = _of_providers[provider] = Instruments(meter)
    return found
