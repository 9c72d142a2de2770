"""The state of a launched DBOS, as `DBOS.health` tells it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from dbos_async._database import migrations
from dbos_async._database.database import Database
from dbos_async._database.outages import CONNECT_ERRORS
from dbos_async._database.statement import Statement
from dbos_async._database.urls import reason_of
from dbos_async._executor.executor import Executor
from dbos_async._lifecycle.lease_thread import LeaseThread
from dbos_async._lifecycle.services import Service
from dbos_async.errors import DBOSError

ANSWER_WITHIN_SECONDS: Final = 2.0


@dataclass(frozen=True)
class Health:
    """How a launched DBOS stands.

    - ``ok`` is whether everything below is as it should be, and DBOS does not shut down; if not, ``reasons`` has one sentence each.
    - ``database`` is whether the database has answered within two seconds, ``schema`` whether its schema fits this release.
    - ``listener`` is whether changes of other processes are heard of: notifications, or with ``listen=False`` the answers of polls.
      While they are not, each wait looks for itself every 15 to 30 seconds.
    - ``lease`` is whether the lease is kept. Without it other executors may take the workflows over, and none begins here.
    - ``services`` has the background services by name: "ok", or the error that the service has not recovered from yet.
    - ``draining`` is whether DBOS shuts down: running steps may finish, and nothing new begins.
    - ``running`` is how many workflows run here, ``waiting`` how many of those only wait.
    """

    ok: bool
    database: bool
    listener: bool
    lease: bool
    schema: bool
    services: dict[str, str]
    running: int
    waiting: int
    reasons: list[str]
    draining: bool = False


async def health(database: Database, executor: Executor, lease: LeaseThread, services: Sequence[Service]) -> Health:
    """Ask the database, and note how everything of one launch stands. Never raises for a database that is away."""
    problem, schema_problem = await check_database(database)
    listener = database.listener
    is_listening = listener is not None and listener.is_listening
    has_lease = lease.is_alive and executor.suspended is None
    states = {service.name: _problem_of(service, database.batches.refusals()) for service in services}
    reasons = [
        *([f"The database does not answer: {problem}."] if problem else []),
        *([schema_problem] if schema_problem else []),
        *([] if is_listening or listener is None else [f"{listener.complaint}: {listener.last_error}."]),
        *([] if has_lease else [f"The lease is not kept: {executor.suspended or lease.problem or 'it is overdue'}."]),
        *([f"The row of this executor is not renewed: {lease.problem}."] if has_lease and lease.problem else []),
        *[f"The service {name!r} fails: {error}." for name, error in states.items() if error is not None],
        *(["DBOS shuts down."] if executor.closing else []),
    ]
    return Health(
        ok=not reasons,
        database=problem is None,
        listener=is_listening,
        lease=has_lease,
        schema=problem is None and schema_problem is None,
        services={name: "ok" if error is None else error for name, error in states.items()},
        running=len(executor.runs),
        waiting=executor.slots.waiting,
        reasons=reasons,
        draining=executor.closing,
    )


def _problem_of(service: Service, refusals: Mapping[Statement, str]) -> str | None:
    refused = [f"the database refuses {each.name}: {refusals[each]}" for each in service.statements if each in refusals]
    return service.problem or next(iter(refused), None)


async def check_database(database: Database) -> tuple[str | None, str | None]:
    """What is wrong with the database, and with its schema; ``None`` for nothing. Answers within two seconds."""
    try:
        async with asyncio.timeout(ANSWER_WITHIN_SECONDS), database.postgres.acquire() as connection:
            await connection.execute("select 1")
            await migrations.check(connection)
    except TimeoutError:
        return f"no answer within {ANSWER_WITHIN_SECONDS:g} seconds", None
    except DBOSError as error:
        return None, str(error)
    except CONNECT_ERRORS as error:
        return reason_of(error), None
    return None, None
