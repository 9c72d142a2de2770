"""Versions of an event as server-sent events that resume: promise C3 for pages."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dbos_async import DBOS, DBOSClient, InvalidArgumentError, SetWorkflowID
from dbos_async._database.change_keys import end_key
from dbos_async._executor import launched
from dbos_async.fastapi import add_error_handlers, stream_response
from tests.support.eventually import eventually
from tests.support.proxy import Proxy
from tests.support.web import Event, events, serving, source
from tests.support.web_app import ids, values, watched


@DBOS.workflow(name="web says")
async def says(given: list[Any], ending: str = "") -> None:
    for value in given:
        await DBOS.set_event("e", value)
    if ending == "fail":
        raise OSError("secret reason")
    if ending:
        while (more := await DBOS.recv(timeout_seconds=None)) is not None:
            await DBOS.set_event("e", more)


async def start(*given: Any, ending: str = "wait") -> Any:
    with SetWorkflowID("w"):
        handle = await DBOS.start_workflow(says, list(given), ending)
    if ending != "wait":
        await asyncio.wait([asyncio.ensure_future(handle.get_result())])
    elif given:
        await eventually(_waits)
    return handle


async def _waits() -> bool:
    return any(step.verb == "recv" for step in await DBOS.list_workflow_steps("w"))


def app(**options: Any) -> Starlette:
    async def respond(request: Request) -> Response:
        return await stream_response(request, request.path_params["id"], event="e", **options)

    made = Starlette(routes=[Route("/{id}", respond)])
    add_error_handlers(made)
    return made


@pytest.fixture
async def site(dbos: DBOS) -> Any:
    async with serving(app(heartbeat_seconds=0.1)) as address:
        yield address
    for task in asyncio.all_tasks():  # the library for events leaves one, by which it notices that a server stops
        if "_shutdown_watcher" in repr(task.get_coro()):
            task.cancel()
            await asyncio.wait([task])


async def test_c3_a_page_has_the_current_version_and_each_later_one_live_and_then_the_end(site: str) -> None:
    await start(0, {"a": "b\nc"})
    async with source(f"{site}/w") as stream, aclosing(aiter(stream)) as found:  # type: ignore[type-var]  # it is a generator
        seen = [await anext(found)]
        for value in (None, "\r\n", 5):
            await DBOS.send("w", [value])
            seen.append(await anext(found))
        await DBOS.send("w", None)
        end = await anext(found)
        assert await anext(found, None) is None
    assert values(seen) == [{"a": "b\nc"}, [None], ["\r\n"], [5]]
    versions = [each.version async for each in DBOS.watch_event("w", "e")]
    assert ids(seen)[-1:] == versions
    assert ids(seen) == sorted(set(ids(seen)))
    assert end == Event("end", f"{versions[0]}.end", '{"status":"SUCCESS"}')


async def test_c3_a_page_that_comes_again_goes_on_after_the_version_that_it_has(site: str) -> None:
    await start(1)
    async with source(f"{site}/w") as stream, aclosing(aiter(stream)) as found:  # type: ignore[type-var]  # it is a generator
        first = await anext(found)
    for value in (2, 3):
        await DBOS.send("w", value)
    await eventually(lambda: _is(3))
    for headers, query in (({"Last-Event-ID": first.id or ""}, ""), ({}, f"?after={first.id}")):
        async with source(f"{site}/w{query}", headers) as stream, aclosing(aiter(stream)) as found:  # type: ignore[type-var]  # as above
            again = await anext(found)
        assert values([again]) == [3], "the latest, and not what was in between"
    async with source(f"{site}/w", {"Last-Event-ID": again.id or ""}) as stream, aclosing(aiter(stream)) as found:  # type: ignore[type-var]  # as above
        more = asyncio.ensure_future(anext(found))
        await eventually(lambda: stream.comments >= 2, "it waits, since it has the latest")
        await DBOS.send("w", 4)
        assert values([await more]) == [4]


async def _is(value: Any) -> bool:
    return bool(await DBOS.get_event("w", "e") == value)


@pytest.mark.parametrize(
    ("ending", "act", "event", "status"),
    [
        ("", None, "end", "SUCCESS"),
        ("fail", None, "failed", "ERROR"),
        ("wait", DBOS.cancel_workflow, "failed", "CANCELLED"),
    ],
)
@pytest.mark.parametrize("given", [[], [1]])
async def test_c3_a_browser_can_tell_how_it_ended_and_stops_asking(
    site: str, given: list[Any], ending: str, act: Any, event: str, status: str
) -> None:
    await start(*given, ending=ending)
    if act is not None:
        await eventually(_waits)
        await act("w")
    found = await events(f"{site}/w")
    assert values(found) == given
    assert (found[-1].event, json.loads(found[-1].data)) == (event, {"status": status})
    assert "secret" not in found[-1].data
    if given:
        # It has the last version and lost its connection before the end: it is told of the end.
        (end,) = await events(f"{site}/w", {"Last-Event-ID": str(ids(found)[-1])})
        assert (end.event, end.id) == (event, found[-1].id)
    last = found[-1].id or (found[0].id if given else None)
    async with httpx.AsyncClient(base_url=site, trust_env=False) as client:
        again = await client.get("/w", headers={"Last-Event-ID": last} if last else {})
    assert again.status_code == (200 if status == "CANCELLED" else 204)
    if status == "CANCELLED":
        assert found[-1].id is None
        await DBOS.resume_workflow("w")
        await DBOS.send("w", 2)
        await eventually(lambda: _is(2))
        await DBOS.send("w", None)
        await (await DBOS.retrieve_workflow("w")).get_result()
        assert values(await events(f"{site}/w", {"Last-Event-ID": last} if last else {})) == [2]


async def test_c3_an_event_of_nobody_is_not_found_and_one_that_is_deleted_has_failed(site: str) -> None:
    async with httpx.AsyncClient(base_url=site, trust_env=False) as client:
        assert (await client.get("/nobody")).status_code == 404
    await start()
    before = watched()
    async with source(f"{site}/w") as stream:
        reading = asyncio.ensure_future(_all(stream))
        await eventually(lambda: watched() >= before + 1, "it waits")
        connection = launched.database().wakeups
        await DBOS.cancel_workflow("w")
        await DBOS.delete_workflow("w")
        connection.wake(end_key("w"))
        (end,) = await reading
        assert (end.event, json.loads(end.data)["status"] in ("CANCELLED", "DELETED")) == ("failed", True)


async def _all(stream: Any) -> list[Event]:
    return [event async for event in stream]


@pytest.mark.parametrize("version", ["-1", "1.5", "x", "²", str(2**63), "1 end", "1.end.end"])
async def test_c3_a_bad_version_is_told_and_no_fault_of_the_server(site: str, version: str) -> None:
    await start(1, ending="")
    async with httpx.AsyncClient(base_url=site, trust_env=False) as client:
        assert (await client.get("/w", params={"after": version})).status_code == 422
        assert (await client.get("/w", headers={b"Last-Event-ID": version.encode()})).status_code == 422


async def test_c3_a_page_hears_that_its_workflow_is_parked_and_goes_on_after_it(site: str, connection: Any) -> None:
    await start(1)
    async with source(f"{site}/w") as stream, aclosing(aiter(stream)) as found:  # type: ignore[type-var]  # it is a generator
        assert json.loads((await anext(found)).data) == 1
        await connection.execute(
            "update dbos_async.workflows set status = 'REPLAY_MISMATCH', owner = null, attempt = attempt + 1"
        )
        launched.database().wakeups.wake(end_key("w"))
        assert await anext(found) == Event("parked", None, '{"status":"REPLAY_MISMATCH"}')
        await DBOS.resume_workflow("w")
        await DBOS.send("w", 2)
        assert json.loads((await anext(found)).data) == 2
        await DBOS.send("w", None)
        assert (await anext(found)).event == "end"


async def test_c3_an_answer_that_has_begun_outlasts_an_outage(dbos: DBOS, database_url: str) -> None:
    async with Proxy(database_url) as proxy, DBOSClient(proxy.url, connect_timeout_seconds=0.5) as client:
        async with serving(app(client=client)) as site:
            await start(1)
            async with source(f"{site}/w") as stream, aclosing(aiter(stream)) as found:  # type: ignore[type-var]  # it is a generator
                assert values([await anext(found)]) == [1]
                proxy.freeze()
                proxy.cut()
                await DBOS.send("w", 2)
                await proxy.heal()
                proxy.cut()
                assert values([await asyncio.wait_for(anext(found), 20)]) == [2]
                await DBOS.send("w", None)
                assert (await anext(found)).event == "end"
        for task in asyncio.all_tasks():
            if "_shutdown_watcher" in repr(task.get_coro()):
                task.cancel()
                await asyncio.wait([task])


async def test_d5_a_response_tells_of_one_thing() -> None:
    request = Request({"type": "http", "headers": [], "query_string": b""})
    for both in ({}, {"key": "k", "event": "e"}):
        with pytest.raises(InvalidArgumentError, match="name the key of a stream, or event="):
            await stream_response(request, "w", **both)  # type: ignore[arg-type]  # the mistake under test
