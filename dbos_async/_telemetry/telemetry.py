"""What the rest of the package tells OpenTelemetry. This layer knows names and times, and nothing of runs or messages."""

from __future__ import annotations

from collections.abc import Awaitable
from time import perf_counter
from typing import Protocol, TypeVar

from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind

from dbos_async._telemetry import names
from dbos_async._telemetry.acts import Act, Attributes, Block, Receipt, fail
from dbos_async._telemetry.headers import link_to
from dbos_async._telemetry.names import title
from dbos_async._telemetry.recorder import Recorder, error_labels, note_fault
from dbos_async._telemetry.run_span import RunSpan

T = TypeVar("T")


class InWorkflow(Protocol):
    """A run."""

    workflow_id: str


class Caller(Protocol):
    """A step, or the inside of one."""

    @property
    def run(self) -> InWorkflow: ...

    @property
    def path(self) -> str: ...


class StepUnderWay(Caller, Protocol):
    """A step of a function of the user."""

    @property
    def attempts(self) -> int: ...


class Telemetry(Recorder):
    """The tracer and the instruments of a process, of which one may be missing."""

    def run(
        self,
        name: str,
        workflow_id: str,
        attempt: int,
        version: str | None,
        trace_parent: str | None,
        *,
        is_first: bool,
    ) -> RunSpan:
        """Begin what is told of a run, and make its span the current one."""
        attributes: Attributes = {names.WORKFLOW_ID: workflow_id, names.WORKFLOW_NAME: name, names.ATTEMPT: attempt}
        if version is not None:
            attributes[names.VERSION] = version
        return RunSpan(self, name, attributes, trace_parent, is_first=is_first)

    async def in_step(self, step: StepUnderWay, name: str, work: Awaitable[T]) -> T:
        """Do the work of a step, inside its span."""
        span = self._begin_step(step, name)
        token = None if span is None else contexts.attach(trace.set_span_in_context(span))
        began, error = perf_counter(), None
        try:
            return await work
        except BaseException as raised:
            error = raised
            raise
        finally:
            if token is not None:
                contexts.detach(token)
            self._end_step(step, name, span, perf_counter() - began, error)
            error = None  # a reference cycle else

    def _begin_step(self, step: StepUnderWay, name: str) -> Span | None:
        if self.tracer is None:
            return None
        try:
            return self.tracer.start_span(title("step", name), attributes=_of(step) | {names.STEP_NAME: name})
        except Exception as fault:
            note_fault(fault)
            return None

    def _end_step(
        self, step: StepUnderWay, name: str, span: Span | None, seconds: float, error: BaseException | None
    ) -> None:
        try:
            if span is not None:
                span.set_attribute(names.STEP_ATTEMPTS, step.attempts)
                if error is not None:
                    fail(span, error)
                span.end()
            if self.instruments is not None:
                self.instruments.step_duration.record(seconds, {names.STEP_NAME: name} | error_labels(error))
        except Exception as fault:
            note_fault(fault)

    def send(
        self,
        verb: str,
        topic: str,
        caller: Caller | None,
        *,
        count: int = 1,
        to: str | None = None,
        message_id: str | None = None,
    ) -> Act:
        """A send of one message, or of several."""
        attributes = _messaging(verb, "send", topic, caller)
        if to is not None:
            attributes[names.DESTINATION_ID] = to
        if message_id is not None:
            attributes[names.MESSAGE_ID] = message_id
        if count > 1:
            attributes[names.MESSAGE_COUNT] = count
        span_name = title("ask" if verb == "ask" else "send", topic)
        metric = self.operation(verb, topic)
        return Act(self, span_name, attributes, SpanKind.PRODUCER, metric=metric, sent=count)

    def answer(self, verb: str, topic: str | None, caller: Caller, message_id: str, headers: object) -> Act:
        """An answer to a question, or a refusal."""
        attributes = _messaging(verb, "send", topic or "", caller) | {names.MESSAGE_ID: message_id}
        metric, links = self.operation(verb, topic or ""), link_to(headers)
        return Act(self, title("answer", topic), attributes, SpanKind.PRODUCER, links=links, metric=metric)

    def receive(self, verb: str, topic: str, caller: Caller) -> Receipt:
        """A receive."""
        attributes = _messaging(verb, "receive", topic, caller)
        return Receipt(self, title("receive", topic), attributes, self.operation(verb, topic))

    def first(self, caller: Caller) -> Receipt:
        """A wait for the first of several."""
        return Receipt(self, "wait_first", _of(caller), None)

    def set_event(self, key: str, caller: Caller) -> Act:
        """A value of an event."""
        return Act(self, "set_event", _of(caller) | {names.EVENT: key})

    def write_stream(self, key: str, caller: Caller) -> Act:
        """Values for a stream."""
        return Act(self, "write_stream", _of(caller) | {names.STREAM: key})

    def read_stream(self, workflow_id: str, key: str, caller: InWorkflow | None) -> Block:
        """A block that reads a stream."""
        attributes: Attributes = {names.STREAM: key, names.STREAM_OF: workflow_id}
        if caller is not None:
            attributes[names.WORKFLOW_ID] = caller.workflow_id
        return Block(self, "read_stream", attributes)


def _of(caller: Caller | None) -> Attributes:
    return {} if caller is None else {names.WORKFLOW_ID: caller.run.workflow_id, names.PATH: caller.path}


def _messaging(verb: str, kind: str, topic: str, caller: Caller | None) -> Attributes:
    attributes: Attributes = {names.SYSTEM: "dbos_async", names.OPERATION: verb, names.OPERATION_TYPE: kind}
    if topic:
        attributes[names.TOPIC] = topic
    if caller is not None:
        attributes[names.WORKFLOW_ID], attributes[names.PATH] = caller.run.workflow_id, caller.path
    return attributes
