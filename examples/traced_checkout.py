"""One trace across two processes: a shop that takes an order, and a worker that carries it out.

    python examples/traced_checkout.py     (no server needed)

The shop starts the order, pays it by a message, and asks for the parcel's number. The worker runs the workflow. Each process writes
its spans to a file, one JSON object a line; in earnest both send them to a collector. In the end the program prints the trace as a
tree. The arrow ← names the span that one is linked to: a receive is linked to its send.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from opentelemetry import trace
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter

from dbos_async import DBOS, DBOSClient, Question, SetWorkflowID, embedded

PARCEL = Question("parcel", str, str)


@DBOS.step(name="reserve")
async def reserve(item: str) -> int:
    """Take one from the shelf."""
    await asyncio.sleep(0.02)
    return 41


@DBOS.step(name="ship")
async def ship(item: str) -> str:
    """Hand it to the parcel service."""
    await asyncio.sleep(0.03)
    return "PARCEL-0815"


@DBOS.workflow(name="checkout")
async def checkout(item: str) -> str:
    """Sell one item: wait for the payment, ship, and answer who asks for the parcel."""
    await DBOS.set_event("left", await reserve(item))
    if await DBOS.recv("payment", timeout_seconds=60) != "paid":
        return "cancelled"
    parcel = await ship(item)
    asked = await DBOS.recv_envelope(PARCEL, timeout_seconds=60)
    if asked is not None:
        await asked.answer(parcel)
    return f"shipped as {parcel}"


@contextmanager
def tracing(file: Path, service: str) -> Generator[None]:
    """What makes dbos_async tell: a provider that is set before the launch. This one writes each span as a line."""
    with file.open("a", encoding="utf-8") as lines:
        exporter = ConsoleSpanExporter(out=lines, formatter=lambda span: span.to_json(indent=None) + "\n")
        provider = TracerProvider(resource=Resource({SERVICE_NAME: service}))
        provider.add_span_processor(BatchSpanProcessor(exporter))
        trace.set_tracer_provider(provider)
        yield
        provider.shutdown()  # which exports the last spans


async def work(url: str) -> None:
    """The worker: it runs workflows until its standard input ends."""
    async with DBOS(url):
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.read)


async def sell(url: str) -> str:
    """The shop: one request of a customer, who orders, pays and asks."""
    async with DBOSClient(url) as client:
        with trace.get_tracer("shop").start_as_current_span("POST /orders"):
            with SetWorkflowID(f"order-{uuid4()}"):
                handle = await client.start_workflow("checkout", "widget")
            await client.get_event(handle.workflow_id, "left")
            await asyncio.sleep(0.2)  # the customer looks for a card
            await client.send(handle.workflow_id, "paid", "payment")
            await client.ask(handle.workflow_id, PARCEL, "where is it?")
        return str(await handle.get_result())


def read(*files: Path) -> list[dict[str, Any]]:
    """The spans of all processes, in the order of their starts."""
    spans = [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    return sorted(spans, key=lambda span: span["start_time"])


def draw(spans: list[dict[str, Any]], parent: str | None = None, depth: int = 0) -> list[str]:
    """The spans that are a part of this one, each with its process, its outcome and what it is linked to."""
    names = {span["context"]["span_id"]: span["name"] for span in spans}
    lines: list[str] = []
    for span in spans:
        if span["parent_id"] != parent:
            continue
        outcome = span["attributes"].get("dbos_async.workflow.outcome")
        links = [names[link["context"]["span_id"]] for link in span["links"]]
        text = f"{'   ' * depth}{span['name']}" + (f" ({outcome})" if outcome else "")
        service = span["resource"]["attributes"]["service.name"]
        lines.append(f"{service:>6}  {text}" + "".join(f"  ← {link}" for link in links))
        lines += draw(spans, span["context"]["span_id"], depth + 1)
    return lines


async def main() -> None:
    """Start the worker, sell, and print the trace."""
    server = None if os.environ.get("DBOS_DATABASE_URL") else await embedded.start()
    url = os.environ["DBOS_DATABASE_URL"] if server is None else server.url
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{service}.jsonl" for service in ("shop", "worker")]
        pipe = asyncio.subprocess.PIPE
        worker = await asyncio.create_subprocess_exec(
            sys.executable, __file__, "worker", url, str(files[1]), stdin=pipe, stdout=pipe
        )
        assert worker.stdin is not None
        assert worker.stdout is not None
        await worker.stdout.readline()
        with tracing(files[0], "shop"):
            print(await sell(url))
        worker.stdin.close()
        await worker.wait()
        print(*draw(read(*files)), sep="\n")
    if server is not None:
        await server.stop()


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        with tracing(Path(sys.argv[3]), "worker"):
            asyncio.run(work(sys.argv[2]))
    else:
        asyncio.run(main())
