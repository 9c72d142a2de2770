"""The official client of the Durable Streams protocol, from npm and on node, reads our streams."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from dbos_async import DBOS
from dbos_async._database.change_keys import stream_key
from dbos_async._durable_streams import offset_token
from dbos_async._executor import launched
from tests.support.durable import open_stream, reading, say
from tests.support.eventually import eventually
from tests.support.web_app import bulk, start

PACKAGE = "@durable-streams/client@0.2.7"
PROGRAM = Path(__file__).parent.parent / "support" / "programs" / "durable_client.mjs"
NODE, NPM = shutil.which("node"), shutil.which("npm")

pytestmark = [
    pytest.mark.newest_only,  # what a client reads does not depend on the server's version
    pytest.mark.skipif(NODE is None or NPM is None, reason="there is no node with npm: install Node.js 20 or newer"),
]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reader with the client beside it."""
    folder = tmp_path_factory.mktemp("client")
    install = [str(NPM), "install", "--no-audit", "--no-fund", "--ignore-scripts", PACKAGE]
    try:
        done = subprocess.run(install, check=False, cwd=folder, capture_output=True, text=True, timeout=90)
    except subprocess.TimeoutExpired:
        pytest.skip(f"npm cannot install {PACKAGE}: the registry does not answer")
    if done.returncode != 0:
        pytest.skip(f"npm cannot install {PACKAGE}: {done.stderr.strip()[-300:]}")
    return Path(shutil.copy(PROGRAM, folder))


@pytest.fixture
def asked() -> list[str]:
    """The queries that the server was asked."""
    return []


@pytest.fixture
async def client(dbos: DBOS, asked: list[str]) -> AsyncIterator[httpx.AsyncClient]:
    # Connections for events that are shorter than a second are given up by the client.
    async with reading(asked, long_poll_seconds=0.3, event_stream_seconds=1.2) as client:
        yield client


class Reader:
    """A running reader, and the lines that it has printed."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.lines: list[dict[str, Any]] = []

    async def follow(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            self.lines.append(json.loads(line))

    @property
    def items(self) -> list[Any]:
        return [item for line in self.lines for item in line.get("items", [])]


@asynccontextmanager
async def reader(program: Path, client: httpx.AsyncClient, *arguments: str) -> AsyncIterator[Reader]:
    """Start it; at the end of the block it must end by itself."""
    process = await asyncio.create_subprocess_exec(
        str(NODE), program, f"{client.base_url}/w", *arguments, stdout=subprocess.PIPE, limit=2**24
    )
    made = Reader(process)
    following = asyncio.create_task(made.follow())
    try:
        yield made
        async with asyncio.timeout(30):
            await following
            assert await process.wait() == 0
    finally:
        following.cancel()
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_s5_the_official_client_catches_up(program: Path, client: httpx.AsyncClient) -> None:
    await open_stream(*range(1200))
    for mode, offset, first in (("false", "-1", 0), ("false", offset_token(1100), 1100), ("all", "-1", 0)):
        async with reader(program, client, mode, offset) as found:
            pass
        assert found.items == list(range(first, 1200))
        assert found.lines[-1] == {"ended": True, "offset": offset_token(1200), "closed": False}


async def test_s5_the_official_client_catches_up_in_parts(program: Path, client: httpx.AsyncClient) -> None:
    await (await start("w", 40, workflow=bulk)).get_result()
    async with reader(program, client, "all") as found:
        pass
    assert [len(value) for value in found.items] == [100_000] * 40


@pytest.mark.parametrize("mode", ["long-poll", "sse", "true"])
async def test_s3_the_official_client_follows_until_the_stream_is_closed(
    program: Path, client: httpx.AsyncClient, mode: str, asked: list[str]
) -> None:
    given: list[Any] = [None, {"a": "b\nc"}, "\r\n\r\nevent: control", "😀\u2028", [[]]]
    await open_stream(*given)
    async with reader(program, client, mode) as found:
        await eventually(lambda: len(found.items) == len(given), "it has caught up", give_up_after_seconds=30)
        for number in range(4):
            await say(number)
            await eventually(lambda: len(found.items) == len(given) + number + 1, give_up_after_seconds=30)  # noqa: B023
            before = len(asked)
            await eventually(lambda: len(asked) >= before + 2, "it asks again", give_up_after_seconds=30)  # noqa: B023
        await say(None)
    assert found.items == [*given, 0, 1, 2, 3], "each value once"
    assert found.lines[-1] == {"ended": True, "offset": offset_token(len(given) + 4), "closed": True}
    live = "sse" if mode == "sse" else "long-poll"
    assert {name for query in asked for name in query.split("&") if name.startswith("live=")} == {f"live={live}"}
    cursors = [int(name[7:]) for query in asked for name in query.split("&") if name.startswith("cursor=")]
    assert len(cursors) > 4
    assert cursors == sorted(cursors)


@pytest.mark.parametrize("mode", ["long-poll", "sse"])
async def test_s5_the_official_client_goes_on_at_an_offset_that_it_kept(
    program: Path, client: httpx.AsyncClient, mode: str
) -> None:
    await open_stream("a", "b")
    async with reader(program, client, mode, "-1", "2") as first:
        await eventually(lambda: first.items == ["a", "b"], give_up_after_seconds=30)
    kept = next(line["offset"] for line in first.lines if line.get("items"))
    await say("c")
    async with reader(program, client, mode, kept) as second:
        await eventually(lambda: second.items == ["c"], give_up_after_seconds=30)
        await say("d", None)
    assert second.items == ["c", "d"]
    assert second.lines[-1]["closed"] is True


@pytest.mark.parametrize("mode", ["long-poll", "sse"])
async def test_s5_the_official_client_begins_now(program: Path, client: httpx.AsyncClient, mode: str) -> None:
    await open_stream("old")
    async with reader(program, client, mode, "now") as found:
        await eventually(is_read, give_up_after_seconds=30)
        await say("new", None)
    assert found.items == ["new"]


def is_read() -> bool:
    """Whether somebody waits for the stream."""
    return stream_key("w", "k") in launched.executor().database.wakeups._subscriptions


async def test_the_official_client_reads_what_is_closed_and_is_told_what_is_not_there(
    program: Path, client: httpx.AsyncClient
) -> None:
    async with reader(program, client, "long-poll") as found:
        pass
    assert (found.lines[0]["failed"], found.lines[0]["status"]) in [("DurableStreamError", 404), ("FetchError", 404)]
    handle = await open_stream(1)
    async with reader(program, client, "head") as found:
        pass
    assert found.lines == [
        {"exists": True, "contentType": "application/json", "tail": offset_token(1), "closed": False}
    ]
    await say(None)
    await handle.get_result()
    for mode in ("long-poll", "sse", "false"):
        async with reader(program, client, mode) as found:
            pass
        assert found.items == [1]
        assert found.lines[-1] == {"ended": True, "offset": offset_token(1), "closed": True}
    async with reader(program, client, "head") as found:
        pass
    assert found.lines[0]["closed"] is True
