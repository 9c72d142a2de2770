"""What telemetry costs: ``python -m tests.benchmarks.telemetry [ROUNDS]``, off, with traces, and with traces and metrics.

One process with one setting at a time, in alternating rounds: messages between two workflows, steps that do nothing, and steps
that take ten milliseconds. Every trace is sampled, and the exporter does nothing with it. Uses $DBOS_DATABASE_URL, else a Postgres
of its own. Prints the median and the lowest round of each: CPU time of the process in µs an act, and for the last one the time
that passes.
"""

from __future__ import annotations

import asyncio
import gc
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any

from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from dbos_async import DBOS, SetWorkflowID, embedded
from tests.benchmarks.harness import ROOT

SETTINGS = ("off", "traces", "traces and metrics")
ACTS = 600
SLOW_ACTS = 100
SLOW_SECONDS = 0.01


@DBOS.workflow(name="telemetry: answers")
async def answers(count: int, to: str) -> None:
    for _ in range(count):
        await DBOS.recv("there")
        await DBOS.send(to, 1, "back")


@DBOS.workflow(name="telemetry: asks")
async def asks(count: int, other: str) -> None:
    for _ in range(count):
        await DBOS.send(other, 1, "there")
        await DBOS.recv("back")


@DBOS.step(name="telemetry: nothing")
async def nothing() -> None: ...


@DBOS.step(name="telemetry: slow")
async def slow() -> None:
    await asyncio.sleep(SLOW_SECONDS)


@DBOS.workflow(name="telemetry: steps")
async def steps(count: int, are_slow: bool) -> None:
    for _ in range(count):
        await (slow() if are_slow else nothing())


async def messages(count: int, number: int) -> None:
    """Half of the messages go there, half of them back."""
    with SetWorkflowID(f"answers {number}"):
        answering = await DBOS.start_workflow(answers, count // 2, f"asks {number}")
    with SetWorkflowID(f"asks {number}"):
        asking = await DBOS.start_workflow(asks, count // 2, f"answers {number}")
    await asking.get_result()
    await answering.get_result()


async def cost(work: Coroutine[Any, Any, None]) -> tuple[float, float]:
    """The CPU time of this process, and the time that passes, in seconds."""
    gc.collect()
    cpu, wall = time.process_time(), time.perf_counter()
    await work
    return time.process_time() - cpu, time.perf_counter() - wall


class Nowhere(SpanExporter):
    """Forgets what it is told."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return SpanExportResult.SUCCESS


async def one(url: str, setting: str) -> None:
    """Print the figures of one setting."""
    if setting != "off":
        tracers = TracerProvider()
        tracers.add_span_processor(BatchSpanProcessor(Nowhere()))
        trace.set_tracer_provider(tracers)
    if setting == "traces and metrics":
        metrics.set_meter_provider(MeterProvider([InMemoryMetricReader()]))
    number = time.time_ns()
    async with DBOS(url, executor_id="telemetry", telemetry=setting != "off"):
        await messages(100, number)
        await steps(100, False)
        found = await cost(messages(ACTS, number + 1))
        print("a send and its receive, CPU", found[0] / ACTS * 1e6, sep="\t")
        found = await cost(steps(ACTS, False))
        print("a step that does nothing, CPU", found[0] / ACTS * 1e6, sep="\t")
        found = await cost(steps(SLOW_ACTS, True))
        print("a step of 10 ms, time", found[1] / SLOW_ACTS * 1e6, sep="\t")


async def round_of(url: str, setting: str) -> dict[str, float]:
    """The figures of one setting, in a process of its own: a provider can be set once."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.benchmarks.telemetry", url, setting, cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    if process.returncode:
        raise SystemExit(f"{setting}: exit code {process.returncode}")
    return {name: float(figure) for name, figure in (line.split("\t") for line in out.decode().splitlines())}


async def compare(url: str, rounds: int) -> None:
    """Alternate between the settings, and print what came out."""
    figures: dict[tuple[str, str], list[float]] = {}
    for number in range(rounds):
        for setting in SETTINGS if number % 2 else SETTINGS[::-1]:
            for name, figure in (await round_of(url, setting)).items():
                figures.setdefault((name, setting), []).append(figure)
    for (name, setting), each in sorted(figures.items(), key=lambda one: (one[0][0], SETTINGS.index(one[0][1]))):
        off = figures[name, "off"]
        ratio = statistics.median(each) / statistics.median(off)
        print(f"{name:32} {setting:20} {statistics.median(each):8.0f} µs (lowest {min(each):.0f}), {ratio:.2f} of off")


def main() -> None:
    """One setting as a process, or all of them."""
    if len(sys.argv) == 3:
        asyncio.run(one(sys.argv[1], sys.argv[2]))
        return
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 8
    url = os.environ.get("DBOS_DATABASE_URL")
    if url:
        asyncio.run(compare(url, rounds))
        return
    with tempfile.TemporaryDirectory(prefix="dbos-telemetry-") as folder:
        server = embedded.join(Path(folder))
        try:
            asyncio.run(compare(server.url, rounds))
        finally:
            server.leave()


if __name__ == "__main__":
    main()
