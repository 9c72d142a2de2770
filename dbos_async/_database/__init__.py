"""Postgres: connections, batches of calls, and notifications."""
