"""What is measured: the workloads, how much of each a peer does, and what every peer must do alike.

The concurrency and the payload of a workload are the same for all peers; only how often it is repeated differs, so that a slow
peer ends in bearable time. Every peer asserts with `check` that each payload arrived exactly once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

TASKS = 1000
"""How many tasks start no-op workflows, or send from outside, at the same time."""
RECEIVERS = 50
"""How many workflows, or consumers, they send to."""
EVENT_WORKFLOWS = 100
EVENTS_EACH = 20
WARM_UPS = 20
"""How much of each verb every peer does before it is measured."""
SETTLE_SECONDS = 0.5
"""How long receivers get to come to wait before anything is sent; not part of any measure."""


@dataclass(frozen=True)
class Measure:
    """One figure of a workload."""

    workload: str
    unit: str
    title: str

    @property
    def more_is_better(self) -> bool:
        return self.unit == "/s"


MEASURES = {
    "no_op": Measure("no_op", "/s", "no-op workflows, started and finished"),
    "sends": Measure("send_recv", "/s", "sends from outside to 50 that receive"),
    "send_recv": Measure("send_recv", "/s", "the same until all are consumed"),
    "sends_queued": Measure("sends_queued", "/s", "sends from outside to 50 that wait for something else"),
    "ping_pong p50": Measure("ping_pong", "ms", "ping-pong, round trip p50"),
    "ping_pong p99": Measure("ping_pong", "ms", "ping-pong, round trip p99"),
    "lone_send p50": Measure("lone_send", "ms", "one lone send, p50"),
    "stream_latency p50": Measure("stream_latency", "ms", "one stream, write to delivery p50"),
    "stream_latency p99": Measure("stream_latency", "ms", "one stream, write to delivery p99"),
    "streams_20": Measure("streams_20", "/s", "streams, 20 writers and 20 readers"),
    "streams_100": Measure("streams_100", "/s", "streams, 100 writers and 100 readers"),
    "events": Measure("events", "/s", "events set and got, 100 workflows of 20"),
    "read_finished": Measure("read_finished", "/s", "values of a finished stream read"),
}

WORKLOADS = tuple(dict.fromkeys(measure.workload for measure in MEASURES.values()))

FAST = {
    "no_op": 5,  # times each of the TASKS
    "send_recv": 10,  # messages each of the TASKS sends
    "sends_queued": 10,
    "ping_pong": 500,  # round trips
    "lone_send": 500,
    "stream_latency": 1000,  # values
    "streams_20": 200,  # values each
    "streams_100": 100,
    "events": 5,  # times EVENT_WORKFLOWS times EVENTS_EACH
    "read_finished": 10_000,  # values
}

SLOW = FAST | {
    "no_op": 1, "send_recv": 1, "sends_queued": 1, "ping_pong": 100, "lone_send": 200, "stream_latency": 200,
    "streams_20": 20, "streams_100": 10, "events": 1, "read_finished": 1000,
}  # fmt: skip

QUICK_FAST = FAST | {
    "no_op": 1, "send_recv": 2, "sends_queued": 2, "ping_pong": 100, "lone_send": 100, "stream_latency": 200,
    "streams_20": 50, "streams_100": 20, "events": 1, "read_finished": 2000,
}  # fmt: skip

QUICK_SLOW = SLOW | {
    "ping_pong": 30, "lone_send": 30, "stream_latency": 30, "streams_20": 5, "streams_100": 2, "read_finished": 200,
}  # fmt: skip

TINY = dict.fromkeys(WORKLOADS, 1) | {
    "ping_pong": 3,
    "lone_send": 3,
    "stream_latency": 3,
    "read_finished": 3,
}

SIZES = {"full": (FAST, SLOW), "quick": (QUICK_FAST, QUICK_SLOW), "tiny": (TINY, TINY)}

PROBLEM = "PROBLEM: "
"""What a study finds and must not be is a figure whose name begins so."""

Results = dict[str, float]
"""The figures of one workload in one round, by the names of MEASURES."""


def payload(number: int, size: int) -> str:
    """A text of so many bytes that tells its number."""
    return f"{number:010d}".ljust(size, "x")


def payloads(count: int, size: int) -> list[str]:
    """The first so many."""
    return [payload(number, size) for number in range(count)]


def check(arrived: Iterable[str], count: int, size: int, *, in_order: bool = False) -> None:
    """Every payload arrived exactly once, and nothing else."""
    found = list(arrived)
    assert len(found) == count, f"{len(found)} arrived of {count}"
    assert (found if in_order else sorted(found)) == payloads(count, size), "what arrived is not what was sent"


def percentile(values: Iterable[float], share: float) -> float:
    """The value that this share of them does not exceed."""
    found = sorted(values)
    return found[min(len(found) - 1, int(share * len(found)))]


def milliseconds(name: str, seconds: list[float]) -> Results:
    """Median and 99th percentile."""
    return {f"{name} p50": percentile(seconds, 0.5) * 1e3, f"{name} p99": percentile(seconds, 0.99) * 1e3}


async def timed(act: Awaitable[object]) -> float:
    """How many seconds it took."""
    began = time.perf_counter()
    await act
    return time.perf_counter() - began


async def one_after_the_other(act: Callable[[int], Awaitable[object]], count: int) -> list[float]:
    """The seconds that each of so many took."""
    return [await timed(act(number)) for number in range(count)]


async def at_once(act: Callable[[int], Awaitable[object]], tasks: int, each: int) -> float:
    """Seconds until so many tasks did so many each, one after the other, numbered from 0 without a gap."""

    async def work(task: int) -> None:
        for turn in range(each):
            await act(turn * tasks + task)

    return await timed(asyncio.gather(*(work(task) for task in range(tasks))))
