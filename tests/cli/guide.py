"""The guide of the command line: its commands run, and their outputs stand below them.

    python -m tests.cli.guide    # bring the outputs of docs/guide/command-line.md up to date

A block ``console`` has commands after ``$``, each with its output.
"""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import sys
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from dbos_async import DBOSClient
from dbos_async._cli.schema import migrated
from tests.cli.running import process
from tests.support.databases import new_database
from tests.support.eventually import eventually

ROOT = Path(__file__).parent.parent.parent
GUIDE = ROOT / "docs" / "guide" / "command-line.md"
BLOCK = re.compile(r"(?<=^```console\n).*?(?=^```$)", re.DOTALL | re.MULTILINE)
COLUMNS = 100


PROGRAM = """
import asyncio, sys
sys.path.insert(0, sys.argv[1])
import checkout

async def main():
    async with checkout.DBOS(executor_id="shop-1"):
        print("launched", flush=True)
        await asyncio.to_thread(sys.stdin.read)

asyncio.run(main())
"""
"""Runs the example's workflows, in a process of its own: elsewhere there may be other steps of the same names."""


@asynccontextmanager
async def example(url: str) -> AsyncGenerator[DBOSClient]:
    """The example runs on this database."""
    command = [sys.executable, "-c", PROGRAM, str(ROOT / "examples")]
    pipe = asyncio.subprocess.PIPE
    running = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, env=_environment(url))
    assert running.stdin is not None
    assert running.stdout is not None
    try:
        assert await running.stdout.readline() == b"launched\n"
        async with DBOSClient(url) as client:
            yield client
    finally:
        running.stdin.close()
        await running.communicate()


async def _is_calm(client: DBOSClient) -> bool:
    """Whether every workflow has ended or waits."""
    for one in await client.list_workflows():
        if one.ended_at is None and not any(
            wait.until for wait in (await client.describe_workflow(one.workflow_id)).waits
        ):
            return False
    return True


async def _run(url: str, command: str) -> str:
    name, *arguments = shlex.split(command)
    assert name == "dbos-async"
    running = process(url, *arguments, env=_environment(url))
    out, err = await asyncio.to_thread(running.communicate, timeout=60)
    assert running.returncode == 0, (command, out, err)
    return f"{out}{err}"


def _environment(url: str) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": str(COLUMNS), "DBOS_DATABASE_URL": url}


async def blocks(url: str, client: DBOSClient, text: str) -> AsyncIterator[tuple[str, str]]:
    """Each block of the guide as it stands, and with the outputs of now."""
    for block in BLOCK.findall(text):
        made = ""
        for command in re.findall(r"^\$ (.*)$", block, re.MULTILINE):
            await eventually(lambda: _is_calm(client))
            made += f"$ {command}\n{await _run(url, command)}"
        yield block, made


def steady(text: str) -> str:
    """A text without what differs from run to run: times, dates and bars, and the blanks that they leave."""
    text = re.sub(r"\d+(\.\d+)? (ms|s|min|h|d)\b( \d+ (s|min|h))?", "T", text)
    text = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "D", text)
    text = re.sub(r"[─━]+", "-", text)
    text = re.sub(r"^dbos_async_executor_workflows.*$|:[0-9a-f]{12}", "", text, flags=re.MULTILINE)
    return re.sub(r"[ \t]+", " ", text).strip()


async def _refresh(server_url: str) -> None:
    text = GUIDE.read_text()
    async with new_database(server_url, "guide") as url:
        await migrated(url, check=False)
        async with example(url) as client:
            made = [new async for _, new in blocks(url, client, text)]
    GUIDE.write_text(BLOCK.sub(lambda _: made.pop(0), text))


async def _main() -> None:
    from dbos_async import embedded

    with tempfile.TemporaryDirectory(prefix="dbos-guide-") as folder:
        server = await embedded.start(folder)
        try:
            await _refresh(server.url)
        finally:
            await server.stop()


if __name__ == "__main__":
    asyncio.run(_main())
