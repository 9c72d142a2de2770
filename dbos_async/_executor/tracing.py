"""The trace parent: the only thing of its caller that a run inherits. It is stored with the workflow.

OpenTelemetry is used only if the program itself has imported it. If telemetry is on, a run has a span.
"""

from __future__ import annotations

import sys

from dbos_async._runs.run import WAS_CANCELLED, Run


def trace_parent() -> str | None:
    """The current trace, as the W3C header writes it; ``None`` outside of traces or without OpenTelemetry."""
    if "opentelemetry.trace" not in sys.modules:
        return None
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return carrier.get("traceparent")


def begin(run: Run, parent: str | None, version: str | None, recoveries: int) -> None:
    """Make the current context, which is that of a run, a part of the trace of who started the workflow.

    If telemetry is on that holds for the first run. A later one has a trace of its own, which is linked to that.
    """
    telemetry = run.database.telemetry
    if telemetry is None:
        _attach(parent)
        return
    run.span = telemetry.run(run.name, run.workflow_id, run.count, version, parent, is_first=run.count == 1)
    if recoveries:
        telemetry.took_over(run.name)


def note(run: Run, error: BaseException, outcome: str | None = None) -> None:
    """Note why a run fails, and how that is called if its workflow does not end in ERROR."""
    if run.span is not None:
        run.span.error, run.span.outcome = error, outcome


def end(run: Run, status: str) -> None:
    """A run is over; ``status`` is that of its workflow, unless the run was stopped."""
    if run.span is not None:
        stopped = "CANCELLED" if run.stopped == WAS_CANCELLED else "STOPPED"
        run.span.end(status if run.stopped is None else stopped)


def _attach(parent: str | None) -> None:
    if parent is None or "opentelemetry.trace" not in sys.modules:
        return
    from opentelemetry import context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    context.attach(TraceContextTextMapPropagator().extract({"traceparent": parent}))
