"""Streams as server-sent events that resume."""

from __future__ import annotations

import asyncio
import json
import socket
from contextlib import aclosing
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dbos_async import (
    DBOS,
    DBOSClient,
    _event_streams,
)
from dbos_async._database.change_keys import end_key, stream_key
from dbos_async._executor import launched
from dbos_async.fastapi import add_error_handlers, stream_response
from tests.support.eventually import eventually
from tests.support.proxy import Proxy
from tests.support.web import Event, events, serving, source
from tests.support.web_app import application, bulk, ids, start, typed, values, watched

# Streams


async def test_a_stream_is_messages_whose_ids_are_their_offsets_and_then_the_end(site: str) -> None:
    given: list[Any] = [None, "", 0, [], {"a": "b\nc"}, "\r\n", "id: 7", "😀\u2028"]
    await start("w", given)
    async with source(f"{site}/w/stream") as stream:
        found = [event async for event in stream]
    assert values(found) == given
    assert ids(found) == list(range(len(given)))
    assert found[-1] == Event("end", str(len(given)), '{"status":"SUCCESS"}')
    assert stream.retry == 1000
    assert stream.response.headers["cache-control"] == "no-store"


async def test_a_typed_value_is_the_json_that_was_written(site: str) -> None:
    await start("w", workflow=typed)
    (found, _end) = await events(f"{site}/w/stream")
    assert json.loads(found.data) == {"name": "two\nlines\r\n\u2028é😀", "share": 0.5}


async def test_a_reader_resumes_exactly_at_the_next_value(site: str) -> None:
    await start("w", list(range(1200)))
    for headers, query, first in (
        ({}, "?offset=7", 7),
        ({"Last-Event-ID": "7"}, "", 8),
        ({"Last-Event-ID": "7"}, "?offset=3", 8),  # as an EventSource of ?offset=3 asks when it reconnects
        ({"Last-Event-ID": "0"}, "", 1),
        ({"Last-Event-ID": "1199"}, "", 1200),
        ({}, "?offset=1200", 1200),
        ({}, "?offset=5000", 5000),
    ):
        found = await events(f"{site}/w/stream{query}", headers)
        assert ids(found) == values(found) == list(range(first, 1200)), (headers, query)
        assert found[-1].event == "end"


async def test_a_reader_follows_live_and_what_is_there_goes_out_at_once(site: str) -> None:
    await start("w", list(range(1200)), "wait")
    await eventually(_waits_in_recv, "everything is written")
    async with source(f"{site}/w/stream") as stream, aclosing(aiter(stream)) as found:  # type: ignore[type-var]  # it is a generator
        assert [int((await anext(found)).id or "") for _ in range(1200)] == list(range(1200))
        assert len(stream.chunks) < 30, "values that are there do not travel one by one"
        for n in range(1200, 1205):
            await DBOS.send("w", n)
            assert json.loads((await anext(found)).data) == n
        await DBOS.send("w", None)
        assert (await anext(found)).event == "end"
        assert await anext(found, None) is None


@pytest.mark.parametrize(
    ("ending", "act", "event", "status"),
    [
        ("", None, "end", "SUCCESS"),
        ("close", None, "end", "CLOSED"),
        ("fail", None, "failed", "ERROR"),
        ("wait", DBOS.cancel_workflow, "failed", "CANCELLED"),
    ],
)
async def test_a_browser_can_tell_how_it_ended_and_stops_asking(
    site: str, ending: str, act: Any, event: str, status: str
) -> None:
    await start("w", [1, 2], ending)
    if act is not None:
        await eventually(_waits_in_recv)
        await act("w")
    found = await events(f"{site}/w/stream")
    assert values(found) == [1, 2]
    assert (found[-1].event, json.loads(found[-1].data)) == (event, {"status": status})
    async with httpx.AsyncClient(base_url=site, trust_env=False) as client:
        again = await client.get("/w/stream", headers={"Last-Event-ID": found[-1].id or "1"})
    if status == "CANCELLED":
        # It may be resumed, and its next value takes the offset after the last one.
        assert found[-1].id is None
        assert again.status_code == 200
        await DBOS.resume_workflow("w")
        await DBOS.send("w", 3)
        await DBOS.send("w", None)
        assert values(await events(f"{site}/w/stream", {"Last-Event-ID": "1"})) == [3]
    else:
        assert again.status_code == 204


async def test_the_reason_of_a_failure_is_not_told_to_browsers(site: str) -> None:
    await start("w", [], "fail")
    assert "secret" not in (await events(f"{site}/w/stream"))[-1].data


async def test_values_that_were_trimmed_are_gone_and_a_reader_behind_them_goes_on(site: str) -> None:
    await start("w", list(range(6)))
    await (await DBOS.retrieve_workflow("w")).get_result()
    await DBOS.trim_stream("w", "k", before=4)
    async with httpx.AsyncClient(base_url=site) as client:
        for query, last in (({"offset": 0}, {}), ({"offset": 3}, {}), ({}, {"Last-Event-ID": "2"})):
            answer = await client.get("/w/stream", params=query, headers=last)
            assert answer.status_code == 410
            assert answer.json()["first"] == 4
            assert answer.json()["detail"].endswith("read from offset 4 on.")
    assert values(await events(f"{site}/w/stream?offset=4")) == [4, 5]
    assert values(await events(f"{site}/w/stream", {"Last-Event-ID": "3"})) == [4, 5]
    await DBOS.trim_stream("w", "k", before=6)
    async with httpx.AsyncClient(base_url=site) as client:
        assert (await client.get("/w/stream", headers={"Last-Event-ID": "6"})).status_code == 204, (
            "it was told of the end"
        )
    assert (await events(f"{site}/w/stream", {"Last-Event-ID": "5"}))[-1].event == "end"


async def test_a_client_that_was_too_slow_is_told_where_the_stream_begins_now(site: str) -> None:
    await start("w", list(range(6)))
    await (await DBOS.retrieve_workflow("w")).get_result()
    place = _event_streams.FollowedStream(launched.database(), "w", "k", _request())
    first = await place.first()
    assert first is not None
    page = first._replace(end=None)  # the workflow goes on, and the client takes its time
    place._place.offset = 2
    body = _event_streams.body(place, b"", page)
    await anext(body)
    await DBOS.trim_stream("w", "k", before=4)
    assert await anext(body) == b'event: failed\ndata: {"status":"TRIMMED","first":4}\n\n'
    assert await anext(body, None) is None


def _request() -> Request:
    return Request({"type": "http", "headers": [], "query_string": b""})


async def test_a_stream_of_nobody_is_not_found_and_one_that_is_deleted_has_failed(site: str) -> None:
    async with httpx.AsyncClient(base_url=site, trust_env=False) as client:
        assert (await client.get("/nobody/stream")).status_code == 404
        assert (await client.get(f"/{'x' * 600}/stream")).status_code == 422
    before = watched()
    await start("w", [1], "wait")
    async with source(f"{site}/w/stream") as stream, aclosing(aiter(stream)) as found:  # type: ignore[type-var]  # it is a generator
        assert json.loads((await anext(found)).data) == 1
        await eventually(lambda: watched() >= before + 2, "the reader waits")
        await DBOS.cancel_workflow("w")
        assert (await anext(found)).event == "failed"
    await DBOS.delete_workflow("w")
    async with httpx.AsyncClient(base_url=site, trust_env=False) as client:
        assert (await client.get("/w/stream")).status_code == 404


@pytest.mark.parametrize("offset", ["-1", "1.5", "x", "²", "2147483647", "99999999999", "1 2"])
async def test_a_bad_offset_is_told_and_no_fault_of_the_server(site: str, offset: str) -> None:
    await start("w", [1])
    async with httpx.AsyncClient(base_url=site, trust_env=False) as client:
        assert (await client.get("/w/stream", params={"offset": offset})).status_code == 422
        header = await client.get("/w/stream", headers={b"Last-Event-ID": offset.encode()})
        assert header.status_code == 422


async def test_heartbeats_come_while_nothing_else_does(site: str) -> None:
    await start("w", [1], "wait")
    async with source(f"{site}/w/stream") as stream:
        reading = asyncio.ensure_future(_all(stream))
        await eventually(lambda: stream.comments >= 3, "heartbeats come")
        await DBOS.send("w", None)
        assert values(await reading) == [1]


async def _all(stream: Any) -> list[Event]:
    return [event async for event in stream]


async def test_a_client_that_left_is_noticed_and_nothing_of_it_stays(site: str) -> None:
    await start("w", [1], "wait")
    await eventually(_waits_in_recv)
    before, tasks = watched(), len(asyncio.all_tasks())
    for _ in range(3):
        async with source(f"{site}/w/stream") as stream, aclosing(aiter(stream)) as found:  # type: ignore[type-var]  # it is a generator
            assert (await anext(found)).id == "0"
            await eventually(lambda: watched() == before + 2, "it waits for the stream and the end of the workflow")
        await eventually(lambda: watched() == before, "nobody waits any more", give_up_after_seconds=2)
    # One task stays with the loop, by which the library for events notices that the server stops.
    await eventually(lambda: len(asyncio.all_tasks()) <= tasks + 1, "no task is left")


async def _waits_in_recv() -> bool:
    return any(step.verb == "recv" for step in await DBOS.list_workflow_steps("w"))


async def test_many_readers_hold_no_connection_while_they_wait(site: str, connection: Any) -> None:
    await start("w", [1], "wait")
    waiting = launched.executor().database.wakeups._subscriptions
    readers = [asyncio.create_task(events(f"{site}/w/stream")) for _ in range(100)]
    await eventually(lambda: len(waiting.get(stream_key("w", "k"), ())) == 100, "all wait")
    query = "select count(*) from pg_stat_activity where application_name <> '' and datname = current_database()"
    at_work = f"{query} and state <> 'idle'"
    assert await connection.fetchval(query) >= 2, "those of the pool, and the one that listens"
    assert await connection.fetchval(query) <= 9
    await eventually(lambda: _none(connection, at_work), "no connection is in use")
    await DBOS.send("w", 2)
    await DBOS.send("w", None)
    assert [values(found) for found in await asyncio.gather(*readers)] == [[1, 2]] * 100


async def _none(connection: Any, query: str) -> bool:
    return bool(await connection.fetchval(query) == 0)


async def test_a_client_that_reads_slowly_slows_nobody_and_grows_nothing(
    site: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    make = _event_streams.events

    def counted(*arguments: Any) -> bytes:
        made.append(len(found := make(*arguments)))
        return found

    monkeypatch.setattr(_event_streams, "events", counted)
    await (await start("w", 200, workflow=bulk)).get_result()
    port = int(site.rpartition(":")[2])
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect(("127.0.0.1", port))
        slow.sendall(b"GET /w/stream HTTP/1.1\r\nHost: x\r\n\r\n")
        await eventually(lambda: made)
        async with asyncio.timeout(20):
            assert len(values(await events(f"{site}/w/stream"))) == 200
        # Twenty megabytes for one. For the other what the kernel buffers and one page; the rest waits in the database.
        assert 20_000_000 < sum(made) < 28_000_000
    before = watched()
    await eventually(lambda: watched() <= before)


async def test_an_answer_that_has_begun_outlasts_an_outage_and_a_new_one_says_to_come_later(
    dbos: DBOS, database_url: str
) -> None:
    async with Proxy(database_url) as proxy, DBOSClient(proxy.url, connect_timeout_seconds=0.5) as client:

        async def stream(request: Request) -> Response:
            return await stream_response(request, "w", "k", client=client)

        app = Starlette(routes=[Route("/", stream)])
        add_error_handlers(app)
        async with serving(app) as site:
            await start("w", [1], "wait")
            found: list[Event] = []
            reading = asyncio.create_task(_read_into(found, site))
            await eventually(lambda: found)
            proxy.freeze()
            proxy.cut()
            await DBOS.send("w", 2)
            async with httpx.AsyncClient(base_url=site, trust_env=False) as browser:
                later = await browser.get("/")
                assert (later.status_code, later.headers["retry-after"]) == (503, "5")
            assert values(found) == [1]
            await proxy.heal()
            proxy.cut()
            await eventually(lambda: len(found) == 2)
            await DBOS.send("w", None)
            await reading
            assert values(found) == [1, 2]
            await _end_watchers()


async def _end_watchers() -> None:
    """The library for events leaves one task to the loop, by which it notices that a server stops."""
    for task in asyncio.all_tasks():
        if "_shutdown_watcher" in repr(task.get_coro()):
            task.cancel()
            await asyncio.wait([task])


async def test_a_server_that_stops_ends_its_streams_and_drains(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(application(database_url)) as site:
        await start("w", [1], "wait")
        found: list[Event] = []
        reading = asyncio.create_task(_read_into(found, f"{site}/w/stream"))
        await eventually(lambda: found)
        before = asyncio.get_running_loop().time()
    await reading
    assert [event.id for event in found] == ["0"], "it ends without an end, so a browser comes again"
    assert asyncio.get_running_loop().time() - before < 10
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


async def _read_into(found: list[Event], url: str) -> None:
    async with source(url) as stream:
        async for event in stream:
            found.append(event)  # noqa: PERF401 - it is looked at meanwhile


async def test_a_live_page_hears_that_its_workflow_is_parked_and_goes_on_after_it(site: str, connection: Any) -> None:
    await start("w", [1], "wait")
    await eventually(_waits_in_recv)
    async with source(f"{site}/w/stream") as stream, aclosing(aiter(stream)) as found:  # type: ignore[type-var]  # it is a generator
        assert json.loads((await anext(found)).data) == 1
        # As a replay in another process parks it.
        await connection.execute(
            "update dbos_async.workflows set status = 'REPLAY_MISMATCH', owner = null, attempt = attempt + 1"
        )
        launched.executor().database.wakeups.wake(end_key("w"))
        assert await anext(found) == Event("parked", None, '{"status":"REPLAY_MISMATCH"}')
        await DBOS.resume_workflow("w")
        await DBOS.send("w", 2)
        await DBOS.send("w", None)
        assert json.loads((await anext(found)).data) == 2
        assert (await anext(found)).event == "end"
    assert [event.event for event in await events(f"{site}/w/stream")][-1] == "end"
