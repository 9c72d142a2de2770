"""The tracer and the instruments of a process, and what is told to the instruments."""

from __future__ import annotations

import logging
import time
from collections import Counter
from typing import Final

from opentelemetry.trace import Tracer

from dbos_async._telemetry import names
from dbos_async._telemetry.instruments import Instruments, Operation
from dbos_async._telemetry.names import Labels, error_type

PARKED: Final = ("REPLAY_MISMATCH", "MAX_RECOVERY_ATTEMPTS_EXCEEDED")

TELL_ONE_IN: Final = 8

LOG_EVERY_SECONDS: Final = 60.0

log = logging.getLogger("dbos_async")
_log_at = float("-inf")


def note_fault(error: Exception) -> None:
    """Log that a provider, a sampler or a processor has raised, at most once a minute. No act may fail by being told of."""
    global _log_at
    now = time.monotonic()
    if now >= _log_at:
        _log_at = now + LOG_EVERY_SECONDS
        log.error("OpenTelemetry failed, and is not told of everything.", exc_info=error)


class Recorder:
    """The tracer and the instruments of a process, of which one may be missing."""

    def __init__(self, tracer: Tracer | None, instruments: Instruments | None) -> None:
        self.tracer: Final = tracer
        self.instruments: Final = instruments
        self.workflow_names: Final = Labels()
        self._batches: Counter[str] = Counter()

    def operated(
        self, operation: Operation, seconds: float, error: BaseException | None, *, sent: int = 0, consumed: int = 0
    ) -> None:
        """A verb of messages has sent or consumed some."""
        if self.instruments is not None:
            labels = operation.labels if error is None else operation.labels | error_labels(error)
            self.instruments.operation_duration.record(seconds, labels)
            operation.sent += sent if error is None else 0
            operation.consumed += consumed

    def woken(self, seconds: float) -> None:
        """A waiting workflow has received a message that was stored for so long."""
        if self.instruments is not None:
            self.instruments.wakeup_latency.record(seconds)

    def ran(self, name: str, outcome: str, seconds: float) -> None:
        """A run has ended."""
        if self.instruments is not None:
            labels = {names.WORKFLOW_NAME: name, names.OUTCOME: outcome}
            self.instruments.workflow_duration.record(seconds, labels)
            if outcome in PARKED:
                self.instruments.parked.add(1, labels)

    def took_over(self, name: str) -> None:
        """A workflow was taken over from an executor that is gone."""
        if self.instruments is not None:
            self.instruments.takeovers.add(1, {names.WORKFLOW_NAME: name})

    def batch(self, statement: str, calls: int, seconds: float) -> None:
        """A batch was executed. One in eight of a statement is told: to record takes a tenth of the time of a small batch."""
        count = self._batches[statement]
        self._batches[statement] = count + 1
        if self.instruments is not None and count % TELL_ONE_IN == 0:
            labels = {names.STATEMENT: statement}
            self.instruments.batch_size.record(calls, labels)
            self.instruments.batch_duration.record(seconds, labels)

    def operation(self, verb: str, topic: str) -> Operation | None:
        """What is counted of a verb of messages."""
        return None if self.instruments is None else self.instruments.operation(verb, topic)


def error_labels(error: BaseException | None) -> dict[str, str]:
    """The label of an error."""
    return {} if error is None else {names.ERROR_TYPE: error_type(error)}
