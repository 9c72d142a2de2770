"""``dbos-async page``: the page by itself, as a process."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
from typer.testing import CliRunner

from dbos_async import DBOS
from dbos_async.cli import app

URL = "postgresql://nobody:secret@127.0.0.1:1/none"


@asynccontextmanager
async def running(*arguments: str) -> AsyncIterator[tuple[str, asyncio.subprocess.Process]]:
    """The address that the command tells, and its process."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "error", "-m", "dbos_async", "page", *arguments,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, env=os.environ | {"COLUMNS": "300"},
    )  # fmt: skip
    assert process.stdout is not None
    try:
        async with asyncio.timeout(30):
            line = (await process.stdout.readline()).decode()
        (address,) = re.findall(r"http://\S+/", line) or [line + (await process.stdout.read()).decode()]
        yield address, process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def answer(address: str, place: str = "") -> httpx.Response:
    async with httpx.AsyncClient(trust_env=False, timeout=30, transport=httpx.AsyncHTTPTransport(retries=10)) as client:
        return await client.get(f"{address}{place}")


async def test_the_command_serves_the_page_until_ctrl_c(database_url: str) -> None:
    async with DBOS(database_url):
        await DBOS.start_workflow(alone)
    async with running(database_url, "--port", "0") as (address, process):
        assert "page alone" in (await answer(address, "workflows")).text
        assert (await answer(address, "static/page.css")).status_code == 200
        process.send_signal(signal.SIGINT)
        async with asyncio.timeout(20):
            rest, _ = await process.communicate()
        assert (process.returncode, rest.decode()) == (0, "")


async def test_a_read_only_command_refuses_actions_and_its_page_is_for_this_machine(database_url: str) -> None:
    async with running(database_url, "--port", "0", "--read-only") as (address, _):
        assert "read-only" in (await answer(address)).text
        async with httpx.AsyncClient(trust_env=False) as client:
            refused = await client.post(f"{address}cancel?id=x", headers={"origin": address.rstrip("/")})
            assert (refused.status_code, refused.text) == (403, "This page is read-only.")
            for headers in ({"x-forwarded-for": "127.0.0.1"}, {"host": "evil.example"}):
                assert (await client.get(address, headers=headers)).status_code == 403


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([URL, "--host", "0.0.0.0"], "is no address of it"), ([URL, "--host", "shop.example"], "SSH tunnel"),
        (["mysql://x"], "postgresql"), ([], "set DBOS_DATABASE_URL"),
    ],
)  # fmt: skip
def test_what_cannot_be_served_is_explained(monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str) -> None:
    monkeypatch.delenv("DBOS_DATABASE_URL", raising=False)
    done = CliRunner().invoke(app, ["page", *arguments])
    assert (done.exit_code, words in done.output, "secret" in done.output) == (1, True, False), done.output


def test_a_port_that_is_taken_is_explained() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = CliRunner().invoke(app, ["page", URL, "--port", str(taken.getsockname()[1])])
    assert (done.exit_code, "cannot be used: Address already in use" in done.output) == (1, True), done.output


async def test_a_database_that_is_not_there_is_explained_in_one_sentence() -> None:
    async with running(URL, "--port", "0") as (told, process):
        async with asyncio.timeout(60):
            assert await process.wait() == 1, told
    assert len(told.strip().splitlines()) == 1, told
    assert "Connect call failed" in told
    assert "secret" not in told


@DBOS.workflow(name="page alone")
async def alone() -> None: ...
