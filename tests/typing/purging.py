"""Purging and retention as a type checker must see them (see surface.py)."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import assert_type

from dbos_async import DBOS, DBOSClient, PurgeResult


async def purging(dbos: DBOS, client: DBOSClient, now: datetime) -> None:
    assert_type(await DBOS.purge(timedelta(days=30)), PurgeResult)
    assert_type(
        await dbos.purge(3600, status=["SUCCESS", "ERROR"], name="checkout", limit=10, dry_run=True), PurgeResult
    )
    purged = await client.purge(0.5, status="CANCELLED", name=["a", "b"], per_second=100)
    assert_type(purged.count, int)
    assert_type(purged.left, int)
    assert_type(purged.reason, str | None)
    await DBOS.purge(now)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # an age, not a moment
    await DBOS.purge()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]  # how old must be said
    await DBOS.purge(0, "SUCCESS")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]  # given by its name only
    DBOS(retention=timedelta(days=30))
    DBOS(retention=3600)
    DBOS(retention=None)
    DBOS(retention="30d")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # no text
