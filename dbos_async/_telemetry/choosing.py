"""Whether a process tells OpenTelemetry what happens: decided once, when `DBOS` is launched or a `DBOSClient` is opened.

If not, nothing of OpenTelemetry is imported, and each verb compares one attribute with ``None``.
"""

from __future__ import annotations

import sys
from importlib.metadata import version
from typing import TYPE_CHECKING

from dbos_async.errors import ConfigurationError

if TYPE_CHECKING:
    from dbos_async._telemetry.telemetry import Telemetry


def find_telemetry(wanted: bool | None) -> Telemetry | None:
    """What is told; ``None`` for nothing. Without a wish it is on if the program has set a provider of OpenTelemetry.

    Raises `ConfigurationError` when it is wanted and OpenTelemetry is not installed.
    """
    if wanted is False or (wanted is None and "opentelemetry" not in sys.modules):
        return None
    try:
        from opentelemetry import metrics, trace

        from dbos_async._telemetry.instruments import instruments_of
        from dbos_async._telemetry.telemetry import Telemetry
    except ImportError as error:
        if wanted is None:
            return None
        raise ConfigurationError(
            f"telemetry=True needs OpenTelemetry ({error}): pip install 'dbos_async[otel]', or leave telemetry= out."
        ) from None
    tracers, meters = trace.get_tracer_provider(), metrics.get_meter_provider()
    tracer = meter = None
    if wanted or not _does_nothing(tracers):
        tracer = trace.get_tracer("dbos_async", version("dbos_async"), tracers)
        tracer = None if isinstance(tracer, trace.NoOpTracer) else tracer  # OTEL_SDK_DISABLED
    if wanted or not _does_nothing(meters):
        meter = metrics.get_meter("dbos_async", version("dbos_async"), meters)
        meter = None if isinstance(meter, metrics.NoOpMeter) else meter
    if tracer is None and meter is None:
        return None
    return Telemetry(tracer, None if meter is None else instruments_of(meters, meter))


def _does_nothing(provider: object) -> bool:
    """Whether this is a provider of the API alone, which is what a program without an SDK has."""
    return type(provider).__module__.startswith(("opentelemetry.trace", "opentelemetry.metrics"))
