"""What OpenTelemetry is told: spans, metrics, and nothing when it is off."""
