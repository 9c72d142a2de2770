"""The spans of verbs. A replayed verb begins none.

An act has a span from its begin to its end. A receipt is a wait that may take days: its span is made when the wait is over, and
covers the poll that ended it.
"""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Callable, Sequence
from time import perf_counter, time_ns
from typing import Self, TypeVar

from opentelemetry import context as contexts
from opentelemetry.trace import Link, Span, SpanKind, StatusCode

from dbos_async._telemetry.headers import link_to, with_trace
from dbos_async._telemetry.instruments import Operation
from dbos_async._telemetry.names import ERROR_TYPE, MESSAGE_ID, VALUES, error_type
from dbos_async._telemetry.recorder import Recorder, note_fault

T = TypeVar("T")

Attributes = dict[str, str | int | bool]


def fail(span: Span, error: BaseException) -> None:
    """Note in a span that it has ended with this error. To be cancelled, or left by a reader, is no failure."""
    if not isinstance(error, (CancelledError, GeneratorExit)):
        span.record_exception(error)
        span.set_attribute(ERROR_TYPE, error_type(error))
        span.set_status(StatusCode.ERROR, f"{error_type(error)}: {_text(error)}")


def _text(error: BaseException) -> str:
    try:
        return str(error)[:500]
    except Exception:  # the __str__ of a user's class may raise anything
        return ""


class Act:
    """One use of a verb: ``with act:`` around it, and `begin` when it is known to be no replay."""

    __slots__ = ("_attributes", "_began", "_kind", "_links", "_metric", "_name", "_sent", "_telemetry", "span")

    def __init__(
        self,
        telemetry: Recorder,
        name: str,
        attributes: Attributes,
        kind: SpanKind = SpanKind.INTERNAL,
        *,
        links: Sequence[Link] = (),
        metric: Operation | None = None,
        sent: int = 0,
    ) -> None:
        self._telemetry, self._name, self._attributes, self._kind = telemetry, name, attributes, kind
        self._links, self._metric, self._sent = links, metric, sent
        self._began = 0.0
        self.span: Span | None = None

    def begin(self) -> None:
        """Begin the span, as a part of the current one."""
        self._began = perf_counter()
        tracer = self._telemetry.tracer
        if tracer is not None:
            try:
                self.span = tracer.start_span(self._name, None, self._kind, self._attributes, self._links)
            except Exception as fault:
                note_fault(fault)

    def starting(self, make: Callable[[], T]) -> Callable[[], T]:
        """``make``, and before it begin: for a call that is only made if it is no replay."""

        def begin_and_make() -> T:
            self.begin()
            return make()

        return begin_and_make

    def stamp(self, headers: str | None) -> str | None:
        """The headers of a message, with the trace of this act."""
        return headers if self.span is None else with_trace(headers, self.span.get_span_context())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        self.end(error)

    def end(self, error: BaseException | None = None) -> None:
        """End the span, if it was begun and has not ended."""
        if not self._began:
            return
        seconds, self._began = perf_counter() - self._began, 0.0
        try:
            if self.span is not None:
                if error is not None:
                    fail(self.span, error)
                self.span.end()
            if self._metric is not None:
                self._telemetry.operated(self._metric, seconds, error, sent=self._sent)
        except Exception as fault:
            note_fault(fault)


class Receipt:
    """One wait of a workflow whose span is made when it is over."""

    __slots__ = (
        "_age",
        "_attributes",
        "_began",
        "_began_ns",
        "_headers",
        "_is_over",
        "_metric",
        "_name",
        "_telemetry",
        "_waited",
    )

    def __init__(self, telemetry: Recorder, name: str, attributes: Attributes, metric: Operation | None) -> None:
        self._telemetry, self._name, self._attributes, self._metric = telemetry, name, attributes, metric
        self._began, self._began_ns = 0.0, 0
        self._is_over = self._waited = False
        self._headers: object = None
        self._age: float | None = None

    def turn(self, *, waited: bool) -> None:
        """A poll begins, or what a sender of this process has delivered is taken."""
        self._began, self._began_ns, self._waited = perf_counter(), time_ns(), waited

    def took(self, headers: object, age: float | None) -> None:
        """A message was taken: its headers, and for how many seconds it was stored."""
        self._headers, self._age = headers, age

    def found(self) -> None:
        """This run has the result itself, and replays none."""
        self._is_over = True

    def make(self, message_id: object, error: BaseException | None = None, topic: str | None = None) -> None:
        """Make the span, unless the wait was replayed. ``topic`` is that of a message, if it says which of several came."""
        if self._is_over:
            try:
                self._make({} if message_id is None else {MESSAGE_ID: str(message_id)}, error, topic)
            except Exception as fault:
                note_fault(fault)

    def _make(self, brought: Attributes, error: BaseException | None, topic: str | None) -> None:
        telemetry, tracer = self._telemetry, self._telemetry.tracer
        if tracer is not None:
            attributes, links = self._attributes | brought, link_to(self._headers)
            span = tracer.start_span(self._name, None, SpanKind.CLIENT, attributes, links, self._began_ns)
            if error is not None:
                fail(span, error)
            span.end()
        metric = self._metric if topic is None else telemetry.operation("wait_first", topic)
        if metric is not None:
            telemetry.operated(metric, perf_counter() - self._began, error, consumed=1)
            if self._waited and self._age is not None:
                telemetry.woken(self._age)


class Block:
    """One ``async for`` over a stream: its span is made at its end, from the first value that is no replay."""

    __slots__ = ("_attributes", "_began_ns", "_context", "_name", "_telemetry", "_values")

    def __init__(self, telemetry: Recorder, name: str, attributes: Attributes) -> None:
        self._telemetry, self._name, self._attributes = telemetry, name, attributes
        self._context = contexts.get_current()
        self._began_ns = 0
        self._values = 0

    def turn(self, *, waited: bool) -> None:
        """It reads, and does not replay."""
        self._began_ns = self._began_ns or time_ns()

    def found(self) -> None:
        """The next values were read."""

    def add(self, values: int) -> None:
        """So many values are yielded."""
        if self._began_ns:
            self._values += values

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        tracer = self._telemetry.tracer
        if not self._began_ns or tracer is None:
            return
        attributes = self._attributes | {VALUES: self._values}
        try:
            span = tracer.start_span(self._name, self._context, SpanKind.CLIENT, attributes, (), self._began_ns)
            if error is not None:
                fail(span, error)
            span.end()
        except Exception as fault:
            note_fault(fault)
