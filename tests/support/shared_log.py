"""Workflows whose tasks share a log, and steps that are told how far it had come: so another path shows in what a step was told."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Any

from dbos_async import DBOS
from tests.support.eventually import eventually

RAN: list[tuple[str, int, str]] = []
"""What the steps were told whose bodies ran."""

GATES: dict[str, asyncio.Event] = defaultdict(asyncio.Event)
SHUT: set[str] = set()
"""The steps whose bodies wait for their gate."""

AGAIN = """
    update dbos_async.workflows set status = 'PENDING', owner = null, output = null, error = null, ended_at = null where id = 'w'
"""


def forget() -> None:
    """Begin anew."""
    RAN.clear()
    SHUT.clear()
    GATES.clear()


@DBOS.step(name="told")
async def told(who: str, length: int, last: str) -> str:
    RAN.append((who, length, last))
    if who in SHUT:
        await GATES[who].wait()
    return who


class Log:
    """What the tasks of a workflow have seen, and what each step was told of it."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.said: dict[str, tuple[str, int, str]] = {}

    async def step(self, who: str) -> None:
        self.said[who] = who, len(self.seen), self.seen[-1] if self.seen else ""
        self.seen.append(await told(*self.said[who]))

    async def receive(self, topic: str) -> None:
        self.seen.append(f"{topic} received {await DBOS.recv(topic, None)}")

    async def sleep(self, seconds: float) -> None:
        await DBOS.sleep(seconds)
        self.seen.append("slept")

    @property
    def result(self) -> dict[str, Any]:
        """What a workflow returns."""
        return {"seen": self.seen, "said": self.said}


async def rows(connection: Any) -> list[Any]:
    return list(
        await connection.fetch(
            "select branch, number, verb, key, output::text, completed_at, place, asked_after from dbos_async.steps "
            "where workflow_id = 'w' order by branch, number"
        )
    )


async def recorded(connection: Any, *texts: str) -> None:
    """Wait until steps have these outcomes, and receives of these topics have begun."""

    async def are_there() -> bool:
        found = await connection.fetch(
            "select coalesce(case when completed_at is not null then output end #>> '{}', key) as text "
            "from dbos_async.steps where workflow_id = 'w'"
        )
        return {*texts} <= {row["text"] for row in found}

    await eventually(are_there, f"{texts} are recorded")


async def ending(connection: Any) -> dict[str, Any]:
    async def has_ended() -> bool:
        return bool(await connection.fetchval("select status <> 'PENDING' from dbos_async.workflows where id = 'w'"))

    await eventually(has_ended, "it ends")
    (row,) = await connection.fetch("select status, error::text from dbos_async.workflows where id = 'w'")
    assert row["status"] == "SUCCESS", row["error"]
    result: dict[str, Any] = await (await DBOS.retrieve_workflow("w")).get_result()
    return result


def check_bodies(result: dict[str, Any]) -> None:
    """Every body that ran was told what the execution that came to its end says."""
    said = {who: tuple(told) for who, told in result["said"].items()}
    for ran in RAN:
        assert ran == said.get(ran[0]), f"{ran} ran, and the execution that ended said {said.get(ran[0])}"


async def replays_alike(url: str, connection: Any, result: dict[str, Any]) -> None:
    before = await rows(connection)
    RAN.clear()
    await connection.execute(AGAIN)
    async with DBOS(url):
        assert await ending(connection) == result
    assert await rows(connection) == before
    assert RAN == []
