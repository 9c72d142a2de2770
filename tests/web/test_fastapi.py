"""The web layer: lifespans, errors as answers, and clients."""

from __future__ import annotations

import inspect
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from dbos_async import (
    DBOS,
    ConfigurationError,
    DatabaseUnavailableError,
    DBOSClient,
    InvalidArgumentError,
    InvalidCallError,
    InvalidStreamValueError,
    InvalidValueError,
    LaunchError,
    MessageNotFoundError,
    RedeliveryError,
    ResultTimeoutError,
    WorkflowCancelledError,
    WorkflowConflictError,
    WorkflowNotEndedError,
    WorkflowNotFoundError,
)
from dbos_async import fastapi as web
from dbos_async.fastapi import add_error_handlers, client_lifespan, lifespan, stream_response
from tests.support.web import serving
from tests.support.web_app import STEPS, pay, start

# Lifespans


async def test_a_lifespan_launches_and_drains_around_one_of_your_own(database_url: str) -> None:
    told: list[str] = []

    async def is_launched() -> bool:
        try:
            return await DBOS.list_workflows() == []
        except LaunchError:
            return False

    @asynccontextmanager
    async def own(app: Any) -> AsyncIterator[dict[str, Any]]:
        told.append(f"begins, launched: {await is_launched()}, of this app: {app is site}")
        yield {"answer": 42}
        told.append(f"ends, launched: {await is_launched()}")

    async def ask(request: Request) -> Response:
        return JSONResponse([request.state.answer, await is_launched()])

    site = Starlette(routes=[Route("/", ask)], lifespan=lifespan(database_url, inside=own))
    async with serving(site) as address, httpx.AsyncClient(trust_env=False) as client:
        assert (await client.get(address)).json() == [42, True]
    assert told == ["begins, launched: True, of this app: True", "ends, launched: True"]
    assert not await is_launched()


async def test_a_lifespan_that_fails_leaves_nothing_launched(database_url: str) -> None:
    @asynccontextmanager
    async def own(_app: Any) -> AsyncIterator[None]:
        if _app is None:
            raise OSError("not today")
        yield

    with pytest.raises(OSError, match="not today"):
        async with lifespan(database_url, inside=own)(None):
            pass
    async with DBOS(database_url):
        pass


async def test_the_options_of_a_lifespan_are_those_of_dbos() -> None:
    taken = list(inspect.signature(DBOS).parameters)
    assert ["url", *web.Options.__annotations__] == taken


async def test_a_client_s_lifespan_opens_it_around_one_of_your_own(
    site: str, database_url: str, monkeypatch: Any
) -> None:
    monkeypatch.setenv("DBOS_DATABASE_URL", database_url)
    await start("w", [1, 2])
    client = DBOSClient()

    @asynccontextmanager
    async def own(_app: Any) -> AsyncIterator[dict[str, Any]]:
        yield {"found": [one.workflow_id for one in await client.list_workflows()]}
        assert await client.get_event("w", "none", timeout_seconds=0) is None, "it is still open"

    async def ask(request: Request) -> Response:
        return JSONResponse(request.state.found)

    async def stream(request: Request) -> Response:
        return await stream_response(request, "w", "k", client=client)

    routes = [Route("/", ask), Route("/stream", stream)]
    for _ in range(2):  # an application may be started again
        app = Starlette(routes=routes, lifespan=client_lifespan(client, inside=own))
        async with serving(app) as address, httpx.AsyncClient(trust_env=False) as browser:
            assert (await browser.get(address)).json() == ["w"]
            assert "data: 2" in (await browser.get(f"{address}/stream")).text
        with pytest.raises(LaunchError, match="not open"):
            await client.list_workflows()
    alone: web.Lifespan[Any] = client_lifespan(client)
    async with alone(app) as state:
        assert state is None


async def test_d5_a_client_without_a_url_says_what_to_do(monkeypatch: Any) -> None:
    monkeypatch.delenv("DBOS_DATABASE_URL", raising=False)
    with pytest.raises(ConfigurationError, match=r"URL .* to DBOSClient\(\.\.\.\), or set DBOS_DATABASE_URL\.$"):
        async with DBOSClient():
            pass
    with pytest.raises(InvalidArgumentError, match="must not be empty"):
        DBOSClient("")


# Errors

ERRORS: list[tuple[Exception, int, str]] = [
    (WorkflowNotFoundError("w"), 404, "no workflow with the id 'w'"),
    (MessageNotFoundError("m"), 404, "no message with the id 'm'"),
    (WorkflowConflictError("w", "a", "b"), 409, "was started as 'a'"),
    (WorkflowNotEndedError("w", "PENDING"), 409, "is PENDING"),
    (WorkflowCancelledError("w"), 409, "was cancelled"),
    (RedeliveryError("m", "was not rejected", "leave it"), 409, "was not rejected"),
    (InvalidValueError("The call", "it is not JSON"), 422, "The call cannot be used"),
    (DatabaseUnavailableError(30, True, "db.internal:5432"), 503, "call again"),
    (ResultTimeoutError("w", 5), 504, "5 s"),
    (InvalidStreamValueError("Value 3", "it is no number", None, 3), 500, ""),
    (InvalidCallError("f cannot be called with these arguments."), 500, ""),
    (LaunchError("not launched"), 500, ""),
]


@pytest.mark.parametrize(("error", "code", "says"), ERRORS, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("kind", [FastAPI, Starlette])
async def test_an_error_has_its_status(kind: Callable[[], Starlette], error: Exception, code: int, says: str) -> None:
    async def fail(_request: Request) -> Response:
        raise error

    app = kind()
    app.router.routes.append(Route("/", fail))
    add_error_handlers(app)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        answer = await client.get("/")
    assert answer.status_code == code
    if code != 500:
        assert says in str(answer.json()["detail"])
    assert "db.internal" not in answer.text
    assert answer.headers.get("retry-after") == ("5" if code == 503 else None)


async def test_a_message_that_does_not_fit_is_told_with_the_details_of_pydantic(site: str) -> None:
    await start("w", workflow=pay)
    async with httpx.AsyncClient(base_url=site, trust_env=False) as client:
        wrong = await client.post("/w/payment", json=[1, "many"])
        assert wrong.status_code == 422
        (detail,) = wrong.json()["detail"]
        assert (detail["loc"], detail["type"]) == ([1], "int_type")
        assert "input" not in detail
        assert (await client.post("/nobody/payment", json=[1])).status_code == 404
        assert (await client.post(f"/{'x' * 600}/payment", json=[1])).status_code == 422
        assert (await client.post("/w/payment", json=[3, 4])).status_code == 200
    assert await (await DBOS.retrieve_workflow("w")).get_result() == 7


async def test_a_client_of_an_application_that_runs_no_workflows_reads_too(site: str, database_url: str) -> None:
    await start("w", [1, 2, 3])
    async with DBOSClient(database_url) as client:

        async def stream(request: Request) -> Response:
            return await stream_response(request, "w", STEPS, client=client)

        transport = httpx.ASGITransport(Starlette(routes=[Route("/", stream)]))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as browser:
            answer = await browser.get("/?offset=1")
            assert re.findall(r"^data: (.*)$", answer.text, flags=re.MULTILINE) == ["2", "3", '{"status":"SUCCESS"}']
            head = await browser.head("/")
            assert (head.status_code, head.text) == (200, "")


def test_the_module_needs_starlette_only() -> None:
    text = Path(web.__file__).read_text()
    assert "import fastapi" not in text
    assert "from fastapi" not in text
