"""The trace parent: the only thing of its caller that a run inherits. It is stored with the workflow.

OpenTelemetry is used only if the program itself has imported it.
"""

from __future__ import annotations

import sys


def trace_parent() -> str | None:
    """The current trace, as the W3C header writes it; ``None`` outside of traces or without OpenTelemetry."""
    if "opentelemetry.trace" not in sys.modules:
        return None
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return carrier.get("traceparent")


def attach(parent: str | None) -> None:
    """Make the current context a part of that trace."""
    if parent is None or "opentelemetry.trace" not in sys.modules:
        return
    from opentelemetry import context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    context.attach(TraceContextTextMapPropagator().extract({"traceparent": parent}))
