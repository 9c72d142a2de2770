"""Families of workflows made by hand: rows that name their parents, and how they stand."""

from __future__ import annotations

from typing import Any

from dbos_async import DBOS, SetWorkflowID

WITH_END = "SUCCESS", "ERROR", "CANCELLED"

INSERT = """
    insert into dbos_async.workflows (id, name, input, start_id, attempt, status, parent_id, ended_at, forked_from, due_at)
    values ($1, 'nobody knows it', '{}', gen_random_uuid(), 0, $2, $3, case when $4 then now() end, $5,
            case when $2 = 'DELAYED' then now() + interval '1 hour' end)
"""

KINDS = {
    "root": ("PENDING", None),
    "child": ("PENDING", "root"),
    "ended": ("SUCCESS", "root"),
    "failed": ("ERROR", "root"),
    "grandchild": ("DELAYED", "child"),
    "below the ended": ("PENDING", "ended"),
    "parked": ("REPLAY_MISMATCH", "below the ended"),
    "recovered too often": ("MAX_RECOVERY_ATTEMPTS_EXCEEDED", "failed"),
    "another": ("PENDING", None),
    "child of another": ("PENDING", "another"),
}
"""A family of each kind, and another one: the status and the parent of each."""

FAMILY = [each for each in KINDS if "another" not in each]


async def make_family(connection: Any) -> None:
    """Make the workflows of `KINDS`, and a fork of the child with a child of its own."""
    for workflow_id, (status, parent_id) in KINDS.items():
        await connection.execute(INSERT, workflow_id, status, parent_id, status in WITH_END, None)
    await connection.execute(INSERT, "fork", "PENDING", "root", False, "child")
    await connection.execute(INSERT, "child of the fork", "PENDING", "fork", False, None)


async def make_tree(connection: Any, width: int, depth: int, status: str = "PENDING") -> list[str]:
    """Make a family in which each has so many children; its ids, the root first."""
    ids = ["r"]
    level: list[tuple[str, str | None]] = [("r", None)]
    for _ in range(depth + 1):
        for workflow_id, parent_id in level:
            await connection.execute(INSERT, workflow_id, status, parent_id, status in WITH_END, None)
        level = [(f"{parent}.{n}", parent) for parent, _ in level for n in range(width)]
        ids += [each for each, _ in level]
    return [each for each in ids if each.count(".") <= depth]


async def statuses(connection: Any) -> dict[str, str]:
    """The status of every workflow."""
    return {row["id"]: row["status"] for row in await connection.fetch("select id, status from dbos_async.workflows")}


ENDED = {"ended", "failed"}
CANCELLED = [each for each in FAMILY if each not in ENDED]


@DBOS.workflow(name="member of a family")
async def member(*below: str) -> Any:
    """Starts its children under their ids, and waits."""
    for each in below:
        with SetWorkflowID(each):
            await DBOS.start_workflow(member)
    return await DBOS.recv("go", None)


@DBOS.workflow(name="starts a family")
async def starts_family(ends: bool) -> None:
    with SetWorkflowID("middle"):
        await DBOS.start_workflow(member, "last", "found by its id")
    if not ends:
        await DBOS.recv("go", None)


async def are(found: str, *workflow_ids: str) -> bool:
    listed = await DBOS.list_workflows(workflow_id=list(workflow_ids), status=found)
    return len(listed) == len(workflow_ids)


async def waits(workflow_id: str) -> bool:
    return any(each.verb == "recv" for each in await DBOS.list_workflow_steps(workflow_id))


async def is_in(connection: Any, workflow_id: str, status: str) -> bool:
    return (await statuses(connection))[workflow_id] == status
