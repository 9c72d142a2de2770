"""Values that are taken back, as server-sent events: whoever reads and comes again knows exactly what stands (promise S8)."""

from __future__ import annotations

import json
from contextlib import aclosing
from typing import Any

import httpx
import pytest

from dbos_async import DBOS, SetWorkflowID
from tests.support.eventually import eventually
from tests.support.web import Event, events, source
from tests.support.web_app import ids, values

# Each attempt of the step: the batches that it writes. All but the last attempt fail.
Attempts = list[list[list[str]]]


class TryAgainError(Exception):
    pass


tries: list[int] = []


@DBOS.step(name="web speak", retries_allowed=True, max_attempts=9, interval_seconds=0.001)
async def speak(attempts: Attempts, on_retry: Any) -> None:
    tries.append(1)
    async with DBOS.stream_writer("k", on_retry=on_retry) as out:
        for batch in attempts[len(tries) - 1]:
            for value in batch:
                await out.write(value)
            await out.flush()
    if len(tries) < len(attempts):
        raise TryAgainError


@DBOS.workflow(name="web conversation")
async def conversation(before: list[str], attempts: Attempts, after: list[str], on_retry: str) -> None:
    if before:
        await DBOS.write_stream_many("k", before)
    await speak(attempts, on_retry)
    for value in after:
        await DBOS.write_stream("k", value)


@DBOS.workflow(name="web slow conversation")
async def slow_conversation() -> None:
    await DBOS.write_stream("k", "before")
    await speak_when_told()


@DBOS.step(name="web speak when told", retries_allowed=True, max_attempts=9, interval_seconds=0.001)
async def speak_when_told() -> None:
    """Each attempt begins when it is told its values, and fails when it is told that. The last one ends."""
    tries.append(1)
    told: dict[str, Any] = await DBOS.get_event("director", f"attempt {len(tries)}", timeout_seconds=None)
    async with DBOS.stream_writer("k") as out:
        for value in told["values"]:
            await out.write(value)
    await DBOS.get_event("director", f"end of attempt {len(tries)}", timeout_seconds=None)
    if not told["is_last"]:
        raise TryAgainError


@DBOS.workflow(name="web director")
async def director() -> None:
    while (told := await DBOS.recv(timeout_seconds=None)) is not None:
        await DBOS.set_event(*told)


@pytest.fixture(autouse=True)
def no_tries() -> None:
    tries.clear()


async def speak_at_once(
    before: list[str], attempts: Attempts, after: list[str] | None = None, on_retry: str = "rewind"
) -> None:
    with SetWorkflowID("w"):
        await (await DBOS.start_workflow(conversation, before, attempts, after or [], on_retry)).get_result()


def page_of(found: list[Event], shown: dict[int, str] | None = None) -> dict[int, str]:
    """What a page shows that forgets what is taken back, by offsets; ``shown`` is what it has shown before."""
    shown = {} if shown is None else dict(shown)
    for event in found:
        if event.event == "message":
            assert int(event.id or "") not in shown
            shown[int(event.id or "")] = json.loads(event.data)
        elif event.event == "rewind":
            (offset,) = json.loads(event.data).values()
            shown = {place: value for place, value in shown.items() if place < offset}
    return shown


async def status_for(site: str, last_id: str) -> int:
    async with (
        httpx.AsyncClient(base_url=site, trust_env=False) as client,
        client.stream("GET", "/w/stream", headers={"Last-Event-ID": last_id}) as response,
    ):
        return response.status_code


async def tell(*told: Any) -> None:
    await DBOS.send("director", told)


async def test_s8_a_live_page_is_told_what_is_taken_back_and_shows_one_attempt_at_every_moment(site: str) -> None:
    with SetWorkflowID("director"):
        await DBOS.start_workflow(director)
    with SetWorkflowID("w"):
        await DBOS.start_workflow(slow_conversation)
    said = [["a", "b", "c"], ["d"], [], ["e", "f"]]
    shown: dict[int, str] = {}
    texts: list[list[str]] = []
    async with source(f"{site}/w/stream") as stream, aclosing(aiter(stream)) as found:  # type: ignore[type-var]  # it is a generator
        shown = page_of([await anext(found)])
        for attempt, spoken in enumerate(said, 1):
            await tell(f"attempt {attempt}", {"values": spoken, "is_last": attempt == len(said)})
            while [*shown.values()] != ["before", *spoken]:
                shown = page_of([await anext(found)], shown)
                texts.append([*shown.values()][1:])
            await tell(f"end of attempt {attempt}", True)
        end = await anext(found)
        assert await anext(found, None) is None
    assert all(any(text == spoken[: len(text)] for spoken in said) for text in texts)
    assert json.loads(end.data) == {"status": "SUCCESS"}
    assert values(await events(f"{site}/w/stream")) == ["before", "e", "f"]
    await DBOS.send("director", None)


async def test_s8_a_late_page_never_sees_what_was_taken_back(site: str) -> None:
    await speak_at_once(["x"], [[["a", "b"], ["c"]], [["d"]], [["e", "f"]]], ["y"])
    found = await events(f"{site}/w/stream")
    assert values(found) == ["x", "e", "f", "y"]
    assert [event.event for event in found] == ["message"] * 4 + ["end"], "it has nothing to forget"
    assert ids(found) == sorted({*ids(found)})


@pytest.mark.parametrize("attempts", [
    [[["a", "b", "c"], ["d", "e"]], [["f", "g", "h", "i"]]],
    [[["a", "b", "c"], ["d", "e"]], [["f"], ["g"]], [["h", "i", "j"]]],
    [[["a", "b"]], [], [["c"]]],
    [[["a", "b"]], []],
    [[], [["a", "b"]], []],
    [[["a"]] * 3, [["b"]] * 3, [["c"]] * 3, [["d"]] * 3],
])  # fmt: skip
@pytest.mark.parametrize("after", [[], ["y"]], ids=["nothing after", "a value after"])
async def test_s8_whatever_a_client_has_seen_it_shows_what_stands_when_it_comes_again(
    site: str, connection: Any, attempts: Attempts, after: list[str]
) -> None:
    """A client that was away at any moment, in a batch as well, had a prefix of what stood at that moment."""
    before = ["x0", "x1"]
    await speak_at_once(before, attempts, after)
    stands = page_of(await events(f"{site}/w/stream"))
    expected = before + [value for batch in attempts[-1] for value in batch] + after
    assert [*stands.values()] == expected
    for had in await moments(connection):
        last = max(had, default=None)
        found = await events(f"{site}/w/stream", {} if last is None else {"Last-Event-ID": str(last)})
        told = {place: value for place, value in had.items() if isinstance(value, str)}
        assert page_of(found, told) == stands, had
        lost = [place for place in told if place not in stands]
        rewinds = [json.loads(event.data)["offset"] for event in found if event.event == "rewind"]
        assert bool(rewinds) == bool(lost), f"it is told to forget if, and only if, it has something to forget: {had}"
        assert not lost or min(rewinds) == min(lost)
        by_offset = await events(f"{site}/w/stream?offset={0 if last is None else last + 1}")
        assert by_offset == found, "a new EventSource behind the last id is told the same"


async def moments(connection: Any) -> list[dict[int, str | None]]:
    """What a live client could have had, by ids, at each moment: after any value, in the middle of a batch, after any rewind.

    A rewind that it was told of has an id and no value.
    """
    rows = await connection.fetch(
        """select "offset", coalesce(batch, array[value]) as entries, rewinds_to from dbos_async.stream_entries
           where workflow_id = 'w' and not closes order by "offset" """
    )
    had: dict[int, str | None] = {}
    found = [had]
    for row in rows:
        if row["rewinds_to"] is not None:
            is_told = any(place >= row["rewinds_to"] for place in had)
            had = {place: value for place, value in had.items() if place < row["rewinds_to"]}
            if is_told:
                had = {**had, row["offset"]: None}
                found.append(had)
            continue
        for place, value in enumerate(row["entries"], row["offset"]):
            had = {**had, place: json.loads(value)}
            found.append(had)
    return found


async def test_s8_a_client_that_was_told_of_the_end_is_told_nothing_more_and_any_other_is(
    site: str, connection: Any
) -> None:
    cases: list[Attempts] = [[[["a", "b"]], [["c"]]], [[["a", "b"]], []], [[]], [[], []]]
    for number, attempts in enumerate(cases):
        tries.clear()
        await speak_at_once(["x"], attempts)
        found = await events(f"{site}/w/stream")
        end = int(found[-1].id or "")
        assert found[-1].event == "end"
        assert end == await connection.fetchval(
            """select max("offset" + coalesce(count, 1)) from dbos_async.stream_entries where workflow_id = 'w'"""
        ), "the end stands behind everything, what was taken back and the row that did it included"
        assert await status_for(site, str(end)) == 204, number
        for seen in range(end):
            assert await status_for(site, str(seen)) == 200, (number, seen)
            assert (await events(f"{site}/w/stream", {"Last-Event-ID": str(seen)}))[-1] == found[-1]
        await DBOS.delete_workflow("w")


@pytest.mark.parametrize("on_retry", ["continue", "skip", "append"])
async def test_s8_the_other_ways_take_nothing_back(site: str, on_retry: str) -> None:
    await speak_at_once(["x"], [[["a", "b"], ["c"]], [["d"]], [["e", "f", "g", "h"]]], ["y"], on_retry)
    standing = {
        "continue": ["a", "b", "c", "d", "e", "f", "g", "h"],
        "skip": ["a", "b", "c", "h"],
        "append": ["a", "b", "c", "d", "e", "f", "g", "h"],
    }[on_retry]
    for seen in range(-1, len(standing)):
        found = await events(f"{site}/w/stream", {} if seen < 0 else {"Last-Event-ID": str(seen)})
        assert values(found) == ["x", *standing, "y"][seen + 1 :]
        assert {event.event for event in found[:-1]} == {"message"}


async def test_s8_what_others_wrote_meanwhile_stands_and_comes_again_behind_the_rewind(site: str) -> None:
    with SetWorkflowID("director"):
        await DBOS.start_workflow(director)
    with SetWorkflowID("w"):
        await DBOS.start_workflow(two_voices)
    await tell("attempt 1", {"values": ["a", "b"], "is_last": False})
    async with source(f"{site}/w/stream") as stream, aclosing(aiter(stream)) as found:  # type: ignore[type-var]  # it is a generator
        live = [await anext(found) for _ in range(3)]
        await DBOS.send("w", "said meanwhile")
        live.append(await anext(found))
        await tell("end of attempt 1", True)
        await tell("attempt 2", {"values": ["c"], "is_last": True})
        await tell("end of attempt 2", True)
        await DBOS.send("w", None)
        live += [event async for event in found]
    stands = {**page_of(live)}
    assert [*stands.values()] == ["before", "said meanwhile", "c"]
    assert page_of(await events(f"{site}/w/stream")) == stands
    for seen in range(1, 5):
        had = page_of(live[:seen])
        again = await events(f"{site}/w/stream", {"Last-Event-ID": str(max(had))})
        assert page_of(again, had) == stands
    await DBOS.send("director", None)


@DBOS.workflow(name="web two voices")
async def two_voices() -> None:
    await DBOS.write_stream("k", "before")
    speaking = await DBOS.start_step(speak_when_told)
    while (said := await DBOS.recv(timeout_seconds=None)) is not None:
        await DBOS.write_stream("k", said)
    await speaking.get_result()


async def test_s8_a_page_that_knows_of_no_rewinds_is_right_when_it_is_loaded_anew(site: str) -> None:
    with SetWorkflowID("director"):
        await DBOS.start_workflow(director)
    with SetWorkflowID("w"):
        handle = await DBOS.start_workflow(slow_conversation)
    await tell("attempt 1", {"values": ["a", "b"], "is_last": False})
    async with source(f"{site}/w/stream") as stream, aclosing(aiter(stream)) as found:  # type: ignore[type-var]  # it is a generator
        shown = [await anext(found) for _ in range(3)]
        await tell("end of attempt 1", True)
        await tell("attempt 2", {"values": ["c", "d"], "is_last": True})
        await tell("end of attempt 2", True)
        shown += [event async for event in found]
    assert values(shown) == ["before", "a", "b", "c", "d"], "both attempts"
    await eventually(lambda: _ended(handle))
    assert values(await events(f"{site}/w/stream")) == ["before", "c", "d"]
    assert await status_for(site, shown[-1].id or "") == 204, "it was told of the end, and asks no more"
    await DBOS.send("director", None)


async def _ended(handle: Any) -> bool:
    return bool((await handle.get_status()).status == "SUCCESS")
