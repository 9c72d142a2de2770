"""The answers to probes. They name no host and no user: whoever probes may be anybody, and the log has the reasons."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from dbos_async._lifecycle.health import check_database
from dbos_async.client import DBOSClient
from dbos_async.dbos import DBOS
from dbos_async.errors import LaunchError, WrongPlaceError

Endpoint = Callable[[Request], Awaitable[Response]]

ANSWER_WITHIN_SECONDS: Final = 2.5
"""Health itself answers within two seconds. This bounds whatever else might take long."""

REASONS: Final = {
    "launched": "DBOS is not launched.",
    "database": "The database does not answer.",
    "schema": "The schema does not fit this release, or could not be checked.",
    "listener": "The listener has no connection, or the polls in its place have no answer.",
    "lease": "The lease is lost.",
    "draining": "DBOS shuts down.",
}


def live(client: DBOSClient | None) -> Endpoint:
    """Whether a restart would help: the lease is lost although the database answers."""

    async def livez(_request: Request) -> Response:
        if client is not None:
            return _answer([])
        health = await _within_limit(_health())
        return _answer(["lease"] if health is not None and health.database and not health.lease else [])

    return livez


def ready(client: DBOSClient | None) -> Endpoint:
    """Whether requests are welcome."""

    async def readyz(_request: Request) -> Response:
        problems = await _within_limit(_problems() if client is None else _problems_of(client))
        return _answer(["database"] if problems is None else problems)

    return readyz


async def _health() -> Any:
    try:
        return await DBOS.health()
    except (LaunchError, WrongPlaceError):
        return None


async def _problems() -> list[str]:
    health = await _health()
    if health is None:
        return ["launched"]
    stands = {
        "database": health.database, "schema": health.schema, "listener": health.listener, "draining": not health.draining,
    }  # fmt: skip
    return [name for name, is_well in stands.items() if not is_well]


async def _problems_of(client: DBOSClient) -> list[str]:
    try:
        database = client._database  # pyright: ignore[reportPrivateUsage]  # of this library, too
    except (LaunchError, WrongPlaceError):
        return ["launched"]
    problem, schema_problem = await check_database(database)
    stands = {
        "database": problem is None,
        "schema": problem is None and schema_problem is None,
        "listener": database.listener is not None and database.listener.is_listening,
    }
    return [name for name, is_well in stands.items() if not is_well]


async def _within_limit(answer: Awaitable[Any]) -> Any:
    try:
        async with asyncio.timeout(ANSWER_WITHIN_SECONDS):
            return await answer
    except TimeoutError:
        return None


def _answer(problems: list[str]) -> Response:
    content = {"status": "unavailable" if problems else "ok", "reasons": [REASONS[problem] for problem in problems]}
    return JSONResponse(content, status_code=503 if problems else 200, headers={"Cache-Control": "no-store"})
