"""The span of a run.

No span stays open over a durable wait, which may take days: it ends when the run waits first. What the run does after that is a
part of it all the same, and its end makes a second span, a part of the first, which has the outcome. So a run has one span, or two
if it has waited; the first is exported at once, and lost by no crash; and a run that waits holds no span.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import perf_counter, time_ns
from typing import Any

from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, NonRecordingSpan, Span, SpanContext, Status, StatusCode, Tracer

from dbos_async._telemetry.acts import Attributes, fail
from dbos_async._telemetry.headers import context_of
from dbos_async._telemetry.names import OUTCOME, title
from dbos_async._telemetry.recorder import Recorder, note_fault

WAITING = "WAITING"
"""The outcome of the span of a run that has begun to wait."""


class RunSpan:
    """What is told of one run."""

    __slots__ = ("_attributes", "_began", "_body", "_name", "_telemetry", "error", "outcome")

    def __init__(
        self, telemetry: Recorder, name: str, attributes: Attributes, trace_parent: str | None, *, is_first: bool
    ) -> None:
        self._telemetry, self._name, self._attributes = telemetry, name, attributes
        self._began = perf_counter()
        self.error: BaseException | None = None
        """What the function has raised."""
        self.outcome: str | None = None
        """How the run ends, if that is more than its status."""
        self._body: BodySpan | None = None
        if telemetry.tracer is not None:
            started_by = context_of({"traceparent": trace_parent})
            links = () if started_by is None or is_first else (Link(started_by),)
            inside = Context() if started_by is None or not is_first else _inside(started_by)
            try:
                span = telemetry.tracer.start_span(title("workflow", name), inside, attributes=attributes, links=links)
            except Exception as fault:
                note_fault(fault)
                contexts.attach(inside)
            else:
                self._body = BodySpan(span)
                contexts.attach(trace.set_span_in_context(self._body, Context()))

    def wait(self) -> None:
        """The run waits."""
        if self._body is not None:
            try:
                self._body.leave({OUTCOME: WAITING})
            except Exception as fault:
                note_fault(fault)

    def go_on(self) -> None:
        """The run goes on after a wait."""
        if self._body is not None:
            self._body.resumed_ns = time_ns()

    def end(self, outcome: str) -> None:
        """The run has ended. That is told once."""
        if not self._began:
            return
        seconds, self._began = perf_counter() - self._began, 0.0
        outcome = self.outcome or outcome
        try:
            if self._body is not None and self._telemetry.tracer is not None:
                name = title("workflow", self._name)
                self._body.finish(self._telemetry.tracer, name, self._attributes, outcome, self.error)
            self._telemetry.ran(self._name, outcome, seconds)
        except Exception as fault:
            note_fault(fault)
        self.error = None


class BodySpan(Span):
    """The current span of the body of a workflow. It passes on what it is told as long as the span of the run is open."""

    __slots__ = ("_context", "_span", "resumed_ns")

    def __init__(self, span: Span) -> None:
        self._span: Span | None = span
        self._context = span.get_span_context()
        self.resumed_ns = 0
        """When the run went on last."""

    def leave(self, attributes: Mapping[str, Any]) -> None:
        """End the span."""
        span, self._span = self._span, None
        if span is not None:
            span.set_attributes(attributes)
            span.end()

    def finish(
        self, tracer: Tracer, name: str, attributes: Attributes, outcome: str, error: BaseException | None
    ) -> None:
        """End the span with the outcome, or the second one if the run has waited."""
        span, self._span = self._span, None
        if span is None:
            span = tracer.start_span(name, _inside(self._context), attributes=attributes, start_time=self.resumed_ns)
        span.set_attribute(OUTCOME, outcome)
        if error is not None:
            fail(span, error)
        elif outcome in ("ERROR", "REPLAY_MISMATCH", "MAX_RECOVERY_ATTEMPTS_EXCEEDED"):
            span.set_status(StatusCode.ERROR, outcome)
        span.end()

    def get_span_context(self) -> SpanContext:
        return self._context

    def is_recording(self) -> bool:
        return self._span is not None and self._span.is_recording()

    def _pass_on(self, tell: Callable[[Span], None]) -> None:
        if self._span is not None:
            tell(self._span)

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        self._pass_on(lambda span: span.set_attributes(attributes))

    def set_attribute(self, key: str, value: Any) -> None:
        self._pass_on(lambda span: span.set_attribute(key, value))

    def add_event(self, name: str, attributes: Any = None, timestamp: int | None = None) -> None:
        self._pass_on(lambda span: span.add_event(name, attributes, timestamp))

    def add_link(self, context: SpanContext, attributes: Any = None) -> None:
        self._pass_on(lambda span: span.add_link(context, attributes))

    def update_name(self, name: str) -> None:
        self._pass_on(lambda span: span.update_name(name))

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        self._pass_on(lambda span: span.set_status(status, description))

    def record_exception(
        self, exception: BaseException, attributes: Any = None, timestamp: int | None = None, escaped: bool = False
    ) -> None:
        self._pass_on(lambda span: span.record_exception(exception, attributes, timestamp, escaped))

    def end(self, end_time: int | None = None) -> None:
        """The run ends its span itself."""


def _inside(parent: SpanContext) -> Context:
    return trace.set_span_in_context(NonRecordingSpan(parent), Context())
