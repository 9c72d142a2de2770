"""What OpenTelemetry is told: spans and metrics. Only `choosing` is imported by a program without OpenTelemetry."""
