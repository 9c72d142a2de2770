"""What operators ask, as a type checker must see it (see surface.py)."""

from __future__ import annotations

from datetime import datetime
from typing import assert_type

from dbos_async import (
    DBOS,
    DBOSClient,
    ExecutorStatus,
    Message,
    MessageCount,
    PresentWait,
    WorkflowCount,
    WorkflowDescription,
)


async def operating(client: DBOSClient, now: datetime) -> None:
    assert_type(await DBOS.count_workflows(status=["ERROR"], name="checkout", since=now), list[WorkflowCount])
    assert_type(await client.count_workflows(), list[WorkflowCount])
    assert_type(await DBOS.count_messages(), list[MessageCount])
    assert_type(await client.count_messages(), list[MessageCount])
    assert_type(await DBOS.list_executors(), list[ExecutorStatus])
    assert_type(await client.list_executors(), list[ExecutorStatus])
    described = await DBOS.describe_workflow("w", limit=10, before=None)
    assert_type(described, WorkflowDescription)
    assert_type(described.waits, list[PresentWait])
    assert_type(await client.describe_workflow("w"), WorkflowDescription)
    assert_type(await client.list_messages(status="rejected"), list[Message])
    await DBOS.count_workflows("ERROR")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]  # given by its name only
    await DBOS.describe_workflow()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]  # which one must be said
