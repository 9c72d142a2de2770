"""The SDK of OpenTelemetry with exporters in memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter


class Exported:
    """What was exported so far."""

    def __init__(self) -> None:
        self._spans, self._reader = InMemorySpanExporter(), InMemoryMetricReader()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self._spans))
        self.meters = MeterProvider([self._reader])

    def forget(self) -> None:
        """Forget the spans."""
        self._spans.clear()

    def spans(self, name: str | None = None) -> list[ReadableSpan]:
        """The spans that have ended, in the order of their ends; those of a name."""
        return [span for span in self._spans.get_finished_spans() if name in (None, span.name)]

    def names(self) -> list[str]:
        """The names of all spans that have ended."""
        return [span.name for span in self.spans()]

    def one(self, name: str) -> ReadableSpan:
        """The only span of this name."""
        (span,) = self.spans(name)
        return span

    def points(self, name: str) -> list[Any]:
        """The data points of a metric at this moment."""
        data = self._reader.get_metrics_data()
        return [
            point
            for resource in ([] if data is None else data.resource_metrics)
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
            for point in metric.data.data_points
        ]

    def value(self, name: str, **labels: Any) -> Any:
        """The value of a metric, or the count of a histogram, of the one data point that has these labels."""
        wanted = {label.replace("__", "."): value for label, value in labels.items()}
        found = [point for point in self.points(name) if wanted.items() <= dict(point.attributes).items()]
        assert len(found) <= 1, found
        return None if not found else getattr(found[0], "value", None) if hasattr(found[0], "value") else found[0].count


@contextmanager
def exporting(monkeypatch: pytest.MonkeyPatch) -> Iterator[Exported]:
    """Let the process have these providers for the time of a test: the API itself takes one provider in the life of a process."""
    exported = Exported()
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", exported.tracers)
    monkeypatch.setattr(metrics._internal, "_METER_PROVIDER", exported.meters)
    yield exported
    exported.tracers.shutdown()
    exported.meters.shutdown()


def attributes(span: ReadableSpan) -> dict[str, Any]:
    """The attributes of a span."""
    return dict(span.attributes or {})


def parent_of(span: ReadableSpan) -> int | None:
    """The id of the span that this one is a part of."""
    return None if span.parent is None else span.parent.span_id


def id_of(span: ReadableSpan) -> int:
    """The id of a span."""
    context = span.get_span_context()
    assert context is not None
    return context.span_id


def trace_of(span: ReadableSpan) -> int:
    """The id of the trace of a span."""
    context = span.get_span_context()
    assert context is not None
    return context.trace_id


def links_of(span: ReadableSpan) -> list[int]:
    """The ids of the spans that this one is linked to."""
    return [link.context.span_id for link in span.links]
