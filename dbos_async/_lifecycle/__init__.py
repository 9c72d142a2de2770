"""From launch to shutdown: opening, leases, periodic work, signals."""
