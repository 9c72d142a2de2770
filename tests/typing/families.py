"""Many workflows at once and families, as a type checker must see them (see surface.py)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, assert_type

from dbos_async import DBOS, DBOSClient, SetWorkflowTimeout

Cancelled = Literal["cancelled", "ended", "unknown"]
Resumed = Literal["resumed", "pending", "ended", "unknown"]
Deleted = Literal["deleted", "not ended", "unknown"]


async def families(client: DBOSClient, ids: Iterator[str]) -> None:
    assert_type(await DBOS.cancel_workflow("w", children=True), bool)
    assert_type(await client.cancel_workflow("w", children=False), bool)
    await DBOS.delete_workflow("w", children=True)
    await client.delete_workflow("w", children=True)
    outcomes = await DBOS.cancel_workflows(["v", "w"], children=True)
    assert_type(outcomes, dict[str, Cancelled])
    assert_type(await client.cancel_workflows(ids), dict[str, Cancelled])
    assert_type(await DBOS.resume_workflows(outcomes, application_version="2"), dict[str, Resumed])
    assert_type(await client.resume_workflows(("v", "w")), dict[str, Resumed])
    assert_type(await DBOS.delete_workflows({"v", "w"}, children=True), dict[str, Deleted])
    assert_type(await client.delete_workflows([]), dict[str, Deleted])
    if outcomes["v"] == "canceled":  # type: ignore[comparison-overlap]  # pyright: ignore[reportUnnecessaryComparison]
        raise AssertionError("there is no such outcome")
    with SetWorkflowTimeout(60, children=True) as limit, SetWorkflowTimeout(None):
        assert_type(limit.children, bool)
    SetWorkflowTimeout(60, True)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]  # given by its name only
    await DBOS.cancel_workflow("w", True)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]  # as above
    await DBOS.cancel_workflows([1])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]  # ids are texts
