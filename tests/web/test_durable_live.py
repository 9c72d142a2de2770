"""Streams followed live by the Durable Streams protocol: long polls, server-sent events and cursors."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import Response

from dbos_async import DBOS, DBOSClient, _durable_streams
from dbos_async._database.change_keys import stream_key
from dbos_async._durable_streams import offset_token, response_cursor
from dbos_async._executor import launched
from tests.support.durable import app, client_of, end_watchers, open_stream, reading, say, stream_headers, told
from tests.support.eventually import eventually
from tests.support.web import Event, events, serving, source
from tests.support.web_app import start, watched

AHEAD = 10**9


@pytest.fixture
async def client(dbos: DBOS) -> AsyncIterator[httpx.AsyncClient]:
    async with reading(long_poll_seconds=20, heartbeat_seconds=0.1) as client:
        yield client


def poll(client: httpx.AsyncClient, offset: int | str, cursor: str | None = None) -> asyncio.Task[httpx.Response]:
    given = {"offset": offset_token(offset) if isinstance(offset, int) else offset, "live": "long-poll"}
    return asyncio.create_task(client.get("/w", params=given if cursor is None else given | {"cursor": cursor}))


def control(offset: int, *flags: str) -> dict[str, Any]:
    return {"streamNextOffset": offset_token(offset)} | dict.fromkeys(flags, True)


def headers(offset: int, *flags: str) -> dict[str, str]:
    return {"next-offset": offset_token(offset)} | dict.fromkeys(("up-to-date", *flags), "true")


async def waits(readers: int = 1) -> None:
    """Return when so many wait for the stream."""
    waiting = launched.executor().database.wakeups._subscriptions
    await eventually(lambda: len(waiting.get(stream_key("w", "k"), ())) == readers)


# Long polls


@pytest.mark.parametrize("offset", [1, "now"])
async def test_s3_a_long_poll_waits_for_the_next_value(client: httpx.AsyncClient, offset: int | str) -> None:
    await open_stream("old")
    waiting = poll(client, offset)
    await waits()
    await say("new")
    answer = await waiting
    assert (answer.status_code, answer.json(), stream_headers(answer)) == (200, ["new"], headers(2))
    assert answer.headers["stream-cursor"].isdecimal()
    assert ("etag" in answer.headers) == (offset != "now")
    assert answer.headers["cache-control"] == ("no-store" if offset == "now" else "private, no-cache")


async def test_s5_a_long_poll_brings_at_once_what_is_there(client: httpx.AsyncClient) -> None:
    await open_stream(1, 2)
    for offset, values in (("-1", [1, 2]), (offset_token(1), [2])):
        answer = await poll(client, offset)
        assert (answer.status_code, answer.json(), stream_headers(answer)) == (200, values, headers(2))


@pytest.mark.parametrize("offset", [1, "now"])
async def test_a_long_poll_without_a_value_ends_with_204(dbos: DBOS, offset: int | str) -> None:
    async with reading(long_poll_seconds=0.2) as client:
        await open_stream(1)
        answer = await poll(client, offset)
        assert (answer.status_code, answer.content, stream_headers(answer)) == (204, b"", headers(1))
        assert answer.headers["stream-cursor"].isdecimal()
        assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("offset", [1, "now"])
async def test_s3_a_long_poll_at_the_end_of_a_closed_stream_does_not_wait(
    client: httpx.AsyncClient, offset: int | str
) -> None:
    handle = await open_stream(1)
    waiting = poll(client, offset)
    await waits()
    await say(None)
    await handle.get_result()
    for answer in (await waiting, await poll(client, offset)):
        assert (answer.status_code, stream_headers(answer)) == (204, headers(1, "closed"))
    (answer,) = [await poll(client, 0)]
    assert (answer.status_code, answer.json(), stream_headers(answer)) == (200, [1], headers(1, "closed"))


async def test_a_client_that_left_its_long_poll_leaves_nothing(client: httpx.AsyncClient) -> None:
    await open_stream(1)
    before = watched()
    for _ in range(3):
        waiting = poll(client, 1)
        await waits()
        waiting.cancel()
        await eventually(lambda: watched() == before, "nobody waits any more", give_up_after_seconds=5)


async def test_a_client_that_left_is_noticed_behind_middleware_too(dbos: DBOS) -> None:
    async def pass_on(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        return await call_next(request)

    behind = app(long_poll_seconds=100)
    behind.add_middleware(BaseHTTPMiddleware, dispatch=pass_on)
    await open_stream(1)
    before = watched()
    async with serving(behind) as address, client_of(address) as client:
        waiting = poll(client, 1)
        await waits()
        waiting.cancel()
        await eventually(lambda: watched() == before, "nobody waits any more", give_up_after_seconds=5)
        waiting = poll(client, 1)
        await waits()
        await say("new")
        assert (await waiting).json() == ["new"]
    await end_watchers()


async def test_a_server_that_stops_ends_its_long_polls(dbos: DBOS) -> None:
    async with serving(app(long_poll_seconds=100)) as address:
        client = client_of(address)
        await open_stream(1)
        waiting = poll(client, 1)
        await waits()
        began = time.monotonic()
    answer = await waiting
    assert time.monotonic() - began < 10
    assert (answer.status_code, stream_headers(answer)) == (204, headers(1)), "it is not closed: the client asks again"
    await client.aclose()
    assert watched() == 0 or stream_key("w", "k") not in launched.executor().database.wakeups._subscriptions


async def test_many_long_polls_hold_no_connection_and_all_get_the_value(
    client: httpx.AsyncClient, connection: Any
) -> None:
    many = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=client.base_url, timeout=60, trust_env=False, limits=many) as crowd:
        await open_stream()
        waiting = [poll(crowd, 0) for _ in range(100)]
        await waits(100)
        query = "select count(*) from pg_stat_activity where application_name <> '' and datname = current_database()"
        assert await connection.fetchval(query) <= 9
        await say("for all")
        assert [answer.json() for answer in await asyncio.gather(*waiting)] == [["for all"]] * 100


async def test_a_workflow_that_is_deleted_while_somebody_waits_is_not_found(client: httpx.AsyncClient) -> None:
    await open_stream(1)
    waiting = poll(client, 1)
    await waits()
    await DBOS.cancel_workflow("w")
    assert stream_headers(await waiting) == headers(1, "closed")
    await DBOS.delete_workflow("w")
    assert (await poll(client, 1)).status_code == 404


# Cursors


def test_a_cursor_is_the_number_of_the_interval_and_never_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    began = datetime(2024, 10, 9, tzinfo=UTC).timestamp()
    monkeypatch.setattr(time, "time", lambda: began + 20 * 1000 + 19.9)
    assert response_cursor(None) == response_cursor(0) == response_cursor(999) == 1000
    for cursor in (1000, 1001, AHEAD):
        later = {response_cursor(cursor) for _ in range(2000)}
        assert min(later) > cursor
        assert max(later) <= cursor + 3600 // 20
        assert len(later) > 50, "clients go on at different places"


async def test_a_client_that_echoes_its_cursor_gets_a_later_one(client: httpx.AsyncClient) -> None:
    await open_stream(1)
    cursor: str | None = None
    for _ in range(5):
        answer = await poll(client, "-1", cursor)
        assert cursor is None or int(answer.headers["stream-cursor"]) > int(cursor)
        cursor = answer.headers["stream-cursor"]
    found = await _first_events(client, f"/w?offset=-1&live=sse&cursor={cursor}", 2)
    assert int(json.loads(found[1].data)["streamCursor"]) > int(cursor or "")


# Server-sent events


async def _first_events(client: httpx.AsyncClient, path: str, count: int) -> list[Event]:
    async with source(f"{client.base_url}{path}") as stream, aclosing(aiter(stream)) as found:  # type: ignore[type-var]  # it is a generator
        return [await anext(found) for _ in range(count)]


async def test_s3_events_are_data_and_control_in_turn_until_the_stream_is_closed(client: httpx.AsyncClient) -> None:
    given: list[Any] = [None, {"a": "b\nc"}, "\r\n\r\nevent: control", "😀\u2028"]
    await open_stream(*given)
    async with source(f"{client.base_url}/w?offset=-1&live=sse") as stream:
        assert stream.response.headers["content-type"] == "text/event-stream"
        assert stream.response.headers["cache-control"] == "no-cache, no-store"
        assert "content-length" not in stream.response.headers
        assert stream.response.headers["x-content-type-options"] == "nosniff"
        async with aclosing(aiter(stream)) as found:  # type: ignore[type-var]  # it is a generator
            seen = [await anext(found), await anext(found)]
            assert told(seen) == [given, control(4, "upToDate")]
            assert int(json.loads(seen[1].data)["streamCursor"]) >= response_cursor(None) - 1
            await say("more")
            assert told([await anext(found), await anext(found)]) == [["more"], control(5, "upToDate")]
            await say(None)
            last = await anext(found)
            assert (last.event, json.loads(last.data)) == ("control", control(5, "upToDate", "streamClosed"))
            assert await anext(found, None) is None


async def test_s5_events_of_a_long_stream_are_up_to_date_at_its_end_only(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_durable_streams, "MAX_LENGTH", 1)
    await open_stream(*range(1000))
    found = await _first_events(client, "/w?offset=-1&live=sse", 5)
    assert told(found) == [
        list(range(500)), control(500), list(range(500, 1000)), control(1000), control(1000, "upToDate"),
    ]  # fmt: skip
    found = await _first_events(client, f"/w?offset={offset_token(700)}&live=sse", 2)
    assert told(found) == [list(range(700, 1000)), control(1000, "upToDate")]


async def test_s5_events_from_now_on_bring_what_is_new(client: httpx.AsyncClient) -> None:
    handle = await open_stream(*range(3))
    async with source(f"{client.base_url}/w?offset=now&live=sse") as stream, aclosing(aiter(stream)) as found:  # type: ignore[type-var]  # it is a generator
        assert told([await anext(found)]) == [control(3, "upToDate")]
        await say(3)
        assert told([await anext(found), await anext(found)]) == [[3], control(4, "upToDate")]
    await say(None)
    await handle.get_result()
    for offset in ("now", offset_token(4)):
        found_all = await events(f"{client.base_url}/w?offset={offset}&live=sse")
        assert told(found_all) == [control(4, "upToDate", "streamClosed")]
        assert "streamCursor" not in found_all[0].data


async def test_events_of_an_empty_stream_begin_with_its_offset(client: httpx.AsyncClient) -> None:
    await open_stream()
    for offset in ("-1", "now"):
        assert told(await _first_events(client, f"/w?offset={offset}&live=sse", 1)) == [control(0, "upToDate")]


async def test_s5_a_connection_for_events_ends_in_time_and_the_next_goes_on(dbos: DBOS) -> None:
    async with reading(event_stream_seconds=0.3) as client:
        handle = await open_stream(0)
        seen: list[Any] = []
        offset, number = "-1", 1
        while not seen or "streamClosed" not in seen[-1]:
            found = await events(f"{client.base_url}/w?offset={offset}&live=sse")
            parts = told(found)
            seen += [part for part in parts if part]
            offset = parts[-1]["streamNextOffset"]
            await say(number if number < 4 else None)
            number += 1
            if number == 6:
                await handle.get_result()
        assert [value for part in seen if isinstance(part, list) for value in part] == [0, 1, 2, 3]


async def test_a_client_that_left_its_events_leaves_nothing(client: httpx.AsyncClient) -> None:
    await open_stream(1)
    before = watched()
    for _ in range(3):
        await _first_events(client, "/w?offset=-1&live=sse", 2)
        await eventually(lambda: watched() == before, "nobody waits any more", give_up_after_seconds=5)


async def test_heartbeats_come_while_nothing_else_does(client: httpx.AsyncClient) -> None:
    await open_stream(1)
    async with source(f"{client.base_url}/w?offset=-1&live=sse") as stream:
        following = asyncio.ensure_future(_all(stream))
        await eventually(lambda: stream.comments >= 3)
        await say(None)
        assert told(await following)[-1] == control(1, "upToDate", "streamClosed")


async def _all(stream: Any) -> list[Event]:
    return [event async for event in stream]


async def test_events_end_when_the_workflow_is_deleted_or_the_reader_is_closed(dbos: DBOS, database_url: str) -> None:
    async with DBOSClient(database_url) as reader, reading(client=reader) as client:
        await open_stream(1)
        async with source(f"{client.base_url}/w?offset=-1&live=sse") as stream, aclosing(aiter(stream)) as found:  # type: ignore[type-var]  # it is a generator
            assert told([await anext(found), await anext(found)]) == [[1], control(1, "upToDate")]
            await reader.__aexit__(None, None, None)
            assert await anext(found, None) is None, "it ends without being closed, so a client comes again"


async def test_a_client_that_reads_slowly_delays_nobody(client: httpx.AsyncClient) -> None:
    await start("w", ["x" * 1000 + str(n) for n in range(3000)])
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect((client.base_url.host, client.base_url.port))
        slow.sendall(b"GET /w?offset=-1&live=sse HTTP/1.1\r\nHost: x\r\n\r\n")
        assert await asyncio.to_thread(slow.recv, 12) == b"HTTP/1.1 200"
        async with asyncio.timeout(30):
            found = told(await events(f"{client.base_url}/w?offset=-1&live=sse"))
        assert sum(len(part) for part in found if isinstance(part, list)) == 3000
    await eventually(lambda: stream_key("w", "k") not in launched.executor().database.wakeups._subscriptions)
