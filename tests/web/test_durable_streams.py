"""Streams read by the Durable Streams protocol, without waiting: catch-up reads, HEAD, caches and what is refused."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from dbos_async import DBOS, DBOSClient, _durable_streams
from dbos_async._durable_streams import offset_token
from tests.support.durable import open_stream, reading, say, stream_headers
from tests.support.eventually import eventually
from tests.support.proxy import Proxy
from tests.support.web_app import bulk, start, typed

CACHED = "max-age=60, stale-while-revalidate=300"


@pytest.fixture
async def client(dbos: DBOS) -> AsyncIterator[httpx.AsyncClient]:
    async with reading() as client:
        yield client


def at(offset: int, *flags: str) -> dict[str, str]:
    return {"next-offset": offset_token(offset)} | dict.fromkeys(flags, "true")


async def test_s5_every_json_value_is_caught_up_with_from_any_offset(client: httpx.AsyncClient) -> None:
    given: list[Any] = [None, "", 0, [], [[1]], {"a": "b\nc"}, "\r\n\r\nevent: data", "😀\u2028", -1.5]
    await open_stream(*given)
    for offset in ("", "?offset=-1", "?offset=0000000000", "?offset=0", "?unknown=1"):
        answer = await client.get(f"/w{offset}")
        assert (answer.status_code, answer.json()) == (200, given)
        assert answer.headers["content-type"] == "application/json"
        assert stream_headers(answer) == at(len(given), "up-to-date")
    for number in range(len(given) + 1):
        answer = await client.get("/w", params={"offset": offset_token(number)})
        assert answer.json() == given[number:]
        assert stream_headers(answer) == at(len(given), "up-to-date")


async def test_a_declared_value_is_the_json_that_was_written(client: httpx.AsyncClient) -> None:
    await (await start("w", workflow=typed)).get_result()
    assert (await client.get("/w")).json() == [{"name": "two\nlines\r\n\u2028é😀", "share": 0.5}]


@pytest.mark.parametrize("count", [499, 500, 501, 1000, 1200])
@pytest.mark.parametrize("ending", ["", "close", "wait"])
async def test_s3_a_long_stream_comes_in_parts_and_only_the_last_is_up_to_date(
    client: httpx.AsyncClient, count: int, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_durable_streams, "MAX_LENGTH", 1)
    if ending == "wait":
        await open_stream(*range(count))
    else:
        await start("w", list(range(count)), ending)
        await eventually(lambda: _is_closed(client))
    found: list[int] = []
    offset, offsets = "-1", list[str]()
    while True:
        answer = await client.get("/w", params={"offset": offset})
        found += answer.json()
        offset = answer.headers["stream-next-offset"]
        offsets.append(offset)
        if len(found) < count:
            assert stream_headers(answer) == at(len(found))
            continue
        ended = [] if ending == "wait" else ["closed"]
        assert stream_headers(answer) == at(count, "up-to-date", *ended)
        break
    assert found == list(range(count))
    assert offsets == sorted(set(offsets)), "offsets sort as strings"
    last = await client.get("/w", params={"offset": offset})
    assert (last.status_code, last.json(), stream_headers(last)) == (200, [], at(count, "up-to-date", *ended))


async def test_many_short_values_come_in_one_answer(client: httpx.AsyncClient) -> None:
    await open_stream(*range(1700))
    answer = await client.get("/w")
    assert (answer.json(), stream_headers(answer)) == (list(range(1700)), at(1700, "up-to-date"))


async def test_values_of_more_than_a_megabyte_come_in_parts(client: httpx.AsyncClient) -> None:
    await (await start("w", 24, workflow=bulk)).get_result()
    first = await client.get("/w")
    assert 1 <= len(first.json()) < 24
    assert stream_headers(first) == at(len(first.json()))


async def test_s3_a_stream_is_closed_once_its_workflow_has_ended_and_everything_was_read(
    client: httpx.AsyncClient,
) -> None:
    handle = await open_stream(1)
    assert stream_headers(await client.get("/w")) == at(1, "up-to-date")
    await say(2, None)
    await handle.get_result()
    assert stream_headers(await client.get("/w")) == at(2, "up-to-date", "closed")
    assert stream_headers(await client.get("/w?offset=1")) == at(2, "up-to-date", "closed")
    empty = await client.get("/w?offset=2")
    assert (empty.status_code, empty.text, stream_headers(empty)) == (200, "[]", at(2, "up-to-date", "closed"))


@pytest.mark.parametrize("ending", ["fail", "cancel"])
async def test_s3_a_stream_whose_workflow_failed_or_was_cancelled_is_closed(
    client: httpx.AsyncClient, ending: str
) -> None:
    if ending == "fail":
        handle = await start("w", [1], "fail")
        with pytest.raises(OSError, match="secret"):
            await handle.get_result()
    else:
        await open_stream(1)
        await DBOS.cancel_workflow("w")
    answer = await client.get("/w")
    assert (answer.json(), stream_headers(answer)) == ([1], at(1, "up-to-date", "closed"))
    # A cancelled workflow may be resumed, and then this answer is wrong.
    cached = "no-cache" if ending == "cancel" else CACHED
    assert answer.headers["cache-control"] == f"private, {cached}"


async def test_s5_now_is_the_tail_and_brings_no_value(client: httpx.AsyncClient) -> None:
    handle = await open_stream(*range(700))
    for flags in ((), ("closed",)):
        answer = await client.get("/w?offset=now")
        assert (answer.status_code, answer.text, stream_headers(answer)) == (200, "[]", at(700, "up-to-date", *flags))
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["cache-control"] == "no-store"
        assert "etag" not in answer.headers
        await say(None)
        await handle.get_result()


async def test_now_of_a_stream_that_nothing_was_written_to_is_its_beginning(client: httpx.AsyncClient) -> None:
    await open_stream()
    for query in ("?offset=now", "", "?offset=-1"):
        answer = await client.get(f"/w{query}")
        assert (answer.json(), stream_headers(answer)) == ([], at(0, "up-to-date"))


async def test_head_has_the_tail_and_whether_the_stream_is_closed(client: httpx.AsyncClient) -> None:
    handle = await open_stream(*range(700))
    for flags in ((), ("closed",)):
        answer = await client.head("/w")
        assert (answer.status_code, answer.content) == (200, b"")
        assert "content-length" not in answer.headers, "it would have to be that of a GET"
        assert stream_headers(answer) == at(700, "up-to-date", *flags)
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["cache-control"] == "no-store"
        await say(None)
        await handle.get_result()
    assert (await client.head("/nobody")).status_code == 404


async def test_a_stream_that_was_closed_while_its_workflow_goes_on_is_closed(client: httpx.AsyncClient) -> None:
    await start("w", [1, 2], "close")
    await eventually(lambda: _is_closed(client))
    for query in ("", "?offset=2"):
        assert stream_headers(await client.get(f"/w{query}")) == at(2, "up-to-date", "closed")


async def _is_closed(client: httpx.AsyncClient) -> bool:
    return "stream-closed" in (await client.head("/w")).headers


# Caches


async def test_what_a_client_has_is_not_sent_again_until_it_changes(client: httpx.AsyncClient) -> None:
    handle = await open_stream(1)
    seen: list[str] = []

    async def changed() -> None:
        answer = await client.get("/w")
        etag = answer.headers["etag"]
        assert etag not in seen
        for condition in (etag, f"W/{etag}", f'"x", {etag}', "*"):
            same = await client.get("/w", headers={"If-None-Match": condition})
            assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", etag)
            assert stream_headers(same) == stream_headers(answer)
        for old in (*seen, '"x"'):
            assert (await client.get("/w", headers={"If-None-Match": old})).json() == answer.json()
        seen.append(etag)

    await changed()
    await say(2)
    await eventually(lambda: _has(client, 2))
    await changed()
    await say(None)
    await handle.get_result()
    await changed()  # no value more: it is closed now
    assert len(seen) == 3


async def test_an_empty_end_of_a_stream_changes_its_tag_when_the_stream_is_closed(client: httpx.AsyncClient) -> None:
    handle = await open_stream(1)
    before = (await client.get("/w?offset=1")).headers["etag"]
    await say(None)
    await handle.get_result()
    after = await client.get("/w?offset=1", headers={"If-None-Match": before})
    assert (after.status_code, stream_headers(after)) == (200, at(1, "up-to-date", "closed"))


async def _has(client: httpx.AsyncClient, count: int) -> bool:
    return len((await client.get("/w")).json()) == count


@pytest.mark.parametrize(
    ("shared", "running", "empty", "ended"),
    [
        (False, "private, no-cache", "private, no-cache", f"private, {CACHED}"),
        (True, f"public, {CACHED}", "public, no-cache", f"public, {CACHED}"),
    ],
)
async def test_caches_are_told_what_they_may_keep(
    dbos: DBOS, shared: bool, running: str, empty: str, ended: str
) -> None:
    async with reading(shared=shared) as client:
        handle = await open_stream(*range(501))
        for query, expected in (("", running), ("?offset=500", running), ("?offset=501", empty)):
            answer = await client.get(f"/w{query}")
            assert answer.headers["cache-control"] == expected
            assert answer.headers["x-content-type-options"] == "nosniff"
            policy = "cross-origin" if shared else "same-origin"
            assert answer.headers["cross-origin-resource-policy"] == policy
        await say(None)
        await handle.get_result()
        for query in ("", "?offset=500", "?offset=501"):
            assert (await client.get(f"/w{query}")).headers["cache-control"] == ended


# What is refused


@pytest.mark.parametrize(
    "query",
    [
        "offset=", "offset=-2", "offset=x", "offset=1.5", "offset=1,2", "offset=1%202", "offset=%C2%B2", "offset=NOW",
        "offset=2147483648", "offset=99999999999", "offset=1&offset=2", "live=long-poll", "live=sse", "live=", "live=x&offset=-1",
        "live=sse&live=sse&offset=-1", "offset=-1&live=long-poll&cursor=x", "offset=-1&cursor=", "offset=-1&cursor=1&cursor=2",
    ],
)  # fmt: skip
async def test_what_cannot_be_understood_is_the_fault_of_the_client(client: httpx.AsyncClient, query: str) -> None:
    await open_stream(1)
    answer = await client.get(f"/w?{query}")
    assert answer.status_code == 400
    assert answer.headers["cache-control"] == "no-store"
    assert "must be" in answer.text or "needs" in answer.text


@pytest.mark.parametrize("query", ["", "?offset=now", "?offset=-1&live=long-poll", "?offset=now&live=sse", "?offset=9"])
async def test_s7_a_stream_of_nobody_is_not_found(client: httpx.AsyncClient, query: str) -> None:
    assert (await client.get(f"/nobody{query}")).status_code == 404
    assert (await client.get(f"/{'x' * 600}{query}")).status_code == 422


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
async def test_a_stream_can_only_be_read(client: httpx.AsyncClient, method: str) -> None:
    await open_stream(1)
    answer = await client.request(method, "/w", content="[2]")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")
    assert (await client.get("/w")).json() == [1]


async def test_a_client_of_an_application_serves_and_says_to_come_later_in_an_outage(
    dbos: DBOS, database_url: str
) -> None:
    async with (
        Proxy(database_url) as proxy,
        DBOSClient(proxy.url, connect_timeout_seconds=0.5) as reader,
        reading(client=reader) as client,
    ):
        await open_stream(1, 2)
        assert (await client.get("/w?offset=1")).json() == [2]
        assert (await client.head("/w")).headers["stream-next-offset"] == offset_token(2)
        proxy.freeze()
        proxy.cut()
        for query in ("", "?offset=now", "?offset=2&live=long-poll", "?offset=2&live=sse"):
            later = await client.get(f"/w{query}")
            assert (later.status_code, later.headers["retry-after"]) == (503, "5")
        await proxy.heal()
        proxy.cut()
        assert (await client.get("/w?offset=1")).json() == [2]
