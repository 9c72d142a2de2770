"""Metrics: what is counted and measured, and what one query a scrape tells."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from dbos_async import DBOS, InvalidMessageError, ReplayMismatchError, SetWorkflowID, Topic
from dbos_async._telemetry.names import MAX_LABELS, Labels
from tests.support.eventually import eventually
from tests.support.telemetry import Exported

pytestmark = pytest.mark.newest_only  # telemetry does not depend on the version of Postgres


@DBOS.step(name="told charges")
async def charge() -> None:
    await asyncio.sleep(0.01)


@DBOS.workflow(name="told takes")
async def takes(count: int) -> None:
    for _ in range(count):
        await DBOS.recv("paid")


async def test_messages_steps_and_runs_are_counted(told: Exported) -> None:
    @DBOS.workflow(name="told sends")
    async def sends(to: str) -> None:
        await charge()
        for _ in range(3):
            await DBOS.send(to, 1, "paid")

    handle = await DBOS.start_workflow(takes, 3)
    await eventually(lambda: told.value("dbos_async.runs", dbos_async__state="waiting") == 1)
    assert told.value("dbos_async.runs", dbos_async__state="running") == 0
    await sends(handle.workflow_id)
    await handle.get_result()
    paid = {"messaging__destination__name": "paid", "messaging__system": "dbos_async"}
    assert told.value("messaging.client.sent.messages", **paid) == 3
    assert told.value("messaging.client.consumed.messages", **paid) == 3
    assert told.value("messaging.client.operation.duration", **paid, messaging__operation__name="send") == 3
    assert told.value("messaging.client.operation.duration", **paid, messaging__operation__name="recv") == 3
    assert told.value("dbos_async.step.duration", dbos_async__step__name="told charges") == 1
    ended = {"dbos_async__workflow__outcome": "SUCCESS"}
    assert told.value("dbos_async.workflow.duration", dbos_async__workflow__name="told sends", **ended) == 1
    assert told.value("dbos_async.workflow.duration", dbos_async__workflow__name="told takes", **ended) == 1
    (step,) = told.points("dbos_async.step.duration")
    assert 0.01 <= step.sum < 5


def block() -> None:
    """Stop the event loop for more than a second."""
    time.sleep(1.3)


async def test_batches_connections_and_the_lease_are_measured(told: Exported) -> None:
    await asyncio.gather(*[takes(0) for _ in range(20)])
    size = next(p for p in told.points("dbos_async.batch.size") if p.attributes["dbos_async.statement"] == "START")
    duration = next(
        p for p in told.points("dbos_async.batch.duration") if p.attributes["dbos_async.statement"] == "START"
    )
    assert size.count == duration.count < size.sum <= 20
    assert 0 < duration.sum < 5
    assert told.value("dbos_async.listener.connected") == 1
    assert 0 < told.value("dbos_async.lease.seconds_left") <= 15
    used = told.value("dbos_async.connections", dbos_async__state="used")
    assert 1 <= used + told.value("dbos_async.connections", dbos_async__state="idle") <= 8
    assert told.value("dbos_async.event_loop.blocked") == 0
    block()
    await eventually(lambda: told.value("dbos_async.event_loop.blocked") >= 1)


async def test_a_waiting_receive_tells_for_how_long_its_message_was_stored(told: Exported, database_url: str) -> None:
    from dbos_async import DBOSClient

    handle = await DBOS.start_workflow(takes, 1)
    await eventually(lambda: told.value("dbos_async.runs", dbos_async__state="waiting") == 1)
    async with DBOSClient(database_url) as client:
        # A message with an idempotency key is not handed to the receive that waits.
        await client.send(handle.workflow_id, 1, "paid", idempotency_key="k")
        await handle.get_result()
    (latency,) = told.points("dbos_async.wakeup.latency")
    assert latency.count == 1
    assert 0 < latency.sum < 5


async def test_what_waits_and_what_was_rejected_is_told_at_the_next_scrape(told: Exported) -> None:
    @DBOS.workflow(name="told reads a number")
    async def reads_a_number() -> None:
        with pytest.raises(InvalidMessageError):
            await DBOS.recv(Topic("number", int))
        await DBOS.recv("go", timeout_seconds=None)

    handle = await DBOS.start_workflow(reads_a_number)
    await DBOS.send(handle.workflow_id, "seven", "number")
    for topic in ("news", "news", None):
        await DBOS.send(handle.workflow_id, 1, topic)
    news, number = ({"messaging__destination__name": topic} for topic in ("news", "number"))
    await eventually(lambda: told.value("dbos_async.messages.rejected", **number) == 1)
    assert told.value("dbos_async.messages.waiting", **news) == 2
    assert told.value("dbos_async.messages.rejected", **news) == 0
    assert 0 < told.value("dbos_async.messages.oldest_age", **news) < 60
    untitled = [point for point in told.points("dbos_async.messages.waiting") if not point.attributes]
    assert [point.value for point in untitled] == [1]
    labels = {"dbos_async__workflow__name": "told reads a number", "dbos_async__workflow__status": "PENDING"}
    assert told.value("dbos_async.workflows", **labels, dbos_async__workflow__unclaimable=False) == 1
    await DBOS.send(handle.workflow_id, None, "go")
    await handle.get_result()
    labels["dbos_async__workflow__status"] = "SUCCESS"
    await eventually(lambda: told.value("dbos_async.workflows", **labels) == 1)


async def test_a_scrape_from_another_thread_waits_for_nothing(told: Exported) -> None:
    took: list[float] = []

    def scrape() -> None:
        began = time.monotonic()
        told.points("dbos_async.workflows")
        took.append(time.monotonic() - began)

    thread = threading.Thread(target=scrape)
    thread.start()
    thread.join(10)  # the event loop is blocked meanwhile
    assert took
    assert took[0] < 5


async def test_parked_workflows_and_take_overs_are_counted(exported: Exported, database_url: str) -> None:
    @DBOS.workflow(name="told changes")
    async def changes() -> None:
        await (charge() if len(runs) > 1 else DBOS.set_event("a", 1))
        runs.append(1)
        await DBOS.recv("go", timeout_seconds=None)

    runs: list[int] = [1]
    async with DBOS(database_url):
        with SetWorkflowID("changes"):
            handle = await DBOS.start_workflow(changes)
        await eventually(lambda: len(runs) == 2)
        await DBOS.cancel_workflow("changes")
        await DBOS.resume_workflow("changes")
        with pytest.raises(Exception, match="REPLAY_MISMATCH"):
            await handle.get_result()
        labels = {"dbos_async__workflow__name": "told changes", "dbos_async__workflow__outcome": "REPLAY_MISMATCH"}
        assert exported.value("dbos_async.parked", **labels) == 1
        assert exported.value("dbos_async.workflow.duration", **labels) == 1
    parked = exported.spans("workflow told changes")[-1]
    assert (parked.attributes or {})["error.type"] == ReplayMismatchError.__name__


async def test_topics_after_two_hundred_are_other(told: Exported) -> None:
    handle = await DBOS.start_workflow(takes, 1)
    await asyncio.gather(*[DBOS.send(handle.workflow_id, 1, f"topic {n}") for n in range(MAX_LABELS + 50)])
    topics = {p.attributes["messaging.destination.name"] for p in told.points("messaging.client.sent.messages")}
    assert len(topics | {"paid"}) == MAX_LABELS + 1  # the receive has a label, too
    assert told.value("messaging.client.sent.messages", messaging__destination__name="_other") >= 50
    assert len({span.name for span in told.spans()}) >= MAX_LABELS + 50  # spans have the names themselves
    await eventually(lambda: sum(p.value for p in told.points("dbos_async.messages.waiting")) == MAX_LABELS + 50)
    assert len(told.points("dbos_async.messages.waiting")) <= MAX_LABELS + 1
    await DBOS.send(handle.workflow_id, 1, "paid")


def test_labels_are_bounded_and_known_names_stay() -> None:
    labels = Labels()
    assert [labels.of(str(n)) for n in range(MAX_LABELS)] == [str(n) for n in range(MAX_LABELS)]
    assert labels.of("one more") == "_other"
    assert labels.of("7") == "7"


async def test_a_second_launch_tells_each_number_once(exported: Exported, database_url: str) -> None:
    for _ in range(2):
        async with DBOS(database_url):
            assert exported.value("dbos_async.listener.connected") == 1
        assert exported.points("dbos_async.listener.connected") == []
