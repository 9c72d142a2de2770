"""Changed code in running workflows, as a type checker must see it (see surface.py)."""

from __future__ import annotations

from typing import assert_type

from dbos_async import DBOS, DBOSClient, WorkflowCount, WorkflowStatus


async def patched(dbos: DBOS, client: DBOSClient, status: WorkflowStatus) -> None:
    assert_type(DBOS.patched("ask-for-vat"), bool)
    assert_type(dbos.patched(name="ask-for-vat"), bool)
    assert_type(status.patches, tuple[str, ...])
    assert_type(await DBOS.list_workflows(patch="ask-for-vat"), list[WorkflowStatus])
    assert_type(await client.list_workflows(without_patch="ask-for-vat", status="PENDING"), list[WorkflowStatus])
    assert_type(await DBOS.count_workflows(without_patch="ask-for-vat"), list[WorkflowCount])
    assert_type(await client.count_workflows(patch="ask-for-vat"), list[WorkflowCount])
    await DBOS.patched("ask-for-vat")  # type: ignore[misc]  # pyright: ignore[reportGeneralTypeIssues]  # it is a plain bool
    DBOS.patched(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # the name is a text
    DBOS.patched()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]  # it has a name
    client.patched("x")  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]  # a client is no workflow
