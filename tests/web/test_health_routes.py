"""The routes for the probes of an orchestrator: they answer in every state of the database, and tell no secrets."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.applications import Starlette

from dbos_async import DBOS, DBOSClient, InvalidArgumentError
from dbos_async.fastapi import add_health_routes, client_lifespan, lifespan
from tests.support.databases import execute
from tests.support.eventually import eventually
from tests.support.proxy import Proxy

WELL = (200, {"status": "ok", "reasons": []})


def unavailable(*reasons: str) -> tuple[int, Any]:
    """The answer with these reasons."""
    return 503, {"status": "unavailable", "reasons": list(reasons)}


@asynccontextmanager
async def probing(app: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an application whose lifespan is the test's own."""
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        yield client


async def ask(client: httpx.AsyncClient, path: str) -> tuple[int, Any]:
    """Status and content of the answer, which comes in time."""
    began = time.monotonic()
    answer = await client.get(path)
    assert time.monotonic() - began < 3.5
    return answer.status_code, answer.json()


async def test_a_launched_dbos_is_live_and_ready(database_url: str) -> None:
    app = FastAPI(lifespan=lifespan(database_url))
    add_health_routes(app, prefix="/internal")
    async with probing(app) as client:
        assert await ask(client, "/internal/livez") == WELL
        assert await ask(client, "/internal/readyz") == unavailable("DBOS is not launched.")
        async with app.router.lifespan_context(app):
            assert await ask(client, "/internal/livez") == WELL
            assert await ask(client, "/internal/readyz") == WELL
        assert await ask(client, "/internal/readyz") == unavailable("DBOS is not launched.")
        assert "livez" not in (await client.get("/openapi.json")).text
        assert (await client.post("/internal/livez")).status_code == 405


@pytest.mark.parametrize("fault", ["freeze", "refuse"])
async def test_they_answer_while_the_database_is_away(database_url: str, fault: str) -> None:
    app = Starlette()
    add_health_routes(app)
    async with Proxy(database_url) as proxy, probing(app) as client, DBOS(proxy.url, drain_seconds=0):
        assert await ask(client, "/readyz") == WELL
        getattr(proxy, fault)()
        proxy.cut()
        await eventually(lambda: _is_unavailable(client))
        code, content = await ask(client, "/readyz")
        assert code == 503
        assert "The database does not answer." in content["reasons"]
        assert "127.0.0.1" not in str(content)
        assert await ask(client, "/livez") == WELL
        await proxy.heal()
        proxy.cut()
        await eventually(lambda: _is_ready(client))


async def _is_unavailable(client: httpx.AsyncClient) -> bool:
    return (await client.get("/readyz")).status_code == 503


async def _is_ready(client: httpx.AsyncClient) -> bool:
    return (await client.get("/readyz")).status_code == 200


async def test_a_lost_lease_and_a_wrong_schema_are_told(database_url: str) -> None:
    app = Starlette()
    add_health_routes(app)
    async with DBOS(database_url) as dbos, probing(app) as client:
        executor = dbos._runtime.executor
        executor.suspend("the lease was not renewed")
        assert await ask(client, "/livez") == unavailable("The lease is lost.")
        assert await ask(client, "/readyz") == WELL
        executor.go_on()
        assert await ask(client, "/livez") == WELL
        await execute(database_url, "alter table dbos_async.migrations rename to gone")
        assert await ask(client, "/readyz") == unavailable(
            "The schema does not fit this release, or could not be checked."
        )
        assert await ask(client, "/livez") == WELL
        await execute(database_url, "alter table dbos_async.gone rename to migrations")
        assert await ask(client, "/readyz") == WELL


async def test_a_draining_dbos_is_not_ready(database_url: str) -> None:
    app = Starlette()
    add_health_routes(app)
    async with DBOS(database_url) as dbos, probing(app) as client:
        executor = dbos._runtime.executor
        executor.closing = True
        assert await ask(client, "/readyz") == unavailable("DBOS shuts down.")
        assert await ask(client, "/livez") == WELL
        executor.closing = False


async def test_a_client_is_ready_if_its_database_is(database_url: str) -> None:
    async with Proxy(database_url) as proxy:
        dbos_client = DBOSClient(proxy.url)
        app = FastAPI(lifespan=client_lifespan(dbos_client))
        add_health_routes(app, client=dbos_client)
        async with probing(app) as client:
            assert await ask(client, "/readyz") == unavailable("DBOS is not launched.")
            async with app.router.lifespan_context(app):
                assert await ask(client, "/readyz") == WELL
                assert await ask(client, "/livez") == WELL
                proxy.refuse()
                proxy.cut()
                await eventually(lambda: _is_unavailable(client))
                assert await ask(client, "/livez") == WELL
                await proxy.heal()
                await eventually(lambda: _is_ready(client))


def test_wrong_arguments_are_refused() -> None:
    for wrong in ("health", "/health/", 5):
        with pytest.raises(InvalidArgumentError, match="prefix"):
            add_health_routes(Starlette(), prefix=wrong)  # type: ignore[arg-type]  # a mistake
