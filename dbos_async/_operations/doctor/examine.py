"""The examination: one check after the other, each bounded in time, and none stopped by another one that fails."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

from dbos_async._checks import check_url
from dbos_async._database.access import find_schema
from dbos_async._database.names import Names
from dbos_async._database.urls import reason_of
from dbos_async._operations.doctor import application, connecting, pooler, schema, settings, vacuum
from dbos_async._operations.doctor.connecting import UNUSABLE
from dbos_async._operations.doctor.finding import Finding, problem, warning
from dbos_async._operations.doctor.session import Session
from dbos_async.errors import ConfigurationError, DBOSError, InvalidArgumentError

GIVE_UP_AFTER_SECONDS: Final = 60.0
"""After this time no further check begins."""


class Check(NamedTuple):
    """One check. ``needs`` is what must be there for it: any server, the schema, or a schema that fits this release."""

    name: str
    look: Callable[[Session], Awaitable[list[Finding]]]
    needs: str = "server"


CONNECTION: Final = Check("connection", connecting.connection)

CHECKS: Final = (
    Check("version", connecting.server_version),
    Check("encoding", connecting.encoding),
    Check("writable", connecting.writable),
    Check("clock", connecting.clock),
    Check("pooler", pooler.pooler),
    Check("session settings", pooler.session_settings),
    Check("listen", connecting.listening),
    Check("notification queue", vacuum.notification_queue),
    Check("connections", settings.connections),
    Check("settings", settings.settings),
    Check("standbys", settings.standbys),
    Check("monitoring", settings.monitoring),
    Check("schema", schema.schema),
    Check("rights", schema.rights, "schema"),
    Check("row security", schema.row_security, "schema"),
    Check("objects", schema.objects, "fitting schema"),
    Check("additions", schema.additions, "schema"),
    Check("autovacuum", vacuum.autovacuum, "schema"),
    Check("dead rows", vacuum.dead_rows, "schema"),
    Check("wraparound", vacuum.wraparound),
    Check("old transactions", vacuum.old_transactions),
    Check("replication slots", vacuum.replication_slots),
    Check("locks", vacuum.locks, "schema"),
    Check("executors", application.executors, "fitting schema"),
    Check("unclaimable", application.unclaimable, "fitting schema"),
    Check("parked", application.parked, "fitting schema"),
    Check("rejected", application.rejected, "fitting schema"),
    Check("overdue", application.overdue, "fitting schema"),
    Check("sequences", application.sequences, "fitting schema"),
)


async def examine(url: str, *, schema: str | None = None) -> list[Finding]:
    """Look at a database as an application of dbos_async needs it, and return what was found, check by check.

    ``schema`` is that of the application (``None``: ``$DBOS_SCHEMA``, else ``dbos_async``).

    It opens a few connections of its own and closes them. It changes nothing: every statement runs in a read-only transaction, and
    the test of LISTEN notifies a channel of its own. It ends within about a minute, also when the server hangs. A database that
    cannot be reached is a finding, as is a check that fails.

    Raises `InvalidArgumentError` when the URL is not a text, or the schema has an impossible name.

    Example:
        ```python
        findings = await examine("postgresql://app@localhost/shop")
        for finding in findings:
            if finding.level != "ok":
                print(finding.says, finding.advice)
        ```
    """
    names = Names(find_schema(schema))
    try:
        session = Session(check_url(url), names)
    except (InvalidArgumentError, ConfigurationError) as error:
        if not isinstance(url, str):
            raise
        return [problem(str(error)).model_copy(update={"check": CONNECTION.name})]
    give_up_at = asyncio.get_running_loop().time() + GIVE_UP_AFTER_SECONDS
    try:
        findings = await _perform(CONNECTION, session)
        if not session.is_reachable:
            return findings
        for done, check in enumerate(CHECKS):
            if check.needs == "schema" and not session.has_schema:
                continue
            if check.needs == "fitting schema" and not session.schema_fits:
                continue
            if asyncio.get_running_loop().time() > give_up_at or not await _is_there(session):
                findings.append(_left_out(CHECKS[done:]))
                break
            findings += await _perform(check, session)
        return findings
    finally:
        await session.close()


async def _perform(check: Check, session: Session) -> list[Finding]:
    began = time.monotonic()
    try:
        found = await check.look(session)
    except DBOSError as error:
        found = [problem(str(error))]
    except Exception as error:  # Whatever it is, the other checks go on.
        make = problem if check is CONNECTION else warning
        found = [make(f"This could not be looked at: {reason_of(error)}.", connecting.advice_for(error))]
    finally:
        await session.close_others()
    took = round((time.monotonic() - began) * 1000, 1)
    advice = session.names  # SQL that the advice has in it names the schema of this application
    return [
        each.model_copy(update={"check": check.name, "took_ms": took, "advice": each.advice and advice(each.advice)})
        for each in found
    ]


async def _is_there(session: Session) -> bool:
    """Whether there is a connection, or a new one can be opened."""
    try:
        await session.open()
    except UNUSABLE:
        return False
    return True


def _left_out(checks: tuple[Check, ...]) -> Finding:
    names = ", ".join(check.name for check in checks)
    says = f"The server does not answer any more, or too slowly: {len(checks)} checks were left out ({names})."
    advice = "Look at its load, its log and its locks, then examine it again."
    return problem(says, advice).model_copy(update={"check": CONNECTION.name})
