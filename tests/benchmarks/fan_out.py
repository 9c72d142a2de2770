"""A thousand browsers follow streams: ``python -m tests.benchmarks.fan_out [--streams 1] [--clients 1000] [--seconds 60]``.

With ``--rate 50`` each workflow writes so many values a second, through a stream writer.

Three processes besides Postgres: this one is the browsers, one is the web server, which only reads, and one runs the
workflows, each of which writes 100 bytes a second. ``--together`` runs the workflows in the web server.
Uses $DBOS_DATABASE_URL, else the embedded Postgres. Prints the time from before each write until a browser has the value, and
asserts that each of them got every value once, and that no more than three connections were there to read.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import resource
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from dbos_async import DBOS, DBOSClient, SendMessage, SetWorkflowID, embedded
from dbos_async.fastapi import lifespan, stream_response

VALUE_BYTES = 100
MAX_READING_CONNECTIONS = 3
MAX_RUNNING = 5000
TICKS = os.sysconf("SC_CLK_TCK")


@DBOS.workflow(name="fan out")
async def write(seconds: int, phase: float, rate: int) -> None:
    """One value a second, or ``rate`` of them through a writer; each workflow begins at a time of its own within the second."""
    await DBOS.recv("go", timeout_seconds=None)
    if rate:
        await speak(seconds, phase, rate)
        return
    async for value in values(seconds, phase, 1):
        await DBOS.write_stream("k", value)


@DBOS.step(name="fan out: speak")
async def speak(seconds: int, phase: float, rate: int) -> None:
    async with DBOS.stream_writer("k") as out:
        async for value in values(seconds, phase, rate):
            await out.write(value)


async def values(seconds: int, phase: float, rate: int) -> AsyncIterator[dict[str, Any]]:
    """So many values a second, of 100 bytes each."""
    began_at = time.time() + phase
    for n in range(seconds * rate):
        await asyncio.sleep(max(0.0, began_at + n / rate - time.time()))
        value: dict[str, Any] = {"at": time.time(), "x": ""}
        value["x"] = "x" * (VALUE_BYTES - len(str(value)) + 2)
        yield value


# The processes


async def work(url: str) -> None:
    """The workflows, until this process is stopped."""
    async with DBOS(url, max_running=MAX_RUNNING):
        await asyncio.Event().wait()


async def serve(url: str, port: int, together: bool) -> None:
    """The web server. Its connections for reading are those of a client of its own, so that they can be counted."""
    async with DBOSClient(url) as client:

        async def stream(request: Request) -> Response:
            return await stream_response(request, request.path_params["workflow_id"], "k", client=client)

        async def connections(_request: Request) -> Response:
            return JSONResponse(len(client._database.postgres.backends))

        app = Starlette(
            routes=[Route("/connections", connections), Route("/{workflow_id}", stream)],
            lifespan=lifespan(url, max_running=MAX_RUNNING) if together else None,
        )
        await uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning", access_log=False)).serve()


# The browsers


class Browser(asyncio.Protocol):
    """Reads one event stream and notes how old each value is."""

    def __init__(self, port: int, workflow_id: str, latencies: list[float]) -> None:
        self.values = 0
        self.is_open = asyncio.Event()
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._request = f"GET /{workflow_id} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode()
        self._latencies = latencies
        self._rest = b""
        self._id = b""

    def connection_made(self, transport: Any) -> None:
        transport.write(self._request)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_result("lost")

    def data_received(self, data: bytes) -> None:
        now = time.time()
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            if line.startswith(b"id: "):
                self._id = line[4:]
            elif line.startswith(b"retry: "):
                self.is_open.set()
            elif line.startswith(b'data: {"at":'):
                assert int(self._id) == self.values, f"value {self._id!r} came after {self.values} values"
                self.values += 1
                self._latencies.append(now - float(line[12 : line.index(b",")]))
            elif line.startswith(b"data: ") and not self.ended.done():
                self.ended.set_result(line.decode())


async def browse(arguments: argparse.Namespace, url: str) -> None:
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        port = place.getsockname()[1]
    async with DBOSClient(url, migrate=True):
        pass
    options = ["--together"] * arguments.together
    processes = {"web": start("serve", url, "--port", str(port), *options)}
    if not arguments.together:
        processes["workflows"] = start("work", url)
    try:
        await measure(arguments, url, port, processes)
    finally:
        for process in processes.values():
            process.terminate()
        for process in processes.values():
            process.wait()


async def measure(
    arguments: argparse.Namespace, url: str, port: int, processes: dict[str, subprocess.Popen[str]]
) -> None:
    latencies: list[float] = []
    async with httpx.AsyncClient(trust_env=False) as http, DBOSClient(url) as client:
        await answers(http, port)
        run = f"{time.time_ns():x}"
        ids = [f"fan-out-{run}-{n}" for n in range(arguments.streams)]
        for first in range(0, len(ids), 250):
            await asyncio.gather(*(begin(client, one, arguments) for one in ids[first : first + 250]))
        before = resident_bytes(processes["web"].pid)
        browsers = [Browser(port, ids[n % len(ids)], latencies) for n in range(arguments.clients)]
        for browser in browsers:
            await asyncio.get_running_loop().create_connection(lambda it=browser: it, "127.0.0.1", port)  # type: ignore[misc]  # it is bound now
            await browser.is_open.wait()
        idle = resident_bytes(processes["web"].pid)
        used = {name: cpu_seconds(process.pid) for name, process in processes.items()}
        mine, began = time.process_time(), time.perf_counter()
        for first in range(0, len(ids), 500):
            await client.send_bulk([SendMessage(one, 1, "go") for one in ids[first : first + 500]])
        ends = await asyncio.wait_for(asyncio.gather(*(one.ended for one in browsers)), arguments.seconds + 60)
        took = time.perf_counter() - began
        connections = (await http.get(f"http://127.0.0.1:{port}/connections")).json()
        after = resident_bytes(processes["web"].pid)
    assert ends == ['data: {"status":"SUCCESS"}'] * arguments.clients, set(ends)
    each = arguments.seconds * (arguments.rate or 1)
    assert {browser.values for browser in browsers} == {each}, "a value was lost"
    assert len(latencies) == arguments.clients * each
    latencies.sort()
    shares = {share: 1000 * latencies[int(len(latencies) * share / 100)] for share in (50, 90, 99, 99.9)}
    told = ", ".join(f"p{share:g} {value:.0f} ms" for share, value in shares.items())
    cpu = {name: (cpu_seconds(process.pid) - used[name]) / took for name, process in processes.items()}
    cpu["browsers"] = (time.process_time() - mine) / took
    print(f"{arguments.clients} clients, {arguments.streams} streams, {arguments.seconds} s: {len(latencies)} values")
    print(f"delivery {told}, slowest {1000 * latencies[-1]:.0f} ms")
    print(f"memory a client {(idle - before) / arguments.clients / 1024:.1f} KiB idle", end=", ")
    print(f"{(after - before) / arguments.clients / 1024:.1f} KiB at the end; connections for reading {connections}")
    print(f"cores used: {', '.join(f'{name} {share:.2f}' for name, share in cpu.items())}", end="; ")
    print(f"load average {os.getloadavg()[0]:.1f}")
    assert connections <= MAX_READING_CONNECTIONS


async def begin(client: DBOSClient, workflow_id: str, arguments: argparse.Namespace) -> None:
    with SetWorkflowID(workflow_id):
        await client.start_workflow("fan out", arguments.seconds, random.random(), arguments.rate)


async def answers(http: httpx.AsyncClient, port: int) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            (await http.get(f"http://127.0.0.1:{port}/connections")).raise_for_status()
            return
        except httpx.TransportError:
            await asyncio.sleep(0.1)
    raise TimeoutError("the web server does not answer")


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-m", "tests.benchmarks.fan_out", *arguments], text=True)


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role", nargs="?", default="browse", choices=["browse", "serve", "work"])
    parser.add_argument("url", nargs="?", default=os.environ.get("DBOS_DATABASE_URL"))
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument(
        "--rate", type=int, default=0, help="values a second through a stream writer; 0: one, by write_stream"
    )
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--together", action="store_true", help="run the workflows in the web server")
    arguments = parser.parse_args()
    if arguments.role == "work":
        await work(arguments.url)
    elif arguments.role == "serve":
        await serve(arguments.url, arguments.port, arguments.together)
    else:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 2 * arguments.clients + 100)), hard))
        server = None if arguments.url else await embedded.start()
        try:
            await browse(arguments, arguments.url or (server.url if server else ""))
        finally:
            if server:
                await server.stop()


if __name__ == "__main__":
    asyncio.run(main())
