"""The trace in the headers of a message: as W3C writes it, beside the headers of the user."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.trace import Link, SpanContext, TraceFlags
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

TRACE_PARENT: Final = "traceparent"
TRACE_STATE: Final = "tracestate"

_propagator: Final = TraceContextTextMapPropagator()

_OURS: Final = re.compile("00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
"""As this release writes it, which takes a tenth of the time to read."""


def with_trace(headers: str | None, context: SpanContext) -> str | None:
    """The headers of a message as JSON, with its trace. A trace that the user has named stays."""
    if not context.is_valid:
        return headers
    own = {TRACE_PARENT: f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"}
    if context.trace_state:
        own[TRACE_STATE] = context.trace_state.to_header()
    if headers is None:
        return json.dumps(own)
    given: dict[str, str] = json.loads(headers)
    if any(name.lower() in (TRACE_PARENT, TRACE_STATE) for name in given):
        return headers
    return json.dumps(given | own)


def context_of(headers: object) -> SpanContext | None:
    """The trace that the headers name, which may be JSON; ``None`` for none. Headers of other programs may be anything."""
    try:
        given: Any = json.loads(headers) if isinstance(headers, str) else headers
    except ValueError:
        return None
    if not isinstance(given, Mapping):
        return None
    carrier = {str(name).lower(): value for name, value in given.items() if isinstance(value, str)}
    parent = carrier.get(TRACE_PARENT)
    if parent is None:
        return None
    if TRACE_STATE not in carrier and (ours := _OURS.fullmatch(parent)) is not None:
        trace_id, span_id, flags = ours.groups()
        found = SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=TraceFlags(int(flags, 16)))
        return found if found.is_valid else None
    found = trace.get_current_span(_propagator.extract(carrier, context=_nothing)).get_span_context()
    return found if found.is_valid else None


def link_to(headers: object) -> Sequence[Link]:
    """A link to the trace that the headers name, if they name one."""
    found = context_of(headers)
    return () if found is None else (Link(found),)


_nothing: Final = trace.set_span_in_context(trace.INVALID_SPAN)
