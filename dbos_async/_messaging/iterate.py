"""Receiving one message after the other: every turn of the loop is one receive."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

from dbos_async._checks import check_loop, check_seconds
from dbos_async._database.database import Database
from dbos_async._messaging import recv
from dbos_async._runs.context import calling_context, in_workflow
from dbos_async.envelope import Envelope
from dbos_async.keys import Topic, topic_and_type


def messages(
    database: Database, topic: str | Topic[Any] | None, timeout_seconds: float | None
) -> AsyncGenerator[Envelope[Any], None]:
    """Yield the messages of the topic in their envelopes, until none came for so long."""
    topic_and_type(topic)
    return _messages(database, topic, check_seconds(timeout_seconds))


async def _messages(
    database: Database, topic: str | Topic[Any] | None, seconds: float | None
) -> AsyncGenerator[Envelope[Any], None]:
    check_loop(
        database.loop, "These messages are received in another event loop: call messages in that of the workflow."
    )
    in_workflow(calling_context(database), "messages")
    while (envelope := await recv.recv_envelope(database, topic, seconds)) is not None:
        yield envelope
